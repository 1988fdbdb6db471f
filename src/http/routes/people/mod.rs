//! Routes of friends, presence, exports and reports.

pub mod export;
pub mod friends;
pub mod presence;
pub mod reports;
