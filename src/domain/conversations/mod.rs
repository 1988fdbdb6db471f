//! Conversations, their members, and the ways into them.

pub mod conversations;
pub mod incoming_webhooks;
pub mod invites;
pub mod members;
pub mod system_messages;
pub mod typing;
pub mod typing_throttle;
