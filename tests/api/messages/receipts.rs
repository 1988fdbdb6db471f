//! Receipts, unread counts, and the events about them.

mod property;

use posthaste::domain::operations::demo;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::server::Answer;
use crate::support::{Options, Place, Server, answer_of};

const RECEIPTS: &str = "/api/conversations/1/receipts";

pub async fn as_person(server: &Server, person: &str, method: Method, target: &str, body: Option<Value>) -> Answer {
    let mut request = server.request(method, target).header("x-act-as", person);
    if let Some(body) = body {
        request = request.json(&body);
    }
    answer_of(request).await
}

async fn send_receipt(server: &Server, person: &str, body: Value) -> Answer {
    as_person(server, person, Method::POST, RECEIPTS, Some(body)).await
}

/// Sends a receipt and asserts the new state of the user: the watermarks `delivered` and `read`, the unread count and the
/// mention count.
#[track_caller]
fn at<'a>(server: &'a Server, person: &'a str, body: Value, wanted: [i64; 4]) -> impl Future<Output = Value> + 'a {
    let place = std::panic::Location::caller();
    async move {
        let answer = send_receipt(server, person, body).await;
        assert_eq!(answer.status, 200, "{place}: {}", String::from_utf8_lossy(&answer.bytes));
        let answer = answer.json();
        let fields = ["delivered_seq", "read_seq", "unread_count", "mention_count"];
        assert_eq!(fields.map(|field| answer[field].as_i64().unwrap()), wanted, "{place}: {answer}");
        answer
    }
}

async fn message(server: &Server, seq: i64) -> Value {
    server.get(&format!("/api/conversations/1/messages/{seq}")).await.json()
}

/// Whether a message is shown as delivered and as read.
async fn delivered_and_read(server: &Server, seq: i64) -> (bool, bool) {
    let message = message(server, seq).await;
    (message["timestamp_delivered"].is_string(), message["timestamp_read"].is_string())
}

async fn event_count(place: &Place, kind: &str) -> i64 {
    place.numbers(&format!("SELECT count(*) FROM messaging.events WHERE type = '{kind}'")).await[0][0]
}

/// Creates a group with the first user as its owner. Its first message is the system message about the creation.
pub async fn group(server: &Server, people: &[&str]) -> i64 {
    let new = json!({"kind": "group", "title": "A group", "member_user_names": people[1..]});
    let made = as_person(server, people[0], Method::POST, "/api/conversations", Some(new)).await;
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.bytes));
    let made = made.json();
    assert_eq!(made["last_seq"], 1);
    made["id"].as_i64().unwrap()
}

/// Sends a message into a group.
pub async fn say(server: &Server, conversation: i64, sender: &str, body: &str) -> Value {
    let message = json!({"sender_user_name": sender, "conversation_id": conversation, "body": body});
    let answer = server.post("/api/messages", &message).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json()
}

