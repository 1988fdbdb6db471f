//! Conversations, their members, invites for users, and incoming webhooks for programs.

pub mod conversations;
pub mod incoming_webhooks;
pub mod invites;
pub mod listing;
pub mod members;
pub mod system_messages;
pub mod typing;
pub mod typing_throttle;
