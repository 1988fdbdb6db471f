//! What is looked at before SQLite opens a database's file, because SQLite would take damage for the normal course of things:
//! an empty file for a new database, a log that breaks off for one that ends there.
//!
//! Invariant: nothing is changed here. Where acknowledged data may be gone, the start is refused with a sentence, unless the
//! operator has accepted the loss; then the log is copied first.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::state::{self, Contents};
use super::wal::{self, Log};
use crate::base::error::{Error, Result};
use crate::base::time::Timestamp;
use crate::store::driver::files::{stamp, sync_file, with_suffix};

/// How long until the files are looked at again, to see whether somebody writes them.
const SECOND_LOOK_AFTER: Duration = Duration::from_millis(300);

/// What the start must do because of what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// A sync failed before: what counts as copied from the log may not be in the file.
    pub sync_failed: bool,
    /// The operator goes on without the log's tail: the log is to be emptied.
    pub tail_given_up: bool,
}

/// Looks at a database's files before they are opened. With a time in `accepted_at`, the operator goes on without what cannot
/// be read of the log; its copy is named after that time.
///
/// # Errors
/// [`Error::Internal`] with a sentence for the operator where acknowledged data is gone, or seems to be;
/// [`Error::Unavailable`] where the files cannot be read.
pub fn examine(database: &Path, accepted_at: Option<Timestamp>) -> Result<Findings> {
    let state = state::read(database).map_err(Error::unavailable)?;
    let sync_failed = state.is_some_and(|state| state.sync_failed);
    if is_open_elsewhere(database) {
        // The log grows while it is read, and the process that opened it first has checked it.
        return Ok(Findings { sync_failed, tail_given_up: false });
    }
    let log_file = with_suffix(database, "-wal");
    refuse_empty(database, &log_file, state.is_some())?;
    refuse_replaced(database, &log_file, state)?;
    let log = wal::read(&log_file).map_err(Error::unavailable)?;
    let Some(loss) = loss(&log, state, is_older_than_state(database, state)) else {
        return Ok(Findings { sync_failed, tail_given_up: false });
    };
    if is_being_written(database, &log_file, state) {
        return Ok(Findings { sync_failed, tail_given_up: false });
    }
    let Some(accepted_at) = accepted_at else {
        return Err(Error::internal(format!(
            "{}: {loss} These frames may hold acknowledged messages. Nothing was changed. Put the log back; or move the \
             database and the files beside it away and restore a backup; or start once with --accept-lost-tail, which keeps \
             a copy of the log and continues without these frames",
            log_file.display()
        )));
    };
    let kept = keep(&log_file, &log, accepted_at)?;
    tracing::warn!(%loss, kept, "continuing without a part of the write-ahead log, because of --accept-lost-tail");
    Ok(Findings { sync_failed, tail_given_up: true })
}

/// An empty file is a new database for SQLite. Where data has been, it is what is left of one.
fn refuse_empty(database: &Path, log_file: &Path, had_data: bool) -> Result<()> {
    let length = |path: &Path| match path.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        found => found.map(|found| found.len()).map_err(Error::unavailable),
    };
    if length(database)? > 0 {
        return Ok(());
    }
    let what = if database.exists() { "is empty" } else { "is missing" };
    if length(log_file)? > 0 {
        return Err(Error::internal(format!(
            "{} {what}, and {} beside it is not: the log belongs to a database that is gone. Put the database's file back, or \
             restore a backup into another folder",
            database.display(),
            log_file.display()
        )));
    }
    if had_data {
        return Err(Error::internal(format!(
            "{} {what}, and {} says that there was data: put the database's file back. To begin anew, or to restore a backup \
             here, remove {1} first",
            database.display(),
            state::path_of(database).display()
        )));
    }
    Ok(())
}

/// A database that was put in the place of another one, beside the log of that other one: SQLite would copy the log into it.
/// A folder that was copied as a whole has a new log as well.
fn refuse_replaced(database: &Path, log_file: &Path, state: Option<Contents>) -> Result<()> {
    let Some(known) = state.and_then(|state| state.files).filter(|files| files.database != 0) else { return Ok(()) };
    let (Ok(file), Ok(log)) = (database.metadata(), log_file.metadata()) else { return Ok(()) };
    if state::identity(&file) == known.database || state::identity(&log) != known.log || log.len() == 0 {
        return Ok(());
    }
    Err(Error::internal(format!(
        "{} is another file than the one that {} belongs to: copied into it, the log would destroy it. Put the file back that \
         was there before. If this is the right one, remove {1} and {} first: what only the log holds is lost then",
        database.display(),
        log_file.display(),
        state::path_of(database).display()
    )))
}

