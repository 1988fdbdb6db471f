//! Rows of `messaging.attachments` and `messaging.message_attachments`.
//!
//! Invariants:
//! - Everything about an attachment except `expires_at` is written once, so a message can hold a copy of its description.
//! - An attachment is locked before a message gets it and before it is deleted.

use serde::{Deserialize, Serialize};

use super::blobs::{self, Blob};
use super::usage;
use crate::base::error::{Error, Result};
use crate::base::ids::{AttachmentId, BlobId, ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::columns::{Columns, columns, read, sql};
use crate::store::db::{Conn, Row};
use crate::store::driver::values::Value;

/// How long an attachment that nothing uses is kept.
pub const UNSENT_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// The description of an attachment, as a message holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The id of the attachment.
    pub id: i64,
    /// The media type that the server found by reading the bytes.
    pub content_type: String,
    /// The name that the uploader gave, without any folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
    /// The number of bytes.
    pub size_bytes: i64,
    /// Width in pixels, of images and videos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<i64>,
    /// Height in pixels, of images and videos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<i64>,
    /// A blurred preview of an image, see <https://blurha.sh>.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blurhash: Option<String>,
    /// Duration in milliseconds, of audio and video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
    /// The loudness of 64 equal parts of an audio file, each 0 to 255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waveform: Option<Vec<u8>>,
    /// False if `duration_ms` or `waveform` was stated by the uploader. True also if both are `None`.
    pub measured: bool,
    /// Whether there is a thumbnail.
    pub has_thumbnail: bool,
}

/// The attachments of a message: their descriptions, and the text that the row of the message holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachmentList {
    stored: Option<Box<str>>,
    list: Vec<Description>,
}

impl AttachmentList {
    /// The attachments of a new message.
    ///
    /// # Errors
    /// The descriptions cannot be written as JSON, which would be a bug.
    pub fn new(list: Vec<Description>) -> Result<Self> {
        let stored = match list.is_empty() {
            true => None,
            false => Some(serde_json::to_string(&list).map_err(Error::internal)?.into()),
        };
        Ok(Self { stored, list })
    }

    /// The descriptions, in the order in which the sender gave them.
    pub fn list(&self) -> &[Description] {
        &self.list
    }

    /// The text in the database. `None` if there are no attachments.
    pub fn stored(&self) -> Option<&str> {
        self.stored.as_deref()
    }
}

impl Columns<'_> for AttachmentList {
    fn read_from(row: &Row<'_>, next: &mut usize) -> Result<Self> {
        let Some(stored) = <Option<String> as Columns<'_>>::read_from(row, next)? else { return Ok(Self::default()) };
        let list = serde_json::from_str(&stored).map_err(Error::internal)?;
        Ok(Self { stored: Some(stored.into()), list })
    }
}

/// An attachment.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// What messages hold of it.
    pub description: Description,
    /// The user who uploaded it.
    pub uploader_id: UserId,
    /// Its bytes.
    pub blob: Blob,
    /// The bytes and the media type of its thumbnail.
    pub thumbnail: Option<(Blob, String)>,
    /// When it was uploaded.
    pub created_at: Timestamp,
}

columns! {
    Attachment {
        id: "a.id",
        content_type: "a.content_type",
        file_name: "a.file_name",
        size_bytes: "a.size_bytes",
        width: "a.width",
        height: "a.height",
        blurhash: "a.blurhash",
        duration_ms: "a.duration_ms",
        waveform: "a.waveform",
        measured: "a.measured",
        uploader_id: "a.uploader_id",
        created_at: "a.created_at",
        thumbnail_type: "a.thumbnail_type",
        blob: Blob::COLUMNS,
        thumbnail_id: "t.id",
        thumbnail_sha256: "t.sha256",
        thumbnail_size_bytes: "t.size_bytes",
    } => {
        let thumbnail = match (thumbnail_id, thumbnail_sha256, thumbnail_size_bytes, thumbnail_type) {
            (Some(id), Some(sha256), Some(size_bytes), Some(content_type)) => {
                Some((Blob { id, sha256, size_bytes }, content_type))
            }
            _ => None,
        };
        let description = Description {
            id,
            content_type,
            file_name,
            size_bytes,
            width,
            height,
            blurhash,
            duration_ms,
            waveform,
            measured,
            has_thumbnail: thumbnail.is_some(),
        };
        Attachment { description, uploader_id, blob, thumbnail, created_at }
    }
}

