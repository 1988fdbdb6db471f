//! Files beside the databases: their names, and bringing them to the disk.
//!
//! Invariant: a sync that fails is an error of its own, with the file's name. SQLite ignores one of a folder, so folders are
//! synced here.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::error::{Error, Result};
use crate::base::time::Timestamp;

/// A file beside another one: its name and a suffix.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The folder of a file.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Brings a file's content to the disk.
///
/// # Errors
/// [`Error::Unavailable`] with its name.
pub fn sync_file(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| sync_error(path, &error))
}

/// Brings the name of a file to the disk, which its folder holds.
///
/// # Errors
/// [`Error::Unavailable`] with the folder's name.
pub fn sync_folder_of(path: &Path) -> Result<()> {
    sync_file(folder_of(path))
}

/// Makes a folder that only its owner can read, with those above it, and brings their names to the disk.
///
/// # Errors
/// [`Error::Unavailable`].
pub fn make_folder(folder: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(Error::unavailable)?;
    missing.into_iter().rev().try_for_each(sync_folder_of)
}

/// A failed sync as an error.
pub fn sync_error(path: &Path, error: &io::Error) -> Error {
    Error::unavailable(format!("{} could not be synced to disk: {error}", path.display()))
}

/// A time as it stands in the name of a file, to the second: `20260131235959`.
pub fn stamp(now: Timestamp) -> String {
    now.to_string().chars().filter(char::is_ascii_digit).take(14).collect()
}
