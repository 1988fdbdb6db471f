//! How often somebody may call.
//!
//! Invariants: memory is bounded however many callers there are, and strangers cannot push out what is known about callers
//! with credentials. A refusal is an answer at once, never a request that is held.
//!
//! Each caller has a bucket with `burst` units that fills up again evenly. What is kept is one moment a caller: when the
//! bucket will be full (GCRA). A bucket that was not used the longest is forgotten first, and begins full when it comes back.

use std::convert::Infallible;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use quick_cache::sync::Cache;

use crate::http::bodies::problem::Problem;

/// Requests a second of one account, and how many at once after a pause.
pub const ACCOUNT_QUOTA: Quota = quota(60, 600);
/// Requests a second of one API key, and how many at once after a pause.
pub const API_KEY_QUOTA: Quota = quota(2_000, 4_000);
/// Requests a second of one address without valid credentials, and how many at once after a pause.
pub const ADDRESS_QUOTA: Quota = quota(5, 60);

/// Messages a second by one incoming webhook, and how many at once after a pause.
pub const INCOMING_WEBHOOK_QUOTA: Quota = quota(1, 30);

/// Accounts, API keys and incoming webhooks that are kept in mind. A power of two, so that the cache's parts hold just as many. Some 150 bytes
/// each.
pub const CALLERS_LIMIT: usize = 131_072;
/// Addresses that are kept in mind: apart from the callers, because a stranger may have any number of them.
pub const ADDRESSES_LIMIT: usize = 131_072;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

const fn quota(per_second: u32, burst: u32) -> Quota {
    // Both are constants above: a zero does not compile.
    Quota::per_second(NonZeroU32::new(per_second).unwrap()).allow_burst(NonZeroU32::new(burst).unwrap())
}

/// Who is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKey {
    /// A person, whatever the session, by the user's id.
    Account(i64),
    /// An API key, by its id.
    ApiKey(i64),
    /// An incoming webhook, by its id.
    IncomingWebhook(i64),
    /// An address that shows no valid credentials.
    Address(IpAddr),
}

/// A caller with credentials, as the cache knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Caller {
    Account(i64),
    ApiKey(i64),
    IncomingWebhook(i64),
}

/// What counts as one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    V4(u32),
    /// The first 64 bits: one household or machine has that many addresses.
    V6Network(u64),
}

impl Place {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6Network((address.to_bits() >> 64) as u64),
        }
    }
}

/// What a limit says to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is left of the caller's quota; `None` where rate limits are off.
    pub standing: Option<Standing>,
    /// Whole seconds until another try makes sense, at least 1; `None` when the request may go on.
    pub retry_after_s: Option<u32>,
}

/// Where a caller stands after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Requests that may come at once after a pause.
    pub limit: u32,
    /// Requests that may come at once now.
    pub remaining: u32,
    /// Seconds until `remaining` is `limit` again, rounded up.
    pub reset_s: u32,
}

impl Decision {
    /// What is said where rate limits are off.
    pub const FREE: Self = Self { standing: None, retry_after_s: None };

    /// Whether the request may go on.
    pub const fn is_allowed(&self) -> bool {
        self.retry_after_s.is_none()
    }

    /// The refusal: 429 `rate_limited` with `Retry-After`; `None` when the request may go on. The headers are
    /// [`write_headers`]'s.
    pub fn problem(&self) -> Option<Problem> {
        let detail = "too many requests: wait as long as Retry-After says, then try again";
        let problem =
            |seconds| Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail).retry_after_s(seconds);
        self.retry_after_s.map(problem)
    }
}

/// Writes `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset`; nothing where rate limits are off.
pub fn write_headers(decision: &Decision, headers: &mut HeaderMap) {
    if let Some(standing) = decision.standing {
        headers.insert(LIMIT, HeaderValue::from(standing.limit));
        headers.insert(REMAINING, HeaderValue::from(standing.remaining));
        headers.insert(RESET, HeaderValue::from(standing.reset_s));
    }
}

type Limiter<C> = RateLimiter<NotKeyed, InMemoryState, C, StateInformationMiddleware>;

/// Everybody's limits. Counts in this process alone: with several servers on one database, each grants its own quota.
pub struct Limits<C: Clock + Clone = MonotonicClock> {
    enabled: bool,
    clock: C,
    callers: Cache<Caller, Arc<Limiter<C>>>,
    addresses: Cache<Place, Arc<Limiter<C>>>,
}

impl Limits {
    /// Limits that are checked, or that let everybody pass.
    pub fn new(enabled: bool) -> Self {
        Self::with_clock(enabled, MonotonicClock)
    }
}

