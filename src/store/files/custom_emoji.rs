//! Rows of `messaging.custom_emoji`: emoji with pictures that administrators, or members, have added.
//!
//! Invariants:
//! - Among the emoji that are not deleted, no two have the same name, ignoring ASCII case.
//! - A reaction refers to an emoji by its [`key`]. Ids are never assigned again.
//! - Each row holds one reference to its blob.

use super::blobs::{self, Blob};
use crate::base::error::Result;
use crate::base::ids::{BlobId, EmojiId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// The beginning of a reaction that refers to a custom emoji.
const KEY_PREFIX: &str = "custom:";

/// The text with which a reaction refers to a custom emoji: `custom:ID`.
pub fn key(id: EmojiId) -> String {
    format!("{KEY_PREFIX}{}", id.0)
}

/// The custom emoji to which the emoji of a reaction refers. `None` for a Unicode emoji.
pub fn id_of(key: &str) -> Option<EmojiId> {
    let digits = key.strip_prefix(KEY_PREFIX)?;
    let id = digits.parse().ok().map(EmojiId)?;
    // Only the form that `key` writes, without signs and leading zeros.
    (id.0 > 0 && self::key(id) == key).then_some(id)
}

/// A custom emoji.
#[derive(Clone, Debug)]
pub struct CustomEmoji {
    /// Assigned by the database.
    pub id: EmojiId,
    /// The name, without colons, as it was written.
    pub name: String,
    /// The bytes of the picture.
    pub blob: Blob,
    /// The media type of the picture.
    pub content_type: String,
    /// The user who added it. `None` if the caller was no user.
    pub created_by: Option<UserId>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
}

columns! {
    CustomEmoji {
        id: "e.id",
        name: "e.name",
        content_type: "e.content_type",
        created_by: "e.created_by",
        created_at: "e.created_at",
        deleted_at: "e.deleted_at",
        blob: Blob::COLUMNS,
    }
}

/// The id and the name of a custom emoji.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedEmoji {
    /// The id.
    pub id: EmojiId,
    /// The present name or, if the emoji is deleted, its last one.
    pub name: String,
}

columns! {
    NamedEmoji { id: "id", name: "name" }
}

/// Up to `limit` emoji that are not deleted, in the order of their names.
pub async fn list(conn: &mut Conn, limit: i64) -> Result<Vec<CustomEmoji>> {
    conn.rows(
        sql!(
            "SELECT ",
            CustomEmoji::COLUMNS,
            " FROM messaging.custom_emoji e JOIN messaging.blobs b ON b.id = e.blob_id
              WHERE e.deleted_at IS NULL ORDER BY e.name_key LIMIT $1"
        ),
        &[Value::I64(limit)],
        read,
    )
    .await
}

