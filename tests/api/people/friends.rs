//! Friends, blocks, and the setting that decides who may send direct messages.

use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::people::{delete, get, put};
use crate::support::server::Answer;
use crate::support::{Options, Place, Server, answer_of};

async fn ask(server: &Server, person: &str, other: &str) -> Answer {
    put(server, person, &format!("/api/friends/{other}")).await
}

async fn names(server: &Server, person: &str, target: &str) -> Vec<String> {
    let answer = get(server, person, target).await;
    assert_eq!(answer.status, 200, "{target}");
    answer.json().as_array().unwrap().iter().map(|user| user["user_name"].as_str().unwrap().to_owned()).collect()
}

async fn send(server: &Server, sender: &str, recipient: &str) -> Answer {
    let message = json!({"sender_user_name": sender, "recipient_user_name": recipient, "body": "hey"});
    server.post("/api/messages", &message).await
}

async fn take_from(server: &Server, person: &str, whom: Value) {
    let request = server.request(Method::PATCH, "/api/users/me").header("x-act-as", person);
    let answer = answer_of(request.json(&json!({"direct_messages_from": whom}))).await;
    assert_eq!(answer.status, 200);
}

async fn event_count(place: &Place, kind: &str) -> i64 {
    place.numbers(&format!("SELECT count(*) FROM messaging.events WHERE type = '{kind}'")).await[0][0]
}

both!(friends_are_requested_accepted_and_ended, async |place| {
    let server = Server::start(place).await;
    let asked = ask(&server, "bugs", "duck").await;
    assert_eq!((asked.status.as_u16(), &asked.json()["state"]), (201, &json!("asked")));
    assert_eq!(asked.json()["user"]["user_name"], "duck");
    // A request does not show the email address of the other user.
    assert_eq!(asked.json()["user"]["email"], Value::Null);
    assert_eq!(ask(&server, "bugs", "DUCK").await.status, 200, "a repeated request");
    assert_eq!(names(&server, "duck", "/api/friends/requests").await, ["bugs"]);
    assert_eq!(names(&server, "bugs", "/api/friends/requests?direction=outgoing").await, ["duck"]);
    assert!(names(&server, "bugs", "/api/friends/requests").await.is_empty());
    assert!(names(&server, "duck", "/api/friends").await.is_empty());
    let accepted = ask(&server, "duck", "bugs").await;
    assert_eq!((accepted.status.as_u16(), &accepted.json()["state"]), (200, &json!("friends")));
    for (one, other) in [("bugs", "duck"), ("duck", "bugs")] {
        assert_eq!(names(&server, one, "/api/friends").await, [other]);
        assert!(names(&server, one, "/api/friends/requests").await.is_empty());
        assert!(names(&server, one, "/api/friends/requests?direction=outgoing").await.is_empty());
    }
    assert_eq!(delete(&server, "duck", "/api/friends/bugs").await.status, 204);
    assert!(names(&server, "bugs", "/api/friends").await.is_empty());
    delete(&server, "duck", "/api/friends/bugs").await.problem(404, "friend_not_found");
    // A request is declined, and another one is withdrawn.
    ask(&server, "bugs", "porky").await;
    assert_eq!(delete(&server, "porky", "/api/friends/bugs").await.status, 204);
    ask(&server, "bugs", "porky").await;
    assert_eq!(delete(&server, "bugs", "/api/friends/porky").await.status, 204);
    assert!(names(&server, "porky", "/api/friends/requests").await.is_empty());
    for (kind, count) in [("friend.requested", 3), ("friend.accepted", 1), ("friend.removed", 3)] {
        assert_eq!(event_count(place, kind).await, count, "{kind}");
    }
});

both!(invalid_friend_requests_are_refused_with_a_reason, async |place| {
    let server = Server::start(place).await;
    for target in ["/api/friends/bugs", "/api/friends/BUGS", "/api/friends/me", "/api/blocks/me"] {
        put(&server, "bugs", target).await.invalid(&["user_name"]);
        delete(&server, "bugs", target).await.invalid(&["user_name"]);
    }
    for target in ["/api/friends/nobody", "/api/blocks/nobody"] {
        put(&server, "bugs", target).await.problem(404, "user_not_found");
        delete(&server, "bugs", target).await.problem(404, "user_not_found");
    }
    delete(&server, "bugs", "/api/blocks/duck").await.problem(404, "block_not_found");
    for target in ["/api/friends", "/api/friends/requests", "/api/blocks"] {
        server.get(target).await.problem(403, "act_as_required");
        get(&server, "bugs", &format!("{target}?limit=0")).await.invalid(&["limit"]);
    }
    let cursor = "/api/friends?cursor=x";
    get(&server, "bugs", cursor).await.invalid(&["cursor"]);
    get(&server, "bugs", "/api/friends/requests?direction=up").await.invalid(&["direction"]);
});

