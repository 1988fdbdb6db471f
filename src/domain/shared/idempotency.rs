//! Idempotency keys: an answer that was given is given again.
//!
//! Invariant: the record is written in the transaction of what it answers for, so either both are there or neither is.
//!
//! Invariant: the day under which keys are stored never goes back, whatever the clock does; see [`KeyDays`].

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

/// Days that a key is kept, today not counted.
pub const KEPT_DAYS: i64 = 7;
/// How close to midnight a key is also looked for under the neighbouring day: the clocks of two nodes differ by less.
const AROUND_MIDNIGHT_MICROS: i64 = 60 * 60 * 1_000_000;
/// Characters of a key.
pub const MAX_KEY_CHARACTERS: usize = 255;

/// The days under which keys are stored and looked for.
///
/// A clock that is set back would make yesterday's keys invisible, and a repeated request would be carried out twice. So
/// keys are stored under the newest day that holds a key, where that is later than tomorrow, and are looked for around both
/// days. Deleting goes by today alone, which is never the later one.
///
/// The newest day is remembered, so that a send asks the database nothing more. It is read at the start and every few
/// seconds, always before the database's clock is read. So a node does not go back to an earlier day without knowing the
/// days under which other nodes have stored keys.
#[derive(Clone, Debug, Default)]
pub struct KeyDays {
    newest: Arc<AtomicI64>,
    /// The last day under which keys of earlier days were stored.
    set_back_until: Arc<AtomicI64>,
}

impl KeyDays {
    /// Reads the newest day from the database.
    ///
    /// # Errors
    /// Of the database.
    pub async fn learn(&self, db: &Db) -> Result<()> {
        let known = self.newest.load(Ordering::Relaxed);
        let newer =
            db.read(known, |conn, known| Box::pin(store::shared::idempotency::newest_day(conn, *known))).await?;
        self.newest.fetch_max(newer.unwrap_or(known), Ordering::Relaxed);
        Ok(())
    }

    /// The day under which a key is stored now.
    pub fn current(&self, now: Timestamp) -> i64 {
        // It counts from the attempt on: a transaction that is rolled back does no harm.
        let newest = self.newest.fetch_max(now.day(), Ordering::Relaxed);
        self.later_day(newest, now).unwrap_or(now.day())
    }

    /// The newest day, where keys of today are stored under it. Tomorrow is always looked at, so that a small correction
    /// around midnight needs no other day than today.
    fn later_day(&self, newest: i64, now: Timestamp) -> Option<i64> {
        let is_later = newest > now.day() + 1;
        if is_later {
            self.set_back_until.fetch_max(newest, Ordering::Relaxed);
        }
        is_later.then_some(newest)
    }

    /// Whether keys may be stored under a later day than that of their messages: the clock was set back, and keys of that
    /// time are still kept.
    pub fn are_late(&self, now: Timestamp) -> bool {
        self.later_day(self.newest.load(Ordering::Relaxed), now);
        self.set_back_until.load(Ordering::Relaxed) >= now.day() - KEPT_DAYS - 1
    }

    /// The days on which a key that still counts may have been stored, the newest first. Tomorrow is one of them: another
    /// node's clock may be a little ahead.
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

    /// The days, other than the current one, that may be the current one for another node.
    fn neighbouring(&self, now: Timestamp) -> Vec<i64> {
        let current = self.current(now);
        // Another node may not have read the clock since it was set back.
        let newest = self.newest.load(Ordering::Relaxed);
        if newest > now.day() {
            return (newest - 1..=newest + 1).filter(|day| *day != current).collect();
        }
        let days = [-AROUND_MIDNIGHT_MICROS, AROUND_MIDNIGHT_MICROS]
            .map(|skew| Timestamp::from_micros(now.micros() + skew).day());
        days.into_iter().filter(|day| *day != current).collect()
    }
}

/// A request that came with a key.
#[derive(Clone, Debug)]
pub struct KeyedRequest {
    /// Scope and key.
    pub digest: Digest,
    /// Method, path and body.
    pub request_hash: [u8; 32],
    /// Seals an answer that holds a secret: it is made of the key itself, of which only `digest` is stored.
    seal: [u8; 32],
    /// Under which days it is stored and looked for.
    pub days: KeyDays,
}

