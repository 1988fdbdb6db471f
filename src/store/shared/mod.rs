//! Rows that several areas use.

pub mod idempotency;
