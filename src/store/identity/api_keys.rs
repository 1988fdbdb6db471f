//! Rows of `messaging.api_keys`.
//!
//! Invariant: a row holds the hash of its key, never the key. A revoked key has no row.

use super::sessions::SecretHash;
use crate::base::error::Result;
use crate::base::ids::{ApiKeyId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// An API key: a secret of a program of the operator.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// Assigned by the database.
    pub id: ApiKeyId,
    /// The name that was given when the key was created.
    pub name: String,
    /// The scopes, separated by spaces.
    pub scopes: String,
    /// When the key was created.
    pub created_at: Timestamp,
    /// The user who created the key. `None` when it was created on the command line or with another key.
    pub created_by: Option<UserId>,
    /// When the key was last used, accurate to a few minutes.
    pub last_used_at: Option<Timestamp>,
    /// When the key stops working. `None` for never.
    pub expires_at: Option<Timestamp>,
}

columns! {
    ApiKey {
        id: "id",
        name: "name",
        scopes: "scopes",
        created_at: "created_at",
        created_by: "created_by",
        last_used_at: "last_used_at",
        expires_at: "expires_at",
    }
}

/// Inserts a new key. The `id` of `key` is ignored.
pub async fn insert(conn: &mut Conn, key_hash: &SecretHash, key: &ApiKey) -> Result<ApiKeyId> {
    conn.one(
        "INSERT INTO messaging.api_keys (key_hash, name, scopes, created_at, created_by, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
        &[
            Value::Bytes(key_hash),
            Value::Text(&key.name),
            Value::Text(&key.scopes),
            Value::Time(key.created_at),
            Value::OptionI64(key.created_by.map(|id| id.0)),
            Value::OptionTime(key.expires_at),
        ],
        |row| row.i64(0).map(ApiKeyId),
    )
    .await
}

/// The key with this hash.
pub async fn by_hash(conn: &mut Conn, key_hash: &SecretHash) -> Result<Option<ApiKey>> {
    conn.first(
        sql!("SELECT ", ApiKey::COLUMNS, " FROM messaging.api_keys WHERE key_hash = $1"),
        &[Value::Bytes(key_hash)],
        read,
    )
    .await
}

/// Keys in the order of their ids, after `after`.
pub async fn list(conn: &mut Conn, after: ApiKeyId, limit: i64) -> Result<Vec<ApiKey>> {
    conn.rows(
        sql!("SELECT ", ApiKey::COLUMNS, " FROM messaging.api_keys WHERE id > $1 ORDER BY id LIMIT $2"),
        &[Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// Records when a key was last used.
pub async fn touch(conn: &mut Conn, id: ApiKeyId, used_at: Timestamp) -> Result<()> {
    conn.execute(
        "UPDATE messaging.api_keys SET last_used_at = CASE WHEN created_at > $2 THEN created_at ELSE $2 END WHERE id = $1",
        &[Value::I64(id.0), Value::Time(used_at)],
    )
    .await?;
    Ok(())
}

/// Revokes a key, and returns whether it existed.
pub async fn delete(conn: &mut Conn, id: ApiKeyId) -> Result<bool> {
    let count = conn.execute("DELETE FROM messaging.api_keys WHERE id = $1", &[Value::I64(id.0)]).await?;
    Ok(count > 0)
}
