//! Set-based statements that write a batch of sends or of small changes.

pub mod changes;
pub mod sends;
