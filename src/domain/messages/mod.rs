//! Reading and changing messages.

pub mod edits;
pub mod emoji;
pub mod emoji_catalog;
pub mod forwards;
pub mod history;
pub mod mentions;
pub mod message_reads;
pub mod messages;
pub mod pins;
pub mod reactions;
pub mod receipts;
pub mod search;
pub mod tails;
pub mod tallies;
pub mod threads;
pub mod timeline;
pub mod watermarks;
