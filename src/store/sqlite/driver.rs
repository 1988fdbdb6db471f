//! One SQLite connection: statements, parameters, rows and errors.
//!
//! Invariant: every statement is rewritten here from PostgreSQL's notation to SQLite's. A statement that SQLite does not
//! understand after that has a text for each database in the function that runs it (`Conn::Sqlite`).

use std::collections::HashMap;
use std::rc::Rc;

use rusqlite::types::{ToSqlOutput, Value as Owned, ValueRef};
use rusqlite::{Connection, ErrorCode, Statement};

use crate::base::error::{Error, Result};
use crate::base::time::Timestamp;
use crate::store::driver::values::Value;

/// The current row of a running query.
pub type DriverRow<'a> = rusqlite::Row<'a>;

/// One SQLite connection, with the rewritten texts of the statements that it has run.
pub struct Conn {
    pub(in crate::store) connection: Connection,
    texts: HashMap<(usize, usize), Box<str>>,
}

impl Conn {
    /// Wraps an open connection.
    pub fn new(connection: Connection) -> Self {
        Self { connection, texts: HashMap::new() }
    }

    /// Runs a query and calls `each` with every row.
    pub(in crate::store) fn for_each(
        &mut self,
        sql: &'static str,
        parameters: &[Value<'_>],
        mut each: impl FnMut(&DriverRow<'_>) -> Result<()>,
    ) -> Result<()> {
        let text = rewritten_sql(&mut self.texts, sql);
        let mut statement = self.connection.prepare_cached(text).map_err(error_from_sqlite)?;
        bind(&mut statement, parameters)?;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(error_from_sqlite)? {
            each(row)?;
        }
        Ok(())
    }

    pub(in crate::store) fn execute(&mut self, sql: &'static str, parameters: &[Value<'_>]) -> Result<u64> {
        let text = rewritten_sql(&mut self.texts, sql);
        let mut statement = self.connection.prepare_cached(text).map_err(error_from_sqlite)?;
        bind(&mut statement, parameters)?;
        statement.raw_execute().map(|count| count as u64).map_err(error_from_sqlite)
    }

    pub(in crate::store) fn script(&mut self, sql: &str) -> Result<()> {
        self.connection.execute_batch(&rewrite(sql)).map_err(error_from_sqlite)
    }

    pub(in crate::store) fn is_in_transaction(&self) -> bool {
        !self.connection.is_autocommit()
    }

    pub(in crate::store) fn leave_transaction(&mut self) {
        if self.is_in_transaction()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
    }
}

fn rewritten_sql<'a>(texts: &'a mut HashMap<(usize, usize), Box<str>>, sql: &'static str) -> &'a str {
    // A `'static` text is identified by its address, so the look-up does not hash the text.
    texts.entry((sql.as_ptr().addr(), sql.len())).or_insert_with(|| rewrite(sql).into_boxed_str())
}

/// The clauses of PostgreSQL that lock rows. They are removed, because SQLite has only one writer and needs no row locks.
const ROW_LOCKS: &[&str] =
    &[" FOR UPDATE", " FOR NO KEY UPDATE", " FOR SHARE", " FOR KEY SHARE", " SKIP LOCKED", " NOWAIT"];

/// Rewrites PostgreSQL's notation to SQLite's. `$1` becomes `?1`, because `$1` is a named parameter in SQLite, numbered
/// by its first appearance.
fn rewrite(sql: &str) -> String {
    let mut text = sql.replace("messaging.", "");
    for part in ROW_LOCKS.iter().chain([&" COLLATE \"C\""]) {
        text = text.replace(part, "");
    }
    let mut rewritten = String::with_capacity(text.len() + 16);
    let mut rest = text.as_str();
    while let Some(at) = rest.find("= ANY($") {
        let digits = rest[at + 7..].find(')').unwrap_or(0);
        rewritten.push_str(&rest[..at]);
        rewritten.push_str("IN (SELECT value FROM rarray(?");
        rewritten.push_str(&rest[at + 7..at + 7 + digits]);
        rewritten.push_str("))");
        rest = &rest[at + 8 + digits..];
    }
    rewritten.push_str(rest);
    rewritten.replace('$', "?")
}

fn bind(statement: &mut Statement<'_>, parameters: &[Value<'_>]) -> Result<()> {
    for (index, parameter) in parameters.iter().enumerate() {
        statement.raw_bind_parameter(index + 1, parameter).map_err(error_from_sqlite)?;
    }
    Ok(())
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let borrowed = |value| Ok(ToSqlOutput::Borrowed(value));
        match *self {
            Value::I64(number) => borrowed(ValueRef::Integer(number)),
            Value::OptionI64(number) => borrowed(number.map_or(ValueRef::Null, ValueRef::Integer)),
            Value::Text(text) => borrowed(ValueRef::Text(text.as_bytes())),
            Value::OptionText(text) => borrowed(text.map_or(ValueRef::Null, |text| ValueRef::Text(text.as_bytes()))),
            Value::Bytes(bytes) => borrowed(ValueRef::Blob(bytes)),
            Value::OptionBytes(bytes) => borrowed(bytes.map_or(ValueRef::Null, ValueRef::Blob)),
            Value::Bool(truth) => borrowed(ValueRef::Integer(i64::from(truth))),
            Value::Time(at) => borrowed(ValueRef::Integer(at.micros())),
            Value::OptionTime(at) => borrowed(at.map_or(ValueRef::Null, |at| ValueRef::Integer(at.micros()))),
            Value::I64s(numbers) => list(numbers.iter().map(|number| Owned::Integer(*number))),
            Value::Texts(texts) => list(texts.iter().map(|text| Owned::Text((*text).to_owned()))),
            Value::ByteSlices(slices) => list(slices.iter().map(|bytes| Owned::Blob(bytes.to_vec()))),
            Value::OptionI64s(_) | Value::OptionTexts(_) | Value::OptionByteSlices(_) | Value::Times(_) => {
                Err(rusqlite::Error::ToSqlConversionFailure("only PostgreSQL takes a list of this type".into()))
            }
        }
    }
}

