//! Comparing the rows of blobs with the bytes that are stored.
//!
//! Invariant: the comparison changes nothing, and holds at most one batch of rows or names in memory, besides the names that it
//! returns.

use std::collections::HashSet;

use futures_util::StreamExt;
use sha2::{Digest, Sha256};

use super::files::{blob_error, blob_name};
use crate::base::error::{Error, Result};
use crate::base::ids::BlobId;
use crate::base::time::Timestamp;
use crate::blobs::{BlobError, BlobName, Blobs, Listed};
use crate::store;
use crate::store::db::progress::{Progress, Report};
use crate::store::db::{Conn, Db};
use crate::store::files::blobs::Blob;
pub use crate::store::files::blobs::Totals;

/// Rows and names that are compared in one read.
const ROWS_PER_BATCH: i64 = 1_000;
/// Maximum number of blobs that are checked at the same time. Each check is at least one request to S3.
const BLOBS_AT_A_TIME: usize = 8;
/// The maximum number of blobs that are named in a result. Further ones are only counted.
const NAMED_LIMIT: usize = 5;

/// The rows of blobs: those of a server's database, or those of a copy.
pub enum Rows<'a> {
    /// The database of a server.
    Db(&'a Db),
    /// A copy that no other process changes.
    Copy(&'a mut Conn),
}

impl Rows<'_> {
    /// The next blobs after an id whose bytes should exist.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn after(&mut self, id: BlobId) -> Result<Vec<Blob>> {
        match self {
            Self::Db(db) => {
                db.read(id, |conn, id| Box::pin(store::files::blobs::list_stored(conn, *id, ROWS_PER_BATCH))).await
            }
            Self::Copy(conn) => store::files::blobs::list_stored(conn, id, ROWS_PER_BATCH).await,
        }
    }

    /// The numbers of blobs.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn totals(&mut self) -> Result<Totals> {
        match self {
            Self::Db(db) => db.read_without_limit((), |conn, ()| Box::pin(store::files::blobs::totals(conn))).await,
            Self::Copy(conn) => store::files::blobs::totals(conn).await,
        }
    }
}

/// What is wrong with the bytes of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There are no bytes.
    Missing,
    /// The bytes are not those that were stored.
    Damaged,
}

/// The blobs whose bytes are wrong.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Blobs without bytes.
    pub missing: Vec<Blob>,
    /// Blobs with other bytes than those that were stored.
    pub damaged: Vec<Blob>,
}

impl Faults {
    /// Adds a blob.
    pub fn add(&mut self, blob: Blob, fault: Fault) {
        match fault {
            Fault::Missing => self.missing.push(blob),
            Fault::Damaged => self.damaged.push(blob),
        }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.damaged.is_empty()
    }

    /// The ids of all.
    pub fn ids(&self) -> Vec<i64> {
        self.missing.iter().chain(&self.damaged).map(|blob| blob.id.0).collect()
    }

    /// The names of the first ones.
    pub fn first_names(&self) -> String {
        let mut all = self.missing.iter().chain(&self.damaged);
        let mut text =
            all.by_ref().take(NAMED_LIMIT).map(|blob| blob_name(blob).to_string()).collect::<Vec<_>>().join(", ");
        if all.next().is_some() {
            text.push_str(", …");
        }
        text
    }
}

/// Checks that the bytes of every blob exist and have the right size; with `deep` also their SHA-256.
///
/// # Errors
/// Errors of the database and of the store of bytes.
pub async fn check(mut rows: Rows<'_>, blobs: &Blobs, deep: bool, report: Report<'_>) -> Result<Faults> {
    let total = rows.totals().await?.stored_size_bytes.unsigned_abs();
    let (mut done, mut faults, mut last) = (0, Faults::default(), BlobId(i64::MIN));
    loop {
        let batch = rows.after(last).await?;
        let Some(end) = batch.last() else { return Ok(faults) };
        last = next_id(last, end.id)?;
        let mut checks = futures_util::stream::iter(batch)
            .map(|blob| async move { (blob, look_at(blobs, &blob, deep).await) })
            .buffer_unordered(BLOBS_AT_A_TIME);
        while let Some((blob, found)) = checks.next().await {
            if let Some(fault) = found? {
                faults.add(blob, fault);
            }
            done += blob.size_bytes.unsigned_abs();
            report(Progress { step: "checking files", done, total });
        }
    }
}

