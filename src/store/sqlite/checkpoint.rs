//! Checkpoints: copying the write-ahead log into the database's file.
//!
//! Invariant: the write-ahead log restarts only after a successful sync of the file. After a failed sync nothing more is
//! copied; only the next start copies the whole log again.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::connection::BUSY_TIMEOUT;
use super::driver::{error_from_sqlite, is_failed_sync};
use super::guard::FileGuard;
use crate::base::error::{Error, Result};
use crate::store::driver::files::sync_error;

/// How often the files are checked while nothing is written.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The progress of the write-ahead log. The writer, its hook for the log and the checkpoint thread share it.
#[derive(Default)]
pub struct LogProgress {
    /// Pages in the write-ahead log after the last commit.
    pub pages: AtomicI64,
    /// Pages in the write-ahead log after a commit that the writer has not yet recorded in the state file. 0 when there is
    /// no such commit. A commit without changes leaves it at 0.
    pub unmarked_pages: AtomicI64,
    /// Whether the checkpoint thread has ended the checkpoint that the writer requested, successfully or with an error
    /// other than a failed sync. The writer sets it back to `false`.
    pub copied: AtomicBool,
}

/// The thread that copies the write-ahead log when the writer requests it, and checks the files once a second while nothing is
/// requested.
pub struct Checkpointer {
    pub connection: Connection,
    /// The database's file.
    pub file: Arc<File>,
    pub guard: Arc<FileGuard>,
    pub log: Arc<LogProgress>,
}

impl Checkpointer {
    /// Runs until the writer has ended.
    pub fn run(self, requests: &Receiver<()>) {
        loop {
            match requests.recv_timeout(WATCH_INTERVAL) {
                Ok(()) if self.guard.refuse_after_fault().is_ok() => self.copy(),
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => {
                    self.guard.check_others();
                    // The error needs no handling here: the guard has declared the fatal fault, and `serve` ends the
                    // process.
                    drop(self.guard.check());
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.guard.prepare_close(&self.connection);
    }

    fn copy(&self) {
        match self.copy_and_sync() {
            Ok(()) => self.log.copied.store(true, Ordering::Relaxed),
            Err(CopyError::Sync(error)) => self.guard.declare_failed_sync(&error),
            Err(CopyError::Other(error)) => {
                tracing::warn!(%error, "a checkpoint of the write-ahead log failed");
                // The writer requests the next checkpoint after the log has grown by `WAL_CHECKPOINT_PAGES`.
                self.log.copied.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Copies the write-ahead log, and then copies what was committed meanwhile, so that the writer has little left to copy.
    /// SQLite syncs the file only when the whole log is copied. This function syncs it in any case, so that the writer's own
    /// sync is short.
    fn copy_and_sync(&self) -> Result<(), CopyError> {
        for _ in 0..2 {
            checkpoint_passively(&self.connection).map_err(CopyError::of)?;
            self.file.sync_data().map_err(|error| CopyError::Sync(sync_error(Path::new("the database"), &error)))?;
        }
        Ok(())
    }
}

/// Why copying failed.
enum CopyError {
    Sync(Error),
    Other(Error),
}

impl CopyError {
    fn of(error: Error) -> Self {
        if is_failed_sync(&error) { Self::Sync(error) } else { Self::Other(error) }
    }
}

fn in_use(path: &Path, error: Error) -> Error {
    Error::unavailable(format!(
        "a sync of {} failed before, so its whole write-ahead log must be copied again while no other process uses the \
         database ({error}). Stop the other processes that have it open, then start again",
        path.display()
    ))
}

/// Makes the error of a failed sync understandable: SQLite's own message is "disk I/O error".
pub fn describe_failed_sync(error: Error) -> Error {
    if is_failed_sync(&error) {
        Error::unavailable(format!("a sync of the database or of its write-ahead log failed: {error}"))
    } else {
        error
    }
}

/// Copies as many frames of the write-ahead log as possible without waiting for readers. Returns whether the whole log was
/// copied and the file was synced.
pub fn checkpoint_passively(connection: &Connection) -> Result<bool> {
    frames_left_in_log(connection).map(|frames| frames == 0)
}

/// Copies as many frames of the write-ahead log as possible without waiting for readers. Returns how many of them must be
/// kept: 0 when all were copied and the file was synced.
pub fn frames_left_in_log(connection: &Connection) -> Result<u64> {
    let (busy, frames, copied): (i64, i64, i64) = connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .map_err(error_from_sqlite)?;
    Ok(if busy == 0 && frames == copied { 0 } else { frames.max(1).unsigned_abs() })
}

/// Waits for readers, copies the whole write-ahead log and truncates it.
///
/// # Errors
/// [`Error::Unavailable`] when readers or another process blocked it for too long.
pub fn empty_log(connection: &Connection) -> Result<()> {
    let busy: i64 =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(error_from_sqlite)?;
    if busy == 0 { Ok(()) } else { Err(Error::unavailable("a reader or another process uses the write-ahead log")) }
}

/// Copies the whole write-ahead log with exclusive access to the database, including frames that count as copied.
///
/// With an exclusive lock SQLite builds the index of the log in the memory of this connection by reading the log, so no
/// frame counts as copied. The lock mode must be set before the first access to the database.
///
/// # Errors
/// [`Error::Unavailable`] when another process has the database open, or a sync fails again.
pub fn copy_whole_log_alone(path: &Path) -> Result<()> {
    let connection = Connection::open(path).map_err(error_from_sqlite)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(error_from_sqlite)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(error_from_sqlite)?;
    connection.pragma_update(None, "locking_mode", "exclusive").map_err(error_from_sqlite)?;
    connection.pragma_update(None, "synchronous", 2).map_err(error_from_sqlite).map_err(|error| in_use(path, error))?;
    empty_log(&connection).map_err(describe_failed_sync)
}
