//! Rows of conversations, their members, invites and incoming webhooks.

pub mod conversation_kinds;
pub mod conversations;
pub mod incoming_webhooks;
pub mod invites;
pub mod listing;
pub mod members;

/// Statements that remove the personal data of person $1 during an erasure.
pub(in crate::store) const DELETED_WITH_PERSON: &[&str] =
    &["UPDATE messaging.members SET draft = NULL WHERE user_id = $1"];
