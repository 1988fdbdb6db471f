//! Idempotency keys: a request that is repeated with its key gets the stored answer of the first one.
//!
//! Invariant: the record of a key is written in the transaction of the change that it belongs to, so either both are
//! stored or neither is.
//!
//! Invariant: the day under which keys are stored goes back by at most one day, whatever the clock does; see
//! [`KeyDays`].

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest as _, Sha256};

use crate::base::error::{Error, Result};
use crate::base::ids::UserId;
use crate::base::time::Timestamp;
use crate::store;
use crate::store::db::{Conn, Db};
pub use crate::store::shared::idempotency::{Digest, Record, StoredAnswer};

/// For how many days a key is kept, not counting today.
pub const KEPT_DAYS: i64 = 7;
/// Within this time before or after midnight, a key is also looked up under the neighbouring day before it is stored.
/// The clocks of two nodes differ by less.
const AROUND_MIDNIGHT_MICROS: i64 = 60 * 60 * 1_000_000;
/// Longest key, in characters.
pub const MAX_KEY_CHARACTERS: usize = 255;

/// The days under which keys are stored and looked up.
///
/// A clock that is set back would hide yesterday's keys, and a repeated request would be executed twice. So if the
/// newest day with a key is later than tomorrow, keys are stored under that day, and they are looked up around both
/// days. Deletion uses today's date only, which is never the later one.
///
/// The newest day is kept in memory, so a send needs no extra query. It is read from the database at the start of the
/// server, and then every few seconds just before the database's clock is read. So a node that goes back to an earlier
/// day already knows the days under which other nodes have stored keys.
#[derive(Clone, Debug, Default)]
pub struct KeyDays {
    newest: Arc<AtomicI64>,
    /// The newest day under which a key was stored while the clock showed an earlier day, because it had been set back.
    set_back_until: Arc<AtomicI64>,
}

impl KeyDays {
    /// Reads the newest day from the database.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn learn(&self, db: &Db) -> Result<()> {
        let known = self.newest.load(Ordering::Relaxed);
        let newer =
            db.read(known, |conn, known| Box::pin(store::shared::idempotency::newest_day(conn, *known))).await?;
        self.newest.fetch_max(newer.unwrap_or(known), Ordering::Relaxed);
        Ok(())
    }

    /// The day under which a key is stored now.
    pub fn current(&self, now: Timestamp) -> i64 {
        // The day counts even if the transaction is rolled back later. This does no harm.
        let newest = self.newest.fetch_max(now.day(), Ordering::Relaxed);
        self.later_day(newest, now).unwrap_or(now.day())
    }

    /// The newest day, if today's keys are stored under it. A small correction of the clock around midnight does not
    /// need this, because tomorrow is always looked up as well.
    fn later_day(&self, newest: i64, now: Timestamp) -> Option<i64> {
        let is_later = newest > now.day() + 1;
        if is_later {
            self.set_back_until.fetch_max(newest, Ordering::Relaxed);
        }
        is_later.then_some(newest)
    }

    /// Whether keys may be stored under a later day than the day of their messages. This is so if the clock was set
    /// back and keys of that time are still kept.
    pub fn are_late(&self, now: Timestamp) -> bool {
        self.later_day(self.newest.load(Ordering::Relaxed), now);
        self.set_back_until.load(Ordering::Relaxed) >= now.day() - KEPT_DAYS - 1
    }

    /// The days under which a key that is still valid may be stored, the newest first. Tomorrow is included, because
    /// the clock of another node may be slightly ahead.
    pub fn kept(&self, now: Timestamp) -> Vec<i64> {
        let around = |day: i64| day - KEPT_DAYS..=day + 1;
        let newest = self.newest.load(Ordering::Relaxed);
        let mut days: Vec<i64> = around(now.day()).collect();
        if newest > now.day() {
            days.extend(around(newest).filter(|day| *day > now.day() + 1));
        }
        days.reverse();
        days
    }

    /// The days other than this node's current day that another node may use as its current day.
    fn neighbouring(&self, now: Timestamp) -> Vec<i64> {
        let current = self.current(now);
        // Another node may not have read the clock yet since it was set back.
        let newest = self.newest.load(Ordering::Relaxed);
        if newest > now.day() {
            return (newest - 1..=newest + 1).filter(|day| *day != current).collect();
        }
        let days = [-AROUND_MIDNIGHT_MICROS, AROUND_MIDNIGHT_MICROS]
            .map(|skew| Timestamp::from_micros(now.micros() + skew).day());
        days.into_iter().filter(|day| *day != current).collect()
    }
}

