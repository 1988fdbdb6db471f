//! Scheduled messages: `send_at` and `/api/scheduled`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use posthaste::base::time::{Clock, Timestamp};
use posthaste::domain::sending::scheduled::send_due;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::callers::moment;
use crate::support::people::{delete, get, post, put};
use crate::support::process::Process;
use crate::support::server::Answer;
use crate::support::{Options, Server, answer_of};

/// A clock that the test moves, and options for a server with this clock. The server's own task does not run, because the test
/// calls `send_due`.
fn manual() -> (Arc<AtomicI64>, Options) {
    let hand = Arc::new(AtomicI64::new(moment("2026-01-01T00:00:00Z")));
    let without_tasks = &["scheduled-sends"];
    (Arc::clone(&hand), Options { clock: Clock::Manual(hand), without_tasks, ..Options::default() })
}

async fn schedule(server: &Server, person: &str, recipient: &str, body: &str, send_at: &str) -> Answer {
    let new = json!({"recipient_user_name": recipient, "body": body, "send_at": send_at});
    post(server, person, "/api/messages", new).await
}

async fn waiting(server: &Server, person: &str) -> Vec<Value> {
    get(server, person, "/api/scheduled").await.json().as_array().unwrap().clone()
}

both!(a_scheduled_message_is_sent_once_at_its_time, async |place| {
    let (hand, options) = manual();
    let server = Server::start_with(place, options).await;
    let accepted = schedule(&server, "bugs", "duck", "happy new year", "2026-01-01T01:00:00Z").await;
    assert_eq!(accepted.status, 202, "{}", String::from_utf8_lossy(&accepted.bytes));
    let place_of = accepted.header("location").unwrap().to_owned();
    let accepted = accepted.json();
    assert_eq!(place_of, format!("/api/scheduled/{}", accepted["id"]));
    assert_eq!(accepted["send_at"], "2026-01-01T01:00:00.000000Z");
    assert_eq!((&accepted["sender_user_name"], &accepted["recipient_user_name"]), (&json!("bugs"), &json!("duck")));
    assert_eq!(get(&server, "bugs", &place_of).await.json(), accepted);
    assert_eq!(waiting(&server, "bugs").await, [accepted]);
    get(&server, "duck", &place_of).await.problem(404, "scheduled_not_found");
    assert!(waiting(&server, "duck").await.is_empty());
    // Nothing is sent before the time.
    hand.store(moment("2026-01-01T00:59:59Z"), Ordering::Relaxed);
    assert_eq!(send_due(&server.app).await.unwrap(), 0);
    let messages = || async { server.all("/api/messages/duck?with=bugs").await };
    assert!(messages().await.is_empty());
    hand.store(moment("2026-01-01T01:00:05Z"), Ordering::Relaxed);
    // Two simultaneous runs, as on two servers.
    let (one, other) = tokio::join!(send_due(&server.app), send_due(&server.app));
    assert!(one.unwrap() + other.unwrap() >= 1);
    let sent = messages().await;
    assert_eq!(sent.len(), 1);
    assert_eq!(
        (&sent[0]["body"], &sent[0]["created_at"], &sent[0]["timestamp_sent"], &sent[0]["seq"]),
        (
            &json!("happy new year"),
            &json!("2026-01-01T00:00:00.000000Z"),
            &json!("2026-01-01T01:00:05.000000Z"),
            &json!(1)
        )
    );
    assert!(waiting(&server, "bugs").await.is_empty());
    delete(&server, "bugs", &place_of).await.problem(404, "scheduled_not_found");
});

both!(a_cancelled_message_is_not_sent, async |place| {
    let (hand, options) = manual();
    let server = Server::start_with(place, options).await;
    let accepted = schedule(&server, "bugs", "duck", "no", "2026-01-02T00:00:00Z").await.json();
    let target = format!("/api/scheduled/{}", accepted["id"]);
    delete(&server, "duck", &target).await.problem(404, "scheduled_not_found");
    assert_eq!(delete(&server, "bugs", &target).await.status, 204);
    get(&server, "bugs", &target).await.problem(404, "scheduled_not_found");
    hand.store(moment("2026-01-03T00:00:00Z"), Ordering::Relaxed);
    assert_eq!(send_due(&server.app).await.unwrap(), 0);
    assert!(server.all("/api/messages/duck?with=bugs").await.is_empty());
});

