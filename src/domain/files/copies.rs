//! The bytes of files in a backup: the folder `FILE.files` beside the file of the database. It has the form of the folder in which
//! a server stores files.
//!
//! Invariants:
//! - The SHA-256 of each file is computed while it is copied. A file with a wrong SHA-256 is not stored in the target.
//! - A backup with files contains the bytes of every blob that is `stored` in its copy of the database. A blob that was `stored` on the
//!   server and whose bytes were not copied is `lost` in the copy.
//! - A restore writes bytes before the rows that refer to them, and deletes nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;

use super::files::{blob_error, blob_name, open_blobs};
use super::inventory::{self, Fault, Faults, Rows, Totals, next_id, unreadable};
use crate::base::error::{Error, Result};
use crate::base::ids::BlobId;
use crate::blobs::{BlobError, Blobs, Location, SpoolFile};
use crate::store;
use crate::store::db::copy::{self, PartialBackup};
use crate::store::db::progress::{Progress, Report};
use crate::store::db::{Conn, Db};
use crate::store::driver::files::{sync_file, sync_folder_of, with_suffix};
use crate::store::files::blobs::Blob;

/// Files that are copied at the same time.
const FILES_AT_A_TIME: usize = 4;
/// The folder inside the folder of a backup for files that are not complete yet. A finished backup does not have it.
const UNFINISHED: &str = ".unfinished";
/// Ids in one statement.
const IDS_PER_BATCH: usize = 1_000;

/// The folder with the files of a backup.
pub fn folder_of(backup: &Path) -> PathBuf {
    with_suffix(backup, ".files")
}

/// Whether a backup has a folder with its files.
pub fn has_folder(backup: &Path) -> bool {
    folder_of(backup).is_dir()
}

/// The numbers of files in a copy of a database. A copy of an earlier version has none.
///
/// # Errors
/// Errors of the database.
pub async fn totals(conn: &mut Conn) -> Result<Totals> {
    if copy::holds_files(conn).await? { Rows::Copy(conn).totals().await } else { Ok(Totals::default()) }
}

/// The result of [`back_up`].
#[derive(Debug, Default)]
pub struct BackedUp {
    /// Files in the backup.
    pub files: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// Files that were deleted while the backup was made.
    pub deleted_meanwhile: u64,
    /// Files whose bytes the server has lost. The backup does not have them either.
    pub lost: Faults,
}

/// Copies the files that a copy of the database refers to into a folder beside it. A file that is deleted meanwhile, or whose bytes
/// are lost, is marked as lost in the copy. If bytes are lost and `skip_lost` is false, the result is an error.
///
/// The folder has its final name when this returns.
///
/// # Errors
/// Errors of the database and of the store of bytes; a folder that exists already.
pub async fn back_up(
    backup: &PartialBackup,
    live: &Db,
    source: &Blobs,
    skip_lost: bool,
    report: Report<'_>,
) -> Result<BackedUp> {
    let folder = folder_of(backup.file());
    if folder.exists() {
        return Err(Error::internal(format!("{} exists already; choose a new file", folder.display())));
    }
    let partial = with_suffix(&folder, ".partial");
    remove_folder(&partial)?;
    let copied = copy_and_mark(backup, live, source, &partial, skip_lost, report).await;
    let finished = copied.and_then(|copied| {
        remove_folder(&partial.join(UNFINISHED))?;
        sync_file(&partial)?;
        std::fs::rename(&partial, &folder).map_err(Error::unavailable)?;
        sync_folder_of(&folder).inspect_err(|_| drop(std::fs::remove_dir_all(&folder)))?;
        Ok(copied)
    });
    if finished.is_err() {
        remove_folder(&partial)?;
    }
    finished
}

/// Removes the folder with the files of a backup that was not finished.
///
/// # Errors
/// [`Error::Unavailable`].
pub fn discard(backup: &Path) -> Result<()> {
    remove_folder(&folder_of(backup))
}

async fn copy_and_mark(
    backup: &PartialBackup,
    live: &Db,
    source: &Blobs,
    partial: &Path,
    skip_lost: bool,
    report: Report<'_>,
) -> Result<BackedUp> {
    let target = open_blobs(&Location::Folder(partial.to_owned()), &partial.join(UNFINISHED)).await?;
    let mut rows = backup.open()?;
    let (files, size_bytes, faults) = copy_all(&mut rows, source, &target, report).await?;
    // A blob that is no longer `stored` in the live database was deleted during the backup, so it is not lost.
    let expected = still_stored(live, &faults.ids()).await?;
    let mut lost = Faults::default();
    for (blobs, fault) in [(&faults.missing, Fault::Missing), (&faults.damaged, Fault::Damaged)] {
        blobs.iter().filter(|blob| expected.contains(&blob.id.0)).for_each(|blob| lost.add(*blob, fault));
    }
    if !lost.is_empty() && !skip_lost {
        return Err(Error::internal(format!(
            "{} files are missing and {} are damaged ({}), so there is no backup; check --blob-url, and add --skip-lost-files for \
             a backup without them",
            lost.missing.len(),
            lost.damaged.len(),
            lost.first_names()
        )));
    }
    let all = faults.ids();
    store::files::blobs::mark_lost(&mut rows, &all).await?;
    let deleted_meanwhile = (all.len() - lost.missing.len() - lost.damaged.len()) as u64;
    Ok(BackedUp { files, size_bytes, deleted_meanwhile, lost })
}

