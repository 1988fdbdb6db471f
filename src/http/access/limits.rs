//! Rate limits.
//!
//! Invariants: memory is bounded, however many callers there are. Callers without credentials cannot evict the state of callers
//! with credentials. A request over the limit is refused immediately and never delayed.
//!
//! Each caller has a bucket with `burst` units that is refilled at a constant rate. The stored state of a bucket is one time:
//! when it will be full (GCRA). A full cache evicts buckets that are seldom used. An evicted bucket starts full again.

use std::convert::Infallible;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use quick_cache::sync::Cache;

use crate::http::bodies::problem::Problem;

/// Requests of one account per second, and the burst after a pause.
pub const ACCOUNT_QUOTA: Quota = quota(60, 600);
/// Requests of one API key per second, and the burst after a pause.
pub const API_KEY_QUOTA: Quota = quota(2_000, 4_000);
/// Requests of one address without valid credentials per second, and the burst after a pause.
pub const ADDRESS_QUOTA: Quota = quota(5, 60);

/// Messages of one incoming webhook per second, and the burst after a pause.
pub const INCOMING_WEBHOOK_QUOTA: Quota = quota(1, 30);

/// Tests of one webhook: one in ten seconds, and the burst after a pause.
pub const WEBHOOK_TEST_QUOTA: Quota =
    Quota::per_minute(NonZeroU32::new(6).unwrap()).allow_burst(NonZeroU32::new(5).unwrap());

/// Searches for GIFs of one user per second, and the burst after a pause.
pub const GIF_SEARCH_QUOTA: Quota = quota(1, 30);
/// Previews of GIFs for one user per second, and the burst after a pause. A page has up to 50.
pub const GIF_PREVIEW_QUOTA: Quota = quota(20, 200);

/// The number of accounts, API keys and incoming webhooks whose buckets are kept, about 150 bytes each. A power of two, so
/// that the shards of the cache hold exactly this number.
pub const CALLERS_LIMIT: usize = 131_072;
/// The number of addresses whose buckets are kept. They are kept apart from the other callers, because one caller can have any
/// number of addresses.
pub const ADDRESSES_LIMIT: usize = 131_072;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

const fn quota(per_second: u32, burst: u32) -> Quota {
    // Both numbers are constants, so a zero does not compile.
    Quota::per_second(NonZeroU32::new(per_second).unwrap()).allow_burst(NonZeroU32::new(burst).unwrap())
}

/// The key under which a rate limit counts a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKey {
    /// A user with all their sessions, by the user's id.
    Account(i64),
    /// An API key, by its id.
    ApiKey(i64),
    /// An incoming webhook, by its id.
    IncomingWebhook(i64),
    /// The tests of a webhook, by its id.
    WebhookTest(i64),
    /// The searches for GIFs of a user, by the user's id.
    GifSearch(i64),
    /// The previews of GIFs for a user, by the user's id.
    GifPreview(i64),
    /// An address without valid credentials.
    Address(IpAddr),
}

/// A key of the cache of callers with credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Caller {
    Account(i64),
    ApiKey(i64),
    IncomingWebhook(i64),
    WebhookTest(i64),
    GifSearch(i64),
    GifPreview(i64),
}

/// A key of the cache of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum AddressKey {
    V4(u32),
    /// The first 64 bits, because one household or machine can have all addresses of such a network.
    V6Network(u64),
}

impl AddressKey {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6Network((address.to_bits() >> 64) as u64),
        }
    }
}

/// The decision of a rate limit about one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The state of the caller's quota. `None` if rate limits are off.
    pub quota_state: Option<QuotaState>,
    /// Whole seconds after which the caller can try again, at least 1. `None` if the request is allowed.
    pub retry_after_s: Option<u32>,
}

/// The state of a caller's quota after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaState {
    /// The burst: how many requests in a row the caller may make after a pause.
    pub limit: u32,
    /// How many requests the caller may make now without waiting.
    pub remaining: u32,
    /// Seconds until `remaining` equals `limit` again, rounded up.
    pub reset_s: u32,
}

impl Decision {
    /// The decision if no rate limit applies.
    pub const UNLIMITED: Self = Self { quota_state: None, retry_after_s: None };

    /// Whether the request is allowed.
    pub const fn is_allowed(&self) -> bool {
        self.retry_after_s.is_none()
    }

    /// The problem 429 `rate_limited` with `Retry-After`. `None` if the request is allowed. [`write_headers`] writes the other
    /// headers.
    pub fn problem(&self) -> Option<Problem> {
        self.retry_after_s.map(|seconds| Problem::too_many("rate_limited", "requests", seconds))
    }
}

/// Writes `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset`, or nothing if no rate limit applies.
pub fn write_headers(decision: &Decision, headers: &mut HeaderMap) {
    if let Some(quota_state) = decision.quota_state {
        headers.insert(LIMIT, HeaderValue::from(quota_state.limit));
        headers.insert(REMAINING, HeaderValue::from(quota_state.remaining));
        headers.insert(RESET, HeaderValue::from(quota_state.reset_s));
    }
}

type Limiter<C> = RateLimiter<NotKeyed, InMemoryState, C, StateInformationMiddleware>;

