//! `POST /api/messages`, and one message.

use serde_json::{Value, json};

use crate::both;
use crate::support::people::{delete, get, group};
use crate::support::{Place, Server, answer_of};
use reqwest::Method;

both!(a_send_has_the_fields_of_the_seed, async |place| {
    let server = Server::start(place).await;
    let request = json!({"sender_user_name": "rdibari", "recipient_user_name": "bugs", "body": "hey"});
    let answer = server.post("/api/messages", &request).await;
    assert_eq!(answer.status, 201);
    let message = answer.json();
    assert_eq!(message["id"], 5);
    assert_eq!(message["conversation_id"], 1);
    assert_eq!(message["seq"], 4);
    assert_eq!(message["kind"], "text");
    assert_eq!(message["sender_id"], 1);
    assert_eq!(message["sender_user_name"], "rdibari");
    assert_eq!(message["recipient_id"], 2);
    assert_eq!(message["recipient_user_name"], "bugs");
    assert_eq!(message["body"], "hey");
    assert_eq!(message["created_at"], message["timestamp_sent"]);
    for field in ["timestamp_delivered", "timestamp_read", "edited_at", "deleted_at", "reply_to", "thread", "pinned_at"]
    {
        assert_eq!(message.get(field), Some(&Value::Null), "{field}");
    }
    for field in ["mentions", "reactions", "attachments"] {
        assert_eq!(message[field], json!([]), "{field}");
    }
    let location = answer.header("location").unwrap();
    assert_eq!(location, "/api/conversations/1/messages/4");
    let found = server.get(location).await;
    assert_eq!(found.status, 200);
    assert_eq!(found.bytes, answer.bytes);
    let listed = server.all("/api/messages/bugs").await;
    assert_eq!(listed.last(), Some(&message));
});

both!(a_message_is_found_by_its_id, async |place| {
    let server = Server::start(place).await;
    let sent = server.send("rdibari", "bugs", "hey").await;
    let target = format!("/api/messages/by-id/{}", sent["id"]);
    let found = get(&server, "bugs", &target).await;
    assert_eq!(found.status, 200);
    let elsewhere = get(&server, "bugs", &format!("/api/conversations/1/messages/{}", sent["seq"])).await;
    assert_eq!(found.bytes, elsewhere.bytes, "the same as under its conversation");
    assert_eq!(found.header("etag"), elsewhere.header("etag"));
    assert_eq!(server.get(&target).await.json(), sent, "a backend reads it too");
    // Somebody who may not see the message gets the answer for a message that does not exist.
    get(&server, "duck", &target).await.problem(404, "message_not_found");
    get(&server, "bugs", "/api/messages/by-id/999999").await.problem(404, "message_not_found");
    // A system message has an id too, and so has a deleted message.
    let group = group(&server, "rdibari", &["bugs"], "all").await;
    let history = get(&server, "bugs", &format!("/api/conversations/{group}/messages")).await.json();
    assert_eq!(history[0]["kind"], "system");
    assert_eq!(get(&server, "bugs", &format!("/api/messages/by-id/{}", history[0]["id"])).await.json(), history[0]);
    delete(&server, "rdibari", &format!("/api/conversations/1/messages/{}", sent["seq"])).await;
    assert!(get(&server, "bugs", &target).await.json()["deleted_at"].is_string());
    // Who leaves the group no longer sees what follows, and not what was before.
    let said = json!({"sender_user_name": "rdibari", "conversation_id": group, "body": "x"});
    let said = format!("/api/messages/by-id/{}", server.post("/api/messages", &said).await.json()["id"]);
    assert_eq!(get(&server, "bugs", &said).await.status, 200);
    delete(&server, "bugs", &format!("/api/conversations/{group}/members/me")).await;
    get(&server, "bugs", &said).await.problem(404, "message_not_found");
});

both!(bodies_are_stored_byte_for_byte, async |place| {
    let server = Server::start(place).await;
    let long = "é".repeat(8_000);
    for body in [
        "it's \"quoted\" '' \\ \u{1} \n\t",
        " leading and trailing ",
        "e\u{301} is not é",
        "👩‍👩‍👧‍👦 \u{10FFFF}\u{FFFE}",
        "'); DROP TABLE messages; --",
        "$1 messaging.messages ?1 = ANY($1)",
        long.as_str(),
    ] {
        let sent = server.send("bugs", "duck", body).await;
        assert_eq!(sent["body"].as_str(), Some(body));
        let listed = server.get("/api/messages/duck?order=desc&limit=1").await.json();
        assert_eq!(listed[0]["body"].as_str(), Some(body));
    }
});

