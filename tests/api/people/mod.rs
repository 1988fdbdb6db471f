//! Tests of friends, presence, erasure, export and reports.

pub mod erasure;
pub mod export;
pub mod friends;
pub mod presence;
pub mod reports;
