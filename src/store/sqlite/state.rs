//! The state file beside the database (`posthaste.db-state`). It records which data must be present.
//!
//! The file is written after each commit but not synced. After a crash of the process it covers every acknowledged commit.
//! After a crash of the machine it may lack the last ones. So it records the minimum of what must be present.
//!
//! Invariant: a commit is recorded here before it is acknowledged. The file exists from the first start on, so that an empty
//! folder can be distinguished from a folder whose database is gone.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::wal::Salts;
use crate::store::driver::files::with_suffix;

const HEAD: &str = "posthaste-state 1\n";
/// `wal `, the salts of the write-ahead log in hexadecimal and the number of its frames. The line has a fixed length,
/// because it is overwritten in place.
const MARK_AT: u64 = HEAD.len() as u64;
const MARK_BYTES: u64 = 4 + 16 + 1 + 12 + 1;
const SYNCED_AT: u64 = MARK_AT + MARK_BYTES;
/// `synced yes` or `synced no `.
const SYNCED_BYTES: u64 = 11;
/// `files `, then the identities of the database's file and of the write-ahead log in hexadecimal.
const FILES_AT: u64 = SYNCED_AT + SYNCED_BYTES;
const LENGTH_BYTES: u64 = FILES_AT + 6 + 16 + 1 + 16 + 1;

/// The length of the write-ahead log at the last recorded commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Identifies the run of the write-ahead log.
    pub salts: Salts,
    /// The number of frames in the write-ahead log. 0 when all of them are in the database's file.
    pub frames: u64,
}

/// The identities of files that were in use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identities {
    /// The identity of the database's file.
    pub database: u64,
    /// The identity of the write-ahead log.
    pub log: u64,
}

/// Distinguishes a file from all other files that had its name: its inode, combined with its creation time where the file
/// system records one, because inodes are reused.
pub fn identity(file: &Metadata) -> u64 {
    let made = file.created().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    // The cast keeps the low bits of the time, in which two times differ most.
    file.ino() ^ made.map_or(0, |made| made.as_nanos() as u64)
}

/// The contents of the state file.
#[derive(Clone, Copy, Debug)]
pub struct Contents {
    /// `None` when the line cannot be read.
    pub mark: Option<Mark>,
    /// Whether a sync failed. If so, WAL frames that are recorded as copied may not be in the database's file.
    pub sync_failed: bool,
    /// `None` when the line cannot be read.
    pub files: Option<Identities>,
    /// When the file was last written.
    pub written_at: SystemTime,
}

/// The open state file.
#[derive(Debug)]
pub struct StateFile(File);

/// The path of the state file of a database.
pub fn path_of(database: &Path) -> PathBuf {
    with_suffix(database, "-state")
}

/// Reads the state file of a database. `None` when there is none.
///
/// # Errors
/// When the file cannot be read.
pub fn read(database: &Path) -> io::Result<Option<Contents>> {
    let path = path_of(database);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        // The text up to the first damaged byte.
        read => read?.utf8_chunks().next().map_or_else(String::new, |chunk| chunk.valid().to_owned()),
    };
    let mut lines = text.lines().skip(1);
    let mark = lines.next().and_then(parse);
    let sync_failed = lines.next().is_some_and(|line| line.starts_with("synced no"));
    let files = lines.next().and_then(parse_files);
    Ok(Some(Contents { mark, sync_failed, files, written_at: path.metadata()?.modified()? }))
}

fn parse(line: &str) -> Option<Mark> {
    let (salts, frames) = line.strip_prefix("wal ")?.split_once(' ')?;
    Some(Mark { salts: u64::from_str_radix(salts, 16).ok()?.to_be_bytes(), frames: frames.trim().parse().ok()? })
}

fn parse_files(line: &str) -> Option<Identities> {
    let (database, log) = line.strip_prefix("files ")?.split_once(' ')?;
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(Identities { database: number(database)?, log: number(log)? })
}

impl StateFile {
    /// Opens the state file of a database, and creates it if it is missing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(database: &Path) -> io::Result<Self> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
        let file = options.open(path_of(database))?;
        let state = Self(file);
        // A complete file is not written again, because its modification time must stay the time of the last mark.
        if state.0.metadata()?.len() < LENGTH_BYTES {
            state.0.write_all_at(HEAD.as_bytes(), 0)?;
            state.mark(Mark { salts: Salts::default(), frames: 0 })?;
            state.set_sync_failed(false)?;
            state.set_files(Identities::default())?;
        }
        Ok(state)
    }

    /// Records the length of the write-ahead log.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn mark(&self, mark: Mark) -> io::Result<()> {
        let line = format!("wal {:016x} {:>12}\n", u64::from_be_bytes(mark.salts), mark.frames);
        self.0.write_all_at(line.as_bytes(), MARK_AT)
    }

    /// Records whether a sync failed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_sync_failed(&self, failed: bool) -> io::Result<()> {
        self.0.write_all_at(if failed { b"synced no \n" } else { b"synced yes\n" }, SYNCED_AT)
    }

    /// Records that the whole write-ahead log was copied and synced after a failed sync.
    ///
    /// # Errors
    /// When the file cannot be written or synced.
    pub fn set_all_copied(&self) -> io::Result<()> {
        self.mark(Mark { salts: Salts::default(), frames: 0 })?;
        self.set_sync_failed(false)?;
        self.sync()
    }

    /// Records which files are in use together.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_files(&self, files: Identities) -> io::Result<()> {
        let line = format!("files {:016x} {:016x}\n", files.database, files.log);
        self.0.write_all_at(line.as_bytes(), FILES_AT)
    }

    /// Syncs the file to disk.
    ///
    /// # Errors
    /// When the sync fails.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_contents_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("db");
        assert!(read(&database).unwrap().is_none());
        let state = StateFile::open(&database).unwrap();
        let contents = read(&database).unwrap().unwrap();
        assert_eq!((contents.mark, contents.sync_failed), (Some(Mark { salts: [0; 8], frames: 0 }), false));
        let mark = Mark { salts: [0xfe, 2, 3, 4, 5, 6, 7, 8], frames: 123_456 };
        state.mark(mark).unwrap();
        state.set_sync_failed(true).unwrap();
        let contents = read(&database).unwrap().unwrap();
        assert_eq!((contents.mark, contents.sync_failed), (Some(mark), true));
        assert_eq!(contents.files, Some(Identities::default()));
        let files = Identities { database: 7, log: u64::MAX };
        state.set_files(files).unwrap();
        assert_eq!(read(&database).unwrap().unwrap().files, Some(files));
        // Opening the file again does not change it.
        StateFile::open(&database).unwrap().set_sync_failed(false).unwrap();
        let contents = read(&database).unwrap().unwrap();
        assert_eq!((contents.mark, contents.sync_failed), (Some(mark), false));
        std::fs::write(path_of(&database), "posthaste-state 1\nnonsense\n").unwrap();
        assert_eq!(read(&database).unwrap().unwrap().mark, None);
    }
}