both!(two_requests_in_opposite_directions_make_a_friendship, async |place| {
    let server = Server::start(place).await;
    for round in 0..20 {
        let (one, other) = tokio::join!(ask(&server, "bugs", "duck"), ask(&server, "duck", "bugs"));
        let mut statuses = [one.status.as_u16(), other.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 201], "{round}");
        assert_eq!(names(&server, "bugs", "/api/friends").await, ["duck"]);
        assert_eq!(names(&server, "duck", "/api/friends").await, ["bugs"]);
        delete(&server, "bugs", "/api/friends/duck").await;
    }
});

both!(lists_have_pages, async |place| {
    let server = Server::start(place).await;
    for number in 0..7 {
        server.add_user(&format!("friend{number}"), "F", "F").await;
        ask(&server, &format!("friend{number}"), "bugs").await;
        ask(&server, "bugs", &format!("friend{number}")).await;
    }
    let mut target = Some("/api/friends?limit=3".to_owned());
    let mut found = Vec::new();
    while let Some(next) = target {
        let answer = get(&server, "bugs", &next).await;
        found.extend(answer.json().as_array().unwrap().iter().map(|user| user["user_name"].clone()));
        target = answer.next();
    }
    assert_eq!(found, (0..7).map(|number| json!(format!("friend{number}"))).collect::<Vec<_>>());
});

both!(only_friends_write_to_a_user_who_wants_that, async |place| {
    let server = Server::start(place).await;
    // The rule also holds in an existing conversation, by name and by id.
    let sent = send(&server, "bugs", "duck").await.json();
    take_from(&server, "duck", json!("friends")).await;
    send(&server, "bugs", "duck").await.problem(403, "not_friends");
    let by_number = json!({"sender_user_name": "bugs", "conversation_id": sent["conversation_id"], "body": "hey"});
    server.post("/api/messages", &by_number).await.problem(403, "not_friends");
    // A refused send creates no conversation.
    let conversations = place.numbers("SELECT count(*) FROM messaging.conversations").await;
    server.add_user("stranger", "S", "S").await;
    send(&server, "stranger", "duck").await.problem(403, "not_friends");
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.conversations").await, conversations);
    // The user themself may still write to anybody, and to themself.
    assert_eq!(send(&server, "duck", "bugs").await.status, 201);
    assert_eq!(send(&server, "duck", "duck").await.status, 201);
    ask(&server, "bugs", "duck").await;
    send(&server, "bugs", "duck").await.problem(403, "not_friends");
    ask(&server, "duck", "bugs").await;
    assert_eq!(send(&server, "bugs", "duck").await.status, 201);
    assert_eq!(server.post("/api/messages", &by_number).await.status, 201);
    delete(&server, "bugs", "/api/friends/duck").await;
    send(&server, "bugs", "duck").await.problem(403, "not_friends");
    take_from(&server, "duck", json!("everyone")).await;
    assert_eq!(send(&server, "bugs", "duck").await.status, 201);
});

both!(the_servers_default_holds_for_users_without_a_setting, async |place| {
    let options = Options {
        direct_messages_from: posthaste::domain::identity::users::DirectMessagesFrom::Friends,
        ..Options::default()
    };
    let server = Server::start_with(place, options).await;
    assert_eq!(server.get("/api/users/duck").await.json()["direct_messages_from"], "friends");
    send(&server, "bugs", "duck").await.problem(403, "not_friends");
    take_from(&server, "duck", json!("everyone")).await;
    assert_eq!(send(&server, "bugs", "duck").await.status, 201);
    take_from(&server, "duck", Value::Null).await;
    send(&server, "bugs", "duck").await.problem(403, "not_friends");
});

