//! The time that all nodes share, and what a node leaves undone while it does not know the time.
//!
//! Invariants:
//! - On PostgreSQL the time is the database's clock; on SQLite it is the machine's.
//! - A node whose own clock differs from the database's by more than [`MAX_CLOCK_SKEW`] deletes nothing by time and sends
//!   nothing by time. That concerns: the rows that housekeeping deletes by their age, scheduled messages, repeated
//!   deliveries to webhooks and the leases of other nodes on webhooks, the presence of other nodes. What it accepts and
//!   answers goes on, by the database's clock.
//!
//! Why not simply trust the database: two clocks that agree are seldom both wrong, and a deletion that comes late does no
//! harm.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::database_clock;
use crate::app::App;
use crate::base::error::Result;
use crate::base::time::{Clock, MAX_CLOCK_SKEW};
use crate::domain::shared::idempotency::KeyDays;
use crate::store::db::Db;

/// How often the database's clock is read.
const READ_INTERVAL: Duration = Duration::from_secs(10);
/// How often the two clocks are compared.
const COMPARE_INTERVAL: Duration = Duration::from_secs(1);
/// How often a difference is logged while it lasts.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps the time right and compares the clocks, for as long as the server runs.
pub async fn run(app: Arc<App>) {
    let mut read_at = Instant::now();
    let mut log = Log::default();
    loop {
        // A machine that slept has stopped its monotonic clock too: its time is behind until the next reading.
        if !app.clock.is_trusted() || read_at.elapsed() >= READ_INTERVAL {
            read_at = Instant::now();
            if let Err(error) = renew(&app.db, &app.clock, &app.key_days).await {
                tracing::debug!(%error, "the database's clock could not be read; the last reading stays");
            }
        }
        log.compare(&app);
        tokio::time::sleep(COMPARE_INTERVAL).await;
    }
}

/// Reads what may have changed. The newest day of a key comes first: by the time the clock goes back, it is known under
/// which days other nodes have stored keys.
async fn renew(db: &Db, clock: &Clock, key_days: &KeyDays) -> Result<()> {
    key_days.learn(db).await?;
    database_clock::read(db, clock).await
}

/// What was logged about the clocks.
#[derive(Default)]
struct Log {
    /// When the last line about a difference was written.
    logged_at: Option<Instant>,
    /// Whether that line still stands.
    differs: bool,
}

impl Log {
    fn compare(&mut self, app: &App) {
        let skew_micros = app.clock.skew_micros();
        app.metrics.clock_skew_seconds.set(skew_micros as f64 / 1e6);
        if app.clock.is_trusted() {
            if std::mem::take(&mut self.differs) {
                tracing::info!("this machine's clock agrees with the database's again");
            }
        } else if self.logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            (self.logged_at, self.differs) = (Some(Instant::now()), true);
            tracing::error!(
                ahead_s = skew_micros / 1_000_000,
                limit_s = MAX_CLOCK_SKEW.as_secs(),
                "this machine's clock differs from the database's: until one of them is set right, this server deletes \
                 nothing by time, sends no scheduled message and repeats no delivery to a webhook"
            );
        }
    }
}
