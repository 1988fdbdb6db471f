//! Rows of `messaging.audit_log`.
//!
//! Invariant: an entry is written in the same transaction as the action that it records. It holds ids and an address, but no
//! names and no secrets.

use crate::base::error::Result;
use crate::base::ids::{ApiKeyId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// An action on an account or an API key.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it happened.
    pub at: Timestamp,
    /// The action, as a stable word such as `session.created`.
    pub action: String,
    /// The user who performed the action.
    pub actor_id: Option<UserId>,
    /// The API key that performed the action.
    pub api_key_id: Option<ApiKeyId>,
    /// The user whose account was affected.
    pub subject_id: Option<UserId>,
    /// The address of the caller. `None` for the command line.
    pub address: Option<String>,
    /// Further details, in a few words.
    pub detail: Option<String>,
}

columns! {
    Entry {
        at: "at",
        action: "action",
        actor_id: "actor_id",
        api_key_id: "api_key_id",
        subject_id: "subject_id",
        address: "address",
        detail: "detail",
    }
}

/// Inserts an entry.
pub async fn insert(conn: &mut Conn, entry: &Entry) -> Result<()> {
    conn.execute(
        "INSERT INTO messaging.audit_log (at, action, actor_id, api_key_id, subject_id, address, detail)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        &[
            Value::Time(entry.at),
            Value::Text(&entry.action),
            Value::OptionI64(entry.actor_id.map(|id| id.0)),
            Value::OptionI64(entry.api_key_id.map(|id| id.0)),
            Value::OptionI64(entry.subject_id.map(|id| id.0)),
            Value::OptionText(entry.address.as_deref()),
            Value::OptionText(entry.detail.as_deref()),
        ],
    )
    .await?;
    Ok(())
}

/// Entries with their ids, newest first, before the id `before`.
pub async fn list(conn: &mut Conn, before: i64, limit: i64) -> Result<Vec<(i64, Entry)>> {
    conn.rows(
        sql!("SELECT id, ", Entry::COLUMNS, " FROM messaging.audit_log WHERE id < $1 ORDER BY id DESC LIMIT $2"),
        &[Value::I64(before), Value::I64(limit)],
        read,
    )
    .await
}

/// Entries with their ids whose actor or subject is a user, newest first, before the id `before`.
pub async fn list_of(conn: &mut Conn, user: UserId, before: i64, limit: i64) -> Result<Vec<(i64, Entry)>> {
    conn.rows(
        sql!(
            "SELECT id, ",
            Entry::COLUMNS,
            " FROM messaging.audit_log
              WHERE id IN (SELECT id FROM (SELECT id FROM messaging.audit_log
                                            WHERE actor_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3) AS acted
                           UNION SELECT id FROM (SELECT id FROM messaging.audit_log
                                                  WHERE subject_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3) AS suffered)
              ORDER BY id DESC LIMIT $3"
        ),
        &[Value::I64(user.0), Value::I64(before), Value::I64(limit)],
        read,
    )
    .await
}

/// Removes the addresses from entries that may contain an address of a user: entries of the user's own actions, and entries
/// about the user that have no user as actor. Ids and details stay for later investigations, because they contain no names.
pub async fn blank(conn: &mut Conn, user: UserId) -> Result<()> {
    conn.execute(
        "UPDATE messaging.audit_log SET address = NULL
          WHERE actor_id = $1 OR (subject_id = $1 AND actor_id IS NULL)",
        &[Value::I64(user.0)],
    )
    .await?;
    Ok(())
}
