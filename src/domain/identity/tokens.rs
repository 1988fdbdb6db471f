//! What callers show to be let in: random texts with a prefix that says what they are.
//!
//! Invariant: only the SHA-256 of a token is kept. It has 256 random bits, so it needs neither salt nor a slow hash.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::base::error::{Error, Result};
use crate::base::ids::Rng;
pub use crate::store::identity::sessions::SecretHash;

/// Bytes of randomness.
const RANDOM_BYTES: usize = 32;
/// Characters of a token that is looked at: a longer one is none of ours, nor a JWT that is accepted.
pub const MAX_TOKEN_CHARACTERS: usize = 8_192;

/// What a token is, as its prefix says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Of a session.
    Session,
    /// An API key.
    ApiKey,
    /// Resets a password.
    PasswordReset,
    /// Confirms an e-mail address.
    EmailConfirmation,
    /// Leads into a group.
    Invite,
    /// Writes into a group.
    IncomingWebhook,
}

impl TokenKind {
    /// The prefix, which scanners for leaked secrets can look for.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Session => "phs_",
            Self::ApiKey => "phk_",
            Self::PasswordReset => "phr_",
            Self::EmailConfirmation => "phe_",
            Self::Invite => "phi_",
            Self::IncomingWebhook => "phh_",
        }
    }
}

/// A new token: its text is shown once, its hash is kept.
pub struct Token {
    /// What its holder shows.
    pub text: String,
    /// What is kept.
    pub hash: SecretHash,
}

impl Token {
    /// Makes one.
    ///
    /// # Errors
    /// When there is no randomness to be had.
    pub fn new(rng: &Rng, kind: TokenKind) -> Result<Self> {
        let random: [u8; RANDOM_BYTES] = rng.bytes().map_err(Error::internal)?;
        let text = format!("{}{}", kind.prefix(), URL_SAFE_NO_PAD.encode(random));
        let hash = hash(&text);
        Ok(Self { text, hash })
    }
}

/// What is kept of a token.
pub fn hash(text: &str) -> SecretHash {
    Sha256::digest(text.as_bytes()).into()
}
