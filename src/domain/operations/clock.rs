//! The time that all nodes share, and the work that a node does not do while its clock is not trusted.
//!
//! Invariants:
//! - On PostgreSQL the time is the database's clock. On SQLite it is the machine's clock.
//! - If the clock of a node's machine differs from the database's by more than [`MAX_CLOCK_SKEW`], the node does no
//!   work that is allowed only after a certain time. It deletes no rows or files by age, sends no scheduled messages, repeats no
//!   deliveries to webhooks, takes over no expired leases of other nodes, and does not remove the presence of users on
//!   other nodes. It continues to accept and answer requests, by the database's clock.
//!
//! If the database's clock alone were wrong and the node trusted it, the node would delete data too early. Two clocks
//! that agree are rarely both wrong. A late deletion does no harm, so the node waits until they agree.

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
/// How often the clock of the machine is compared with the database's.
const COMPARE_INTERVAL: Duration = Duration::from_secs(1);
/// How often a difference is logged while it lasts.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps the time correct and compares the clocks, as long as the server runs.
pub async fn run(app: Arc<App>) {
    let mut read_at = Instant::now();
    let mut log = SkewLog::default();
    loop {
        // Between two readings, the monotonic clock continues the time. The monotonic clock stops while the machine
        // sleeps. If the time is then so far behind that it is not trusted, the database's clock is read immediately.
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

/// Reads the newest day under which an idempotency key is stored, and then the database's clock. The order matters. If
/// the database's clock was set back, this node must know the days that other nodes have used before it uses the
/// earlier time.
async fn renew(db: &Db, clock: &Clock, key_days: &KeyDays) -> Result<()> {
    key_days.learn(db).await?;
    database_clock::read(db, clock).await
}

/// Logs when the two clocks begin to differ, while they differ, and when they agree again.
#[derive(Default)]
struct SkewLog {
    /// When the last line about a difference was written.
    logged_at: Option<Instant>,
    /// Whether a difference was logged since the clocks last agreed. If so, the next agreement is logged.
    differs: bool,
}

impl SkewLog {
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
