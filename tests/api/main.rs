//! Black-box tests over real sockets. Every behaviour is tested on SQLite and on PostgreSQL by the same test: see `both!`.

mod conversations;
mod documentation;
mod events;
#[path = "../faults/mod.rs"]
mod faults;
mod http;
mod identity;
mod matrix;
mod messages;
mod operations;
mod people;
mod plans;
mod properties;
mod sending;
mod support;
