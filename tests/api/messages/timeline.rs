//! `GET /api/messages/{user_name}`: windows, orders, pages.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use posthaste::base::time::{Clock, Timestamp};
use reqwest::Method;
use serde_json::Value;

use crate::both;
use crate::support::{Options, Place, Server, answer_of};

const DAY_MICROS: i64 = 86_400_000_000;

/// A server whose clock stands still at 2026-11-22T08:30:00Z, and the value with which the test moves the clock.
async fn at_a_standstill(place: &Place) -> (Server, Arc<AtomicI64>) {
    let hand = Arc::new(AtomicI64::new(Timestamp::parse("2026-11-22T08:30:00Z").unwrap().micros()));
    let clock = Clock::Manual(Arc::clone(&hand));
    (Server::start_with(place, Options { clock, ..Options::default() }).await, hand)
}

fn bodies(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["body"].as_str().unwrap()).collect()
}

both!(the_timeline_has_the_fields_of_the_seed, async |place| {
    let server = Server::start(place).await;
    let rebecca = server.get("/api/messages/rdibari").await;
    assert_eq!(rebecca.status, 200);
    assert!(rebecca.next().is_none());
    let messages = rebecca.json();
    assert_eq!(bodies(messages.as_array().unwrap()), ["Hey, whats up?", "nothing much, you", "samees"]);
    for message in messages.as_array().unwrap() {
        assert!(message["timestamp_delivered"].is_null() && message["timestamp_read"].is_null());
    }
    assert_eq!(bodies(&server.all("/api/messages/PORKY").await), ["omw"]);
    server.get("/api/messages/fakeuser").await.problem(404, "user_not_found");
});

both!(the_window_is_thirty_days_or_the_requested_one, async |place| {
    let (server, hand) = at_a_standstill(place).await;
    for days in 1..=60 {
        hand.fetch_add(DAY_MICROS, Ordering::Relaxed);
        server.send("bugs", "duck", &format!("day {days}")).await;
    }
    let list = async |query: &str| -> Vec<String> {
        let messages = server.all(&format!("/api/messages/duck{query}")).await;
        bodies(&messages).into_iter().map(str::to_owned).collect()
    };
    let days = |range: std::ops::RangeInclusive<i32>| range.map(|day| format!("day {day}")).collect::<Vec<_>>();
    // Thirty days before day 60 is the exact time of day 30. The start belongs to the window.
    assert_eq!(list("").await, days(30..=60));
    assert_eq!(list("?days=1").await, days(59..=60));
    assert_eq!(list("?days=3650&with=bugs").await, days(1..=60));
    assert_eq!(list("?since=2026-11-23T08:30:00Z&until=2026-11-26T08:30:00Z").await, days(1..=3));
    assert_eq!(list("?since=2026-11-23T08:30:00.000001Z&until=2026-11-26T08:30:00.000001Z").await, days(2..=4));
    assert_eq!(list("?since=2026-11-23T09:30:00%2B01:00&until=2026-11-24T08:30:00Z").await, days(1..=1));
    assert_eq!(list("?until=2026-11-26T08:30:00Z").await.last().unwrap(), "day 3");
    assert_eq!(list("?since=2027-01-20T00:00:00Z").await, days(59..=60));
    assert_eq!(list("?since=2030-01-01T00:00:00Z").await, Vec::<String>::new());
    let mut newest_first = days(30..=60);
    newest_first.reverse();
    assert_eq!(list("?order=desc").await, newest_first);
    assert_eq!(list("?order=desc&limit=4").await, newest_first);
    assert_eq!(list("?order=asc&limit=7").await, days(30..=60));
});

both!(invalid_windows_name_their_parameters, async |place| {
    let server = Server::start(place).await;
    let list = async |query: &str| server.get(&format!("/api/messages/bugs?{query}")).await;
    list("days=5&since=2026-01-01T00:00:00Z").await.invalid(&["days"]);
    list("days=5&until=2026-01-01T00:00:00Z").await.invalid(&["days"]);
    for days in ["0", "3651", "-1", "x", ""] {
        list(&format!("days={days}")).await.invalid(&["days"]);
    }
    for time in ["yesterday", "2026-01-32", "2026-01-01T00:00:00", "2026-01-01T00:00:00+01:00", ""] {
        list(&format!("since={time}")).await.invalid(&["since"]);
        list(&format!("until={time}")).await.invalid(&["until"]);
    }
    list("order=up").await.invalid(&["order"]);
    list("with=nobody").await.invalid(&["with"]);
    list("with=a%00b").await.invalid(&["with"]);
    list("cursor=abc").await.invalid(&["cursor"]);
    list("limit=0&order=up&days=x").await.problem(422, "invalid_fields");
    let cursor = list("limit=1&order=desc").await.next().unwrap().split("cursor=").nth(1).unwrap().to_owned();
    list(&format!("limit=1&order=asc&cursor={cursor}")).await.invalid(&["cursor"]);
});

