//! Forwarding messages.

use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::people::{assert_hidden, call, delete, get, group, post, post_once, say};
use crate::support::{Server, answer_of};

const FORWARD: &str = "/api/conversations/1/messages/1/forward";

both!(a_forward_is_a_new_message_of_the_caller, async |place| {
    let server = Server::start(place).await;
    let id = group(&server, "bugs", &["duck"], "all").await;
    say(&server, "bugs", 1, "with a thread", Some(1)).await;
    let sent = post(&server, "bugs", FORWARD, json!({"conversation_id": id})).await;
    assert_eq!(sent.status, 201);
    let message = sent.json();
    for (field, value) in [
        ("body", json!("Hey, whats up?")),
        ("sender_user_name", json!("bugs")),
        ("conversation_id", json!(id)),
        ("kind", json!("text")),
        ("reply_to", Value::Null),
        ("thread", Value::Null),
        ("recipient_user_name", Value::Null),
    ] {
        assert_eq!(message[field], value, "{field}");
    }
    assert_eq!(sent.header("location"), Some(format!("/api/conversations/{id}/messages/{}", message["seq"]).as_str()));
    assert_eq!(get(&server, "duck", sent.header("location").unwrap()).await.json(), message);
    // A message can be forwarded into a direct conversation, even into the conversation from which it comes.
    let sent = post(&server, "bugs", FORWARD, json!({"conversation_id": 1})).await;
    assert_eq!((sent.status.as_u16(), &sent.json()["recipient_user_name"]), (201, &json!("rdibari")));
});

both!(a_repeat_with_the_same_key_forwards_once, async |place| {
    let server = Server::start(place).await;
    let id = group(&server, "rdibari", &["duck"], "all").await;
    let body = json!({"conversation_id": id});
    let first = post_once(&server, "rdibari", FORWARD, "k", body.clone()).await;
    assert_eq!(first.status, 201);
    let again = post_once(&server, "rdibari", FORWARD, "k", body.clone()).await;
    assert_eq!((again.status, &again.bytes), (first.status, &first.bytes));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    post_once(&server, "rdibari", FORWARD, "k", json!({"conversation_id": 1}))
        .await
        .problem(422, "idempotency_key_reused");
    // A repeat gets the first answer even after the message was deleted.
    assert_eq!(delete(&server, "rdibari", "/api/conversations/1/messages/1").await.status, 204);
    assert_eq!(post_once(&server, "rdibari", FORWARD, "k", body.clone()).await.bytes, first.bytes);
    post(&server, "rdibari", FORWARD, body).await.problem(409, "message_deleted");
    let messages = format!("SELECT count(*) FROM messaging.messages WHERE conversation_id = {id} AND kind = 'text'");
    assert_eq!(place.numbers(&messages).await, [[1]]);
});

both!(a_forward_needs_the_permissions_of_a_send, async |place| {
    let server = Server::start(place).await;
    let id = group(&server, "duck", &["porky"], "all").await;
    post(&server, "bugs", FORWARD, json!({"conversation_id": id})).await.problem(404, "conversation_not_found");
    post(&server, "bugs", FORWARD, json!({"conversation_id": 99})).await.problem(404, "conversation_not_found");
    post(&server, "bugs", FORWARD, json!({"conversation_id": 0})).await.invalid(&["conversation_id"]);
    post(&server, "bugs", FORWARD, json!({})).await.invalid(&["conversation_id"]);
    post(&server, "bugs", FORWARD, json!({"conversation_id": 1, "body": "x"})).await.invalid(&["body"]);
    let body = Some(json!({"conversation_id": id}));
    let nowhere = "/api/conversations/99/messages/1/forward";
    assert_hidden(&server, "duck", Method::POST, FORWARD, nowhere, body.clone(), "message_not_found").await;
    // System messages cannot be forwarded.
    let system = format!("/api/conversations/{id}/messages/1/forward");
    post(&server, "duck", &system, json!({"conversation_id": id})).await.problem(409, "not_forwardable");
    // A user who accepts direct messages from friends only gets no forwards from others.
    let direct = server.send("bugs", "duck", "hey").await["conversation_id"].clone();
    let setting = json!({"direct_messages_from": "friends"});
    assert_eq!(call(&server, "duck", Method::PATCH, "/api/users/me", Some(setting)).await.status, 200);
    post(&server, "bugs", FORWARD, json!({"conversation_id": direct})).await.problem(403, "not_friends");
    let nobody = server.request(Method::POST, FORWARD).json(&json!({"conversation_id": 1}));
    answer_of(nobody).await.problem(403, "act_as_required");
});
