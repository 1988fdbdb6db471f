//! Checks whether the database can be written.

use tokio::sync::Mutex;

use crate::base::error::{Error, Result};
use crate::base::time::Clock;
use crate::store;
use crate::store::db::Db;
use crate::store::driver::write_status::WriteHealth;

/// Writes a row to check whether writing works, if no recent write has shown it.
///
/// Invariant: only one probe runs at a time. Its outcome is the answer to all checks in the next seconds, so frequent
/// health checks cause no load.
#[derive(Default)]
pub struct WriteProbe(Mutex<()>);

impl WriteProbe {
    /// Returns the outcome of recent writes. If there was none, it writes.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database cannot be written.
    pub async fn check(&self, db: &Db, clock: &Clock) -> Result<()> {
        if let Some(outcome) = known(db) {
            return outcome;
        }
        let _alone = self.0.lock().await;
        // Another request may have run the probe meanwhile.
        if let Some(outcome) = known(db) {
            return outcome;
        }
        db.write(clock.now(), |conn, now| Box::pin(store::operations::health::probe_writing(conn, *now))).await
    }
}

/// The outcome of recent writes, if there was one.
fn known(db: &Db) -> Option<Result<()>> {
    match db.writing() {
        WriteHealth::Works => Some(Ok(())),
        WriteHealth::Fails(reason) => {
            Some(Err(Error::unavailable(format!("the database cannot be written: {reason}"))))
        }
        WriteHealth::Unknown => None,
    }
}
