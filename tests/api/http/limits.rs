//! Rate limits, and who may read the metrics.

use posthaste::http::access::client_address::TrustedProxies;
use posthaste::http::access::limits::{ACCOUNT_QUOTA, ADDRESS_QUOTA, API_KEY_QUOTA};
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::both;
use crate::support::callers::{Caller, secured, session};
use crate::support::server::Answer;
use crate::support::{Options, Server, answer_of};

const HEADERS: [&str; 3] = ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"];

fn limited() -> Options {
    Options { rate_limits: true, ..secured() }
}

fn behind_proxy() -> Options {
    Options { trusted_proxies: TrustedProxies::parse(&["127.0.0.1"]).unwrap(), ..limited() }
}

/// The values of the headers: limit, remaining, reset.
#[track_caller]
fn rate_limit_headers(answer: &Answer) -> [u32; 3] {
    HEADERS.map(|name| answer.header(name).unwrap_or_else(|| panic!("no {name}")).parse().unwrap())
}

#[track_caller]
fn assert_unlimited(answer: &Answer) {
    for name in HEADERS {
        assert_eq!(answer.header(name), None);
    }
}

/// Sends requests until one is refused. Returns how many were allowed, and the refusal.
async fn exhaust(request: impl Fn() -> RequestBuilder, at_most: u32) -> (u32, Answer) {
    for count in 0..=at_most {
        let answer = answer_of(request()).await;
        if answer.status == 429 {
            return (count, answer);
        }
    }
    panic!("none of {at_most} requests was refused");
}

#[track_caller]
fn assert_refused(answer: &Answer, quota: governor::Quota) {
    answer.problem(429, "rate_limited");
    let [limit, remaining, reset] = rate_limit_headers(answer);
    assert_eq!((limit, remaining), (quota.burst_size().get(), 0));
    assert!(reset >= 1);
    assert_eq!(answer.header("retry-after"), Some("1"));
}

both!(callers_without_credentials_are_limited_by_address, async |place| {
    let server = Server::start_with(place, limited()).await;
    let first = server.get("/api/capabilities").await;
    assert_eq!(first.status, 200);
    let [limit, remaining, reset] = rate_limit_headers(&first);
    assert_eq!((limit, remaining), (ADDRESS_QUOTA.burst_size().get(), limit - 1));
    assert_eq!(reset, 1);
    // Requests with wrong credentials, an unknown path or an invalid header about the address are counted like all others.
    let ask = || {
        let address = format!("203.0.113.{}", limit);
        server.request(Method::GET, "/api/no/such/path").bearer_auth("phk_wrong").header("x-forwarded-for", address)
    };
    let (count, answer) = exhaust(ask, 3 * limit).await;
    assert!(count >= limit - 2, "{count}");
    assert_refused(&answer, ADDRESS_QUOTA);
    let login = json!({"user_name": "bugs", "password": "x"});
    assert_refused(&server.post("/api/sessions", &login).await, ADDRESS_QUOTA);
    // Paths outside the API are not counted, and a caller with credentials has a limit of their own.
    for target in ["/healthz", "/readyz", "/openapi.json", "/asyncapi.json", "/docs/"] {
        let answer = server.get(target).await;
        assert_eq!(answer.status, 200);
        assert_unlimited(&answer);
    }
    let key = server.api_key(&["read"]).await;
    let answer = Caller::new(&server, &key).get("/api/users").await;
    assert_eq!((answer.status.as_u16(), rate_limit_headers(&answer)[0]), (200, API_KEY_QUOTA.burst_size().get()));
    // One request is allowed again after a fifth of a second.
    tokio::time::sleep(std::time::Duration::from_millis(1_000)).await;
    assert_eq!(server.get("/api/capabilities").await.status, 200);
});

