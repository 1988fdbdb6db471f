//! Erasing a user while others send, and while the server is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use posthaste::base::ids::Rng;
use reqwest::Method;
use serde_json::json;

use super::{erase, message};
use crate::both;
use crate::support::callers::{Caller, session};
use crate::support::place::Kind;
use crate::support::process::Process;
use crate::support::{Place, Server, answer_of};

/// Messages of the user who is erased while the server is killed.
const MESSAGES: i64 = 12_000;
const ROUNDS: usize = 12;

/// Inserts messages from user 2 to user 1 directly into the database, after the last message of their conversation.
pub async fn put_messages(place: &Place, conversation: i64, count: i64, body: &str) {
    let last_seq =
        place.numbers(&format!("SELECT last_seq FROM messaging.conversations WHERE id = {conversation}")).await;
    let last_seq = last_seq[0][0];
    let last_id = 1_000_000 + count;
    let next_id = match place.kind {
        Kind::Sqlite => format!("UPDATE messaging_sequence SET last_value = {last_id}"),
        Kind::Postgres => format!("SELECT setval('messaging.messaging_sequence', {last_id})"),
    };
    place
        .sql(&format!(
            "BEGIN;
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO messaging.messages (conversation_id, seq, id, timestamp_sent, kind, sender_id, recipient_id,
                                             created_at, body)
             SELECT c.id, {last_seq} + n.i, 1000000 + n.i, c.last_sent_at, 'text', 2, 1, c.last_sent_at, {body}
               FROM n, messaging.conversations c WHERE c.id = {conversation};
             INSERT INTO messaging.events (position, type, conversation_id, seq, actor_id, at)
             SELECT (SELECT last_position FROM messaging.event_log) + m.seq - {last_seq}, 'message.created',
                    m.conversation_id, m.seq, m.sender_id, m.timestamp_sent
               FROM messaging.messages m WHERE m.conversation_id = {conversation} AND m.seq > {last_seq};
             UPDATE messaging.event_log SET last_position = last_position + {count};
             UPDATE messaging.conversations SET last_seq = {last_seq} + {count}, last_message_id = {last_id}
              WHERE id = {conversation};
             {next_id};
             COMMIT"
        ))
        .await;
}