/// Inserts an attachment whose blobs have their references. `id` of its description is ignored.
pub async fn insert(conn: &mut Conn, new: &Attachment, expires_at: Timestamp) -> Result<AttachmentId> {
    let Description { content_type, file_name, size_bytes, width, height, blurhash, duration_ms, .. } =
        &new.description;
    conn.one(
        "INSERT INTO messaging.attachments (uploader_id, blob_id, thumbnail_blob_id, thumbnail_type, content_type,
                                            file_name, size_bytes, width, height, blurhash, duration_ms, waveform,
                                            measured, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) RETURNING id",
        &[
            Value::I64(new.uploader_id.0),
            Value::I64(new.blob.id.0),
            Value::OptionI64(new.thumbnail.as_ref().map(|(blob, _)| blob.id.0)),
            Value::OptionText(new.thumbnail.as_ref().map(|(_, content_type)| content_type.as_str())),
            Value::Text(content_type),
            Value::OptionText(file_name.as_deref()),
            Value::I64(*size_bytes),
            Value::OptionI64(*width),
            Value::OptionI64(*height),
            Value::OptionText(blurhash.as_deref()),
            Value::OptionI64(*duration_ms),
            Value::OptionBytes(new.description.waveform.as_deref()),
            Value::Bool(new.description.measured),
            Value::Time(new.created_at),
            Value::Time(expires_at),
        ],
        |row| row.i64(0).map(AttachmentId),
    )
    .await
}

/// Attachments by their ids, in no particular order.
pub async fn by_ids(conn: &mut Conn, ids: &[i64]) -> Result<Vec<Attachment>> {
    conn.rows(
        sql!(
            "SELECT ",
            Attachment::COLUMNS,
            " FROM messaging.attachments a
              JOIN messaging.blobs b ON b.id = a.blob_id
              LEFT JOIN messaging.blobs t ON t.id = a.thumbnail_blob_id
              WHERE a.id = ANY($1)"
        ),
        &[Value::I64s(ids)],
        read,
    )
    .await
}

