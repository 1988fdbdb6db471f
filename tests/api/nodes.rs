//! Several servers on one database: what happens on one is told on every other, and done once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use posthaste::domain::scheduled;
use serde_json::{Value, json};

use crate::both;
use crate::support::Server;
use crate::support::people::{get, post};
use crate::support::watch::Socket;

both!(what_happens_on_one_server_is_told_on_the_other, async |place| {
    let (here, there) = (Server::start(place).await, Server::start(place).await);
    let mut duck = Socket::of(&there, "duck").await;
    for _ in 0..3 {
        let sent = here.send("bugs", "duck", "from over there").await;
        let since = Instant::now();
        while duck.event_of("message.created").await["data"]["id"] != sent["id"] {}
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    }
});

both!(a_reader_that_changes_servers_misses_nothing, async |place| {
    let servers = [Server::start(place).await, Server::start(place).await];
    let mut cursor = get(&servers[0], "duck", "/api/events").await.json()["cursor"].as_str().unwrap().to_owned();
    let writing = async {
        let mut sent = Vec::new();
        for round in 0..150 {
            let told = servers[round % 2].send("bugs", "duck", "x").await;
            sent.push(told["id"].as_i64().unwrap());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sent
    };
    let reading = async {
        let mut ids = Vec::new();
        for round in 0_usize.. {
            let mut socket = Socket::behind(&servers[round % 2], "duck", &cursor).await;
            for _ in 0..round % 4 {
                let event = socket.event().await;
                cursor = event["cursor"].as_str().unwrap().to_owned();
                if event["type"] == "message.created" {
                    ids.push(event["data"]["id"].as_i64().unwrap());
                }
            }
            if ids.len() >= 150 {
                return ids;
            }
        }
        unreachable!("it goes on until it has them all")
    };
    // One more for whoever waits in the middle of a round.
    let (sent, told) = tokio::join!(writing, async {
        let reading = tokio::time::timeout(Duration::from_secs(60), reading);
        reading.await.expect("every message in time")
    });
    assert_eq!(told.iter().copied().collect::<BTreeSet<i64>>().len(), told.len(), "told twice");
    assert_eq!(told, sent);
});

both!(what_is_due_leaves_one_of_two_servers_once, async |place| {
    let (here, there) = (Server::start(place).await, Server::start(place).await);
    let soon = here.app.clock.now().plus_micros(1_500_000);
    let send_at = serde_json::to_value(soon).unwrap();
    for number in 0..40 {
        let new = json!({"recipient_user_name": "duck", "body": format!("later {number}"), "send_at": send_at});
        assert_eq!(post(&here, "bugs", "/api/messages", new).await.status, 202);
    }
    let workers = [&here, &there].map(|server| tokio::spawn(scheduled::run(std::sync::Arc::clone(&server.app))));
    let deadline = Instant::now() + Duration::from_secs(20);
    let waiting = async || get(&here, "bugs", "/api/scheduled").await.json().as_array().unwrap().len();
    while waiting().await > 0 {
        assert!(Instant::now() < deadline, "some never left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    workers.iter().for_each(tokio::task::JoinHandle::abort);
    let arrived = there.all("/api/messages/duck?limit=200").await;
    let bodies: Vec<&Value> = arrived
        .iter()
        .map(|message| &message["body"])
        .filter(|body| body.as_str().unwrap().starts_with("later"))
        .collect();
    let distinct: BTreeSet<&str> = bodies.iter().filter_map(|body| body.as_str()).collect();
    assert_eq!((bodies.len(), distinct.len()), (40, 40));
});
