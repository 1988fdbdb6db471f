//! Rules for passwords, and their hashes.
//!
//! Invariants:
//! - Hashes are argon2id with the parameters that OWASP recommends: 19 MiB, 2 passes, 1 lane.
//! - At most `MAX_CONCURRENT_HASHES` hashes are computed at a time, on threads that may block.
//! - Lengths are limited before anything is hashed.
//! - Verifying costs one hash even if the user does not exist or has no password.

use std::sync::Arc;

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokio::sync::Semaphore;

use super::common_passwords::is_common;
use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::Rng;
use crate::base::metrics::Metrics;

/// Shortest password, in characters.
pub const MIN_PASSWORD_CHARACTERS: usize = 8;
/// Longest password, in characters.
pub const MAX_PASSWORD_CHARACTERS: usize = 256;
/// Hashes computed at a time. Each takes 19 MiB of memory and one core.
const MAX_CONCURRENT_HASHES: usize = 2;
/// How many hashes may wait for their turn.
const WAITING_LIMIT: usize = 64;
/// Memory of one hash, in KiB.
const MEMORY_KIB: u32 = 19_456;
/// Passes over the memory.
const PASSES: u32 = 2;
/// Parallel lanes.
const LANES: u32 = 1;
/// Bytes of salt.
const SALT_BYTES: usize = 16;

/// Checks a new password. `names` are texts that it must not equal: the user name and the e-mail address of the user.
pub fn check_new(field: &'static str, password: &str, names: &[&str]) -> Option<FieldError> {
    let characters = password.chars().count();
    if characters < MIN_PASSWORD_CHARACTERS {
        return Some(FieldError::new(field, "too_short", "must have at least 8 characters"));
    }
    if characters > MAX_PASSWORD_CHARACTERS {
        return Some(FieldError::new(field, "too_long", "must have at most 256 characters"));
    }
    if password.contains('\0') {
        return Some(FieldError::new(field, "nul_character", "must not contain U+0000"));
    }
    if names.iter().any(|name| !name.is_empty() && name.eq_ignore_ascii_case(password)) {
        return Some(FieldError::new(field, "password_is_name", "must not be the user name or the email address"));
    }
    is_common(password).then(|| FieldError::new(field, "common_password", "This password is too common"))
}

/// Checks a password that the user enters to log in or to confirm a change. No other rules apply to it.
pub fn check_shown(field: &'static str, password: &str) -> Option<FieldError> {
    password.contains('\0').then(|| FieldError::new(field, "nul_character", "must not contain U+0000"))
}

/// Computes and verifies hashes. Cheap to clone.
#[derive(Clone)]
pub struct PasswordHashing {
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    /// A hash that no password matches. It is used for users who do not exist or have no password.
    stand_in: Arc<str>,
    metrics: Arc<Metrics>,
}

impl PasswordHashing {
    /// Creates the limits for hashing, and a stand-in hash that consists of random bytes.
    ///
    /// # Errors
    /// An internal error if the system gives no random bytes.
    pub fn new(rng: &Rng, metrics: Arc<Metrics>) -> Result<Self> {
        let salt: [u8; SALT_BYTES] = rng.bytes().map_err(Error::internal)?;
        let unknown: [u8; 32] = rng.bytes().map_err(Error::internal)?;
        let (salt, unknown) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(unknown));
        let stand_in = format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${unknown}");
        Ok(Self {
            running: Arc::new(Semaphore::new(MAX_CONCURRENT_HASHES)),
            admitted: Arc::new(Semaphore::new(MAX_CONCURRENT_HASHES + WAITING_LIMIT)),
            stand_in: stand_in.into(),
            metrics,
        })
    }

    /// Hashes a password that [`check_new`] has accepted.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if too many passwords wait to be hashed.
    pub async fn hash(&self, rng: &Rng, password: String) -> Result<String> {
        let salt: [u8; SALT_BYTES] = rng.bytes().map_err(Error::internal)?;
        self.run(move || hash_now(password.as_bytes(), &salt)).await?
    }

    /// Whether a password matches the hash. The duration is the same if there is no hash.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if too many passwords wait to be hashed.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool> {
        let can_match = hash.is_some() && password.chars().nth(MAX_PASSWORD_CHARACTERS).is_none();
        let hash = if can_match { hash } else { None }.unwrap_or_else(|| self.stand_in.to_string());
        // A text that is too long for a password is not hashed, because hashing takes longer for longer texts.
        let password = if can_match { password } else { String::new() };
        let same = self
            .run(move || {
                hasher().is_ok_and(|hasher| hasher.verify_password(password.as_bytes(), hash.as_str()).is_ok())
            })
            .await?;
        Ok(same && can_match)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let busy = |_| Error::unavailable("too many requests wait for a password to be hashed or verified");
        let _admission = self.admitted.try_acquire().map_err(busy)?;
        let permit = Arc::clone(&self.running).acquire_owned().await.map_err(Error::internal)?;
        self.metrics.password_hashes.inc();
        // The closure owns the permit. If the caller goes away, the permit is released only when the work is done.
        tokio::task::spawn_blocking(move || {
            let outcome = work();
            drop(permit);
            outcome
        })
        .await
        .map_err(Error::internal)
    }
}

fn hasher() -> Result<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| Error::internal(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash_now(password: &[u8], salt: &[u8]) -> Result<String> {
    let hash = hasher()?.hash_password_with_salt(password, salt).map_err(|error| Error::internal(error.to_string()))?;
    Ok(hash.to_string())
}
