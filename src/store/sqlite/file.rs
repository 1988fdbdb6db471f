//! Whole files: copying one page by page, and telling whether it is intact.
//!
//! Invariant: a copy is one snapshot of its source, taken while others go on reading and writing.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::driver::translate;
use super::open_connection;
use crate::error::{Error, Result};
use crate::store::copy::{Progress, Report};
use crate::store::{migrations, search};

/// Pages that are copied between two reports of progress.
const PAGES_PER_STEP: i32 = 1_024;

impl super::Database {
    /// Counts a read that found a damaged message.
    pub(in crate::store) fn count_damage(&self) {
        self.inner.environment.metrics.damaged_messages.inc();
    }
}

/// Refuses a file that is no intact database of ours.
pub fn check(file: &Path) -> Result<()> {
    let wrong =
        |reason: String| Error::internal(format!("{} is not an intact Posthaste backup: {reason}", file.display()));
    let connection = Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(|error| wrong(error.to_string()))?;
    let verdict: String =
        connection.query_row("PRAGMA quick_check", [], |row| row.get(0)).map_err(|error| wrong(error.to_string()))?;
    if verdict != "ok" {
        return Err(wrong(verdict));
    }
    let version: i64 = connection
        .query_row("SELECT max(version) FROM schema_migrations", [], |row| row.get(0))
        .map_err(|_| wrong("it has no schema version".into()))?;
    if version > migrations::NEWEST {
        let newest = migrations::NEWEST;
        return Err(wrong(format!("its schema version is {version}, and this program knows only up to {newest}")));
    }
    Ok(())
}

/// Copies every page, from one snapshot, while others go on reading and writing.
pub fn copy_file(source: &Path, target: &Path, report: Report<'_>) -> Result<()> {
    if !source.exists() {
        return Err(Error::internal(format!("{} does not exist: there is nothing to copy", source.display())));
    }
    let source = open_connection(source)?;
    // An open snapshot: without it every write beside us would start the copy over.
    source.execute_batch("BEGIN; SELECT count(*) FROM sqlite_master").map_err(translate)?;
    let mut target = open_connection(target)?;
    {
        let backup = Backup::new(&source, &mut target).map_err(translate)?;
        loop {
            let step = backup.step(PAGES_PER_STEP).map_err(translate)?;
            let progress = backup.progress();
            let total = u64::try_from(progress.pagecount).unwrap_or_default();
            report(Progress { done: total - u64::try_from(progress.remaining).unwrap_or_default().min(total), total });
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                // The target's server is in the middle of a write: it takes milliseconds.
                _ => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
        }
    }
    target.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").map_err(translate)
}

/// Turns a database that nobody has open into one file, with nothing beside it.
pub fn make_alone(file: &Path) -> Result<()> {
    let connection = open_connection(file)?;
    let left = connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0));
    left.map(drop).map_err(translate)
}

/// Puts the rows of `source` in the place of all rows of `target`, in one transaction beside a running server. What was there
/// is copied to `kept` first, while the same transaction keeps everyone else from writing: so nothing is lost between.
pub fn replace_rows(
    target: &Path,
    source: &Path,
    kept: Option<&Path>,
    tables: &[&str],
    report: Report<'_>,
) -> Result<()> {
    let connection = open_connection(target)?;
    let source = source.to_str().ok_or_else(|| Error::internal("the path is not UTF-8"))?;
    connection.execute("ATTACH DATABASE ?1 AS restored", [source]).map_err(translate)?;
    connection.execute_batch("BEGIN IMMEDIATE").map_err(translate)?;
    if let Some(kept) = kept {
        copy_file(target, kept, &mut |_| ())?;
        make_alone(kept)?;
    }
    let total = tables.len() as u64;
    for (done, table) in (1..).zip(tables) {
        let replace = format!("DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM restored.{table}");
        connection.execute_batch(&replace).map_err(translate)?;
        report(Progress { done, total });
    }
    // The index is no table like others: it is made anew, and its streams are indexed again.
    let index = format!(
        "DROP TABLE main.search_entries;
         {}
         INSERT INTO main.search_entries (rowid, terms, conversation_id, seq, timestamp_sent)
             SELECT rowid, terms, conversation_id, seq, timestamp_sent FROM restored.search_entries ORDER BY rowid",
        search::SQLITE_TABLE.replace("messaging.", "main."),
    );
    connection.execute_batch(&index).map_err(translate)?;
    // Ids are not given again, also those whose rows are gone: of whoever was erased, of keys that were revoked.
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
        .map_err(translate)?;
    connection.execute_batch("COMMIT; DETACH DATABASE restored").map_err(translate)
}
