//! A clock that is set back, for example to correct a clock that was ahead. Nothing is done twice, and users need not wait
//! until the clock shows the old time again to log in.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use posthaste::base::time::{Clock, Timestamp};
use posthaste::domain::operations::housekeeping;
use reqwest::Method;
use serde_json::json;

use super::{DAY_S, NOTICED_WITHIN, SECOND, count, in_s};
use crate::both;
use crate::events::webhooks::Receiver;
use crate::support::accounts::{PASSWORD, authenticator, secured};
use crate::support::callers::moment;
use crate::support::people::get;
use crate::support::place::Kind;
use crate::support::{Options, Place, Server, answer_of};

const DAY: i64 = DAY_S * SECOND;

/// A server with a clock that the test moves.
async fn with_manual_clock(place: &Place, options: Options) -> (Arc<AtomicI64>, Server) {
    let hand = Arc::new(AtomicI64::new(moment("2026-11-22T08:30:10Z")));
    let clock = Clock::Manual(Arc::clone(&hand));
    (hand, Server::start_with(place, Options { clock, ..options }).await)
}

/// Sends a message with a key. Returns the bytes of the answer.
async fn send_once(server: &Server, key: &str) -> Vec<u8> {
    let message = json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": key});
    let request = server.request(Method::POST, "/api/messages").header("idempotency-key", key).json(&message);
    let answer = answer_of(request).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.bytes
}

/// A time as an SQL literal.
fn literal(place: &Place, at: Timestamp) -> String {
    match place.kind {
        Kind::Sqlite => at.micros().to_string(),
        Kind::Postgres => format!("'{at}'"),
    }
}

both!(a_clock_set_back_accepts_each_authenticator_code_once, async |place| {
    let (hand, server) = with_manual_clock(place, secured()).await;
    server.add_person("bugs", Some(PASSWORD), false).await;
    let token = server.token_of("bugs").await;
    let offered = answer_of(server.request_as(&token, Method::POST, "/api/users/me/mfa")).await.json();
    let secret = offered["secret"].as_str().unwrap().to_owned();
    let code = |steps: i64| authenticator(&secret, hand.load(Ordering::Relaxed) + steps * 30 * SECOND);
    assert_eq!(server.put_as(&token, "/api/users/me/mfa", &json!({"code": code(0)})).await.status, 200);
    let log_in = async |code: &str| {
        let body = json!({"user_name": "bugs", "password": PASSWORD, "code": code});
        server.log_in(body).await.status.as_u16()
    };
    hand.fetch_add(60 * SECOND, Ordering::Relaxed);
    assert_eq!(
        [log_in(&code(1)).await, log_in(&code(0)).await],
        [201, 401],
        "each code is accepted once, as with a right clock"
    );
    hand.fetch_add(-2 * DAY, Ordering::Relaxed);
    assert_eq!(log_in(&code(0)).await, 201);
    for steps in [0, -1] {
        assert_eq!(log_in(&code(steps)).await, 401, "the code of step {steps} is used up");
    }
    assert_eq!([log_in(&code(1)).await, log_in(&code(1)).await], [201, 401]);
    // The clock is right again. Codes that were used while it was wrong stay used, and they do not make later codes invalid.
    hand.fetch_add(2 * DAY, Ordering::Relaxed);
    hand.fetch_add(60 * SECOND, Ordering::Relaxed);
    assert_eq!([log_in(&code(0)).await, log_in(&code(0)).await], [201, 401]);
    // Of several simultaneous log-ins with one code, one succeeds.
    hand.fetch_add(-2 * DAY, Ordering::Relaxed);
    let at_once = code(0);
    let outcomes = futures_util::future::join_all((0..8).map(|_| log_in(&at_once))).await;
    assert_eq!(outcomes.iter().filter(|status| **status == 201).count(), 1, "{outcomes:?}");
});

both!(a_clock_set_back_keeps_nobody_waiting_for_a_log_in, async |place| {
    let (hand, server) = with_manual_clock(place, Options { rate_limits: true, ..secured() }).await;
    server.add_person("bugs", Some(PASSWORD), false).await;
    let log_in = async |password: &str| {
        let body = json!({"user_name": "bugs", "password": password});
        server.log_in(body).await.status.as_u16()
    };
    for _ in 0..5 {
        assert_eq!(log_in("not the password").await, 401);
    }
    assert_eq!(log_in(PASSWORD).await, 429);
    hand.fetch_add(-2 * DAY, Ordering::Relaxed);
    assert_eq!(log_in("not the password").await, 429, "the delay has no exception");
    hand.fetch_add(2 * SECOND, Ordering::Relaxed);
    assert_eq!(log_in("not the password").await, 401);
    assert_eq!(log_in(PASSWORD).await, 429);
    hand.fetch_add(3 * SECOND, Ordering::Relaxed);
    assert_eq!(log_in(PASSWORD).await, 201);
});

