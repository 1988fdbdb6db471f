//! The database's own clock.

use std::time::{Duration, Instant};

use crate::base::error::Result;
use crate::base::time::Timestamp;
use crate::store::db::Conn;

/// Readings of which the quickest counts. The first on a connection also prepares the statement.
const READINGS: usize = 3;

/// What the database's clock showed.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The time by the database's clock, at some moment within the round trip.
    pub time: Timestamp,
    /// When the database was asked.
    pub asked_at: Instant,
    /// How long the answer took.
    pub round_trip: Duration,
}

/// Reads the database's clock. `None` on SQLite: it has none but the machine's.
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
