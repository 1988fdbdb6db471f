//! PostgreSQL's errors in the words of this crate, and what each says about the connection it came over.
//!
//! Invariant: a fault that passes by itself is [`Error::Unavailable`] or [`Error::Rerun`], never [`Error::Internal`]. This is
//! the one place that knows SQLSTATEs.

use std::error::Error as _;

use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::base::error::Error;

/// What a pooler does that gives one connection's statements to another one.
pub const MIXED_STATEMENTS: &str = "a connection pooler in transaction mode mixes up the prepared statements of its \
    connections: use PgBouncer 1.21 or newer with max_prepared_statements above 0, or a pool mode of session";

/// How much an error condemns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The statement alone: the connection works on.
    Statement,
    /// The connection it came over: its server side is gone, or in a state that no statement mends.
    Connection,
    /// Every connection made so far: what happened to one has happened to all, or will.
    Pool,
}

/// An error with what it condemns.
pub struct Fault {
    /// For the caller.
    pub error: Error,
    /// For the pool.
    pub scope: Scope,
}

/// Whether an error that answers a COMMIT, or a statement before it, proves that nothing was committed: PostgreSQL itself said
/// that the transaction failed. A connection that ends (FATAL), and what a pooler says about one (class 08), prove nothing.
pub fn proves_rollback(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|reported| {
        let state = reported.code();
        reported.parsed_severity() == Some(Severity::Error)
            && !state.code().starts_with("08")
            && *state != SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
    })
}

/// Translates an error.
pub fn fault(error: tokio_postgres::Error) -> Fault {
    // The error's own text has a DETAIL that repeats the row, which may hold personal data: the log gets none of it.
    let Some(reported) = error.as_db_error() else {
        // No SQLSTATE: the connection itself failed, or a value could not be converted.
        let conversion = error.source().is_some_and(|source| source.is::<tokio_postgres::types::WrongType>());
        return if conversion {
            Fault { error: Error::internal(error), scope: Scope::Statement }
        } else {
            Fault { error: Error::unavailable(error), scope: Scope::Pool }
        };
    };
    let text = format!("{} ({})", reported.message(), reported.code().code());
    if mixes_statements(reported) {
        return Fault { error: Error::unavailable(format!("{MIXED_STATEMENTS}: {text}")), scope: Scope::Pool };
    }
    let scope = scope(reported);
    let state = reported.code();
    let error = match *state {
        SqlState::UNIQUE_VIOLATION => {
            Error::Duplicate { constraint: reported.constraint().unwrap_or_default().to_owned() }
        }
        // A division by zero is a statement that found its premise gone (`store::sends::append`). A plan that has become
        // invalid was prepared before a migration.
        SqlState::T_R_SERIALIZATION_FAILURE
        | SqlState::T_R_DEADLOCK_DETECTED
        | SqlState::TRANSACTION_ROLLBACK
        | SqlState::DIVISION_BY_ZERO
        | SqlState::FEATURE_NOT_SUPPORTED => Error::Rerun(text.into()),
        SqlState::DISK_FULL => Error::StorageFull,
        _ if passes(state) => Error::unavailable(text),
        _ => Error::internal(text),
    };
    Fault { error, scope }
}

/// Whether an error goes away without anybody changing this program or its data.
fn passes(state: &SqlState) -> bool {
    // 08: connection; 25: transaction state, such as a standby (25006) or a transaction that idled for too long (25P03);
    // 28: authorization, which changes while passwords are rotated; 53: resources; 55: locks and objects in use;
    // 57: operator intervention, cancelled statements included; 58: input and output; 72: old snapshots.
    ["08", "25", "28", "53", "55", "57", "58", "72"].iter().any(|class| state.code().starts_with(class))
        || *state == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
        || *state == SqlState::INVALID_CATALOG_NAME
}

/// Whether a statement of another connection stood where one of ours was expected.
fn mixes_statements(reported: &DbError) -> bool {
    let code = reported.code();
    let misplaced = *code == SqlState::INVALID_SQL_STATEMENT_NAME || *code == SqlState::DUPLICATE_PSTATEMENT;
    // The parameters did not fit. A pooler reports troubles of its own with the same code, but as fatal.
    let misfits = *code == SqlState::PROTOCOL_VIOLATION || *code == SqlState::INVALID_BINARY_REPRESENTATION;
    misplaced || (misfits && !is_fatal(reported))
}

fn is_fatal(reported: &DbError) -> bool {
    matches!(reported.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
}

fn scope(reported: &DbError) -> Scope {
    let code = reported.code();
    let everywhere = [
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::FEATURE_NOT_SUPPORTED,
    ];
    if everywhere.contains(code) || code.code().starts_with("08") {
        Scope::Pool
    } else if is_fatal(reported) {
        Scope::Connection
    } else {
        Scope::Statement
    }
}
