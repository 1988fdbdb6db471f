//! Resumable uploads: a file that arrives in several requests. After a broken connection, a client sends only the bytes again that
//! were not stored.
//!
//! Invariants:
//! - Each request stores the received bytes as a separate blob before it acknowledges the new offset. So an upload can continue after a
//!   restart and through another node.
//! - Two requests cannot add bytes at the same offset, and cannot make two attachments of one upload.

use bytes::Bytes;
use futures_util::StreamExt;

use super::attachments::{self, Attachment, files};
use super::file_names;
use super::files::{FileSettings, blob_error};
use super::uploads::{self, Incoming, Stated, over_quota, store_file, too_large};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{AttachmentId, UploadId};
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::shared::idempotency::{KeyedAnswer, Once};
use crate::store;
use crate::store::db::Conn;
use crate::store::files::blobs::Blob;
pub use crate::store::files::resumable_uploads::ResumableUpload;

/// Maximum number of incomplete uploads of a user.
pub const MAX_OPEN: i64 = 10;
/// Maximum number of requests that add bytes to one upload.
pub const MAX_PARTS: i64 = 1_000;
/// How long an upload is kept after its creation.
const KEPT_MICROS: i64 = 24 * 3_600 * 1_000_000;

struct NewUpload {
    upload: ResumableUpload,
    once: Once<ResumableUpload>,
    max_user_bytes: i64,
}

/// Creates an upload without bytes.
///
/// # Errors
/// 401 if the caller was erased; 403 `act_as_required`; 409 `too_many_open_uploads`; 413 `file_too_large`, `file_quota_exceeded`; 422
/// `invalid_file_name`, `idempotency_key_reused`, and for the size.
pub async fn create(
    app: &App,
    principal: &Principal,
    size_bytes: i64,
    file_name: Option<String>,
    once: Once<ResumableUpload>,
) -> Result<KeyedAnswer> {
    let person = principal.require_person()?.id;
    let FileSettings { max_file_bytes, max_user_bytes, .. } = files(app)?.settings;
    if size_bytes < 1 {
        return Err(Error::invalid("Upload-Length", "out_of_range", "must be at least 1"));
    }
    if size_bytes.unsigned_abs() > max_file_bytes {
        return Err(too_large(max_file_bytes));
    }
    if let Some(name) = &file_name {
        file_names::check(name)?;
    }
    let upload = ResumableUpload {
        id: UploadId(0),
        user_id: person,
        file_name,
        size_bytes,
        offset_bytes: 0,
        attachment_id: None,
        expires_at: app.clock.now().plus_micros(KEPT_MICROS),
    };
    let new = NewUpload { upload, once, max_user_bytes };
    app.db.write(new, |conn, new| Box::pin(insert(conn, new))).await
}

async fn insert(conn: &mut Conn, new: &NewUpload) -> Result<KeyedAnswer> {
    let NewUpload { upload, once, max_user_bytes } = new;
    let now = upload.expires_at.plus_micros(-KEPT_MICROS);
    if let Some(given) = once.given(conn, now).await? {
        return Ok(given);
    }
    // Locks the user, so that two requests count one after the other, and so that no upload is created for an erased user.
    if !store::identity::users::lock(conn, upload.user_id).await? {
        return Err(Error::Unauthenticated);
    }
    let (open, open_bytes) = store::files::resumable_uploads::open_of(conn, upload.user_id).await?;
    if open >= MAX_OPEN {
        let detail = format!("A user has at most {MAX_OPEN} incomplete uploads; complete or delete one first").into();
        return Err(Error::Conflict { code: "too_many_open_uploads", detail });
    }
    let used_bytes = store::files::usage::size_bytes(conn, upload.user_id).await?;
    if used_bytes + open_bytes + upload.size_bytes > *max_user_bytes {
        return Err(over_quota());
    }
    let id = store::files::resumable_uploads::insert(conn, upload).await?;
    let made = ResumableUpload { id, ..upload.clone() };
    once.give(conn, now, &made, Some(upload.user_id)).await
}

/// Reads an upload of the caller.
///
/// # Errors
/// 403 `act_as_required`; 404 `upload_not_found`, also if it has expired.
pub async fn get(app: &App, principal: &Principal, id: i64) -> Result<ResumableUpload> {
    let person = principal.require_person()?.id;
    let found = app
        .db
        .read((person, UploadId(id)), |conn, (person, id)| {
            Box::pin(store::files::resumable_uploads::one(conn, *person, *id))
        })
        .await?;
    found.filter(|upload| upload.expires_at > app.clock.now()).ok_or_else(not_found)
}

/// Deletes an upload of the caller with the bytes that have arrived. The attachment of a complete upload stays.
///
/// # Errors
/// 403 `act_as_required`; 404 `upload_not_found`.
pub async fn delete(app: &App, principal: &Principal, id: i64) -> Result<()> {
    let upload = get(app, principal, id).await?;
    app.db
        .write(upload.id.0, |conn, id| {
            Box::pin(store::files::resumable_uploads::delete(conn, std::slice::from_ref(id)))
        })
        .await
}

/// The next bytes of an upload that are arriving.
pub struct Part {
    upload: ResumableUpload,
    incoming: Incoming,
}

