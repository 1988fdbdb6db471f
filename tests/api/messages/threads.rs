//! Replies, and the field `thread` of the message to which they reply.

use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::people::{assert_hidden, call, delete, get, group, post, say, seen};
use crate::support::{Server, answer_of};

const MESSAGE: &str = "/api/conversations/1/messages/1";

async fn replies(server: &Server, person: &str, target: &str) -> Vec<i64> {
    let answer = get(server, person, target).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json().as_array().unwrap().iter().map(|message| message["seq"].as_i64().unwrap()).collect()
}

both!(replies_are_counted_on_the_message_they_answer, async |place| {
    let server = Server::start(place).await;
    assert_eq!(seen(&server, "bugs", MESSAGE).await["thread"], Value::Null);
    let one = say(&server, "bugs", 1, "one", Some(1)).await;
    assert_eq!((&one["reply_to"], &one["thread"]), (&json!(1), &Value::Null));
    let thread = seen(&server, "rdibari", MESSAGE).await["thread"].clone();
    assert_eq!(thread, json!({"reply_count": 1, "last_reply_at": one["timestamp_sent"]}));
    let two = say(&server, "rdibari", 1, "two", Some(1)).await;
    say(&server, "rdibari", 1, "not in the thread", None).await;
    // A reply to a reply belongs to a thread of its own. Message 1 does not count it.
    let three = say(&server, "bugs", 1, "three", one["seq"].as_i64()).await;
    let thread = seen(&server, "bugs", MESSAGE).await["thread"].clone();
    assert_eq!(thread, json!({"reply_count": 2, "last_reply_at": two["timestamp_sent"]}));
    // Reads the second reply again, because its times have changed: a user who sends a message has read all messages before it.
    let two = seen(&server, "bugs", "/api/conversations/1/messages/5").await;
    let list = format!("{MESSAGE}/replies");
    assert_eq!(get(&server, "bugs", &list).await.json()[1], two);
    assert_eq!(replies(&server, "bugs", &list).await, [4, 5]);
    assert_eq!(replies(&server, "bugs", "/api/conversations/1/messages/4/replies").await, [7]);
    assert_eq!(replies(&server, "bugs", "/api/conversations/1/messages/3/replies").await, [0_i64; 0]);
    let first = get(&server, "bugs", &format!("{list}?limit=1")).await;
    assert_eq!(first.json()[0]["seq"], 4);
    let second = get(&server, "bugs", &first.next().unwrap()).await;
    assert_eq!((second.json(), second.next()), (json!([two]), None));
    // A deleted reply does not count.
    assert_eq!(delete(&server, "rdibari", "/api/conversations/1/messages/5").await.status, 204);
    let thread = seen(&server, "bugs", MESSAGE).await["thread"].clone();
    assert_eq!(thread, json!({"reply_count": 1, "last_reply_at": one["timestamp_sent"]}));
    assert_eq!(replies(&server, "bugs", &list).await, [4]);
    assert_eq!(delete(&server, "bugs", "/api/conversations/1/messages/4").await.status, 204);
    assert_eq!(seen(&server, "bugs", MESSAGE).await["thread"], Value::Null);
    assert_eq!(delete(&server, "bugs", "/api/conversations/1/messages/4").await.status, 204);
    // A tombstone keeps its thread.
    let tombstone = seen(&server, "bugs", "/api/conversations/1/messages/4").await;
    assert_eq!(tombstone["thread"], json!({"reply_count": 1, "last_reply_at": three["timestamp_sent"]}));
    // An erasure deletes several replies in one request.
    say(&server, "bugs", 1, "four", Some(1)).await;
    say(&server, "bugs", 1, "five", Some(1)).await;
    let six = say(&server, "rdibari", 1, "six", Some(1)).await;
    say(&server, "bugs", 1, "seven", Some(1)).await;
    assert_eq!(answer_of(server.request(Method::DELETE, "/api/users/bugs?messages=delete")).await.status, 204);
    let thread = seen(&server, "rdibari", MESSAGE).await["thread"].clone();
    assert_eq!(thread, json!({"reply_count": 1, "last_reply_at": six["timestamp_sent"]}));
});

