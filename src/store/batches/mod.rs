//! Statements that write a whole batch of sends, or of small changes (reactions and receipts).

pub mod changes;
pub mod sends;