both!(only_trusted_proxies_forward_addresses, async |place| {
    let server = Server::start_with(place, behind_proxy()).await;
    let ask = |address: &str| server.request(Method::GET, "/api/users").header("x-forwarded-for", address.to_owned());
    let burst = ADDRESS_QUOTA.burst_size().get();
    let (count, answer) = exhaust(|| ask("2001:db8:1:2::1"), 3 * burst).await;
    assert!(count >= burst);
    assert_refused(&answer, ADDRESS_QUOTA);
    // All IPv6 addresses of one /64 network count as one caller. Addresses further to the left in the header are ignored,
    // because the caller wrote them.
    for same in [
        "2001:db8:1:2::2",
        "2001:db8:1:2:ffff:ffff:ffff:ffff",
        "[2001:db8:1:2::3]:4711",
        "198.51.100.1, 2001:db8:1:2::9",
    ] {
        assert_eq!(answer_of(ask(same)).await.status, 429, "{same}");
    }
    for other in ["2001:db8:1:3::1", "203.0.113.7", "::ffff:203.0.113.8", "2001:db8:1:2::1, 203.0.113.9"] {
        let answer = answer_of(ask(other)).await;
        answer.problem(401, "unauthenticated");
        assert_eq!(rate_limit_headers(&answer)[1], burst - 1, "{other}");
    }
    // An IPv4 address counts as the same caller in both notations.
    let again = answer_of(ask("::ffff:203.0.113.7")).await;
    assert_eq!(rate_limit_headers(&again)[1], burst - 2);

    let direct = Server::start_with(place, limited()).await;
    let ask = |number: u32| {
        direct.request(Method::GET, "/api/users").header("x-forwarded-for", format!("203.0.113.{}", number % 256))
    };
    let mut last = None;
    for number in 0..2 * burst {
        last = Some(answer_of(ask(number)).await);
    }
    assert_refused(&last.unwrap(), ADDRESS_QUOTA);
});

both!(accounts_and_keys_have_limits_of_their_own, async |place| {
    let open = Server::start_with(place, Options { rate_limits: true, ..Options::default() }).await;
    let (phone, tablet) = (session(&open, "bugs").await, session(&open, "bugs").await);
    let duck = session(&open, "duck").await;
    // Requests under open access come from loopback and are not limited. A caller with credentials is limited there, too.
    assert_unlimited(&open.get("/api/users").await);
    assert_unlimited(&answer_of(open.request(Method::GET, "/api/users").header("x-act-as", "bugs")).await);
    let server = Server::start_with(place, behind_proxy()).await;
    let (one, other) = (server.api_key(&["read", "write"]).await, server.api_key(&["read"]).await);
    let burst = ACCOUNT_QUOTA.burst_size().get();
    // All devices of an account share one limit, even if their addresses differ.
    for (number, token) in [&phone, &tablet, &phone].into_iter().enumerate() {
        let request = Caller::new(&server, token).request(Method::GET, "/api/users/me");
        let answer = answer_of(request.header("x-forwarded-for", format!("203.0.113.{number}"))).await;
        let [limit, remaining, _] = rate_limit_headers(&answer);
        assert_eq!(limit, burst);
        assert!(remaining < burst - number as u32 + 1 && remaining > burst - 10, "{remaining}");
    }
    assert_eq!(rate_limit_headers(&Caller::new(&server, &duck).get("/api/users/me").await)[1], burst - 1);
    // An API key has one limit, shared by all users it acts as.
    let burst = API_KEY_QUOTA.burst_size().get();
    for (number, name) in ["bugs", "duck", "porky"].into_iter().enumerate() {
        let [limit, remaining, _] =
            rate_limit_headers(&Caller::new(&server, &one).acting_as(name).get("/api/users/me").await);
        assert_eq!(limit, burst);
        assert!(remaining >= burst - number as u32 - 1, "{remaining}");
    }
    assert_eq!(rate_limit_headers(&Caller::new(&server, &other).get("/api/users").await)[1], burst - 1);
    // Other refusals carry the headers, too.
    let answer = Caller::new(&server, &other).get("/api/admin/stats").await;
    answer.problem(403, "insufficient_scope");
    rate_limit_headers(&answer);
    rate_limit_headers(&Caller::new(&server, &other).get("/api/no/such/path").await);
});

