//! Rows of `messaging.account_codes`: codes that are sent to users and work once.
//!
//! Invariants: one conditional statement uses up a code, so that only one of several concurrent uses succeeds. A code that
//! was used or ended stays in the table for a while, because it still counts as sent.

use super::sessions::SecretHash;
use crate::base::error::Result;
use crate::base::ids::UserId;
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// The expiry time of a code that was used or ended: 1970-01-01. No clock is set back so far that the code works again.
const ENDED: Timestamp = Timestamp::from_micros(0);

/// The purpose of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Setting a new password.
    PasswordReset,
    /// Confirming an e-mail address.
    EmailConfirmation,
}

impl Purpose {
    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PasswordReset => "password_reset",
            Self::EmailConfirmation => "email_confirmation",
        }
    }
}

/// A code that was sent to a user.
#[derive(Clone, Debug)]
pub struct AccountCode {
    /// The user who may use it.
    pub user_id: UserId,
    /// The folded address that the code was sent to. `None` when an administrator requested the code.
    pub email_key: Option<String>,
    /// When the code was sent.
    pub created_at: Timestamp,
    /// When the code stops working.
    pub expires_at: Timestamp,
}

columns! {
    AccountCode {
        user_id: "user_id",
        email_key: "email",
        created_at: "created_at",
        expires_at: "expires_at",
    }
}

/// Inserts a new code.
pub async fn insert(conn: &mut Conn, code_hash: &SecretHash, purpose: Purpose, code: &AccountCode) -> Result<()> {
    conn.execute(
        "INSERT INTO messaging.account_codes (code_hash, purpose, user_id, email, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
        &[
            Value::Bytes(code_hash),
            Value::Text(purpose.as_str()),
            Value::I64(code.user_id.0),
            Value::OptionText(code.email_key.as_deref()),
            Value::Time(code.created_at),
            Value::Time(code.expires_at),
        ],
    )
    .await?;
    Ok(())
}

/// A code that still works.
pub async fn get(
    conn: &mut Conn,
    code_hash: &SecretHash,
    purpose: Purpose,
    now: Timestamp,
) -> Result<Option<AccountCode>> {
    conn.first(
        sql!(
            "SELECT ",
            AccountCode::COLUMNS,
            " FROM messaging.account_codes WHERE code_hash = $1 AND purpose = $2 AND expires_at > $3"
        ),
        &[Value::Bytes(code_hash), Value::Text(purpose.as_str()), Value::Time(now)],
        read,
    )
    .await
}

/// Uses up a code, and returns whether it still worked. The caller must hold the lock of the user.
pub async fn use_up(conn: &mut Conn, code_hash: &SecretHash, purpose: Purpose, now: Timestamp) -> Result<bool> {
    let count = conn
        .execute(
            "UPDATE messaging.account_codes SET expires_at = $4 WHERE code_hash = $1 AND purpose = $2 AND expires_at > $3",
            &[Value::Bytes(code_hash), Value::Text(purpose.as_str()), Value::Time(now), Value::Time(ENDED)],
        )
        .await?;
    Ok(count > 0)
}

/// How many codes were sent to a user's address between two moments, including used and ended ones.
pub async fn count_sent(
    conn: &mut Conn,
    user: UserId,
    purpose: Purpose,
    (after, before): (Timestamp, Timestamp),
) -> Result<i64> {
    conn.one(
        "SELECT count(*) FROM messaging.account_codes
          WHERE user_id = $1 AND created_at > $3 AND created_at < $4 AND purpose = $2 AND email IS NOT NULL",
        &[Value::I64(user.0), Value::Text(purpose.as_str()), Value::Time(after), Value::Time(before)],
        |row| row.i64(0),
    )
    .await
}

/// Ends all codes of a user for one purpose, so that they no longer work.
pub async fn end_of(conn: &mut Conn, user: UserId, purpose: Purpose) -> Result<()> {
    conn.execute(
        "UPDATE messaging.account_codes SET expires_at = $3 WHERE user_id = $1 AND purpose = $2",
        &[Value::I64(user.0), Value::Text(purpose.as_str()), Value::Time(ENDED)],
    )
    .await?;
    Ok(())
}

/// Ends all codes of a user.
pub async fn end_all_of(conn: &mut Conn, user: UserId) -> Result<()> {
    conn.execute(
        "UPDATE messaging.account_codes SET expires_at = $2 WHERE user_id = $1",
        &[Value::I64(user.0), Value::Time(ENDED)],
    )
    .await?;
    Ok(())
}

/// Deletes up to `limit` codes that no longer work and were created before `made_before`. Returns how many.
pub async fn delete_expired(conn: &mut Conn, now: Timestamp, made_before: Timestamp, limit: i64) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.account_codes WHERE code_hash IN (
             SELECT code_hash FROM messaging.account_codes
              WHERE expires_at < $1 AND created_at < $2 ORDER BY expires_at LIMIT $3)",
        &[Value::Time(now), Value::Time(made_before), Value::I64(limit)],
    )
    .await
}
