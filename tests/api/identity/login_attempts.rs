//! Limits on attempts to log in or to prove an identity in another way.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use posthaste::base::time::{Clock, Timestamp};
use posthaste::domain::operations::housekeeping;
use posthaste::http::access::client_address::TrustedProxies;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::accounts::{PASSWORD, secured, without_request_id};
use crate::support::{Answer, Options, Server, answer_of};

const SECOND: i64 = 1_000_000;
const WRONG: &str = "not the password";

/// The address of the next attempt. Each attempt comes from another address, so that the rate limit for addresses does not
/// apply.
static ADDRESS: AtomicU32 = AtomicU32::new(0x0a00_0000);

fn limited() -> (Arc<AtomicI64>, Options) {
    let hand = Arc::new(AtomicI64::new(Timestamp::parse("2026-11-22T08:30:00Z").unwrap().micros()));
    let clock = Clock::Manual(Arc::clone(&hand));
    let trusted_proxies = TrustedProxies::parse(&["127.0.0.1"]).unwrap();
    (hand, Options { clock, trusted_proxies, rate_limits: true, ..secured() })
}

async fn try_with(server: &Server, body: Value) -> Answer {
    let address = std::net::Ipv4Addr::from_bits(ADDRESS.fetch_add(1, Ordering::Relaxed));
    let request = server.request(Method::POST, "/api/sessions").header("x-forwarded-for", address.to_string());
    answer_of(request.json(&body)).await
}

async fn try_name(server: &Server, name: &str, password: &str) -> Answer {
    try_with(server, json!({"user_name": name, "password": password})).await
}

/// Asserts that an attempt was refused. Returns how many seconds the caller must wait.
#[track_caller]
fn wait_s(answer: &Answer) -> i64 {
    answer.problem(429, "too_many_attempts");
    answer.header("retry-after").unwrap().parse().unwrap()
}

async fn use_up_free_attempts(server: &Server, name: &str) {
    for _ in 0..5 {
        try_name(server, name, WRONG).await.problem(401, "invalid_credentials");
    }
}

both!(delays_grow_after_five_failures_for_known_and_unknown_names, async |place| {
    let (hand, options) = limited();
    let server = Server::secured_with(place, options, &["bugs", "duck"]).await;
    for name in ["bugs", "nobody"] {
        use_up_free_attempts(&server, name).await;
        for delay_s in [1, 2, 4, 8, 16, 32, 60, 60] {
            let before = server.app.metrics.password_hashes.get();
            let started = std::time::Instant::now();
            let refused = try_name(&server, name, WRONG).await;
            assert_eq!(wait_s(&refused), delay_s, "{name}");
            assert!(started.elapsed() < std::time::Duration::from_secs(5), "a refusal is immediate");
            // Further attempts during the delay do not extend it. It applies until its last microsecond.
            hand.fetch_add(delay_s * SECOND - 1, Ordering::Relaxed);
            assert_eq!(wait_s(&try_name(&server, name, WRONG).await), 1, "{name}");
            assert_eq!(server.app.metrics.password_hashes.get(), before, "a refused attempt verifies no password");
            hand.fetch_add(1, Ordering::Relaxed);
            try_name(&server, name, WRONG).await.problem(401, "invalid_credentials");
        }
    }
    use_up_free_attempts(&server, "duck").await;
    use_up_free_attempts(&server, "drake").await;
    let (known, unknown) = (try_name(&server, "duck", WRONG).await, try_name(&server, "drake", WRONG).await);
    wait_s(&unknown);
    assert_eq!(without_request_id(&known), without_request_id(&unknown));
});

both!(the_right_password_is_refused_during_a_delay_and_ends_it_afterwards, async |place| {
    let (hand, options) = limited();
    let server = Server::secured_with(place, options, &["bugs", "duck"]).await;
    use_up_free_attempts(&server, "bugs").await;
    assert_eq!(wait_s(&try_name(&server, "bugs", PASSWORD).await), 1);
    assert_eq!(try_name(&server, "duck", PASSWORD).await.status, 201, "the delay applies to one account only");
    hand.fetch_add(SECOND, Ordering::Relaxed);
    assert_eq!(try_name(&server, "bugs", PASSWORD).await.status, 201);
    use_up_free_attempts(&server, "bugs").await;
    assert_eq!(wait_s(&try_name(&server, "bugs", WRONG).await), 1, "the count starts again from zero");
});