/// The rate limits of all callers. Each process counts for itself, so each of several servers on one database grants the full
/// quota.
pub struct Limits<C: Clock + Clone = MonotonicClock> {
    enabled: bool,
    clock: C,
    callers: Cache<Caller, Arc<Limiter<C>>>,
    addresses: Cache<AddressKey, Arc<Limiter<C>>>,
}

impl Limits {
    /// Creates the limits. If `enabled` is false, every request is allowed.
    pub fn new(enabled: bool) -> Self {
        Self::with_clock(enabled, MonotonicClock)
    }
}

impl<C: Clock + Clone> Limits<C> {
    fn with_clock(enabled: bool, clock: C) -> Self {
        Self { enabled, clock, callers: Cache::new(CALLERS_LIMIT), addresses: Cache::new(ADDRESSES_LIMIT) }
    }

    /// Counts one request and decides whether it is allowed.
    pub fn check(&self, key: LimitKey) -> Decision {
        if !self.enabled {
            return Decision::UNLIMITED;
        }
        match key {
            LimitKey::Account(id) => self.check_bucket(&self.callers, Caller::Account(id), ACCOUNT_QUOTA),
            LimitKey::ApiKey(id) => self.check_bucket(&self.callers, Caller::ApiKey(id), API_KEY_QUOTA),
            LimitKey::IncomingWebhook(id) => {
                self.check_bucket(&self.callers, Caller::IncomingWebhook(id), INCOMING_WEBHOOK_QUOTA)
            }
            LimitKey::WebhookTest(id) => self.check_bucket(&self.callers, Caller::WebhookTest(id), WEBHOOK_TEST_QUOTA),
            LimitKey::GifSearch(id) => self.check_bucket(&self.callers, Caller::GifSearch(id), GIF_SEARCH_QUOTA),
            LimitKey::GifPreview(id) => self.check_bucket(&self.callers, Caller::GifPreview(id), GIF_PREVIEW_QUOTA),
            LimitKey::Address(address) => self.check_bucket(&self.addresses, AddressKey::of(address), ADDRESS_QUOTA),
        }
    }

    fn check_bucket<K: Clone + Eq + std::hash::Hash>(
        &self,
        known: &Cache<K, Arc<Limiter<C>>>,
        key: K,
        quota: Quota,
    ) -> Decision {
        // Requests of one caller at the same moment share one limiter, because the cache creates it only once.
        let found = known.get_or_insert_with(&key, || {
            let limiter = RateLimiter::direct_with_clock(quota, self.clock.clone());
            Ok::<_, Infallible>(Arc::new(limiter.with_middleware::<StateInformationMiddleware>()))
        });
        let Ok(limiter) = found;
        let (limit, interval) = (quota.burst_size().get(), quota.replenish_interval());
        match limiter.check() {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let reset_s = seconds_up(interval * limit.saturating_sub(remaining));
                Decision { quota_state: Some(QuotaState { limit, remaining, reset_s }), retry_after_s: None }
            }
            Err(refused) => {
                let wait = refused.wait_time_from(self.clock.now());
                let quota_state =
                    QuotaState { limit, remaining: 0, reset_s: seconds_up(wait + interval * (limit - 1)) };
                Decision { quota_state: Some(quota_state), retry_after_s: Some(seconds_up(wait).max(1)) }
            }
        }
    }
}

