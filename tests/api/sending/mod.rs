//! Tests of sends: repeats and what is sent later.

pub mod idempotency;
pub mod scheduled;
