//! The callers that this server has looked up, under the hash of what they showed.
//!
//! Invariant: an entry holds only while `revocations` says so.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use quick_cache::sync::Cache;

use super::revocations::{Mark, Revocations};
use super::tokens::SecretHash;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Credential;
use crate::store::identity::revocations::Revoked;
use crate::store::identity::users::Account;

/// Credentials and persons remembered.
const CAPACITY: usize = 100_000;

/// What is remembered of callers.
pub struct KnownCallers {
    /// When what was remembered ceases to hold.
    pub revocations: Arc<Revocations>,
    pub(in crate::domain) by_token: Cache<SecretHash, Arc<Known>>,
    pub(in crate::domain) by_name: Cache<String, Arc<KnownPerson>>,
}

impl Default for KnownCallers {
    fn default() -> Self {
        Self { revocations: Arc::default(), by_token: Cache::new(CAPACITY), by_name: Cache::new(CAPACITY) }
    }
}

/// A credential that was looked up.
pub(in crate::domain) struct Known {
    pub(in crate::domain) mark: Mark,
    pub(in crate::domain) subject: Revoked,
    pub(in crate::domain) credential: Credential,
    pub(in crate::domain) person: Option<Arc<Account>>,
    /// Microseconds since 1970; of a session it moves with its use, up to `ends_at`.
    pub(in crate::domain) expires_at: AtomicI64,
    pub(in crate::domain) ends_at: Timestamp,
    /// When it was looked up. A clock that was set back since would let it hold for longer.
    pub(in crate::domain) read_at: Timestamp,
    /// When its use is to be noted next: microseconds since 1970.
    pub(in crate::domain) touch_at: AtomicI64,
}

/// A person who was looked up for `X-Act-As`.
pub(in crate::domain) struct KnownPerson {
    pub(in crate::domain) mark: Mark,
    pub(in crate::domain) account: Arc<Account>,
}