/// The next emoji that a user has added, deleted ones included, in the order of their ids.
pub async fn of_user(conn: &mut Conn, user: UserId, after: EmojiId, limit: i64) -> Result<Vec<CustomEmoji>> {
    conn.rows(
        sql!(
            "SELECT ",
            CustomEmoji::COLUMNS,
            " FROM messaging.custom_emoji e JOIN messaging.blobs b ON b.id = e.blob_id
              WHERE e.created_by = $1 AND e.id > $2 ORDER BY e.id LIMIT $3"
        ),
        &[Value::I64(user.0), Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// An emoji by its id, also a deleted one.
pub async fn by_id(conn: &mut Conn, id: EmojiId) -> Result<Option<CustomEmoji>> {
    conn.first(
        sql!(
            "SELECT ",
            CustomEmoji::COLUMNS,
            " FROM messaging.custom_emoji e JOIN messaging.blobs b ON b.id = e.blob_id WHERE e.id = $1"
        ),
        &[Value::I64(id.0)],
        read,
    )
    .await
}

/// The id of the emoji with a name, unless it is deleted.
pub async fn id_by_name(conn: &mut Conn, name_key: &str) -> Result<Option<EmojiId>> {
    let sql = "SELECT id FROM messaging.custom_emoji WHERE name_key = $1 AND deleted_at IS NULL";
    conn.first(sql, &[Value::Text(name_key)], read).await
}

/// The id of the deleted emoji with a name. If there are several, the one that was added last.
pub async fn deleted_id_by_name(conn: &mut Conn, name_key: &str) -> Result<Option<EmojiId>> {
    let sql = "SELECT id FROM messaging.custom_emoji WHERE name_key = $1 AND deleted_at IS NOT NULL
                ORDER BY id DESC LIMIT 1";
    conn.first(sql, &[Value::Text(name_key)], read).await
}

/// Locks an emoji that is not deleted until the transaction ends, so that it gets no reaction meanwhile. Returns its id.
pub async fn lock_by_name(conn: &mut Conn, name_key: &str) -> Result<Option<EmojiId>> {
    let sql = "SELECT id FROM messaging.custom_emoji WHERE name_key = $1 AND deleted_at IS NULL FOR UPDATE";
    conn.first(sql, &[Value::Text(name_key)], read).await
}

/// Locks emoji until the transaction ends, so that they are not deleted meanwhile. Returns those that are not deleted.
pub async fn lock_shared(conn: &mut Conn, ids: &[i64]) -> Result<Vec<EmojiId>> {
    let sql = "SELECT id FROM messaging.custom_emoji WHERE id = ANY($1) AND deleted_at IS NULL ORDER BY id FOR SHARE";
    conn.rows(sql, &[Value::I64s(ids)], read).await
}

/// The names of emoji, deleted ones included, in no particular order.
pub async fn names(conn: &mut Conn, ids: &[i64]) -> Result<Vec<NamedEmoji>> {
    let sql = sql!("SELECT ", NamedEmoji::COLUMNS, " FROM messaging.custom_emoji WHERE id = ANY($1)");
    conn.rows(sql, &[Value::I64s(ids)], read).await
}

/// The number of emoji that are not deleted, and of all emoji.
pub async fn count(conn: &mut Conn) -> Result<(i64, i64)> {
    let sql = "SELECT count(*) - count(deleted_at), count(*) FROM messaging.custom_emoji";
    conn.one(sql, &[], read).await
}

/// A custom emoji to insert. Its blob must have its reference.
#[derive(Clone, Debug)]
pub struct NewEmoji {
    /// The name.
    pub name: String,
    /// The name in lower case, by which emoji are found and compared.
    pub name_key: String,
    /// The bytes of the picture.
    pub blob: Blob,
    /// The media type of the picture.
    pub content_type: String,
    /// The user who adds it.
    pub created_by: Option<UserId>,
    /// The time.
    pub created_at: Timestamp,
}

/// Inserts an emoji.
///
/// # Errors
/// [`Error::Duplicate`](crate::base::error::Error::Duplicate) of `custom_emoji_name_key` if another emoji has the name.
pub async fn insert(conn: &mut Conn, new: &NewEmoji) -> Result<EmojiId> {
    conn.one(
        "INSERT INTO messaging.custom_emoji (name, name_key, blob_id, content_type, created_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
        &[
            Value::Text(&new.name),
            Value::Text(&new.name_key),
            Value::I64(new.blob.id.0),
            Value::Text(&new.content_type),
            Value::OptionI64(new.created_by.map(|user| user.0)),
            Value::Time(new.created_at),
        ],
        read,
    )
    .await
}

/// Changes the name of an emoji.
///
/// # Errors
/// As [`insert`].
pub async fn rename(conn: &mut Conn, id: EmojiId, name: &str, name_key: &str) -> Result<()> {
    let sql = "UPDATE messaging.custom_emoji SET name = $2, name_key = $3 WHERE id = $1";
    conn.execute(sql, &[Value::I64(id.0), Value::Text(name), Value::Text(name_key)]).await.map(drop)
}

/// Whether a reaction refers to an emoji.
pub async fn is_used(conn: &mut Conn, id: EmojiId) -> Result<bool> {
    // The bounds are those of the index that holds only such reactions.
    let sql = "SELECT EXISTS (SELECT 1 FROM messaging.reactions
                               WHERE emoji = $1 AND emoji >= 'custom:' AND emoji < 'custom:a')";
    conn.one(sql, &[Value::Text(&key(id))], |row| row.bool(0)).await
}

/// The next deleted emoji after an id.
pub async fn deleted_after(conn: &mut Conn, after: EmojiId, limit: i64) -> Result<Vec<EmojiId>> {
    let sql = "SELECT id FROM messaging.custom_emoji WHERE deleted_at IS NOT NULL AND id > $1 ORDER BY id LIMIT $2";
    conn.rows(sql, &[Value::I64(after.0), Value::I64(limit)], read).await
}

/// Deletes a locked or deleted emoji. If a reaction refers to it, the row and the picture stay.
pub async fn delete(conn: &mut Conn, id: EmojiId, now: Timestamp) -> Result<()> {
    if is_used(conn, id).await? {
        let sql = "UPDATE messaging.custom_emoji SET deleted_at = $2 WHERE id = $1 AND deleted_at IS NULL";
        return conn.execute(sql, &[Value::I64(id.0), Value::Time(now)]).await.map(drop);
    }
    let sql = "DELETE FROM messaging.custom_emoji WHERE id = $1 RETURNING blob_id";
    let blobs: Vec<BlobId> = conn.rows(sql, &[Value::I64(id.0)], read).await?;
    blobs::remove_references(conn, &blobs).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_one_emoji() {
        assert_eq!(id_of(&key(EmojiId(17))), Some(EmojiId(17)));
        for other in ["👍", "custom:", "custom:0", "custom:01", "custom:+1", "custom:-1", "custom:x", "Custom:1", ":a:"]
        {
            assert_eq!(id_of(other), None, "{other}");
        }
    }
}
