//! Erasing a user: what is deleted, what stays, and that an erasure is always completed.

mod remains;
mod storm;
mod tables;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use posthaste::base::time::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::messages::messages::assert_dense;
use crate::operations::operations::{posthaste, text};
use crate::support::callers::{Caller, moment, secured, session, within_a_second};
use crate::support::place::Kind;
use crate::support::server::Answer;
use crate::support::{Options, Place, Server, answer_of};

pub use storm::put_messages;

/// A POST without credentials, with an `Idempotency-Key`.
async fn post_once(server: &Server, target: &str, key: &str, body: &Value) -> Answer {
    answer_of(server.request(Method::POST, target).header("idempotency-key", key).json(body)).await
}

async fn erase(server: &Server, target: &str) -> Answer {
    answer_of(server.request(Method::DELETE, target)).await
}

fn message(sender: &str, recipient: &str, body: &str) -> Value {
    json!({"sender_user_name": sender, "recipient_user_name": recipient, "body": body})
}

/// Asserts that the repeat has the first answer's status and headers, and an empty body.
fn assert_blank(repeat: &Answer) {
    assert_eq!(repeat.status, 201, "{}", String::from_utf8_lossy(&repeat.bytes));
    assert_eq!(String::from_utf8_lossy(&repeat.bytes), "");
    assert_eq!(repeat.header("idempotency-replayed"), Some("true"));
}

both!(users_who_erase_themselves_are_gone_and_their_messages_stay, async |place| {
    let open = Server::start(place).await;
    let (bugs, phone) = (session(&open, "bugs").await, session(&open, "bugs").await);
    let (one, other) = (Server::start_with(place, secured()).await, Server::start_with(place, secured()).await);
    let key = one.api_key(&["read", "write"]).await;
    let (reader, elsewhere) = (Caller::new(&one, &key), Caller::new(&other, &key));
    let theirs = post_once(&open, "/api/messages", "theirs", &message("bugs", "rdibari", "kept")).await.json();
    let answer_to_them = post_once(&open, "/api/messages", "to them", &message("rdibari", "bugs", "kept too")).await;
    let unrelated = post_once(&open, "/api/messages", "unrelated", &message("duck", "porky", "kept as well")).await;
    let before = reader.get("/api/messages/rdibari").await.json();
    assert_eq!(
        elsewhere.get("/api/messages/rdibari").await.json(),
        before,
        "both servers have the messages in their tails"
    );
    let seen = [Caller::new(&one, &phone), Caller::new(&other, &phone), Caller::new(&other, &bugs)];
    for caller in seen {
        assert_eq!(caller.get("/api/users/me").await.status, 200);
    }

    Caller::new(&one, &bugs).delete("/api/users/duck").await.problem(403, "not_your_account");
    Caller::new(&one, &bugs).delete("/api/users/me?messages=burn").await.invalid(&["messages"]);
    reader.delete("/api/users/bugs").await.problem(403, "not_your_account");
    let gone = Caller::new(&one, &bugs).delete("/api/users/me").await;
    assert_eq!((gone.status.as_u16(), gone.bytes.len()), (204, 0));

    Caller::new(&one, &bugs).get("/api/users").await.problem(401, "unauthenticated");
    Caller::new(&one, &phone).get("/api/users").await.problem(401, "unauthenticated");
    within_a_second(Caller::new(&other, &phone), "/api/users", 401).await;
    within_a_second(Caller::new(&other, &bugs), "/api/users", 401).await;
    for caller in [reader, elsewhere] {
        for target in ["/api/users/bugs", "/api/users/BUGS", "/api/messages/bugs"] {
            let answer = caller.get(target).await;
            answer.problem(404, "user_not_found");
        }
        caller.acting_as("bugs").get("/api/users").await.invalid(&["X-Act-As"]);
        // The other user's timeline shows the erasure immediately, on every server.
        let after = caller.get("/api/messages/rdibari").await.json();
        for (was, is) in before.as_array().unwrap().iter().zip(after.as_array().unwrap()) {
            let mut expected = was.clone();
            for (id, name) in [("sender_id", "sender_user_name"), ("recipient_id", "recipient_user_name")] {
                if was[id] == 2 {
                    expected[name] = Value::Null;
                }
            }
            if was["recipient_id"] == 2 {
                // The times at which the erased user received and read messages are no longer shown.
                expected["timestamp_delivered"] = Value::Null;
                expected["timestamp_read"] = Value::Null;
            }
            assert_eq!(*is, expected);
        }
        assert_eq!(after.as_array().unwrap().len(), before.as_array().unwrap().len());
        let target = format!("/api/conversations/{}/messages/{}", theirs["conversation_id"], theirs["seq"]);
        let kept = caller.get(&target).await.json();
        assert_eq!(
            (&kept["sender_id"], &kept["sender_user_name"], &kept["body"]),
            (&json!(2), &json!(null), &json!("kept"))
        );
    }
    assert_eq!(reader.get("/api/users").await.json().as_array().unwrap().len(), 3);
    open.delete_is_gone("/api/users/bugs").await;

    // Stored answers to sends are emptied if the erased user was the sender or the recipient. Other stored answers stay.
    assert_blank(&post_once(&open, "/api/messages", "theirs", &message("bugs", "rdibari", "kept")).await);
    let repeat = post_once(&open, "/api/messages", "to them", &message("rdibari", "bugs", "kept too")).await;
    assert_blank(&repeat);
    assert_eq!(repeat.header("location"), answer_to_them.header("location"));
    let repeat = post_once(&open, "/api/messages", "unrelated", &message("duck", "porky", "kept as well")).await;
    assert_eq!(repeat.bytes, unrelated.bytes);
    post_once(&open, "/api/messages", "theirs", &message("bugs", "rdibari", "x"))
        .await
        .problem(422, "idempotency_key_reused");

    open.post("/api/messages", &message("bugs", "rdibari", "x")).await.invalid(&["sender_user_name"]);
    open.post("/api/messages", &message("rdibari", "bugs", "x")).await.invalid(&["recipient_user_name"]);
    let by_id = json!({"sender_user_name": "rdibari", "conversation_id": theirs["conversation_id"], "body": "x"});
    open.post("/api/messages", &by_id).await.invalid(&["conversation_id"]);
    open.get("/api/messages/rdibari?with=bugs").await.invalid(&["with"]);
    assert_dense(place).await;
});

