//! Rows of relations between users: friends, blocks, presence and reports; and of erasures.

pub mod erasure;
pub mod friends;
pub mod presence;
pub mod reports;

/// Statements that delete what is kept for person $1, when the person is erased.
const DELETED_WITH_PERSON: &[&str] =
    &["DELETE FROM messaging.presence WHERE user_id = $1", "DELETE FROM messaging.last_seen WHERE user_id = $1"];
