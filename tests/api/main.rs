//! Tests of the API over real sockets. `both!` runs the same test on SQLite and on PostgreSQL.
//!
//! Most tests check only answers, events, the output of commands, and rows. The tests use the library for four purposes:
//!
//! - `support::server` runs the server in the process of the tests, so that tests can set options that the command line does not
//!   have: a clock, short time limits, disabled tasks, panics.
//! - A seeded generator makes random tests repeatable, and `Timestamp` reads and writes times.
//! - Tests run one step of a task themselves: housekeeping, scheduled sends, search sorting, presence.
//! - Tests cause what no request can cause, or check what no answer shows: an answer that cannot be rendered, a failing unit of
//!   work, the audience of an event on generated rows, the rewriting of SQL for SQLite.

mod contract;
mod conversations;
mod documentation;
mod events;
#[path = "../faults/mod.rs"]
mod faults;
mod files;
mod http;
mod identity;
mod matrix;
mod messages;
mod operations;
mod people;
mod plans;
mod previews;
mod properties;
mod sending;
mod support;
