//! The rules, one file a noun. Nothing here knows HTTP; nothing here writes SQL.

pub mod auth;
pub mod demo;
pub mod health;
pub mod idempotency;
pub mod jwt;
pub mod lists;
pub mod messages;
pub mod send_batch;
pub mod send_queue;
pub mod tails;
pub mod timeline;
pub mod users;
