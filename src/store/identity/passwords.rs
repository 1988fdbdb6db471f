//! Rows of `messaging.passwords`.
//!
//! Invariant: what is stored is an argon2id hash in the PHC string format.

use crate::base::error::Result;
use crate::base::ids::UserId;
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::driver::values::Value;

/// The hash of a person's password; `None` for who has none.
pub async fn get(conn: &mut Conn, user: UserId) -> Result<Option<String>> {
    conn.first("SELECT hash FROM messaging.passwords WHERE user_id = $1", &[Value::I64(user.0)], |row| {
        row.text(0).map(str::to_owned)
    })
    .await
}

/// Puts a hash in the place of the one before.
pub async fn put(conn: &mut Conn, user: UserId, hash: &str, now: Timestamp) -> Result<()> {
    conn.execute(
        "INSERT INTO messaging.passwords (user_id, hash, changed_at) VALUES ($1, $2, $3)
         ON CONFLICT (user_id) DO UPDATE SET hash = excluded.hash, changed_at = excluded.changed_at",
        &[Value::I64(user.0), Value::Text(hash), Value::Time(now)],
    )
    .await?;
    Ok(())
}