both!(a_pair_of_users_gets_one_direct_conversation, async |place| {
    let server = Server::start(place).await;
    let first = server.send("bugs", "duck", "one").await;
    let second = server.send("duck", "bugs", "two").await;
    assert_eq!(first["conversation_id"], second["conversation_id"]);
    assert_eq!((&first["seq"], &second["seq"]), (&json!(1), &json!(2)));
    let other = server.send("duck", "rdibari", "three").await;
    assert_ne!(other["conversation_id"], first["conversation_id"]);
    assert_eq!(other["seq"], 1);
});

both!(a_user_sends_notes_to_themself, async |place| {
    let server = Server::start(place).await;
    let note = server.send("bugs", "bugs", "buy carrots").await;
    assert_eq!(note["sender_id"], note["recipient_id"]);
    let again = server.send("BUGS", "bugs", "and more").await;
    assert_eq!(again["conversation_id"], note["conversation_id"]);
    assert_eq!(again["sender_user_name"], "bugs");
    let listed = server.all("/api/messages/bugs?with=bugs").await;
    assert_eq!(listed.len(), 2);
});

both!(two_users_who_both_send_first_share_one_conversation, async |place| {
    let server = Server::start(place).await;
    let sends = (0..40).map(|number| {
        let (sender, recipient) = if number % 2 == 0 { ("duck", "rdibari") } else { ("rdibari", "duck") };
        let body = format!("number {number}");
        let server = &server;
        async move { server.send(sender, recipient, &body).await }
    });
    let sent = futures_util::future::join_all(sends).await;
    let conversations: std::collections::HashSet<i64> =
        sent.iter().map(|message| message["conversation_id"].as_i64().unwrap()).collect();
    assert_eq!(conversations.len(), 1);
    let mut seqs: Vec<i64> = sent.iter().map(|message| message["seq"].as_i64().unwrap()).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=40).collect::<Vec<_>>());
    assert_dense(place).await;
});

both!(members_can_send_with_the_conversation_id, async |place| {
    let server = Server::start(place).await;
    let sent =
        server.post("/api/messages", &json!({"sender_user_name": "bugs", "conversation_id": 1, "body": "x"})).await;
    assert_eq!(sent.status, 201);
    assert_eq!(sent.json()["recipient_user_name"], "rdibari");
    assert_eq!(sent.json()["seq"], 4);
    let note = server.send("bugs", "bugs", "note").await["conversation_id"].clone();
    let noted =
        server.post("/api/messages", &json!({"sender_user_name": "bugs", "conversation_id": note, "body": "x"})).await;
    assert_eq!(noted.json()["recipient_user_name"], "bugs");
    for (sender, conversation) in [("porky", 1), ("bugs", 999), ("bugs", 2)] {
        let request = json!({"sender_user_name": sender, "conversation_id": conversation, "body": "x"});
        server.post("/api/messages", &request).await.problem(404, "conversation_not_found");
    }
});

both!(a_reply_names_a_message_of_its_own_conversation, async |place| {
    let server = Server::start(place).await;
    let reply = |recipient: &str, seq: i64| json!({"sender_user_name": "rdibari", "recipient_user_name": recipient, "body": "x", "reply_to": seq});
    let sent = server.post("/api/messages", &reply("bugs", 2)).await;
    assert_eq!(sent.json()["reply_to"], 2);
    server.post("/api/messages", &reply("bugs", 5)).await.invalid(&["reply_to"]);
    server.post("/api/messages", &reply("bugs", 0)).await.invalid(&["reply_to"]);
    // A first message cannot be a reply, and the refused attempt does not create the conversation.
    server.post("/api/messages", &reply("porky", 1)).await.invalid(&["reply_to"]);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.conversations").await, [[2]]);
    assert_dense(place).await;
});

