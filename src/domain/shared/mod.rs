//! Rules that several areas use.

pub mod idempotency;
pub mod pagination;
pub mod precondition;
pub mod rendering;
