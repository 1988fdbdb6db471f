//! Events: cursors, the data and the audience of an event, and outgoing webhooks.

pub mod audience;
pub mod event_data;
pub mod events;
pub mod webhooks;
