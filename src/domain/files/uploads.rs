//! Uploading a file.
//!
//! Invariants:
//! - The bytes go to a local file while they arrive, never into memory as a whole.
//! - The answer is sent after the bytes are on disk and the row of the attachment is committed. A crash before that leaves at most a
//!   blob in the state `claimed`, which [`sweep`](super::sweep) deletes.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::attachments::{Attachment, Description, files};
use super::avatars::not_an_image;
use super::file_names;
use super::files::{FileSettings, Files, NewAttachment, UploadPermit, blob_error, blob_name};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{AttachmentId, UploadId, UserId};
use crate::base::metrics::Metrics;
use crate::base::time::Timestamp;
use crate::blobs::{SpoolFile, Spooled};
use crate::domain::access::principal::Principal;
use crate::domain::shared::idempotency::{KeyedAnswer, Once};
use crate::media::{Inspected, Kind};
use crate::store;
use crate::store::db::Conn;
use crate::store::files::blobs::{Blob, Hash};

/// The file name, duration and waveform that the uploader states.
#[derive(Clone, Debug, Default)]
pub struct Stated {
    /// The name of the file.
    pub file_name: Option<String>,
    /// Duration of audio or video, if the server cannot measure it.
    pub duration_ms: Option<i64>,
    /// The loudness of 64 equal parts, if the server cannot measure it.
    pub waveform: Option<Vec<u8>>,
}

/// A file that is arriving.
pub struct Incoming {
    file: SpoolFile,
    max_bytes: u64,
    received_bytes: u64,
    permit: UploadPermit,
    metrics: Arc<Metrics>,
}

/// A file that has arrived completely.
pub struct Received {
    spooled: Spooled,
    _permit: UploadPermit,
}

/// Begins an upload of the caller. `announced_bytes` is the size that the request announces, if it does.
///
/// # Errors
/// 403 `act_as_required`; 413 `file_too_large`, `file_quota_exceeded`; 429 `too_many_uploads`; 507 if the server has no room.
pub async fn begin(app: &App, principal: &Principal, announced_bytes: Option<u64>) -> Result<Incoming> {
    begin_up_to(app, principal, announced_bytes, u64::MAX).await
}

/// Begins an upload of at most `max_bytes`, and at most the limit of the server.
///
/// # Errors
/// As [`begin`].
pub async fn begin_up_to(
    app: &App,
    principal: &Principal,
    announced_bytes: Option<u64>,
    max_bytes: u64,
) -> Result<Incoming> {
    let owner = principal.require_person()?.id;
    let max_user_bytes = files(app)?.settings.max_user_bytes;
    begin_for(app, owner, announced_bytes, max_bytes, max_user_bytes).await
}

/// Begins an upload whose bytes are counted for the server and not for a user, also for a caller that is not a user. The running
/// uploads of `owner` are limited.
///
/// # Errors
/// As [`begin`], without `file_quota_exceeded`.
pub async fn begin_for_server(
    app: &App,
    owner: UserId,
    announced_bytes: Option<u64>,
    max_bytes: u64,
) -> Result<Incoming> {
    begin_for(app, owner, announced_bytes, max_bytes, i64::MAX).await
}

async fn begin_for(
    app: &App,
    owner: UserId,
    announced_bytes: Option<u64>,
    max_bytes: u64,
    max_user_bytes: i64,
) -> Result<Incoming> {
    counted(&app.metrics, begin_uncounted(app, owner, announced_bytes, max_bytes, max_user_bytes).await)
}

async fn begin_uncounted(
    app: &App,
    owner: UserId,
    announced_bytes: Option<u64>,
    max_bytes: u64,
    max_user_bytes: i64,
) -> Result<Incoming> {
    let files = files(app)?;
    let max_bytes = files.settings.max_file_bytes.min(max_bytes);
    if announced_bytes.is_some_and(|bytes| bytes > max_bytes) {
        return Err(too_large(max_bytes));
    }
    let (own_bytes, all_bytes) = app
        .db
        .read(owner, |conn, owner| {
            Box::pin(async move {
                let own = store::files::usage::size_bytes(conn, *owner).await?;
                Ok((own, store::files::usage::size_bytes(conn, store::files::usage::SERVER).await?))
            })
        })
        .await?;
    let announced = i64::try_from(announced_bytes.unwrap_or_default()).unwrap_or(i64::MAX);
    if own_bytes.saturating_add(announced) > max_user_bytes {
        return Err(over_quota());
    }
    if all_bytes.saturating_add(announced) > files.settings.max_server_bytes {
        return Err(Error::StorageFull);
    }
    begin_with_limit(app, owner, max_bytes).await
}

