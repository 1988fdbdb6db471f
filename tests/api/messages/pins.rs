//! Pinned messages.

use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::people::{assert_hidden, call, delete, get, group, path_of, put, say, seen};
use crate::support::{Server, answer_of};

const MESSAGE: &str = "/api/conversations/1/messages/1";

async fn pins(server: &Server, person: &str, target: &str) -> Vec<i64> {
    let answer = get(server, person, target).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json().as_array().unwrap().iter().map(|message| message["seq"].as_i64().unwrap()).collect()
}

both!(pins_show_everywhere_and_the_latest_is_listed_first, async |place| {
    let server = Server::start(place).await;
    assert_eq!(seen(&server, "bugs", MESSAGE).await["pinned_at"], Value::Null);
    for seq in [1, 3, 2] {
        assert_eq!(put(&server, "bugs", &format!("/api/conversations/1/messages/{seq}/pin")).await.status, 204);
    }
    let pinned = seen(&server, "rdibari", MESSAGE).await;
    assert!(pinned["pinned_at"].as_str().unwrap() > pinned["timestamp_sent"].as_str().unwrap());
    // A second pin does not change the order.
    assert_eq!(put(&server, "rdibari", &format!("{MESSAGE}/pin")).await.status, 204);
    assert_eq!(seen(&server, "rdibari", MESSAGE).await, pinned);
    assert_eq!(pins(&server, "rdibari", "/api/conversations/1/pins").await, [2, 3, 1]);
    let first = get(&server, "bugs", "/api/conversations/1/pins?limit=2").await;
    let second = get(&server, "bugs", &first.next().unwrap()).await;
    assert_eq!((first.json().as_array().unwrap().len(), second.json()), (2, json!([pinned])));
    assert_eq!(second.next(), None);
    assert_eq!(delete(&server, "rdibari", "/api/conversations/1/messages/3/pin").await.status, 204);
    assert_eq!(delete(&server, "rdibari", "/api/conversations/1/messages/3/pin").await.status, 204);
    assert_eq!(seen(&server, "bugs", "/api/conversations/1/messages/3").await["pinned_at"], Value::Null);
    // A deleted message is no longer pinned.
    assert_eq!(delete(&server, "rdibari", MESSAGE).await.status, 204);
    assert_eq!(seen(&server, "bugs", MESSAGE).await["pinned_at"], Value::Null);
    assert_eq!(pins(&server, "rdibari", "/api/conversations/1/pins").await, [2]);
    put(&server, "bugs", &format!("{MESSAGE}/pin")).await.problem(409, "message_deleted");
    let events = "SELECT count(*) FROM messaging.events WHERE type = 'message.updated' AND actor_id = 2";
    assert_eq!(place.numbers(events).await, [[3]]);
    let events = "SELECT count(*) FROM messaging.events WHERE type = 'message.updated' AND actor_id = 1";
    assert_eq!(place.numbers(events).await, [[1]]);
});

both!(only_admins_pin_in_a_group, async |place| {
    let server = Server::start(place).await;
    let id = group(&server, "bugs", &["rdibari", "duck"], "since_joined").await;
    let admin = format!("/api/conversations/{id}/members/rdibari");
    let role = call(&server, "bugs", Method::PUT, &admin, Some(json!({"role": "admin"}))).await;
    assert_eq!(role.status, 200);
    let message = path_of(&say(&server, "duck", id, "rabbit season", None).await);
    let pin = format!("{message}/pin");
    put(&server, "duck", &pin).await.problem(403, "insufficient_role");
    assert_eq!(put(&server, "rdibari", &pin).await.status, 204);
    delete(&server, "duck", &pin).await.problem(403, "insufficient_role");
    assert_eq!(delete(&server, "bugs", &pin).await.status, 204);
    // An administrator may pin, too.
    assert_eq!(answer_of(server.request(Method::PUT, &pin)).await.status, 204);
    let list = format!("/api/conversations/{id}/pins");
    assert_eq!(pins(&server, "duck", &list).await.len(), 1);
    assert_hidden(
        &server,
        "porky",
        Method::PUT,
        &pin,
        "/api/conversations/99/messages/1/pin",
        None,
        "message_not_found",
    )
    .await;
    assert_hidden(&server, "porky", Method::GET, &list, "/api/conversations/99/pins", None, "conversation_not_found")
        .await;
    // A new member does not see pinned messages from before joining.
    let porky = format!("/api/conversations/{id}/members/porky");
    assert_eq!(call(&server, "bugs", Method::PUT, &porky, Some(json!({}))).await.status, 201);
    assert_eq!(pins(&server, "porky", &list).await, [0_i64; 0]);
    get(&server, "bugs", &format!("{list}?cursor=x")).await.invalid(&["cursor"]);
    get(&server, "bugs", &format!("{list}?limit=201")).await.invalid(&["limit"]);
});

both!(a_conversation_has_at_most_a_hundred_pins, async |place| {
    let server = Server::start(place).await;
    let id = group(&server, "bugs", &[], "all").await;
    for number in 0..101 {
        say(&server, "bugs", id, &format!("carrot {number}"), None).await;
    }
    let pin = |seq: i64| format!("/api/conversations/{id}/messages/{seq}/pin");
    for seq in 2..102 {
        assert_eq!(put(&server, "bugs", &pin(seq)).await.status, 204, "{seq}");
    }
    put(&server, "bugs", &pin(102)).await.problem(409, "too_many_pins");
    assert_eq!(put(&server, "bugs", &pin(2)).await.status, 204);
    delete(&server, "bugs", &pin(50)).await;
    assert_eq!(put(&server, "bugs", &pin(102)).await.status, 204);
});
