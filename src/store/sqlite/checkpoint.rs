//! Copying the write-ahead log into the database's file.
//!
//! Invariant: the log is begun anew only after a sync of the file that succeeded. A sync that fails is the end of all copying:
//! the next start, and nobody before it, copies the whole log again.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::connection::BUSY_TIMEOUT;
use super::driver::{is_failed_sync, translate};
use super::guard::Guard;
use crate::base::error::{Error, Result};
use crate::store::driver::files::sync_error;

/// How often the files are looked at while nothing is written.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How far the log is: shared by the writer, the hook of its commits and the checkpoint thread.
#[derive(Default)]
pub struct Log {
    /// Pages in the log after the last commit.
    pub pages: AtomicI64,
    /// The same, until the writer has marked that commit; 0 then. A commit that changed nothing leaves it at 0.
    pub unmarked_pages: AtomicI64,
    /// Whether the checkpoint thread has copied what was in the log when it was asked.
    pub copied: AtomicBool,
}

/// The thread that copies the log when the writer asks, and watches over the files.
pub struct Checkpointer {
    pub connection: Connection,
    /// The database's file.
    pub file: Arc<File>,
    pub guard: Arc<Guard>,
    pub log: Arc<Log>,
}

impl Checkpointer {
    /// Serves until the writer is gone.
    pub fn run(self, wanted: &Receiver<()>) {
        loop {
            match wanted.recv_timeout(WATCH_INTERVAL) {
                Ok(()) if self.guard.refuse_after_fault().is_ok() => self.copy(),
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => {
                    self.guard.check_others();
                    // The guard has declared the fault; `serve` ends the process.
                    drop(self.guard.check());
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.guard.retire(&self.connection);
    }

    fn copy(&self) {
        match self.copy_and_sync() {
            Ok(()) => self.log.copied.store(true, Ordering::Relaxed),
            Err(Copying::Sync(error)) => self.guard.sync_failed(&error),
            Err(Copying::Other(error)) => {
                tracing::warn!(%error, "a checkpoint of the write-ahead log failed");
                // The writer asks again once the log has grown by as much as before.
                self.log.copied.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Copies what is in the log, and once more what was committed meanwhile, so that little is left to the writer. SQLite syncs
    /// the file only when nothing is left at all: here it is synced before the writer has to.
    fn copy_and_sync(&self) -> Result<(), Copying> {
        for _ in 0..2 {
            checkpoint_passively(&self.connection).map_err(Copying::of)?;
            self.file.sync_data().map_err(|error| Copying::Sync(sync_error(Path::new("the database"), &error)))?;
        }
        Ok(())
    }
}

/// Why copying ended early.
enum Copying {
    Sync(Error),
    Other(Error),
}

impl Copying {
    fn of(error: Error) -> Self {
        if is_failed_sync(&error) { Self::Sync(error) } else { Self::Other(error) }
    }
}

fn in_use(path: &Path, error: Error) -> Error {
    Error::unavailable(format!(
        "a sync of {} has failed before, so its whole log has to be copied again, with no other process using it ({error}): end \
         what has it open, then start again",
        path.display()
    ))
}

/// A failed sync in words: SQLite's own say "disk I/O error".
pub fn name_sync(error: Error) -> Error {
    if is_failed_sync(&error) {
        Error::unavailable(format!("a sync of the database or of its write-ahead log failed: {error}"))
    } else {
        error
    }
}

/// Copies what no reader is in the way of; whether that was everything, and the file was synced.
pub fn checkpoint_passively(connection: &Connection) -> Result<bool> {
    left_in_log(connection).map(|frames| frames == 0)
}

/// Copies what no reader is in the way of; the frames of the log that are still needed: 0 when all of them were copied and the
/// file was synced.
pub fn left_in_log(connection: &Connection) -> Result<u64> {
    let (busy, frames, copied): (i64, i64, i64) = connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .map_err(translate)?;
    Ok(if busy == 0 && frames == copied { 0 } else { frames.max(1).unsigned_abs() })
}

/// Copies the whole log, waiting for readers, and cuts it off.
///
/// # Errors
/// [`Error::Unavailable`] when readers or another process were in the way for too long.
pub fn empty_log(connection: &Connection) -> Result<()> {
    let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(translate)?;
    if busy == 0 {
        Ok(())
    } else {
        Err(Error::unavailable("the write-ahead log stayed in use by a reader or another process"))
    }
}

/// Copies the whole log with the database to itself, whatever was copied before.
///
/// With the exclusive lock the index of the log is made by reading the log, in the memory of this connection: nothing counts as
/// copied yet. For that the lock has to be asked for before the first look at the database.
///
/// # Errors
/// [`Error::Unavailable`] when another process has the database open, or a sync fails again.
pub fn copy_whole_log_alone(path: &Path) -> Result<()> {
    let connection = Connection::open(path).map_err(translate)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(translate)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(translate)?;
    connection.pragma_update(None, "locking_mode", "exclusive").map_err(translate)?;
    connection.pragma_update(None, "synchronous", 2).map_err(translate).map_err(|error| in_use(path, error))?;
    empty_log(&connection).map_err(name_sync)
}
