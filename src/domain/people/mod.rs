//! What connects people, and what the server holds about one of them.

pub mod erasure;
pub mod export;
pub mod friends;
pub mod presence;
pub mod reachability;
pub mod reports;
