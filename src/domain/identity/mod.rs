//! Users, how they log in, API keys, and the audit log of accounts.

pub mod api_keys;
pub mod audit;
pub mod common_passwords;
pub mod credentials;
pub mod jwt;
pub mod known_callers;
pub mod login_attempts;
pub mod mfa;
pub mod names;
pub mod password_hashing;
pub mod passwords;
pub mod revocations;
pub mod sessions;
pub mod tokens;
pub mod users;