both!(watermarks_never_go_back, async |place| {
    let server = Server::start(place).await;
    // Reads the messages once, so that they are in the tail.
    let untouched = server.all("/api/messages/bugs").await;
    assert!(untouched.iter().all(|one| one["timestamp_delivered"].is_null() && one["timestamp_read"].is_null()));
    at(&server, "bugs", json!({"delivered_seq": 1}), [1, 0, 3, 0]).await;
    assert_eq!(delivered_and_read(&server, 1).await, (true, false));
    assert_eq!(delivered_and_read(&server, 3).await, (false, false));
    // A read message counts as delivered.
    at(&server, "bugs", json!({"read_seq": 2}), [2, 2, 1, 0]).await;
    assert_eq!(delivered_and_read(&server, 1).await, (true, true));
    at(&server, "bugs", json!({"delivered_seq": 3, "read_seq": 1}), [3, 2, 1, 0]).await;
    assert_eq!(delivered_and_read(&server, 3).await, (true, false));
    let before = event_count(place, "receipt.updated").await;
    assert_eq!(before, 3);
    for same in [json!({"read_seq": 1}), json!({"delivered_seq": 1, "read_seq": 2}), json!({"delivered_seq": 3})] {
        at(&server, "bugs", same, [3, 2, 1, 0]).await;
    }
    at(&server, "bugs", json!({"read_seq": 3}), [3, 3, 0, 0]).await;
    assert_eq!(event_count(place, "receipt.updated").await, 4);
    let actors = "SELECT count(*) FROM messaging.events WHERE type = 'receipt.updated' AND actor_id = 2
                     AND conversation_id = 1 AND seq IS NULL";
    assert_eq!(place.numbers(actors).await, [[4]]);
    // A receipt does not mark the user's own messages as delivered or read.
    assert_eq!(delivered_and_read(&server, 2).await, (false, false));
    let rows = "SELECT seq FROM messaging.receipts WHERE user_id = 2 AND kind = ";
    assert_eq!(place.numbers(&format!("{rows}'delivered' ORDER BY seq")).await, [[1], [2], [3]]);
    assert_eq!(place.numbers(&format!("{rows}'read' ORDER BY seq")).await, [[2], [3]]);
    // The times are the same everywhere: in a single message, in a page, in the timeline.
    for seq in 1..=3 {
        let alone = message(&server, seq).await;
        let page = server.get("/api/conversations/1/messages").await.json();
        assert_eq!(page[seq as usize - 1], alone);
        assert!(server.all("/api/messages/rdibari").await.contains(&alone));
    }
    let (first, third) = (message(&server, 1).await, message(&server, 3).await);
    let time = |message: &Value, field: &str| message[field].as_str().unwrap().to_owned();
    assert!(time(&first, "timestamp_delivered") < time(&first, "timestamp_read"));
    assert!(time(&first, "timestamp_read") < time(&third, "timestamp_delivered"));
    assert!(time(&third, "timestamp_delivered") < time(&third, "timestamp_read"));
});

both!(invalid_receipts_change_nothing, async |place| {
    let server = Server::start(place).await;
    for (body, fields) in [
        (json!({}), &["read_seq"][..]),
        (json!({"read_seq": null}), &["read_seq"]),
        (json!({"read_seq": 0}), &["read_seq"]),
        (json!({"delivered_seq": -1}), &["delivered_seq"]),
        (json!({"unread_from": 0}), &["unread_from"]),
        (json!({"read_seq": 4}), &["read_seq"]),
        (json!({"unread_from": 4}), &["unread_from"]),
        (json!({"delivered_seq": 4, "read_seq": 4, "unread_from": 9}), &["delivered_seq", "read_seq", "unread_from"]),
        (json!({"delivered_seq": 3, "read_seq": 9_007_199_254_740_992_i64}), &["read_seq"]),
        (json!({"read_seq": "1"}), &["read_seq"]),
        (json!({"read_seq": 1.5}), &["read_seq"]),
        (json!({"read_seq": 1, "seq": 1}), &["seq"]),
    ] {
        send_receipt(&server, "bugs", body).await.invalid(fields);
    }
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.receipts").await, [[0]]);
    at(&server, "bugs", json!({"unread_from": null}), [0, 0, 3, 0]).await;
    // A user outside the conversation, an unknown conversation, and a caller that acts as no user.
    for (person, target) in [("duck", RECEIPTS), ("bugs", "/api/conversations/99/receipts")] {
        let answer = as_person(&server, person, Method::POST, target, Some(json!({"read_seq": 1}))).await;
        answer.problem(404, "conversation_not_found");
    }
    server.post(RECEIPTS, &json!({"read_seq": 1})).await.problem(403, "act_as_required");
    let who = "/api/conversations/1/messages/1/receipts";
    as_person(&server, "duck", Method::GET, who, None).await.problem(404, "message_not_found");
    for target in ["/api/conversations/1/messages/9/receipts", "/api/conversations/9/messages/1/receipts"] {
        server.get(target).await.problem(404, "message_not_found");
    }
    server.get(&format!("{who}?limit=0")).await.invalid(&["limit"]);
    server.get(&format!("{who}?cursor=x")).await.invalid(&["cursor"]);
});

