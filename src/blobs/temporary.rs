//! Temporary files: a folder of files that are not finished.
//!
//! Invariant: dropping a [`TemporaryFile`] deletes the file. The file is locked until then, so the files that a killed process
//! leaves are recognized: [`TemporaryFolder::clean`] deletes them when they have not changed for a minute. A file that another process
//! writes is kept.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::error::BlobError;
use super::files;

/// The permissions of files: only the owner may use them.
const FILE_MODE: u32 = 0o600;
/// The end of the name of each temporary file. Other files in the folder are left alone.
const SUFFIX: &str = ".part";
/// How old a file without a lock is before it is deleted. The owner locks a file a moment after it creates it.
const UNLOCKED_FOR: Duration = Duration::from_secs(60);
/// How old a file is before it is deleted on a file system without locks.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// A folder of temporary files.
#[derive(Clone, Debug)]
pub(super) struct TemporaryFolder {
    path: Arc<Path>,
    /// A random number that no other process has. No name is used twice, also where several machines share the folder: an
    /// owner whose file was moved would otherwise delete a newer file of this name.
    owner: u64,
    /// The number of the next file.
    next: Arc<AtomicU64>,
}

impl TemporaryFolder {
    /// Opens the folder: creates it, checks that files can be written, and deletes what earlier processes left.
    pub(super) fn open(path: &Path) -> Result<Self, BlobError> {
        files::make_folder(path)?;
        let folder = Self::unopened(path)?;
        folder.clean()?;
        Ok(folder)
    }

    /// The folder without a check that it exists, for a storage that is only read.
    pub(super) fn unopened(path: &Path) -> Result<Self, BlobError> {
        Ok(Self { path: path.into(), owner: random_number()?, next: Arc::new(AtomicU64::new(0)) })
    }

    /// Checks that files can be written, and deletes what earlier processes left.
    pub(super) fn clean(&self) -> Result<(), BlobError> {
        let probe = self.create()?;
        (&*probe.file)
            .write_all(b"x")
            .and_then(|()| probe.file.sync_all())
            .map_err(|error| BlobError::io("write", &probe.path, error))?;
        // The time of a new file is the time of the file system, which also set the times of the other files.
        let now = probe
            .file
            .metadata()
            .and_then(|metadata| metadata.modified())
            .map_err(|error| BlobError::io("read the times of", &probe.path, error))?;
        self.delete_abandoned(now)
    }

    /// Creates an empty file with a lock.
    pub(super) fn create(&self) -> Result<TemporaryFile, BlobError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{:016x}-{number}{SUFFIX}", self.owner));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&path)
            .map_err(|error| BlobError::io("create", &path, error))?;
        if let Err(error) = file.try_lock() {
            tracing::debug!(path = %path.display(), %error, "no lock on a temporary file");
        }
        Ok(TemporaryFile { path, file: Arc::new(file), owns_name: true })
    }

    fn delete_abandoned(&self, now: SystemTime) -> Result<(), BlobError> {
        let entries = std::fs::read_dir(&self.path).map_err(|error| BlobError::io("list", &self.path, error))?;
        let mut deleted = 0_u64;
        for entry in entries {
            let entry = entry.map_err(|error| BlobError::io("list", &self.path, error))?;
            let path = entry.path();
            let name = entry.file_name();
            // Another process that starts now may delete the same files.
            let Ok(metadata) = entry.metadata() else { continue };
            if !name.as_encoded_bytes().ends_with(SUFFIX.as_bytes()) || !metadata.is_file() {
                continue;
            }
            if is_abandoned(&path, &metadata, now) && std::fs::remove_file(&path).is_ok() {
                deleted += 1;
            }
        }
        if deleted > 0 {
            tracing::info!(folder = %self.path.display(), deleted, "deleted unfinished files of an earlier process");
        }
        Ok(())
    }
}

fn random_number() -> Result<u64, BlobError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| BlobError::other("the system gave no random bytes"))?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Whether no process writes this file any more.
fn is_abandoned(path: &Path, metadata: &Metadata, now: SystemTime) -> bool {
    let age = metadata.modified().ok().and_then(|modified| now.duration_since(modified).ok()).unwrap_or_default();
    if age < UNLOCKED_FOR {
        return false;
    }
    let Ok(file) = File::open(path) else { return age >= ABANDONED_AFTER };
    match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => age >= ABANDONED_AFTER,
    }
}

/// A temporary file. Dropping it deletes the file, unless it was renamed.
#[derive(Debug)]
pub(super) struct TemporaryFile {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    owns_name: bool,
}

impl TemporaryFile {
    /// Gives the file its final name, and replaces a file that has this name. Neither the file nor the name is synced.
    pub(super) fn rename(&mut self, to: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, to)?;
        self.owns_name = false;
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.owns_name {
            return;
        }
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "could not delete a temporary file");
            }
            _ => {}
        }
        // Closing the last handle frees the blocks of the file, which takes long for a large one.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let file = Arc::clone(&self.file);
            runtime.spawn_blocking(move || drop(file));
        }
    }
}
