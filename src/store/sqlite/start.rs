//! Checks the files before SQLite opens them. SQLite does not recognize some damage: it uses an empty file as a new
//! database, and a write-ahead log that is damaged in the middle as one that ends there.
//!
//! Invariant: these checks change nothing. When acknowledged data may be lost, the start is refused with a sentence for the
//! operator. If the operator has accepted the loss (`--accept-lost-tail`), the checks copy the write-ahead log to another
//! file, and the start continues.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::state::{self, Contents};
use super::wal::{self, LogContents};
use crate::base::error::{Error, Result};
use crate::base::time::Timestamp;
use crate::store::driver::files::{stamp, sync_file, with_suffix};

/// How long to wait before checking again whether another process writes the files.
const RECHECK_AFTER: Duration = Duration::from_millis(300);

/// The result of the checks: what the start must do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartActions {
    /// Whether a sync failed before. If so, frames that are recorded as copied from the write-ahead log may not be in
    /// the database's file.
    pub sync_failed: bool,
    /// Whether the operator continues without the end of the write-ahead log. If so, the log must be emptied.
    pub must_empty_log: bool,
}

/// Checks the files of a database before they are opened. If `accepted_at` is set, the operator has accepted to continue
/// without the part of the write-ahead log that cannot be read. A copy of the log is then kept in a file whose name contains
/// this time.
///
/// # Errors
/// [`Error::Internal`] with a sentence for the operator when acknowledged data is or may be lost; [`Error::Unavailable`]
/// when the files cannot be read.
pub fn check_files(database: &Path, accepted_at: Option<Timestamp>) -> Result<StartActions> {
    let state = state::read(database).map_err(Error::unavailable)?;
    let sync_failed = state.is_some_and(|state| state.sync_failed);
    if is_open_elsewhere(database) {
        // The write-ahead log grows while it is read, and the process that opened the database first has checked it.
        return Ok(StartActions { sync_failed, must_empty_log: false });
    }
    let log_file = with_suffix(database, "-wal");
    refuse_empty(database, &log_file, state.is_some())?;
    refuse_replaced(database, &log_file, state)?;
    let log = wal::read(&log_file).map_err(Error::unavailable)?;
    let Some(loss) = describe_loss(&log, state, is_older_than_state(database, state)) else {
        return Ok(StartActions { sync_failed, must_empty_log: false });
    };
    if is_being_written(database, &log_file, state) {
        return Ok(StartActions { sync_failed, must_empty_log: false });
    }
    let Some(accepted_at) = accepted_at else {
        return Err(Error::internal(format!(
            "{}: {loss} These frames may hold acknowledged messages. Nothing was changed. Put the log back; or move the \
             database and the files beside it away and restore a backup; or start once with --accept-lost-tail, which keeps \
             a copy of the log and continues without these frames",
            log_file.display()
        )));
    };
    let kept = keep_log_copy(&log_file, &log, accepted_at)?;
    tracing::warn!(%loss, kept, "continuing without a part of the write-ahead log, because of --accept-lost-tail");
    Ok(StartActions { sync_failed, must_empty_log: true })
}

/// Refuses an empty or missing file where data has existed. SQLite would use it as a new database.
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
            "{} {what}, but its write-ahead log {} contains data. Put the database file back, or restore a backup into \
             another folder",
            database.display(),
            log_file.display()
        )));
    }
    if had_data {
        return Err(Error::internal(format!(
            "{} {what}, but {} says that there was data. Put the database file back. To start with an empty database, or to \
             restore a backup here, remove {1} first",
            database.display(),
            state::path_of(database).display()
        )));
    }
    Ok(())
}

/// Refuses a database that was put beside the write-ahead log of another one, because SQLite would copy that log into it. A
/// copy of a whole folder passes this check, because the log in it is another file too.
fn refuse_replaced(database: &Path, log_file: &Path, state: Option<Contents>) -> Result<()> {
    let Some(known) = state.and_then(|state| state.files).filter(|files| files.database != 0) else { return Ok(()) };
    let (Ok(file), Ok(log)) = (database.metadata(), log_file.metadata()) else { return Ok(()) };
    if state::identity(&file) == known.database || state::identity(&log) != known.log || log.len() == 0 {
        return Ok(());
    }
    Err(Error::internal(format!(
        "{} is another file than the one that the write-ahead log {} belongs to. Applying the log would destroy this file. Put \
         the previous file back. If this file is the right one, remove {1} and {} first; the data that only the log contains \
         is then lost",
        database.display(),
        log_file.display(),
        state::path_of(database).display()
    )))
}