both!(an_unread_mark_changes_only_the_users_own_count, async |place| {
    let server = Server::start(place).await;
    at(&server, "bugs", json!({"read_seq": 3}), [3, 3, 0, 0]).await;
    let events = event_count(place, "receipt.updated").await;
    let marked = at(&server, "bugs", json!({"unread_from": 2}), [3, 3, 2, 0]).await;
    assert_eq!(marked["unread_from"], 2);
    // Other users do not see the mark.
    assert_eq!(event_count(place, "receipt.updated").await, events);
    assert_eq!(delivered_and_read(&server, 3).await, (true, true));
    at(&server, "bugs", json!({"delivered_seq": 3}), [3, 3, 2, 0]).await;
    at(&server, "bugs", json!({"read_seq": 1}), [3, 3, 2, 0]).await;
    assert_eq!(at(&server, "bugs", json!({"unread_from": null}), [3, 3, 0, 0]).await["unread_from"], Value::Null);
    // Reading to the end clears the mark `unread_from`, and so does a receipt that raises the read watermark.
    at(&server, "bugs", json!({"unread_from": 1}), [3, 3, 3, 0]).await;
    assert_eq!(at(&server, "bugs", json!({"read_seq": 3}), [3, 3, 0, 0]).await["unread_from"], Value::Null);
    at(&server, "bugs", json!({"unread_from": 1}), [3, 3, 3, 0]).await;
    for _ in 0..2 {
        server.send("rdibari", "bugs", "more").await;
    }
    at(&server, "bugs", json!({"delivered_seq": 4}), [4, 3, 5, 0]).await;
    at(&server, "bugs", json!({"read_seq": 4}), [4, 4, 1, 0]).await;
    // A mark ahead of the read watermark does not hide unread messages.
    at(&server, "bugs", json!({"unread_from": 5}), [4, 4, 1, 0]).await;
    server.send("bugs", "rdibari", "an answer").await;
    at(&server, "bugs", json!({"unread_from": null}), [6, 6, 0, 0]).await;
    // A mark in the same request as a receipt stays.
    assert_eq!(at(&server, "bugs", json!({"read_seq": 6, "unread_from": 6}), [6, 6, 1, 0]).await["unread_from"], 6);
});

both!(a_sender_has_read_all_earlier_messages, async |place| {
    let server = Server::start(place).await;
    server.all("/api/messages/rdibari").await;
    let sent = server.send("bugs", "rdibari", "an answer").await;
    // A new message cannot have reached the recipient yet.
    assert!(sent["timestamp_delivered"].is_null() && sent["timestamp_read"].is_null());
    for seq in [1, 3] {
        let message = message(&server, seq).await;
        assert_eq!(message["timestamp_read"], sent["timestamp_sent"]);
        assert_eq!(message["timestamp_delivered"], sent["timestamp_sent"]);
        assert!(server.all("/api/messages/rdibari").await.contains(&message));
    }
    assert_eq!(delivered_and_read(&server, 2).await, (false, false));
    at(&server, "bugs", json!({"unread_from": null}), [4, 4, 0, 0]).await;
    at(&server, "rdibari", json!({"unread_from": null}), [0, 0, 4, 0]).await;
    // The sender has already read all messages before, so another send of theirs raises no watermark that others see and
    // creates no event.
    let rows = "SELECT count(*) FROM messaging.receipts";
    assert_eq!(place.numbers(rows).await, [[2]]);
    let versions = "SELECT content_version FROM messaging.conversations WHERE id = 1";
    let version = place.numbers(versions).await;
    server.send("bugs", "rdibari", "and more").await;
    assert_eq!((place.numbers(rows).await, place.numbers(versions).await), (vec![vec![2]], version));
    assert_eq!(event_count(place, "receipt.updated").await, 0);
    // rdibari has received message 5 and not read it, so rdibari's answer raises only the read watermark for it.
    at(&server, "rdibari", json!({"delivered_seq": 5}), [5, 0, 5, 0]).await;
    let delivered = message(&server, 5).await["timestamp_delivered"].clone();
    let answered = server.send("rdibari", "bugs", "oh").await;
    let after = message(&server, 5).await;
    assert_eq!((&after["timestamp_delivered"], &after["timestamp_read"]), (&delivered, &answered["timestamp_sent"]));
    let rows = "SELECT count(*) FROM messaging.receipts WHERE user_id = 1 AND seq = 6";
    assert_eq!(place.numbers(rows).await, [[1]]);
});

