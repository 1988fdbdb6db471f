//! The storage layer: queries that are written once for both databases, the two drivers, and units of work.
//!
//! Invariants:
//! - A unit of work is one transaction. When [`db::Db::write`] returns success, the transaction is on disk; when it returns
//!   an error, either nothing was committed or the outcome of the commit is unknown.
//! - A unit of work is a function that borrows its input, because a driver may run it again. It awaits only its own
//!   statements.
//! - SQL is written in one form: parameters are `$1`, tables are `messaging.name`, lists are `= ANY($1)`. The SQLite
//!   driver rewrites this form. A function has a text for each database only where one text cannot serve both.
//! - Only `sqlite/` names rusqlite, and only `postgres/` names tokio_postgres.

pub mod batches;
pub mod conversations;
pub mod db;
pub mod driver;
pub mod events;
pub mod files;
pub mod identity;
pub mod messages;
pub mod operations;
pub mod people;
pub mod postgres;
pub mod shared;
pub mod sqlite;
