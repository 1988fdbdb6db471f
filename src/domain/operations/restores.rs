//! Notices that `posthaste restore` has replaced the data of a running server, and says so in the log.
//!
//! The server needs no other notice: its caches find out by themselves. A person who reads the log does not.

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::store;

/// How often the epoch of the event log is read. A restore changes it.
const READ_INTERVAL: Duration = Duration::from_secs(2);

/// Compares the epochs as long as the server runs.
pub async fn run(app: Arc<App>) {
    let mut known: Option<String> = None;
    loop {
        match app.db.read((), |conn, ()| Box::pin(store::events::events::log(conn))).await {
            Ok(log) => {
                if known.as_ref().is_some_and(|known| *known != log.epoch) {
                    tracing::warn!(
                        "all data of this server was replaced by a restore; from now on it serves the restored data, and readers \
                         of events start again without a cursor"
                    );
                }
                known = Some(log.epoch);
            }
            Err(error) => tracing::debug!(%error, "the epoch of the event log could not be read"),
        }
        tokio::time::sleep(READ_INTERVAL).await;
    }
}
