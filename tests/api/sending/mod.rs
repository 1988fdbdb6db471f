//! Tests of sends: repeats and scheduled messages.

pub mod idempotency;
pub mod scheduled;
