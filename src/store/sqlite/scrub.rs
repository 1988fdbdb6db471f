//! Overwrites free space inside the pages of the database file.
//!
//! With `secure_delete` SQLite overwrites deleted rows in place. But when SQLite splits or merges pages it copies rows, and
//! the old copies remain in space that is now free. Deleting such a row later overwrites only the new copy.
//!
//! Invariants: only bytes outside all rows change. They change through SQLite itself, so that no connection has the old
//! bytes in its cache and writes them back. Other connections can write between the transactions of this module.

use std::ops::Range;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::driver::error_from_sqlite;
use crate::base::error::Result;

/// The number of pages that are read in one snapshot.
const PAGES_PER_SNAPSHOT: i64 = 1_024;
/// The maximum number of pages that are overwritten in one transaction.
const PAGES_PER_TRANSACTION: usize = 256;
/// Pause between two transactions, so that other connections can write.
const PAUSE: Duration = Duration::from_millis(5);
/// A file with this number of pages or more is not scrubbed. A page that continues a long row begins with a page number of
/// four bytes. From this number on, the first byte can be the same as in a page of rows.
const PAGES_LIMIT: i64 = 0x0200_0000;

/// The free space of a page: between the list of row offsets and the rows. `None` for a page without such space.
fn free_space(page: &[u8], number: i64) -> Option<Range<usize>> {
    // The first page begins with the header of the file.
    let header = if number == 1 { 100 } else { 0 };
    let header_length = match page.get(header)? {
        2 | 5 => 12,
        10 | 13 => 8,
        _ => return None,
    };
    let number_at =
        |at: usize| Some(usize::from(u16::from_be_bytes([*page.get(header + at)?, *page.get(header + at + 1)?])));
    let from = header + header_length + 2 * number_at(3)?;
    let to = match number_at(5)? {
        0 => 65_536,
        start => start,
    };
    (from <= to && to <= page.len()).then_some(from..to)
}

/// Reads a page and overwrites its free space in memory. `None` when the free space is already empty.
fn scrubbed(connection: &Connection, number: i64) -> rusqlite::Result<Option<Vec<u8>>> {
    let mut statement = connection.prepare_cached("SELECT data FROM sqlite_dbpage WHERE pgno = ?1")?;
    let page: Option<Vec<u8>> = statement.query_row([number], |row| row.get(0)).optional()?;
    Ok(page.and_then(|mut page| {
        let free = free_space(&page, number)?;
        let free = &mut page[free];
        free.iter().any(|byte| *byte != 0).then(|| free.fill(0))?;
        Some(page)
    }))
}

/// Overwrites the free space of all pages.
pub fn scrub(connection: &mut Connection) -> Result<()> {
    let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).map_err(error_from_sqlite)?;
    if pages >= PAGES_LIMIT {
        tracing::warn!(
            "the database's file is too large to overwrite free space in its pages: erased data may remain there"
        );
        return Ok(());
    }
    let mut next = 1;
    while next <= pages {
        let last = pages.min(next + PAGES_PER_SNAPSHOT - 1);
        let found = pages_with_remains(connection, next..=last).map_err(error_from_sqlite)?;
        for numbers in found.chunks(PAGES_PER_TRANSACTION) {
            overwrite(connection, numbers).map_err(error_from_sqlite)?;
            std::thread::sleep(PAUSE);
        }
        next = last + 1;
    }
    Ok(())
}

/// The numbers of the pages whose free space contains remains of old rows.
fn pages_with_remains(
    connection: &mut Connection,
    numbers: std::ops::RangeInclusive<i64>,
) -> rusqlite::Result<Vec<i64>> {
    let snapshot = connection.transaction()?;
    let mut found = Vec::new();
    for number in numbers {
        if scrubbed(&snapshot, number)?.is_some() {
            found.push(number);
        }
    }
    Ok(found)
}

fn overwrite(connection: &mut Connection, numbers: &[i64]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for number in numbers {
        // Read the page again, because another connection may have changed it.
        if let Some(page) = scrubbed(&transaction, *number)? {
            let mut statement = transaction.prepare_cached("UPDATE sqlite_dbpage SET data = ?2 WHERE pgno = ?1")?;
            statement.execute((number, page))?;
        }
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(kind: u8, rows: u16, start: u16) -> Vec<u8> {
        let mut page = vec![0xaa; 4_096];
        page[0] = kind;
        page[3..5].copy_from_slice(&rows.to_be_bytes());
        page[5..7].copy_from_slice(&start.to_be_bytes());
        page
    }

    #[test]
    fn free_space_lies_between_the_row_offsets_and_the_rows() {
        assert_eq!(free_space(&page(13, 3, 4_000), 7), Some(14..4_000));
        assert_eq!(free_space(&page(10, 0, 4_096), 7), Some(8..4_096));
        assert_eq!(free_space(&page(5, 1, 2_000), 7), Some(14..2_000));
        assert_eq!(free_space(&page(2, 1, 2_000), 7), Some(14..2_000));
        // A page that is completely full; a page without rows; invalid pages.
        assert_eq!(free_space(&page(13, 10, 28), 7), Some(28..28));
        assert_eq!(free_space(&page(0, 3, 4_000), 7), None);
        assert_eq!(free_space(&page(13, 3_000, 4_000), 7), None);
        assert_eq!(free_space(&page(13, 3, 5_000), 7), None);
        assert_eq!(free_space(&page(13, 3, 0), 7), None);
        assert_eq!(free_space(&[13, 0], 7), None);
        assert_eq!(free_space(&[], 7), None);
        let mut first = vec![0; 100];
        first.extend(page(13, 2, 900));
        assert_eq!(free_space(&first, 1), Some(112..900));
    }

    #[test]
    fn old_copies_of_rows_are_overwritten_and_rows_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let mut connection = crate::store::sqlite::connection::open_connection(&path).unwrap();
        connection.execute_batch("CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT) WITHOUT ROWID; BEGIN").unwrap();
        for number in 0..2_000 {
            // In no order, so that SQLite splits pages in the middle.
            let key = format!("{:05}", number * 7_919 % 2_000);
            let value = format!("{}{key}", if number % 2 == 0 { "secret" } else { "public" });
            connection.execute("INSERT INTO t VALUES (?1, ?2)", (key, value)).unwrap();
        }
        connection.execute_batch("COMMIT; DELETE FROM t WHERE v LIKE 'secret%'").unwrap();
        let kept = |connection: &Connection| -> Vec<String> {
            let mut statement = connection.prepare("SELECT v FROM t ORDER BY k").unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        let holds_secret = || std::fs::read(&path).unwrap().windows(6).any(|window| window == b"secret");
        let before = kept(&connection);
        assert!(holds_secret(), "the test needs an old copy of a row");
        scrub(&mut connection).unwrap();
        assert!(!holds_secret());
        assert_eq!(kept(&connection), before);
        let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok");
    }
}