/// Whole seconds, rounded up.
fn seconds_up(duration: Duration) -> u32 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::http::header;
    use axum::response::IntoResponse;
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limits() -> (Limits<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Limits::with_clock(true, clock.clone()), clock)
    }

    fn granted(limits: &Limits<FakeRelativeClock>, key: LimitKey) -> u32 {
        (0..).take_while(|_| limits.check(key).is_allowed()).count().try_into().unwrap()
    }

    fn address(text: &str) -> LimitKey {
        LimitKey::Address(text.parse().unwrap())
    }

    #[test]
    fn a_burst_and_then_a_refusal() {
        for (key, limit, full_s) in
            [(LimitKey::Account(1), 600, 10), (LimitKey::ApiKey(1), 4_000, 2), (address("192.0.2.1"), 60, 12)]
        {
            let (limits, _) = limits();
            for remaining in (0..limit).rev() {
                let decision = limits.check(key);
                assert!(decision.is_allowed() && decision.problem().is_none(), "{key:?} {remaining}");
                let quota_state = decision.quota_state.unwrap();
                assert_eq!((quota_state.limit, quota_state.remaining), (limit, remaining), "{key:?}");
                assert!(quota_state.reset_s >= 1 && quota_state.reset_s <= full_s, "{key:?} {quota_state:?}");
            }
            for _ in 0..3 {
                let decision = limits.check(key);
                let quota_state = QuotaState { limit, remaining: 0, reset_s: full_s };
                assert_eq!(decision, Decision { quota_state: Some(quota_state), retry_after_s: Some(1) }, "{key:?}");
            }
        }
    }

    #[test]
    fn a_bucket_is_refilled() {
        let (limits, clock) = limits();
        let key = address("192.0.2.1");
        assert_eq!(granted(&limits, key), 60);
        clock.advance(Duration::from_millis(199));
        assert_eq!(granted(&limits, key), 0);
        clock.advance(Duration::from_millis(1));
        assert_eq!(granted(&limits, key), 1);
        clock.advance(Duration::from_secs(4));
        assert_eq!(limits.check(key).quota_state, Some(QuotaState { limit: 60, remaining: 19, reset_s: 9 }));
        assert_eq!(granted(&limits, key), 19);
        // After the time in the reset header the bucket is full, and it never holds more than the burst.
        let reset_s = limits.check(key).quota_state.unwrap().reset_s;
        clock.advance(Duration::from_secs(reset_s.into()));
        assert_eq!(granted(&limits, key), 60);
        clock.advance(Duration::from_secs(86_400 * 365));
        assert_eq!(granted(&limits, key), 60);
    }

    #[test]
    fn a_caller_who_waits_as_long_as_retry_after_is_allowed() {
        let (limits, clock) = limits();
        for key in [LimitKey::Account(1), LimitKey::ApiKey(1), address("192.0.2.1")] {
            granted(&limits, key);
            clock.advance(Duration::from_secs(limits.check(key).retry_after_s.unwrap().into()));
            assert!(limits.check(key).is_allowed(), "{key:?}");
        }
    }

    #[test]
    fn callers_do_not_share_quotas() {
        let (limits, _) = limits();
        assert_eq!(granted(&limits, LimitKey::Account(1)), 600);
        assert_eq!(granted(&limits, LimitKey::ApiKey(1)), 4_000);
        assert_eq!(granted(&limits, LimitKey::Account(2)), 600);
        assert_eq!(granted(&limits, address("0.0.0.1")), 60);
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let (limits, _) = limits();
        assert_eq!(granted(&limits, address("2001:db8:1:2::1")), 60);
        assert_eq!(granted(&limits, address("2001:db8:1:2:ffff:ffff:ffff:ffff")), 0);
        assert_eq!(granted(&limits, address("2001:db8:1:3::1")), 60);
        assert_eq!(granted(&limits, address("192.0.2.1")), 60);
        assert_eq!(granted(&limits, address("::ffff:192.0.2.1")), 0);
        assert_eq!(granted(&limits, address("::ffff:192.0.2.2")), 60);
    }

    #[test]
    fn memory_is_bounded_and_addresses_evict_no_caller() {
        let (limits, _) = limits();
        assert_eq!(granted(&limits, LimitKey::Account(1)), 600);
        for number in 0..1_000_000_u32 {
            let address = if number % 2 == 0 {
                Ipv4Addr::from_bits(number).into()
            } else {
                Ipv6Addr::from_bits(u128::from(number) << 64).into()
            };
            assert!(limits.check(LimitKey::Address(address)).is_allowed());
        }
        assert!(limits.addresses.len() <= ADDRESSES_LIMIT, "{}", limits.addresses.len());
        assert!(limits.addresses.len() > ADDRESSES_LIMIT / 2, "{}", limits.addresses.len());
        assert_eq!(limits.addresses.capacity(), ADDRESSES_LIMIT as u64);
        assert_eq!(granted(&limits, LimitKey::Account(1)), 0);
    }

    #[test]
    fn parallel_checks_grant_exactly_the_burst() {
        let (limits, _) = limits();
        for round in 0..20 {
            let granted = AtomicU32::new(0);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        for _ in 0..200 {
                            if limits.check(LimitKey::Account(round)).is_allowed() {
                                granted.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    });
                }
            });
            assert_eq!(granted.into_inner(), 600);
        }
    }

    #[test]
    fn headers_and_problem() {
        let (limits, _) = limits();
        let key = address("192.0.2.1");
        let mut headers = HeaderMap::new();
        write_headers(&limits.check(key), &mut headers);
        let header = |headers: &HeaderMap, name| headers.get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(header(&headers, "ratelimit-limit"), "60");
        assert_eq!(header(&headers, "ratelimit-remaining"), "59");
        assert_eq!(header(&headers, "ratelimit-reset"), "1");
        granted(&limits, key);
        let decision = limits.check(key);
        write_headers(&decision, &mut headers);
        assert_eq!(header(&headers, "ratelimit-remaining"), "0");
        assert_eq!(header(&headers, "ratelimit-reset"), "12");
        let response = decision.problem().unwrap().into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }

    #[test]
    fn without_limits_nothing_is_refused_or_written() {
        let limits = Limits::new(false);
        for _ in 0..10_000 {
            let decision = limits.check(address("192.0.2.1"));
            assert!(decision.is_allowed() && decision.problem().is_none());
            let mut headers = HeaderMap::new();
            write_headers(&decision, &mut headers);
            assert!(headers.is_empty());
        }
        assert_eq!(limits.addresses.len(), 0);
    }

    #[test]
    fn the_limits_work_with_the_monotonic_clock() {
        let limits = Limits::new(true);
        let refused = (0..1_000).map(|_| limits.check(address("192.0.2.1"))).find(|decision| !decision.is_allowed());
        assert!(refused.unwrap().retry_after_s.unwrap() >= 1);
    }
}
