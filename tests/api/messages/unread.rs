//! Which messages count as unread: hidden conversations, system messages, and messages that a member does not see.

use posthaste::domain::conversations::conversations::remove_ended;
use serde_json::{Value, json};

use crate::both;
use crate::support::people::{delete, get, group, patch, post, put, say};
use crate::support::{Place, Server};

/// The unread count and the mention count of a member. Asserts that all answers show the same.
async fn unread(server: &Server, person: &str, conversation: i64) -> (i64, i64) {
    let target = format!("/api/conversations/{conversation}");
    let alone = get(server, person, &target).await.json()["me"].clone();
    let list = get(server, person, "/api/conversations").await.json();
    let listed = list.as_array().unwrap().iter().find(|one| one["id"] == conversation);
    if let Some(listed) = listed {
        assert_eq!(listed["me"], alone);
    }
    // A report that changes nothing.
    let delivered = alone["delivered_seq"].as_i64().unwrap().max(1);
    let state = post(server, person, &format!("{target}/receipts"), json!({"delivered_seq": delivered})).await.json();
    for field in ["unread_count", "mention_count", "read_seq"] {
        assert_eq!(state[field], alone[field], "{person} {conversation} {state} {alone}");
    }
    (alone["unread_count"].as_i64().unwrap(), alone["mention_count"].as_i64().unwrap())
}

async fn report(server: &Server, person: &str, conversation: i64, body: Value) {
    let target = format!("/api/conversations/{conversation}/receipts");
    assert_eq!(post(server, person, &target, body).await.status, 200);
}

async fn receipts(place: &Place) -> Vec<Vec<i64>> {
    place.numbers("SELECT count(*) FROM messaging.events WHERE type = 'receipt.updated'").await
}

both!(hiding_a_conversation_dismisses_its_messages, async |place| {
    let server = Server::start(place).await;
    let first = server.send("porky", "bugs", "one for @bugs").await;
    let id = first["conversation_id"].as_i64().unwrap();
    server.send("porky", "bugs", "two").await;
    report(&server, "bugs", id, json!({"delivered_seq": 1})).await;
    assert_eq!(unread(&server, "bugs", id).await, (2, 1));
    let before = receipts(place).await;
    let target = format!("/api/conversations/{id}");
    assert_eq!(delete(&server, "bugs", &target).await.status, 204);
    assert_eq!(unread(&server, "bugs", id).await, (0, 0));
    server.send("porky", "bugs", "three for @bugs").await;
    assert_eq!(unread(&server, "bugs", id).await, (1, 1));
    // The other user learns nothing of it.
    assert_eq!(receipts(place).await, before);
    let page = get(&server, "porky", &format!("{target}/messages")).await.json();
    assert!(page.as_array().unwrap().iter().all(|message| message["timestamp_read"].is_null()), "{page}");
    assert_eq!(get(&server, "bugs", &target).await.json()["me"]["read_seq"], 0);
    // A mark that is set afterwards counts, and hiding again removes it.
    report(&server, "bugs", id, json!({"unread_from": 2})).await;
    assert_eq!(unread(&server, "bugs", id).await, (2, 1));
    assert_eq!(delete(&server, "bugs", &target).await.status, 204);
    server.send("porky", "bugs", "four").await;
    server.send("porky", "bugs", "five").await;
    assert_eq!(unread(&server, "bugs", id).await, (2, 0));
    report(&server, "bugs", id, json!({"read_seq": 4})).await;
    assert_eq!(unread(&server, "bugs", id).await, (1, 0));
});

both!(system_messages_do_not_count_as_unread, async |place| {
    let server = Server::start(place).await;
    let id = group(&server, "duck", &["bugs", "porky"], "all").await;
    let target = format!("/api/conversations/{id}");
    let rename = async |title: &str| {
        assert_eq!(patch(&server, "duck", &target, json!({"title": title})).await.status, 200);
    };
    assert_eq!(unread(&server, "bugs", id).await, (0, 0));
    let second = say(&server, "duck", id, "one for @bugs", None).await["seq"].as_i64().unwrap();
    assert_eq!(second, 2);
    rename("Toons").await;
    rename("Tunes").await;
    assert_eq!(unread(&server, "bugs", id).await, (1, 1));
    say(&server, "duck", id, "two", None).await;
    assert_eq!(unread(&server, "bugs", id).await, (2, 1));
    // Tombstones count, those of system messages do not.
    for seq in [2, 3] {
        assert_eq!(delete(&server, "duck", &format!("{target}/messages/{seq}")).await.status, 204);
    }
    assert_eq!(unread(&server, "bugs", id).await, (2, 0));
    for (read, wanted) in [(1, 2), (2, 1), (3, 1), (4, 1), (5, 0)] {
        report(&server, "bugs", id, json!({"read_seq": read})).await;
        assert_eq!(unread(&server, "bugs", id).await, (wanted, 0), "{read}");
    }
    for (mark, wanted) in [(1, 2), (2, 2), (3, 1), (5, 1)] {
        report(&server, "bugs", id, json!({"unread_from": mark})).await;
        assert_eq!(unread(&server, "bugs", id).await, (wanted, 0), "{mark}");
    }
    // A user who joins has read everything, and the message about it is not counted for the others.
    assert_eq!(put_member(&server, id, "rdibari").await, 201);
    assert_eq!(unread(&server, "rdibari", id).await, (0, 0));
    assert_eq!(unread(&server, "porky", id).await, (2, 0));
    say(&server, "bugs", id, "three", None).await;
    assert_eq!(unread(&server, "rdibari", id).await, (1, 0));
    // Messages that a member no longer sees are not counted.
    report(&server, "rdibari", id, json!({"unread_from": 2})).await;
    assert_eq!(unread(&server, "rdibari", id).await, (3, 0));
    assert_eq!(patch(&server, "duck", &target, json!({"history": "since_joined"})).await.status, 200);
    assert_eq!(unread(&server, "rdibari", id).await, (1, 0));
    // An upgrade from the version before counts the same.
    let people = ["duck", "bugs", "porky", "rdibari"];
    let mut before = Vec::new();
    for person in people {
        before.push(unread(&server, person, id).await);
    }
    server.stop().await;
    place.back_to(24).await;
    let server = Server::start(place).await;
    for (person, before) in people.into_iter().zip(before) {
        assert_eq!(unread(&server, person, id).await, before, "{person}");
    }
    assert_eq!(patch(&server, "duck", &target, json!({"title": "Loony"})).await.status, 200);
    say(&server, "duck", id, "four", None).await;
    assert_eq!(unread(&server, "porky", id).await, (4, 0));
    // The running count goes with the group.
    assert_eq!(delete(&server, "duck", &target).await.status, 204);
    while remove_ended(&server.app).await.unwrap() {}
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.uncounted_messages").await, [[0]]);
});

async fn put_member(server: &Server, group: i64, person: &str) -> u16 {
    put(server, "duck", &format!("/api/conversations/{group}/members/{person}")).await.status.as_u16()
}