/// The idempotency key of a request.
#[derive(Clone, Debug)]
pub struct KeyedRequest {
    /// Hash of the scope and the key.
    pub digest: Digest,
    /// Hash of the method, the path and the body.
    pub request_hash: [u8; 32],
    /// The key that encrypts an answer with a secret. It is derived from the scope, the idempotency key and the body of
    /// the request. The idempotency key is not stored, only its hash `digest`.
    seal: [u8; 32],
    /// The days under which the key is stored and looked up.
    pub days: KeyDays,
}

/// A POST that creates something. It is executed once, however often it is repeated with its key. A unit of work that
/// creates one object uses [`given`](Self::given) and [`give`](Self::give). A batch of sends uses the functions for
/// many requests: [`stored_answers`], [`prepare`](Self::prepare) and [`keep`].
#[derive(Clone, Debug)]
pub struct Once<T> {
    /// The key, if the request came with one.
    pub request: Option<KeyedRequest>,
    /// Renders the answer from the object that was created. It is called in the transaction, because the answer is
    /// stored there. Each route has its own function, so it comes with the request and not from
    /// [`Renderer`](super::rendering::Renderer).
    pub render: fn(&T) -> Result<StoredAnswer>,
    /// Whether the answer holds a secret. Such an answer is stored encrypted.
    pub sealed: bool,
}

/// An answer, and whether it is a stored one.
#[derive(Clone, Debug)]
pub struct KeyedAnswer {
    /// The answer.
    pub answer: StoredAnswer,
    /// Whether it is the stored answer of an earlier request.
    pub replayed: bool,
}

impl KeyedAnswer {
    /// The answer of a request that was executed now.
    pub const fn now(answer: StoredAnswer) -> Self {
        Self { answer, replayed: false }
    }
}

/// An answer to a request with a key. It is sent after its record has been stored.
#[derive(Debug)]
pub struct Prepared<'a> {
    record: Record,
    days: &'a KeyDays,
    /// The answer in plain text, if the record contains it encrypted.
    unsealed: Option<StoredAnswer>,
}

impl Prepared<'_> {
    /// The digest of the key.
    pub const fn digest(&self) -> &Digest {
        &self.record.digest
    }

    /// The answer to send.
    pub fn give(self) -> KeyedAnswer {
        KeyedAnswer::now(self.unsealed.unwrap_or(self.record.answer))
    }
}

impl<T> Once<T> {
    /// A request without a key, whose answer nobody reads.
    pub const fn without_key() -> Self {
        const fn nothing<T>(_: &T) -> Result<StoredAnswer> {
            Ok(StoredAnswer { status: 201, location: None, body: Vec::new() })
        }
        Self { request: None, render: nothing, sealed: false }
    }

    /// The stored answer for this key, if there is one. Call this first in the transaction.
    ///
    /// # Errors
    /// [`Error::IdempotencyKeyReused`]; errors of the database.
    pub async fn given(&self, conn: &mut Conn, now: Timestamp) -> Result<Option<KeyedAnswer>> {
        stored_answers(conn, now, &[self]).await?.pop().flatten().transpose()
    }

    /// Renders the answer and stores it in the transaction. `subject` is the user whom the answer is about.
    ///
    /// # Errors
    /// [`Error::Rerun`] if another request with this key was committed first; errors of the database.
    pub async fn give(
        &self,
        conn: &mut Conn,
        now: Timestamp,
        made: &T,
        subject: Option<UserId>,
    ) -> Result<KeyedAnswer> {
        let Some(prepared) = self.prepare(made, subject)? else { return (self.render)(made).map(KeyedAnswer::now) };
        keep(conn, now, &[&prepared]).await?;
        Ok(prepared.give())
    }

    /// Renders the answer and builds the record to store; `None` for a request without a key. `subject` is the user
    /// whom the answer is about; `None` if it is about a message.
    ///
    /// # Errors
    /// Errors of the rendering.
    pub fn prepare(&self, made: &T, subject: Option<UserId>) -> Result<Option<Prepared<'_>>> {
        let Some(request) = &self.request else { return Ok(None) };
        let mut answer = (self.render)(made)?;
        let mut unsealed = None;
        if self.sealed {
            unsealed = Some(answer.clone());
            answer.body = request.seal(answer.body)?;
        }
        let KeyedRequest { digest, request_hash, .. } = *request;
        let record = Record { digest, request_hash, answer, subject_id: subject };
        Ok(Some(Prepared { record, days: &request.days, unsealed }))
    }

    fn replay(&self, request: &KeyedRequest, record: &Record) -> Result<KeyedAnswer> {
        if record.request_hash != request.request_hash {
            return Err(Error::IdempotencyKeyReused);
        }
        let mut answer = record.answer.clone();
        if self.sealed {
            answer.body = request.open(answer.body)?;
        }
        Ok(KeyedAnswer { answer, replayed: true })
    }
}

