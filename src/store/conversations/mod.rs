//! Rows of conversations, their members, invites and incoming webhooks.

pub mod conversation_kinds;
pub mod conversations;
pub mod incoming_webhooks;
pub mod invites;
pub mod members;