/// Whether the log or the state changes: then a process uses them that cannot be seen from here, in another container say.
fn is_being_written(database: &Path, log_file: &Path, before: Option<Contents>) -> bool {
    let length = || log_file.metadata().map_or(0, |found| found.len());
    let (length_before, mark_before) = (length(), before.map(|state| (state.mark, state.written_at)));
    std::thread::sleep(SECOND_LOOK_AFTER);
    let now = state::read(database).ok().flatten().map(|state| (state.mark, state.written_at));
    length() != length_before || now != mark_before
}

/// What recovery would drop of a log that it must not drop, as a sentence; `None` where there is nothing.
fn loss(log: &Log, state: Option<Contents>, file_is_older: bool) -> Option<String> {
    let mark = state.and_then(|state| state.mark);
    let marked = mark.map_or(0, |mark| mark.frames);
    match log {
        // Another program may have copied the log into the file, and removed it: then the file is newer than the mark.
        Log::Absent => (marked > 0 && file_is_older).then(|| {
            format!(
                "the write-ahead log is missing; it had {marked} frames that were not yet in the database. \
                If the database was put here from elsewhere, remove the -state file beside it."
            )
        }),
        // Without a mark for it, or with an empty one, all of it may have been copied.
        Log::Headless { bytes } => (marked > 0 || (mark.is_none() && *bytes > 4_096)).then(|| {
            format!("the write-ahead log's header is damaged; {} frames behind it cannot be read.", marked.max(1))
        }),
        Log::Readable(scan) => {
            let read = scan.recovered;
            let lost = match mark {
                Some(mark) if mark.salts == scan.salts => {
                    // After a power loss the mark may be behind. Two cut-off commits then prove a loss: the first was synced
                    // before the second began.
                    let certain = mark.frames.saturating_sub(read);
                    if mark.frames > 0 && scan.goes_on_behind_commit { certain.max(scan.cut_off) } else { certain }
                }
                // Of another run of the log: the first of two commits that were cut off had been synced.
                Some(_) if scan.goes_on_behind_commit => scan.cut_off,
                Some(_) => 0,
                // There is no mark. A single frame may be what a killed process was writing.
                None if scan.cut_off > 1 => scan.cut_off,
                None => 0,
            };
            (lost > 0).then(|| {
                format!(
                    "the write-ahead log is damaged behind its frame {read}: {lost} frames after it cannot be used."
                )
            })
        }
    }
}

/// Whether the database's file was last written before the state was: nobody has copied the log into it since.
fn is_older_than_state(database: &Path, state: Option<Contents>) -> bool {
    let modified = database.metadata().and_then(|found| found.modified());
    match (modified, state) {
        (Ok(modified), Some(state)) => modified < state.written_at,
        _ => false,
    }
}

/// Copies the log to where nothing overwrites it; the copy's name.
fn keep(log_file: &Path, log: &Log, accepted_at: Timestamp) -> Result<String> {
    if *log == Log::Absent {
        return Ok("nothing".into());
    }
    let kept: PathBuf = with_suffix(log_file, &format!(".lost-{}", stamp(accepted_at)));
    std::fs::copy(log_file, &kept).map_err(Error::unavailable)?;
    sync_file(&kept)?;
    Ok(kept.display().to_string())
}

/// Whether a process has the database open: then it holds locks on its files (`/proc/locks`). On systems without that file the
/// answer is no.
fn is_open_elsewhere(database: &Path) -> bool {
    let Ok(locks) = std::fs::read_to_string("/proc/locks") else { return false };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let names: Vec<String> = ["", "-shm"]
        .iter()
        .filter_map(|suffix| with_suffix(database, suffix).metadata().ok())
        .map(|found| name_in_locks(found.dev(), found.ino(), &mounts))
        .collect();
    // `1: POSIX  ADVISORY  READ 4242 fe:00:131077 128 128`; a waiting lock has `->` behind its number.
    let is_ours = |word: &str| names.iter().any(|name| word.ends_with(name.as_str()));
    locks.lines().any(|line| line.contains("POSIX") && line.split_whitespace().any(is_ours))
}

