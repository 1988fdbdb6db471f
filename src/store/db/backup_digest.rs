//! The digest at the end of a backup file.
//!
//! A backup is a SQLite database with one line of text after its last page. SQLite reads the number of pages that is stored
//! in the file's header, and ignores the bytes after them. The line holds the SHA-256 of everything before it. A mark in
//! the file's header (`PRAGMA application_id`) shows that the line must be present. Without the mark, a file that lost its
//! line would look like a backup of an older version, which wrote no line.
//!
//! Invariant: [`check`] finds any changed bit, and any truncation, of a file that [`append`] finished.

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
/// Where SQLite stores the mark in the file, big-endian.
const APPLICATION_ID_OFFSET: usize = 68;
const HEADER_BYTES: usize = 100;
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";
/// The start of the line. 64 hexadecimal digits and a line feed follow.
const LINE_START: &str = "\nposthaste backup, sha256 ";
/// The length of the line. It must be shorter than a page; otherwise SQLite would count the line as a page.
const LINE_BYTES: usize = LINE_START.len() + 64 + 1;
/// The number of bytes that are read in one call.
const CHUNK_BYTES: usize = 1 << 20;

/// The result of [`check`] for a file in which no damage was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The digest over this many bytes matches.
    Matches {
        /// Bytes before the line.
        bytes: u64,
    },
    /// There is no digest: the file was written by a version without digests, or it is not a backup.
    NoDigest,
}

/// Appends the digest to a file. The function reads the content back from the file, which must already have its mark.
///
/// # Errors
/// When the file cannot be read or written.
pub fn append(file: &Path, report: Report<'_>) -> Result<()> {
    let mut open = File::options().read(true).write(true).open(file).map_err(|error| failed(file, &error))?;
    let length = open.metadata().map_err(|error| failed(file, &error))?.len();
    let line = line(&mut open, length, report).map_err(|error| failed(file, &error))?;
    open.seek(SeekFrom::Start(length)).and_then(|_| open.write_all(&line)).map_err(|error| failed(file, &error))
}

/// Compares the content of a file with the digest at its end.
///
/// # Errors
/// [`Error::Internal`] with a sentence for the operator when the file is not a SQLite database, or was changed or truncated
/// after the backup was made; [`Error::Unavailable`] when it cannot be read.
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
            return Err(unusable(
                file,
                "its content does not match the digest at its end, so it was damaged or changed",
            ));
        }
        return Ok(Found::Matches { bytes: content_length });
    }
    if !header.starts_with(SQLITE_MAGIC) || header.len() < HEADER_BYTES {
        let what = if length == 0 { "it is empty" } else { "it does not begin as a SQLite database does" };
        return Err(unusable(file, what));
    }
    if header[APPLICATION_ID_OFFSET..].starts_with(&APPLICATION_ID.to_be_bytes()) {
        return Err(unusable(file, "the digest at its end is missing, so it was truncated, damaged or changed"));
    }
    Ok(Found::NoDigest)
}

/// Appends the digest to a copy that has its mark, and syncs the file. The structure of the copy is not checked, because
/// the copy of the old data that a restore keeps may be damaged.
pub fn append_digest_and_sync(copy: &Path, report: Report<'_>) -> Result<()> {
    // The pages must be on disk before the digest is computed from them. The second sync covers the line.
    sync_file(copy)?;
    append(copy, report)?;
    sync_file(copy)
}

/// The error for a file that cannot be used as a backup, with the reason.
pub fn unusable(file: &Path, reason: impl std::fmt::Display) -> Error {
    Error::internal(format!("{} cannot be used as a backup: {reason}", file.display()))
}

/// The line with the digest of the first `length` bytes of a file.
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
