//! Values in the database that no version of the server writes. A request that needs such a row is answered with 500. The
//! server never shows a guessed value instead.

use reqwest::Method;
use serde_json::json;

use crate::both;
use crate::support::people::{call, delete, get, group, post, post_once, put, say};
use crate::support::server::Answer;
use crate::support::{Place, Server};

const SECRET: &str = "the carrot is under the third tree";

fn assert_shows_nothing(answer: &Answer, code: &str, target: &str) {
    let text = String::from_utf8_lossy(&answer.bytes);
    assert_eq!(answer.status, 500, "{target}: {text}");
    answer.problem(500, code);
    for shown in [SECRET, "porky", "unknown"] {
        assert!(!text.contains(shown), "{target}: {text}");
    }
}

/// Asserts that each target is answered with 500 while a column holds an unknown value, and with 200 otherwise.
async fn assert_unknown_value_fails(
    server: &Server,
    place: &Place,
    [wrong, right]: [&str; 2],
    code: &str,
    targets: &[(&str, String)],
) {
    for (person, target) in targets {
        let answer = get(server, person, target).await;
        assert_eq!(answer.status, 200, "{target}: {}", String::from_utf8_lossy(&answer.bytes));
    }
    place.sql(wrong).await;
    for (person, target) in targets {
        assert_shows_nothing(&get(server, person, target).await, code, target);
    }
    place.sql(right).await;
    for (person, target) in targets {
        assert_eq!(get(server, person, target).await.status, 200, "{target}");
    }
}

both!(an_unknown_word_is_answered_with_an_error, async |place| {
    let server = Server::start(place).await;
    let room = group(&server, "bugs", &["duck"], "since_joined").await;
    let seq = say(&server, "bugs", room, SECRET, None).await["seq"].as_i64().unwrap();
    let path = format!("/api/conversations/{room}");
    let message = format!("{path}/messages/{seq}");
    assert_eq!(put(&server, "bugs", &format!("{path}/members/porky")).await.status, 201);
    assert_eq!(put(&server, "duck", &format!("{message}/reactions/:eyes:")).await.status, 201);

    // Porky joined after the message.
    get(&server, "porky", &message).await.problem(404, "message_not_found");
    let read = [
        ("porky", path.clone()),
        ("porky", "/api/conversations".to_owned()),
        ("porky", format!("{path}/messages")),
        ("porky", format!("{path}/members")),
        ("porky", format!("/api/search/messages?q=carrot&conversation_id={room}")),
    ];
    let set = |table: &str, set: &str, condition: &str| format!("UPDATE messaging.{table} SET {set} WHERE {condition}");
    let of_room = format!("id = {room}");
    for (column, right) in [("history", "since_joined"), ("kind", "group")] {
        let wrong = set("conversations", &format!("{column} = 'unknown'"), &of_room);
        let right = set("conversations", &format!("{column} = '{right}'"), &of_room);
        assert_unknown_value_fails(&server, place, [&wrong, &right], "internal", &read).await;
    }
    place.sql(&set("conversations", "history = 'unknown'", &of_room)).await;
    assert_shows_nothing(&get(&server, "porky", &message).await, "internal", &message);
    assert_shows_nothing(&get(&server, "porky", "/api/messages/porky").await, "internal", "the timeline");
    let new = json!({"conversation_id": room, "body": "an answer", "reply_to": seq});
    assert_shows_nothing(&post(&server, "porky", "/api/messages", new).await, "internal", "a send");
    let reaction = format!("{message}/reactions/:eyes:");
    assert_shows_nothing(&put(&server, "porky", &reaction).await, "internal", &reaction);
    let found = get(&server, "porky", "/api/search/messages?q=carrot").await;
    assert!(!String::from_utf8_lossy(&found.bytes).contains(SECRET));
    place.sql(&set("conversations", "history = 'since_joined'", &of_room)).await;
    get(&server, "porky", &message).await.problem(404, "message_not_found");

    let member =
        format!("conversation_id = {room} AND user_id = (SELECT id FROM messaging.users WHERE user_name = 'porky')");
    let sql = [set("members", "role = 'unknown'", &member), set("members", "role = 'member'", &member)];
    let read = [("porky", path.clone()), ("bugs", format!("{path}/members")), ("porky", format!("{path}/messages"))];
    assert_unknown_value_fails(&server, place, [&sql[0], &sql[1]], "internal", &read).await;

    let duck = "user_name = 'duck'";
    let read = [("bugs", "/api/users/duck".to_owned()), ("bugs", "/api/users".to_owned())];
    let sql = [set("users", "role = 'unknown'", duck), set("users", "role = 'user'", duck)];
    assert_unknown_value_fails(&server, place, [&sql[0], &sql[1]], "internal", &read).await;

    // An unknown state of a friend request is not taken for a request, which the other user could accept.
    assert_eq!(put(&server, "porky", "/api/friends/duck").await.status, 201);
    place.sql(&set("friendships", "state = 'unknown'", "state = 'asked'")).await;
    assert_shows_nothing(&put(&server, "duck", "/api/friends/porky").await, "internal", "accepting a request");
    place.sql(&set("friendships", "state = 'asked'", "state = 'unknown'")).await;
    assert_eq!(put(&server, "duck", "/api/friends/porky").await.status, 200);

    let of_message = format!("conversation_id = {room} AND seq = {seq}");
    for counts in ["👀 x", "👀", "👀 0", "👀 1 🎉"] {
        let wrong = set("messages", &format!("reaction_counts = '{counts}'"), &of_message);
        let right = set("messages", "reaction_counts = '👀 1'", &of_message);
        let read = [("bugs", message.clone()), ("bugs", format!("{message}/reactions"))];
        assert_unknown_value_fails(&server, place, [&wrong, &right], "damaged", &read).await;
        place.sql(&wrong).await;
        assert_shows_nothing(&put(&server, "bugs", &reaction).await, "internal", &reaction);
        place.sql(&right).await;
    }
    // The first message is a system message. Its digest is removed, so that only the unknown word shows the damage.
    let first = format!("conversation_id = {room} AND seq = 1");
    let sql = [
        set("messages", "action = 'unknown', digest = NULL", &first),
        set("messages", "action = 'group_created'", &first),
    ];
    assert_unknown_value_fails(
        &server,
        place,
        [&sql[0], &sql[1]],
        "damaged",
        &[("bugs", format!("{path}/messages/1"))],
    )
    .await;
});

