//! What is done beside the requests: forgetting what is past its time, finishing what a restart broke off.
//!
//! Invariants: it works in small bites, so that sends go on between; while the node's clock and the database's disagree,
//! nothing is deleted by its age.

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::base::error::Result;
use crate::domain::conversations::conversations;
use crate::domain::identity::login_attempts::FORGOTTEN_AFTER_MICROS;
use crate::domain::identity::passwords::COUNTED_MICROS;
use crate::domain::identity::revocations;
use crate::domain::people::erasure;
use crate::domain::shared::idempotency::KEPT_DAYS;
use crate::store;

const MICROS_PER_DAY: i64 = 86_400 * 1_000_000;
/// Rows forgotten in one transaction.
const BITE: i64 = 1_000;
/// How often what is past its time is looked for.
const INTERVAL: Duration = Duration::from_secs(600);
/// The pause between two transactions, in which sends go on.
const PAUSE: Duration = Duration::from_millis(100);

/// Deletes what is past its time for as long as it is polled.
pub async fn run(app: Arc<App>) {
    loop {
        match bite(&app).await {
            Ok(true) => tokio::time::sleep(PAUSE).await,
            Ok(false) => tokio::time::sleep(INTERVAL).await,
            Err(error) => {
                tracing::warn!(%error, "what is past its time could not be forgotten");
                tokio::time::sleep(INTERVAL).await;
            }
        }
    }
}

/// Takes one bite of everything; whether there may be more.
///
/// # Errors
/// Of the database.
pub async fn bite(app: &App) -> Result<bool> {
    let forgotten = if app.clock.is_trusted() { delete_old(app).await? } else { 0 };
    // None of these goes by time.
    app.db.write((), |conn, ()| Box::pin(store::identity::revocations::trim(conn, revocations::KEPT))).await?;
    erasure::finish_all(app).await?;
    let removed = conversations::remove_ended(app).await?;
    Ok(removed || forgotten >= BITE.unsigned_abs())
}

/// Deletes up to [`BITE`] rows of each kind that are past their time; the most that there were of one kind.
async fn delete_old(app: &App) -> Result<u64> {
    let now = app.clock.now();
    let kept_from = now.plus_micros(-app.settings.event_retention_days * MICROS_PER_DAY);
    app.db
        .write((now, kept_from), |conn, (now, kept_from)| {
            Box::pin(async move {
                let attempts_before = now.plus_micros(-FORGOTTEN_AFTER_MICROS);
                let codes_before = now.plus_micros(-COUNTED_MICROS);
                let counts = [
                    store::shared::idempotency::delete_before(conn, now.day() - KEPT_DAYS, BITE).await?,
                    store::identity::sessions::delete_expired(conn, *now, BITE).await?,
                    store::identity::account_codes::delete_expired(conn, *now, codes_before, BITE).await?,
                    store::identity::login_attempts::delete_before(conn, attempts_before, BITE).await?,
                    store::conversations::invites::delete_expired(conn, *now, BITE).await?,
                    store::events::events::trim(conn, *kept_from, BITE).await?,
                ];
                Ok(counts.into_iter().max().unwrap_or_default())
            })
        })
        .await
}
