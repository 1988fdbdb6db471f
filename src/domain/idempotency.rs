//! Idempotency keys: an answer that was given is given again.
//!
//! Invariant: the record is written in the transaction of what it answers for, so either both are there or neither is.

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
pub use crate::store::idempotency::{Digest, Record, StoredAnswer};
use crate::time::Timestamp;

/// Days that a key is kept, today not counted.
pub const KEPT_DAYS: i64 = 7;
/// How far apart the clocks of two nodes may be.
const CLOCK_SKEW_MICROS: i64 = 60 * 60 * 1_000_000;
/// Characters of a key.
pub const MAX_KEY_CHARACTERS: usize = 255;

/// A request that came with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedRequest {
    /// Scope and key.
    pub digest: Digest,
    /// Method, path and body.
    pub request_hash: [u8; 32],
}

impl KeyedRequest {
    /// Hashes what identifies the key, and what identifies the request.
    ///
    /// # Errors
    /// 422 on `Idempotency-Key` when it is not 1..255 printable ASCII characters.
    pub fn new(scope: &str, key: &[u8], method: &str, path: &str, body: &[u8]) -> Result<Self> {
        if key.is_empty() || key.len() > MAX_KEY_CHARACTERS || !key.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            return Err(Error::invalid(
                "Idempotency-Key",
                "invalid_idempotency_key",
                "must be 1 to 255 printable ASCII characters",
            ));
        }
        let full = hash(&[scope.as_bytes(), key]);
        let mut digest = Digest::default();
        digest.copy_from_slice(&full[..16]);
        Ok(Self { digest, request_hash: hash(&[method.as_bytes(), path.as_bytes(), body]) })
    }

    /// The stored answer, if it answered this very request.
    ///
    /// # Errors
    /// [`Error::IdempotencyKeyReused`] when it answered another.
    pub fn replay(&self, record: &Record) -> Result<StoredAnswer> {
        if record.request_hash == self.request_hash {
            Ok(record.answer.clone())
        } else {
            Err(Error::IdempotencyKeyReused)
        }
    }
}

/// The days on which a key that still counts may have been stored. Tomorrow is one of them: another node's clock may be
/// ahead, or this one may have been set back.
pub fn days_kept(now: Timestamp) -> Vec<i64> {
    (now.day() - KEPT_DAYS..=now.day() + 1).rev().collect()
}

/// The days, other than today, that today may be for another node: none but around midnight.
pub fn neighbouring_days(now: Timestamp) -> Vec<i64> {
    let days = [-CLOCK_SKEW_MICROS, CLOCK_SKEW_MICROS].map(|skew| Timestamp::from_micros(now.micros() + skew).day());
    days.into_iter().filter(|day| *day != now.day()).collect()
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
