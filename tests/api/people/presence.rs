//! Who is there: `GET /api/users/{user_name}/presence`, and the events that tell of it.

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

/// How long a change may take to be written down, an absence included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than it takes to write something down.
const A_WHILE: Duration = Duration::from_millis(1_200);

fn target(person: &str) -> String {
    format!("/api/users/{person}/presence")
}

async fn of(server: &Server, asking: &str, person: &str) -> Value {
    let answer = get(server, asking, &target(person)).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json()
}

/// Waits until somebody is seen in a state.
async fn until(server: &Server, asking: &str, person: &str, state: &str) -> Value {
    let started = Instant::now();
    loop {
        let seen = of(server, asking, person).await;
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

/// A socket of somebody who wants to know who comes and goes.
async fn watcher(server: &Server, person: &str) -> Socket {
    let mut socket = Socket::of(server, person).await;
    socket.presence = true;
    socket
}

/// The next event of presence that is of a person.
async fn told(socket: &mut Socket, person: &str) -> Value {
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

/// Makes every server one that was not seen for two minutes, as one that was killed.
async fn age(place: &Place) {
    let sql = match place.kind {
        Kind::Sqlite => "UPDATE messaging.presence_servers SET seen_at = seen_at - 120000000",
        Kind::Postgres => "UPDATE messaging.presence_servers SET seen_at = seen_at - interval '120 seconds'",
    };
    place.sql(sql).await;
}

fn by_bus(place: &Place) -> Options {
    let bus = match place.kind {
        Kind::Sqlite => BusSettings::Local,
        Kind::Postgres => BusSettings::Postgres { listen_url: place.postgres_url() },
    };
    Options { bus, ..Options::default() }
}

both!(people_are_there_while_a_stream_of_theirs_is_open, async |place| {
    let server = Server::start(place).await;
    let never = of(&server, "bugs", "rdibari").await;
    assert_eq!(never, json!({"state": "offline", "last_seen_at": null}));
    // A request alone is no stream.
    assert_eq!(of(&server, "rdibari", "me").await, never);
    let phone = Socket::of(&server, "rdibari").await;
    let there = until(&server, "bugs", "rdibari", "online").await;
    assert_eq!(of(&server, "rdibari", "me").await["state"], "online");
    let tablet = Stream::open(&server, "rdibari", None).await;
    drop(phone);
    tokio::time::sleep(A_WHILE * 3).await;
    assert_eq!(of(&server, "bugs", "rdibari").await["state"], "online", "the stream is open");
    let before = server.app.clock.now().micros();
    drop(tablet);
    let gone = until(&server, "bugs", "rdibari", "offline").await;
    let at = moment(gone["last_seen_at"].as_str().unwrap());
    assert!(at >= before && at <= server.app.clock.now().micros(), "{gone}");
    assert!(at > moment(there["last_seen_at"].as_str().unwrap()));
    assert_eq!(of(&server, "bugs", "rdibari").await, gone, "it stays");
    // The name's case does not matter, a wrong one is nobody's.
    assert_eq!(of(&server, "bugs", "RDiBari").await, gone);
    get(&server, "bugs", &target("nobody")).await.problem(404, "user_not_found");
    get(&server, "bugs", &format!("{}?x=1", target("rdibari"))).await.invalid(&["x"]);
    server.get(&target("me")).await.problem(403, "act_as_required");
    server.stop().await;
});

both!(somebody_is_away_when_all_their_sockets_say_so, async |place| {
    let server = Server::start(place).await;
    let mut phone = Socket::of(&server, "rdibari").await;
    let mut laptop = Socket::of(&server, "rdibari").await;
    until(&server, "bugs", "rdibari", "online").await;
    let away = json!({"type": "presence", "state": "away"});
    let reply = phone.ask(away.clone()).await;
    assert_eq!((&reply["status"], &reply["body"]), (&json!(204), &Value::Null));
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(of(&server, "bugs", "rdibari").await["state"], "online", "one of two");
    // Without a ref it is not answered.
    laptop.say(away.clone()).await;
    let seen = until(&server, "bugs", "rdibari", "away").await;
    assert!(seen["last_seen_at"].is_string());
    assert!(laptop.is_quiet().await);
    // A stream of server-sent events cannot say it, and counts as online.
    let stream = Stream::open(&server, "rdibari", None).await;
    until(&server, "bugs", "rdibari", "online").await;
    drop(stream);
    until(&server, "bugs", "rdibari", "away").await;
    laptop.ask(json!({"type": "presence", "state": "online"})).await;
    until(&server, "bugs", "rdibari", "online").await;
    drop(laptop);
    until(&server, "bugs", "rdibari", "away").await;
    drop(phone);
    until(&server, "bugs", "rdibari", "offline").await;
});

both!(a_wrong_state_is_refused_like_other_wrong_frames, async |place| {
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
        // Also without a ref.
        socket.say(frame).await;
        assert_eq!(socket.frame().await["status"], 422);
    }
    let mut nobody = Socket::open(&server, "/api/ws", &[]).await.unwrap();
    let reply = nobody.ask(json!({"type": "presence", "state": "away"})).await;
    assert_eq!((&reply["status"], &reply["body"]["code"]), (&json!(403), &json!("act_as_required")));
    until(&server, "bugs", "rdibari", "online").await;
    assert_eq!(count(place, "presence").await, 1, "whoever stands for nobody is nobody");
});

both!(who_may_not_see_it_gets_the_answer_for_somebody_never_there, async |place| {
    let server = Server::start(place).await;
    server.add_user("elmer", "Elmer", "Fudd").await;
    let mut bugs = Socket::of(&server, "bugs").await;
    until(&server, "rdibari", "bugs", "online").await;
    let never = get(&server, "duck", &target("elmer")).await;
    let face = |answer: &crate::support::server::Answer| {
        let mut headers: Vec<String> = answer.headers.keys().map(ToString::to_string).collect();
        headers.sort_unstable();
        (answer.status, headers, answer.bytes.clone())
    };
    assert_eq!(never.bytes, br#"{"state":"offline","last_seen_at":null}"#);
    let hidden = async |person: &str| {
        let answer = get(&server, person, &target("bugs")).await;
        assert_eq!(face(&answer), face(&never), "{person}");
    };
    // Strangers, and who only asked.
    hidden("duck").await;
    put(&server, "duck", "/api/friends/bugs").await;
    hidden("duck").await;
    befriend(&server, "bugs", "duck").await;
    assert_eq!(of(&server, "duck", "bugs").await["state"], "online");
    // A block in either direction, whatever they share.
    let room = group(&server, "bugs", &["duck", "porky"], "all").await;
    assert_eq!(of(&server, "porky", "bugs").await["state"], "online");
    for (one, other) in [("bugs", "duck"), ("duck", "bugs")] {
        let seen = of(&server, "duck", "bugs").await["last_seen_at"].clone();
        put(&server, one, &format!("/api/blocks/{other}")).await;
        // What was seen before does not vanish: it is as if they had gone, and did not come back.
        let gone = of(&server, "duck", "bugs").await;
        assert_eq!(gone["state"], "offline");
        assert!(seen.is_string() && gone["last_seen_at"].is_string(), "{seen} {gone}");
        // Others see them go and come; whoever is kept out does not.
        drop(bugs);
        until(&server, "porky", "bugs", "offline").await;
        assert_eq!(of(&server, "duck", "bugs").await, gone);
        // Nor a second block, nor the end of the first of them.
        put(&server, other, &format!("/api/blocks/{one}")).await;
        delete(&server, one, &format!("/api/blocks/{other}")).await;
        assert_eq!(of(&server, "duck", "bugs").await, gone);
        bugs = Socket::of(&server, "bugs").await;
        until(&server, "porky", "bugs", "online").await;
        assert_eq!(of(&server, "duck", "bugs").await, gone);
        delete(&server, other, &format!("/api/blocks/{one}")).await;
        assert_eq!(of(&server, "duck", "bugs").await["state"], "online", "they share a group");
    }
    // Whoever was gone when they were blocked was last there before that, also once they are back.
    drop(bugs);
    until(&server, "porky", "bugs", "offline").await;
    let gone = of(&server, "duck", "bugs").await;
    put(&server, "bugs", "/api/blocks/duck").await;
    let _bugs = Socket::of(&server, "bugs").await;
    until(&server, "porky", "bugs", "online").await;
    assert_eq!(of(&server, "duck", "bugs").await, gone);
    delete(&server, "bugs", "/api/blocks/duck").await;
    delete(&server, "duck", "/api/friends/bugs").await;
    // Who left the group is a stranger again.
    assert_eq!(delete(&server, "duck", &format!("/api/conversations/{room}/members/me")).await.status, 204);
    hidden("duck").await;
    // Those who stand for nobody see everybody.
    assert_eq!(server.get(&target("bugs")).await.json()["state"], "online");
});

both!(a_group_of_more_than_a_hundred_shows_nobody, async |place| {
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
    until(&server, "duck", "bugs", "online").await;
    assert_eq!(put(&server, "bugs", &format!("/api/conversations/{room}/members/porky")).await.status, 201);
    assert_eq!(of(&server, "duck", "bugs").await, json!({"state": "offline", "last_seen_at": null}));
    assert_eq!(delete(&server, "bugs", &format!("/api/conversations/{room}/members/porky")).await.status, 204);
    assert_eq!(of(&server, "duck", "bugs").await["state"], "online");
});

both!(credentials_decide_who_is_there_and_who_sees_it, async |place| {
    let open = Server::start(place).await;
    let bugs = session(&open, "bugs").await;
    let server = Server::start_with(place, secured()).await;
    let (reads, writes) = (server.api_key(&["read"]).await, server.api_key(&["write"]).await);
    let bearer = format!("Bearer {bugs}");
    let _socket = Socket::open(&server, "/api/ws", &[("authorization", &bearer)]).await.unwrap();
    until(&open, "rdibari", "bugs", "online").await;
    assert_eq!(Caller::new(&server, &reads).get(&target("bugs")).await.json()["state"], "online");
    assert_eq!(Caller::new(&server, &reads).acting_as("rdibari").get(&target("bugs")).await.json()["state"], "online");
    assert_eq!(Caller::new(&server, &reads).acting_as("duck").get(&target("bugs")).await.json()["state"], "offline");
    Caller::new(&server, &writes).get(&target("bugs")).await.problem(403, "insufficient_scope");
    server.get(&target("bugs")).await.problem(401, "unauthenticated");
});

both!(changes_are_told_to_those_who_may_see_them, async |place| {
    let server = Server::start(place).await;
    befriend(&server, "bugs", "duck").await;
    let mut duck = watcher(&server, "duck").await;
    let mut porky = watcher(&server, "porky").await;
    let mut rdibari = watcher(&server, "rdibari").await;
    // They share a conversation.
    assert_eq!(told(&mut duck, "porky").await["data"]["state"], "online");
    tokio::time::sleep(A_WHILE).await;
    let before = place.numbers("SELECT last_position FROM messaging.event_log").await;
    let mut bugs = watcher(&server, "bugs").await;
    let event = told(&mut duck, "bugs").await;
    assert_eq!((&event["type"], &event["cursor"]), (&json!("presence"), &Value::Null));
    assert_eq!(event["actor_user_name"], "bugs");
    assert_eq!((&event["data"]["user_name"], &event["data"]["state"]), (&json!("bugs"), &json!("online")));
    assert!(moment(event["data"]["last_seen_at"].as_str().unwrap()) <= moment(event["at"].as_str().unwrap()));
    assert_eq!(event.as_object().unwrap().len(), 5, "{event}");
    assert_eq!(told(&mut rdibari, "bugs").await, event);
    // A second device, and its end, change nothing.
    let second = Socket::of(&server, "bugs").await;
    tokio::time::sleep(A_WHILE).await;
    drop(second);
    tokio::time::sleep(A_WHILE * 3).await;
    assert!(duck.is_quiet().await);
    bugs.say(json!({"type": "presence", "state": "away"})).await;
    assert_eq!(told(&mut duck, "bugs").await["data"]["state"], "away");
    // A short absence is none, and a device that comes back is online.
    drop(bugs);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let bugs = watcher(&server, "bugs").await;
    assert_eq!(told(&mut duck, "bugs").await["data"]["state"], "online");
    drop(bugs);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut bugs = watcher(&server, "bugs").await;
    tokio::time::sleep(A_WHILE * 3).await;
    assert!(duck.is_quiet().await);
    // Nothing to strangers, nothing to oneself, nothing in the log.
    while let Ok(frame) = tokio::time::timeout(Duration::from_millis(400), porky.frame()).await {
        assert_ne!(frame["event"]["data"]["user_name"], "bugs", "{frame}");
    }
    assert!(bugs.is_quiet().await);
    let other = Socket::of(&server, "bugs").await;
    drop(bugs);
    drop(other);
    let event = told(&mut duck, "bugs").await;
    assert_eq!(event["data"]["state"], "offline");
    assert_eq!(of(&server, "duck", "bugs").await["last_seen_at"], event["data"]["last_seen_at"]);
    assert_eq!(place.numbers("SELECT last_position FROM messaging.event_log").await, before);
});

both!(a_block_keeps_changes_back, async |place| {
    let server = Server::start(place).await;
    let mut rdibari = watcher(&server, "rdibari").await;
    put(&server, "rdibari", "/api/blocks/bugs").await;
    let bugs = Socket::of(&server, "bugs").await;
    tokio::time::sleep(A_WHILE).await;
    assert!(rdibari.is_quiet().await);
    drop(bugs);
    delete(&server, "rdibari", "/api/blocks/bugs").await;
    assert_eq!(told(&mut rdibari, "bugs").await["data"]["state"], "offline");
    put(&server, "bugs", "/api/blocks/rdibari").await;
    let _bugs = Socket::of(&server, "bugs").await;
    tokio::time::sleep(A_WHILE).await;
    assert!(rdibari.is_quiet().await);
});

both!(of_many_friends_those_who_are_there_are_told, async |place| {
    let server = Server::start(place).await;
    for number in 0..120 {
        server.add_user(&format!("friend{number}"), "A", "Friend").await;
    }
    let make = "INSERT INTO messaging.friendships (user_id, friend_id, state, at)
                SELECT b.id, f.id, 'friends', f.created_at FROM messaging.users b, messaging.users f
                 WHERE b.user_name = 'bugs' AND f.user_name LIKE 'friend%'";
    place.sql(make).await;
    let mut last = watcher(&server, "friend119").await;
    server.add_user("elmer", "Elmer", "Fudd").await;
    until(&server, "friend119", "me", "online").await;
    let _bugs = Socket::of(&server, "bugs").await;
    assert_eq!(told(&mut last, "bugs").await["data"]["state"], "online");
});

both!(a_person_is_one_over_all_servers, async |place| {
    let one = Server::start_with(place, by_bus(place)).await;
    let other = Server::start_with(place, by_bus(place)).await;
    let mut rdibari = watcher(&one, "rdibari").await;
    let here = Socket::of(&one, "bugs").await;
    assert_eq!(told(&mut rdibari, "bugs").await["data"]["state"], "online");
    assert_eq!(until(&other, "rdibari", "bugs", "online").await["state"], "online");
    let mut there = Socket::of(&other, "bugs").await;
    there.ask(json!({"type": "presence", "state": "away"})).await;
    tokio::time::sleep(A_WHILE).await;
    assert!(rdibari.is_quiet().await, "online at one of them");
    drop(here);
    // Away is what is left, and the server that is left tells it.
    assert_eq!(told(&mut rdibari, "bugs").await["data"]["state"], "away");
    for server in [&one, &other] {
        assert_eq!(until(server, "rdibari", "bugs", "away").await["state"], "away");
    }
    let there_again = Socket::of(&one, "bugs").await;
    assert_eq!(told(&mut rdibari, "bugs").await["data"]["state"], "online");
    drop(there);
    tokio::time::sleep(A_WHILE * 3).await;
    assert!(rdibari.is_quiet().await, "what is left is online");
    drop(there_again);
    assert_eq!(told(&mut rdibari, "bugs").await["data"]["state"], "offline");
    assert!(rdibari.is_quiet().await, "once");
});

/// On PostgreSQL, where the bus passes on what another server tells.
#[test]
fn a_change_at_another_server_is_told() {
    run(Kind::Postgres, async |place| {
        let one = Server::start_with(place, by_bus(place)).await;
        let other = Server::start_with(place, by_bus(place)).await;
        let mut rdibari = watcher(&one, "rdibari").await;
        // Until the servers listen to each other.
        tokio::time::sleep(A_WHILE).await;
        let bugs = Socket::of(&other, "bugs").await;
        assert_eq!(told(&mut rdibari, "bugs").await["data"]["state"], "online");
        drop(bugs);
        assert_eq!(told(&mut rdibari, "bugs").await["data"]["state"], "offline");
        assert!(rdibari.is_quiet().await);
    });
}

both!(who_was_at_a_server_that_was_killed_is_offline, async |place| {
    let server = Server::start(place).await;
    let mut rdibari = watcher(&server, "rdibari").await;
    until(&server, "bugs", "rdibari", "online").await;
    // A server beside it with two people, which is then not heard of for two minutes.
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
    assert_eq!(of(&server, "rdibari", "bugs").await["state"], "online");
    assert!(rdibari.is_quiet().await);
    let old = match place.kind {
        Kind::Sqlite => "seen_at - 120000000",
        Kind::Postgres => "seen_at - interval '120 seconds'",
    };
    place.sql(&format!("UPDATE messaging.presence_servers SET seen_at = {old} WHERE server = 'killed'")).await;
    // At once, and before it is removed.
    assert_eq!(of(&server, "rdibari", "bugs").await["state"], "offline");
    assert_eq!(told(&mut rdibari, "bugs").await["data"]["state"], "offline");
    let started = Instant::now();
    while count(place, "presence_servers").await > 1 {
        assert!(started.elapsed() < PATIENCE, "it is not removed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(count(place, "presence").await, 1);
    assert!(of(&server, "rdibari", "bugs").await["last_seen_at"].is_string(), "when they were seen last stays");
    assert!(rdibari.is_quiet().await, "once");
});

both!(a_server_says_that_it_is_still_there, async |place| {
    let server = Server::start(place).await;
    let _bugs = Socket::of(&server, "bugs").await;
    let before = until(&server, "rdibari", "bugs", "online").await;
    let name = "UPDATE messaging.presence SET server = 'one'; UPDATE messaging.presence_servers SET server = 'one'";
    place.sql(name).await;
    // What it does every 30 seconds, for all who are there.
    assert!(presence::refresh(&server.app, "one").await.unwrap());
    let after = of(&server, "rdibari", "bugs").await;
    assert_eq!(after["state"], "online");
    let time = |seen: &Value| moment(seen["last_seen_at"].as_str().unwrap());
    assert!(time(&after) > time(&before), "{before} {after}");
    presence::stop(&server.app, "one").await.unwrap();
    assert_eq!(of(&server, "rdibari", "bugs").await["state"], "offline");
    // Nobody comes back under a name that was given up, or is not known.
    assert!(!presence::refresh(&server.app, "one").await.unwrap());
    assert!(!presence::refresh(&server.app, "another").await.unwrap());
});

both!(a_server_that_was_given_up_comes_back_under_another_name, async |place| {
    let server = Server::start(place).await;
    let _bugs = Socket::of(&server, "bugs").await;
    until(&server, "rdibari", "bugs", "online").await;
    age(place).await;
    assert_eq!(of(&server, "rdibari", "bugs").await["state"], "offline");
    let other = Server::start(place).await;
    let started = Instant::now();
    while count(place, "presence_servers").await > 0 {
        assert!(started.elapsed() < PATIENCE, "it is not given up");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // As soon as it has something to write it writes everything.
    let _duck = Socket::of(&server, "duck").await;
    until(&other, "rdibari", "bugs", "online").await;
    until(&other, "porky", "duck", "online").await;
});

both!(a_server_that_stops_leaves_nobody_behind, async |place| {
    let one = Server::start_with(place, by_bus(place)).await;
    let other = Server::start_with(place, by_bus(place)).await;
    let mut rdibari = watcher(&other, "rdibari").await;
    let bugs = Socket::of(&one, "bugs").await;
    let porky = Socket::of(&one, "porky").await;
    until(&other, "rdibari", "bugs", "online").await;
    until(&other, "duck", "porky", "online").await;
    let mut duck = watcher(&other, "duck").await;
    until(&other, "porky", "duck", "online").await;
    tokio::time::sleep(A_WHILE).await;
    // Bugs comes back soon at the other one, and so was never gone; it is at once that nobody is at the first.
    let ((), _back) = tokio::join!(one.stop(), Socket::of(&other, "bugs"));
    drop((bugs, porky));
    assert_eq!(of(&other, "duck", "porky").await["state"], "offline");
    assert_eq!(told(&mut duck, "porky").await["data"]["state"], "offline");
    tokio::time::sleep(A_WHILE).await;
    rdibari.presence = true;
    let mut states = Vec::new();
    while let Ok(frame) = tokio::time::timeout(Duration::from_millis(400), rdibari.frame()).await {
        states.push(frame["event"]["data"]["state"].clone());
    }
    assert!(!states.contains(&json!("offline")), "{states:?}");
    assert_eq!(of(&other, "rdibari", "bugs").await["state"], "online");
});

both!(a_server_where_nobody_is_writes_nothing, async |place| {
    let server = Server::start(place).await;
    assert_eq!(server.get("/api/users").await.status, 200);
    let mut nobody = Socket::open(&server, "/api/ws", &[]).await.unwrap();
    tokio::time::sleep(A_WHILE * 3).await;
    assert!(nobody.is_quiet().await);
    server.stop().await;
    for table in ["presence_servers", "presence", "last_seen"] {
        assert_eq!(count(place, table).await, 0, "{table}");
    }
});

both!(many_who_come_at_once_are_written_down_together, async |place| {
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
        assert!(committed.elapsed() < PATIENCE, "not all are written down");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Whoever is written down in one batch has one time.
    let batches = place.numbers("SELECT count(DISTINCT at) FROM messaging.last_seen").await[0][0];
    let most = committed.elapsed().as_millis() as i64 / 300 + MANY as i64 / 500 + 1;
    assert!(batches <= most, "{batches} batches, and {most} at most");
    drop(sockets);
    let started = Instant::now();
    while count(place, "presence").await > 0 {
        assert!(started.elapsed() < PATIENCE, "not all are gone");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
});

both!(an_erased_person_leaves_nothing_and_an_export_says_when_they_were_there, async |place| {
    let server = Server::start(place).await;
    let _socket = Socket::of(&server, "bugs").await;
    let seen = until(&server, "rdibari", "bugs", "online").await;
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
    assert_eq!(modified.json()["modified_at"], modified.json()["created_at"], "being there changes nobody");
    for _ in 0..2 {
        assert_eq!((count(place, "presence").await, count(place, "last_seen").await), (0, 0));
        // The socket ends soon, and what is written down then is not of somebody erased.
        tokio::time::sleep(A_WHILE * 3).await;
    }
    get(&server, "rdibari", &target("bugs")).await.problem(404, "user_not_found");
});
