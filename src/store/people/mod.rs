//! Rows about people and each other: friends, presence, reports, erasures.

pub mod erasure;
pub mod friends;
pub mod presence;
pub mod reports;
