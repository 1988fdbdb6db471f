//! Idempotency keys: an answer that was given is given again.
//!
//! Invariant: the record is written in the transaction of what it answers for, so either both are there or neither is.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::ids::UserId;
pub use crate::store::idempotency::{Digest, Record, StoredAnswer};
use crate::store::{self, Conn};
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
    /// Seals an answer that holds a secret: it is made of the key itself, of which only `digest` is stored.
    seal: [u8; 32],
}

/// How a POST that creates something is answered: once, whatever is repeated.
#[derive(Clone)]
pub struct Once<T> {
    /// The key, if the request came with one.
    pub request: Option<KeyedRequest>,
    /// Renders what was made.
    pub render: fn(&T) -> Result<StoredAnswer>,
    /// Whether the answer holds a secret, and is stored sealed.
    pub sealed: bool,
}

/// An answer, and whether it was given before.
#[derive(Clone, Debug)]
pub struct Given {
    /// What to answer.
    pub answer: StoredAnswer,
    /// Whether it was given before.
    pub replayed: bool,
}

impl<T> Once<T> {
    /// The answer that was given to this key, if there was one. To be asked first in the transaction.
    ///
    /// # Errors
    /// [`Error::IdempotencyKeyReused`]; of the database.
    pub async fn given(&self, conn: &mut Conn, now: Timestamp) -> Result<Option<Given>> {
        let Some(request) = &self.request else { return Ok(None) };
        let found = store::idempotency::find(conn, &days_kept(now), &[request.digest.as_slice()]).await?;
        let Some(record) = found.first() else { return Ok(None) };
        let mut answer = request.replay(record)?;
        if self.sealed {
            answer.body = request.open(answer.body)?;
        }
        Ok(Some(Given { answer, replayed: true }))
    }

    /// Renders what was made, and keeps the answer beside it. `subject` is the person whom it is about.
    ///
    /// # Errors
    /// [`Error::Rerun`] when another request with this key was faster; of the database.
    pub async fn give(&self, conn: &mut Conn, now: Timestamp, made: &T, subject: Option<UserId>) -> Result<Given> {
        let answer = (self.render)(made)?;
        if let Some(request) = &self.request {
            let mut stored = answer.clone();
            if self.sealed {
                stored.body = request.seal(stored.body)?;
            }
            let KeyedRequest { digest, request_hash, .. } = *request;
            keep(conn, now, &[Record { digest, request_hash, answer: stored, subject_id: subject }]).await?;
        }
        Ok(Given { answer, replayed: false })
    }
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
        Ok(Self {
            digest,
            request_hash: hash(&[method.as_bytes(), path.as_bytes(), body]),
            seal: hash(&[b"seal", scope.as_bytes(), key, body]),
        })
    }

    fn cipher(&self) -> Result<LessSafeKey> {
        let key = UnboundKey::new(&AES_256_GCM, &self.seal).map_err(|_| Error::internal("no cipher"))?;
        Ok(LessSafeKey::new(key))
    }

    /// The nonce, the sealed body and its tag. The nonce comes from the body: when a request is repeated after its answer
    /// was forgotten, another answer is sealed under the same key, and must not share a nonce with the first one.
    fn seal(&self, mut body: Vec<u8>) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&hash(&[b"nonce", &self.seal, &body])[..NONCE_LEN]);
        let sealed =
            self.cipher()?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut body);
        sealed.map_err(|_| Error::internal("an answer could not be sealed"))?;
        Ok([&nonce[..], &body].concat())
    }

    fn open(&self, mut stored: Vec<u8>) -> Result<Vec<u8>> {
        if stored.is_empty() {
            // It was blanked.
            return Ok(stored);
        }
        let damaged = || Error::internal("a sealed answer could not be opened");
        let (nonce, body) = stored.split_at_mut_checked(NONCE_LEN).ok_or_else(damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
        let opened = self.cipher()?.open_in_place(nonce, Aad::empty(), body);
        Ok(opened.map_err(|_| damaged())?.to_vec())
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

/// Keeps answers, in the transaction of what they answer for.
///
/// # Errors
/// [`Error::Rerun`] when another request with one of the keys was faster: its answer is there to be found now.
pub async fn keep(conn: &mut Conn, now: Timestamp, records: &[Record]) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let mut records: Vec<&Record> = records.iter().collect();
    records.sort_unstable_by_key(|record| record.digest);
    // Two nodes on either side of midnight do not meet at the key's row. Those that send meet at the lock of the
    // conversation: what the one has committed, the other sees from here on.
    let days = neighbouring_days(now);
    if !days.is_empty() {
        let digests: Vec<&[u8]> = records.iter().map(|record| record.digest.as_slice()).collect();
        if !store::idempotency::find(conn, &days, &digests).await?.is_empty() {
            return Err(Error::Rerun("another node had one of the keys, on another day".into()));
        }
    }
    match store::idempotency::insert(conn, now.day(), &records).await {
        Err(Error::Duplicate { constraint }) => Err(Error::Rerun(constraint.into())),
        outcome => outcome,
    }
}

/// The days, other than today, that today may be for another node: none but around midnight.
fn neighbouring_days(now: Timestamp) -> Vec<i64> {
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
