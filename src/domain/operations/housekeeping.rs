//! Background work: deletes expired rows, and completes work that a restart interrupted.
//!
//! Invariants:
//! - The work is done in small batches, so that sends continue in between.
//! - While the clocks of the node and of the database disagree, nothing is deleted because of its age.

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::base::error::Result;
use crate::domain::conversations::conversations;
use crate::domain::identity::login_attempts::FORGOTTEN_AFTER_MICROS;
use crate::domain::identity::passwords::SENT_CODES_WINDOW_MICROS;
use crate::domain::identity::revocations;
use crate::domain::people::erasure;
use crate::domain::shared::idempotency::KEPT_DAYS;
use crate::store;

const MICROS_PER_DAY: i64 = 86_400 * 1_000_000;
/// Maximum number of rows of one kind that one transaction deletes.
const BATCH_ROWS: i64 = 1_000;
/// The pause when all expired rows are deleted, and after an error.
const INTERVAL: Duration = Duration::from_secs(600);
/// The pause between two batches, in which sends continue.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs one batch after another, as long as the server runs.
pub async fn run(app: Arc<App>) {
    loop {
        match batch(&app).await {
            Ok(true) => tokio::time::sleep(PAUSE).await,
            Ok(false) => tokio::time::sleep(INTERVAL).await,
            Err(error) => {
                tracing::warn!(%error, "expired rows could not be deleted");
                tokio::time::sleep(INTERVAL).await;
            }
        }
    }
}

/// Runs one batch of each kind of work. Returns whether there may be more to do.
///
/// # Errors
/// Errors of the database.
pub async fn batch(app: &App) -> Result<bool> {
    let deleted = if app.clock.is_trusted() { delete_old(app).await? } else { 0 };
    // The work below does not depend on the time.
    app.db.write((), |conn, ()| Box::pin(store::identity::revocations::trim(conn, revocations::KEPT))).await?;
    erasure::finish_all(app).await?;
    let removed = conversations::remove_ended(app).await?;
    Ok(removed || deleted >= BATCH_ROWS.unsigned_abs())
}

/// Deletes up to [`BATCH_ROWS`] expired rows of each kind. Returns the largest number of rows deleted of one kind.
async fn delete_old(app: &App) -> Result<u64> {
    let now = app.clock.now();
    let kept_from = now.plus_micros(-app.settings.event_retention_days * MICROS_PER_DAY);
    app.db
        .write((now, kept_from), |conn, (now, kept_from)| {
            Box::pin(async move {
                let attempts_before = now.plus_micros(-FORGOTTEN_AFTER_MICROS);
                let codes_before = now.plus_micros(-SENT_CODES_WINDOW_MICROS);
                let counts = [
                    store::shared::idempotency::delete_before(conn, now.day() - KEPT_DAYS, BATCH_ROWS).await?,
                    store::identity::sessions::delete_expired(conn, *now, BATCH_ROWS).await?,
                    store::identity::account_codes::delete_expired(conn, *now, codes_before, BATCH_ROWS).await?,
                    store::identity::login_attempts::delete_before(conn, attempts_before, BATCH_ROWS).await?,
                    store::conversations::invites::delete_expired(conn, *now, BATCH_ROWS).await?,
                    store::events::events::trim(conn, *kept_from, BATCH_ROWS).await?,
                    store::events::webhooks::delete_previous_secrets(conn, *now).await?,
                ];
                Ok(counts.into_iter().max().unwrap_or_default())
            })
        })
        .await
}
