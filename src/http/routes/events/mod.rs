//! Routes of live events and webhooks.

pub mod events;
pub mod webhooks;
pub mod ws;
