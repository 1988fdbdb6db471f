//! The rules of the product: who may do what, which input is valid, and what each operation reads and writes. One
//! folder for each area, and in it one file for each noun.
//!
//! Invariants:
//! - The domain does not depend on the HTTP server: nothing here uses axum or hyper, and errors carry codes, not
//!   statuses. Two parts know something of HTTP: answers that are stored for idempotency keys hold a status and a
//!   `Location`, and the keys of JWTs are downloaded with an HTTP client.
//! - No SQL is written here. Queries are functions of `store`.

pub mod access;
pub mod conversations;
pub mod events;
pub mod identity;
pub mod messages;
pub mod operations;
pub mod people;
pub mod sending;
pub mod shared;
