//! The bus over LISTEN and NOTIFY of PostgreSQL.

use std::time::Duration;

use super::{Bus, Live};
use crate::store::postgres::notify::Listener;

/// The pause before the first attempt to connect again. Each further attempt doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// After a connection that lasted this long, the next pause is [`FIRST_PAUSE`] again.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Receives and handles messages until the returned future is dropped. Connects again when the connection is lost.
pub async fn receive(url: &str, bus: &Bus, live: &Live) {
    let mut pause = FIRST_PAUSE;
    loop {
        match Listener::open(url).await {
            Ok(mut listener) => {
                tracing::debug!("connected to PostgreSQL for messages from other servers");
                let connected_at = tokio::time::Instant::now();
                // Wake-ups are lost while there is no connection. So the tailer reads the log now.
                live.look();
                while let Some(text) = listener.next().await {
                    bus.handle(live, text.as_bytes());
                }
                if connected_at.elapsed() >= STABLE_AFTER {
                    pause = FIRST_PAUSE;
                }
                tracing::warn!("the connection for messages from other servers was lost; connecting again");
            }
            Err(error) => {
                tracing::warn!(%error, "the connection for messages from other servers cannot be opened; trying again")
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