both!(permissions_are_checked_when_accepting_and_when_sending, async |place| {
    let (hand, options) = manual();
    let server = Server::start_with(place, options).await;
    let new = json!({"kind": "group", "title": "Looney Tunes", "member_user_names": ["duck"]});
    let group = post(&server, "bugs", "/api/conversations", new).await.json()["id"].clone();
    let into = |body: &str| json!({"conversation_id": group, "body": body, "send_at": "2026-01-02T00:00:00Z"});
    // Membership, the recipient and the message to answer are checked when a scheduled message is accepted.
    let stranger = post(&server, "porky", "/api/messages", into("omw")).await;
    stranger.problem(404, "conversation_not_found");
    schedule(&server, "bugs", "nobody", "x", "2026-01-02T00:00:00Z").await.invalid(&["recipient_user_name"]);
    let mut reply = into("x");
    reply["reply_to"] = json!(99);
    post(&server, "duck", "/api/messages", reply).await.invalid(&["reply_to"]);
    // They are checked again when the message is sent. In between, these users are removed, blocked or erased.
    assert_eq!(post(&server, "duck", "/api/messages", into("quack")).await.status, 202);
    assert_eq!(schedule(&server, "duck", "porky", "hey", "2026-01-02T00:00:00Z").await.status, 202);
    assert_eq!(schedule(&server, "bugs", "duck", "stays", "2026-01-02T00:00:01Z").await.status, 202);
    let member = format!("/api/conversations/{group}/members/duck");
    assert_eq!(delete(&server, "bugs", &member).await.status, 204);
    assert_eq!(put(&server, "porky", "/api/blocks/duck").await.status, 204);
    hand.store(moment("2026-01-02T00:00:30Z"), Ordering::Relaxed);
    assert_eq!(send_due(&server.app).await.unwrap(), 3);
    let refused = waiting(&server, "duck").await;
    let failures: Vec<&str> = refused.iter().map(|message| message["failure"].as_str().unwrap()).collect();
    assert_eq!(failures, ["conversation_not_found", "not_friends"]);
    assert!(refused.iter().all(|message| message["failed_at"] == "2026-01-02T00:00:30.000000Z"));
    assert_eq!(send_due(&server.app).await.unwrap(), 0, "a refused message is not tried again");
    assert_eq!(server.all("/api/messages/duck?with=bugs").await.len(), 1);
    assert!(server.all("/api/messages/porky").await.iter().all(|message| message["body"] != "hey"));
});

both!(a_repeat_with_the_same_key_schedules_once, async |place| {
    let (_, options) = manual();
    let server = Server::start_with(place, options).await;
    let new = json!({"recipient_user_name": "duck", "body": "x", "send_at": "2026-01-02T00:00:00Z"});
    let accept = || async {
        let request = server.request(Method::POST, "/api/messages").header("x-act-as", "bugs");
        answer_of(request.header("idempotency-key", "k").json(&new)).await
    };
    let (first, again) = (accept().await, accept().await);
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (202, 202));
    assert_eq!((first.bytes, again.header("idempotency-replayed")), (again.bytes.clone(), Some("true")));
    assert_eq!(waiting(&server, "bugs").await.len(), 1);
});

both!(an_erased_user_has_no_scheduled_messages, async |place| {
    let (_, options) = manual();
    let server = Server::start_with(place, options).await;
    schedule(&server, "bugs", "duck", "x", "2026-01-02T00:00:00Z").await;
    schedule(&server, "duck", "bugs", "y", "2026-01-02T00:00:00Z").await;
    assert_eq!(delete(&server, "bugs", "/api/users/bugs").await.status, 204);
    let left = place.numbers("SELECT sender_id FROM messaging.scheduled_sends").await;
    assert_eq!(left, [[3]], "only the one that belongs to duck");
});

