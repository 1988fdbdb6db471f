//! Rules for passwords, and their hashes.
//!
//! Invariants:
//! - Hashes are argon2id with the parameters that OWASP recommends: 19 MiB, 2 passes, 1 lane.
//! - At most `MAX_CONCURRENT_HASHES` hashes are computed at a time, on threads that may block.
//! - Lengths are limited before anything is hashed.
//! - A password is hashed in the form of the profile OpaqueString of RFC 8265, so it matches however a device encodes its
//!   letters.
//! - Verifying a wrong password costs as many hashes if the user does not exist or has no password as it does otherwise.

use std::sync::Arc;

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokio::sync::Semaphore;
use unicode_normalization::UnicodeNormalization;

use super::common_passwords::is_common;
use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::Rng;
use crate::base::metrics::Metrics;

/// Shortest password, in characters.
pub const MIN_PASSWORD_CHARACTERS: usize = 8;
/// Longest password, in characters.
pub const MAX_PASSWORD_CHARACTERS: usize = 256;
/// Longest text that is normalized, in characters. NFD has at most four characters for each one of NFC.
const MAX_WRITTEN_CHARACTERS: usize = 4 * MAX_PASSWORD_CHARACTERS;
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
/// Lengths are those of the normalized password.
pub fn check_new(field: &'static str, password: &str, names: &[&str]) -> Option<FieldError> {
    let too_long = || Some(FieldError::new(field, "too_long", "must have at most 256 characters"));
    if password.chars().nth(MAX_WRITTEN_CHARACTERS).is_some() {
        return too_long();
    }
    let normalized = normalize(password);
    let characters = normalized.chars().count();
    if characters < MIN_PASSWORD_CHARACTERS {
        return Some(FieldError::new(field, "too_short", "must have at least 8 characters"));
    }
    if characters > MAX_PASSWORD_CHARACTERS {
        return too_long();
    }
    if normalized.contains('\0') {
        return Some(FieldError::new(field, "nul_character", "must not contain U+0000"));
    }
    if normalized.contains(char::is_control) {
        let detail = "must not contain control characters, such as tabs and line breaks";
        return Some(FieldError::new(field, "control_character", detail));
    }
    if names.iter().any(|name| !name.is_empty() && name.eq_ignore_ascii_case(&normalized)) {
        return Some(FieldError::new(field, "password_is_name", "must not be the user name or the email address"));
    }
    is_common(&normalized).then(|| FieldError::new(field, "common_password", "This password is too common"))
}

/// The form of a password that is hashed: OpaqueString of RFC 8265, section 4.2. Every space becomes U+0020, and the text is
/// composed (NFC). Case and width stay. In contrast to the profile, joiners and characters that a later version of Unicode
/// assigns are accepted, because emoji contain them.
fn normalize(password: &str) -> String {
    password.chars().map(|character| if is_space(character) { ' ' } else { character }).nfc().collect()
}

/// Whether a character belongs to the category Zs of Unicode.
const fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\u{A0}' | '\u{1680}' | '\u{2000}'..='\u{200A}' | '\u{202F}' | '\u{205F}' | '\u{3000}')
}

/// The texts that are compared with a stored hash: the normalized password, then the password as it was written, because
/// older versions hashed that. A text that is too long for a password is left out, because hashing takes longer for longer
/// texts.
fn forms_to_verify(password: String) -> Vec<String> {
    if password.chars().nth(MAX_WRITTEN_CHARACTERS).is_some() {
        return Vec::new();
    }
    let normalized = normalize(&password);
    let written = (normalized != password).then_some(password);
    let is_short_enough = |form: &String| form.chars().nth(MAX_PASSWORD_CHARACTERS).is_none();
    std::iter::once(normalized).chain(written).filter(is_short_enough).collect()
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
        self.run(move || hash_now(normalize(&password).as_bytes(), &salt)).await?
    }

    /// Whether a password matches the hash, in its normalized form or as it was written. The duration for a wrong password is the
    /// same if there is no hash.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if too many passwords wait to be hashed.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool> {
        let forms = forms_to_verify(password);
        let can_match = hash.is_some() && !forms.is_empty();
        let hash: Arc<str> = hash.filter(|_| can_match).map_or_else(|| Arc::clone(&self.stand_in), Arc::from);
        // Without a form that can match, an empty text is hashed, so that the duration shows nothing.
        let forms = if forms.is_empty() { vec![String::new()] } else { forms };
        for form in forms {
            let hash = Arc::clone(&hash);
            let matches = move || hasher().is_ok_and(|hasher| hasher.verify_password(form.as_bytes(), &*hash).is_ok());
            if self.run(matches).await? {
                return Ok(can_match);
            }
        }
        Ok(false)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_normalized_as_an_opaque_string() {
        for (written, normalized) in [
            ("correct horse battery staple", "correct horse battery staple"),
            ("Correct Horse Battery Staple", "Correct Horse Battery Staple"),
            ("πßå", "πßå"),
            ("e\u{301}A\u{30A}", "éÅ"),
            ("\u{212B}", "Å"),
            ("\u{3000}a\u{A0}b\u{2003}c\u{202F} ", " a b c  "),
            // Width and compatibility forms stay, and so do the joiners of emoji.
            ("Ｊack of ◆s ﬁ", "Ｊack of ◆s ﬁ"),
            ("👩\u{200D}🚀\u{FE0F}", "👩\u{200D}🚀\u{FE0F}"),
        ] {
            assert_eq!(normalize(written), normalized);
            assert_eq!(normalize(normalized), normalized);
        }
    }

    #[test]
    fn lengths_count_after_normalization() {
        let code = |password: &str| check_new("password", password, &[]).map(|error| error.code);
        assert_eq!(code(&"e\u{301}".repeat(7)), Some("too_short"));
        assert_eq!(code("e\u{301}tudes de Me\u{301}lie\u{300}s"), None);
        let longest: String = (0..16).map(|_| "a\u{30A}b c\u{327}d e\u{301}f g\u{303}h i\u{308}k").collect();
        assert_eq!(longest.nfc().count(), 16 * 15);
        assert_eq!(code(&longest), None);
        assert_eq!(code(&"\u{1F82}".repeat(257)), Some("too_long"));
        assert_eq!(code(&"x".repeat(100_000)), Some("too_long"));
        assert_eq!(code("seven\tsamurai"), Some("control_character"));
        assert_eq!(code("seven\u{85}samurai"), Some("control_character"));
    }

    #[test]
    fn the_written_form_is_tried_second() {
        assert_eq!(forms_to_verify("plain".into()), ["plain"]);
        assert_eq!(forms_to_verify("e\u{301}".into()), ["é", "e\u{301}"]);
        assert!(forms_to_verify("x".repeat(257)).is_empty());
        assert_eq!(forms_to_verify("e\u{301}".repeat(200)), ["é".repeat(200)]);
    }
}
