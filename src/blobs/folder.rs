//! Blobs in a folder of a local file system: `DIR/ab/NAME`, where `ab` is the first byte of the SHA-256.
//!
//! Invariant: a file at the path of a blob is complete and on disk. Bytes are written and synced under another name, then the
//! file is renamed and the folder is synced. After a failed sync the file is not used again, because a later sync that
//! succeeds proves nothing about it.

use std::collections::VecDeque;
use std::fs::{DirEntry, File, ReadDir};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::{StreamExt, TryStreamExt};

use super::error::BlobError;
use super::files::{self, blocking};
use super::listing::{Listed, Listing, name_of_path};
use super::name::BlobName;
use super::stream::{BlobStream, FileChunks};
use super::temporary::{TemporaryFile, TemporaryFolder};

/// The folder below the location for files that are copied or written and not yet renamed.
const UNFINISHED: &str = ".unfinished";
/// Number of folders `ab`.
const FOLDERS: usize = 256;
/// Number of names that one blocking task reads while it lists a folder.
const NAMES_PER_BATCH: usize = 1000;

/// The storage in a folder. Its functions run on the threads for blocking work.
#[derive(Debug)]
pub(super) struct FolderStore {
    path: PathBuf,
    unfinished: TemporaryFolder,
    /// For each folder `ab`, whether this process has synced its name. An existing folder may have been created by a process that
    /// ended before it synced the name.
    known: Vec<AtomicBool>,
}

impl FolderStore {
    /// Creates the folder if it is missing, and checks that it can be written.
    pub(super) async fn open(path: PathBuf) -> Result<Self, BlobError> {
        blocking(move || {
            files::make_folder(&path)?;
            let unfinished = TemporaryFolder::open(&path.join(UNFINISHED))?;
            let known = std::iter::repeat_with(AtomicBool::default).take(FOLDERS).collect();
            Ok(Self { path, unfinished, known })
        })
        .await
    }

    /// Opens the folder for reading. Nothing is created or checked.
    pub(super) fn open_to_read(path: PathBuf) -> Result<Self, BlobError> {
        let unfinished = TemporaryFolder::unopened(&path.join(UNFINISHED))?;
        Ok(Self { path, unfinished, known: Vec::new() })
    }

    /// Deletes unfinished files of processes that have ended.
    pub(super) async fn delete_unfinished(self: Arc<Self>) -> Result<(), BlobError> {
        blocking(move || self.unfinished.clean()).await
    }

    /// Moves a file to the path of a blob.
    pub(super) async fn put(self: Arc<Self>, name: BlobName, file: PathBuf) -> Result<(), BlobError> {
        blocking(move || {
            self.make_folder_of(&name)?;
            if self.is_on_this_file_system(&file)? {
                self.sync_or_delete(&file)?;
                match self.retry_without_folder(&name, || std::fs::rename(&file, self.path_of(&name))) {
                    Ok(()) => return self.sync_folder_of(&name),
                    // Two mounts of one file system have the same device.
                    Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
                    Err(error) => return Err(BlobError::io("rename", &file, error)),
                }
            }
            let copy = self.unfinished.create()?;
            File::open(&file)
                .and_then(|mut source| io::copy(&mut source, &mut &*copy.file))
                .map_err(|error| BlobError::io("copy", &file, error))?;
            self.place(&name, copy)?;
            // The blob is stored. What is left of the source is deleted by its owner.
            if let Err(error) = std::fs::remove_file(&file) {
                tracing::debug!(path = %file.display(), %error, "could not delete a file that was copied");
            }
            Ok(())
        })
        .await
    }

    /// Writes bytes to the path of a blob.
    pub(super) async fn put_bytes(self: Arc<Self>, name: BlobName, bytes: Bytes) -> Result<(), BlobError> {
        blocking(move || {
            self.make_folder_of(&name)?;
            let file = self.unfinished.create()?;
            (&*file.file).write_all(&bytes).map_err(|error| BlobError::io("write", &file.path, error))?;
            self.place(&name, file)
        })
        .await
    }

    /// Opens a blob and reads its first chunk.
    pub(super) async fn read(self: Arc<Self>, name: BlobName, range: Range<u64>) -> Result<BlobStream, BlobError> {
        blocking(move || {
            let path = self.path_of(&name);
            let file = File::open(&path).map_err(|error| missing_or("open", &path, error))?;
            let size_bytes = file.metadata().map_err(|error| BlobError::io("read the size of", &path, error))?.len();
            if range.end > size_bytes {
                return Err(BlobError::other(format!("{} has only {size_bytes} bytes", path.display())));
            }
            FileChunks::start(file, path.into(), range.start, range.end).map(BlobStream::of_file)
        })
        .await
    }