both!(an_account_beyond_its_limit_is_refused_and_others_are_not, async |place| {
    let open = Server::start(place).await;
    let (bugs, duck) = (session(&open, "bugs").await, session(&open, "duck").await);
    let server = Server::start_with(place, limited()).await;
    let burst = ACCOUNT_QUOTA.burst_size().get();
    let mut refusal = None;
    while refusal.is_none() {
        let asks = (0..200).map(|_| answer_of(Caller::new(&server, &bugs).request(Method::GET, "/api/capabilities")));
        refusal = futures_util::future::join_all(asks).await.into_iter().find(|answer| answer.status == 429);
    }
    let refusal = refusal.unwrap();
    refusal.problem(429, "rate_limited");
    assert_eq!(rate_limit_headers(&refusal)[..2], [burst, 0]);
    assert_eq!(refusal.header("retry-after"), Some("1"));
    assert_eq!(Caller::new(&server, &duck).get("/api/users/me").await.status, 200);
    assert_eq!(server.get("/api/capabilities").await.status, 200);
});

both!(without_rate_limits_answers_have_no_rate_limit_headers, async |place| {
    let server = Server::start_with(place, secured()).await;
    let key = server.api_key(&["read"]).await;
    for _ in 0..ADDRESS_QUOTA.burst_size().get() + 10 {
        let answer = server.get("/api/capabilities").await;
        assert_eq!(answer.status, 200);
        assert_unlimited(&answer);
    }
    assert_unlimited(&server.get("/api/users").await);
    assert_unlimited(&Caller::new(&server, &key).get("/api/users").await);
});

both!(metrics_are_shown_to_loopback_and_admin_keys_only, async |place| {
    let open = Server::start(place).await;
    assert_eq!(open.get("/metrics").await.status, 200);
    open.request(Method::PUT, "/api/admin/users/duck/role").json(&json!({"role": "admin"})).send().await.unwrap();
    let (bugs, duck) = (session(&open, "bugs").await, session(&open, "duck").await);
    let direct = Server::start_with(place, secured()).await;
    assert_eq!(direct.get("/metrics").await.status, 200, "a loopback peer that is no proxy");
    // Behind a proxy on loopback every connection comes from a loopback address, so none of them counts as a local caller.
    for options in
        [behind_proxy(), Options { access: posthaste::domain::access::principal::Access::Open, ..behind_proxy() }]
    {
        let server = Server::start_with(place, options).await;
        let (admin, plain) = (server.api_key(&["admin"]).await, server.api_key(&["read", "write"]).await);
        let nothing = server.get("/metrics").await;
        nothing.problem(404, "not_found");
        for address in ["127.0.0.1", "::1", "203.0.113.7", ""] {
            let request = server.request(Method::GET, "/metrics").header("x-forwarded-for", address);
            answer_of(request).await.problem(404, "not_found");
        }
        // A session of an administrator cannot read the metrics. A program that collects metrics gets an API key, which can be
        // revoked.
        for token in ["", "phk_wrong", &plain, &bugs, &duck] {
            Caller::new(&server, token).get("/metrics").await.problem(404, "not_found");
        }
        Caller::new(&server, &admin).acting_as("bugs").get("/metrics").await.problem(404, "not_found");
        Caller::new(&server, &admin).acting_as("nobody").get("/metrics").await.problem(404, "not_found");
        let request = Caller::new(&server, &admin).request(Method::GET, "/metrics");
        let answer = answer_of(request.header("x-forwarded-for", "203.0.113.7")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let text = String::from_utf8(answer.bytes).unwrap();
        assert!(text.contains("posthaste_http_requests_total") && !text.contains(admin.as_str()));
    }
});
