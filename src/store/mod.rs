//! The storage floor: one SQL text, two drivers, units of work.
//!
//! Invariants:
//! - A unit of work is one transaction. When [`db::Db::write`] answers, it is on disk or it never happened.
//! - Work is `Fn` over its input, for it may be run again, and awaits nothing but its own statements.
//! - Parameters are written `$1`, tables `messaging.name`, lists `= ANY($1)`; a driver translates what its database says
//!   differently, nobody else does.
//! - Only `sqlite/` names rusqlite and only `postgres/` names tokio_postgres.

pub mod batches;
pub mod conversations;
pub mod db;
pub mod driver;
pub mod events;
pub mod identity;
pub mod messages;
pub mod operations;
pub mod people;
pub mod postgres;
pub mod shared;
pub mod sqlite;