both!(sends_together_leave_the_watermarks_of_some_order, async |place| {
    let server = Server::start(place).await;
    let sends = (0..60).map(|number| {
        let (sender, recipient) = if number % 3 == 0 { ("bugs", "rdibari") } else { ("rdibari", "bugs") };
        server.send(sender, recipient, "at once")
    });
    futures_util::future::join_all(sends).await;
    let marks =
        "SELECT m.user_id FROM messaging.members m WHERE m.conversation_id = 1 AND (m.read_seq <> m.delivered_seq
                  OR m.read_seq <> (SELECT max(s.seq) FROM messaging.messages s
                                     WHERE s.conversation_id = 1 AND s.sender_id = m.user_id))";
    assert_eq!(place.numbers(marks).await, Vec::<Vec<i64>>::new());
    // A recipient's answer marks every message before it as read, at the time of the answer.
    for message in server.all("/api/conversations/1/messages?after=0&limit=200").await {
        let later = format!(
            "SELECT coalesce(min(seq), 0) FROM messaging.messages WHERE conversation_id = 1 AND seq > {} AND seq > 3
                AND sender_id = {}",
            message["seq"], message["recipient_id"]
        );
        let answer = place.numbers(&later).await[0][0];
        let wanted =
            if answer > 0 { self::message(&server, answer).await["timestamp_sent"].clone() } else { Value::Null };
        assert_eq!(message["timestamp_read"], wanted, "{message}");
        assert_eq!(message["timestamp_delivered"], wanted, "{message}");
    }
    crate::messages::messages::assert_dense(place).await;
});

both!(a_note_to_oneself_is_read_as_it_is_sent, async |place| {
    let server = Server::start(place).await;
    for body in ["one", "two"] {
        let note = server.send("bugs", "bugs", body).await;
        assert_eq!(note["timestamp_read"], note["timestamp_sent"]);
        assert_eq!(note["timestamp_delivered"], note["timestamp_sent"]);
        let target = format!("/api/conversations/{}/messages/{}", note["conversation_id"], note["seq"]);
        assert_eq!(server.get(&target).await.json(), note);
        let who = server.get(&format!("{target}/receipts")).await.json();
        assert_eq!(
            who,
            json!([{"user_name": "bugs", "delivered_at": note["timestamp_sent"], "read_at": note["timestamp_sent"]}])
        );
        let receipts = format!("/api/conversations/{}/receipts", note["conversation_id"]);
        let left = as_person(&server, "bugs", Method::POST, &receipts, Some(json!({"read_seq": 1}))).await.json();
        assert_eq!(left["unread_count"], 0);
    }
});

both!(no_message_is_read_before_it_was_sent, async |place| {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};
    let hand = Arc::new(AtomicI64::new(crate::support::callers::moment("2026-11-22T08:30:00Z")));
    let clock = posthaste::base::time::Clock::Manual(Arc::clone(&hand));
    let server = Server::start_with(place, Options { clock, ..Options::default() }).await;
    hand.fetch_sub(60_000_000, Ordering::Relaxed);
    at(&server, "bugs", json!({"read_seq": 3}), [3, 3, 0, 0]).await;
    let message = message(&server, 1).await;
    assert_eq!(message["timestamp_read"], message["timestamp_sent"]);
});

