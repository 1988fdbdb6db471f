//! The names of the files beside a database, and functions that sync files and folders to disk.
//!
//! Invariant: a failed sync is an error that names the file or folder. SQLite ignores a failed sync of a folder, so the
//! program syncs folders with the functions here.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::error::{Error, Result};
use crate::base::time::Timestamp;

/// The path of a file beside another one: the same path with a suffix.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The folder that holds a file.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Syncs the content of a file to disk.
///
/// # Errors
/// [`Error::Unavailable`], which names the file.
pub fn sync_file(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| sync_error(path, &error))
}

/// Syncs the folder that holds a file, so that the file's name is on disk.
///
/// # Errors
/// [`Error::Unavailable`], which names the folder.
pub fn sync_folder_of(path: &Path) -> Result<()> {
    sync_file(folder_of(path))
}

/// Creates a folder that only its owner can read, and its missing parents, and syncs the folders that hold their names.
///
/// # Errors
/// [`Error::Unavailable`].
pub fn make_folder(folder: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| Error::unavailable(format!("the folder {} cannot be created: {error}", folder.display())))?;
    missing.into_iter().rev().try_for_each(sync_folder_of)
}

/// Converts a failed sync into an error.
pub fn sync_error(path: &Path, error: &io::Error) -> Error {
    Error::unavailable(format!("{} could not be synced to disk: {error}", path.display()))
}

/// A time to the second, as it is written in file names: `20260131235959`.
pub fn stamp(now: Timestamp) -> String {
    now.to_string().chars().filter(char::is_ascii_digit).take(14).collect()
}
