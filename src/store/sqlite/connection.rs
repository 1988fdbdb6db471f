//! Opening connections with the settings that each of ours has.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::driver::{Conn, translate};
use crate::base::error::Result;

/// How long a statement waits for a lock that another process holds (backup, restore, a command line).
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before asking again, where SQLite does not wait by itself.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Page cache of the writer, in KiB: it holds what a thousand lively conversations touch. Commits look through all of it.
const WRITER_CACHE_KIB: i64 = 16_384;
/// Page cache of any other connection, in KiB.
const PAGE_CACHE_KIB: i64 = 4_096;
const STATEMENT_CACHE: usize = 256;

/// A connection with the settings that every one of ours has. The file is not mapped into memory: there, a read that fails
/// would end the process with a signal.
pub fn open_connection(path: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::default()).map_err(translate)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(translate)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    // Without this guarantee SQLite looks at bound values when it plans, and plans anew whenever one
    // changes: a debugger showed that happening in the look-up of every page.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(translate)?;
    rusqlite::vtab::array::load_module(&connection).map_err(translate)?;
    // What is erased is overwritten in the file, not only unlinked.
    let settings = [("synchronous", 2), ("cache_size", -PAGE_CACHE_KIB), ("foreign_keys", 0), ("secure_delete", 1)];
    for (name, value) in settings {
        connection.pragma_update(None, name, value).map_err(translate)?;
    }
    Ok(connection)
}

/// The connection of the writer: it sets the journal mode of a new file, and never copies the log by itself.
pub fn open_writer(path: &Path) -> Result<Connection> {
    let connection = open_connection(path)?;
    switch_to_wal(&connection)?;
    // The log's file is made with the first look at the database.
    connection.pragma_query(None, "schema_version", |_| Ok(())).map_err(translate)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(translate)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB).map_err(translate)?;
    Ok(connection)
}

/// On a new file this needs every lock, and SQLite does not wait for them by itself when another server starts beside us.
fn switch_to_wal(connection: &Connection) -> Result<()> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match set_journal_mode(connection, "PRAGMA journal_mode = WAL") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < deadline => {
                std::thread::sleep(BUSY_PAUSE);
            }
            outcome => return outcome.map_err(translate),
        }
    }
}

/// Steps to the end of the statement: SQLite commits the change behind its row, and an error of that is seen nowhere else.
pub fn set_journal_mode(connection: &Connection, pragma: &str) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(pragma)?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// A connection that refuses to write.
pub fn open_reader(path: &Path) -> Result<Connection> {
    let connection = open_connection(path)?;
    connection.pragma_update(None, "query_only", true).map_err(translate)?;
    Ok(connection)
}

/// A connection for a command that has the file to itself.
pub fn open_alone(path: &Path) -> Result<Conn> {
    open_connection(path).map(Conn::new)
}

/// Where a path leads, if it is a link.
pub fn resolved(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