    /// Deletes a blob. A power loss soon after can bring it back.
    pub(super) async fn delete(self: Arc<Self>, name: BlobName) -> Result<(), BlobError> {
        blocking(move || {
            let path = self.path_of(&name);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BlobError::io("delete", &path, error)),
                _ => Ok(()),
            }
        })
        .await
    }

    /// The number of bytes of a blob.
    pub(super) async fn size(self: Arc<Self>, name: BlobName) -> Result<u64, BlobError> {
        blocking(move || {
            let path = self.path_of(&name);
            let metadata = std::fs::metadata(&path).map_err(|error| missing_or("read the size of", &path, error))?;
            Ok(metadata.len())
        })
        .await
    }

    /// All blobs, one folder `ab` after the other.
    pub(super) fn list(&self) -> Listing {
        let listing = FolderListing { path: self.path.clone(), folders: (0..=u8::MAX).collect(), open: None };
        let batches = futures_util::stream::try_unfold(listing, |listing| blocking(move || listing.next_batch()));
        let stream = batches.map_ok(|batch| futures_util::stream::iter(batch.into_iter().map(Ok))).try_flatten();
        stream.boxed()
    }

    fn path_of(&self, name: &BlobName) -> PathBuf {
        self.path.join(name.path())
    }

    fn folder_of(&self, name: &BlobName) -> PathBuf {
        self.path.join(folder_name(name.folder()))
    }

    fn is_on_this_file_system(&self, file: &Path) -> Result<bool, BlobError> {
        let device = |path: &Path| {
            std::fs::metadata(path).map(|metadata| metadata.dev()).map_err(|error| BlobError::io("open", path, error))
        };
        Ok(device(file)? == device(&self.path)?)
    }

    /// Syncs a file before it is renamed. A file whose sync failed is deleted, so that no later attempt stores it.
    fn sync_or_delete(&self, file: &Path) -> Result<(), BlobError> {
        files::sync(file).inspect_err(|_| {
            if let Err(error) = std::fs::remove_file(file) {
                tracing::warn!(path = %file.display(), %error, "could not delete a file whose sync failed");
            }
        })
    }

    /// Syncs a complete temporary file and renames it.
    fn place(&self, name: &BlobName, mut file: TemporaryFile) -> Result<(), BlobError> {
        file.file.sync_all().map_err(|error| BlobError::io("sync", &file.path, error))?;
        let path = self.path_of(name);
        self.retry_without_folder(name, || file.rename(&path))
            .map_err(|error| BlobError::io("rename a file to", &path, error))?;
        self.sync_folder_of(name)
    }

    /// Renames a file. If the folder `ab` was deleted while the server runs, it creates the folder and renames again.
    fn retry_without_folder(&self, name: &BlobName, mut rename: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        let result = rename();
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) && !self.folder_of(name).exists()
        {
            if let Some(known) = self.known.get(usize::from(name.folder())) {
                known.store(false, Ordering::Release);
            }
            self.make_folder_of(name).map_err(io::Error::other)?;
            return rename();
        }
        result
    }

    /// Creates the folder `ab` of a blob and syncs its name, once for each folder and process.
    fn make_folder_of(&self, name: &BlobName) -> Result<(), BlobError> {
        let known = self.known.get(usize::from(name.folder()));
        if known.is_some_and(|known| known.load(Ordering::Acquire)) {
            return Ok(());
        }
        files::make_one_folder(&self.folder_of(name))?;
        files::sync(&self.path)?;
        if let Some(known) = known {
            known.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn sync_folder_of(&self, name: &BlobName) -> Result<(), BlobError> {
        files::sync(&self.folder_of(name))
    }
}

fn folder_name(number: u8) -> String {
    format!("{number:02x}")
}

/// The error of an operation for which a missing file means a missing blob.
fn missing_or(action: &str, path: &Path, error: io::Error) -> BlobError {
    if error.kind() == io::ErrorKind::NotFound { BlobError::NotFound } else { BlobError::io(action, path, error) }
}

/// The state of a listing.
struct FolderListing {
    path: PathBuf,
    /// The folders that were not opened yet.
    folders: VecDeque<u8>,
    open: Option<(u8, ReadDir)>,
}

impl FolderListing {
    /// Reads the next names. A batch can be empty. `None`: all folders are read.
    fn next_batch(mut self) -> Result<Option<(Vec<Listed>, Self)>, BlobError> {
        let Some((number, mut entries)) = self.open.take() else {
            return self.open_next_folder();
        };
        let folder = self.path.join(folder_name(number));
        let mut batch = Vec::new();
        for _ in 0..NAMES_PER_BATCH {
            let Some(entry) = entries.next() else { return Ok(Some((batch, self))) };
            let entry = entry.map_err(|error| BlobError::io("list", &folder, error))?;
            match listed(number, &entry) {
                Ok(Some(listed)) => batch.push(listed),
                Ok(None) => {}
                // The blob was deleted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(BlobError::io("read the size of", &entry.path(), error)),
            }
        }
        self.open = Some((number, entries));
        Ok(Some((batch, self)))
    }

    fn open_next_folder(mut self) -> Result<Option<(Vec<Listed>, Self)>, BlobError> {
        let Some(number) = self.folders.pop_front() else { return Ok(None) };
        let folder = self.path.join(folder_name(number));
        match std::fs::read_dir(&folder) {
            Ok(entries) => self.open = Some((number, entries)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(BlobError::io("list", &folder, error)),
        }
        Ok(Some((Vec::new(), self)))
    }
}

/// One entry of the folder with this number. `None`: it is not a blob.
fn listed(number: u8, entry: &DirEntry) -> io::Result<Option<Listed>> {
    let file_name = entry.file_name();
    let path = file_name.to_str().map(|name| format!("{}/{name}", folder_name(number)));
    let Some(name) = path.as_deref().and_then(name_of_path) else { return Ok(None) };
    let metadata = entry.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    // A rename changes only the time of the inode. An upload can be older than the time at which it was stored.
    let renamed_at = u64::try_from(metadata.ctime()).map(Duration::from_secs).unwrap_or_default();
    let modified_at = metadata.modified()?.max(SystemTime::UNIX_EPOCH + renamed_at);
    Ok(Some(Listed { name, size_bytes: metadata.len(), modified_at }))
}
