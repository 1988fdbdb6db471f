//! The bus over LISTEN and NOTIFY.

use std::time::Duration;

use super::{Bus, Live};
use crate::store::postgres::notify::Listener;

/// How long to wait before connecting again: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A connection that held this long was a good one: the next pause is the first again.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

/// Listens for as long as it is polled, and connects again when the connection is lost.
pub async fn listen(url: &str, bus: &Bus, live: &Live) {
    let mut pause = FIRST_PAUSE;
    loop {
        match Listener::open(url).await {
            Ok(mut listener) => {
                tracing::debug!("listening to other servers");
                let begun = tokio::time::Instant::now();
                // What was told while nobody listened is in the log.
                live.look();
                while let Some(text) = listener.next().await {
                    bus.hear(live, text.as_bytes());
                }
                if begun.elapsed() >= GOOD_CONNECTION {
                    pause = FIRST_PAUSE;
                }
                tracing::warn!("the connection that listens to other servers was lost");
            }
            Err(error) => tracing::warn!(%error, "other servers cannot be listened to"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