both!(a_user_who_cannot_be_read_affects_no_other_user, async |place| {
    let server = Server::start(place).await;
    let count = "SELECT count(*) FROM messaging.messages";
    let before = place.numbers(count).await[0][0];
    place.sql("UPDATE messaging.users SET direct_messages_from = 'unknown' WHERE user_name = 'rdibari'").await;
    let send = async |recipient: &str| {
        post(&server, "bugs", "/api/messages", json!({"recipient_user_name": recipient, "body": SECRET})).await
    };
    for _ in 0..10 {
        // The three sends wait in the same batch.
        let (refused, sent, other) = tokio::join!(send("rdibari"), send("duck"), send("porky"));
        assert_shows_nothing(&refused, "internal", "a send");
        assert!(sent.status == 201 && other.status == 201);
    }
    assert_eq!(place.numbers(count).await[0][0], before + 20);
    assert_shows_nothing(&get(&server, "bugs", "/api/users/rdibari").await, "internal", "a user");
    place.sql("UPDATE messaging.users SET direct_messages_from = NULL WHERE user_name = 'rdibari'").await;
    assert_eq!(send("rdibari").await.status, 201);
});

both!(an_unreadable_event_does_not_delay_others, async |place| {
    let server = Server::start(place).await;
    let cursor = get(&server, "duck", "/api/events").await.json()["cursor"].as_str().unwrap().to_owned();
    let room = group(&server, "bugs", &["duck"], "all").await;
    say(&server, "bugs", room, "behind it", None).await;
    place.sql(&format!("UPDATE messaging.conversations SET kind = 'unknown' WHERE id = {room}")).await;
    let events = get(&server, "duck", &format!("/api/events?after={cursor}")).await.json();
    let events = events["events"].as_array().unwrap();
    assert!(events.iter().all(|event| event["type"] != "conversation.created"), "{events:?}");
    assert!(events.iter().any(|event| event["data"]["body"] == "behind it"), "{events:?}");
});

both!(a_repeat_with_an_unreadable_stored_answer_is_not_run_again, async |place| {
    let server = Server::start(place).await;
    let room = group(&server, "bugs", &["duck"], "all").await;
    let new = json!({"conversation_id": room, "body": "once"});
    assert_eq!(post_once(&server, "bugs", "/api/messages", "key", new.clone()).await.status, 201);
    for (wrong, right) in [("status = 70000", "status = 201"), ("status = 1", "status = 201")] {
        place.sql(&format!("UPDATE messaging.idempotency_keys SET {wrong}")).await;
        assert_shows_nothing(&post_once(&server, "bugs", "/api/messages", "key", new.clone()).await, "internal", wrong);
        place.sql(&format!("UPDATE messaging.idempotency_keys SET {right}")).await;
    }
    assert_eq!(post_once(&server, "bugs", "/api/messages", "key", new).await.status, 201);
    assert_eq!(
        get(&server, "bugs", &format!("/api/conversations/{room}/messages")).await.json().as_array().unwrap().len(),
        2
    );
});

both!(an_unknown_scope_gives_no_permission, async |place| {
    let server = Server::start(place).await;
    let made = server.post("/api/api-keys", &json!({"name": "a key", "scopes": ["read"]})).await.json();
    place.sql("UPDATE messaging.api_keys SET scopes = 'read unknown'").await;
    let with_key = async || {
        let request = server.request(Method::GET, "/api/users").bearer_auth(made["key"].as_str().unwrap());
        crate::support::answer_of(request).await
    };
    assert_shows_nothing(&with_key().await, "internal", "with the key");
    place.sql("UPDATE messaging.api_keys SET scopes = 'read'").await;
    assert_eq!(with_key().await.status, 200);
    assert_eq!(call(&server, "bugs", Method::GET, "/api/users", None).await.status, 200);
});

both!(an_erasure_goes_on_over_damaged_rows, async |place| {
    let server = Server::start(place).await;
    let room = group(&server, "bugs", &["duck", "porky"], "all").await;
    let seq = say(&server, "bugs", room, "react to this", None).await["seq"].as_i64().unwrap();
    let reaction = format!("/api/conversations/{room}/messages/{seq}/reactions/:eyes:");
    assert_eq!(put(&server, "duck", &reaction).await.status, 201);
    let of_message = format!("conversation_id = {room} AND seq = {seq}");
    place.sql(&format!("UPDATE messaging.messages SET reaction_counts = '👀 x' WHERE {of_message}")).await;
    let duck = "(SELECT id FROM messaging.users WHERE user_name = 'duck')";
    let of_duck = format!("conversation_id = {room} AND user_id = {duck}");
    place.sql(&format!("UPDATE messaging.members SET role = 'unknown' WHERE {of_duck}")).await;
    assert_eq!(delete(&server, "duck", "/api/users/duck").await.status, 204);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.erasures").await, [[0]]);
    let members = get(&server, "bugs", &format!("/api/conversations/{room}/members")).await;
    let text = String::from_utf8_lossy(&members.bytes);
    assert!(text.contains("porky") && !text.contains("duck"), "{text}");
});
