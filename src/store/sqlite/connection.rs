//! Opening connections with the settings that all connections of this program share.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::driver::{Conn, error_from_sqlite};
use crate::base::error::Result;

/// How long a statement waits for a lock that another process holds (backup, restore, a command line).
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before another attempt, where SQLite does not wait by itself.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Page cache of the writer, in KiB. It holds the pages of about a thousand active conversations. It is not larger, because
/// each commit scans all of it.
const WRITER_CACHE_KIB: i64 = 16_384;
/// Page cache of any other connection, in KiB.
const PAGE_CACHE_KIB: i64 = 4_096;
const STATEMENT_CACHE: usize = 256;

/// Opens a connection with the settings that all connections share. The file is not mapped into memory, because a failed
/// read of a mapped page would end the process with a signal.
pub fn open_connection(path: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::default()).map_err(error_from_sqlite)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(error_from_sqlite)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    // SQLite's query planner stability guarantee. Without it SQLite uses the values of parameters for planning, and plans a
    // statement again when a value changes. A debugger showed this for the query that loads a page of a list.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(error_from_sqlite)?;
    rusqlite::vtab::array::load_module(&connection).map_err(error_from_sqlite)?;
    // `secure_delete`: erased data is overwritten in the file, not only unlinked.
    let settings = [("synchronous", 2), ("cache_size", -PAGE_CACHE_KIB), ("foreign_keys", 0), ("secure_delete", 1)];
    for (name, value) in settings {
        connection.pragma_update(None, name, value).map_err(error_from_sqlite)?;
    }
    Ok(connection)
}

/// Opens the writer's connection. It sets the journal mode of a new file, and never starts a checkpoint by itself.
pub fn open_writer(path: &Path) -> Result<Connection> {
    let connection = open_connection(path)?;
    switch_to_wal(&connection)?;
    // SQLite creates the file of the write-ahead log on the first access to the database.
    connection.pragma_query(None, "schema_version", |_| Ok(())).map_err(error_from_sqlite)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(error_from_sqlite)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB).map_err(error_from_sqlite)?;
    Ok(connection)
}

/// Sets the journal mode to WAL. On a new file this needs all locks, and SQLite does not wait for them when another server
/// starts at the same time, so this function retries.
fn switch_to_wal(connection: &Connection) -> Result<()> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match set_journal_mode(connection, "PRAGMA journal_mode = WAL") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < deadline => {
                std::thread::sleep(BUSY_PAUSE);
            }
            outcome => return outcome.map_err(error_from_sqlite),
        }
    }
}

/// Sets the journal mode. All rows of the statement are read, because SQLite commits the change after the first row and
/// reports an error of that commit only on the next step.
pub fn set_journal_mode(connection: &Connection, pragma: &str) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(pragma)?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// Opens a connection that refuses to write.
pub fn open_reader(path: &Path) -> Result<Connection> {
    let connection = open_connection(path)?;
    connection.pragma_update(None, "query_only", true).map_err(error_from_sqlite)?;
    Ok(connection)
}

/// Opens a connection for a command, when no other process uses the file.
pub fn open_alone(path: &Path) -> Result<Conn> {
    open_connection(path).map(Conn::new)
}

/// The path with symbolic links resolved, or the path itself when that fails.
pub fn resolved(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
