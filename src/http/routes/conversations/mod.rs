//! Routes of conversations and their members.

pub mod conversations;
pub mod incoming_webhooks;
pub mod invites;
pub mod members;
pub mod typing;