impl Server {
    /// Asserts that erasing this user is answered with 404.
    async fn delete_is_gone(&self, target: &str) {
        erase(self, target).await.problem(404, "user_not_found");
    }
}

both!(an_erasure_with_messages_leaves_tombstones, async |place| {
    let open = Server::start(place).await;
    open.request(Method::PUT, "/api/admin/users/duck/role").json(&json!({"role": "admin"})).send().await.unwrap();
    let duck = session(&open, "duck").await;
    let server = Server::start_with(place, secured()).await;
    let reply = json!({"sender_user_name": "bugs", "recipient_user_name": "rdibari", "body": "re", "reply_to": 1});
    assert_eq!(open.post("/api/messages", &reply).await.status, 201);
    open.send("bugs", "bugs", "a note to oneself").await;
    open.send("porky", "bugs", "of somebody else").await;
    open.all("/api/messages/rdibari").await;
    open.all("/api/messages/porky").await;
    let last_event = place.numbers("SELECT last_position FROM messaging.event_log").await[0][0];

    let administrator = Caller::new(&server, &duck);
    assert_eq!(administrator.delete("/api/users/BUGS?messages=delete").await.status, 204);
    administrator.delete("/api/users/bugs?messages=delete").await.problem(404, "user_not_found");
    for server in [&open, &server] {
        let key = server.api_key(&["read"]).await;
        let timeline = Caller::new(server, &key).get("/api/messages/rdibari").await.json();
        let timeline = timeline.as_array().unwrap();
        assert_eq!(timeline.len(), 4);
        for entry in timeline {
            let theirs = entry["sender_id"] == 2;
            assert_eq!(entry["deleted_at"].is_string(), theirs, "{entry}");
            assert_eq!(entry["body"] == "", theirs);
            assert_eq!(entry["sender_user_name"], if theirs { Value::Null } else { json!("rdibari") });
        }
        let porky = Caller::new(server, &key).get("/api/messages/porky").await.json();
        let kept = porky.as_array().unwrap().iter().find(|entry| entry["recipient_id"] == 2).unwrap();
        assert_eq!((&kept["body"], &kept["recipient_user_name"]), (&json!("of somebody else"), &Value::Null));
    }
    // One event for each tombstone, in order, with the message's sender as actor, and none for other messages.
    let events = "SELECT e.conversation_id, e.seq, e.actor_id FROM messaging.events e WHERE e.type = 'message.deleted'
                  ORDER BY e.position";
    let events = place.numbers(events).await;
    let tombstones = "SELECT conversation_id, seq, sender_id FROM messaging.messages WHERE deleted_at IS NOT NULL
                      ORDER BY conversation_id, seq";
    assert_eq!(events, place.numbers(tombstones).await);
    assert_eq!(events.len(), 3);
    let moved =
        place.numbers("SELECT last_position, (SELECT max(position) FROM messaging.events) FROM messaging.event_log");
    assert_eq!(moved.await, [[last_event + 3, last_event + 3]]);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.erasures").await, [[0]]);
});

