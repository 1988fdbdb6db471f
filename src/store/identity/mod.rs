//! Rows of users, their credentials and their sessions.

pub mod account_codes;
pub mod api_keys;
pub mod audit;
pub mod login_attempts;
pub mod mfa;
pub mod passwords;
pub mod revocations;
pub mod sessions;
pub mod users;

/// Statements that remove the personal data of person $1 during an erasure.
pub(in crate::store) const DELETED_WITH_PERSON: &[&str] = &[
    "DELETE FROM messaging.passwords WHERE user_id = $1",
    "DELETE FROM messaging.sessions WHERE user_id = $1",
    "DELETE FROM messaging.totp_secrets WHERE user_id = $1",
    "DELETE FROM messaging.recovery_codes WHERE user_id = $1",
    "DELETE FROM messaging.account_codes WHERE user_id = $1",
];