both!(attempts_by_name_and_by_email_of_a_user_count_together, async |place| {
    let (_, options) = limited();
    let server = Server::secured_with(place, options, &["bugs"]).await;
    for who in [
        json!({"user_name": "bugs"}),
        json!({"user_name": "BUGS"}),
        json!({"email": "bugs@example.org"}),
        json!({"email": "Bugs@Example.org"}),
        json!({"user_name": "bugs"}),
    ] {
        let mut body = who;
        body["password"] = WRONG.into();
        try_with(&server, body).await.problem(401, "invalid_credentials");
    }
    for who in [json!({"user_name": "Bugs"}), json!({"email": "bugs@example.org"})] {
        let mut body = who;
        body["password"] = PASSWORD.into();
        wait_s(&try_with(&server, body).await);
    }
    // Failed attempts for an unknown name count for this name alone, without regard to case, and for no user.
    for name in ["Nobody", "nobody", "NOBODY", "nobody", "nobody"] {
        try_name(&server, name, WRONG).await.problem(401, "invalid_credentials");
    }
    wait_s(&try_name(&server, "noBody", WRONG).await);
    try_name(&server, "somebody", WRONG).await.problem(401, "invalid_credentials");
    let id = place.numbers("SELECT id FROM messaging.users").await[0][0];
    try_name(&server, &format!("user {id}"), WRONG).await.problem(401, "invalid_credentials");
});

both!(of_fifty_attempts_together_only_the_free_ones_are_tried, async |place| {
    let (_, options) = limited();
    let one = Arc::new(Server::secured_with(place, options.clone(), &["bugs"]).await);
    let other = Arc::new(Server::start_with(place, options).await);
    for name in ["bugs", "nobody"] {
        let tries: Vec<_> = (0..50)
            .map(|number| {
                let server = Arc::clone(if number % 2 == 0 { &one } else { &other });
                tokio::spawn(async move { try_name(&server, name, WRONG).await })
            })
            .collect();
        let mut looked_at = 0;
        for attempt in tries {
            let answer = attempt.await.unwrap();
            if answer.status == 401 {
                answer.problem(401, "invalid_credentials");
                looked_at += 1;
            } else {
                wait_s(&answer);
            }
        }
        assert_eq!(looked_at, 5, "{name}");
    }
});

both!(attempts_are_shared_by_servers_and_survive_restarts, async |place| {
    let (hand, options) = limited();
    let one = Server::secured_with(place, options.clone(), &["bugs"]).await;
    let other = Server::start_with(place, options.clone()).await;
    for server in [&one, &other, &one, &other, &one] {
        try_name(server, "bugs", WRONG).await.problem(401, "invalid_credentials");
    }
    assert_eq!(wait_s(&try_name(&other, "bugs", WRONG).await), 1);
    hand.fetch_add(SECOND, Ordering::Relaxed);
    try_name(&other, "bugs", WRONG).await.problem(401, "invalid_credentials");
    one.stop().await;
    other.stop().await;
    let again = Server::start_with(place, options).await;
    assert_eq!(wait_s(&try_name(&again, "bugs", PASSWORD).await), 2);
});

both!(attempts_are_deleted_after_a_day, async |place| {
    let (hand, options) = limited();
    let server = Server::secured_with(place, options, &["bugs"]).await;
    for clean in [false, true] {
        use_up_free_attempts(&server, "bugs").await;
        hand.fetch_add(86_400 * SECOND, Ordering::Relaxed);
        if clean {
            while housekeeping::batch(&server.app).await.unwrap() {}
        }
    }
    use_up_free_attempts(&server, "bugs").await;
    hand.fetch_add(86_400 * SECOND + 1, Ordering::Relaxed);
    while housekeeping::batch(&server.app).await.unwrap() {}
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.login_attempts").await, [[0]]);
});

