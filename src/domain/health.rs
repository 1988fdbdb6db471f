//! Whether the server can serve: read and write.

use tokio::sync::Mutex;

use crate::app::App;
use crate::error::{Error, Result};
use crate::store;
use crate::store::write_status::Writing;

/// Checks whether writing works when no recent write shows it.
///
/// Invariant: one probe is under way at a time, and its outcome serves everybody who asks in the next seconds, so that asking
/// is no load.
#[derive(Default)]
pub struct WriteProbe(Mutex<()>);

/// Asks the database for a row, and looks at how the last writes ended.
///
/// # Errors
/// [`Error::Unavailable`] when it does not answer, or cannot be written.
pub async fn check(app: &App) -> Result<()> {
    app.db.read((), |conn, ()| Box::pin(store::events::last_position(conn))).await?;
    if let Some(outcome) = known(app) {
        return outcome;
    }
    let _alone = app.write_probe.0.lock().await;
    // Somebody else may have found out meanwhile.
    if let Some(outcome) = known(app) {
        return outcome;
    }
    let now = app.clock.now();
    app.db.write(now, |conn, now| Box::pin(store::health::probe_writing(conn, *now))).await
}

/// What the last writes say.
fn known(app: &App) -> Option<Result<()>> {
    match app.db.writing() {
        Writing::Works => Some(Ok(())),
        Writing::Fails(reason) => Some(Err(Error::unavailable(format!("the database cannot be written: {reason}")))),
        Writing::Unknown => None,
    }
}
