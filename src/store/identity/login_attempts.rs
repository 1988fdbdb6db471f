//! Rows of `messaging.login_attempts`.
//!
//! Invariant: an attempt is counted before the password is checked, so that concurrent attempts cannot exceed the limit.

use crate::base::error::Result;
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::driver::values::Value;

/// Identifies a user, or a name that no user has, as a keyed hash. Attempts are counted for each subject.
pub type Subject = [u8; 16];

/// The failed attempts and the time of the last attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempts {
    /// Failed attempts since the last success.
    pub failures: i64,
    /// When the last attempt was made.
    pub last_at: Timestamp,
}

/// Reads the attempts so far, and locks their row until the transaction ends. A missing row is created first, because a row
/// that does not exist cannot be locked. Otherwise several concurrent attempts could each count as the first one.
pub async fn lock(conn: &mut Conn, subject: &Subject, now: Timestamp) -> Result<Attempts> {
    conn.execute(
        "INSERT INTO messaging.login_attempts (subject, failures, last_at) VALUES ($1, 0, $2) ON CONFLICT DO NOTHING",
        &[Value::Bytes(subject), Value::Time(now)],
    )
    .await?;
    let sql = "SELECT failures, last_at FROM messaging.login_attempts WHERE subject = $1 FOR UPDATE";
    conn.one(sql, &[Value::Bytes(subject)], |row| Ok(Attempts { failures: row.i64(0)?, last_at: row.time(1)? })).await
}

/// Updates a row that is locked.
pub async fn put(conn: &mut Conn, subject: &Subject, attempts: Attempts) -> Result<()> {
    conn.execute(
        "UPDATE messaging.login_attempts SET failures = $2, last_at = $3 WHERE subject = $1",
        &[Value::Bytes(subject), Value::I64(attempts.failures), Value::Time(attempts.last_at)],
    )
    .await?;
    Ok(())
}

/// Removes the attempt of the time `at` from the count, because it was neither a failure nor a success. If it was the last
/// attempt, the time of the last attempt becomes `before` again.
pub async fn take_back(conn: &mut Conn, subject: &Subject, at: Timestamp, before: Timestamp) -> Result<()> {
    conn.execute(
        "UPDATE messaging.login_attempts
            SET failures = failures - 1, last_at = CASE WHEN last_at = $2 THEN $3 ELSE last_at END
          WHERE subject = $1 AND failures > 0",
        &[Value::Bytes(subject), Value::Time(at), Value::Time(before)],
    )
    .await?;
    Ok(())
}

/// Deletes the attempts after a success.
pub async fn forget(conn: &mut Conn, subject: &Subject) -> Result<()> {
    conn.execute("DELETE FROM messaging.login_attempts WHERE subject = $1", &[Value::Bytes(subject)]).await?;
    Ok(())
}

/// Deletes up to `limit` subjects whose last attempt was before `before`. Returns how many.
pub async fn delete_before(conn: &mut Conn, before: Timestamp, limit: i64) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.login_attempts WHERE subject IN (
             SELECT subject FROM messaging.login_attempts WHERE last_at < $1 ORDER BY last_at LIMIT $2)",
        &[Value::Time(before), Value::I64(limit)],
    )
    .await
}
