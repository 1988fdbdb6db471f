//! Finding out whether the database can be written.

use tokio::sync::Mutex;

use crate::base::error::{Error, Result};
use crate::base::time::Clock;
use crate::store;
use crate::store::db::Db;
use crate::store::driver::write_status::Writing;

/// Checks whether writing works when no recent write shows it.
///
/// Invariant: one probe is under way at a time, and its outcome serves everybody who asks in the next seconds, so that asking
/// is no load.
#[derive(Default)]
pub struct WriteProbe(Mutex<()>);

impl WriteProbe {
    /// Looks at how the last writes ended. Where that is not known, it writes.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database cannot be written.
    pub async fn check(&self, db: &Db, clock: &Clock) -> Result<()> {
        if let Some(outcome) = known(db) {
            return outcome;
        }
        let _alone = self.0.lock().await;
        // Another request may have found out meanwhile.
        if let Some(outcome) = known(db) {
            return outcome;
        }
        db.write(clock.now(), |conn, now| Box::pin(store::operations::health::probe_writing(conn, *now))).await
    }
}

/// How the last writes ended, if that is known.
fn known(db: &Db) -> Option<Result<()>> {
    match db.writing() {
        Writing::Works => Some(Ok(())),
        Writing::Fails(reason) => Some(Err(Error::unavailable(format!("the database cannot be written: {reason}")))),
        Writing::Unknown => None,
    }
}
