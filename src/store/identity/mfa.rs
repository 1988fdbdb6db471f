//! Rows of `messaging.totp_secrets` and `messaging.recovery_codes`.
//!
//! Invariant: one conditional statement uses up a code, so that only one of several concurrent uses succeeds.

use super::sessions::SecretHash;
use crate::base::error::Result;
use crate::base::ids::UserId;
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::driver::values::Value;

/// The TOTP secret of a user.
#[derive(Clone, Debug)]
pub struct Secret {
    /// The shared secret.
    pub secret: Vec<u8>,
    /// When the user confirmed the secret with a first code. `None` for a secret that is offered and not confirmed yet.
    pub enabled_at: Option<Timestamp>,
}

/// The TOTP secret of a user.
pub async fn secret(conn: &mut Conn, user: UserId) -> Result<Option<Secret>> {
    conn.first(
        "SELECT secret, enabled_at FROM messaging.totp_secrets WHERE user_id = $1",
        &[Value::I64(user.0)],
        |row| Ok(Secret { secret: row.bytes(0)?.to_owned(), enabled_at: row.option_time(1)? }),
    )
    .await
}

/// Stores an offered secret. It replaces an earlier one that was not confirmed. Returns `false` when a secret is already
/// enabled.
pub async fn offer(conn: &mut Conn, user: UserId, secret: &[u8]) -> Result<bool> {
    let count = conn
        .execute(
            "INSERT INTO messaging.totp_secrets (user_id, secret, last_step) VALUES ($1, $2, 0)
             ON CONFLICT (user_id) DO UPDATE SET secret = excluded.secret, last_step = 0
              WHERE totp_secrets.enabled_at IS NULL",
            &[Value::I64(user.0), Value::Bytes(secret)],
        )
        .await?;
    Ok(count > 0)
}

/// Enables the offered secret. Returns `false` when another secret is stored or when it is already enabled.
pub async fn enable(conn: &mut Conn, user: UserId, secret: &[u8], step: i64, now: Timestamp) -> Result<bool> {
    let count = conn
        .execute(
            "UPDATE messaging.totp_secrets SET enabled_at = $4, last_step = $3
              WHERE user_id = $1 AND secret = $2 AND enabled_at IS NULL",
            &[Value::I64(user.0), Value::Bytes(secret), Value::I64(step), Value::Time(now)],
        )
        .await?;
    Ok(count > 0)
}

/// Uses up a time step and all steps before it. Returns `false` when the step was already used up. A last used step after
/// `latest` was recorded with a wrong clock. It is ignored, and the last used step moves back to `step`.
pub async fn use_step(conn: &mut Conn, user: UserId, step: i64, latest: i64) -> Result<bool> {
    let count = conn
        .execute(
            "UPDATE messaging.totp_secrets SET last_step = $2
              WHERE user_id = $1 AND (last_step < $2 OR last_step > $3) AND enabled_at IS NOT NULL",
            &[Value::I64(user.0), Value::I64(step), Value::I64(latest)],
        )
        .await?;
    Ok(count > 0)
}

/// Uses up a recovery code, and returns whether the user had it.
pub async fn use_recovery_code(conn: &mut Conn, user: UserId, code_hash: &SecretHash) -> Result<bool> {
    let count = conn
        .execute(
            "DELETE FROM messaging.recovery_codes WHERE user_id = $1 AND code_hash = $2",
            &[Value::I64(user.0), Value::Bytes(code_hash)],
        )
        .await?;
    Ok(count > 0)
}

/// Replaces the recovery codes of a user.
pub async fn put_recovery_codes(conn: &mut Conn, user: UserId, code_hashes: &[SecretHash]) -> Result<()> {
    conn.execute("DELETE FROM messaging.recovery_codes WHERE user_id = $1", &[Value::I64(user.0)]).await?;
    for hash in code_hashes {
        conn.execute(
            "INSERT INTO messaging.recovery_codes (user_id, code_hash) VALUES ($1, $2)",
            &[Value::I64(user.0), Value::Bytes(hash)],
        )
        .await?;
    }
    Ok(())
}

/// Deletes the TOTP secret and the recovery codes of a user.
pub async fn delete(conn: &mut Conn, user: UserId) -> Result<()> {
    conn.execute("DELETE FROM messaging.totp_secrets WHERE user_id = $1", &[Value::I64(user.0)]).await?;
    conn.execute("DELETE FROM messaging.recovery_codes WHERE user_id = $1", &[Value::I64(user.0)]).await?;
    Ok(())
}