/// The ids among `ids` whose blobs are still `stored` in the database of the server.
async fn still_stored(live: &Db, ids: &[i64]) -> Result<HashSet<i64>> {
    let mut stored = HashSet::new();
    for ids in ids.chunks(IDS_PER_BATCH) {
        let found = live.read(ids.to_vec(), |conn, ids| Box::pin(store::files::blobs::stored_among(conn, ids))).await?;
        stored.extend(found.iter().map(|blob| blob.id.0));
    }
    Ok(stored)
}

/// Copies the bytes of all blobs of a copy of a database. Returns how many files and bytes were copied, and the blobs that were not.
async fn copy_all(rows: &mut Conn, from: &Blobs, to: &Blobs, report: Report<'_>) -> Result<(u64, u64, Faults)> {
    let mut rows = Rows::Copy(rows);
    let total = rows.totals().await?.stored_size_bytes.unsigned_abs();
    let (mut files, mut size_bytes, mut seen_bytes) = (0, 0, 0);
    let (mut faults, mut last) = (Faults::default(), BlobId(i64::MIN));
    loop {
        let batch = rows.after(last).await?;
        let Some(end) = batch.last() else { return Ok((files, size_bytes, faults)) };
        last = next_id(last, end.id)?;
        let mut copies = futures_util::stream::iter(batch)
            .map(|blob| async move { (blob, copy_one(from, to, &blob).await) })
            .buffer_unordered(FILES_AT_A_TIME);
        while let Some((blob, copied)) = copies.next().await {
            match copied? {
                None => {
                    files += 1;
                    size_bytes += blob.size_bytes.unsigned_abs();
                }
                Some(fault) => faults.add(blob, fault),
            }
            seen_bytes += blob.size_bytes.unsigned_abs();
            report(Progress { step: "copying files", done: seen_bytes, total });
        }
    }
}

/// Copies the bytes of one blob, unless they are missing or damaged.
async fn copy_one(from: &Blobs, to: &Blobs, blob: &Blob) -> Result<Option<Fault>> {
    let name = blob_name(blob);
    let mut bytes = match from.read(&name, 0..blob.size_bytes.unsigned_abs()).await {
        Ok(bytes) => bytes,
        Err(BlobError::NotFound) => return Ok(Some(Fault::Missing)),
        Err(error) => return unreadable(error),
    };
    let mut file: SpoolFile = to.spool().await.map_err(blob_error)?;
    while let Some(piece) = bytes.next().await {
        match piece {
            Ok(piece) => file.write(piece).await.map_err(blob_error)?,
            Err(error) => return unreadable(error),
        }
    }
    let file = file.finish().await.map_err(blob_error)?;
    if file.sha256 != blob.sha256 {
        return Ok(Some(Fault::Damaged));
    }
    to.put(&name, &file.path).await.map_err(blob_error)?;
    Ok(None)
}

/// Opens the folder with the files of a backup, for reading.
///
/// # Errors
/// [`Error::Unavailable`]; a folder that does not exist.
pub async fn open_folder(backup: &Path) -> Result<Blobs> {
    let folder = folder_of(backup);
    if !folder.is_dir() {
        return Err(Error::internal(format!(
            "{} is missing, the folder with the files of this backup; put it beside the backup, or add --without-files",
            folder.display()
        )));
    }
    Blobs::open_to_read(&Location::Folder(folder)).await.map_err(blob_error)
}

/// Checks the files of a backup, with `deep` also their SHA-256.
///
/// # Errors
/// Errors of the database and of the folder.
pub async fn check(rows: &mut Conn, folder: &Blobs, deep: bool, report: Report<'_>) -> Result<Faults> {
    inventory::check(Rows::Copy(rows), folder, deep, report).await
}

/// Copies the files of a backup into the store of a server. Files that the store has already are replaced by equal ones.
///
/// # Errors
/// Errors of the database, of the folder and of the store of bytes; missing and damaged files.
pub async fn restore(rows: &mut Conn, folder: &Blobs, target: &Blobs, report: Report<'_>) -> Result<(u64, u64)> {
    let (files, size_bytes, faults) = copy_all(rows, folder, target, report).await?;
    if faults.is_empty() {
        return Ok((files, size_bytes));
    }
    Err(unusable(&faults))
}

/// The error for a backup whose files cannot be restored.
pub fn unusable(faults: &Faults) -> Error {
    Error::internal(format!(
        "{} files of the backup are missing and {} are damaged ({}), so nothing was restored; --without-files restores the database \
         alone",
        faults.missing.len(),
        faults.damaged.len(),
        faults.first_names()
    ))
}

/// Copies files again that a running server deleted after [`restore`] had copied them and before the rows were replaced. Call it after
/// the rows were replaced. Returns the number of files.
///
/// # Errors
/// Errors of the database, of the folder and of the store of bytes.
pub async fn repair(rows: &mut Conn, folder: &Blobs, target: &Blobs, report: Report<'_>) -> Result<u64> {
    let faults = inventory::check(Rows::Copy(rows), target, false, report).await?;
    let mut repaired = 0;
    for blob in faults.missing.iter().chain(&faults.damaged) {
        if copy_one(folder, target, blob).await?.is_none() {
            repaired += 1;
        }
    }
    Ok(repaired)
}

fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::unavailable(error)),
        _ => Ok(()),
    }
}