both!(pages_have_neither_gaps_nor_repeats, async |place| {
    let (server, hand) = at_a_standstill(place).await;
    let others = ["rdibari", "duck", "porky", "bugs"];
    let mut expected = server.all("/api/messages/bugs").await;
    for number in 0..230_i64 {
        // Some messages get the same time, so that their ids decide the order. Sometimes the clock is set back.
        hand.fetch_add([0, 0, 1, 1_000_000, -5_000_000, 0][(number % 6) as usize], Ordering::Relaxed);
        // One conversation is busy. The others have no messages for long periods.
        let other = others[if number % 50 == 0 { (number / 50 % 4) as usize } else { usize::from(number % 3 == 0) }];
        let (sender, recipient) = if number % 2 == 0 { ("bugs", other) } else { (other, "bugs") };
        expected.push(server.send(sender, recipient, &format!("number {number}")).await);
    }
    let key =
        |message: &Value| (message["timestamp_sent"].as_str().unwrap().to_owned(), message["id"].as_i64().unwrap());
    expected.sort_by_key(key);
    for message in &mut expected {
        // Reads each message again, because answers have marked it as read since it was sent.
        let target = format!("/api/conversations/{}/messages/{}", message["conversation_id"], message["seq"]);
        *message = server.get(&target).await.json();
    }
    for limit in [1, 2, 3, 49, 50, 200] {
        assert_eq!(server.all(&format!("/api/messages/bugs?limit={limit}")).await, expected, "limit {limit}");
    }
    let with: Vec<_> = expected
        .iter()
        .filter(|message| {
            [&message["sender_user_name"], &message["recipient_user_name"]].iter().any(|name| **name == "duck")
        })
        .cloned()
        .collect();
    assert_eq!(server.all("/api/messages/bugs?with=duck&limit=7").await, with);
    expected.reverse();
    for limit in [1, 2, 3, 49, 50, 200] {
        assert_eq!(
            server.all(&format!("/api/messages/bugs?order=desc&limit={limit}")).await,
            expected,
            "limit {limit}"
        );
    }
    crate::messages::messages::assert_dense(place).await;
});

both!(pages_do_not_move_while_new_messages_arrive, async |place| {
    let (server, hand) = at_a_standstill(place).await;
    for number in 0..10 {
        server.send("bugs", "duck", &format!("{number}")).await;
    }
    let first = server.get("/api/messages/duck?order=desc&limit=4").await;
    let next = first.next().unwrap();
    assert!(
        next.starts_with("/api/messages/duck?order=desc&limit=4&since=2026-10-23T08:30:00.000000Z&cursor="),
        "{next}"
    );
    hand.fetch_add(29 * DAY_MICROS, Ordering::Relaxed);
    server.send("bugs", "duck", "new").await;
    // The window is fixed on the first page: it has not moved two days later.
    hand.fetch_add(2 * DAY_MICROS, Ordering::Relaxed);
    let rest = server.all(&next).await;
    assert_eq!(bodies(&rest), ["5", "4", "3", "2", "1", "0", "omw"]);
    assert_eq!(bodies(&server.all("/api/messages/duck").await), ["new"]);
});

both!(links_keep_the_escaping_of_the_path, async |place| {
    let server = Server::start(place).await;
    let link = server.get("/api/messages/%72dibari?limit=1&with=b%75gs").await.next().unwrap();
    assert!(link.starts_with("/api/messages/%72dibari?"), "{link}");
    assert!(link.ends_with("&with=bugs"), "{link}");
    assert_eq!(server.get(&link).await.json()[0]["body"], "nothing much, you");
});

both!(users_read_only_their_own_messages, async |place| {
    let server = Server::start(place).await;
    let read = async |who: &str, whose: &str| {
        answer_of(server.request(Method::GET, &format!("/api/messages/{whose}")).header("x-act-as", who)).await
    };
    assert_eq!(read("porky", "me").await.json()[0]["body"], "omw");
    assert_eq!(read("porky", "porky").await.status, 200);
    read("porky", "bugs").await.problem(403, "not_your_messages");
    read("porky", "nobody").await.problem(404, "user_not_found");
    server.get("/api/messages/me").await.problem(403, "act_as_required");
});