fn list<'a>(values: impl Iterator<Item = Owned>) -> rusqlite::Result<ToSqlOutput<'a>> {
    // SQLite's table function `rarray` accepts only a bound pointer of the type `rarray`.
    Ok(ToSqlOutput::from_rc(Rc::new(values.collect::<Vec<_>>()), c"rarray"))
}

/// Converts an error of SQLite to an [`Error`]. Only this function knows SQLite's error codes.
pub(in crate::store) fn error_from_sqlite(error: rusqlite::Error) -> Error {
    let rusqlite::Error::SqliteFailure(failure, ref message) = error else {
        return Error::internal(error);
    };
    match failure.code {
        ErrorCode::ConstraintViolation
            if [rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE, rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY]
                .contains(&failure.extended_code) =>
        {
            // "UNIQUE constraint failed: users.user_name_key"
            let constraint = message.as_deref().and_then(|message| message.split(": ").nth(1)).unwrap_or_default();
            Error::Duplicate { constraint: constraint.replace('.', "_") }
        }
        ErrorCode::DiskFull => Error::StorageFull,
        // SQLite reports a page that the disk could not read as "malformed" too (SQLITE_IOERR_CORRUPTFS becomes
        // SQLITE_CORRUPT).
        ErrorCode::DatabaseCorrupt => {
            tracing::error!(%error, "the database's file is damaged or cannot be read: run `posthaste doctor`");
            Error::unavailable(error)
        }
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::SystemIoFailure
        | ErrorCode::CannotOpen
        | ErrorCode::ReadOnly
        | ErrorCode::FileLockingProtocolFailed
        | ErrorCode::PermissionDenied => Error::unavailable(error),
        _ => Error::internal(error),
    }
}

/// Whether the error is a failed sync of the write-ahead log, of the database file or of their folder.
pub(super) fn is_failed_sync(error: &Error) -> bool {
    let Error::Unavailable { source, .. } = error else { return false };
    matches!(source.downcast_ref(), Some(rusqlite::Error::SqliteFailure(failure, _))
        if [rusqlite::ffi::SQLITE_IOERR_FSYNC, rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC].contains(&failure.extended_code))
}

fn column<'a>(row: &'a DriverRow<'_>, column: usize) -> Result<ValueRef<'a>> {
    row.get_ref(column).map_err(error_from_sqlite)
}

fn mismatch(value: ValueRef<'_>, column: usize, wanted: &str) -> Error {
    Error::internal(format!("column {column} contains {}, not {wanted}", value.data_type()))
}

pub(in crate::store) fn i64(row: &DriverRow<'_>, index: usize) -> Result<i64> {
    match column(row, index)? {
        ValueRef::Integer(number) => Ok(number),
        other => Err(mismatch(other, index, "BIGINT")),
    }
}

pub(in crate::store) fn option_i64(row: &DriverRow<'_>, index: usize) -> Result<Option<i64>> {
    match column(row, index)? {
        ValueRef::Null => Ok(None),
        ValueRef::Integer(number) => Ok(Some(number)),
        other => Err(mismatch(other, index, "BIGINT")),
    }
}

pub(in crate::store) fn text<'a>(row: &'a DriverRow<'_>, index: usize) -> Result<&'a str> {
    option_text(row, index)?.ok_or_else(|| mismatch(ValueRef::Null, index, "TEXT"))
}

pub(in crate::store) fn option_text<'a>(row: &'a DriverRow<'_>, index: usize) -> Result<Option<&'a str>> {
    match column(row, index)? {
        ValueRef::Null => Ok(None),
        ValueRef::Text(text) => std::str::from_utf8(text).map(Some).map_err(Error::internal),
        other => Err(mismatch(other, index, "TEXT")),
    }
}

pub(in crate::store) fn bytes<'a>(row: &'a DriverRow<'_>, index: usize) -> Result<&'a [u8]> {
    option_bytes(row, index)?.ok_or_else(|| mismatch(ValueRef::Null, index, "BYTEA"))
}

pub(in crate::store) fn option_bytes<'a>(row: &'a DriverRow<'_>, index: usize) -> Result<Option<&'a [u8]>> {
    match column(row, index)? {
        ValueRef::Null => Ok(None),
        ValueRef::Blob(bytes) => Ok(Some(bytes)),
        other => Err(mismatch(other, index, "BYTEA")),
    }
}

pub(in crate::store) fn bool(row: &DriverRow<'_>, index: usize) -> Result<bool> {
    Ok(i64(row, index)? != 0)
}

pub(in crate::store) fn time(row: &DriverRow<'_>, index: usize) -> Result<Timestamp> {
    i64(row, index).map(Timestamp::from_micros)
}

pub(in crate::store) fn option_time(row: &DriverRow<'_>, index: usize) -> Result<Option<Timestamp>> {
    Ok(option_i64(row, index)?.map(Timestamp::from_micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_locks_are_removed() {
        for lock in ["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE", "UPDATE SKIP LOCKED", "SHARE NOWAIT"] {
            let sql = format!("SELECT id FROM messaging.users WHERE id = $1 ORDER BY id FOR {lock}");
            assert_eq!(rewrite(&sql), "SELECT id FROM users WHERE id = ?1 ORDER BY id");
        }
    }
}
