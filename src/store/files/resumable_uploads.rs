//! Rows of `messaging.resumable_uploads` and `messaging.upload_parts`.
//!
//! Invariant: the parts of an upload that is not complete cover its bytes from 0 to `offset_bytes` without a gap.

use super::blobs::{self, Blob};
use crate::base::error::Result;
use crate::base::ids::{AttachmentId, BlobId, UploadId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// A file that arrives in several requests.
#[derive(Clone, Debug)]
pub struct ResumableUpload {
    /// Assigned by the database.
    pub id: UploadId,
    /// The uploader.
    pub user_id: UserId,
    /// The name of the file.
    pub file_name: Option<String>,
    /// The size of the whole file.
    pub size_bytes: i64,
    /// How many bytes have arrived.
    pub offset_bytes: i64,
    /// The attachment, once the file is complete.
    pub attachment_id: Option<AttachmentId>,
    /// When the upload is deleted.
    pub expires_at: Timestamp,
}

columns! {
    ResumableUpload {
        id: "u.id",
        user_id: "u.user_id",
        file_name: "u.file_name",
        size_bytes: "u.size_bytes",
        offset_bytes: "u.offset_bytes",
        attachment_id: "u.attachment_id",
        expires_at: "u.expires_at",
    }
}

/// Inserts an upload without bytes. `id` of `new` is ignored.
pub async fn insert(conn: &mut Conn, new: &ResumableUpload) -> Result<UploadId> {
    conn.one(
        "INSERT INTO messaging.resumable_uploads (user_id, file_name, size_bytes, offset_bytes, expires_at)
         VALUES ($1, $2, $3, 0, $4) RETURNING id",
        &[
            Value::I64(new.user_id.0),
            Value::OptionText(new.file_name.as_deref()),
            Value::I64(new.size_bytes),
            Value::Time(new.expires_at),
        ],
        |row| row.i64(0).map(UploadId),
    )
    .await
}

/// How many uploads of a user are not complete, and how many bytes their files have.
pub async fn open_of(conn: &mut Conn, user: UserId) -> Result<(i64, i64)> {
    let sql = "SELECT count(*), CAST(coalesce(sum(size_bytes), 0) AS BIGINT) FROM messaging.resumable_uploads
                WHERE user_id = $1 AND attachment_id IS NULL";
    conn.one(sql, &[Value::I64(user.0)], read).await
}

/// One upload of a user.
pub async fn one(conn: &mut Conn, user: UserId, id: UploadId) -> Result<Option<ResumableUpload>> {
    conn.first(
        sql!(
            "SELECT ",
            ResumableUpload::COLUMNS,
            " FROM messaging.resumable_uploads u WHERE u.id = $2 AND u.user_id = $1"
        ),
        &[Value::I64(user.0), Value::I64(id.0)],
        read,
    )
    .await
}

/// Adds a part that begins at `offset_bytes`. The caller must add a reference to its blob in the same transaction. Returns false if the
/// offset of the upload is no longer `offset_bytes`, or the upload is complete or deleted. Then the caller must roll the transaction
/// back.
pub async fn add_part(conn: &mut Conn, id: UploadId, offset_bytes: i64, blob: &Blob) -> Result<bool> {
    let advanced = conn
        .execute(
            "UPDATE messaging.resumable_uploads SET offset_bytes = offset_bytes + $3
              WHERE id = $1 AND offset_bytes = $2 AND attachment_id IS NULL",
            &[Value::I64(id.0), Value::I64(offset_bytes), Value::I64(blob.size_bytes)],
        )
        .await?;
    if advanced == 0 {
        return Ok(false);
    }
    conn.execute(
        "INSERT INTO messaging.upload_parts (upload_id, offset_bytes, blob_id) VALUES ($1, $2, $3)",
        &[Value::I64(id.0), Value::I64(offset_bytes), Value::I64(blob.id.0)],
    )
    .await?;
    Ok(true)
}

/// The number of parts of an upload.
pub async fn count_parts(conn: &mut Conn, id: UploadId) -> Result<i64> {
    let sql = "SELECT count(*) FROM messaging.upload_parts WHERE upload_id = $1";
    conn.one(sql, &[Value::I64(id.0)], |row| row.i64(0)).await
}

/// The parts of an upload, in order.
pub async fn parts(conn: &mut Conn, id: UploadId) -> Result<Vec<Blob>> {
    conn.rows(
        sql!(
            "SELECT ",
            Blob::COLUMNS,
            " FROM messaging.upload_parts p JOIN messaging.blobs b ON b.id = p.blob_id
              WHERE p.upload_id = $1 ORDER BY p.offset_bytes"
        ),
        &[Value::I64(id.0)],
        read,
    )
    .await
}

/// Records the attachment of a complete upload, and deletes its parts. Returns false if the upload has an attachment already or was
/// deleted. Then the caller must roll the transaction back.
pub async fn complete(conn: &mut Conn, id: UploadId, attachment: AttachmentId) -> Result<bool> {
    let completed = conn
        .execute(
            "UPDATE messaging.resumable_uploads SET attachment_id = $2 WHERE id = $1 AND attachment_id IS NULL",
            &[Value::I64(id.0), Value::I64(attachment.0)],
        )
        .await?;
    delete_parts(conn, &[id.0]).await?;
    Ok(completed > 0)
}

/// The ids of uploads that have expired.
pub async fn expired(conn: &mut Conn, now: Timestamp, limit: i64) -> Result<Vec<i64>> {
    conn.rows(
        "SELECT id FROM messaging.resumable_uploads WHERE expires_at <= $1 ORDER BY expires_at, id LIMIT $2",
        &[Value::Time(now), Value::I64(limit)],
        |row| row.i64(0),
    )
    .await
}

/// Deletes uploads with their parts. The rows of the uploads come first, so that no part is added meanwhile.
pub async fn delete(conn: &mut Conn, ids: &[i64]) -> Result<()> {
    conn.execute("DELETE FROM messaging.resumable_uploads WHERE id = ANY($1)", &[Value::I64s(ids)]).await?;
    delete_parts(conn, ids).await
}

/// Deletes the uploads of an erased user with their parts.
pub async fn forget(conn: &mut Conn, user: UserId) -> Result<()> {
    let sql = "SELECT id FROM messaging.resumable_uploads WHERE user_id = $1";
    let ids = conn.rows(sql, &[Value::I64(user.0)], |row| row.i64(0)).await?;
    delete(conn, &ids).await
}

async fn delete_parts(conn: &mut Conn, ids: &[i64]) -> Result<()> {
    let blobs = conn
        .rows(
            "DELETE FROM messaging.upload_parts WHERE upload_id = ANY($1) RETURNING blob_id",
            &[Value::I64s(ids)],
            |row| row.i64(0).map(BlobId),
        )
        .await?;
    blobs::remove_references(conn, &blobs).await
}
