//! Relations between users, and the personal data of a user.

pub mod bans;
pub mod erasure;
pub mod export;
pub mod friends;
pub mod presence;
pub mod reachability;
pub mod reports;