both!(times_from_an_upgraded_database_stay, async |place| {
    let server = Server::start(place).await;
    let at_first = match place.kind {
        crate::support::place::Kind::Sqlite => "1577836800000000",
        crate::support::place::Kind::Postgres => "'2020-01-01T00:00:00Z'",
    };
    place
        .sql(&format!(
            "UPDATE messaging.messages SET timestamp_read = {at_first} WHERE conversation_id = 1 AND seq = 1"
        ))
        .await;
    at(&server, "bugs", json!({"delivered_seq": 3}), [3, 0, 3, 0]).await;
    let first = message(&server, 1).await;
    assert_eq!(first["timestamp_read"], "2020-01-01T00:00:00.000000Z");
    assert!(first["timestamp_delivered"].is_string());
    let who = server.get("/api/conversations/1/messages/1/receipts").await.json();
    assert_eq!(who[0]["read_at"], first["timestamp_read"]);
});

both!(a_group_message_is_read_when_all_members_have_read_it, async |place| {
    let server = Server::start(place).await;
    let id = group(&server, &["rdibari", "bugs", "duck"]).await;
    let target = format!("/api/conversations/{id}/receipts");
    let read = async |person: &str, body: Value| {
        let answer = as_person(&server, person, Method::POST, &target, Some(body)).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
        answer.json()
    };
    let delivered_and_read = async |seq: i64| {
        let message = server.get(&format!("/api/conversations/{id}/messages/{seq}")).await.json();
        let page = server.get(&format!("/api/conversations/{id}/messages")).await.json();
        assert_eq!(page[seq as usize - 1], message);
        let conversation = server.get(&format!("/api/conversations/{id}")).await.json();
        assert!(conversation["last_seq"] != seq || conversation["last_message"] == message);
        (message["timestamp_delivered"].is_string(), message["timestamp_read"].is_string())
    };
    say(&server, id, "rdibari", "hello all").await;
    read("bugs", json!({"read_seq": 2})).await;
    assert_eq!(delivered_and_read(2).await, (false, false));
    read("duck", json!({"delivered_seq": 2})).await;
    assert_eq!(delivered_and_read(2).await, (true, false));
    read("duck", json!({"read_seq": 2})).await;
    assert_eq!((delivered_and_read(2).await, delivered_and_read(1).await), ((true, true), (true, true)));
    // The times of the message are those of the member who received and read it last.
    let who = server.get(&format!("/api/conversations/{id}/messages/2/receipts")).await.json();
    let message = server.get(&format!("/api/conversations/{id}/messages/2")).await.json();
    let names: Vec<_> = who.as_array().unwrap().iter().map(|one| one["user_name"].clone()).collect();
    assert_eq!(names, ["bugs", "duck"]);
    assert_eq!(message["timestamp_read"], who[1]["read_at"]);
    assert_eq!(message["timestamp_delivered"], who[1]["delivered_at"]);
    assert!(who[0]["read_at"].as_str() < who[1]["read_at"].as_str());
    // The list has pages.
    let first = server.get(&format!("/api/conversations/{id}/messages/2/receipts?limit=1")).await;
    assert_eq!(first.json(), json!([who[0]]));
    let second = server.get(&first.next().unwrap()).await;
    assert_eq!((second.json(), second.next()), (json!([who[1]]), None));
    // A send reads all messages before it. Its sender does not count as a reader.
    say(&server, id, "bugs", "hi").await;
    assert_eq!(delivered_and_read(3).await, (false, false));
    say(&server, id, "duck", "quack").await;
    read("rdibari", json!({"read_seq": 3})).await;
    assert_eq!(delivered_and_read(3).await, (true, true));
    assert_eq!(read("bugs", json!({"unread_from": null})).await["unread_count"], 1);
    // The list of conversations has the same counts.
    let listed = as_person(&server, "bugs", Method::GET, "/api/conversations", None).await.json();
    assert_eq!((&listed[0]["id"], &listed[0]["me"]["unread_count"]), (&json!(id), &json!(1)));
});

