//! Files and folders that are synced to disk before they are reported as written.
//!
//! Invariant: a sync that fails is an error. SQLite ignores a failed sync of a folder, so a file whose name must survive a
//! power cut is synced here.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::error::{Error, Result};

/// Waits until a file's content is on disk.
///
/// # Errors
/// [`Error::Unavailable`] with a sentence for the operator.
pub fn sync_file(file: &Path) -> Result<()> {
    File::open(file).and_then(|open| open.sync_all()).map_err(|error| not_synced(file, &error))
}

/// Waits until the names in a file's folder are on disk.
///
/// # Errors
/// As [`sync_file`].
pub fn sync_folder_of(file: &Path) -> Result<()> {
    sync_file(folder_of(file))
}

/// Makes a folder, and those above it that are missing, for their owner alone.
///
/// # Errors
/// As [`sync_file`], and when it cannot be made.
pub fn make_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    make_folder(folder_of(folder))?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::unavailable(format!("{} cannot be made: {error}", folder.display())))
        }
        _ => sync_folder_of(folder),
    }
}

/// The folder that holds a file.
pub fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn not_synced(file: &Path, error: &std::io::Error) -> Error {
    Error::unavailable(format!("{} could not be synced to disk: {error}", file.display()))
}
