//! `/api/events`, `/api/events/stream` and `/api/ws`: each event once and in order, for the users who may see it.

mod faults;
mod returns;
mod stalled;
mod transactions;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::both;
use crate::support::Server;
use crate::support::people::{delete, get, group, patch, post, post_once, put, say};
use crate::support::watch::{Socket, Stream};

async fn poll(server: &Server, person: &str, after: &str) -> (Vec<Value>, String) {
    let answer = get(server, person, &format!("/api/events?after={after}")).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    let body = answer.json();
    (body["events"].as_array().unwrap().clone(), body["cursor"].as_str().unwrap().to_owned())
}

async fn now(server: &Server, person: &str) -> String {
    let answer = get(server, person, "/api/events").await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    assert_eq!(answer.json()["events"], json!([]));
    answer.json()["cursor"].as_str().unwrap().to_owned()
}

fn kinds(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

both!(a_socket_delivers_the_events_of_the_log, async |place| {
    let server = Server::start(place).await;
    let room = group(&server, "bugs", &["duck", "porky"], "all").await;
    let first = say(&server, "bugs", room, "one", None).await;
    let direct = server.send("bugs", "duck", "so that they know each other").await;
    let mut socket = Socket::of(&server, "bugs").await;
    let begin = socket.cursor.clone();
    let conversation = &direct["conversation_id"];
    let bodies = [
        json!({"conversation_id": room, "body": "@porky and @duck and @porky again: ünï \"\u{1F407}\""}),
        json!({"conversation_id": room, "body": "an answer", "reply_to": first["seq"]}),
        json!({"recipient_user_name": "duck", "body": "to a name, not to @duck"}),
        json!({"conversation_id": conversation, "body": "to a conversation"}),
        json!({"recipient_user_name": "bugs", "body": "to oneself"}),
    ];
    for round in 0..4 {
        let sends = bodies.iter().map(async |body| {
            assert_eq!(post(&server, "bugs", "/api/messages", body.clone()).await.status, 201);
        });
        let keyed = async {
            let key = format!("round {round}");
            assert_eq!(post_once(&server, "bugs", "/api/messages", &key, bodies[0].clone()).await.status, 201);
        };
        tokio::join!(futures_util::future::join_all(sends), keyed);
    }
    let mut received = Vec::new();
    while received.len() < 24 {
        received.push(socket.event_of("message.created").await);
    }
    let (mut logged, _) = poll(&server, "bugs", &begin).await;
    logged.retain(|event| event["type"] == "message.created");
    assert_eq!(received, logged);
});

both!(a_poll_returns_each_event_once_and_in_order, async |place| {
    let server = Server::start(place).await;
    let begin = now(&server, "bugs").await;
    let stranger = now(&server, "porky").await;
    let room = group(&server, "bugs", &["duck"], "all").await;
    let first = say(&server, "bugs", room, "one", None).await;
    let message = format!("/api/conversations/{room}/messages/{}", first["seq"]);
    put(&server, "duck", &format!("{message}/reactions/%F0%9F%91%8D")).await;
    patch(&server, "bugs", &message, json!({"body": "two"})).await;
    post(&server, "duck", &format!("/api/conversations/{room}/receipts"), json!({"read_seq": first["seq"]})).await;
    delete(&server, "bugs", &message).await;
    let (events, end) = poll(&server, "bugs", &begin).await;
    let expected = [
        "conversation.created",
        "member.added",
        "member.added",
        "message.created",
        "message.created",
        "message.created",
        "reaction.added",
        "message.updated",
        "receipt.updated",
        "message.deleted",
    ];
    let types: Vec<String> = kinds(&events);
    assert_eq!(types.len(), types.iter().filter(|kind| expected.contains(&kind.as_str())).count(), "{types:?}");
    for kind in ["conversation.created", "member.added", "reaction.added", "message.updated", "receipt.updated"] {
        assert!(types.iter().any(|one| one == kind), "{kind} in {types:?}");
    }
    let of = |kind: &str| events.iter().find(|event| event["type"] == kind).unwrap().clone();
    assert_eq!(of("conversation.created")["data"]["id"], room);
    assert!(of("conversation.created")["data"]["me"].is_null());
    assert_eq!(of("conversation.created")["actor_user_name"], "bugs");
    // An event shows the present state of the message, so a late reader gets the tombstone.
    let created =
        events.iter().find(|event| event["type"] == "message.created" && event["data"]["seq"] == first["seq"]);
    assert_eq!(created.unwrap()["data"]["body"], "");
    assert!(created.unwrap()["data"]["deleted_at"].is_string());
    let reaction = of("reaction.added");
    assert_eq!((&reaction["data"]["user_name"], &reaction["data"]["emoji"]), (&json!("duck"), &json!("👍")));
    assert_eq!(of("receipt.updated")["data"]["read_seq"], first["seq"]);
    // The poll returns nothing after the end, and the rest after any cursor in between.
    assert_eq!(poll(&server, "bugs", &end).await.0, Vec::<Value>::new());
    let middle = events[3]["cursor"].as_str().unwrap();
    assert_eq!(poll(&server, "bugs", middle).await.0, events[4..].to_vec());
    // A user outside the conversation sees none of its events.
    assert_eq!(poll(&server, "porky", &stranger).await.0, Vec::<Value>::new());
    assert_eq!(poll(&server, "duck", &begin).await.0, events);
});

both!(the_event_of_a_new_conversation_comes_before_its_first_message, async |place| {
    let server = Server::start(place).await;
    let count = "SELECT count(*) FROM messaging.conversations";
    let before = place.numbers(count).await[0][0];
    let begin = now(&server, "duck").await;
    let sent = server.send("bugs", "duck", "what's up").await;
    server.send("duck", "bugs", "not much").await;
    let (events, _) = poll(&server, "duck", &begin).await;
    assert_eq!(kinds(&events), ["conversation.created", "message.created", "message.created"]);
    assert_eq!(events[0]["data"]["id"], sent["conversation_id"]);
    assert_eq!(events[0]["actor_user_name"], "bugs");
    assert_eq!(poll(&server, "bugs", &begin).await.0, events);
    // Many sends together, some of them between the same two users.
    let people = ["rdibari", "porky"];
    let sends = (0..12).map(|number| server.send(people[number % 2], people[number / 2 % 2], "many"));
    futures_util::future::join_all(sends).await;
    let disorder = "SELECT count(*) FROM messaging.conversations c
                     WHERE 1 <> (SELECT count(*) FROM messaging.events e
                                  WHERE e.conversation_id = c.id AND e.type = 'conversation.created'
                                    AND e.position < (SELECT min(m.position) FROM messaging.events m
                                                       WHERE m.conversation_id = c.id AND m.type = 'message.created'))";
    assert_eq!(place.numbers(disorder).await, [[0]]);
    assert_eq!(place.numbers(count).await, [[before + 4]]);
});

both!(an_unknown_cursor_is_refused, async |place| {
    let server = Server::start(place).await;
    let cursor = now(&server, "bugs").await;
    for garbage in ["x", "-1", "abc-", "abc-x", "ABC-1", "abc--1", "a%20b-1", "abc-99999999999999999999"] {
        get(&server, "bugs", &format!("/api/events?after={garbage}")).await.invalid(&["after"]);
    }
    get(&server, "bugs", "/api/events?wait=61").await.invalid(&["wait"]);
    get(&server, "bugs", "/api/events?after=").await.invalid(&["after"]);
    let (epoch, position) = cursor.rsplit_once('-').unwrap();
    get(&server, "bugs", &format!("/api/events?after=0{epoch}-{position}")).await.problem(410, "cursor_expired");
    get(&server, "bugs", &format!("/api/events?after={epoch}-999999999")).await.problem(410, "cursor_expired");
    let mut socket = Socket::open(&server, "/api/ws?after=00-1", &[("x-act-as", "bugs")]).await.unwrap();
    server.send("duck", "bugs", "still here").await;
    assert_eq!(socket.event_of("message.created").await["data"]["body"], "still here");
    let mut stream = Stream::open(&server, "bugs", Some("00-1")).await;
    let first = stream.next().await.unwrap();
    assert_eq!((first.name.as_str(), &first.data["reason"]), ("reset", &json!("cursor_expired")));
    assert_eq!(stream.next().await.unwrap().name, "hello");
});

both!(a_poll_waits_for_the_next_event, async |place| {
    let server = Server::start(place).await;
    let cursor = now(&server, "duck").await;
    let started = Instant::now();
    let target = format!("/api/events?after={cursor}&wait=20");
    let waiting = get(&server, "duck", &target);
    let sending = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.send("bugs", "duck", "psst").await
    };
    let (answer, _) = tokio::join!(waiting, sending);
    let events = answer.json()["events"].clone();
    assert!(events.as_array().unwrap().iter().any(|event| event["data"]["body"] == "psst"), "{events}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let answer = get(&server, "porky", &format!("/api/events?after={cursor}&wait=1")).await;
    assert_eq!(answer.json()["events"], json!([]));
    // The cursor moves past events that the reader may not see.
    assert_ne!(answer.json()["cursor"], cursor);
});

both!(a_socket_delivers_events_and_accepts_sends, async |place| {
    let server = Server::start(place).await;
    let mut bugs = Socket::of(&server, "bugs").await;
    let mut duck = Socket::of(&server, "duck").await;
    assert_eq!(bugs.hello["user_name"], "bugs");
    assert!(bugs.hello["heartbeat_ms"].as_i64().unwrap() > 0);
    let sent = bugs.ask(json!({"type": "send", "recipient_user_name": "duck", "body": "hi"})).await;
    assert_eq!(sent["status"], 201, "{sent}");
    let event = duck.event_of("message.created").await;
    assert_eq!(event["data"]["body"], "hi");
    assert_eq!(event["data"]["id"], sent["body"]["id"]);
    assert!(event["cursor"].is_string() && event["at"].is_string());
    let id = sent["body"]["conversation_id"].clone();
    duck.say(json!({"type": "read", "conversation_id": id, "seq": 1})).await;
    let receipt = bugs.event_of("receipt.updated").await;
    assert_eq!((&receipt["data"]["user_name"], &receipt["data"]["read_seq"]), (&json!("duck"), &json!(1)));
    // Two sends with the same idempotency key are one message.
    let new = json!({"type": "send", "conversation_id": id, "body": "once", "idempotency_key": "k"});
    let (one, two) = (bugs.ask(new.clone()).await, bugs.ask(new).await);
    assert_eq!((&one["status"], &one["body"]["id"]), (&two["status"], &two["body"]["id"]));
    // Errors have the form of HTTP errors, and the socket stays open.
    let wrong = bugs.ask(json!({"type": "send", "recipient_user_name": "nobody-at-all", "body": "hi"})).await;
    assert_eq!((&wrong["status"], &wrong["body"]["code"]), (&json!(422), &json!("invalid_fields")));
    for frame in
        [json!({"type": "dance"}), json!({"type": "read", "seq": 1}), json!({"type": "read", "conversation_id": id})]
    {
        assert_eq!(bugs.ask(frame).await["status"], 422);
    }
    assert_eq!(bugs.ask(json!({"type": "read", "conversation_id": 99, "seq": 1})).await["status"], 404);
    bugs.say(json!(["no", "object"])).await;
    assert_eq!(bugs.frame().await["status"], 422);
    bugs.say(json!({"type": "ping"})).await;
    assert_eq!(bugs.frame().await["type"], "pong");
    // A new socket continues after the cursor.
    let cursor = duck.cursor.clone();
    drop(duck);
    say(&server, "bugs", id.as_i64().unwrap(), "meanwhile", None).await;
    let mut duck = Socket::behind(&server, "duck", &cursor).await;
    let mut bodies = Vec::new();
    while bodies.last() != Some(&json!("meanwhile")) {
        let event = duck.event().await;
        if event["type"] == "message.created" {
            bodies.push(event["data"]["body"].clone());
        }
    }
    assert!(bodies.ends_with(&[json!("once"), json!("meanwhile")]), "{bodies:?}");
    assert!(duck.is_quiet().await);
});

both!(a_stream_continues_after_the_last_event, async |place| {
    let server = Server::start(place).await;
    let mut stream = Stream::open(&server, "duck", None).await;
    let hello = stream.next().await.unwrap();
    assert_eq!((hello.name.as_str(), &hello.data["cursor"]), ("hello", &json!(hello.id)));
    server.send("bugs", "duck", "one").await;
    let mut last = stream.next().await.unwrap();
    while last.data["type"] != "message.created" {
        last = stream.next().await.unwrap();
    }
    assert_eq!((&last.data["data"]["body"], &last.data["cursor"]), (&json!("one"), &json!(last.id)));
    drop(stream);
    server.send("bugs", "duck", "two").await;
    let mut stream = Stream::open(&server, "duck", Some(&last.id)).await;
    assert_eq!(stream.next().await.unwrap().name, "hello");
    assert_eq!(stream.next().await.unwrap().data["data"]["body"], "two");
});

both!(a_removed_member_gets_only_the_event_of_the_removal, async |place| {
    let server = Server::start(place).await;
    let room = group(&server, "bugs", &["duck", "porky"], "all").await;
    let mut duck = Socket::of(&server, "duck").await;
    let mut porky = Socket::of(&server, "porky").await;
    let before = duck.cursor.clone();
    say(&server, "bugs", room, "before", None).await;
    duck.event_of("message.created").await;
    delete(&server, "bugs", &format!("/api/conversations/{room}/members/duck")).await;
    say(&server, "bugs", room, "after", None).await;
    let removed = duck.event().await;
    assert_eq!((&removed["type"], &removed["data"]["user_name"]), (&json!("member.removed"), &json!("duck")));
    assert!(duck.is_quiet().await);
    while porky.event_of("message.created").await["data"]["body"] != "after" {}
    // Reading with the old cursor does not show it either.
    let (events, _) = poll(&server, "duck", &before).await;
    assert_eq!(kinds(&events), ["member.removed"]);
    // The end of a group is delivered to its last members.
    delete(&server, "bugs", &format!("/api/conversations/{room}")).await;
    let ended = porky.event_of("conversation.deleted").await;
    assert_eq!(ended["data"]["id"], room);
    assert!(duck.is_quiet().await);
});

both!(a_new_member_gets_no_events_from_before_joining, async |place| {
    let server = Server::start(place).await;
    let room = group(&server, "bugs", &[], "since_joined").await;
    let begin = now(&server, "duck").await;
    let old = say(&server, "bugs", room, "old", None).await;
    let mut duck = Socket::of(&server, "duck").await;
    let member = format!("/api/conversations/{room}/members/duck");
    let joined =
        crate::support::people::call(&server, "bugs", Method::PUT, &member, Some(json!({"role": "member"}))).await;
    assert!(joined.status.is_success(), "{}", String::from_utf8_lossy(&joined.bytes));
    let target = format!("/api/conversations/{room}/messages/{}", old["seq"]);
    patch(&server, "bugs", &target, json!({"body": "older"})).await;
    say(&server, "bugs", room, "new", None).await;
    let mut bodies = Vec::new();
    while bodies.last() != Some(&json!("new")) {
        let event = duck.event().await;
        assert_ne!(event["data"]["seq"], old["seq"], "{event}");
        bodies.push(event["data"]["body"].clone());
    }
    let (events, _) = poll(&server, "duck", &begin).await;
    assert!(events.iter().all(|event| event["data"]["seq"] != old["seq"]), "{events:?}");
    assert!(events.iter().any(|event| event["data"]["body"] == "new"));
});

both!(events_reach_the_two_users_or_everybody_they_concern, async |place| {
    let server = Server::start(place).await;
    let mut duck = Socket::of(&server, "duck").await;
    let mut porky = Socket::of(&server, "porky").await;
    put(&server, "bugs", "/api/friends/duck").await;
    let asked = duck.event().await;
    assert_eq!((&asked["type"], &asked["actor_user_name"]), (&json!("friend.requested"), &json!("bugs")));
    assert_eq!(asked["data"]["user_name"], "duck");
    assert!(asked["data"]["email"].is_null(), "{asked}");
    put(&server, "duck", "/api/friends/bugs").await;
    assert_eq!(duck.event().await["type"], "friend.accepted");
    patch(&server, "bugs", "/api/users/me", json!({"first_name": "Bunny"})).await;
    for socket in [&mut duck, &mut porky] {
        let updated = socket.event().await;
        assert_eq!((&updated["type"], &updated["data"]["first_name"]), (&json!("user.updated"), &json!("Bunny")));
        assert_eq!(updated["data"]["user_name"], "bugs");
    }
});

both!(a_socket_needs_valid_credentials_and_origin, async |place| {
    let server = Server::secured(place, &["bugs", "duck"]).await;
    assert_eq!(Socket::open(&server, "/api/ws", &[]).await.err(), Some(401));
    assert_eq!(Socket::open(&server, "/api/ws?token=x", &[]).await.err(), Some(401));
    let token = server.token_of("bugs").await;
    let protocols = format!("posthaste, {token}");
    let mut socket = Socket::open(&server, "/api/ws", &[("sec-websocket-protocol", &protocols)]).await.unwrap();
    let bearer = format!("Bearer {token}");
    let mut stream = Socket::open(&server, "/api/ws", &[("authorization", &bearer)]).await.unwrap();
    // A page of another origin that sends the user's cookie.
    let cookie = format!("posthaste_session={token}");
    let foreign = [("cookie", cookie.as_str()), ("origin", "https://evil.example")];
    assert_eq!(Socket::open(&server, "/api/ws", &foreign).await.err(), Some(403));
    assert_eq!(Socket::open(&server, "/api/ws", &foreign[..1]).await.err(), Some(403));
    let own = format!("http://{}", server.address);
    let same = [("cookie", cookie.as_str()), ("origin", own.as_str())];
    assert_eq!(Socket::open(&server, "/api/ws", &same).await.unwrap().hello["user_name"], "bugs");
    // After the log-out the socket is closed within a second.
    assert_eq!(server.delete_as(&token, "/api/sessions/current").await.status, 204);
    let since = Instant::now();
    assert_eq!(socket.next().await, Err(4401));
    assert_eq!(stream.next().await, Err(4401));
    assert!(since.elapsed() < Duration::from_millis(1_500), "{:?}", since.elapsed());
});

both!(a_frame_has_a_size_limit_and_a_stopping_server_closes_with_a_code, async |place| {
    let server = Server::start(place).await;
    let mut bugs = Socket::of(&server, "bugs").await;
    bugs.say(json!({"type": "send", "body": "x".repeat(200_000)})).await;
    assert_eq!(bugs.next().await, Err(1009));
    let mut duck = Socket::of(&server, "duck").await;
    let mut stream = Stream::open(&server, "duck", None).await;
    stream.next().await.unwrap();
    let stopping = server.stop();
    let reading = async {
        assert_eq!(duck.next().await, Err(1012));
        assert!(stream.next().await.is_none());
    };
    tokio::join!(stopping, reading);
});

// The closing handshake of RFC 6455, section 5.5.1.
both!(a_close_frame_is_answered_with_a_close_frame, async |place| {
    let server = Server::start(place).await;
    for has_unread_frame in [false, true] {
        let mut socket = Socket::of(&server, "duck").await;
        if has_unread_frame {
            socket.say(json!({"type": "presence", "state": "away"})).await;
        }
        let frame = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
        socket.stream.close(Some(frame)).await.unwrap();
        let mut answered = false;
        loop {
            match socket.stream.next().await {
                Some(Ok(Message::Close(Some(frame)))) => {
                    assert_eq!(frame.code, CloseCode::Normal);
                    answered = true;
                }
                Some(Ok(message)) => assert!(message.is_text(), "{message:?}"),
                // After both close frames the connection ends.
                None => break,
                Some(Err(error)) => panic!("{error}"),
            }
        }
        assert!(answered);
    }
});
