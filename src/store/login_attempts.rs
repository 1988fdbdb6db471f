//! Rows of `messaging.login_attempts`.
//!
//! Invariant: an attempt is counted before it is looked into, so that many at once are not more than one after another.

use super::{Conn, Value};
use crate::error::Result;
use crate::time::Timestamp;

/// Whom attempts are about, as a keyed hash.
pub type Subject = [u8; 16];

/// How many attempts failed, and when the last one was made.
#[derive(Clone, Copy, Debug)]
pub struct Attempts {
    /// Since the last success.
    pub failures: i64,
    /// The last one.
    pub last_at: Timestamp,
}

/// The attempts so far. Locks their row until the transaction ends, where there is one.
pub async fn lock(conn: &mut Conn, subject: &Subject) -> Result<Option<Attempts>> {
    let sql = match conn {
        Conn::Sqlite(_) => "SELECT failures, last_at FROM messaging.login_attempts WHERE subject = $1",
        Conn::Postgres(_) => "SELECT failures, last_at FROM messaging.login_attempts WHERE subject = $1 FOR UPDATE",
    };
    conn.first(sql, &[Value::Bytes(subject)], |row| Ok(Attempts { failures: row.i64(0)?, last_at: row.time(1)? })).await
}

/// Counts an attempt; how many there are now.
pub async fn count(conn: &mut Conn, subject: &Subject, now: Timestamp) -> Result<i64> {
    conn.one(
        "INSERT INTO messaging.login_attempts (subject, failures, last_at) VALUES ($1, 1, $2)
         ON CONFLICT (subject) DO UPDATE SET failures = login_attempts.failures + 1, last_at = excluded.last_at
         RETURNING failures",
        &[Value::Bytes(subject), Value::Time(now)],
        |row| row.i64(0),
    )
    .await
}

/// Takes one attempt back: it was no failure, nor a success.
pub async fn take_back(conn: &mut Conn, subject: &Subject) -> Result<()> {
    conn.execute(
        "UPDATE messaging.login_attempts SET failures = failures - 1 WHERE subject = $1 AND failures > 0",
        &[Value::Bytes(subject)],
    )
    .await?;
    Ok(())
}

/// Forgets the attempts: one succeeded.
pub async fn forget(conn: &mut Conn, subject: &Subject) -> Result<()> {
    conn.execute("DELETE FROM messaging.login_attempts WHERE subject = $1", &[Value::Bytes(subject)]).await?;
    Ok(())
}

/// Forgets up to `limit` subjects whose last attempt was before `before`; how many.
pub async fn delete_before(conn: &mut Conn, before: Timestamp, limit: i64) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.login_attempts WHERE subject IN (
             SELECT subject FROM messaging.login_attempts WHERE last_at < $1 ORDER BY last_at LIMIT $2)",
        &[Value::Time(before), Value::I64(limit)],
    )
    .await
}
