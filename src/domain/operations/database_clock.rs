//! Reads the clock of the database. On PostgreSQL, all nodes take the time from it.

use crate::base::error::Result;
use crate::base::time::Clock;
use crate::store;
use crate::store::db::Db;

/// Sets `clock` from the clock of the database. Does nothing if `clock` takes its time from elsewhere.
///
/// # Errors
/// Errors of the database.
pub async fn read(db: &Db, clock: &Clock) -> Result<()> {
    let Clock::Database(database) = clock else { return Ok(()) };
    if let Some(reading) = db.read((), |conn, ()| Box::pin(store::operations::clock::read(conn))).await? {
        database.set(reading.time, reading.asked_at, reading.round_trip);
    }
    Ok(())
}
