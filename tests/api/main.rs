//! Black-box tests over real sockets. Every behaviour is tested on SQLite and on PostgreSQL by the same test: see `both!`.

mod support;

mod access;
mod conventions;
mod durability;
mod edits;
mod friends;
mod history;
mod idempotency;
mod mail;
mod matrix;
mod messages;
mod operations;
mod properties;
mod proxy;
mod restore;
mod secrecy;
mod timeline;
mod users;
