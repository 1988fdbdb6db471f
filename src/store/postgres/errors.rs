//! Converts PostgreSQL's errors to [`Error`], and decides for each error which connections must not be used again.
//!
//! Invariant: an error that can disappear without a change of this program or its data is [`Error::Unavailable`] or
//! [`Error::Rerun`], never [`Error::Internal`]. Only this file knows SQLSTATEs.

use std::error::Error as _;

use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::base::error::Error;

/// The error for a pooler that runs the prepared statements of one connection on another one.
pub const MIXED_STATEMENTS: &str = "a connection pooler in transaction mode mixes up the prepared statements of its \
    connections: use PgBouncer 1.21 or newer with max_prepared_statements above 0, or a pool mode of session";

/// What must not be used again after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Affected {
    /// Only the statement failed. The connection can be used further.
    Statement,
    /// The connection: its process in PostgreSQL has ended, or is in a state that no statement repairs.
    Connection,
    /// All connections that exist, because the cause affects all of them.
    Pool,
}

/// The error for the caller, and what must not be used again after it.
pub struct Fault {
    /// The error for the caller.
    pub error: Error,
    /// What the pool must not use again.
    pub affected: Affected,
}

/// Whether an error in answer to a COMMIT, or to a statement before it, proves that nothing was committed. It does when
/// PostgreSQL itself reported that the transaction failed. The end of a connection (FATAL) and a pooler's report about a
/// connection (class 08) prove nothing.
pub fn proves_rollback(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|reported| {
        let state = reported.code();
        reported.parsed_severity() == Some(Severity::Error)
            && !state.code().starts_with("08")
            && *state != SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
    })
}

/// Converts an error of PostgreSQL.
pub fn fault(error: tokio_postgres::Error) -> Fault {
    // The full text of the error has a DETAIL that repeats the row. It may hold personal data, so it is not logged.
    let Some(reported) = error.as_db_error() else {
        // Without a SQLSTATE the connection itself failed, or a value could not be converted.
        let conversion = error.source().is_some_and(|source| source.is::<tokio_postgres::types::WrongType>());
        return if conversion {
            Fault { error: Error::internal(error), affected: Affected::Statement }
        } else {
            Fault { error: Error::unavailable(error), affected: Affected::Pool }
        };
    };
    let text = format!("{} ({})", reported.message(), reported.code().code());
    if mixes_statements(reported) {
        return Fault { error: Error::unavailable(format!("{MIXED_STATEMENTS}: {text}")), affected: Affected::Pool };
    }
    let affected = affected_by(reported);
    let state = reported.code();
    let error = match *state {
        SqlState::UNIQUE_VIOLATION => {
            Error::Duplicate { constraint: reported.constraint().unwrap_or_default().to_owned() }
        }
        // A statement divides by zero on purpose when its assumption no longer holds (`store::batches::sends::append`).
        // PostgreSQL reports `FEATURE_NOT_SUPPORTED` when a migration has made the plan of a prepared statement invalid.
        SqlState::T_R_SERIALIZATION_FAILURE
        | SqlState::T_R_DEADLOCK_DETECTED
        | SqlState::TRANSACTION_ROLLBACK
        | SqlState::DIVISION_BY_ZERO
        | SqlState::FEATURE_NOT_SUPPORTED => Error::Rerun(text.into()),
        SqlState::DISK_FULL => Error::StorageFull,
        _ if is_transient(state) => Error::unavailable(text),
        _ => Error::internal(text),
    };
    Fault { error, affected }
}

/// Whether an error can disappear without a change of this program or its data.
fn is_transient(state: &SqlState) -> bool {
    // 08: connection; 25: transaction state, such as a standby (25006) or a transaction that was idle for too long (25P03);
    // 28: authorization, which can change while passwords are rotated; 53: resources; 55: locks and objects in use;
    // 57: operator intervention, including cancelled statements; 58: input and output; 72: old snapshots.
    ["08", "25", "28", "53", "55", "57", "58", "72"].iter().any(|class| state.code().starts_with(class))
        || *state == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
        || *state == SqlState::INVALID_CATALOG_NAME
}

/// Whether an error shows that a pooler mixes up the prepared statements of its connections: PostgreSQL does not know a
/// statement of this connection, already has one of its name, or has run another one in its place.
fn mixes_statements(reported: &DbError) -> bool {
    let code = reported.code();
    let misplaced = *code == SqlState::INVALID_SQL_STATEMENT_NAME || *code == SqlState::DUPLICATE_PSTATEMENT;
    // The parameters did not match the statement. A pooler reports its own problems with the same code, but as fatal.
    let misfits = *code == SqlState::PROTOCOL_VIOLATION || *code == SqlState::INVALID_BINARY_REPRESENTATION;
    misplaced || (misfits && !is_fatal(reported))
}

fn is_fatal(reported: &DbError) -> bool {
    matches!(reported.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
}

fn affected_by(reported: &DbError) -> Affected {
    let code = reported.code();
    let affects_all = [
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::FEATURE_NOT_SUPPORTED,
    ];
    if affects_all.contains(code) || code.code().starts_with("08") {
        Affected::Pool
    } else if is_fatal(reported) {
        Affected::Connection
    } else {
        Affected::Statement
    }
}
