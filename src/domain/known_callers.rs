//! The callers that this server has looked up, under the hash of what they showed.
//!
//! Invariant: an entry holds only while `revocations` says so.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use quick_cache::sync::Cache;

use super::auth::Credential;
use super::revocations::{Mark, Revocations};
use super::tokens::SecretHash;
use crate::store::revocations::Revoked;
use crate::store::users::Account;
use crate::time::Timestamp;

/// Credentials and persons remembered.
const CAPACITY: usize = 100_000;

/// What is remembered of callers.
pub struct KnownCallers {
    /// When what was remembered ceases to hold.
    pub revocations: Arc<Revocations>,
    pub(super) by_token: Cache<SecretHash, Arc<Known>>,
    pub(super) by_name: Cache<String, Arc<KnownPerson>>,
}

impl Default for KnownCallers {
    fn default() -> Self {
        Self { revocations: Arc::default(), by_token: Cache::new(CAPACITY), by_name: Cache::new(CAPACITY) }
    }
}

/// A credential that was looked up.
pub(super) struct Known {
    pub(super) mark: Mark,
    pub(super) subject: Revoked,
    pub(super) credential: Credential,
    pub(super) person: Option<Arc<Account>>,
    /// Microseconds since 1970; of a session it moves with its use, up to `ends_at`.
    pub(super) expires_at: AtomicI64,
    pub(super) ends_at: Timestamp,
    /// When it was looked up. A clock that was set back since would let it hold for longer.
    pub(super) read_at: Timestamp,
    /// When its use is to be noted next: microseconds since 1970.
    pub(super) touch_at: AtomicI64,
}

/// A person who was looked up for `X-Act-As`.
pub(super) struct KnownPerson {
    pub(super) mark: Mark,
    pub(super) account: Arc<Account>,
}
