//! Rows of `messaging.account_codes`: codes sent to a person, which work once.
//!
//! Invariant: a code is taken by one statement that removes it, so that of many uses at once one wins.

use super::sessions::SecretHash;
use super::{Conn, Row, Value};
use crate::error::Result;
use crate::ids::UserId;
use crate::time::Timestamp;

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

fn account_code(row: &Row<'_>) -> Result<AccountCode> {
    Ok(AccountCode {
        user_id: UserId(row.i64(0)?),
        email_key: row.option_text(1)?.map(str::to_owned),
        created_at: row.time(2)?,
        expires_at: row.time(3)?,
    })
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
        "SELECT user_id, email, created_at, expires_at FROM messaging.account_codes
          WHERE code_hash = $1 AND purpose = $2 AND expires_at > $3",
        &[Value::Bytes(code_hash), Value::Text(purpose.as_str()), Value::Time(now)],
        account_code,
    )
    .await
}

/// Takes a code out, if it still works.
pub async fn take(
    conn: &mut Conn,
    code_hash: &SecretHash,
    purpose: Purpose,
    now: Timestamp,
) -> Result<Option<AccountCode>> {
    conn.first(
        "DELETE FROM messaging.account_codes WHERE code_hash = $1 AND purpose = $2 AND expires_at > $3
         RETURNING user_id, email, created_at, expires_at",
        &[Value::Bytes(code_hash), Value::Text(purpose.as_str()), Value::Time(now)],
        account_code,
    )
    .await
}

/// How many codes of a person were made since `since`.
pub async fn count_since(conn: &mut Conn, user: UserId, purpose: Purpose, since: Timestamp) -> Result<i64> {
    conn.one(
        "SELECT count(*) FROM messaging.account_codes WHERE user_id = $1 AND created_at > $3 AND purpose = $2",
        &[Value::I64(user.0), Value::Text(purpose.as_str()), Value::Time(since)],
        |row| row.i64(0),
    )
    .await
}

/// Forgets every code of a person for a purpose.
pub async fn delete_of(conn: &mut Conn, user: UserId, purpose: Purpose) -> Result<()> {
    conn.execute(
        "DELETE FROM messaging.account_codes WHERE user_id = $1 AND purpose = $2",
        &[Value::I64(user.0), Value::Text(purpose.as_str())],
    )
    .await?;
    Ok(())
}

/// Forgets every code of a person.
pub async fn delete_all_of(conn: &mut Conn, user: UserId) -> Result<()> {
    conn.execute("DELETE FROM messaging.account_codes WHERE user_id = $1", &[Value::I64(user.0)]).await?;
    Ok(())
}

/// Forgets up to `limit` codes that no longer work; how many.
pub async fn delete_expired(conn: &mut Conn, now: Timestamp, limit: i64) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.account_codes WHERE code_hash IN (
             SELECT code_hash FROM messaging.account_codes WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)",
        &[Value::Time(now), Value::I64(limit)],
    )
    .await
}
