//! Black-box tests over real sockets. Every behaviour is tested on SQLite and on PostgreSQL by the same test: see `both!`.

mod support;

mod access;
mod conventions;
mod durability;
mod properties;
mod idempotency;
mod messages;
mod operations;
mod timeline;
mod users;
