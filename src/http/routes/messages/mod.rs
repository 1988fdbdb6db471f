//! Routes of messages.

pub mod forwards;
pub mod history;
pub mod messages;
pub mod pins;
pub mod reactions;
pub mod receipts;
pub mod search;
pub mod threads;
