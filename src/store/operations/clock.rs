//! Reading the clock of the database.

use std::time::{Duration, Instant};

use crate::base::error::Result;
use crate::base::time::Timestamp;
use crate::store::db::Conn;

/// How often the clock is read. The reading with the shortest round trip is used. The first reading on a connection is
/// slower, because it also prepares the statement.
const READINGS: usize = 3;

/// A reading of the database's clock.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The time of the database's clock at some moment during the round trip.
    pub time: Timestamp,
    /// When the query was sent.
    pub asked_at: Instant,
    /// How long the answer took.
    pub round_trip: Duration,
}

/// Reads the clock of PostgreSQL. `None` on SQLite, which uses the clock of the machine.
pub async fn read(conn: &mut Conn) -> Result<Option<Reading>> {
    let mut quickest: Option<Reading> = None;
    for _ in 0..READINGS {
        let asked_at = Instant::now();
        let time = match conn {
            Conn::Sqlite(_) => return Ok(None),
            Conn::Postgres(_) => conn.one("SELECT clock_timestamp()", &[], |row| row.time(0)).await?,
        };
        let reading = Reading { time, asked_at, round_trip: asked_at.elapsed() };
        if quickest.is_none_or(|quickest| reading.round_trip < quickest.round_trip) {
            quickest = Some(reading);
        }
    }
    Ok(quickest)
}
