//! Black-box tests over real sockets. Every behaviour is tested on SQLite and on PostgreSQL by the same test: see `both!`.

mod support;

mod access;
mod admin;
mod api_keys;
mod audit;
mod conventions;
mod durability;
mod erasure;
mod export;
mod idempotency;
mod jwt;
mod limits;
mod mail;
mod messages;
mod operations;
mod properties;
mod proxy;
mod restore;
mod secrecy;
mod timeline;
mod users;