both!(joining_and_leaving_change_who_must_have_read_a_message, async |place| {
    let server = Server::start(place).await;
    let id = group(&server, &["rdibari", "bugs", "duck"]).await;
    let target = format!("/api/conversations/{id}");
    let read = async |person: &str, body: Value| {
        as_person(&server, person, Method::POST, &format!("{target}/receipts"), Some(body)).await
    };
    let is_read = async |seq: i64| {
        let page = server.get(&format!("{target}/messages")).await.json();
        page[seq as usize - 1]["timestamp_read"].is_string()
    };
    say(&server, id, "rdibari", "@duck @porky").await;
    read("bugs", json!({"read_seq": 2})).await;
    assert!(!is_read(2).await);
    // The only member who has not read the message leaves. Then all members have read it.
    assert_eq!(read("duck", json!({"unread_from": null})).await.json()["mention_count"], 1);
    let left = as_person(&server, "duck", Method::DELETE, &format!("{target}/members/me"), None).await;
    assert_eq!(left.status, 204);
    assert!(is_read(2).await);
    read("duck", json!({"read_seq": 2})).await.problem(404, "conversation_not_found");
    assert_eq!(read("bugs", json!({"unread_from": null})).await.json()["unread_count"], 0);
    // A new member does not count for messages from before joining, and is not in the list of their readers.
    for person in ["porky", "duck"] {
        let come =
            as_person(&server, "rdibari", Method::PUT, &format!("{target}/members/{person}"), Some(json!({}))).await;
        assert_eq!(come.status, 201);
    }
    assert!(is_read(2).await);
    let who = server.get(&format!("{target}/messages/2/receipts")).await.json();
    assert_eq!(who.as_array().unwrap().len(), 1);
    // The unread count of a new member starts at joining. An older mention does not count again.
    for person in ["porky", "duck"] {
        let standing = read(person, json!({"unread_from": null})).await.json();
        assert_eq!((&standing["unread_count"], &standing["mention_count"]), (&json!(0), &json!(0)), "{person}");
    }
    let seq = say(&server, id, "rdibari", "welcome").await["seq"].as_i64().unwrap();
    for (person, all) in [("bugs", false), ("duck", false), ("porky", true)] {
        assert_eq!(read(person, json!({"read_seq": seq})).await.json()["unread_count"], 0);
        assert_eq!(is_read(seq).await, all, "{person}");
    }
    // A member cannot set the mark at a message that is hidden from them.
    let hide = as_person(&server, "rdibari", Method::PATCH, &target, Some(json!({"history": "since_joined"}))).await;
    assert_eq!(hide.status, 200);
    read("duck", json!({"unread_from": 1})).await.invalid(&["unread_from"]);
    let hidden = as_person(&server, "duck", Method::GET, &format!("{target}/messages/2/receipts"), None).await;
    hidden.problem(404, "message_not_found");
});

both!(in_a_large_group_only_the_list_shows_receipts, async |place| {
    let server = Server::start(place).await;
    let names: Vec<String> = (0..99).map(|number| format!("one.of.many{number}")).collect();
    for name in &names {
        server.add_user(name, "", "").await;
    }
    let mut people = vec!["rdibari", "bugs"];
    people.extend(names.iter().map(String::as_str));
    let id = group(&server, &people).await;
    say(&server, id, "rdibari", "hello all").await;
    let versions = format!("SELECT content_version FROM messaging.conversations WHERE id = {id}");
    let before = place.numbers(&versions).await;
    let target = format!("/api/conversations/{id}/receipts");
    as_person(&server, "bugs", Method::POST, &target, Some(json!({"read_seq": 2}))).await;
    say(&server, id, "rdibari", "more").await;
    say(&server, id, "bugs", "an answer").await;
    assert_eq!(
        place.numbers(&versions).await,
        before,
        "the messages of a group of more than 100 members do not show times"
    );
    for name in &names {
        as_person(&server, name, Method::POST, &target, Some(json!({"read_seq": 2}))).await;
    }
    let message = async |seq: i64| server.get(&format!("/api/conversations/{id}/messages/{seq}")).await.json();
    assert!(message(2).await["timestamp_read"].is_null() && message(2).await["timestamp_delivered"].is_null());
    for (seq, count) in [(2, 100), (3, 1)] {
        let who = server.all(&format!("/api/conversations/{id}/messages/{seq}/receipts?limit=30")).await;
        assert_eq!(who.len(), count);
        assert!(who[0]["user_name"] == "bugs" && who.iter().all(|one| one["read_at"].is_string()));
    }
    // After one member has left, the times are shown.
    let left = format!("/api/conversations/{id}/members/{}", names[0]);
    assert_eq!(as_person(&server, "rdibari", Method::DELETE, &left, None).await.status, 204);
    assert!(message(2).await["timestamp_read"].is_string() && message(3).await["timestamp_read"].is_null());
});

