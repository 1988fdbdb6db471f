//! Times that must be in order stay in order when the clock is set back.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use posthaste::base::time::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::callers::moment;
use crate::support::people::{call, delete, get, group, patch, post, put};
use crate::support::{Options, Server};

const MINUTE_MICROS: i64 = 60_000_000;

/// Asserts that all fields are times, in this order. Equal times are allowed.
#[track_caller]
fn assert_ordered(object: &Value, fields: &[&str]) {
    let times: Vec<&str> =
        fields.iter().map(|field| object[field].as_str().unwrap_or_else(|| panic!("{object}"))).collect();
    assert!(times.is_sorted(), "{fields:?} of {object}");
}

both!(no_change_is_earlier_than_what_it_changes, async |place| {
    let hand = Arc::new(AtomicI64::new(moment("2026-11-22T08:30:00Z")));
    let clock = Clock::Manual(Arc::clone(&hand));
    let server = Server::start_with(place, Options { clock, ..Options::default() }).await;
    let (forward, back) =
        (|| hand.fetch_add(MINUTE_MICROS, Ordering::Relaxed), || hand.fetch_sub(10 * MINUTE_MICROS, Ordering::Relaxed));
    let messages: Vec<Value> =
        vec![server.send("duck", "porky", "one").await, server.send("duck", "porky", "two").await];
    let id = messages[0]["conversation_id"].clone();
    let path = |seq: i64| format!("/api/conversations/{id}/messages/{seq}");
    let looney = group(&server, "duck", &["porky"], "all").await;
    back();
    // Edits, pins, reactions and deletions.
    let edited = patch(&server, "duck", &path(1), json!({"body": "once"})).await.json();
    assert_ordered(&edited, &["created_at", "timestamp_sent", "edited_at"]);
    hand.fetch_add(20 * MINUTE_MICROS, Ordering::Relaxed);
    let later = patch(&server, "duck", &path(1), json!({"body": "twice"})).await.json();
    assert!(later["edited_at"].as_str() > edited["edited_at"].as_str());
    back();
    back();
    let again = patch(&server, "duck", &path(1), json!({"body": "thrice"})).await.json();
    assert_eq!(again["edited_at"], later["edited_at"]);
    let earlier = get(&server, "duck", &format!("{}/history", path(1))).await.json();
    assert!(earlier.as_array().unwrap().is_sorted_by_key(|one| one["at"].as_str().unwrap().to_owned()), "{earlier}");
    assert_eq!(put(&server, "duck", &format!("{}/pin", path(2))).await.status, 204);
    assert_ordered(&get(&server, "duck", &path(2)).await.json(), &["timestamp_sent", "pinned_at"]);
    assert_eq!(put(&server, "porky", &format!("{}/reactions/%F0%9F%91%8D", path(2))).await.status, 201);
    let reacted = "SELECT count(*) FROM messaging.reactions r JOIN messaging.messages m
                       ON m.conversation_id = r.conversation_id AND m.seq = r.seq WHERE r.at < m.timestamp_sent";
    assert_eq!(place.numbers(reacted).await, [[0]]);
    let report = post(&server, "porky", &format!("{}/report", path(2)), json!({"reason": "why"})).await.json();
    assert!(report["created_at"].as_str() >= messages[1]["timestamp_sent"].as_str());
    assert_eq!(delete(&server, "duck", &path(1)).await.status, 204);
    let tombstone = get(&server, "duck", &path(1)).await.json();
    assert_eq!(tombstone["deleted_at"], later["edited_at"]);
    // Receipts: delivered, and then read while the clock shows an earlier time.
    forward();
    let receipts = format!("/api/conversations/{id}/receipts");
    hand.fetch_add(30 * MINUTE_MICROS, Ordering::Relaxed);
    assert_eq!(post(&server, "porky", &receipts, json!({"delivered_seq": 2})).await.status, 200);
    back();
    assert_eq!(post(&server, "porky", &receipts, json!({"read_seq": 2})).await.status, 200);
    let read = get(&server, "duck", &path(2)).await.json();
    assert_ordered(&read, &["timestamp_sent", "timestamp_delivered", "timestamp_read"]);
    let listed = get(&server, "duck", &format!("{}/receipts", path(2))).await.json();
    assert_ordered(&listed[0], &["delivered_at", "read_at"]);
    // The same in a group, whose receipts are computed from those of all members.
    let new = json!({"sender_user_name": "duck", "conversation_id": looney, "body": "x"});
    let seq = server.post("/api/messages", &new).await.json()["seq"].as_i64().unwrap();
    let receipts = format!("/api/conversations/{looney}/receipts");
    forward();
    assert_eq!(post(&server, "porky", &receipts, json!({"delivered_seq": seq})).await.status, 200);
    back();
    assert_eq!(post(&server, "porky", &receipts, json!({"read_seq": seq})).await.status, 200);
    let target = format!("/api/conversations/{looney}/messages/{seq}");
    assert_ordered(&get(&server, "duck", &target).await.json(), &["timestamp_delivered", "timestamp_read"]);
    let listed = get(&server, "duck", &format!("{target}/receipts")).await.json();
    assert_ordered(&listed[0], &["delivered_at", "read_at"]);
});

both!(no_change_of_an_account_or_a_group_is_earlier_than_its_creation, async |place| {
    let hand = Arc::new(AtomicI64::new(moment("2026-11-22T08:30:00Z")));
    let clock = Clock::Manual(Arc::clone(&hand));
    let server = Server::start_with(place, Options { clock, ..Options::default() }).await;
    let id = group(&server, "duck", &["porky"], "all").await;
    let message = server.send("porky", "duck", "x").await;
    let target = format!("/api/conversations/{}/messages/{}/report", message["conversation_id"], message["seq"]);
    let report = post(&server, "duck", &target, json!({"reason": "why"})).await.json();
    hand.fetch_sub(MINUTE_MICROS, Ordering::Relaxed);
    let user = patch(&server, "duck", "/api/users/me", json!({"first_name": "Daffy D."})).await.json();
    assert_ordered(&user, &["created_at", "modified_at"]);
    assert_eq!(put(&server, "duck", &format!("/api/conversations/{id}/members/bugs")).await.status, 201);
    let shown = get(&server, "bugs", &format!("/api/conversations/{id}")).await.json();
    assert!(shown["me"]["joined_at"].as_str() >= shown["created_at"].as_str(), "{shown}");
    let handled = json!({"id": report["id"], "state": "dismissed"});
    let request = server.request(Method::PATCH, "/api/admin/reports").json(&handled);
    assert_ordered(&crate::support::answer_of(request).await.json(), &["created_at", "handled_at"]);
    let role = json!({"role": "admin"});
    let answer = server.request(Method::PUT, "/api/admin/users/duck/role").json(&role).send().await.unwrap();
    assert_eq!(answer.status(), 204);
    let user = call(&server, "duck", Method::GET, "/api/users/me", None).await.json();
    assert_ordered(&user, &["created_at", "modified_at"]);
});