/// Whether the write-ahead log or the state file changes during [`RECHECK_AFTER`]. If so, a process that is not visible in
/// `/proc/locks` uses them, for example in another container.
fn is_being_written(database: &Path, log_file: &Path, before: Option<Contents>) -> bool {
    let length = || log_file.metadata().map_or(0, |found| found.len());
    let (length_before, mark_before) = (length(), before.map(|state| (state.mark, state.written_at)));
    std::thread::sleep(RECHECK_AFTER);
    let now = state::read(database).ok().flatten().map(|state| (state.mark, state.written_at));
    length() != length_before || now != mark_before
}

/// A sentence that describes to the operator the acknowledged WAL frames that recovery would drop. `None` when there are none.
fn describe_loss(log: &LogContents, state: Option<Contents>, file_is_older: bool) -> Option<String> {
    let mark = state.and_then(|state| state.mark);
    let marked = mark.map_or(0, |mark| mark.frames);
    match log {
        // If the database's file is newer than the state file, another program may have copied the write-ahead log into it
        // and removed the log.
        LogContents::Absent => (marked > 0 && file_is_older).then(|| {
            format!(
                "the write-ahead log is missing; it had {marked} frames that were not yet in the database. \
                If the database was put here from elsewhere, remove the -state file beside it."
            )
        }),
        // Without a mark, or with a mark of 0 frames, the whole log may have been copied.
        LogContents::HeaderDamaged { bytes } => (marked > 0 || (mark.is_none() && *bytes > 4_096)).then(|| {
            format!("the write-ahead log's header is damaged; {} frames behind it cannot be read.", marked.max(1))
        }),
        LogContents::Readable(scan) => {
            let read = scan.recovered;
            let lost = match mark {
                Some(mark) if mark.salts == scan.salts => {
                    // After a power loss the mark may be too low. Two cut-off commits prove a loss in that case: the first
                    // one was synced before the second one began.
                    let certain = mark.frames.saturating_sub(read);
                    if mark.frames > 0 && scan.cut_off_commit_was_synced { certain.max(scan.cut_off) } else { certain }
                }
                // The mark belongs to another run of the log. If a frame follows a cut-off commit, that commit was synced.
                Some(_) if scan.cut_off_commit_was_synced => scan.cut_off,
                Some(_) => 0,
                // There is no mark. A killed process may have left a single incomplete frame, which is not a loss.
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

/// Whether the database's file was last written before the state file. If so, the write-ahead log was not copied into it
/// since then.
fn is_older_than_state(database: &Path, state: Option<Contents>) -> bool {
    let modified = database.metadata().and_then(|found| found.modified());
    match (modified, state) {
        (Ok(modified), Some(state)) => modified < state.written_at,
        _ => false,
    }
}

/// Copies the write-ahead log to a file with `accepted_at` in its name, so that a later start does not overwrite it. Returns
/// the name, or `nothing` when there is no log.
fn keep_log_copy(log_file: &Path, log: &LogContents, accepted_at: Timestamp) -> Result<String> {
    if *log == LogContents::Absent {
        return Ok("nothing".into());
    }
    let kept: PathBuf = with_suffix(log_file, &format!(".lost-{}", stamp(accepted_at)));
    std::fs::copy(log_file, &kept).map_err(Error::unavailable)?;
    sync_file(&kept)?;
    Ok(kept.display().to_string())
}

/// Whether a process has the database open. This is read from its file locks in `/proc/locks`. Always `false` on systems
/// without `/proc/locks`.
fn is_open_elsewhere(database: &Path) -> bool {
    let Ok(locks) = std::fs::read_to_string("/proc/locks") else { return false };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let names: Vec<String> = ["", "-shm"]
        .iter()
        .filter_map(|suffix| with_suffix(database, suffix).metadata().ok())
        .map(|found| name_in_locks(found.dev(), found.ino(), &mounts))
        .collect();
    // `1: POSIX  ADVISORY  READ 4242 fe:00:131077 128 128`. A waiting lock has `->` after its number.
    let is_ours = |word: &str| names.iter().any(|name| word.ends_with(name.as_str()));
    locks.lines().any(|line| line.contains("POSIX") && line.split_whitespace().any(is_ours))
}

/// The end of a file's name in `/proc/locks`, such as `fe:00:131077`. When the device belongs to no mount (btrfs and overlay
/// file systems report other devices there), only the inode is compared.
fn name_in_locks(device: u64, inode: u64, mounts: &str) -> String {
    // The same bits as glibc's major() and minor().
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

    fn log(recovered: u64, cut_off: u64, cut_off_commits: u64) -> LogContents {
        let cut_off_commit_was_synced = cut_off_commits > 1;
        LogContents::Readable(Scan { salts: SALTS, recovered, cut_off, cut_off_commits, cut_off_commit_was_synced })
    }

    fn is_loss(log: &LogContents, state: Option<Contents>) -> bool {
        describe_loss(log, state, true).is_some()
    }

    #[test]
    fn missing_acknowledged_frames_are_a_loss() {
        assert!(!is_loss(&log(10, 0, 0), marked(SALTS, 10)));
        // The log has more frames than the mark: the process ended between the commit and its mark.
        assert!(!is_loss(&log(12, 0, 0), marked(SALTS, 10)));
        assert!(is_loss(&log(9, 0, 0), marked(SALTS, 10)));
        assert!(is_loss(&log(9, 1, 1), marked(SALTS, 10)));
        // A crash cut off a commit after the acknowledged ones.
        assert!(!is_loss(&log(10, 4, 1), marked(SALTS, 10)));
        // Of two cut-off commits the first one had been synced: the mark is too low.
        assert!(is_loss(&log(10, 4, 2), marked(SALTS, 10)));
        // The mark says that the whole log is in the file.
        assert!(!is_loss(&log(3, 4, 2), marked(SALTS, 0)));
    }

    #[test]
    fn without_a_mark_of_this_run_the_log_decides() {
        let other = marked([2; 8], 99);
        assert!(!is_loss(&log(10, 0, 0), other));
        assert!(!is_loss(&log(10, 4, 1), other));
        assert!(is_loss(&log(10, 4, 2), other));
        assert!(!is_loss(&log(10, 1, 1), None));
        assert!(is_loss(&log(10, 2, 1), None));
    }

    #[test]
    fn a_log_without_a_valid_header_is_a_loss_if_it_was_needed() {
        assert!(is_loss(&LogContents::Absent, marked(SALTS, 5)));
        assert!(describe_loss(&LogContents::Absent, marked(SALTS, 5), false).is_none());
        assert!(!is_loss(&LogContents::Absent, marked(SALTS, 0)));
        assert!(!is_loss(&LogContents::Absent, None));
        let damaged = LogContents::HeaderDamaged { bytes: 100_000 };
        assert!(is_loss(&damaged, marked(SALTS, 5)));
        assert!(is_loss(&damaged, None));
        assert!(!is_loss(&damaged, marked(SALTS, 0)));
        assert!(!is_loss(&LogContents::HeaderDamaged { bytes: 32 }, None));
    }

    #[test]
    fn a_lock_on_another_device_does_not_match() {
        let mounts = "22 1 254:16 / / rw - ext4 /dev/root rw\n";
        assert_eq!(name_in_locks(0xfe10, 131_077, mounts), "fe:10:131077");
        // A device that belongs to no mount.
        assert_eq!(name_in_locks(0x2b, 131_077, mounts), ":131077");
    }

    #[test]
    fn an_open_database_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let connection = crate::store::sqlite::connection::open_connection(&path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (v)").unwrap();
        assert!(is_open_elsewhere(&path));
        drop(connection);
        assert!(!is_open_elsewhere(&path));
    }
}
