//! Editing and deleting messages.

use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::server::Answer;
use crate::support::{Server, answer_of};

const MESSAGE: &str = "/api/conversations/1/messages/1";

async fn as_person(server: &Server, method: Method, target: &str, person: &str, body: Option<Value>) -> Answer {
    let mut request = server.request(method, target).header("x-act-as", person);
    if let Some(body) = body {
        request = request.json(&body);
    }
    answer_of(request).await
}

async fn edit(server: &Server, person: &str, body: &str) -> Answer {
    as_person(server, Method::PATCH, MESSAGE, person, Some(json!({"body": body}))).await
}

both!(an_edit_shows_everywhere_and_keeps_the_earlier_text, async |place| {
    let server = Server::start(place).await;
    let before = server.get(MESSAGE).await.json();
    // Reads the message once, so that it is in the tail.
    server.all("/api/messages/bugs").await;
    let answer = edit(&server, "rdibari", "Hey, what's up?").await;
    assert_eq!(answer.status, 200);
    let edited = answer.json();
    assert_eq!(edited["body"], "Hey, what's up?");
    assert!(edited["edited_at"].as_str().unwrap() > edited["created_at"].as_str().unwrap());
    for field in ["id", "seq", "created_at", "timestamp_sent", "sender_user_name"] {
        assert_eq!(edited[field], before[field], "{field}");
    }
    assert_eq!(server.get(MESSAGE).await.json(), edited);
    assert!(server.all("/api/messages/bugs").await.contains(&edited));
    assert_eq!(server.get("/api/conversations/1/messages").await.json()[0], edited);
    // An edit to the same body changes nothing.
    assert_eq!(edit(&server, "rdibari", "Hey, what's up?").await.json(), edited);
    let again = edit(&server, "rdibari", "  <b>\"Hey\"</b> 🦆\n").await.json();
    assert_eq!(again["body"], "  <b>\"Hey\"</b> 🦆\n");
    let history = server.get(&format!("{MESSAGE}/history")).await.json();
    assert_eq!(
        history,
        json!([
            {"body": before["body"], "at": before["created_at"]},
            {"body": "Hey, what's up?", "at": edited["edited_at"]},
        ])
    );
    assert_eq!(server.get("/api/conversations/1/messages/2/history").await.json(), json!([]));
    let events =
        "SELECT count(*) FROM messaging.events WHERE type = 'message.updated' AND seq = 1 AND conversation_id = 1";
    assert_eq!(place.numbers(events).await, [[2]]);
});

both!(a_tombstone_has_no_text, async |place| {
    let server = Server::start(place).await;
    let word = "planted-word-7c1f";
    let send = json!({"sender_user_name": "rdibari", "recipient_user_name": "bugs", "body": format!("{word} one")});
    let keyed = || server.request(Method::POST, "/api/messages").header("idempotency-key", "kept").json(&send);
    let sent = answer_of(keyed()).await.json();
    let target = format!("/api/conversations/1/messages/{}", sent["seq"]);
    let change = Some(json!({"body": format!("{word} two")}));
    assert_eq!(as_person(&server, Method::PATCH, &target, "rdibari", change.clone()).await.status, 200);
    server.all("/api/messages/bugs").await;
    assert_eq!(as_person(&server, Method::DELETE, &target, "rdibari", None).await.status, 204);
    let tombstone = server.get(&target).await.json();
    assert_eq!(tombstone["body"], "");
    assert!(tombstone["deleted_at"].is_string() && tombstone["edited_at"].is_null());
    assert_eq!(tombstone["seq"], sent["seq"]);
    assert!(server.all("/api/messages/bugs").await.contains(&tombstone));
    assert_eq!(server.get(&format!("{target}/history")).await.json(), json!([]));
    // A repeat of the send does not send again, and its answer no longer shows the text.
    let replayed = answer_of(keyed()).await;
    assert_eq!((replayed.status.as_u16(), replayed.bytes.as_slice()), (201, b"".as_slice()));
    assert_eq!(replayed.header("idempotency-replayed"), Some("true"));
    for (table, column) in [("messages", "body"), ("message_edits", "body")] {
        let count = format!("SELECT count(*) FROM messaging.{table} WHERE {column} LIKE '%{word}%'");
        assert_eq!(place.numbers(&count).await, [[0]], "{table}");
    }
    // Deleting a tombstone changes nothing. Editing it is refused.
    assert_eq!(as_person(&server, Method::DELETE, &target, "rdibari", None).await.status, 204);
    as_person(&server, Method::PATCH, &target, "rdibari", change).await.problem(409, "message_deleted");
    let events = "SELECT count(*) FROM messaging.events WHERE type = 'message.deleted'";
    assert_eq!(place.numbers(events).await, [[1]]);
});

