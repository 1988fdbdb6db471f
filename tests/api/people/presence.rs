//! Presence: `GET /api/users/{user_name}/presence`, and the events about it.

use std::time::{Duration, Instant};

use posthaste::domain::people::presence;
use posthaste::live::bus::BusSettings;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::callers::{Caller, moment, secured, session};
use crate::support::people::{delete, get, group, put};
use crate::support::place::Kind;
use crate::support::watch::{Socket, Stream};
use crate::support::{Options, Place, Server, answer_of, run};

/// A change must be stored within this time. It includes the delay before a user counts as offline.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than a change takes to be stored.
const LONG_ENOUGH: Duration = Duration::from_millis(1_200);

fn target(person: &str) -> String {
    format!("/api/users/{person}/presence")
}

async fn presence_of(server: &Server, asking: &str, person: &str) -> Value {
    let answer = get(server, asking, &target(person)).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json()
}

/// Waits until the user `asking` sees the user `person` in this state.
async fn wait_for_state(server: &Server, asking: &str, person: &str, state: &str) -> Value {
    let started = Instant::now();
    loop {
        let seen = presence_of(server, asking, person).await;
        if seen["state"] == state {
            return seen;
        }
        assert!(started.elapsed() < PATIENCE, "{person} does not become {state}: {seen}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn befriend(server: &Server, one: &str, other: &str) {
    put(server, one, &format!("/api/friends/{other}")).await;
    assert_eq!(put(server, other, &format!("/api/friends/{one}")).await.json()["state"], "friends");
}

/// A socket that receives events about presence.
async fn watch_presence(server: &Server, person: &str) -> Socket {
    let mut socket = Socket::of(server, person).await;
    socket.presence = true;
    socket
}

/// The next presence event about a user.
async fn next_presence(socket: &mut Socket, person: &str) -> Value {
    loop {
        let event = socket.event_of("presence").await;
        if event["data"]["user_name"] == person {
            return event;
        }
    }
}

async fn count(place: &Place, table: &str) -> i64 {
    place.numbers(&format!("SELECT count(*) FROM messaging.{table}")).await[0][0]
}

/// Makes every server look like one that was killed two minutes ago.
async fn age_servers(place: &Place) {
    let sql = match place.kind {
        Kind::Sqlite => "UPDATE messaging.presence_servers SET seen_at = seen_at - 120000000",
        Kind::Postgres => "UPDATE messaging.presence_servers SET seen_at = seen_at - interval '120 seconds'",
    };
    place.sql(sql).await;
}

fn with_bus(place: &Place) -> Options {
    let bus = match place.kind {
        Kind::Sqlite => BusSettings::Local,
        Kind::Postgres => BusSettings::Postgres { listen_url: place.postgres_url() },
    };
    Options { bus, ..Options::default() }
}

both!(users_are_online_while_a_stream_of_theirs_is_open, async |place| {
    let server = Server::start(place).await;
    let never = presence_of(&server, "bugs", "rdibari").await;
    assert_eq!(never, json!({"state": "offline", "last_seen_at": null}));
    // An ordinary request does not make a user online.
    assert_eq!(presence_of(&server, "rdibari", "me").await, never);
    let phone = Socket::of(&server, "rdibari").await;
    let there = wait_for_state(&server, "bugs", "rdibari", "online").await;
    assert_eq!(presence_of(&server, "rdibari", "me").await["state"], "online");
    let tablet = Stream::open(&server, "rdibari", None).await;
    drop(phone);
    tokio::time::sleep(LONG_ENOUGH * 3).await;
    assert_eq!(presence_of(&server, "bugs", "rdibari").await["state"], "online", "the stream is open");
    let before = server.app.clock.now().micros();
    drop(tablet);
    let gone = wait_for_state(&server, "bugs", "rdibari", "offline").await;
    let at = moment(gone["last_seen_at"].as_str().unwrap());
    assert!(at >= before && at <= server.app.clock.now().micros(), "{gone}");
    assert!(at > moment(there["last_seen_at"].as_str().unwrap()));
    assert_eq!(presence_of(&server, "bugs", "rdibari").await, gone, "the state stays the same");
    // The case of the name does not matter. An unknown name is a 404.
    assert_eq!(presence_of(&server, "bugs", "RDiBari").await, gone);
    get(&server, "bugs", &target("nobody")).await.problem(404, "user_not_found");
    get(&server, "bugs", &format!("{}?x=1", target("rdibari"))).await.invalid(&["x"]);
    server.get(&target("me")).await.problem(403, "act_as_required");
    server.stop().await;
});

both!(the_presence_of_several_users_is_what_each_of_them_shows, async |place| {
    let server = Server::start(place).await;
    let _phone = Socket::of(&server, "rdibari").await;
    let _laptop = Socket::of(&server, "duck").await;
    wait_for_state(&server, "bugs", "rdibari", "online").await;
    wait_for_state(&server, "duck", "me", "online").await;
    let list =
        async |asking: &str, names: &str| get(&server, asking, &format!("/api/presence?user_names={names}")).await;
    let of = |listed: &Value| -> Vec<(String, String)> {
        let text = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
        listed.as_array().unwrap().iter().map(|one| (text(one, "user_name"), text(one, "state"))).collect()
    };
    // bugs shares no conversation with duck. The order is that of the names. Case, spaces and repetitions do not matter.
    let listed = list("bugs", "duck,RDIBARI,%20me%20,rdibari,nobody").await.json();
    let shown = |name: &str, state: &str| (name.to_owned(), state.to_owned());
    assert_eq!(of(&listed), [shown("duck", "offline"), shown("rdibari", "online"), shown("bugs", "offline")]);
    for one in listed.as_array().unwrap() {
        let mut alone = presence_of(&server, "bugs", one["user_name"].as_str().unwrap()).await;
        alone["user_name"] = one["user_name"].clone();
        // The time moves on while somebody is online.
        alone["last_seen_at"] = one["last_seen_at"].clone();
        assert_eq!(*one, alone);
    }
    assert_eq!(listed[0]["last_seen_at"], Value::Null, "as if duck had never been online");
    // A backend sees everybody, and a block hides one of them.
    let all = server.get("/api/presence?user_names=duck,rdibari").await.json();
    assert_eq!(of(&all), [shown("duck", "online"), shown("rdibari", "online")]);
    put(&server, "rdibari", "/api/blocks/bugs").await;
    assert_eq!(of(&list("bugs", "rdibari").await.json()), [shown("rdibari", "offline")]);
    assert_eq!(list("bugs", "nobody").await.json(), json!([]));
    // A hundred names are allowed, and at least one is needed.
    let names = |count: usize| (0..count).map(|number| format!("user{number}")).collect::<Vec<_>>().join(",");
    assert_eq!(list("bugs", &names(100)).await.status, 200);
    for wrong in [names(101), String::new(), ",%20,".to_owned(), "bugs,%00".to_owned()] {
        list("bugs", &wrong).await.invalid(&["user_names"]);
    }
    get(&server, "bugs", "/api/presence").await.invalid(&["user_names"]);
    server.get("/api/presence?user_names=me").await.problem(403, "act_as_required");
    server.stop().await;
});

both!(users_are_away_when_all_their_sockets_say_so, async |place| {
    let server = Server::start(place).await;
    let mut phone = Socket::of(&server, "rdibari").await;
    let mut laptop = Socket::of(&server, "rdibari").await;
    wait_for_state(&server, "bugs", "rdibari", "online").await;
    let away = json!({"type": "presence", "state": "away"});
    let reply = phone.ask(away.clone()).await;
    assert_eq!((&reply["status"], &reply["body"]), (&json!(204), &Value::Null));
    tokio::time::sleep(LONG_ENOUGH).await;
    assert_eq!(presence_of(&server, "bugs", "rdibari").await["state"], "online", "one of two sockets is still online");
    // A frame without `ref` is not answered.
    laptop.say(away.clone()).await;
    let seen = wait_for_state(&server, "bugs", "rdibari", "away").await;
    assert!(seen["last_seen_at"].is_string());
    assert!(laptop.is_quiet().await);
    // A stream of server-sent events cannot set a state, so it counts as online.
    let stream = Stream::open(&server, "rdibari", None).await;
    wait_for_state(&server, "bugs", "rdibari", "online").await;
    drop(stream);
    wait_for_state(&server, "bugs", "rdibari", "away").await;
    laptop.ask(json!({"type": "presence", "state": "online"})).await;
    wait_for_state(&server, "bugs", "rdibari", "online").await;
    drop(laptop);
    wait_for_state(&server, "bugs", "rdibari", "away").await;
    drop(phone);
    wait_for_state(&server, "bugs", "rdibari", "offline").await;
});

both!(an_invalid_state_is_refused_like_other_invalid_frames, async |place| {
    let server = Server::start(place).await;
    let mut socket = Socket::of(&server, "rdibari").await;
    for (frame, field, code) in [
        (json!({"type": "presence", "state": "offline"}), "state", "unknown_state"),
        (json!({"type": "presence", "state": "asleep"}), "state", "unknown_state"),
        (json!({"type": "presence", "state": 1}), "state", "unknown_state"),
        (json!({"type": "presence"}), "state", "unknown_state"),
        (json!({"type": "presence", "state": "away", "until": 1}), "until", "unknown_field"),
    ] {
        let reply = socket.ask(frame.clone()).await;
        let body = &reply["body"];
        assert_eq!((&reply["status"], &body["code"]), (&json!(422), &json!("invalid_fields")), "{frame}: {reply}");
        assert_eq!((&body["errors"][0]["field"], &body["errors"][0]["code"]), (&json!(field), &json!(code)), "{reply}");
        // An error is answered even without `ref`.
        socket.say(frame).await;
        assert_eq!(socket.frame().await["status"], 422);
    }
    let mut nobody = Socket::open(&server, "/api/ws", &[]).await.unwrap();
    let reply = nobody.ask(json!({"type": "presence", "state": "away"})).await;
    assert_eq!((&reply["status"], &reply["body"]["code"]), (&json!(403), &json!("act_as_required")));
    wait_for_state(&server, "bugs", "rdibari", "online").await;
    assert_eq!(count(place, "presence").await, 1, "a caller that acts as no user has no presence");
});

both!(presence_that_is_hidden_looks_like_a_user_who_was_never_online, async |place| {
    let server = Server::start(place).await;
    server.add_user("elmer", "Elmer", "Fudd").await;
    let mut bugs = Socket::of(&server, "bugs").await;
    wait_for_state(&server, "rdibari", "bugs", "online").await;
    let never = get(&server, "duck", &target("elmer")).await;
    let comparable = |answer: &crate::support::server::Answer| {
        let mut headers: Vec<String> = answer.headers.keys().map(ToString::to_string).collect();
        headers.sort_unstable();
        (answer.status, headers, answer.bytes.clone())
    };
    assert_eq!(never.bytes, br#"{"state":"offline","last_seen_at":null}"#);
    let hidden = async |person: &str| {
        let answer = get(&server, person, &target("bugs")).await;
        assert_eq!(comparable(&answer), comparable(&never), "{person}");
    };
    // Presence is hidden from a user who shares nothing with bugs, and from one who has only sent a friend request.
    hidden("duck").await;
    put(&server, "duck", "/api/friends/bugs").await;
    hidden("duck").await;
    befriend(&server, "bugs", "duck").await;
    assert_eq!(presence_of(&server, "duck", "bugs").await["state"], "online");
    // A block in either direction hides presence, even if the two users are friends or share a group.
    let room = group(&server, "bugs", &["duck", "porky"], "all").await;
    assert_eq!(presence_of(&server, "porky", "bugs").await["state"], "online");
    for (one, other) in [("bugs", "duck"), ("duck", "bugs")] {
        let seen = presence_of(&server, "duck", "bugs").await["last_seen_at"].clone();
        put(&server, one, &format!("/api/blocks/{other}")).await;
        // The last-seen time does not disappear. To the blocked side it looks as if the user had gone offline and not come
        // back.
        let gone = presence_of(&server, "duck", "bugs").await;
        assert_eq!(gone["state"], "offline");
        assert!(seen.is_string() && gone["last_seen_at"].is_string(), "{seen} {gone}");
        // Other users see bugs go offline and come back. The blocked side does not.
        drop(bugs);
        wait_for_state(&server, "porky", "bugs", "offline").await;
        assert_eq!(presence_of(&server, "duck", "bugs").await, gone);
        // A second block changes nothing, and neither does the end of the first one.
        put(&server, other, &format!("/api/blocks/{one}")).await;
        delete(&server, one, &format!("/api/blocks/{other}")).await;
        assert_eq!(presence_of(&server, "duck", "bugs").await, gone);
        bugs = Socket::of(&server, "bugs").await;
        wait_for_state(&server, "porky", "bugs", "online").await;
        assert_eq!(presence_of(&server, "duck", "bugs").await, gone);
        delete(&server, other, &format!("/api/blocks/{one}")).await;
        assert_eq!(presence_of(&server, "duck", "bugs").await["state"], "online", "they share a group");
    }
    // If a user was offline when a block began, the blocked user sees the same last-seen time even after the user has come
    // back.
    drop(bugs);
    wait_for_state(&server, "porky", "bugs", "offline").await;
    let gone = presence_of(&server, "duck", "bugs").await;
    put(&server, "bugs", "/api/blocks/duck").await;
    let _bugs = Socket::of(&server, "bugs").await;
    wait_for_state(&server, "porky", "bugs", "online").await;
    assert_eq!(presence_of(&server, "duck", "bugs").await, gone);
    delete(&server, "bugs", "/api/blocks/duck").await;
    delete(&server, "duck", "/api/friends/bugs").await;
    // After leaving the group, duck shares nothing with bugs any more.
    assert_eq!(delete(&server, "duck", &format!("/api/conversations/{room}/members/me")).await.status, 204);
    hidden("duck").await;
    // A caller that acts as no user sees the presence of all users.
    assert_eq!(server.get(&target("bugs")).await.json()["state"], "online");
});

both!(a_group_of_more_than_a_hundred_does_not_show_presence, async |place| {
    let server = Server::start(place).await;
    let mut names = Vec::new();
    for number in 0..98 {
        names.push(format!("extra{number}"));
        server.add_user(&names[number], "Extra", "Extra").await;
    }
    let mut members: Vec<&str> = names.iter().map(String::as_str).collect();
    members.push("duck");
    let room = group(&server, "bugs", &members, "all").await;
    let _bugs = Socket::of(&server, "bugs").await;
    wait_for_state(&server, "duck", "bugs", "online").await;
    assert_eq!(put(&server, "bugs", &format!("/api/conversations/{room}/members/porky")).await.status, 201);
    assert_eq!(presence_of(&server, "duck", "bugs").await, json!({"state": "offline", "last_seen_at": null}));
    assert_eq!(delete(&server, "bugs", &format!("/api/conversations/{room}/members/porky")).await.status, 204);
    assert_eq!(presence_of(&server, "duck", "bugs").await["state"], "online");
});

both!(credentials_decide_who_is_online_and_who_sees_it, async |place| {
    let open = Server::start(place).await;
    let bugs = session(&open, "bugs").await;
    let server = Server::start_with(place, secured()).await;
    let (reads, writes) = (server.api_key(&["read"]).await, server.api_key(&["write"]).await);
    let bearer = format!("Bearer {bugs}");
    let _socket = Socket::open(&server, "/api/ws", &[("authorization", &bearer)]).await.unwrap();
    wait_for_state(&open, "rdibari", "bugs", "online").await;
    assert_eq!(Caller::new(&server, &reads).get(&target("bugs")).await.json()["state"], "online");
    assert_eq!(Caller::new(&server, &reads).acting_as("rdibari").get(&target("bugs")).await.json()["state"], "online");
    assert_eq!(Caller::new(&server, &reads).acting_as("duck").get(&target("bugs")).await.json()["state"], "offline");
    Caller::new(&server, &writes).get(&target("bugs")).await.problem(403, "insufficient_scope");
    server.get(&target("bugs")).await.problem(401, "unauthenticated");
});

both!(changes_are_delivered_to_users_who_may_see_them, async |place| {
    let server = Server::start(place).await;
    befriend(&server, "bugs", "duck").await;
    let mut duck = watch_presence(&server, "duck").await;
    let mut porky = watch_presence(&server, "porky").await;
    let mut rdibari = watch_presence(&server, "rdibari").await;
    // Duck sees porky's presence, because they share a conversation.
    assert_eq!(next_presence(&mut duck, "porky").await["data"]["state"], "online");
    tokio::time::sleep(LONG_ENOUGH).await;
    let before = place.numbers("SELECT last_position FROM messaging.event_log").await;
    let mut bugs = watch_presence(&server, "bugs").await;
    let event = next_presence(&mut duck, "bugs").await;
    assert_eq!((&event["type"], &event["cursor"]), (&json!("presence"), &Value::Null));
    assert_eq!(event["actor_user_name"], "bugs");
    assert_eq!((&event["data"]["user_name"], &event["data"]["state"]), (&json!("bugs"), &json!("online")));
    assert!(moment(event["data"]["last_seen_at"].as_str().unwrap()) <= moment(event["at"].as_str().unwrap()));
    assert_eq!(event.as_object().unwrap().len(), 5, "{event}");
    assert_eq!(next_presence(&mut rdibari, "bugs").await, event);
    // Neither the connection of a second device nor its end changes the presence.
    let second = Socket::of(&server, "bugs").await;
    tokio::time::sleep(LONG_ENOUGH).await;
    drop(second);
    tokio::time::sleep(LONG_ENOUGH * 3).await;
    assert!(duck.is_quiet().await);
    bugs.say(json!({"type": "presence", "state": "away"})).await;
    assert_eq!(next_presence(&mut duck, "bugs").await["data"]["state"], "away");
    // A short absence is not shown, and a device that comes back is online.
    drop(bugs);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let bugs = watch_presence(&server, "bugs").await;
    assert_eq!(next_presence(&mut duck, "bugs").await["data"]["state"], "online");
    drop(bugs);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut bugs = watch_presence(&server, "bugs").await;
    tokio::time::sleep(LONG_ENOUGH * 3).await;
    assert!(duck.is_quiet().await);
    // Users who share nothing with bugs get no event about bugs, bugs gets none about themself, and the event log holds none.
    while let Ok(frame) = tokio::time::timeout(Duration::from_millis(400), porky.frame()).await {
        assert_ne!(frame["event"]["data"]["user_name"], "bugs", "{frame}");
    }
    assert!(bugs.is_quiet().await);
    let other = Socket::of(&server, "bugs").await;
    drop(bugs);
    drop(other);
    let event = next_presence(&mut duck, "bugs").await;
    assert_eq!(event["data"]["state"], "offline");
    assert_eq!(presence_of(&server, "duck", "bugs").await["last_seen_at"], event["data"]["last_seen_at"]);
    assert_eq!(place.numbers("SELECT last_position FROM messaging.event_log").await, before);
});

both!(a_block_stops_the_delivery_of_changes, async |place| {
    let server = Server::start(place).await;
    let mut rdibari = watch_presence(&server, "rdibari").await;
    put(&server, "rdibari", "/api/blocks/bugs").await;
    let bugs = Socket::of(&server, "bugs").await;
    tokio::time::sleep(LONG_ENOUGH).await;
    assert!(rdibari.is_quiet().await);
    drop(bugs);
    delete(&server, "rdibari", "/api/blocks/bugs").await;
    assert_eq!(next_presence(&mut rdibari, "bugs").await["data"]["state"], "offline");
    put(&server, "bugs", "/api/blocks/rdibari").await;
    let _bugs = Socket::of(&server, "bugs").await;
    tokio::time::sleep(LONG_ENOUGH).await;
    assert!(rdibari.is_quiet().await);
});

both!(changes_are_delivered_to_the_online_ones_of_many_friends, async |place| {
    let server = Server::start(place).await;
    for number in 0..120 {
        server.add_user(&format!("friend{number}"), "A", "Friend").await;
    }
    let make = "INSERT INTO messaging.friendships (user_id, friend_id, state, at)
                SELECT b.id, f.id, 'friends', f.created_at FROM messaging.users b, messaging.users f
                 WHERE b.user_name = 'bugs' AND f.user_name LIKE 'friend%'";
    place.sql(make).await;
    let mut last = watch_presence(&server, "friend119").await;
    server.add_user("elmer", "Elmer", "Fudd").await;
    wait_for_state(&server, "friend119", "me", "online").await;
    let _bugs = Socket::of(&server, "bugs").await;
    assert_eq!(next_presence(&mut last, "bugs").await["data"]["state"], "online");
});

both!(the_presence_of_a_user_is_one_over_all_servers, async |place| {
    let one = Server::start_with(place, with_bus(place)).await;
    let other = Server::start_with(place, with_bus(place)).await;
    let mut rdibari = watch_presence(&one, "rdibari").await;
    let here = Socket::of(&one, "bugs").await;
    assert_eq!(next_presence(&mut rdibari, "bugs").await["data"]["state"], "online");
    assert_eq!(wait_for_state(&other, "rdibari", "bugs", "online").await["state"], "online");
    let mut there = Socket::of(&other, "bugs").await;
    there.ask(json!({"type": "presence", "state": "away"})).await;
    tokio::time::sleep(LONG_ENOUGH).await;
    assert!(rdibari.is_quiet().await, "still online on the other server");
    drop(here);
    // Only the server with the socket in the state `away` is left. It publishes the change.
    assert_eq!(next_presence(&mut rdibari, "bugs").await["data"]["state"], "away");
    for server in [&one, &other] {
        assert_eq!(wait_for_state(server, "rdibari", "bugs", "away").await["state"], "away");
    }
    let there_again = Socket::of(&one, "bugs").await;
    assert_eq!(next_presence(&mut rdibari, "bugs").await["data"]["state"], "online");
    drop(there);
    tokio::time::sleep(LONG_ENOUGH * 3).await;
    assert!(rdibari.is_quiet().await, "the remaining socket is online");
    drop(there_again);
    assert_eq!(next_presence(&mut rdibari, "bugs").await["data"]["state"], "offline");
    assert!(rdibari.is_quiet().await, "once");
});

/// Runs on PostgreSQL only, where the bus carries the ephemeral events of other servers.
#[test]
fn a_change_at_another_server_is_delivered() {
    run(Kind::Postgres, async |place| {
        let one = Server::start_with(place, with_bus(place)).await;
        let other = Server::start_with(place, with_bus(place)).await;
        let mut rdibari = watch_presence(&one, "rdibari").await;
        // Waits until the servers have connected to the bus.
        tokio::time::sleep(LONG_ENOUGH).await;
        let bugs = Socket::of(&other, "bugs").await;
        assert_eq!(next_presence(&mut rdibari, "bugs").await["data"]["state"], "online");
        drop(bugs);
        assert_eq!(next_presence(&mut rdibari, "bugs").await["data"]["state"], "offline");
        assert!(rdibari.is_quiet().await);
    });
}

both!(users_of_a_killed_server_are_offline, async |place| {
    let server = Server::start(place).await;
    let mut rdibari = watch_presence(&server, "rdibari").await;
    wait_for_state(&server, "bugs", "rdibari", "online").await;
    // Inserts another server with one online user. It wrote as recently as the running server.
    let ids = place.numbers("SELECT id FROM messaging.users WHERE user_name = 'bugs'").await;
    let seen_at = "(SELECT max(seen_at) FROM messaging.presence_servers)";
    place
        .sql(&format!(
            "INSERT INTO messaging.presence_servers (server, seen_at, stopped) SELECT 'killed', {seen_at}, FALSE;
             INSERT INTO messaging.presence (user_id, server, state) SELECT id, 'killed', 'online'
               FROM messaging.users WHERE id = {id};
             INSERT INTO messaging.last_seen (user_id, state, at) SELECT {id}, 'online', {seen_at}",
            id = ids[0][0]
        ))
        .await;
    assert_eq!(presence_of(&server, "rdibari", "bugs").await["state"], "online");
    assert!(rdibari.is_quiet().await);
    let old = match place.kind {
        Kind::Sqlite => "seen_at - 120000000",
        Kind::Postgres => "seen_at - interval '120 seconds'",
    };
    place.sql(&format!("UPDATE messaging.presence_servers SET seen_at = {old} WHERE server = 'killed'")).await;
    // The user is offline immediately, before the rows of the killed server are removed.
    assert_eq!(presence_of(&server, "rdibari", "bugs").await["state"], "offline");
    assert_eq!(next_presence(&mut rdibari, "bugs").await["data"]["state"], "offline");
    let started = Instant::now();
    while count(place, "presence_servers").await > 1 {
        assert!(started.elapsed() < PATIENCE, "the rows of the killed server are not removed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(count(place, "presence").await, 1);
    assert!(presence_of(&server, "rdibari", "bugs").await["last_seen_at"].is_string(), "the last-seen time stays");
    assert!(rdibari.is_quiet().await, "once");
});

both!(a_running_server_keeps_its_users_online, async |place| {
    let server = Server::start(place).await;
    let _bugs = Socket::of(&server, "bugs").await;
    let before = wait_for_state(&server, "rdibari", "bugs", "online").await;
    let name = "UPDATE messaging.presence SET server = 'one'; UPDATE messaging.presence_servers SET server = 'one'";
    place.sql(name).await;
    // The server does this every 30 seconds for all its online users.
    assert!(presence::refresh(&server.app, "one").await.unwrap());
    let after = presence_of(&server, "rdibari", "bugs").await;
    assert_eq!(after["state"], "online");
    let time = |seen: &Value| moment(seen["last_seen_at"].as_str().unwrap());
    assert!(time(&after) > time(&before), "{before} {after}");
    presence::stop(&server.app, "one").await.unwrap();
    assert_eq!(presence_of(&server, "rdibari", "bugs").await["state"], "offline");
    // A server cannot refresh users under a name that was removed or is unknown.
    assert!(!presence::refresh(&server.app, "one").await.unwrap());
    assert!(!presence::refresh(&server.app, "another").await.unwrap());
});

both!(a_server_whose_rows_were_removed_writes_under_another_name, async |place| {
    let server = Server::start(place).await;
    let _bugs = Socket::of(&server, "bugs").await;
    wait_for_state(&server, "rdibari", "bugs", "online").await;
    age_servers(place).await;
    assert_eq!(presence_of(&server, "rdibari", "bugs").await["state"], "offline");
    let other = Server::start(place).await;
    let started = Instant::now();
    while count(place, "presence_servers").await > 0 {
        assert!(started.elapsed() < PATIENCE, "the server's rows are not removed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // With its next write the server writes all its online users again.
    let _duck = Socket::of(&server, "duck").await;
    wait_for_state(&other, "rdibari", "bugs", "online").await;
    wait_for_state(&other, "porky", "duck", "online").await;
});

both!(a_server_that_stops_leaves_no_user_online, async |place| {
    let one = Server::start_with(place, with_bus(place)).await;
    let other = Server::start_with(place, with_bus(place)).await;
    let mut rdibari = watch_presence(&other, "rdibari").await;
    let bugs = Socket::of(&one, "bugs").await;
    let porky = Socket::of(&one, "porky").await;
    wait_for_state(&other, "rdibari", "bugs", "online").await;
    wait_for_state(&other, "duck", "porky", "online").await;
    let mut duck = watch_presence(&other, "duck").await;
    wait_for_state(&other, "porky", "duck", "online").await;
    tokio::time::sleep(LONG_ENOUGH).await;
    // Bugs connects to the other server soon, so nobody sees bugs offline. Porky is offline immediately.
    let ((), _back) = tokio::join!(one.stop(), Socket::of(&other, "bugs"));
    drop((bugs, porky));
    assert_eq!(presence_of(&other, "duck", "porky").await["state"], "offline");
    assert_eq!(next_presence(&mut duck, "porky").await["data"]["state"], "offline");
    tokio::time::sleep(LONG_ENOUGH).await;
    rdibari.presence = true;
    let mut states = Vec::new();
    while let Ok(frame) = tokio::time::timeout(Duration::from_millis(400), rdibari.frame()).await {
        states.push(frame["event"]["data"]["state"].clone());
    }
    assert!(!states.contains(&json!("offline")), "{states:?}");
    assert_eq!(presence_of(&other, "rdibari", "bugs").await["state"], "online");
});

both!(a_server_without_online_users_writes_nothing, async |place| {
    let server = Server::start(place).await;
    assert_eq!(server.get("/api/users").await.status, 200);
    let mut nobody = Socket::open(&server, "/api/ws", &[]).await.unwrap();
    tokio::time::sleep(LONG_ENOUGH * 3).await;
    assert!(nobody.is_quiet().await);
    server.stop().await;
    for table in ["presence_servers", "presence", "last_seen"] {
        assert_eq!(count(place, table).await, 0, "{table}");
    }
});

both!(many_users_who_come_together_are_stored_in_batches, async |place| {
    const MANY: usize = 600;
    let server = Server::start(place).await;
    for number in 0..MANY {
        server.add_user(&format!("many{number}"), "One", "Ofmany").await;
    }
    let committed = Instant::now();
    let sockets = futures_util::future::join_all((0..MANY).map(|number| {
        let server = &server;
        async move { Socket::of(server, &format!("many{number}")).await }
    }))
    .await;
    while count(place, "presence").await < MANY as i64 {
        assert!(committed.elapsed() < PATIENCE, "not all users are stored");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // All users who are stored in one batch have the same time.
    let batches = place.numbers("SELECT count(DISTINCT at) FROM messaging.last_seen").await[0][0];
    let most = committed.elapsed().as_millis() as i64 / 300 + MANY as i64 / 500 + 1;
    assert!(batches <= most, "{batches} batches, and {most} at most");
    drop(sockets);
    let started = Instant::now();
    while count(place, "presence").await > 0 {
        assert!(started.elapsed() < PATIENCE, "not all users are offline");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
});

both!(an_erased_user_leaves_no_presence_and_an_export_shows_it, async |place| {
    let server = Server::start(place).await;
    let _socket = Socket::of(&server, "bugs").await;
    let seen = wait_for_state(&server, "rdibari", "bugs", "online").await;
    let exported = get(&server, "bugs", "/api/users/me/export").await;
    let lines = String::from_utf8(exported.bytes).unwrap();
    let account = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let account = account.into_iter().find(|line| line["type"] == "account").unwrap();
    assert!(account["data"]["last_seen_at"].as_str().unwrap() >= seen["last_seen_at"].as_str().unwrap(), "{account}");
    let modified = get(&server, "rdibari", "/api/users/bugs").await;
    assert_eq!(
        answer_of(server.request(Method::DELETE, "/api/users/bugs").header("x-act-as", "bugs")).await.status,
        204
    );
    assert_eq!(
        modified.json()["modified_at"],
        modified.json()["created_at"],
        "presence does not change a user's modified_at"
    );
    for _ in 0..2 {
        assert_eq!((count(place, "presence").await, count(place, "last_seen").await), (0, 0));
        // The socket of the erased user ends soon after the erasure. Its end must store nothing about the user.
        tokio::time::sleep(LONG_ENOUGH * 3).await;
    }
    get(&server, "rdibari", &target("bugs")).await.problem(404, "user_not_found");
});