both!(a_clock_that_is_set_back_extends_no_delay, async |place| {
    let (hand, options) = limited();
    let server = Server::secured_with(place, options, &["bugs"]).await;
    use_up_free_attempts(&server, "bugs").await;
    hand.fetch_sub(86_400 * SECOND, Ordering::Relaxed);
    assert_eq!(wait_s(&try_name(&server, "bugs", PASSWORD).await), 1);
});

both!(without_rate_limits_there_are_no_delays, async |place| {
    let (_, options) = limited();
    let server = Server::secured_with(place, Options { rate_limits: false, ..options }, &["bugs"]).await;
    for _ in 0..8 {
        try_name(&server, "bugs", WRONG).await.problem(401, "invalid_credentials");
    }
    assert_eq!(try_name(&server, "bugs", PASSWORD).await.status, 201);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.login_attempts").await, [[0]]);
});

both!(an_attempt_that_was_not_verified_is_no_failure, async |place| {
    let (_, options) = limited();
    let server = Arc::new(Server::secured_with(place, options, &["bugs"]).await);
    // 66 simultaneous verifications occupy all threads for hashing and fill their queue.
    let busy: Vec<_> = (0..66)
        .map(|_| {
            let passwords = server.app.passwords.clone();
            // Each task verifies several times, so that the queue stays full long enough on any machine.
            tokio::spawn(async move {
                for _ in 0..3 {
                    drop(passwords.verify(PASSWORD.into(), None).await);
                }
            })
        })
        .collect();
    let mut turned_away = 0;
    let mut failed = 0;
    for _ in 0..4 {
        let answer = try_name(&server, "bugs", WRONG).await;
        match answer.status.as_u16() {
            503 => turned_away += 1,
            _ => failed += 1,
        }
    }
    for verifying in busy {
        verifying.await.unwrap();
    }
    assert!(turned_away > 0);
    for _ in failed..5 {
        try_name(&server, "bugs", WRONG).await.problem(401, "invalid_credentials");
    }
    wait_s(&try_name(&server, "bugs", WRONG).await);
});

both!(password_checks_of_logged_in_users_count_too, async |place| {
    let (hand, options) = limited();
    let server = Server::secured_with(place, options, &["bugs"]).await;
    let token = try_name(&server, "bugs", PASSWORD).await.json()["token"].as_str().unwrap().to_owned();
    let change = async |current: &str| {
        let body = json!({"current_password": current, "new_password": "nothing much, you?"});
        server.put_as(&token, "/api/users/me/password", &body).await
    };
    for _ in 0..5 {
        change(WRONG).await.problem(403, "wrong_password");
    }
    assert_eq!(wait_s(&change(PASSWORD).await), 1);
    assert_eq!(wait_s(&try_name(&server, "bugs", PASSWORD).await), 1, "these attempts count with log-ins");
    // A request with an invalid new password does not count as an attempt.
    let short = json!({"current_password": WRONG, "new_password": "short"});
    server.put_as(&token, "/api/users/me/password", &short).await.invalid(&["new_password"]);
    hand.fetch_add(SECOND, Ordering::Relaxed);
    assert_eq!(change(PASSWORD).await.status, 204);
    try_name(&server, "bugs", PASSWORD).await.problem(401, "invalid_credentials");
    assert_eq!(try_name(&server, "bugs", "nothing much, you?").await.status, 201);
});

both!(names_in_attempts_are_not_stored, async |place| {
    let (_, options) = limited();
    let server = Server::secured_with(place, options, &[]).await;
    try_name(&server, "hunter2-typed-in-the-wrong-field", WRONG).await.problem(401, "invalid_credentials");
    assert_eq!(place.numbers("SELECT failures FROM messaging.login_attempts").await, [[1]]);
    assert!(!place.everything().await.contains("hunter2"));
});