/// How the end of a file's name in `/proc/locks` reads: `fe:00:131077`. Where the device is no mount's (btrfs and overlays name
/// others there), the inode alone has to do.
fn name_in_locks(device: u64, inode: u64, mounts: &str) -> String {
    // As glibc's major() and minor() take them apart.
    let major = (device >> 8) & 0xfff | (device >> 32) & !0xfff;
    let minor = device & 0xff | (device >> 12) & !0xff;
    let mounted = format!(" {major}:{minor} ");
    if mounts.contains(&mounted) {
        format!(" {major:02x}:{minor:02x}:{inode}").trim_start().to_owned()
    } else {
        format!(":{inode}")
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::store::sqlite::state::Mark;
    use crate::store::sqlite::wal::Scan;

    const SALTS: [u8; 8] = [1; 8];

    fn marked(salts: [u8; 8], frames: u64) -> Option<Contents> {
        let mark = Some(Mark { salts, frames });
        Some(Contents { mark, sync_failed: false, files: None, written_at: SystemTime::UNIX_EPOCH })
    }

    fn log(recovered: u64, cut_off: u64, cut_off_commits: u64) -> Log {
        let goes_on_behind_commit = cut_off_commits > 1;
        Log::Readable(Scan { salts: SALTS, recovered, cut_off, cut_off_commits, goes_on_behind_commit })
    }

    fn is_loss(log: &Log, state: Option<Contents>) -> bool {
        loss(log, state, true).is_some()
    }

    #[test]
    fn what_was_acknowledged_must_be_readable() {
        assert!(!is_loss(&log(10, 0, 0), marked(SALTS, 10)));
        // More than marked: the process ended between the commit and its mark.
        assert!(!is_loss(&log(12, 0, 0), marked(SALTS, 10)));
        assert!(is_loss(&log(9, 0, 0), marked(SALTS, 10)));
        assert!(is_loss(&log(9, 1, 1), marked(SALTS, 10)));
        // A commit that a crash cut off behind what was acknowledged.
        assert!(!is_loss(&log(10, 4, 1), marked(SALTS, 10)));
        // Of two, the first had been synced: the mark is behind.
        assert!(is_loss(&log(10, 4, 2), marked(SALTS, 10)));
        // All of it is in the file.
        assert!(!is_loss(&log(3, 4, 2), marked(SALTS, 0)));
    }

    #[test]
    fn without_a_mark_of_this_run_the_log_itself_tells() {
        let other = marked([2; 8], 99);
        assert!(!is_loss(&log(10, 0, 0), other));
        assert!(!is_loss(&log(10, 4, 1), other));
        assert!(is_loss(&log(10, 4, 2), other));
        assert!(!is_loss(&log(10, 1, 1), None));
        assert!(is_loss(&log(10, 2, 1), None));
    }

    #[test]
    fn a_log_that_is_missing_or_headless_is_a_loss_where_it_was_needed() {
        assert!(is_loss(&Log::Absent, marked(SALTS, 5)));
        assert!(loss(&Log::Absent, marked(SALTS, 5), false).is_none());
        assert!(!is_loss(&Log::Absent, marked(SALTS, 0)));
        assert!(!is_loss(&Log::Absent, None));
        let headless = Log::Headless { bytes: 100_000 };
        assert!(is_loss(&headless, marked(SALTS, 5)));
        assert!(is_loss(&headless, None));
        assert!(!is_loss(&headless, marked(SALTS, 0)));
        assert!(!is_loss(&Log::Headless { bytes: 32 }, None));
    }

    #[test]
    fn a_lock_of_another_device_is_none_of_ours() {
        let mounts = "22 1 254:16 / / rw - ext4 /dev/root rw\n";
        assert_eq!(name_in_locks(0xfe10, 131_077, mounts), "fe:10:131077");
        // A device that is no mount's.
        assert_eq!(name_in_locks(0x2b, 131_077, mounts), ":131077");
    }

    #[test]
    fn a_database_that_is_open_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let connection = crate::store::sqlite::connection::open_connection(&path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (v)").unwrap();
        assert!(is_open_elsewhere(&path));
        drop(connection);
        assert!(!is_open_elsewhere(&path));
    }
}
