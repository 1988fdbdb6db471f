//! The rules of the product: who may do what, which input is valid, and what each operation reads and writes. Each area
//! has a folder, and each noun has a file in the folder of its area.
//!
//! Invariants:
//! - The domain does not depend on the HTTP server: nothing here uses axum or hyper, and errors have codes, not
//!   statuses. Two parts know HTTP. Answers that are stored for idempotency keys contain a status and a `Location`. The
//!   keys of JWTs are downloaded with an HTTP client.
//! - No SQL is written here. Queries are functions of `store`.

pub mod access;
pub mod conversations;
pub mod events;
pub mod files;
pub mod identity;
pub mod messages;
pub mod operations;
pub mod people;
pub mod previews;
pub mod sending;
pub mod shared;
