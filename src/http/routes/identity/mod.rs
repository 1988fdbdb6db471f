//! Routes of accounts and credentials.

pub mod api_keys;
pub mod audit;
pub mod mfa;
pub mod passwords;
pub mod sessions;
pub mod users;
