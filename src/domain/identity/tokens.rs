//! Tokens: random texts that callers send as credentials or codes. A prefix shows the kind of token.
//!
//! Invariant: only the SHA-256 of a token is stored. A token has 256 random bits, so it needs neither a salt nor a slow
//! hash.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::base::error::{Error, Result};
use crate::base::ids::Rng;
pub use crate::store::identity::sessions::SecretHash;

/// Bytes of randomness in a token.
const RANDOM_BYTES: usize = 32;
/// Longest token that is processed, in characters. No token of this server and no accepted JWT is longer.
pub const MAX_TOKEN_CHARACTERS: usize = 8_192;

/// The kind of a token, shown by its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// The token of a session.
    Session,
    /// An API key.
    ApiKey,
    /// Resets a password.
    PasswordReset,
    /// Confirms an e-mail address.
    EmailConfirmation,
    /// Lets a user join a group.
    Invite,
    /// Lets a program post messages into a group.
    IncomingWebhook,
}

impl TokenKind {
    /// The prefix. Scanners for leaked secrets can search for it.
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

/// A new token. Its text is shown once; only its hash is stored.
pub struct Token {
    /// The token as its holder sends it.
    pub text: String,
    /// The hash to store.
    pub hash: SecretHash,
}

impl Token {
    /// Creates a random token.
    ///
    /// # Errors
    /// An internal error if the system gives no random bytes.
    pub fn new(rng: &Rng, kind: TokenKind) -> Result<Self> {
        let random: [u8; RANDOM_BYTES] = rng.bytes().map_err(Error::internal)?;
        let text = format!("{}{}", kind.prefix(), URL_SAFE_NO_PAD.encode(random));
        let hash = hash(&text);
        Ok(Self { text, hash })
    }
}

/// The hash under which a token is stored.
pub fn hash(text: &str) -> SecretHash {
    Sha256::digest(text.as_bytes()).into()
}
