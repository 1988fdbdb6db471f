//! The storage floor: one SQL text, two drivers, units of work.
//!
//! Invariants:
//! - A unit of work is one transaction. When [`db::Db::write`] answers, it is on disk or it never happened.
//! - Work is `Fn` over its input, for it may be run again, and awaits nothing but its own statements.
//! - Parameters are written `$1`, tables `messaging.name`, lists `= ANY($1)`; a driver translates what its database says
//!   differently, nobody else does.
//! - Only `sqlite/` names rusqlite and only `postgres/` names tokio_postgres.

pub mod account_codes;
pub mod api_keys;
pub mod audit;
pub mod backup_digest;
pub mod changes;
pub mod clock;
mod columns;
pub mod conversation_kinds;
pub mod conversations;
pub mod copy;
pub mod db;
pub mod digests;
pub mod edits;
pub mod environment;
pub mod erasure;
pub mod events;
pub mod fatal;
pub mod files;
pub mod friends;
pub mod health;
pub mod idempotency;
pub mod incoming_webhooks;
pub mod invites;
pub mod login_attempts;
pub mod members;
pub mod mentions;
pub mod messages;
pub mod mfa;
pub mod migrations;
pub mod passwords;
pub mod pins;
pub mod postgres;
pub mod presence;
pub mod progress;
pub mod reactions;
pub mod receipts;
pub mod removals;
pub mod reports;
pub mod revocations;
pub mod scheduled;
pub mod search;
pub mod sends;
pub mod sessions;
pub mod sqlite;
pub mod stats;
pub mod threads;
pub mod users;
pub mod values;
pub mod webhooks;
mod words;
pub mod write_status;