/// Begins to receive at most `max_bytes`, without a check of the space that the files of `owner` take.
///
/// # Errors
/// 429 `too_many_uploads`; 503 if the whole server has too many; 507 if the disk is full.
pub(super) async fn begin_with_limit(app: &App, owner: UserId, max_bytes: u64) -> Result<Incoming> {
    let files = files(app)?;
    let permit = files.begin_upload(owner)?;
    let file = files.blobs.spool().await.map_err(blob_error)?;
    Ok(Incoming { file, max_bytes, received_bytes: 0, permit, metrics: Arc::clone(&app.metrics) })
}

impl Incoming {
    /// Writes the next bytes.
    ///
    /// # Errors
    /// 413 `file_too_large`; 507 if the disk is full.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.received_bytes += bytes.len() as u64;
        let written = if self.received_bytes > self.max_bytes {
            Err(too_large(self.max_bytes))
        } else {
            self.file.write(bytes).await.map_err(blob_error)
        };
        counted(&self.metrics, written)
    }

    /// How many bytes have arrived.
    pub(super) const fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Completes the file.
    ///
    /// # Errors
    /// 422 for an empty file; 507 if the disk is full.
    pub async fn finish(self) -> Result<Received> {
        let finished = if self.received_bytes == 0 {
            Err(Error::invalid("file", "required", "must have at least one byte"))
        } else {
            self.file.finish().await.map_err(blob_error)
        };
        Ok(Received { spooled: counted(&self.metrics, finished)?, _permit: self.permit })
    }
}

impl Received {
    /// SHA-256 of the bytes that arrived.
    pub const fn sha256(&self) -> &[u8; 32] {
        &self.spooled.sha256
    }

    /// The complete file. The upload counts as running until `self` is dropped.
    pub(super) const fn spooled(&self) -> &Spooled {
        &self.spooled
    }
}

/// Inspects a received picture and stores its bytes. The returned blob has no reference yet. `check` receives the SHA-256 of the bytes
/// that will be stored, and can refuse the picture before anything is stored.
///
/// # Errors
/// The error of `check`; 422 `image_too_large`, `damaged_file`; 503 and 507 if the bytes cannot be stored.
pub async fn store_picture(
    app: &App,
    received: Received,
    check: impl FnOnce(&Inspected, &Hash) -> Result<()>,
) -> Result<(Blob, Inspected)> {
    let files = files(app)?;
    let (stored, inspected) = files.inspect(received.spooled).await?;
    check(&inspected, &stored.sha256)?;
    Ok((store_file(app, files, &stored).await?, inspected))
}

/// Adds references to blobs whose bytes are stored.
///
/// # Errors
/// 503 if the bytes are being deleted; 507 `storage_full`.
pub async fn add_references(conn: &mut Conn, blobs: &[Blob], max_server_bytes: i64) -> Result<()> {
    if !store::files::blobs::lock(conn, blobs).await? {
        // The last reference to equal bytes was removed after `claim`, so a deletion may be running.
        return Err(Error::unavailable("the bytes of an upload are being deleted"));
    }
    for blob in blobs {
        if !store::files::blobs::add_reference(conn, *blob, max_server_bytes).await? {
            return Err(Error::StorageFull);
        }
    }
    Ok(())
}

/// Creates an attachment from a received file.
///
/// # Errors
/// 401 if the caller was erased meanwhile; 413 `file_quota_exceeded`; 422 `image_too_large`, `damaged_file`, `invalid_file_name`,
/// `idempotency_key_reused`; 503 and 507 if the bytes cannot be stored.
pub async fn create(
    app: &App,
    principal: &Principal,
    received: Received,
    stated: Stated,
    once: Once<Attachment>,
) -> Result<KeyedAnswer> {
    create_checked(app, principal, received, stated, once, |_| Ok(())).await
}

/// Creates an attachment from a received file, unless `check` refuses it. Nothing of a refused file is stored.
///
/// # Errors
/// Those of [`create`] and of `check`.
pub(super) async fn create_checked(
    app: &App,
    principal: &Principal,
    received: Received,
    stated: Stated,
    once: Once<Attachment>,
    check: fn(&Inspected) -> Result<()>,
) -> Result<KeyedAnswer> {
    let person = principal.require_person()?.id;
    let creating = async {
        if let Some(name) = &stated.file_name {
            file_names::check(name)?;
        }
        if let Some(given) = given(app, &once).await? {
            return Ok(given);
        }
        let new = prepare(app, person, received, &stated, check).await?;
        app.db.write((new, once), |conn, (new, once)| Box::pin(insert(conn, new, once))).await
    };
    stored(&app.metrics, creating.await)
}

