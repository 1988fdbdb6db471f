//! Rows of users, their credentials and sessions.

pub mod account_codes;
pub mod api_keys;
pub mod audit;
pub mod login_attempts;
pub mod mfa;
pub mod passwords;
pub mod revocations;
pub mod sessions;
pub mod users;
