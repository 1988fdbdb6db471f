//! Events: cursors, what an event shows and to whom, and outgoing webhooks.

pub mod audience;
pub mod event_data;
pub mod events;
pub mod webhooks;
