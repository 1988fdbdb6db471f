//! Whole database files: copying a file page by page, checking its structure, and replacing its rows.
//!
//! Invariant: a copy is one snapshot of its source, taken while other connections read and write.

use std::fs::File;
use std::path::Path;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};

use super::connection::{open_connection, resolved, set_journal_mode};
use super::driver::{Conn, error_from_sqlite, is_failed_sync};
use super::state::{Mark, StateFile};
use super::{checkpoint, start, wal};
use crate::base::error::{Error, Result};
use crate::store::db::backup_digest::{APPLICATION_ID, append_digest_and_sync, unusable};
use crate::store::db::progress::{Progress, RESTORING, Report};
use crate::store::driver::files::{sync_folder_of, with_suffix};
use crate::store::messages::search;

/// Pages that are copied between two reports of progress.
const PAGES_PER_STEP: i32 = 1_024;

/// Checks the structure of a file and returns the version of its schema. `thorough` also checks the indexes.
///
/// # Errors
/// When SQLite finds the structure damaged, or when the file has no schema version.
pub fn check_structure(file: &Path, thorough: bool) -> Result<i64> {
    let wrong = |error: rusqlite::Error| unusable(file, error);
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(wrong)?;
    let pragma = if thorough { "PRAGMA integrity_check" } else { "PRAGMA quick_check" };
    let verdict: String = connection.query_row(pragma, [], |row| row.get(0)).map_err(wrong)?;
    if verdict != "ok" {
        return Err(unusable(file, verdict));
    }
    connection
        .query_row("SELECT max(version) FROM schema_migrations", [], |row| row.get(0))
        .map_err(|_| unusable(file, "it has no schema version"))
}

/// Opens a read-only connection to a file that no process writes.
pub fn open_to_read(file: &Path) -> Result<Conn> {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(error_from_sqlite)?;
    Ok(Conn::new(connection))
}

/// Converts an error of writing `file` to an [`Error`]. A failed sync is reported with the file's name.
fn writing(file: &Path) -> impl Fn(rusqlite::Error) -> Error {
    move |error| {
        let code = error.sqlite_error().map(|failure| failure.extended_code);
        if code == Some(ffi::SQLITE_IOERR_FSYNC) {
            return Error::unavailable(format!("{} could not be synced to disk: {error}", file.display()));
        }
        error_from_sqlite(error)
    }
}

/// Copies every page from one snapshot, while other connections read and write.
pub fn copy_file(source: &Path, target_file: &Path, report: Report<'_>) -> Result<()> {
    if !source.exists() {
        return Err(Error::internal(format!("{} does not exist, so there is nothing to copy", source.display())));
    }
    let source = &resolved(source);
    start::check_files(source, None)?;
    let source = open_connection(source)?;
    // A command that only reads must not copy the write-ahead log when it closes; that is the server's task.
    source.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(error_from_sqlite)?;
    // Keep a snapshot open. Without it, each write of another connection would restart the copy.
    source.execute_batch("BEGIN; SELECT count(*) FROM sqlite_master").map_err(error_from_sqlite)?;
    let mut target = open_connection(target_file)?;
    {
        let backup = Backup::new(&source, &mut target).map_err(error_from_sqlite)?;
        loop {
            let step = backup.step(PAGES_PER_STEP).map_err(writing(target_file))?;
            let progress = backup.progress();
            let total = u64::try_from(progress.pagecount).unwrap_or_default();
            let done = total - u64::try_from(progress.remaining).unwrap_or_default().min(total);
            report(Progress { step: "copying pages", done, total });
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                // `Busy` or `Locked`: another connection holds a lock that the copy needs. It does so for milliseconds
                // only.
                _ => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
        }
    }
    target.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").map_err(writing(target_file))
}

/// Turns a closed database into a single file without a write-ahead log beside it, and sets the mark of a file that ends
/// with a digest.
pub fn mark_and_close(file: &Path) -> Result<()> {
    let connection = open_connection(file)?;
    set_journal_mode(&connection, "PRAGMA journal_mode = DELETE").map_err(writing(file))?;
    connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(writing(file))
}