/// The stored answer to an earlier request with the same idempotency key.
///
/// # Errors
/// 422 `idempotency_key_reused`.
pub(super) async fn given(app: &App, once: &Once<Attachment>) -> Result<Option<KeyedAnswer>> {
    let now = app.clock.now();
    app.db.read((once.clone(), now), |conn, (once, now)| Box::pin(once.given(conn, *now))).await
}

/// Creates an attachment from a complete resumable upload, and stores its id in the row of the upload.
///
/// # Errors
/// As [`create`]; 503 if another request completes the upload.
pub(super) async fn create_of_upload(
    app: &App,
    principal: &Principal,
    received: Received,
    stated: Stated,
    upload: UploadId,
) -> Result<AttachmentId> {
    let person = principal.require_person()?.id;
    let creating = async {
        let new = prepare(app, person, received, &stated, |_| Ok(())).await?;
        app.db.write((new, upload), |conn, (new, upload)| Box::pin(insert_of_upload(conn, new, *upload))).await
    };
    stored(&app.metrics, creating.await)
}

async fn insert_of_upload(conn: &mut Conn, new: &NewAttachment, upload: UploadId) -> Result<AttachmentId> {
    let id = insert_row(conn, new).await?;
    if !store::files::resumable_uploads::complete(conn, upload, id).await? {
        return Err(Error::unavailable("another request has completed this upload"));
    }
    Ok(id)
}

/// Creates an attachment from a received image. A file that is not an image is refused before anything of it is stored.
///
/// # Errors
/// As [`create`]; 422 `not_an_image`.
pub async fn create_image(app: &App, principal: &Principal, received: Received) -> Result<AttachmentId> {
    let person = principal.require_person()?.id;
    let creating = async {
        let new = prepare(app, person, received, &Stated::default(), check_image).await?;
        app.db.write(new, |conn, new| Box::pin(insert_row(conn, new))).await
    };
    stored(&app.metrics, creating.await)
}

/// Inspects an image that the server has fetched, and stores its bytes for at least an hour. Nothing of any other file is stored.
///
/// # Errors
/// 422 `not_an_image`, `image_too_large`, `damaged_file`; 503 and 507 if the bytes cannot be stored.
pub async fn prepare_image(app: &App, received: Received) -> Result<NewAttachment> {
    let prepared = prepare(app, store::files::usage::SERVER, received, &Stated::default(), check_image).await;
    stored(&app.metrics, prepared)
}

/// Inserts an attachment of a user that has the bytes of an image.
///
/// # Errors
/// 401 if the user was erased; 413 `file_quota_exceeded`; 503 if the bytes have been deleted since the image was prepared; 507.
pub async fn insert_image(
    conn: &mut Conn,
    image: &NewAttachment,
    uploader_id: UserId,
    now: Timestamp,
) -> Result<Description> {
    let attachment = Attachment { uploader_id, created_at: now, ..image.attachment.clone() };
    let new = NewAttachment { attachment, ..*image };
    let id = insert_row(conn, &new).await?;
    Ok(Description { id: id.0, ..new.attachment.description })
}

fn check_image(inspected: &Inspected) -> Result<()> {
    if inspected.kind == Kind::Image { Ok(()) } else { Err(not_an_image()) }
}

/// Counts an upload by its outcome: `stored`, `refused` or `failed`.
pub(super) fn stored<T>(metrics: &Metrics, result: Result<T>) -> Result<T> {
    counted(metrics, result).inspect(|_| {
        metrics.uploads("stored").inc();
    })
}

/// Counts an upload that ends with an error as `refused` (a fault of the request) or `failed` (a fault of the server).
fn counted<T>(metrics: &Metrics, result: Result<T>) -> Result<T> {
    result.inspect_err(|error| {
        let is_refused = !matches!(
            error,
            Error::Unavailable { .. } | Error::Upstream { .. } | Error::StorageFull | Error::Internal(_)
        );
        metrics.uploads(if is_refused { "refused" } else { "failed" }).inc();
    })
}

/// Inspects a file, stores its bytes, and describes the attachment to insert. `check` refuses files before anything of them is
/// stored.
async fn prepare(
    app: &App,
    uploader_id: UserId,
    received: Received,
    stated: &Stated,
    check: fn(&Inspected) -> Result<()>,
) -> Result<NewAttachment> {
    let files = files(app)?;
    let (stored, inspected) = files.inspect(received.spooled).await?;
    check(&inspected)?;
    let blob = store_file(app, files, &stored).await?;
    let thumbnail = match &inspected.thumbnail {
        Some(thumbnail) => {
            let bytes = Bytes::from(thumbnail.bytes.clone());
            Some((store_bytes(app, files, bytes).await?, thumbnail.content_type.to_owned()))
        }
        None => None,
    };
    let FileSettings { max_user_bytes, max_server_bytes, .. } = files.settings;
    let description = describe(&inspected, stated, blob.size_bytes, thumbnail.is_some());
    let attachment = Attachment { description, uploader_id, blob, thumbnail, created_at: app.clock.now() };
    Ok(NewAttachment { attachment, max_user_bytes, max_server_bytes })
}