/// Looks up the stored answers of several requests with one query. The entry of a request is `None` if the request is
/// new or has no key. It is [`Error::IdempotencyKeyReused`] if the key was used with a different request.
///
/// # Errors
/// Errors of the database.
pub async fn stored_answers<T>(
    conn: &mut Conn,
    now: Timestamp,
    requests: &[&Once<T>],
) -> Result<Vec<Option<Result<KeyedAnswer>>>> {
    let keyed: Vec<&KeyedRequest> = requests.iter().filter_map(|once| once.request.as_ref()).collect();
    let records = match keyed.first() {
        Some(first) => {
            let digests: Vec<&[u8]> = keyed.iter().map(|request| request.digest.as_slice()).collect();
            store::shared::idempotency::find(conn, &first.days.kept(now), &digests).await?
        }
        None => Vec::new(),
    };
    let given = |once: &&Once<T>| {
        let request = once.request.as_ref()?;
        let record = records.iter().find(|record| record.digest == request.digest)?;
        Some(once.replay(request, record))
    };
    Ok(requests.iter().map(given).collect())
}

impl KeyedRequest {
    /// Hashes the scope with the key, and the request.
    ///
    /// # Errors
    /// 422 for `Idempotency-Key` if it is not 1 to 255 printable ASCII characters.
    pub fn new(days: &KeyDays, scope: &str, key: &[u8], method: &str, path: &str, body: &[u8]) -> Result<Self> {
        if key.is_empty() || key.len() > MAX_KEY_CHARACTERS || !key.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            return Err(Error::invalid(
                "Idempotency-Key",
                "invalid_idempotency_key",
                "must have 1 to 255 printable ASCII characters",
            ));
        }
        let full = hash(&[scope.as_bytes(), key]);
        let mut digest = Digest::default();
        digest.copy_from_slice(&full[..16]);
        Ok(Self {
            digest,
            request_hash: hash(&[method.as_bytes(), path.as_bytes(), body]),
            seal: hash(&[b"seal", scope.as_bytes(), key, body]),
            days: days.clone(),
        })
    }

    fn cipher(&self) -> Result<LessSafeKey> {
        let key = UnboundKey::new(&AES_256_GCM, &self.seal)
            .map_err(|_| Error::internal("the key for stored answers cannot be used"))?;
        Ok(LessSafeKey::new(key))
    }

    /// Returns the nonce, the encrypted body and its tag. The nonce is derived from the body. If a request is repeated
    /// after its record was deleted, a different answer is encrypted with the same key, and it must not use the nonce
    /// of the first answer.
    fn seal(&self, mut body: Vec<u8>) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&hash(&[b"nonce", &self.seal, &body])[..NONCE_LEN]);
        let sealed =
            self.cipher()?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut body);
        sealed.map_err(|_| Error::internal("an answer could not be encrypted"))?;
        Ok([&nonce[..], &body].concat())
    }

    fn open(&self, mut stored: Vec<u8>) -> Result<Vec<u8>> {
        if stored.is_empty() {
            // An erasure has emptied the stored answer.
            return Ok(stored);
        }
        let damaged = || Error::internal("an encrypted answer could not be decrypted");
        let (nonce, body) = stored.split_at_mut_checked(NONCE_LEN).ok_or_else(damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
        let opened = self.cipher()?.open_in_place(nonce, Aad::empty(), body);
        Ok(opened.map_err(|_| damaged())?.to_vec())
    }
}

/// Stores answers in the transaction of the changes that they belong to. Returns the day under which they are stored.
///
/// # Errors
/// [`Error::Rerun`] if another request with one of the keys was committed first: its answer can now be found.
pub async fn keep(conn: &mut Conn, now: Timestamp, prepared: &[&Prepared<'_>]) -> Result<i64> {
    let Some(first) = prepared.first() else { return Ok(now.day()) };
    let days = first.days;
    let day = days.current(now);
    let mut records: Vec<&Record> = prepared.iter().map(|prepared| &prepared.record).collect();
    records.sort_unstable_by_key(|record| record.digest);
    // Two nodes on different sides of midnight store a key under different days, so their rows do not conflict. This
    // search finds the other row: two nodes that send wait for each other at the lock of the conversation, so the
    // second one sees here what the first one has committed.
    let neighbouring = days.neighbouring(now);
    if !neighbouring.is_empty() {
        let digests: Vec<&[u8]> = records.iter().map(|record| record.digest.as_slice()).collect();
        if !store::shared::idempotency::find(conn, &neighbouring, &digests).await?.is_empty() {
            return Err(Error::Rerun("another node had one of the keys, on another day".into()));
        }
    }
    match store::shared::idempotency::insert(conn, day, &records).await {
        Err(Error::Duplicate { constraint }) => Err(Error::Rerun(constraint.into())),
        outcome => outcome.map(|()| day),
    }
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
