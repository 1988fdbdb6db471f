//! Rows of `messaging.passwords`.
//!
//! Invariant: only argon2id hashes in the PHC string format are stored.

use crate::base::error::Result;
use crate::base::ids::UserId;
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::driver::values::Value;

/// The password hash of a user. `None` for a user without a password.
pub async fn get(conn: &mut Conn, user: UserId) -> Result<Option<String>> {
    conn.first("SELECT hash FROM messaging.passwords WHERE user_id = $1", &[Value::I64(user.0)], |row| {
        row.text(0).map(str::to_owned)
    })
    .await
}

/// Stores the password hash of a user, replacing the old one.
pub async fn put(conn: &mut Conn, user: UserId, hash: &str, now: Timestamp) -> Result<()> {
    conn.execute(
        "INSERT INTO messaging.passwords (user_id, hash, changed_at) VALUES ($1, $2, $3)
         ON CONFLICT (user_id) DO UPDATE SET hash = excluded.hash, changed_at = excluded.changed_at",
        &[Value::I64(user.0), Value::Text(hash), Value::Time(now)],
    )
    .await?;
    Ok(())
}