both!(a_block_does_not_reveal_itself, async |place| {
    let server = Server::start(place).await;
    ask(&server, "bugs", "duck").await;
    ask(&server, "duck", "bugs").await;
    assert_eq!(put(&server, "duck", "/api/blocks/bugs").await.status, 204);
    assert_eq!(put(&server, "duck", "/api/blocks/bugs").await.status, 204);
    assert_eq!(names(&server, "duck", "/api/blocks").await, ["bugs"]);
    assert!(names(&server, "bugs", "/api/blocks").await.is_empty());
    assert!(names(&server, "bugs", "/api/friends").await.is_empty(), "a block ends the friendship");
    // The sender gets the same answer as for a recipient who accepts messages from friends only.
    take_from(&server, "porky", json!("friends")).await;
    let mut blocked = send(&server, "bugs", "duck").await.problem(403, "not_friends");
    let mut friends_only = send(&server, "bugs", "porky").await.problem(403, "not_friends");
    blocked["request_id"] = Value::Null;
    friends_only["request_id"] = Value::Null;
    assert_eq!(blocked, friends_only);
    // A friend request seems to succeed and does not arrive.
    let requested = event_count(place, "friend.requested").await;
    let asked = ask(&server, "bugs", "duck").await;
    assert_eq!((asked.status.as_u16(), &asked.json()["state"]), (201, &json!("asked")));
    assert_eq!(names(&server, "bugs", "/api/friends/requests?direction=outgoing").await, ["duck"]);
    assert!(names(&server, "duck", "/api/friends/requests").await.is_empty());
    assert_eq!(event_count(place, "friend.requested").await, requested);
    // A user cannot send a friend request to a user they block, and may still write to them.
    ask(&server, "duck", "bugs").await.problem(409, "blocked");
    assert_eq!(send(&server, "duck", "bugs").await.status, 201);
    assert_eq!(delete(&server, "duck", "/api/blocks/bugs").await.status, 204);
    assert_eq!(send(&server, "bugs", "duck").await.status, 201);
    assert_eq!(
        names(&server, "duck", "/api/friends/requests").await,
        ["bugs"],
        "the request arrives after the block has ended"
    );
});

both!(a_block_holds_immediately_on_another_server, async |place| {
    let here = Server::start(place).await;
    let there = Server::start_with(place, Options { demo: false, ..Options::default() }).await;
    assert_eq!(send(&here, "bugs", "duck").await.status, 201);
    assert_eq!(put(&there, "duck", "/api/blocks/bugs").await.status, 204);
    send(&here, "bugs", "duck").await.problem(403, "not_friends");
});

both!(an_erased_user_has_no_friends, async |place| {
    let server = Server::start(place).await;
    ask(&server, "bugs", "duck").await;
    ask(&server, "duck", "bugs").await;
    put(&server, "porky", "/api/blocks/duck").await;
    put(&server, "duck", "/api/blocks/rdibari").await;
    assert_eq!(delete(&server, "duck", "/api/users/me").await.status, 204);
    assert!(names(&server, "bugs", "/api/friends").await.is_empty());
    assert!(names(&server, "porky", "/api/blocks").await.is_empty());
    for table in ["friendships", "blocks"] {
        assert_eq!(place.numbers(&format!("SELECT count(*) FROM messaging.{table}")).await, [[0]], "{table}");
    }
    assert_eq!(place.numbers("SELECT CAST(sum(block_count) AS BIGINT) FROM messaging.users").await, [[0]]);
});

both!(an_existing_block_can_be_repeated_at_the_limit, async |place| {
    let server = Server::start(place).await;
    assert_eq!(put(&server, "bugs", "/api/blocks/duck").await.status, 204);
    // Inserts as many blocks as a user may have. The rows need not name existing users.
    place
        .sql(
            "INSERT INTO messaging.blocks (user_id, blocked_id, at)
             WITH RECURSIVE numbers (id) AS (SELECT 100000 UNION ALL SELECT id + 1 FROM numbers WHERE id < 104998)
             SELECT b.user_id, numbers.id, b.at FROM messaging.blocks b, numbers",
        )
        .await;
    assert_eq!(put(&server, "bugs", "/api/blocks/duck").await.status, 204);
    put(&server, "bugs", "/api/blocks/porky").await.problem(409, "too_many_blocks");
});

both!(users_who_block_each_other_can_be_erased_together, async |place| {
    let server = Server::start(place).await;
    let names: Vec<String> = (0..12).map(|number| format!("rival{number}")).collect();
    for name in &names {
        assert_eq!(server.post("/api/users", &json!({"user_name": name})).await.status, 201);
    }
    for one in &names {
        for other in names.iter().filter(|other| *other != one) {
            let target = format!("/api/blocks/{other}");
            assert_eq!(put(&server, one, &target).await.status, 204);
        }
    }
    let targets: Vec<String> = names.iter().map(|name| format!("/api/users/{name}")).collect();
    let erased =
        futures_util::future::join_all(targets.iter().map(|target| answer_of(server.request(Method::DELETE, target))))
            .await;
    assert!(erased.iter().all(|answer| answer.status == 204), "{erased:?}");
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.blocks").await, [[0]]);
});