/// Begins to receive the bytes from `offset_bytes` on. `None` if all bytes have arrived: then [`finish`] is next.
///
/// # Errors
/// 403 `act_as_required`; 404 `upload_not_found`; 409 `upload_offset_mismatch`, `too_many_parts`; 429 `too_many_uploads`; 503 if the
/// whole server has too many; 507 if the disk is full.
pub async fn begin_part(
    app: &App,
    principal: &Principal,
    id: i64,
    offset_bytes: i64,
) -> Result<(ResumableUpload, Option<Part>)> {
    let upload = get(app, principal, id).await?;
    if upload.offset_bytes != offset_bytes {
        return Err(offset_mismatch(upload.offset_bytes));
    }
    if upload.offset_bytes == upload.size_bytes {
        return Ok((upload, None));
    }
    let parts =
        app.db.read(upload.id, |conn, id| Box::pin(store::files::resumable_uploads::count_parts(conn, *id))).await?;
    if parts >= MAX_PARTS {
        let detail = format!("An upload has at most {MAX_PARTS} parts; begin again with larger parts").into();
        return Err(Error::Conflict { code: "too_many_parts", detail });
    }
    let rest = (upload.size_bytes - upload.offset_bytes).unsigned_abs();
    let incoming = uploads::begin_with_limit(app, upload.user_id, rest).await?;
    Ok((upload.clone(), Some(Part { upload, incoming })))
}

impl Part {
    /// Writes the next bytes.
    ///
    /// # Errors
    /// 413 `file_too_large` if more arrives than the upload has; 507 if the disk is full.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.incoming.write(bytes).await.map_err(|error| match error {
            Error::TooLarge { code, .. } => {
                let rest = self.upload.size_bytes - self.upload.offset_bytes;
                Error::TooLarge { code, detail: format!("Only {rest} bytes of this upload are missing").into() }
            }
            error => error,
        })
    }

    /// Stores what has arrived, also if the request was cut off. Returns the upload with its new offset.
    ///
    /// # Errors
    /// 409 `upload_offset_mismatch` if another request was faster; 503 and 507 if the bytes cannot be stored.
    pub async fn store(self, app: &App) -> Result<ResumableUpload> {
        let Self { upload, incoming } = self;
        if incoming.received_bytes() == 0 {
            return Ok(upload);
        }
        let files = files(app)?;
        let received = incoming.finish().await?;
        let blob = store_file(app, files, received.spooled()).await?;
        let input = (upload, blob, files.settings.max_server_bytes);
        app.db.write(input, |conn, (upload, blob, limit)| Box::pin(add_part(conn, upload, *blob, *limit))).await
    }
}

async fn add_part(conn: &mut Conn, upload: &ResumableUpload, blob: Blob, limit_bytes: i64) -> Result<ResumableUpload> {
    if !store::files::resumable_uploads::add_part(conn, upload.id, upload.offset_bytes, &blob).await? {
        let current =
            store::files::resumable_uploads::one(conn, upload.user_id, upload.id).await?.ok_or_else(not_found)?;
        return Err(offset_mismatch(current.offset_bytes));
    }
    uploads::add_references(conn, &[blob], limit_bytes).await?;
    Ok(ResumableUpload { offset_bytes: upload.offset_bytes + blob.size_bytes, ..upload.clone() })
}

/// Makes the attachment of an upload whose bytes have all arrived, or returns the one that was made before.
///
/// # Errors
/// Those of [`uploads::create`]; 410 `file_lost` if the bytes of a part are missing; 503 if another request completes the upload. After
/// a 422 the upload is deleted, because another attempt cannot succeed.
pub async fn finish(app: &App, principal: &Principal, upload: &ResumableUpload) -> Result<Attachment> {
    let person = principal.require_person()?.id;
    let id = match upload.attachment_id {
        Some(id) => id,
        None => match assemble(app, principal, upload).await {
            Ok(id) => id,
            Err(error @ (Error::Unusable { .. } | Error::Invalid(_))) => {
                delete(app, principal, upload.id.0).await?;
                return Err(error);
            }
            Err(error) => return Err(error),
        },
    };
    app.db
        .read((person, id), |conn, (person, id)| Box::pin(attachments::visible(conn, Viewer::Person(*person), id.0)))
        .await
}

async fn assemble(app: &App, principal: &Principal, upload: &ResumableUpload) -> Result<AttachmentId> {
    let parts = app.db.read(upload.id, |conn, id| Box::pin(store::files::resumable_uploads::parts(conn, *id))).await?;
    let mut incoming = uploads::begin_with_limit(app, upload.user_id, upload.size_bytes.unsigned_abs()).await?;
    for part in parts {
        copy(app, part, &mut incoming).await?;
    }
    if incoming.received_bytes() != upload.size_bytes.unsigned_abs() {
        // Another request has completed the upload and deleted its parts. A repeated request finds the attachment.
        return Err(Error::unavailable("another request completes this upload"));
    }
    let stated = Stated { file_name: upload.file_name.clone(), ..Stated::default() };
    uploads::create_of_upload(app, principal, incoming.finish().await?, stated, upload.id).await
}

async fn copy(app: &App, part: Blob, incoming: &mut Incoming) -> Result<()> {
    let mut bytes = attachments::read(app, &part, 0..part.size_bytes.unsigned_abs()).await?;
    while let Some(piece) = bytes.next().await {
        incoming.write(piece.map_err(blob_error)?).await?;
    }
    Ok(())
}

fn offset_mismatch(offset_bytes: i64) -> Error {
    let detail = format!("Upload-Offset must be {offset_bytes}, the number of bytes that have arrived");
    Error::Conflict { code: "upload_offset_mismatch", detail: detail.into() }
}

fn not_found() -> Error {
    let detail = "Upload not found; it may have expired";
    Error::NotFound { code: "upload_not_found", detail: detail.into() }
}