both!(invalid_sends_name_every_field, async |place| {
    let server = Server::start(place).await;
    let send = async |body: Value| server.post("/api/messages", &body).await;
    send(json!({"sender_user_name": "x", "recipient_user_name": "y", "body": "b"}))
        .await
        .invalid(&["sender_user_name", "recipient_user_name"]);
    send(json!({"sender_user_name": "bugs", "recipient_user_name": "y", "body": "b"}))
        .await
        .invalid(&["recipient_user_name"]);
    send(json!({"recipient_user_name": "bugs", "body": "b"})).await.invalid(&["sender_user_name"]);
    send(json!({"sender_user_name": "bugs", "body": "b"})).await.invalid(&["recipient_user_name"]);
    send(json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "conversation_id": 1, "body": "b"}))
        .await
        .invalid(&["recipient_user_name"]);
    let with = |field: &str, value: Value| {
        let mut body = json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": "b"});
        body[field] = value;
        body
    };
    for (field, value) in [
        ("body", json!("")),
        ("body", json!("x".repeat(8_001))),
        ("body", json!("a\u{0}b")),
        ("body", json!(5)),
        ("body", Value::Null),
        ("sender_user_name", json!("bu\u{0}gs")),
        ("recipient_user_name", json!(["duck"])),
        ("reply_to", json!("1")),
        ("reply_to", json!(1.5)),
        ("reply_to", json!(-1)),
        ("reply_to", json!(9_007_199_254_740_992_i64)),
        ("attachment_ids", json!([1])),
        ("send_at", json!("2020-01-01T00:00:00Z")),
        ("send_at", json!("2099-01-01T00:00:00Z")),
        ("send_at", json!("tomorrow")),
        ("priority", json!(1)),
        ("id", json!(7)),
    ] {
        send(with(field, value.clone())).await.invalid(&[field]);
    }
    let before = place.numbers("SELECT count(*) FROM messaging.messages").await;
    assert_eq!(before, [[4]]);
});

both!(a_user_sends_only_as_themself, async |place| {
    let server = Server::start(place).await;
    let send = async |body: Value| {
        answer_of(server.request(Method::POST, "/api/messages").header("x-act-as", "bugs").json(&body)).await
    };
    let own = send(json!({"recipient_user_name": "duck", "body": "x"})).await;
    assert_eq!(own.status, 201);
    assert_eq!(own.json()["sender_user_name"], "bugs");
    assert_eq!(send(json!({"sender_user_name": "BUGS", "recipient_user_name": "duck", "body": "x"})).await.status, 201);
    send(json!({"sender_user_name": "duck", "recipient_user_name": "bugs", "body": "x"}))
        .await
        .problem(403, "not_the_sender");
    // For users who may not see the message it does not exist.
    let seen =
        async |name: &str, target: &str| answer_of(server.request(Method::GET, target).header("x-act-as", name)).await;
    assert_eq!(seen("bugs", "/api/conversations/1/messages/1").await.status, 200);
    let hidden = seen("porky", "/api/conversations/1/messages/1").await.problem(404, "message_not_found");
    let absent = seen("porky", "/api/conversations/99/messages/1").await.problem(404, "message_not_found");
    let without_id = |mut document: Value| {
        document.as_object_mut().unwrap().remove("request_id");
        document
    };
    assert_eq!(without_id(hidden), without_id(absent));
});

both!(a_message_has_an_etag, async |place| {
    let server = Server::start(place).await;
    let answer = server.get("/api/conversations/1/messages/2").await;
    assert_eq!(answer.json()["body"], "nothing much, you");
    let tag = answer.header("etag").unwrap().to_owned();
    let again = |tags: &str| {
        answer_of(
            server.request(Method::GET, "/api/conversations/1/messages/2").header("if-none-match", tags.to_owned()),
        )
    };
    let unchanged = again(&tag).await;
    assert_eq!(unchanged.status, 304);
    assert!(unchanged.bytes.is_empty());
    assert_eq!(unchanged.header("etag"), Some(tag.as_str()));
    assert_eq!(again(&format!("\"other\", W/{tag}")).await.status, 304);
    assert_eq!(again("*").await.status, 304);
    assert_eq!(again("\"other\"").await.status, 200);
    for target in [
        "1/messages/0",
        "1/messages/99",
        "0/messages/1",
        "x/messages/1",
        "1/messages/01",
        "1/messages/99999999999999999999",
    ] {
        server.get(&format!("/api/conversations/{target}")).await.problem(404, "message_not_found");
    }
});