both!(receipts_together_leave_one_order, async |place| {
    let server = Server::start(place).await;
    for _ in 0..20 {
        server.send("rdibari", "bugs", "hey").await;
    }
    let reports = (1..=20).map(|seq| send_receipt(&server, "bugs", json!({"read_seq": seq})));
    let answers = futures_util::future::join_all(reports).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    at(&server, "bugs", json!({"unread_from": null}), [20, 20, 3, 0]).await;
    let kinds = "SELECT r.seq FROM messaging.receipts r WHERE r.user_id = 2 AND r.kind = ";
    let read = place.numbers(&format!("{kinds}'read' ORDER BY r.seq")).await;
    assert_eq!(read, place.numbers(&format!("{kinds}'delivered' ORDER BY r.seq")).await);
    assert_eq!(read.last(), Some(&vec![20]));
    assert_eq!(event_count(place, "receipt.updated").await, read.len() as i64);
});

both!(the_demo_is_unread_after_every_start, async |place| {
    let server = Server::start(place).await;
    assert!(!demo::fill(&server.app).await.unwrap());
    for person in ["rdibari", "bugs"] {
        at(&server, person, json!({"unread_from": null}), [0, 0, 3, 0]).await;
    }
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.receipts").await, [[0]]);
});

both!(an_erased_user_leaves_no_receipts, async |place| {
    let server = Server::start(place).await;
    server.send("duck", "bugs", "@bugs @duck").await;
    at(&server, "bugs", json!({"read_seq": 3}), [3, 3, 0, 0]).await;
    at(&server, "rdibari", json!({"read_seq": 2}), [2, 2, 1, 0]).await;
    assert_eq!(delivered_and_read(&server, 1).await, (true, true));
    let lines = as_person(&server, "bugs", Method::GET, "/api/users/me/export", None).await;
    let lines: Vec<Value> =
        std::str::from_utf8(&lines.bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| -> Vec<&Value> {
        lines.iter().filter(|line| line["type"] == kind).map(|line| &line["data"]).collect()
    };
    assert_eq!(
        of("watermarks")[0],
        &json!({"conversation_id": 1, "delivered_seq": 3, "read_seq": 3, "unread_from": null})
    );
    assert_eq!(of("watermarks").len(), 2);
    let kinds: Vec<_> = of("receipt").iter().map(|one| (one["kind"].clone(), one["seq"].clone())).collect();
    assert_eq!(kinds, [(json!("delivered"), json!(3)), (json!("read"), json!(3))]);
    assert!(of("receipt").iter().all(|one| one["at"].is_string() && one["conversation_id"] == 1));
    assert_eq!(of("mention"), [&json!({"conversation_id": 3, "seq": 1})]);
    let message_read = of("message").iter().find(|one| one["conversation_id"] == 1).unwrap()["timestamp_read"].clone();
    assert!(message_read.is_string());
    assert_eq!(of("message").last().unwrap()["mentions"], json!(["bugs", "duck"]));

    assert_eq!(answer_of(server.request(Method::DELETE, "/api/users/bugs")).await.status, 204);
    assert_eq!(delivered_and_read(&server, 1).await, (false, false));
    assert_eq!(delivered_and_read(&server, 2).await, (true, true), "the read state for others stays");
    assert_eq!(server.get("/api/conversations/1/messages/1/receipts").await.json(), json!([]));
    let mention = server.get("/api/conversations/3/messages/1").await.json();
    assert_eq!(mention["mentions"], json!(["duck"]));
    for table in ["receipts", "mentions"] {
        let rows = format!("SELECT count(*) FROM messaging.{table} WHERE user_id = 2");
        assert_eq!(place.numbers(&rows).await, [[0]], "{table}");
    }
});
