//! Rows of `messaging.file_usage`: how many bytes the files of each user take.
//!
//! Invariant: a row changes in the transaction that adds or removes the bytes it counts.

use crate::base::error::Result;
use crate::base::ids::UserId;
use crate::store::db::Conn;
use crate::store::driver::values::Value;

/// The user id of the row that counts the bytes of the whole server. No user has it.
pub const SERVER: UserId = UserId(0);

/// Adds bytes to the usage of a user, or to [`SERVER`]. Returns whether the usage stays within the limit. If it does not, the
/// caller must roll the transaction back.
pub async fn add(conn: &mut Conn, user: UserId, size_bytes: i64, limit_bytes: i64) -> Result<bool> {
    conn.one(
        "INSERT INTO messaging.file_usage (user_id, size_bytes) VALUES ($1, $2)
         ON CONFLICT (user_id) DO UPDATE SET size_bytes = file_usage.size_bytes + excluded.size_bytes
         RETURNING size_bytes",
        &[Value::I64(user.0), Value::I64(size_bytes)],
        |row| row.i64(0),
    )
    .await
    .map(|size_bytes| size_bytes <= limit_bytes)
}

/// Removes bytes from the usage of a user, or from [`SERVER`].
pub async fn remove(conn: &mut Conn, user: UserId, size_bytes: i64) -> Result<()> {
    conn.execute(
        "UPDATE messaging.file_usage SET size_bytes = size_bytes - $2 WHERE user_id = $1",
        &[Value::I64(user.0), Value::I64(size_bytes)],
    )
    .await
    .map(drop)
}

/// The bytes that the files of a user take, or those of [`SERVER`].
pub async fn size_bytes(conn: &mut Conn, user: UserId) -> Result<i64> {
    let sql = "SELECT size_bytes FROM messaging.file_usage WHERE user_id = $1";
    Ok(conn.first(sql, &[Value::I64(user.0)], |row| row.i64(0)).await?.unwrap_or_default())
}
