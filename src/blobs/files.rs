//! Functions over files and folders of the local disk. All of them block.
//!
//! Invariant: a failed sync is an error that names the file or folder.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::error::BlobError;

/// The permissions of folders: only the owner may use them.
const FOLDER_MODE: u32 = 0o700;

/// The folder that holds a file.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Syncs the content of a file, or the names in a folder, to disk.
pub(super) fn sync(path: &Path) -> Result<(), BlobError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| BlobError::io("sync", path, error))
}

/// Creates a folder and its missing parents, and syncs the folders that hold their names.
pub(super) fn make_folder(folder: &Path) -> Result<(), BlobError> {
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder)
        .map_err(|error| BlobError::io("create the folder", folder, error))?;
    missing.into_iter().rev().try_for_each(|path| sync(folder_of(path)))
}

/// Creates a folder whose parent exists. An existing folder is kept. The name is not synced.
pub(super) fn make_one_folder(folder: &Path) -> Result<(), BlobError> {
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(BlobError::io("create the folder", folder, error)),
    }
}

/// Runs blocking work on the threads that are meant for it. The work goes on if the caller stops waiting.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    tokio::task::spawn_blocking(work).await.map_err(BlobError::task)?
}