/// Replaces all rows of `target` with the rows of `source` in one transaction. A server may run meanwhile. The old database
/// is copied to `kept` first. The same transaction keeps other writers out, so no commit is lost between the copy and the
/// replacement.
pub fn replace_rows(
    target: &Path,
    source: &Path,
    kept: Option<&Path>,
    tables: &[&str],
    report: Report<'_>,
) -> Result<()> {
    let connection = open_connection(target)?;
    let source = source.to_str().ok_or_else(|| Error::internal("the path is not UTF-8"))?;
    connection.execute("ATTACH DATABASE ?1 AS restored", [source]).map_err(error_from_sqlite)?;
    connection.execute_batch("BEGIN IMMEDIATE").map_err(error_from_sqlite)?;
    if let Some(kept) = kept {
        copy_file(target, kept, report)?;
        mark_and_close(kept)?;
        append_digest_and_sync(kept, report)?;
        sync_folder_of(kept)?;
    }
    // If the target is a backup file that was put in place, it has the mark of a backup. The mark is removed, because the
    // replaced file has no valid digest.
    connection.pragma_update(Some("main"), "application_id", 0).map_err(error_from_sqlite)?;
    let total = tables.len() as u64;
    for (done, table) in (1..).zip(tables) {
        let replace = format!("DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM restored.{table}");
        connection.execute_batch(&replace).map_err(error_from_sqlite)?;
        report(Progress { step: RESTORING, done, total });
    }
    // The search index is a virtual table, which cannot be copied like the others. It is created anew and its entries are
    // indexed again.
    let index = format!(
        "DROP TABLE main.search_entries;
         {}
         INSERT INTO main.search_entries (rowid, terms, conversation_id, seq, timestamp_sent)
             SELECT rowid, terms, conversation_id, seq, timestamp_sent FROM restored.search_entries ORDER BY rowid",
        search::SQLITE_TABLE.replace("messaging.", "main."),
    );
    connection.execute_batch(&index).map_err(error_from_sqlite)?;
    // No id is assigned twice, even when its row no longer exists, as for an erased user or a revoked key.
    connection
        .execute_batch(
            "INSERT INTO main.sqlite_sequence (name, seq)
                 SELECT name, 0 FROM restored.sqlite_sequence
                  WHERE name NOT IN (SELECT name FROM main.sqlite_sequence);
             UPDATE main.sqlite_sequence SET seq = max(seq, coalesce(
                 (SELECT max(r.seq) FROM restored.sqlite_sequence r WHERE r.name = sqlite_sequence.name), 0));
             INSERT INTO main.sqlite_sequence (name, seq)
                 SELECT 'users', 0 WHERE NOT EXISTS (SELECT 1 FROM main.sqlite_sequence WHERE name = 'users');
             UPDATE main.sqlite_sequence SET seq = max(seq, coalesce((SELECT max(user_id) FROM main.erased_people), 0))
              WHERE name = 'users'",
        )
        .map_err(error_from_sqlite)?;
    connection.execute_batch("COMMIT").map_err(writing(target))?;
    connection.execute_batch("DETACH DATABASE restored").map_err(error_from_sqlite)?;
    mark_log(&connection, &resolved(target))
}

/// Copies the committed frames of the write-ahead log into the database's file, and records in the state file how many frames
/// of the log must be kept.
fn mark_log(connection: &Connection, database: &Path) -> Result<()> {
    let state = StateFile::open(database).map_err(Error::unavailable)?;
    let left = checkpoint::frames_left_in_log(connection).inspect_err(|error| {
        // A running server reads this mark each second, and the next start reads it too.
        if is_failed_sync(error) {
            drop(state.set_sync_failed(true));
        }
    });
    let left = left.map_err(checkpoint::describe_failed_sync)?;
    let log = File::open(with_suffix(database, "-wal")).map_err(Error::unavailable)?;
    state.mark(Mark { salts: wal::salts(&log).unwrap_or_default(), frames: left }).map_err(Error::unavailable)
}
