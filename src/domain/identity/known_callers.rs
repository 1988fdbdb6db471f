//! The cache of callers. The result of looking up a token is stored under the hash of the token. A user named in
//! `X-Act-As` is stored under the user name.
//!
//! Invariant: an entry is used only if no revocation came after it.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use quick_cache::sync::Cache;

use super::revocations::{Mark, Revocations};
use super::tokens::SecretHash;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Credential;
use crate::store::identity::revocations::Revoked;
use crate::store::identity::users::Account;

/// Maximum number of entries in each of the two caches.
const CAPACITY: usize = 100_000;

/// The cached callers.
pub struct KnownCallers {
    /// Decides whether a revocation came after a cached entry.
    pub revocations: Arc<Revocations>,
    pub(in crate::domain) by_token: Cache<SecretHash, Arc<KnownCaller>>,
    pub(in crate::domain) by_name: Cache<String, Arc<KnownPerson>>,
}

impl Default for KnownCallers {
    fn default() -> Self {
        Self { revocations: Arc::default(), by_token: Cache::new(CAPACITY), by_name: Cache::new(CAPACITY) }
    }
}

/// The cached result of looking up a credential.
pub(in crate::domain) struct KnownCaller {
    pub(in crate::domain) mark: Mark,
    pub(in crate::domain) subject: Revoked,
    pub(in crate::domain) credential: Credential,
    pub(in crate::domain) person: Option<Arc<Account>>,
    /// Microseconds since 1970. Each recorded use of a session postpones it, at most to `ends_at`.
    pub(in crate::domain) expires_at: AtomicI64,
    pub(in crate::domain) ends_at: Timestamp,
    /// When the credentials were read. If the clock is set back later, `expires_at` alone would keep the entry valid
    /// for too long.
    pub(in crate::domain) read_at: Timestamp,
    /// When the next use is to be recorded in the database: microseconds since 1970.
    pub(in crate::domain) touch_at: AtomicI64,
}

/// The cached result of looking up a user for `X-Act-As`.
pub(in crate::domain) struct KnownPerson {
    pub(in crate::domain) mark: Mark,
    pub(in crate::domain) account: Arc<Account>,
}