both!(only_the_sender_changes_a_message, async |place| {
    let server = Server::start(place).await;
    edit(&server, "bugs", "not mine").await.problem(403, "not_your_message");
    as_person(&server, Method::DELETE, MESSAGE, "bugs", None).await.problem(403, "not_your_message");
    // For users who may not see the message it does not exist.
    for (method, body) in [(Method::PATCH, Some(json!({"body": "x"}))), (Method::DELETE, None)] {
        let hidden = as_person(&server, method.clone(), MESSAGE, "duck", body.clone()).await;
        let absent = as_person(&server, method, "/api/conversations/1/messages/99", "rdibari", body).await;
        let (mut hidden, mut absent) =
            (hidden.problem(404, "message_not_found"), absent.problem(404, "message_not_found"));
        hidden["request_id"] = json!(null);
        absent["request_id"] = json!(null);
        assert_eq!(hidden, absent);
    }
    as_person(&server, Method::GET, &format!("{MESSAGE}/history"), "duck", None)
        .await
        .problem(404, "message_not_found");
    // Editing needs a user. A caller that acts as no user may delete.
    let nobody = server.request(Method::PATCH, MESSAGE).json(&json!({"body": "x"}));
    answer_of(nobody).await.problem(403, "act_as_required");
    assert_eq!(answer_of(server.request(Method::DELETE, MESSAGE)).await.status, 204);
});

both!(an_invalid_body_changes_nothing, async |place| {
    let server = Server::start(place).await;
    let before = server.get(MESSAGE).await.json();
    edit(&server, "rdibari", "").await.invalid(&["body"]);
    edit(&server, "rdibari", "a\0b").await.invalid(&["body"]);
    edit(&server, "rdibari", &"é".repeat(8_001)).await.invalid(&["body"]);
    for (body, field) in [(json!({}), "body"), (json!({"body": 1}), "body"), (json!({"body": "x", "seq": 2}), "seq")] {
        as_person(&server, Method::PATCH, MESSAGE, "rdibari", Some(body)).await.invalid(&[field]);
    }
    assert_eq!(server.get(MESSAGE).await.json(), before);
    assert_eq!(edit(&server, "rdibari", &"é".repeat(8_000)).await.status, 200);
});

both!(a_message_has_at_most_a_hundred_edits, async |place| {
    let server = Server::start(place).await;
    for number in 0..100 {
        assert_eq!(edit(&server, "rdibari", &format!("edition {number}")).await.status, 200, "{number}");
    }
    edit(&server, "rdibari", "one more").await.problem(409, "too_many_edits");
    let history = server.get(&format!("{MESSAGE}/history")).await.json();
    let history = history.as_array().unwrap();
    assert_eq!((history.len(), &history[99]["body"]), (100, &json!("edition 98")));
});

both!(edits_together_are_all_kept, async |place| {
    let server = Server::start(place).await;
    let bodies: Vec<String> = (0..16).map(|number| format!("edition {number}")).collect();
    let edits = futures_util::future::join_all(bodies.iter().map(|body| edit(&server, "rdibari", body))).await;
    assert!(edits.iter().all(|answer| answer.status == 200));
    let history = server.get(&format!("{MESSAGE}/history")).await.json();
    let mut seen: Vec<String> =
        history.as_array().unwrap().iter().map(|edition| edition["body"].as_str().unwrap().to_owned()).collect();
    assert_eq!(seen.remove(0), "Hey, whats up?");
    seen.push(server.get(MESSAGE).await.json()["body"].as_str().unwrap().to_owned());
    seen.sort_unstable();
    let mut wanted = bodies.clone();
    wanted.sort_unstable();
    assert_eq!(seen, wanted);
});
