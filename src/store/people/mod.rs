//! Rows of relations between users: friends, blocks, presence and reports; and of erasures.

pub mod erasure;
pub mod friends;
pub mod presence;
pub mod reports;

/// Statements that remove the personal data of person $1 during an erasure.
const DELETED_WITH_PERSON: &[&str] =
    &["DELETE FROM messaging.presence WHERE user_id = $1", "DELETE FROM messaging.last_seen WHERE user_id = $1"];