/// The next attachments that a user uploaded, after an id and in the order of their ids.
pub async fn uploaded_by(
    conn: &mut Conn,
    uploader: UserId,
    after: AttachmentId,
    limit: i64,
) -> Result<Vec<Attachment>> {
    conn.rows(
        sql!(
            "SELECT ",
            Attachment::COLUMNS,
            " FROM messaging.attachments a
              JOIN messaging.blobs b ON b.id = a.blob_id
              LEFT JOIN messaging.blobs t ON t.id = a.thumbnail_blob_id
              WHERE a.uploader_id = $1 AND a.id > $2 ORDER BY a.id LIMIT $3"
        ),
        &[Value::I64(uploader.0), Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// Locks attachments until the transaction ends, so that they are not deleted. Returns the ids of those that exist.
pub async fn lock(conn: &mut Conn, ids: &[i64]) -> Result<Vec<i64>> {
    let sql = "SELECT id FROM messaging.attachments WHERE id = ANY($1) ORDER BY id FOR UPDATE";
    conn.rows(sql, &[Value::I64s(ids)], |row| row.i64(0)).await
}

/// The ids among `ids` of attachments that a user may see: those that the user uploaded, those of messages that the user may
/// see, the pictures of all users, and those of the user's groups.
pub async fn visible_among(conn: &mut Conn, user: UserId, ids: &[i64]) -> Result<Vec<i64>> {
    // One SELECT for each reason: with OR between them, PostgreSQL would read whole tables.
    conn.rows(
        "SELECT a.id FROM messaging.attachments a WHERE a.id = ANY($2) AND a.uploader_id = $1
         UNION
         SELECT h.attachment_id
           FROM messaging.message_attachments h
           JOIN messaging.members m ON m.conversation_id = h.conversation_id AND m.user_id = $1
           JOIN messaging.conversations c ON c.id = h.conversation_id
          WHERE h.attachment_id = ANY($2) AND c.deleted_at IS NULL AND (c.history = 'all' OR h.seq > m.joined_seq)
         UNION
         SELECT p.avatar_id FROM messaging.users p WHERE p.avatar_id = ANY($2)
         UNION
         SELECT g.avatar_id FROM messaging.conversations g
           JOIN messaging.members n ON n.conversation_id = g.id AND n.user_id = $1
          WHERE g.avatar_id = ANY($2) AND g.deleted_at IS NULL",
        &[Value::I64(user.0), Value::I64s(ids)],
        |row| row.i64(0),
    )
    .await
}

/// A message and one of its attachments.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// The conversation of the message.
    pub conversation: ConversationId,
    /// The `seq` of the message.
    pub seq: i64,
    /// The attachment.
    pub attachment: AttachmentId,
}

/// Stores which messages hold which attachments, and that these attachments do not expire. The attachments must be locked.
pub async fn hold(conn: &mut Conn, held: &[Held]) -> Result<()> {
    if held.is_empty() {
        return Ok(());
    }
    let mut ids: Vec<i64> = held.iter().map(|held| held.attachment.0).collect();
    if let Conn::Sqlite(_) = conn {
        for Held { conversation, seq, attachment } in held {
            conn.execute(
                "INSERT INTO messaging.message_attachments (conversation_id, seq, attachment_id) VALUES ($1, $2, $3)",
                &[Value::I64(conversation.0), Value::I64(*seq), Value::I64(attachment.0)],
            )
            .await?;
        }
    } else {
        let conversations: Vec<i64> = held.iter().map(|held| held.conversation.0).collect();
        let seqs: Vec<i64> = held.iter().map(|held| held.seq).collect();
        conn.execute(
            "INSERT INTO messaging.message_attachments (conversation_id, seq, attachment_id)
             SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])",
            &[Value::I64s(&conversations), Value::I64s(&seqs), Value::I64s(&ids)],
        )
        .await?;
    }
    ids.sort_unstable();
    ids.dedup();
    conn.execute("UPDATE messaging.attachments SET expires_at = NULL WHERE id = ANY($1)", &[Value::I64s(&ids)]).await?;
    Ok(())
}

/// Removes an attachment from a message. The next sweep deletes it, unless something else uses it.
pub async fn let_go(conn: &mut Conn, Held { conversation, seq, attachment }: Held) -> Result<()> {
    conn.execute(
        "DELETE FROM messaging.message_attachments WHERE conversation_id = $1 AND seq = $2 AND attachment_id = $3",
        &[Value::I64(conversation.0), Value::I64(seq), Value::I64(attachment.0)],
    )
    .await?;
    let sql = "UPDATE messaging.attachments SET expires_at = created_at WHERE id = $1";
    conn.execute(sql, &[Value::I64(attachment.0)]).await.map(drop)
}

/// Lets attachments expire at a time, unless something uses them then.
pub async fn set_expiry(conn: &mut Conn, ids: &[i64], expires_at: Timestamp) -> Result<()> {
    conn.execute(
        "UPDATE messaging.attachments SET expires_at = $2 WHERE id = ANY($1)",
        &[Value::I64s(ids), Value::Time(expires_at)],
    )
    .await
    .map(drop)
}

/// The ids of attachments whose `expires_at` has passed. [`delete_unused`] checks whether something uses them.
pub async fn expired(conn: &mut Conn, now: Timestamp, limit: i64) -> Result<Vec<i64>> {
    conn.rows(
        "SELECT id FROM messaging.attachments WHERE expires_at <= $1 ORDER BY expires_at, id LIMIT $2",
        &[Value::Time(now), Value::I64(limit)],
        |row| row.i64(0),
    )
    .await
}