both!(a_message_whose_destination_is_gone_stays_with_the_reason, async |place| {
    let (hand, options) = manual();
    let server = Server::start_with(place, options).await;
    let new = json!({"kind": "group", "title": "Looney Tunes", "member_user_names": ["duck"]});
    let group = post(&server, "bugs", "/api/conversations", new).await.json()["id"].clone();
    let direct = server.send("duck", "porky", "first").await["conversation_id"].clone();
    let at = "2026-01-02T00:00:00Z";
    assert_eq!(schedule(&server, "duck", "porky", "by name", at).await.status, 202);
    for conversation in [&direct, &group] {
        let new = json!({"conversation_id": conversation, "body": "by id", "send_at": at});
        assert_eq!(post(&server, "duck", "/api/messages", new).await.status, 202);
    }
    assert_eq!(delete(&server, "porky", "/api/users/me").await.status, 204);
    assert_eq!(delete(&server, "bugs", &format!("/api/conversations/{group}")).await.status, 204);
    // Nothing is decided before the time.
    let before = waiting(&server, "duck").await;
    assert!(before.len() == 3 && before.iter().all(|message| message["failure"].is_null()), "{before:?}");
    assert_eq!((&before[0]["recipient_user_name"], &before[0]["body"]), (&Value::Null, &json!("by name")));
    hand.store(moment("2026-01-02T00:00:30Z"), Ordering::Relaxed);
    assert_eq!(send_due(&server.app).await.unwrap(), 3);
    let refused = waiting(&server, "duck").await;
    let failures: Vec<&str> = refused.iter().map(|message| message["failure"].as_str().unwrap()).collect();
    assert_eq!(failures, ["user_not_found", "user_not_found", "conversation_not_found"]);
    assert!(refused.iter().all(|message| message["failed_at"] == "2026-01-02T00:00:30.000000Z"));
    let target = format!("/api/scheduled/{}", refused[0]["id"]);
    assert_eq!(get(&server, "duck", &target).await.json(), refused[0]);
    assert_eq!(delete(&server, "duck", &target).await.status, 204);
    assert_eq!(send_due(&server.app).await.unwrap(), 0);
});

both!(a_scheduled_note_to_oneself_arrives_read, async |place| {
    let (hand, options) = manual();
    let server = Server::start_with(place, options).await;
    let direct = server.send("bugs", "bugs", "now").await;
    let at = |seconds: u32| format!("2026-01-02T00:00:{seconds:02}Z");
    // Notes in an existing conversation, by name and by id, and the first note of a user.
    schedule(&server, "bugs", "bugs", "by name", &at(1)).await;
    let by_id = json!({"conversation_id": direct["conversation_id"], "body": "by id", "send_at": at(2)});
    assert_eq!(post(&server, "bugs", "/api/messages", by_id).await.status, 202);
    schedule(&server, "duck", "duck", "first", &at(3)).await;
    hand.store(moment(&at(30)), Ordering::Relaxed);
    assert_eq!(send_due(&server.app).await.unwrap(), 3);
    for (person, count) in [("bugs", 3), ("duck", 1)] {
        let list = get(&server, person, "/api/conversations").await.json();
        let notes = list.as_array().unwrap().iter().find(|one| one["peer"]["user_name"] == person).unwrap().clone();
        assert_eq!((&notes["me"]["unread_count"], &notes["me"]["read_seq"]), (&json!(0), &json!(count)), "{notes}");
        let page = get(&server, person, &format!("/api/conversations/{}/messages", notes["id"])).await.json();
        for note in page.as_array().unwrap() {
            assert_eq!(note["timestamp_read"], note["timestamp_sent"], "{note}");
            assert_eq!(note["timestamp_delivered"], note["timestamp_sent"], "{note}");
        }
    }
});

both!(scheduled_messages_survive_a_kill, async |place| {
    let process = Process::start(place).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let send_at = Timestamp::from_micros(Clock::System.now().micros() + 1_500_000).to_string();
    let new = json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": "later", "send_at": send_at});
    let accepted = client.post(format!("http://{}/api/messages", process.address)).json(&new).send().await.unwrap();
    assert_eq!(accepted.status(), 202);
    process.kill();
    let process = Process::start(place).await;
    let started = std::time::Instant::now();
    loop {
        let target = format!("http://{}/api/messages/duck?with=bugs", process.address);
        let found: Value = client.get(target).send().await.unwrap().json().await.unwrap();
        if let [sent] = &found.as_array().unwrap()[..] {
            assert!(sent["created_at"].as_str().unwrap() < sent["timestamp_sent"].as_str().unwrap());
            assert!(sent["timestamp_sent"].as_str().unwrap() >= &send_at[..]);
            break;
        }
        assert!(started.elapsed().as_secs() < 20, "{found}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    process.terminate().await;
});
