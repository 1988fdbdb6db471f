//! Reads the clock of the database, which is the time of all nodes on PostgreSQL.

use crate::base::error::Result;
use crate::base::time::Clock;
use crate::store;
use crate::store::db::Db;

/// Reads the database's clock, if it is the source of the time.
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
