//! Black-box tests over real sockets. Every behaviour is tested on SQLite and on PostgreSQL by the same test: see `both!`.

mod support;

mod access;
mod admin;
mod api_keys;
mod audit;
mod conventions;
mod cookies;
mod durability;
mod edits;
mod erasure;
mod export;
mod friends;
mod groups;
mod history;
mod idempotency;
mod jwt;
mod limits;
mod login_attempts;
mod mail;
mod matrix;
mod messages;
mod mfa;
mod operations;
mod passwords;
mod properties;
mod proxy;
mod restore;
mod scheduled;
mod search;
mod secrecy;
mod sessions;
mod timeline;
mod users;
