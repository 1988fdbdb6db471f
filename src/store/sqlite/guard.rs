//! Checks that run on each commit before it is acknowledged, and once a second while no checkpoint is requested.
//!
//! Invariants: no file that SQLite has open was removed or replaced, so the next start opens the same files. After a failed
//! sync no later sync counts: the data of the failed sync may be lost, even if a later sync succeeds (Linux marks the pages
//! of a failed sync as clean; see "Can Applications Recover from fsync Failures?", Rebello et al., 2020).

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::driver::is_failed_sync;
use super::state::{self, Identities, Mark, StateFile};
use super::wal;
use crate::base::error::{Error, Result};
use crate::store::driver::fatal::FatalFault;
use crate::store::driver::files::{sync_error, sync_folder_of, with_suffix};

/// The device and the inode of a file. They identify the file among the files that exist now.
type FileKey = (u64, u64);

/// Guards the files of an open database.
pub struct FileGuard {
    database: PathBuf,
    files: Vec<(PathBuf, FileKey)>,
    /// The write-ahead log.
    log: File,
    state: StateFile,
    fatal: FatalFault,
}

impl FileGuard {
    /// Records the identities of the files of a database that was just opened, and syncs their names to disk.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when a file cannot be read, or when the state file or the folder cannot be written or synced.
    pub fn new(database: &Path, fatal: FatalFault) -> Result<Self> {
        let state_path = state::path_of(database);
        let unwritable = |error| unavailable(&state_path, "written", &error);
        let files = ["", "-wal", "-shm"].map(|suffix| with_suffix(database, suffix));
        let files = files.into_iter().map(|path| file_key(&path).map(|key| (path, key)));
        let files: Vec<_> = files.collect::<std::io::Result<_>>().map_err(Error::unavailable)?;
        let log = File::open(with_suffix(database, "-wal")).map_err(Error::unavailable)?;
        let state = StateFile::open(database).map_err(unwritable)?;
        let identities = Identities { database: identity(database)?, log: identity(&with_suffix(database, "-wal"))? };
        state.set_files(identities).map_err(unwritable)?;
        state.sync().map_err(|error| sync_error(&state_path, &error))?;
        sync_folder_of(database)?;
        Ok(Self { database: database.to_owned(), files, log, state, fatal })
    }

    /// Records in the state file how many WAL frames the write-ahead log has after a commit.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the write-ahead log cannot be read or the state file cannot be written.
    pub fn mark(&self, frames: u64) -> Result<()> {
        let mark = match wal::salts(&self.log) {
            Ok(salts) => Mark { salts, frames },
            // The write-ahead log was truncated after the commit, so all of it is in the database's file.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Mark { salts: [0; 8], frames: 0 },
            Err(error) => return Err(Error::unavailable(error)),
        };
        self.state.mark(mark).map_err(Error::unavailable)
    }

    /// Records in the state file that the whole write-ahead log is in the database's file.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the state file cannot be written.
    pub fn mark_copied(&self) -> Result<()> {
        // A truncated write-ahead log has no header, so its salts cannot be read.
        let salts = wal::salts(&self.log).unwrap_or_default();
        self.state.mark(Mark { salts, frames: 0 }).map_err(Error::unavailable)
    }

    /// Syncs the write-ahead log to disk.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when that fails. The failure is declared as a fatal fault.
    pub fn sync_log(&self) -> Result<()> {
        self.log.sync_data().map_err(|error| {
            let error = sync_error(&with_suffix(&self.database, "-wal"), &error);
            self.declare_failed_sync(&error);
            error
        })
    }

    /// Checks that the files are still the ones that were opened. If they are not, declares a fatal fault.
    ///
    /// # Errors
    /// [`Error::Unavailable`] after a fatal fault.
    pub fn check(&self) -> Result<()> {
        if let Some((path, _)) = self.files.iter().find(|(path, was)| file_key(path).ok() != Some(*was)) {
            self.fatal.declare(format!(
                "{} was removed or replaced while it was in use, so new data would be lost. This server acknowledges nothing \
                 more. Put the file back, then start again",
                path.display()
            ));
        }
        self.refuse_after_fault()
    }

    /// Checks whether another process on the same file has recorded a failed sync. The checkpoint thread calls this
    /// after each second without a request. It is also called before a connection closes.
    pub fn check_others(&self) {
        if state::read(&self.database).is_ok_and(|state| state.is_some_and(|state| state.sync_failed)) {
            self.fatal.declare(format!(
                "another process has recorded a failed sync of {}. This server acknowledges nothing more. End all processes \
                 that use the file, check the disk, then start again",
                self.database.display()
            ));
        }
    }

    /// Returns an error if a fatal fault was declared.
    ///
    /// # Errors
    /// [`Error::Unavailable`] after a fatal fault.
    pub fn refuse_after_fault(&self) -> Result<()> {
        match self.fatal.declared() {
            Some(sentence) => Err(Error::unavailable(sentence.to_string())),
            None => Ok(()),
        }
    }

    /// Declares the fatal fault after a failed sync, and records it in the state file for other processes and the next
    /// start.
    pub fn declare_failed_sync(&self, error: &Error) {
        // The fault is declared even if it cannot be recorded.
        drop(self.state.set_sync_failed(true));
        self.fatal.declare(format!(
            "a sync of {} or of its write-ahead log failed ({error}), so its data may be lost. This server acknowledges nothing \
             more. Check the disk, then start again: the next start copies the whole log again",
            self.database.display()
        ));
    }

    /// Declares the fatal fault if the outcome is a failed sync.
    pub fn declare_if_sync_failed<T>(&self, outcome: &Result<T>) {
        if let Err(error) = outcome
            && is_failed_sync(error)
        {
            self.declare_failed_sync(error);
        }
    }

    /// Prepares a connection for closing: after a fault, closing it must not copy the write-ahead log.
    pub fn prepare_close(&self, connection: &Connection) {
        self.check_others();
        if self.fatal.declared().is_some()
            && let Err(error) = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        {
            tracing::error!(%error, "could not disable the checkpoint that SQLite makes when a connection closes");
        }
    }
}

fn file_key(path: &Path) -> std::io::Result<FileKey> {
    path.metadata().map(|found| (found.dev(), found.ino()))
}

/// The identity that the state file records for a file.
fn identity(path: &Path) -> Result<u64> {
    let found = path.metadata().map_err(|error| unavailable(path, "read", &error))?;
    Ok(state::identity(&found))
}

fn unavailable(path: &Path, what: &str, error: &std::io::Error) -> Error {
    Error::unavailable(format!("{} cannot be {what}: {error}", path.display()))
}