both!(an_erasure_that_a_kill_interrupts_is_completed_after_the_restart, async |place| {
    let server = Process::start(place).await;
    put_messages(place, 1, MESSAGES, "'word by word'").await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/api/users/bugs?messages=delete", server.address);
    let erasing = tokio::spawn(client.delete(url).send());
    let left = "SELECT count(*) FROM messaging.messages WHERE sender_id = 2 AND deleted_at IS NULL";
    let started = Instant::now();
    let whole = place.numbers(left).await[0][0];
    while place.numbers(left).await[0][0] == whole {
        assert!(started.elapsed() < Duration::from_secs(60), "the erasure does not begin");
    }
    server.kill();
    assert!(erasing.await.unwrap().is_err(), "the erasure was complete before the kill");
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.erasures").await, [[1]]);
    assert!(place.numbers(left).await[0][0] > 0);

    let server = Process::start(place).await;
    let users = client.get(format!("http://{}/api/users/bugs", server.address));
    answer_of(users).await.problem(404, "user_not_found");
    let started = Instant::now();
    while place.numbers("SELECT count(*) FROM messaging.erasures").await != [[0]] {
        assert!(started.elapsed() < Duration::from_secs(60), "the erasure is not completed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(place.numbers(left).await, [[0]]);
    let bodies = "SELECT count(*) FROM messaging.messages WHERE sender_id = 2 AND body <> ''";
    assert_eq!(place.numbers(bodies).await, [[0]]);
    // One event for each message, whichever server wrote it.
    let events = "SELECT count(*), count(DISTINCT seq) FROM messaging.events WHERE type = 'message.deleted'";
    assert_eq!(place.numbers(events).await, [[MESSAGES + 1, MESSAGES + 1]]);
    server.terminate().await;
});

both!(nothing_is_sent_by_or_to_an_erased_user, async |place| {
    let (one, other) = (Arc::new(Server::start(place).await), Arc::new(Server::start(place).await));
    let mut accepted = 0;
    let mut ids = Vec::new();
    for round in 0..ROUNDS {
        let name = format!("prey{round}");
        for stranger in ["early", "late"] {
            one.add_user(&format!("{stranger}{round}"), "", "").await;
        }
        let made = one.post("/api/users", &json!({"user_name": name})).await.json();
        ids.push(made["id"].as_i64().unwrap());
        let token = session(&one, &name).await;
        let ended = Arc::new(AtomicBool::new(false));
        let senders = (0..8).map(|kind| {
            let server = Arc::clone(if kind % 2 == 0 { &one } else { &other });
            let (name, token, ended) = (name.clone(), token.clone(), Arc::clone(&ended));
            tokio::spawn(async move {
                let mut statuses = Vec::new();
                let mut number = 0;
                while !ended.load(Ordering::Relaxed) {
                    number += 1;
                    let key = format!("{round} {kind} {number}");
                    let answer = match kind / 2 {
                        0 => {
                            let body = json!({"recipient_user_name": "bugs", "body": "of their own"});
                            Caller::new(&server, &token).post_once("/api/messages", &key, &body).await
                        }
                        1 => server.post("/api/messages", &message(&name, "duck", "in their name")).await,
                        2 => server.post("/api/messages", &message("duck", &name, "to them")).await,
                        // Sends the first message of a new conversation at some moment before, during or after the erasure.
                        _ => {
                            let stranger = format!("{}{round}", if kind == 6 { "early" } else { "late" });
                            tokio::time::sleep(Duration::from_millis(if kind == 6 { 5 } else { 20 })).await;
                            server.post("/api/messages", &message(&name, &stranger, "a first one")).await
                        }
                    };
                    statuses.push(answer.status.as_u16());
                }
                statuses
            })
        });
        let senders: Vec<_> = senders.collect();
        let random = u64::from_le_bytes(Rng::System.bytes().unwrap());
        tokio::time::sleep(Duration::from_millis(random % 40)).await;
        let gone = erase(&one, &format!("/api/users/{name}?messages=delete")).await;
        assert_eq!(gone.status, 204, "{}", String::from_utf8_lossy(&gone.bytes));
        tokio::time::sleep(Duration::from_millis(30)).await;
        ended.store(true, Ordering::Relaxed);
        for sender in senders {
            let statuses = sender.await.unwrap();
            assert!(statuses.iter().all(|status| [201, 401, 422].contains(status)), "{statuses:?}");
            accepted += statuses.iter().filter(|status| **status == 201).count();
        }
    }
    assert!(accepted > ROUNDS, "too few sends to show anything: {accepted}");
    let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
    let left = format!(
        "SELECT id, conversation_id, seq FROM messaging.messages
          WHERE sender_id IN ({}) AND (deleted_at IS NULL OR body <> '')",
        ids.join(", ")
    );
    assert_eq!(place.numbers(&left).await, Vec::<Vec<i64>>::new(), "of {accepted}");
    let answers = "SELECT count(*) FROM messaging.idempotency_keys WHERE length(body) > 0";
    assert_eq!(place.numbers(answers).await, [[0]]);
    for table in ["users", "sessions", "passwords"] {
        let column = if table == "users" { "id" } else { "user_id" };
        let rows = format!("SELECT count(*) FROM messaging.{table} WHERE {column} IN ({})", ids.join(", "));
        assert_eq!(place.numbers(&rows).await, [[0]], "{table}");
    }
});

both!(two_erasures_of_one_user_have_the_effect_of_one, async |place| {
    let (one, other) = (Server::start(place).await, Server::start(place).await);
    put_messages(place, 1, 1_500, "'word'").await;
    let (first, second) =
        tokio::join!(erase(&one, "/api/users/bugs?messages=delete"), erase(&other, "/api/users/bugs?messages=keep"),);
    let mut statuses = [first.status.as_u16(), second.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 404]);
    let read = answer_of(one.request(Method::GET, "/api/messages/rdibari?limit=200")).await;
    assert_eq!(read.status, 200);
    let erased = place.numbers("SELECT count(*) FROM messaging.audit_log WHERE action = 'user.erased'").await;
    assert_eq!(erased, [[1]]);
    let events = "SELECT count(*), count(DISTINCT seq) FROM messaging.events WHERE type = 'message.deleted'";
    let events = place.numbers(events).await;
    assert_eq!(events[0][0], events[0][1]);
});
