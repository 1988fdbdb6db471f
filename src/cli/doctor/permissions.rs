//! The checks of `posthaste doctor` on the permissions of files and folders.

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Finding;
use crate::blobs::Location as Blobs;
use crate::config::DataConfig;
use crate::store::driver::environment::Location;
use crate::store::driver::files::{folder_of, with_suffix};

/// The permissions of all users but the owner.
const OTHERS: u32 = 0o077;

/// Checks the files of the database and the folders of files.
pub fn of_data(data: &DataConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Location::Sqlite(file) = &data.location {
        findings.extend(of_folder(folder_of(file)));
        findings.extend(files_of_database(file).iter().filter_map(|file| of_file(file)));
    }
    let mut folders = vec![data.data_dir.join("uploads")];
    if let Blobs::Folder(folder) = &data.blobs {
        folders.push(folder.clone());
    }
    findings.extend(folders.iter().filter_map(|folder| of_folder(folder)));
    findings
}

/// The database, the files that SQLite keeps beside it, and the data that restores have replaced.
fn files_of_database(file: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        ["", "-wal", "-shm", "-state"].iter().map(|suffix| with_suffix(file, suffix)).collect();
    let kept = with_suffix(file, ".before-restore-");
    let entries = std::fs::read_dir(folder_of(file)).into_iter().flatten().flatten().map(|entry| entry.path());
    files.extend(
        entries.filter(|path| path.as_os_str().as_encoded_bytes().starts_with(kept.as_os_str().as_encoded_bytes())),
    );
    files
}

/// Checks that only its owner can use a file. `None` if that is so, or if there is no such file.
pub fn of_file(file: &Path) -> Option<Finding> {
    check(file, "600", Metadata::is_file)
}

fn of_folder(folder: &Path) -> Option<Finding> {
    check(folder, "700", Metadata::is_dir)
}

fn check(path: &Path, wanted: &str, is_meant: fn(&Metadata) -> bool) -> Option<Finding> {
    let found = path.metadata().ok().filter(is_meant)?;
    let mode = found.permissions().mode() & 0o777;
    (mode & OTHERS != 0).then(|| {
        let path = path.display();
        Finding::Warning(format!(
            "other users of this machine may use {path} (mode {mode:03o}); to keep its content private, run chmod {wanted} {path}"
        ))
    })
}
