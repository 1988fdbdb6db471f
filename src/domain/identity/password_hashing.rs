//! Passwords: what may be one, and its hash.
//!
//! Invariants: argon2id with the parameters that OWASP recommends (19 MiB, 2 passes, 1 lane); never more than
//! `HASHES_AT_ONCE` at a time, on threads that may block; lengths are bounded before anything is hashed. An attempt with a
//! name or a password that is not there costs one hash too.

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

/// Characters of a password.
pub const MIN_PASSWORD_CHARACTERS: usize = 8;
/// Characters of a password.
pub const MAX_PASSWORD_CHARACTERS: usize = 256;
/// Hashes under way; each takes 19 MiB and a core.
const HASHES_AT_ONCE: usize = 2;
/// Hashes that may wait for their turn.
const WAITING_LIMIT: usize = 64;
/// Memory of a hash, in KiB.
const MEMORY_KIB: u32 = 19_456;
/// Passes over it.
const PASSES: u32 = 2;
/// Lanes.
const LANES: u32 = 1;
/// Bytes of salt.
const SALT_BYTES: usize = 16;

/// Checks a new password; `names` are texts that it must not be: the person's own name and address.
pub fn check_new(field: &'static str, password: &str, names: &[&str]) -> Option<FieldError> {
    let characters = password.chars().count();
    if characters < MIN_PASSWORD_CHARACTERS {
        return Some(FieldError::new(field, "too_short", "must have at least 8 characters"));
    }
    if characters > MAX_PASSWORD_CHARACTERS {
        return Some(FieldError::new(field, "too_long", "may have up to 256 characters"));
    }
    if password.contains('\0') {
        return Some(FieldError::new(field, "nul_character", "must not hold U+0000"));
    }
    if names.iter().any(|name| !name.is_empty() && name.eq_ignore_ascii_case(password)) {
        return Some(FieldError::new(field, "password_is_name", "must not be the user's own name or address"));
    }
    is_common(password).then(|| {
        FieldError::new(field, "common_password", "is one of the first that an attacker tries: choose another")
    })
}

/// Checks a password that is shown, for which there are no other rules.
pub fn check_shown(field: &'static str, password: &str) -> Option<FieldError> {
    password.contains('\0').then(|| FieldError::new(field, "nul_character", "must not hold U+0000"))
}

/// Hashes and verifies. Cheap to clone.
#[derive(Clone)]
pub struct PasswordHashing {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// The hash of no password, for names that are not there.
    dummy: Arc<str>,
    metrics: Arc<Metrics>,
}

impl PasswordHashing {
    /// Makes the dummy: random bytes in the place of a hash, which no password has.
    ///
    /// # Errors
    /// When there is no randomness to be had.
    pub fn new(rng: &Rng, metrics: Arc<Metrics>) -> Result<Self> {
        let salt: [u8; SALT_BYTES] = rng.bytes().map_err(Error::internal)?;
        let unknown: [u8; 32] = rng.bytes().map_err(Error::internal)?;
        let (salt, unknown) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(unknown));
        let dummy = format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${unknown}");
        Ok(Self {
            turns: Arc::new(Semaphore::new(HASHES_AT_ONCE)),
            places: Arc::new(Semaphore::new(HASHES_AT_ONCE + WAITING_LIMIT)),
            dummy: dummy.into(),
            metrics,
        })
    }

    /// The hash of a password that was checked.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when too many wait.
    pub async fn hash(&self, rng: &Rng, password: String) -> Result<String> {
        let salt: [u8; SALT_BYTES] = rng.bytes().map_err(Error::internal)?;
        self.run(move || hash_now(password.as_bytes(), &salt)).await?
    }

    /// Whether a password is the one that was hashed; one hash is computed whether there is one or not.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when too many wait.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool> {
        let there = hash.is_some() && password.chars().nth(MAX_PASSWORD_CHARACTERS).is_none();
        let hash = if there { hash } else { None }.unwrap_or_else(|| self.dummy.to_string());
        // What is too long to be a password is not hashed at its length.
        let password = if there { password } else { String::new() };
        let same = self
            .run(move || {
                hasher().is_ok_and(|hasher| hasher.verify_password(password.as_bytes(), hash.as_str()).is_ok())
            })
            .await?;
        Ok(same && there)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let busy = |_| Error::unavailable("too many passwords are being checked");
        let _place = self.places.try_acquire().map_err(busy)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(Error::internal)?;
        self.metrics.password_hashes.inc();
        // The turn goes along: a caller that goes away does not make room before the work is done.
        tokio::task::spawn_blocking(move || {
            let outcome = work();
            drop(turn);
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
