//! Rows of `messaging.account_codes`: codes sent to a person, which work once.
//!
//! Invariants: a code is used by one statement that ends it, so that of many uses at once one wins; one that was used or
//! ended stays for a while, so that it still counts among those that were sent.

use super::sessions::SecretHash;
use crate::base::error::Result;
use crate::base::ids::UserId;
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// When a code that was used or ended expired: so long ago that no clock is set back that far.
const ENDED: Timestamp = Timestamp::from_micros(0);

/// What a code is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To set a new password.
    PasswordReset,
    /// To confirm an e-mail address.
    EmailConfirmation,
}

impl Purpose {
    /// As it stands in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PasswordReset => "password_reset",
            Self::EmailConfirmation => "email_confirmation",
        }
    }
}

/// A code that was sent.
#[derive(Clone, Debug)]
pub struct AccountCode {
    /// Whose.
    pub user_id: UserId,
    /// The folded address that it was sent to; `None` when an administrator asked for it.
    pub email_key: Option<String>,
    /// When.
    pub created_at: Timestamp,
    /// Until when it works.
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

/// A new code.
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

/// A code, if it still works.
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

/// Uses a code up; whether it still worked. To be called under the lock of its person.
pub async fn use_up(conn: &mut Conn, code_hash: &SecretHash, purpose: Purpose, now: Timestamp) -> Result<bool> {
    let count = conn
        .execute(
            "UPDATE messaging.account_codes SET expires_at = $4 WHERE code_hash = $1 AND purpose = $2 AND expires_at > $3",
            &[Value::Bytes(code_hash), Value::Text(purpose.as_str()), Value::Time(now), Value::Time(ENDED)],
        )
        .await?;
    Ok(count > 0)
}

/// How many codes were sent to a person after the first moment and before the second, whatever became of them.
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

/// Ends every code of a person for a purpose.
pub async fn end_of(conn: &mut Conn, user: UserId, purpose: Purpose) -> Result<()> {
    conn.execute(
        "UPDATE messaging.account_codes SET expires_at = $3 WHERE user_id = $1 AND purpose = $2",
        &[Value::I64(user.0), Value::Text(purpose.as_str()), Value::Time(ENDED)],
    )
    .await?;
    Ok(())
}

/// Ends every code of a person.
pub async fn end_all_of(conn: &mut Conn, user: UserId) -> Result<()> {
    conn.execute(
        "UPDATE messaging.account_codes SET expires_at = $2 WHERE user_id = $1",
        &[Value::I64(user.0), Value::Time(ENDED)],
    )
    .await?;
    Ok(())
}

/// Forgets up to `limit` codes that no longer work, and were made before `made_before`; how many.
pub async fn delete_expired(conn: &mut Conn, now: Timestamp, made_before: Timestamp, limit: i64) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.account_codes WHERE code_hash IN (
             SELECT code_hash FROM messaging.account_codes
              WHERE expires_at < $1 AND created_at < $2 ORDER BY expires_at LIMIT $3)",
        &[Value::Time(now), Value::Time(made_before), Value::I64(limit)],
    )
    .await
}