both!(one_failing_send_in_a_batch_fails_alone, async |place| {
    let server = Server::start(place).await;
    let (trigger, removal) = poison(place);
    place.sql(trigger).await;
    let sends = (0..60).map(|number| {
        let body = match number % 6 {
            0 => "poison".to_owned(),
            _ => format!("number {number}"),
        };
        let recipient = if number % 5 == 0 { "nobody" } else { "duck" };
        let request = json!({"sender_user_name": "bugs", "recipient_user_name": recipient, "body": body});
        let server = &server;
        async move { (body, recipient, server.post("/api/messages", &request).await) }
    });
    for (body, recipient, answer) in futures_util::future::join_all(sends).await {
        if recipient == "nobody" {
            answer.invalid(&["recipient_user_name"]);
        } else if body == "poison" {
            answer.problem(500, "internal");
        } else {
            assert_eq!(answer.status, 201, "{body}");
        }
    }
    place.sql(removal).await;
    assert_eq!(server.send("bugs", "duck", "poison").await["body"], "poison");
    assert_dense(place).await;
});

/// Statements that create and remove a trigger which refuses one body. It stands for a failure that only the database can
/// cause.
pub fn poison(place: &Place) -> (&'static str, &'static str) {
    match place.kind {
        crate::support::place::Kind::Sqlite => (
            "CREATE TRIGGER poison BEFORE INSERT ON messages WHEN NEW.body = 'poison'
             BEGIN SELECT RAISE(ABORT, 'poisoned'); END",
            "DROP TRIGGER poison",
        ),
        crate::support::place::Kind::Postgres => (
            "CREATE FUNCTION messaging.poison() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'poisoned'; END $$;
             CREATE TRIGGER poison BEFORE INSERT ON messaging.messages FOR EACH ROW WHEN (NEW.body = 'poison')
             EXECUTE FUNCTION messaging.poison()",
            "DROP TRIGGER poison ON messaging.messages",
        ),
    }
}

/// Asserts what holds after any sends: seq without gaps, correct heads, and one event for each message and each conversation,
/// in order.
pub async fn assert_dense(place: &Place) {
    let gaps = "SELECT conversation_id, count(*), max(seq), min(seq) FROM messaging.messages GROUP BY conversation_id
                HAVING count(*) <> max(seq) OR min(seq) <> 1";
    assert_eq!(place.numbers(gaps).await, Vec::<Vec<i64>>::new());
    let heads = "SELECT c.id, c.last_seq FROM messaging.conversations c
                 WHERE c.last_seq <> (SELECT count(*) FROM messaging.messages m WHERE m.conversation_id = c.id)
                    OR c.last_message_id <> (SELECT max(m.id) FROM messaging.messages m WHERE m.conversation_id = c.id)";
    assert_eq!(place.numbers(heads).await, Vec::<Vec<i64>>::new());
    let disordered = "SELECT a.conversation_id, a.seq FROM messaging.messages a JOIN messaging.messages b
                        ON b.conversation_id = a.conversation_id AND b.seq = a.seq + 1
                      WHERE b.id <= a.id OR b.timestamp_sent < a.timestamp_sent";
    assert_eq!(place.numbers(disordered).await, Vec::<Vec<i64>>::new());
    let events = place.numbers("SELECT count(*), coalesce(max(position), 0), (SELECT last_position FROM messaging.event_log) FROM messaging.events").await;
    let messages = place.numbers("SELECT count(*) FROM messaging.messages").await[0][0];
    let conversations = place.numbers("SELECT count(*) FROM messaging.conversations").await[0][0];
    assert_eq!(events, [[messages + conversations; 3]]);
    let unmatched = "SELECT e.position, e.seq FROM messaging.events e LEFT JOIN messaging.messages m
                       ON m.conversation_id = e.conversation_id AND m.seq = e.seq AND m.sender_id = e.actor_id
                     WHERE m.seq IS NULL AND e.type <> 'conversation.created'";
    assert_eq!(place.numbers(unmatched).await, Vec::<Vec<i64>>::new());
}