/// Checks that the last id of a batch is greater than that of the previous batch, and returns it. Without this check, a damaged index
/// could return the same rows again without end.
pub fn next_id(before: BlobId, last: BlobId) -> Result<BlobId> {
    if last > before { Ok(last) } else { Err(Error::internal("the rows of files are not in key order")) }
}

/// What is wrong with the bytes of a blob, if anything is.
async fn look_at(blobs: &Blobs, blob: &Blob, deep: bool) -> Result<Option<Fault>> {
    let name = blob_name(blob);
    let size_bytes = match blobs.size(&name).await {
        Ok(size_bytes) => size_bytes,
        Err(BlobError::NotFound) => return Ok(Some(Fault::Missing)),
        Err(error) => return Err(blob_error(error)),
    };
    if size_bytes != blob.size_bytes.unsigned_abs() {
        return Ok(Some(Fault::Damaged));
    }
    if !deep {
        return Ok(None);
    }
    let mut bytes = match blobs.read(&name, 0..size_bytes).await {
        Ok(bytes) => bytes,
        Err(BlobError::NotFound) => return Ok(Some(Fault::Missing)),
        Err(error) => return unreadable(error),
    };
    let mut hash = Sha256::new();
    while let Some(piece) = bytes.next().await {
        match piece {
            Ok(piece) => hash.update(&piece),
            Err(error) => return unreadable(error),
        }
    }
    Ok((<[u8; 32]>::from(hash.finalize()) != blob.sha256).then_some(Fault::Damaged))
}

/// Bytes that cannot be read are damaged, unless the store of bytes does not answer.
pub fn unreadable(error: BlobError) -> Result<Option<Fault>> {
    match error {
        BlobError::Other(_) => Ok(Some(Fault::Damaged)),
        error => Err(blob_error(error)),
    }
}

/// Stored objects without a row.
#[derive(Clone, Debug, Default)]
pub struct Orphans {
    /// All objects that were listed.
    pub listed: u64,
    /// Objects without a row that are old enough.
    pub count: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// The first of them.
    pub first: Vec<Blob>,
}

/// Finds the stored objects that were stored before a time and that have no row. Returns at most `limit` of them.
///
/// # Errors
/// Errors of the database and of the store of bytes.
pub async fn find_orphans(db: &Db, blobs: &Blobs, before: Timestamp, limit: usize) -> Result<Orphans> {
    let mut orphans = Orphans::default();
    let mut listing = blobs.list().chunks(usize::try_from(ROWS_PER_BATCH).unwrap_or(1));
    while let Some(batch) = listing.next().await {
        let batch = batch.into_iter().collect::<Result<Vec<Listed>, BlobError>>().map_err(blob_error)?;
        orphans.listed += batch.len() as u64;
        let old: Vec<Blob> = batch.iter().filter(|listed| stored_at(listed) < before).map(blob_of).collect();
        for orphan in without_row(db, old).await? {
            orphans.count += 1;
            orphans.size_bytes += orphan.size_bytes.unsigned_abs();
            if orphans.first.len() < limit {
                orphans.first.push(orphan);
            }
        }
    }
    Ok(orphans)
}

/// The objects among `objects` that have no row.
///
/// # Errors
/// Errors of the database.
pub async fn without_row(db: &Db, objects: Vec<Blob>) -> Result<Vec<Blob>> {
    if objects.is_empty() {
        return Ok(objects);
    }
    let ids: Vec<i64> = objects.iter().map(|blob| blob.id.0).collect();
    let known = db.read(ids, |conn, ids| Box::pin(store::files::blobs::existing(conn, ids))).await?;
    // The id alone is not enough: after a restore, PostgreSQL can assign an id again.
    let known: HashSet<BlobName> = known.iter().map(blob_name).collect();
    Ok(objects.into_iter().filter(|blob| !known.contains(&blob_name(blob))).collect())
}

fn blob_of(listed: &Listed) -> Blob {
    Blob {
        id: BlobId(listed.name.id()),
        sha256: *listed.name.sha256(),
        size_bytes: i64::try_from(listed.size_bytes).unwrap_or(i64::MAX),
    }
}

fn stored_at(listed: &Listed) -> Timestamp {
    let since_1970 = listed.modified_at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX))
}