both!(keys_from_a_clock_that_was_ahead_stay_valid, async |place| {
    let (hand, server) = with_manual_clock(place, Options::default()).await;
    let send = async |key: &str| send_once(&server, key).await;
    let before = send("before").await;
    hand.fetch_add(30 * DAY, Ordering::Relaxed);
    let ahead = send("ahead").await;
    hand.fetch_add(-30 * DAY, Ordering::Relaxed);
    let after = send("after").await;
    while housekeeping::batch(&server.app).await.unwrap() {}
    for _ in 0..7 {
        for (key, first) in [("before", &before), ("ahead", &ahead), ("after", &after)] {
            assert_eq!(send(key).await, *first, "{key}");
        }
        hand.fetch_add(DAY, Ordering::Relaxed);
        while housekeeping::batch(&server.app).await.unwrap() {}
    }
});

both!(keys_that_a_wrong_clock_keeps_for_longer_are_erased_with_their_user, async |place| {
    let (hand, server) = with_manual_clock(place, Options::default()).await;
    hand.fetch_add(30 * DAY, Ordering::Relaxed);
    send_once(&server, "ahead").await;
    hand.fetch_add(-30 * DAY, Ordering::Relaxed);
    send_once(&server, "after").await;
    hand.fetch_add(15 * DAY, Ordering::Relaxed);
    let kept = "SELECT count(*) FROM messaging.idempotency_keys WHERE length(body) > 0";
    assert_eq!(place.numbers(kept).await, [[2]]);
    let erased = answer_of(server.request(Method::DELETE, "/api/users/me").header("x-act-as", "bugs")).await;
    assert_eq!(erased.status, 204, "{}", String::from_utf8_lossy(&erased.bytes));
    assert_eq!(place.numbers(kept).await, [[0]]);
});

both!(a_waiting_delivery_is_repeated_after_the_clock_was_set_back, async |place| {
    let (hand, server) = with_manual_clock(place, Options { webhook_allow_private: true, ..Options::default() }).await;
    let receiver = Receiver::start(&[500], 204).await;
    let new = json!({"url": receiver.url, "event_types": ["message.created"]});
    assert_eq!(server.post("/api/webhooks", &new).await.status, 201);
    server.send("bugs", "duck", "hey").await;
    receiver.wait(1).await;
    hand.fetch_add(-2 * DAY, Ordering::Relaxed);
    receiver.wait(2).await;
    assert_eq!(receiver.bodies(), ["hey", "hey"]);
});

both!(a_lease_from_before_the_clock_was_set_back_is_over, async |place| {
    let options = || Options { webhook_allow_private: true, ..Options::default() };
    let receiver = Receiver::start(&[], 204).await;
    let server = Server::start_with(place, options()).await;
    let new = json!({"url": receiver.url, "event_types": ["message.created"]});
    assert_eq!(server.post("/api/webhooks", &new).await.status, 201);
    server.stop().await;
    let until = literal(place, in_s(2 * DAY_S));
    place.sql(&format!("UPDATE messaging.webhooks SET lease_holder = 'killed', lease_until = {until}")).await;
    let server = Server::start_with(place, options()).await;
    server.send("bugs", "duck", "hey").await;
    receiver.wait(1).await;
});

both!(users_of_a_server_that_was_killed_before_the_clock_was_set_back_are_offline, async |place| {
    let server = Server::start(place).await;
    let later = literal(place, in_s(2 * DAY_S));
    place
        .sql(&format!(
            "INSERT INTO messaging.presence_servers (server, seen_at, stopped) VALUES ('killed', {later}, FALSE);
             INSERT INTO messaging.presence (user_id, server, state) SELECT id, 'killed', 'online'
               FROM messaging.users WHERE user_name = 'bugs'"
        ))
        .await;
    assert_eq!(get(&server, "bugs", "/api/users/bugs/presence").await.json()["state"], "offline");
    let deadline = Instant::now() + NOTICED_WITHIN;
    while count(place, "presence_servers").await > 0 {
        assert!(Instant::now() < deadline, "the rows of a killed server are not removed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
});
