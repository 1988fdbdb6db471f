//! Tests of accounts and credentials.

pub mod access;
pub mod api_keys;
pub mod audit;
pub mod cookies;
pub mod jwt;
pub mod login_attempts;
pub mod mfa;
pub mod passwords;
pub mod sessions;
pub mod users;
