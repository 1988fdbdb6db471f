//! Rows of the event log and of outgoing webhooks.

pub mod events;
pub mod webhooks;
