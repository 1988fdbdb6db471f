//! The bytes of files, in a folder of the local disk or in a bucket of S3.
//!
//! Invariant: a blob is complete and durable when [`Blobs::put`] succeeds, and its bytes never change. After a failed or dropped
//! operation the blob is complete or does not exist. The memory of each operation is bounded, whatever the size of the blob.
//!
//! This module knows no database. Who owns a blob, and whether it may be read or deleted, is decided by its callers.

mod error;
mod files;
mod folder;
mod listing;
mod location;
mod name;
mod s3;
mod s3_errors;
mod s3_http;
mod spool;
mod stream;
mod temporary;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

pub use error::{BlobError, Source};
pub use listing::{Listed, Listing};
pub use location::{Location, S3Location};
pub use name::{BlobName, InvalidBlobName};
pub use spool::{SpoolFile, Spooled};
pub use stream::BlobStream;

use folder::FolderStore;
use s3::{S3Store, check_environment};
use temporary::TemporaryFolder;

/// The storage of blobs, and the spool for uploads that are not finished. A clone shares both.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Store,
    spool: TemporaryFolder,
}

#[derive(Clone, Debug)]
enum Store {
    Folder(Arc<FolderStore>),
    S3(Arc<S3Store>),
}

impl Blobs {
    /// Opens the storage. Creates missing folders, which only their owner can use, and checks that blobs can be written.
    ///
    /// `spool` is a local folder for uploads that are not finished. If it is on the file system of `location`, a finished file is moved
    /// and not copied. Unfinished files of processes that have ended are deleted, as in [`Self::delete_unfinished`]. Several processes
    /// may use one spool and one location.
    ///
    /// The credentials of S3 are read from the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`).
    /// Without them they are those of the role of the machine, of the container or of a web identity.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`] within 20 s for each request if S3 does not answer. [`BlobError::StorageFull`].
    /// [`BlobError::Other`] for a folder, a bucket or credentials that cannot be used.
    pub async fn open(location: &Location, spool: &Path) -> Result<Self, BlobError> {
        let spool = spool.to_owned();
        let spool = files::blocking(move || TemporaryFolder::open(&spool)).await?;
        let store = match location {
            Location::Folder(path) => Store::Folder(Arc::new(FolderStore::open(path.clone()).await?)),
            Location::S3(location) => {
                check_environment()?;
                Store::S3(Arc::new(S3Store::open(location, |name| std::env::var(name).ok()).await?))
            }
        };
        Ok(Self { store, spool })
    }

    /// Opens the storage for reading. A folder is neither created nor checked: a missing folder has no blobs. A bucket is listed, and
    /// nothing is written into it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_to_read(location: &Location) -> Result<Self, BlobError> {
        let store = match location {
            Location::Folder(path) => Store::Folder(Arc::new(FolderStore::open_to_read(path.clone())?)),
            Location::S3(location) => {
                check_environment()?;
                Store::S3(Arc::new(S3Store::open_to_read(location, |name| std::env::var(name).ok()).await?))
            }
        };
        Ok(Self { store, spool: TemporaryFolder::unopened(Path::new(""))? })
    }

    /// Deletes the unfinished files of processes that have ended, a minute after their last change at the earliest.
    ///
    /// [`Self::open`] does the same. A server that starts again right after it was killed finds these files too new.
    ///
    /// # Errors
    /// [`BlobError::StorageFull`], [`BlobError::Other`].
    pub async fn delete_unfinished(&self) -> Result<(), BlobError> {
        let spool = self.spool.clone();
        files::blocking(move || spool.clean()).await?;
        match &self.store {
            Store::Folder(folder) => Arc::clone(folder).delete_unfinished().await,
            Store::S3(_) => Ok(()),
        }
    }

    /// Creates a temporary file for an upload.
    ///
    /// # Errors
    /// [`BlobError::StorageFull`], [`BlobError::Other`].
    pub async fn spool(&self) -> Result<SpoolFile, BlobError> {
        SpoolFile::create(self.spool.clone()).await
    }

    /// Stores a file as a blob, which is durable when this returns. A blob that has this name already is replaced: its bytes are
    /// the same.
    ///
    /// A folder takes the file away: it is moved if it is on the same file system, and copied and deleted if not. S3 leaves the
    /// file. If the returned future is dropped, the blob is stored as a whole or not at all.
    ///
    /// # Errors
    /// [`BlobError::StorageFull`], [`BlobError::Unavailable`], [`BlobError::Other`]. After an error the blob may exist and is
    /// then complete, but is perhaps not durable. The file may be gone.
    pub async fn put(&self, name: &BlobName, file: &Path) -> Result<(), BlobError> {
        match &self.store {
            Store::Folder(folder) => Arc::clone(folder).put(name.clone(), file.to_owned()).await,
            Store::S3(bucket) => Arc::clone(bucket).put(name.clone(), file.to_owned()).await,
        }
    }

    /// Stores bytes as a blob. It is meant for small blobs, such as thumbnails.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_bytes(&self, name: &BlobName, bytes: Bytes) -> Result<(), BlobError> {
        match &self.store {
            Store::Folder(folder) => Arc::clone(folder).put_bytes(name.clone(), bytes).await,
            Store::S3(bucket) => bucket.put_bytes(name, bytes).await,
        }
    }

    /// Reads a range of a blob, which must lie within it. The stream holds at most 512 KiB of a folder's blob.
    ///
    /// # Errors
    /// [`BlobError::NotFound`]. [`BlobError::Unavailable`] within 20 s. [`BlobError::Other`] if the range is not within the
    /// blob. The stream yields the same errors, and [`BlobError::Unavailable`] if S3 sends nothing for 30 s.
    pub async fn read(&self, name: &BlobName, range: Range<u64>) -> Result<BlobStream, BlobError> {
        if range.start > range.end {
            return Err(BlobError::other("the range of a blob ends before it begins"));
        }
        match &self.store {
            Store::Folder(folder) => Arc::clone(folder).read(name.clone(), range).await,
            Store::S3(bucket) => Arc::clone(bucket).read(name.clone(), range).await,
        }
    }

    /// Deletes a blob. A missing blob is not an error. Streams that are being read from a folder go on.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`] within 20 s, [`BlobError::Other`].
    pub async fn delete(&self, name: &BlobName) -> Result<(), BlobError> {
        match &self.store {
            Store::Folder(folder) => Arc::clone(folder).delete(name.clone()).await,
            Store::S3(bucket) => bucket.delete(name).await,
        }
    }

    /// Number of bytes of a blob.
    ///
    /// # Errors
    /// [`BlobError::NotFound`]. [`BlobError::Unavailable`] within 20 s. [`BlobError::Other`].
    pub async fn size(&self, name: &BlobName) -> Result<u64, BlobError> {
        match &self.store {
            Store::Folder(folder) => Arc::clone(folder).size(name.clone()).await,
            Store::S3(bucket) => bucket.size(name).await,
        }
    }

    /// Lists all blobs. The search for orphans compares them with the rows of the database.
    pub fn list(&self) -> Listing {
        match &self.store {
            Store::Folder(folder) => folder.list(),
            Store::S3(bucket) => bucket.list(),
        }
    }
}
