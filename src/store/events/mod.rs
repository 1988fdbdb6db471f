//! Rows of the event log and of outgoing webhooks.

pub mod event_kinds;
pub mod events;
pub mod webhooks;
