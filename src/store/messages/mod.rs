//! Rows of messages and of what belongs to a message.

pub mod digests;
pub mod edits;
pub mod mentions;
pub mod messages;
pub mod pins;
pub mod reactions;
pub mod receipts;
pub mod removals;
pub mod scheduled;
pub mod search;
pub mod threads;
