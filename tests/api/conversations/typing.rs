//! `POST /api/conversations/{id}/typing`: delivered to open readers, and not stored.

use std::time::Duration;

use serde_json::{Value, json};

use crate::both;
use crate::support::Server;
use crate::support::callers::moment;
use crate::support::people::{get, group, post, put};
use crate::support::watch::{Socket, Stream};

async fn types(server: &Server, person: &str, conversation: i64) -> u16 {
    post(server, person, &format!("/api/conversations/{conversation}/typing"), json!({})).await.status.as_u16()
}

both!(other_members_see_who_is_typing, async |place| {
    let server = Server::start(place).await;
    let room = group(&server, "bugs", &["duck", "porky"], "all").await;
    let mut duck = Socket::of(&server, "duck").await;
    let mut porky = Stream::open(&server, "porky", None).await;
    let mut bugs = Socket::of(&server, "bugs").await;
    assert_eq!(porky.next().await.unwrap().name, "hello");
    let before = place.numbers("SELECT last_position FROM messaging.event_log").await;
    assert_eq!(types(&server, "bugs", room).await, 204);
    let event = duck.event().await;
    assert_eq!((&event["type"], &event["cursor"]), (&json!("typing"), &Value::Null));
    assert_eq!((&event["conversation_id"], &event["data"]["user_name"]), (&json!(room), &json!("bugs")));
    let time = |value: &Value| moment(value.as_str().unwrap());
    assert_eq!(time(&event["data"]["until"]) - time(&event["at"]), 5_000_000);
    let streamed = porky.next().await.unwrap();
    assert_eq!((&streamed.data, streamed.id.as_str()), (&event, ""));
    // The event is not delivered again within a second, and never to its sender.
    assert_eq!(types(&server, "bugs", room).await, 204);
    assert!(duck.is_quiet().await);
    assert!(bugs.is_quiet().await);
    tokio::time::sleep(Duration::from_millis(700)).await;
    bugs.say(json!({"type": "typing", "conversation_id": room})).await;
    assert_eq!(duck.event().await["type"], "typing");
    // Nothing is stored, and a later event has a valid cursor.
    assert_eq!(place.numbers("SELECT last_position FROM messaging.event_log").await, before);
    let cursor = duck.cursor.clone();
    drop(duck);
    assert!(Socket::behind(&server, "duck", &cursor).await.is_quiet().await);
    assert_eq!(types(&server, "rdibari", room).await, 404);
    assert_eq!(types(&server, "bugs", 999).await, 404);
});

both!(typing_does_not_reveal_a_block, async |place| {
    let server = Server::start(place).await;
    let sent = server.send("bugs", "duck", "hi").await;
    let id = sent["conversation_id"].as_i64().unwrap();
    put(&server, "duck", "/api/blocks/bugs").await;
    let mut duck = Socket::of(&server, "duck").await;
    let mut bugs = Socket::of(&server, "bugs").await;
    assert_eq!(types(&server, "bugs", id).await, 204);
    assert_eq!(types(&server, "duck", id).await, 204);
    assert!(duck.is_quiet().await);
    assert!(bugs.is_quiet().await);
    assert_eq!(get(&server, "bugs", &format!("/api/conversations/{id}")).await.status, 200);
});