both!(ids_and_names_are_never_used_again, async |place| {
    let server = Server::start(place).await;
    let make = async |server: &Server, name: &str| server.post("/api/users", &json!({"user_name": name})).await;
    let id = make(&server, "Last.One").await.json()["id"].as_i64().unwrap();
    assert_eq!(erase(&server, "/api/users/last.one").await.status, 204);
    let taken = async |server: &Server| {
        for name in ["Last.One", "last.one", "LAST.ONE"] {
            make(server, name).await.problem(409, "user_name_taken");
        }
    };
    taken(&server).await;
    let by_hand = posthaste(place, &["admin", "create-user", "--user-name", "LAST.one"]);
    assert_eq!(by_hand.status.code(), Some(1));
    assert!(text(&by_hand).contains("in use or was used before"), "{}", text(&by_hand));
    let file = place.folder.path().join("backup");
    let file = file.to_str().unwrap();
    assert!(posthaste(place, &["backup", file]).status.success());
    server.stop().await;

    for kind in [Kind::Sqlite, Kind::Postgres] {
        let other = Place::new(kind).await;
        // The backup is restored into the database of another running server. This server must not give the names to new users
        // either.
        let server = Server::start_with(&other, Options { demo: false, ..Options::default() }).await;
        let restored = posthaste(&other, &["restore", "--yes", file]);
        assert!(restored.status.success(), "{}", text(&restored));
        taken(&server).await;
        let next = make(&server, "the.next").await.json();
        assert!(next["id"].as_i64().unwrap() > id, "{next}");
        assert_eq!(erase(&server, "/api/users/the.next").await.status, 204);
        make(&server, "The.Next").await.problem(409, "user_name_taken");
        server.stop().await;
        let server = Server::start_with(&other, Options { demo: false, ..Options::default() }).await;
        taken(&server).await;
        make(&server, "the.NEXT").await.problem(409, "user_name_taken");
        other.remove().await;
    }
});

both!(ids_of_revoked_keys_and_of_the_audit_log_are_not_used_again_after_a_restore, async |place| {
    let server = Server::start(place).await;
    for _ in 0..3 {
        server.api_key(&["read"]).await;
    }
    for id in 1..=3 {
        assert_eq!(erase(&server, &format!("/api/api-keys/{id}")).await.status, 204);
    }
    let file = place.folder.path().join("backup");
    let file = file.to_str().unwrap();
    assert!(posthaste(place, &["backup", file]).status.success());
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let other = Place::new(kind).await;
        let restored = posthaste(&other, &["restore", "--yes", file]);
        assert!(restored.status.success(), "{}", text(&restored));
        let server = Server::start(&other).await;
        // The id of an API key must not be used again: idempotency keys belong to this id, and the audit log names the API key
        // by it.
        let made = server.post("/api/api-keys", &json!({"name": "x"})).await.json();
        assert!(made["id"].as_i64().unwrap() > 3, "{kind:?}: {made}");
        other.remove().await;
    }
});

both!(an_erasure_empties_the_stored_answer_to_the_creation, async |place| {
    let server = Server::start(place).await;
    let body = json!({"user_name": "elmer", "first_name": "Elmer", "email": "elmer@example.org"});
    let made = post_once(&server, "/api/users", "k", &body).await;
    assert_eq!((made.status.as_u16(), made.header("location")), (201, Some("/api/users/elmer")));
    assert_eq!(post_once(&server, "/api/users", "k", &body).await.bytes, made.bytes);
    assert_eq!(erase(&server, "/api/users/elmer?messages=keep").await.status, 204);
    let repeat = post_once(&server, "/api/users", "k", &body).await;
    assert_blank(&repeat);
    assert_eq!(repeat.header("location"), None);
});

both!(old_conversations_lose_the_name_as_well, async |place| {
    let hand = Arc::new(AtomicI64::new(moment("2026-11-01T08:30:00Z")));
    let options = Options { clock: Clock::Manual(Arc::clone(&hand)), ..Options::default() };
    let server = Server::start_with(place, options).await;
    server.send("porky", "bugs", "long ago").await;
    // Moves the clock so far that the stored answers to sends have expired.
    hand.store(moment("2026-11-25T08:30:00Z"), Ordering::Relaxed);
    let before = server.all("/api/messages/porky?with=bugs").await;
    assert_eq!(before[0]["recipient_user_name"], "bugs");
    assert_eq!(erase(&server, "/api/users/bugs").await.status, 204);
    let after = server.all("/api/messages/porky").await;
    let ours = after.iter().find(|entry| entry["recipient_id"] == 2).unwrap();
    assert_eq!(ours["recipient_user_name"], Value::Null);
    let rebecca = server.all("/api/messages/rdibari").await;
    assert!(rebecca.iter().all(|entry| entry["sender_user_name"] != "bugs" && entry["recipient_user_name"] != "bugs"));
});