impl<C: Clock + Clone> Limits<C> {
    fn with_clock(enabled: bool, clock: C) -> Self {
        Self { enabled, clock, callers: Cache::new(CALLERS_LIMIT), addresses: Cache::new(ADDRESSES_LIMIT) }
    }

    /// Counts one request, and says whether it may go on.
    pub fn check(&self, key: LimitKey) -> Decision {
        if !self.enabled {
            return Decision::FREE;
        }
        match key {
            LimitKey::Account(id) => self.ask(&self.callers, Caller::Account(id), ACCOUNT_QUOTA),
            LimitKey::ApiKey(id) => self.ask(&self.callers, Caller::ApiKey(id), API_KEY_QUOTA),
            LimitKey::IncomingWebhook(id) => {
                self.ask(&self.callers, Caller::IncomingWebhook(id), INCOMING_WEBHOOK_QUOTA)
            }
            LimitKey::Address(address) => self.ask(&self.addresses, Place::of(address), ADDRESS_QUOTA),
        }
    }

    fn ask<K: Clone + Eq + std::hash::Hash>(
        &self,
        known: &Cache<K, Arc<Limiter<C>>>,
        key: K,
        quota: Quota,
    ) -> Decision {
        // Whoever asks at the same moment gets the same limiter: it is made once.
        let made = known.get_or_insert_with(&key, || {
            let limiter = RateLimiter::direct_with_clock(quota, self.clock.clone());
            Ok::<_, Infallible>(Arc::new(limiter.with_middleware::<StateInformationMiddleware>()))
        });
        let Ok(limiter) = made;
        let (limit, interval) = (quota.burst_size().get(), quota.replenish_interval());
        match limiter.check() {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let reset_s = seconds_up(interval * limit.saturating_sub(remaining));
                Decision { standing: Some(Standing { limit, remaining, reset_s }), retry_after_s: None }
            }
            Err(refused) => {
                let wait = refused.wait_time_from(self.clock.now());
                let standing = Standing { limit, remaining: 0, reset_s: seconds_up(wait + interval * (limit - 1)) };
                Decision { standing: Some(standing), retry_after_s: Some(seconds_up(wait).max(1)) }
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
                let standing = decision.standing.unwrap();
                assert_eq!((standing.limit, standing.remaining), (limit, remaining), "{key:?}");
                assert!(standing.reset_s >= 1 && standing.reset_s <= full_s, "{key:?} {standing:?}");
            }
            for _ in 0..3 {
                let decision = limits.check(key);
                let standing = Standing { limit, remaining: 0, reset_s: full_s };
                assert_eq!(decision, Decision { standing: Some(standing), retry_after_s: Some(1) }, "{key:?}");
            }
        }
    }

    #[test]
    fn it_fills_up_again() {
        let (limits, clock) = limits();
        let key = address("192.0.2.1");
        assert_eq!(granted(&limits, key), 60);
        clock.advance(Duration::from_millis(199));
        assert_eq!(granted(&limits, key), 0);
        clock.advance(Duration::from_millis(1));
        assert_eq!(granted(&limits, key), 1);
        clock.advance(Duration::from_secs(4));
        assert_eq!(limits.check(key).standing, Some(Standing { limit: 60, remaining: 19, reset_s: 9 }));
        assert_eq!(granted(&limits, key), 19);
        // When the reset has passed it is full, and never more than that.
        let reset_s = limits.check(key).standing.unwrap().reset_s;
        clock.advance(Duration::from_secs(reset_s.into()));
        assert_eq!(granted(&limits, key), 60);
        clock.advance(Duration::from_secs(86_400 * 365));
        assert_eq!(granted(&limits, key), 60);
    }

    #[test]
    fn whoever_waits_as_told_is_let_in() {
        let (limits, clock) = limits();
        for key in [LimitKey::Account(1), LimitKey::ApiKey(1), address("192.0.2.1")] {
            granted(&limits, key);
            clock.advance(Duration::from_secs(limits.check(key).retry_after_s.unwrap().into()));
            assert!(limits.check(key).is_allowed(), "{key:?}");
        }
    }

    #[test]
    fn callers_do_not_share() {
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
    fn memory_is_bounded_and_strangers_push_out_no_caller() {
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
    fn parallel_checks_grant_just_the_burst() {
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
    fn headers_and_the_refusal() {
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
    fn off_is_silent() {
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
    fn the_system_clock_counts_too() {
        let limits = Limits::new(true);
        let refused = (0..1_000).map(|_| limits.check(address("192.0.2.1"))).find(|decision| !decision.is_allowed());
        assert!(refused.unwrap().retry_after_s.unwrap() >= 1);
    }
}