/// The ids of a user's attachments whose `expires_at` has passed, after an id and in the order of the ids. [`delete_unused`] checks
/// whether something uses them.
pub async fn expired_of(
    conn: &mut Conn,
    uploader: UserId,
    after: AttachmentId,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<i64>> {
    conn.rows(
        "SELECT id FROM messaging.attachments
          WHERE uploader_id = $1 AND id > $2 AND expires_at <= $3 ORDER BY id LIMIT $4",
        &[Value::I64(uploader.0), Value::I64(after.0), Value::Time(now), Value::I64(limit)],
        |row| row.i64(0),
    )
    .await
}

/// The uploader, the size and the blobs of a deleted attachment.
struct Freed {
    uploader_id: UserId,
    size_bytes: i64,
    blob_id: BlobId,
    thumbnail_blob_id: Option<BlobId>,
}

columns! {
    Freed {
        uploader_id: "uploader_id",
        size_bytes: "size_bytes",
        blob_id: "blob_id",
        thumbnail_blob_id: "thumbnail_blob_id",
    }
}

/// Deletes the expired attachments among `ids` that nothing uses. Sets `expires_at` of the used ones to NULL. Skips those that are
/// locked. Returns the number of deleted attachments.
pub async fn delete_unused(conn: &mut Conn, ids: &[i64], now: Timestamp) -> Result<usize> {
    let locked = conn
        .rows(
            "SELECT id FROM messaging.attachments WHERE id = ANY($1) AND expires_at <= $2 ORDER BY id
              FOR UPDATE SKIP LOCKED",
            &[Value::I64s(ids), Value::Time(now)],
            |row| row.i64(0),
        )
        .await?;
    let used = used_among(conn, &locked).await?;
    conn.execute("UPDATE messaging.attachments SET expires_at = NULL WHERE id = ANY($1)", &[Value::I64s(&used)])
        .await?;
    let unused: Vec<i64> = locked.into_iter().filter(|id| !used.contains(id)).collect();
    let mut freed = conn
        .rows(
            sql!("DELETE FROM messaging.attachments WHERE id = ANY($1) RETURNING ", Freed::COLUMNS),
            &[Value::I64s(&unused)],
            read::<Freed>,
        )
        .await?;
    let blobs: Vec<BlobId> = freed.iter().flat_map(|it| [Some(it.blob_id), it.thumbnail_blob_id]).flatten().collect();
    blobs::remove_references(conn, &blobs).await?;
    // Rows of the usage are locked in the order of their ids.
    freed.sort_unstable_by_key(|freed| freed.uploader_id);
    for Freed { uploader_id, size_bytes, .. } in freed {
        usage::remove(conn, uploader_id, size_bytes).await?;
    }
    Ok(unused.len())
}

/// The ids among `ids` of attachments that something uses.
async fn used_among(conn: &mut Conn, ids: &[i64]) -> Result<Vec<i64>> {
    conn.rows(
        "SELECT a.id FROM messaging.attachments a
          WHERE a.id = ANY($1)
            AND EXISTS (SELECT 1 FROM messaging.message_attachments h WHERE h.attachment_id = a.id)
         UNION
         SELECT s.attachment_id FROM messaging.scheduled_attachments s WHERE s.attachment_id = ANY($1)
         UNION
         SELECT p.avatar_id FROM messaging.users p WHERE p.avatar_id = ANY($1)
         UNION
         SELECT g.avatar_id FROM messaging.conversations g WHERE g.avatar_id = ANY($1)",
        &[Value::I64s(ids)],
        |row| row.i64(0),
    )
    .await
}

/// Sets the expiry of an erased user's attachments to `now`. Attachments without an expiry, which something uses, stay as they are.
pub async fn expire_of(conn: &mut Conn, uploader: UserId, now: Timestamp) -> Result<()> {
    conn.execute(
        "UPDATE messaging.attachments SET expires_at = $2 WHERE uploader_id = $1 AND expires_at > $2",
        &[Value::I64(uploader.0), Value::Time(now)],
    )
    .await
    .map(drop)
}
