//! Rows of `messaging.audit_log`.
//!
//! Invariant: an entry is written in the transaction of what it tells; it holds ids and an address, never a name or a secret.

use crate::base::error::Result;
use crate::base::ids::{ApiKeyId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// Something that happened to an account or a key.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// What, as a stable word: `session.created`.
    pub action: String,
    /// The person who did it.
    pub actor_id: Option<UserId>,
    /// The API key that did it.
    pub api_key_id: Option<ApiKeyId>,
    /// The person it was done to.
    pub subject_id: Option<UserId>,
    /// From where; `None` for the command line.
    pub address: Option<String>,
    /// More, in a few words.
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

/// Writes an entry.
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

/// Entries with their ids, newest first, before `before`.
pub async fn list(conn: &mut Conn, before: i64, limit: i64) -> Result<Vec<(i64, Entry)>> {
    conn.rows(
        sql!("SELECT id, ", Entry::COLUMNS, " FROM messaging.audit_log WHERE id < $1 ORDER BY id DESC LIMIT $2"),
        &[Value::I64(before), Value::I64(limit)],
        read,
    )
    .await
}

/// Entries by or about a person with their ids, newest first, before `before`.
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

/// Takes the addresses out of what a person did, and of what strangers did to them: those may be the person's own. Ids and
/// details name nobody, and stay for whoever has to find out what happened.
pub async fn blank(conn: &mut Conn, user: UserId) -> Result<()> {
    conn.execute(
        "UPDATE messaging.audit_log SET address = NULL
          WHERE actor_id = $1 OR (subject_id = $1 AND actor_id IS NULL)",
        &[Value::I64(user.0)],
    )
    .await?;
    Ok(())
}