/// A POST that creates something: it is carried out once, however often it is repeated with its key. A unit of work that
/// creates one thing uses [`given`](Self::given) and [`give`](Self::give); a batch of sends uses the same in the plural:
/// [`given_before`], [`prepare`](Self::prepare) and [`keep`].
#[derive(Clone, Debug)]
pub struct Once<T> {
    /// The key, if the request came with one.
    pub request: Option<KeyedRequest>,
    /// Renders the answer from what was made. It is called in the transaction, because the answer is stored there. Each route
    /// has its own function, so it comes with the request and not from [`Renderer`](super::rendering::Renderer).
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

impl Given {
    /// An answer that is given for the first time.
    pub const fn now(answer: StoredAnswer) -> Self {
        Self { answer, replayed: false }
    }
}

/// An answer to a request with a key: ready to be kept, and to be given once it is.
#[derive(Debug)]
pub struct Prepared<'a> {
    record: Record,
    days: &'a KeyDays,
    /// The answer as it is given, where it is stored sealed.
    unsealed: Option<StoredAnswer>,
}

impl Prepared<'_> {
    /// The key.
    pub const fn digest(&self) -> &Digest {
        &self.record.digest
    }

    /// The answer.
    pub fn give(self) -> Given {
        Given::now(self.unsealed.unwrap_or(self.record.answer))
    }
}

impl<T> Once<T> {
    /// Without a key, where nobody reads the answer.
    pub const fn unanswered() -> Self {
        const fn nothing<T>(_: &T) -> Result<StoredAnswer> {
            Ok(StoredAnswer { status: 201, location: None, body: Vec::new() })
        }
        Self { request: None, render: nothing, sealed: false }
    }

    /// The answer that was given to this key, if there was one. To be asked first in the transaction.
    ///
    /// # Errors
    /// [`Error::IdempotencyKeyReused`]; of the database.
    pub async fn given(&self, conn: &mut Conn, now: Timestamp) -> Result<Option<Given>> {
        given_before(conn, now, &[self]).await?.pop().flatten().transpose()
    }

    /// Renders what was made, and keeps the answer beside it. `subject` is the person whom it is about.
    ///
    /// # Errors
    /// [`Error::Rerun`] when another request with this key was faster; of the database.
    pub async fn give(&self, conn: &mut Conn, now: Timestamp, made: &T, subject: Option<UserId>) -> Result<Given> {
        let Some(prepared) = self.prepare(made, subject)? else { return (self.render)(made).map(Given::now) };
        keep(conn, now, &[&prepared]).await?;
        Ok(prepared.give())
    }

    /// Renders what was made as it is to be kept; `None` for a request without a key. `subject` is the person whom the answer
    /// is about, where it is no message.
    ///
    /// # Errors
    /// Of the rendering.
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

    fn replay(&self, request: &KeyedRequest, record: &Record) -> Result<Given> {
        if record.request_hash != request.request_hash {
            return Err(Error::IdempotencyKeyReused);
        }
        let mut answer = record.answer.clone();
        if self.sealed {
            answer.body = request.open(answer.body)?;
        }
        Ok(Given { answer, replayed: true })
    }
}

/// What was answered to the keys of some requests, in one look-up. `None` stands for a request that is new or has no key, and
/// [`Error::IdempotencyKeyReused`] for one whose key came with another request.
///
/// # Errors
/// Of the database.
pub async fn given_before<T>(
    conn: &mut Conn,
    now: Timestamp,
    requests: &[&Once<T>],
) -> Result<Vec<Option<Result<Given>>>> {
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
    /// Hashes what identifies the key, and what identifies the request.
    ///
    /// # Errors
    /// 422 on `Idempotency-Key` when it is not 1..255 printable ASCII characters.
    pub fn new(days: &KeyDays, scope: &str, key: &[u8], method: &str, path: &str, body: &[u8]) -> Result<Self> {
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
            days: days.clone(),
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
}

/// Keeps answers, in the transaction of what they answer for; the day under which they are stored.
///
/// # Errors
/// [`Error::Rerun`] when another request with one of the keys was faster: its answer is there to be found now.
pub async fn keep(conn: &mut Conn, now: Timestamp, prepared: &[&Prepared<'_>]) -> Result<i64> {
    let Some(first) = prepared.first() else { return Ok(now.day()) };
    let days = first.days;
    let day = days.current(now);
    let mut records: Vec<&Record> = prepared.iter().map(|prepared| &prepared.record).collect();
    records.sort_unstable_by_key(|record| record.digest);
    // Two nodes on either side of midnight do not meet at the key's row. Those that send meet at the lock of the
    // conversation: what the one has committed, the other sees from here on.
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
