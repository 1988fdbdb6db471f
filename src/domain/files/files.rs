//! [`Files`]: the storage of blobs, the limit of files that are inspected at the same time, and the limits of uploads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, oneshot};

use crate::base::error::{Error, Result};
use crate::base::ids::UserId;
use crate::blobs::{BlobError, BlobName, Blobs, Location, Spooled};
use crate::media::{self, Inspected, Refusal};
use crate::store::files::attachments::Attachment;
use crate::store::files::blobs::Blob;

/// The default limit of one file, in bytes.
pub const MAX_FILE_BYTES: u64 = 128 * 1_024 * 1_024;
/// The default limit of the files of one user, in bytes.
pub const MAX_USER_BYTES: i64 = 10 * 1_024 * 1_024 * 1_024;
/// Maximum number of uploads of one user at the same time.
const UPLOADS_PER_USER: usize = 6;
/// Maximum number of uploads at the same time.
const UPLOADS: usize = 64;
/// Maximum number of files that are inspected at the same time. An image takes up to 400 MB of memory while it is decoded, and more if
/// it is rotated.
const DECODERS: usize = 2;
/// The lowest priority of a thread, as a nice value.
#[cfg(target_os = "linux")]
const LOWEST_PRIORITY: i32 = 19;

/// The settings of files.
#[derive(Clone, Debug)]
pub struct FileSettings {
    /// Where the bytes are stored.
    pub location: Location,
    /// A local folder for uploads that are not complete yet.
    pub spool: PathBuf,
    /// The limit of one file, in bytes.
    pub max_file_bytes: u64,
    /// The limit of the files of one user, in bytes.
    pub max_user_bytes: i64,
    /// The limit of all files together, in bytes.
    pub max_server_bytes: i64,
}

/// An attachment that is still to be inserted. Its bytes are stored, and nothing refers to them yet.
#[derive(Clone)]
pub struct NewAttachment {
    /// The attachment. The id of its description has no meaning.
    pub attachment: Attachment,
    /// The limit of the files of its user, in bytes.
    pub max_user_bytes: i64,
    /// The limit of all files together, in bytes.
    pub max_server_bytes: i64,
}

/// Everything that works with the bytes of files.
pub struct Files {
    /// The store of bytes.
    pub blobs: Blobs,
    /// The settings.
    pub settings: FileSettings,
    decoders: Arc<Semaphore>,
    uploads: Arc<Mutex<HashMap<UserId, usize>>>,
}

impl Files {
    /// Opens the store of bytes.
    ///
    /// # Errors
    /// The store cannot be used.
    pub async fn open(settings: FileSettings) -> Result<Self> {
        let blobs = open_blobs(&settings.location, &settings.spool).await?;
        let decoders = std::thread::available_parallelism().map_or(1, usize::from).min(DECODERS);
        Ok(Self { blobs, settings, decoders: Arc::new(Semaphore::new(decoders)), uploads: Arc::default() })
    }

    /// Counts one more running upload of a user. The upload ends when the permit is dropped.
    ///
    /// # Errors
    /// 429 `too_many_uploads`; 503 if the whole server has too many.
    pub fn begin_upload(&self, user: UserId) -> Result<UploadPermit> {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        if uploads.values().sum::<usize>() >= UPLOADS {
            return Err(Error::unavailable("too many uploads are running"));
        }
        let own = uploads.entry(user).or_default();
        if *own >= UPLOADS_PER_USER {
            return Err(Error::RateLimited { code: "too_many_uploads", retry_after_s: 5 });
        }
        *own += 1;
        Ok(UploadPermit { uploads: Arc::clone(&self.uploads), user })
    }

    /// Inspects an uploaded file on a thread for blocking work. Returns the file to store: the received one, or a copy without metadata.
    ///
    /// # Errors
    /// 422 `image_too_large`, `damaged_file`.
    pub async fn inspect(&self, arrived: Spooled) -> Result<(Spooled, Inspected)> {
        let decoder = Arc::clone(&self.decoders).acquire_owned().await.map_err(Error::internal)?;
        let clean = self.blobs.spool().await.map_err(blob_error)?;
        // The closure owns the permit and the files, because it continues if the caller stops waiting.
        let inspecting = on_background_thread(move || {
            let _decoder = decoder;
            let inspected = media::inspect(&arrived.path, clean.path(), &media::Limits::default());
            (arrived, clean, inspected)
        })?;
        let (arrived, clean, inspected) = inspecting.await.map_err(Error::internal)?;
        let inspected = inspected.map_err(|refusal| match refusal {
            Refusal::TooLarge(detail) => Error::Unusable { code: "image_too_large", detail: detail.into() },
            Refusal::Damaged(detail) => Error::Unusable { code: "damaged_file", detail: detail.into() },
            Refusal::Io(error) => storage_error(error),
        })?;
        let stored = if inspected.cleaned { clean.finish_written().await.map_err(blob_error)? } else { arrived };
        Ok((stored, inspected))
    }
}

/// Runs work on a thread of its own with the lowest priority, so that it takes only processor time that nothing else needs. A thread of
/// the runtime cannot be used: it must not keep the low priority, and an unprivileged process cannot raise it again.
fn on_background_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<oneshot::Receiver<T>> {
    let (send, receive) = oneshot::channel();
    let thread = std::thread::Builder::new().name("media".into()).spawn(move || {
        // On Linux, this sets the priority of the calling thread only.
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::process::setpriority_process(None, LOWEST_PRIORITY) {
            tracing::debug!(%error, "the priority of a thread could not be set");
        }
        drop(send.send(work()));
    });
    thread.map_err(Error::internal)?;
    Ok(receive)
}

/// Opens a store of bytes. `spool` is a local folder for files that are not complete yet.
///
/// # Errors
/// [`Error::Unavailable`] with a sentence that names the location.
pub async fn open_blobs(location: &Location, spool: &Path) -> Result<Blobs> {
    Blobs::open(location, spool).await.map_err(|error| {
        let mut text = format!("the files cannot be stored in {location}: {error}");
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        Error::unavailable(text)
    })
}

/// Counts one upload of a user until it is dropped.
pub struct UploadPermit {
    uploads: Arc<Mutex<HashMap<UserId, usize>>>,
    user: UserId,
}

impl Drop for UploadPermit {
    fn drop(&mut self) {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = uploads.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                uploads.remove(&self.user);
            }
        }
    }
}

fn storage_error(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::StorageFull,
        _ => Error::internal(error),
    }
}

/// The name of the object with the bytes of a blob.
pub fn blob_name(blob: &Blob) -> BlobName {
    BlobName::new(blob.sha256, blob.id.0)
}

/// The error of the domain for an error of the store of bytes.
pub fn blob_error(error: BlobError) -> Error {
    match error {
        BlobError::StorageFull(source) => {
            tracing::error!(%source, "the storage for files is full");
            Error::StorageFull
        }
        error @ BlobError::Unavailable(_) => Error::Unavailable { retry_after_s: 5, source: Box::new(error) },
        error => Error::internal(error),
    }
}