/// Stores the bytes of a file, unless equal bytes are stored already.
pub(super) async fn store_file(app: &App, files: &Files, spooled: &Spooled) -> Result<Blob> {
    let (blob, is_stored) = claim(app, spooled.sha256, spooled.size_bytes).await?;
    if !is_stored {
        files.blobs.put(&blob_name(&blob), &spooled.path).await.map_err(blob_error)?;
    }
    Ok(blob)
}

async fn store_bytes(app: &App, files: &Files, bytes: Bytes) -> Result<Blob> {
    let (blob, is_stored) = claim(app, Sha256::digest(&bytes).into(), bytes.len() as u64).await?;
    if !is_stored {
        files.blobs.put_bytes(&blob_name(&blob), bytes).await.map_err(blob_error)?;
    }
    Ok(blob)
}

async fn claim(app: &App, sha256: Hash, size_bytes: u64) -> Result<(Blob, bool)> {
    let input = (sha256, i64::try_from(size_bytes).map_err(Error::internal)?, app.clock.now());
    app.db
        .write(input, |conn, (sha256, size_bytes, now)| {
            Box::pin(store::files::blobs::claim(conn, sha256, *size_bytes, *now))
        })
        .await
}

async fn insert(conn: &mut Conn, new: &NewAttachment, once: &Once<Attachment>) -> Result<KeyedAnswer> {
    let now = new.attachment.created_at;
    if let Some(given) = once.given(conn, now).await? {
        return Ok(given);
    }
    let id = insert_row(conn, new).await?;
    let mut made = new.attachment.clone();
    made.description.id = id.0;
    once.give(conn, now, &made, Some(new.attachment.uploader_id)).await
}

async fn insert_row(conn: &mut Conn, new: &NewAttachment) -> Result<AttachmentId> {
    let NewAttachment { attachment, max_user_bytes, max_server_bytes, .. } = new;
    let uploader = attachment.uploader_id;
    // The user may have been erased while the upload ran.
    if store::identity::users::lock_shared(conn, &[uploader.0]).await?.is_empty() {
        return Err(Error::Unauthenticated);
    }
    let mut blobs = vec![attachment.blob];
    blobs.extend(attachment.thumbnail.as_ref().map(|(blob, _)| *blob));
    blobs.sort_unstable_by_key(|blob| blob.id);
    add_references(conn, &blobs, *max_server_bytes).await?;
    if !store::files::usage::add(conn, uploader, attachment.description.size_bytes, *max_user_bytes).await? {
        return Err(over_quota());
    }
    let expires_at = attachment.created_at.plus_micros(store::files::attachments::UNSENT_MICROS);
    store::files::attachments::insert(conn, attachment, expires_at).await
}

fn describe(inspected: &Inspected, stated: &Stated, size_bytes: i64, has_thumbnail: bool) -> Description {
    let is_played = matches!(inspected.kind, crate::media::Kind::Audio | crate::media::Kind::Video);
    let measured_duration = inspected.duration_ms.and_then(|duration| i64::try_from(duration).ok());
    let stated_duration = stated.duration_ms.filter(|_| is_played && measured_duration.is_none());
    let measured_waveform = inspected.waveform.map(|waveform| waveform.to_vec());
    let is_audio = inspected.kind == crate::media::Kind::Audio;
    let stated_waveform = stated.waveform.clone().filter(|_| is_audio && measured_waveform.is_none());
    Description {
        id: 0,
        content_type: inspected.content_type.clone(),
        file_name: stated.file_name.clone(),
        size_bytes,
        width: inspected.width.map(i64::from),
        height: inspected.height.map(i64::from),
        blurhash: inspected.blurhash.clone(),
        measured: stated_duration.is_none() && stated_waveform.is_none(),
        duration_ms: measured_duration.or(stated_duration),
        waveform: measured_waveform.or(stated_waveform),
        has_thumbnail,
    }
}

pub(super) fn too_large(max_bytes: u64) -> Error {
    Error::TooLarge { code: "file_too_large", detail: format!("A file has at most {max_bytes} bytes").into() }
}

pub(super) fn over_quota() -> Error {
    Error::TooLarge {
        code: "file_quota_exceeded",
        detail:
            "With this file, your files would take more space than one user may use; delete messages with files first"
                .into(),
    }
}