both!(replies_together_are_all_counted, async |place| {
    let server = Server::start(place).await;
    let parents = [1, 2, 3];
    let sends = (0..48).map(|number| {
        let message = json!({
            "sender_user_name": if number % 2 == 0 { "bugs" } else { "rdibari" },
            "conversation_id": 1, "body": format!("reply {number}"), "reply_to": parents[number % 3],
        });
        let server = &server;
        async move { server.post("/api/messages", &message).await.status.as_u16() }
    });
    let statuses = futures_util::future::join_all(sends).await;
    assert!(statuses.iter().all(|status| *status == 201), "{statuses:?}");
    for parent in parents {
        let path = format!("/api/conversations/1/messages/{parent}");
        let list = get(&server, "bugs", &format!("{path}/replies?limit=200")).await.json();
        let list = list.as_array().unwrap();
        let thread = seen(&server, "bugs", &path).await["thread"].clone();
        let last = &list.last().unwrap()["timestamp_sent"];
        assert_eq!((list.len(), thread), (16, json!({"reply_count": 16, "last_reply_at": last})));
    }
});

both!(only_visible_messages_can_be_answered, async |place| {
    let server = Server::start(place).await;
    let id = group(&server, "bugs", &["rdibari"], "since_joined").await;
    let before = say(&server, "bugs", id, "before", None).await;
    let duck = format!("/api/conversations/{id}/members/duck");
    assert_eq!(call(&server, "bugs", Method::PUT, &duck, Some(json!({}))).await.status, 201);
    let reply = |seq: &Value| json!({"conversation_id": id, "body": "re", "reply_to": seq});
    post(&server, "duck", "/api/messages", reply(&before["seq"])).await.invalid(&["reply_to"]);
    post(&server, "duck", "/api/messages", reply(&json!(99))).await.invalid(&["reply_to"]);
    let after = say(&server, "bugs", id, "after", None).await;
    assert_eq!(post(&server, "duck", "/api/messages", reply(&after["seq"])).await.status, 201);
    let path = |id: i64, seq: &Value| format!("/api/conversations/{id}/messages/{seq}/replies");
    let (hidden, nowhere) = (path(id, &before["seq"]), path(99, &json!(1)));
    assert_hidden(&server, "duck", Method::GET, &hidden, &nowhere, None, "message_not_found").await;
    assert_hidden(&server, "porky", Method::GET, &path(id, &after["seq"]), &nowhere, None, "message_not_found").await;
    get(&server, "bugs", &format!("{}?cursor=x", path(id, &after["seq"]))).await.invalid(&["cursor"]);
    get(&server, "bugs", &format!("{}?after=1", path(id, &after["seq"]))).await.invalid(&["after"]);
});

both!(the_upgrade_counts_old_replies, async |place| {
    let server = Server::start(place).await;
    say(&server, "bugs", 1, "one", Some(1)).await;
    let two = say(&server, "bugs", 1, "two", Some(1)).await;
    say(&server, "bugs", 1, "three", Some(1)).await;
    assert_eq!(delete(&server, "bugs", "/api/conversations/1/messages/6").await.status, 204);
    server.stop().await;
    place.back_to(6).await;
    place.sql("UPDATE messaging.messages SET reply_count = 0, last_reply_at = NULL").await;
    let server = Server::start(place).await;
    let thread = seen(&server, "bugs", MESSAGE).await["thread"].clone();
    assert_eq!(thread, json!({"reply_count": 2, "last_reply_at": two["timestamp_sent"]}));
    assert_eq!(seen(&server, "bugs", "/api/conversations/1/messages/2").await["thread"], Value::Null);
});
