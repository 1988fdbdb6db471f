//! Every send is sent several times at once: all requests with one key create one message, even if they arrive on several
//! servers.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use futures_util::StreamExt;
use posthaste::base::time::{Clock, Timestamp};
use reqwest::Method;
use serde_json::json;

use super::{PAIRS, stored};
use crate::both;
use crate::messages::messages::assert_dense;
use crate::support::server::Answer;
use crate::support::{Options, Place, Server, answer_of};

const KEYS: usize = 1_000;
const SENDS_PER_KEY: usize = 5;
/// Number of keys that are sent at the same time. Each has `SENDS_PER_KEY` open requests, and each open request needs its own
/// connection: 120 connections.
const KEYS_AT_ONCE: usize = 24;

both!(a_thousand_keys_sent_five_times_each_are_a_thousand_messages, async |place| {
    let server = Server::start(place).await;
    send_all_keys(place, &[&server]).await;
    server.stop().await;
});

both!(a_thousand_keys_over_two_servers_on_one_database_are_a_thousand_messages, async |place| {
    let (one, other) = (Server::start(place).await, Server::start(place).await);
    send_all_keys(place, &[&one, &other]).await;
    one.stop().await;
    other.stop().await;
});

both!(a_thousand_keys_over_two_servers_on_either_side_of_midnight_are_a_thousand_messages, async |place| {
    let one = Server::start_with(place, at("2026-11-22T23:59:59.999999Z")).await;
    let other = Server::start_with(place, at("2026-11-23T00:00:00Z")).await;
    send_all_keys(place, &[&one, &other]).await;
    one.stop().await;
    other.stop().await;
});

/// Options for a server whose clock always shows this time.
fn at(moment: &str) -> Options {
    let micros = Timestamp::parse(moment).unwrap().micros();
    Options { clock: Clock::Manual(Arc::new(AtomicI64::new(micros))), ..Options::default() }
}

async fn send_all_keys(place: &Place, servers: &[&Server]) {
    let mut keys = futures_util::stream::iter(0..KEYS)
        .map(|key| async move {
            let sends = (0..SENDS_PER_KEY).map(|number| send(servers[(key + number) % servers.len()], key));
            (key, futures_util::future::join_all(sends).await)
        })
        .buffer_unordered(KEYS_AT_ONCE);
    while let Some((key, answers)) = keys.next().await {
        let first = answers.iter().find(|answer| answer.header("idempotency-replayed").is_none());
        let first = first.unwrap_or_else(|| panic!("all answers to key {key} are replays"));
        for answer in &answers {
            assert_eq!(answer.status, 201, "key {key}: {}", String::from_utf8_lossy(&answer.bytes));
            assert_eq!(answer.bytes, first.bytes, "key {key}");
            assert_eq!(answer.header("location"), first.header("location"), "key {key}");
        }
        let replayed = answers.iter().filter(|answer| answer.header("idempotency-replayed") == Some("true"));
        assert_eq!(replayed.count(), SENDS_PER_KEY - 1, "key {key}");
    }
    let stored = stored(place).await;
    for key in 0..KEYS {
        assert_eq!(stored.get(&body(key)).map(Vec::len), Some(1), "key {key}");
    }
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.messages").await, [[KEYS as i64 + 4]]);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.idempotency_keys").await, [[KEYS as i64]]);
    assert_dense(place).await;
}

async fn send(server: &Server, key: usize) -> Answer {
    let (sender, recipient) = PAIRS[key % PAIRS.len()];
    let message = json!({"sender_user_name": sender, "recipient_user_name": recipient, "body": body(key)});
    let request = server.request(Method::POST, "/api/messages").header("idempotency-key", format!("key {key}"));
    answer_of(request.json(&message)).await
}

fn body(key: usize) -> String {
    format!("message of key {key}")
}
