//! The digest that ends a backup's file.
//!
//! A backup is a SQLite database with one line behind its last page: SQLite reads as many pages as the file's header says, and
//! ignores what comes after them. The line holds the SHA-256 of everything before it. That it must be there is marked in the
//! file's header (`PRAGMA application_id`), so that a file that lost its line is not taken for one of the versions that wrote
//! none.
//!
//! Invariant: a change of any bit, and any cut, of a file that [`append`] finished is found by [`check`].

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::progress::{Progress, Report};
use crate::base::error::{Error, Result};
use crate::base::ids::hex;
use crate::store::driver::files::sync_file;

/// The mark in the header: the bytes of "PHBK".
pub const APPLICATION_ID: i32 = 0x5048_424b;
/// Where SQLite keeps it in the file, big-endian.
const APPLICATION_ID_OFFSET: usize = 68;
const HEADER_BYTES: usize = 100;
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";
/// How the line begins; 64 hexadecimal digits and a line feed follow.
const LINE_START: &str = "\nposthaste backup, sha256 ";
/// Shorter than a page, or SQLite would count it as one.
const LINE_BYTES: usize = LINE_START.len() + 64 + 1;
/// Read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// What [`check`] found in a file that is not damaged, as far as it can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The digest over this many bytes matches.
    Matches {
        /// Bytes before the line.
        bytes: u64,
    },
    /// There is no digest: the file was written by a version that had none, or is no backup.
    NoDigest,
}

/// Ends a file with its digest. What is covered is read back from the file, which must have its mark already.
///
/// # Errors
/// When the file cannot be read or written.
pub fn append(file: &Path, report: Report<'_>) -> Result<()> {
    let mut open = File::options().read(true).write(true).open(file).map_err(|error| failed(file, &error))?;
    let length = open.metadata().map_err(|error| failed(file, &error))?.len();
    let line = line(&mut open, length, report).map_err(|error| failed(file, &error))?;
    open.seek(SeekFrom::Start(length)).and_then(|_| open.write_all(&line)).map_err(|error| failed(file, &error))
}

/// Compares a file with the digest that ends it.
///
/// # Errors
/// [`Error::Internal`] with a sentence for the operator when the file is no SQLite database, was changed or cut short since
/// its backup was made; [`Error::Unavailable`] when it cannot be read.
pub fn check(file: &Path, report: Report<'_>) -> Result<Found> {
    let io = |error: std::io::Error| failed(file, &error);
    let mut open = File::open(file).map_err(io)?;
    let length = open.metadata().map_err(io)?.len();
    let mut header = Vec::with_capacity(HEADER_BYTES);
    (&mut open).take(HEADER_BYTES as u64).read_to_end(&mut header).map_err(io)?;
    let content_length = length.saturating_sub(LINE_BYTES as u64);
    let mut end = Vec::with_capacity(LINE_BYTES);
    open.seek(SeekFrom::Start(content_length)).and_then(|_| open.read_to_end(&mut end)).map_err(io)?;
    if end.starts_with(LINE_START.as_bytes()) {
        open.seek(SeekFrom::Start(0)).map_err(io)?;
        if end != line(&mut open, content_length, report).map_err(io)? {
            return Err(unusable(file, "its content does not match the digest at its end: it was damaged or changed"));
        }
        return Ok(Found::Matches { bytes: content_length });
    }
    if !header.starts_with(SQLITE_MAGIC) || header.len() < HEADER_BYTES {
        let what = if length == 0 { "it is empty" } else { "it does not begin as a SQLite database does" };
        return Err(unusable(file, what));
    }
    if header[APPLICATION_ID_OFFSET..].starts_with(&APPLICATION_ID.to_be_bytes()) {
        return Err(unusable(file, "the digest that must end it is not there: it was cut short, damaged or changed"));
    }
    Ok(Found::NoDigest)
}

/// Ends a marked copy with its digest, and syncs it. A damaged database is kept as it is, so its structure is not checked.
pub fn seal(copy: &Path, report: Report<'_>) -> Result<()> {
    // Before the content is read back for the digest, and once more with it.
    sync_file(copy)?;
    append(copy, report)?;
    sync_file(copy)
}

/// That a file is no backup that can be used, with the reason.
pub fn unusable(file: &Path, reason: impl std::fmt::Display) -> Error {
    Error::internal(format!("{} cannot be used as a backup: {reason}", file.display()))
}

/// The line for the next `length` bytes of a file.
fn line(open: &mut File, length: u64, report: Report<'_>) -> std::io::Result<Vec<u8>> {
    open.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done = 0;
    while done < length {
        let wanted = usize::try_from(length - done).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        open.read_exact(&mut chunk[..wanted])?;
        hash.update(&chunk[..wanted]);
        done += wanted as u64;
        report(Progress { step: "computing the digest", done, total: length });
    }
    Ok(format!("{LINE_START}{}\n", hex(&hash.finalize())).into_bytes())
}

fn failed(file: &Path, error: &std::io::Error) -> Error {
    Error::unavailable(format!("{} cannot be read or written: {error}", file.display()))
}
