//! Tests of messages and what belongs to them.

pub mod blank_texts;
pub mod changes;
pub mod edits;
pub mod forwards;
pub mod history;
pub mod mentions;
pub mod messages;
pub mod pins;
pub mod reactions;
pub mod receipts;
pub mod search;
pub mod threads;
pub mod timeline;
pub mod times;
pub mod unread;
