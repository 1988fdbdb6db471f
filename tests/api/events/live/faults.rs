//! Faults that must not make a reader miss an event or get one twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use posthaste::base::time::Clock;
use posthaste::domain::operations::housekeeping;
use posthaste::http::state::Timeouts;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::{now, poll};
use crate::both;
use crate::support::callers::moment;
use crate::support::people::get;
use crate::support::place::Kind;
use crate::support::watch::{Follower, Socket};
use crate::support::{Options, Place, Server};

/// The ids of the messages that a reader received, in the order of delivery.
#[derive(Default)]
pub struct Received {
    pub ids: Vec<i64>,
    pub cursor: String,
}

impl Received {
    pub fn note(&mut self, event: &Value) {
        self.cursor = event["cursor"].as_str().unwrap().to_owned();
        if event["type"] == "message.created" {
            self.ids.push(event["data"]["id"].as_i64().unwrap());
        }
    }
}

both!(a_cursor_is_valid_until_its_events_are_deleted, async |place| {
    let hand = Arc::new(AtomicI64::new(moment("2026-01-01T00:00:00Z")));
    let options = Options { clock: Clock::Manual(Arc::clone(&hand)), ..Options::default() };
    let server = Server::start_with(place, options).await;
    let old = now(&server, "duck").await;
    server.send("bugs", "duck", "of January").await;
    let newer = now(&server, "duck").await;
    hand.store(moment("2026-01-20T00:00:00Z"), Ordering::Relaxed);
    server.send("bugs", "duck", "of later").await;
    hand.store(moment("2026-02-05T00:00:00Z"), Ordering::Relaxed);
    while housekeeping::batch(&server.app).await.unwrap() {}
    get(&server, "duck", &format!("/api/events?after={old}")).await.problem(410, "cursor_expired");
    let (events, _) = poll(&server, "duck", &newer).await;
    assert_eq!(events.last().unwrap()["data"]["body"], "of later");
    let target = format!("/api/ws?after={old}");
    let mut socket = Socket::open(&server, &target, &[("x-act-as", "duck")]).await.unwrap();
    server.send("bugs", "duck", "now").await;
    assert_eq!(socket.event_of("message.created").await["data"]["body"], "now");
    // Months later no event is left in the log, and a new event still gets the next position.
    hand.store(moment("2026-06-01T00:00:00Z"), Ordering::Relaxed);
    while housekeeping::batch(&server.app).await.unwrap() {}
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.events").await, [[0]]);
    let (events, end) = poll(&server, "duck", &socket.cursor).await;
    assert_eq!(events, Vec::<Value>::new());
    server.send("bugs", "duck", "again").await;
    assert_eq!(poll(&server, "duck", &end).await.0.last().unwrap()["data"]["body"], "again");
});

both!(a_socket_that_does_not_read_is_closed_and_its_reader_misses_nothing, async |place| {
    let server = Server::start(place).await;
    let mut slow = Socket::of(&server, "duck").await;
    let mut quick = Socket::of(&server, "duck").await;
    let cursor = slow.cursor.clone();
    let body = "x".repeat(7_900);
    let writing = async {
        for _ in 0..300 {
            futures_util::future::join_all((0..8).map(|_| server.send("bugs", "duck", &body))).await;
        }
    };
    let reading = async {
        let mut ids = Vec::new();
        while ids.len() < 2_400 {
            ids.push(quick.event_of("message.created").await["data"]["id"].as_i64().unwrap());
        }
        ids
    };
    let ((), quick_ids) = tokio::join!(writing, reading);
    assert_eq!(quick_ids.len(), 2_400);
    // Frames that were already sent still arrive, and after them the close frame.
    let mut received = Received { cursor, ..Received::default() };
    let code = loop {
        match slow.next().await {
            Ok(frame) => received.note(&frame["event"]),
            Err(code) => break code,
        }
    };
    assert!(code == 4008 || code == 0, "{code}");
    assert!(received.ids.len() < 2_400, "the slow reader was not slow: it received everything");
    let mut back = Socket::behind(&server, "duck", &received.cursor).await;
    while received.ids.len() < 2_400 {
        received.note(&back.event().await);
    }
    assert_eq!(received.ids, quick_ids);
});

both!(a_socket_that_does_not_answer_pings_is_closed, async |place| {
    let timeouts = Timeouts { heartbeat: Duration::from_millis(300), ..Timeouts::default() };
    let server = Server::start_with(place, Options { timeouts, ..Options::default() }).await;
    // The WebSocket library of this client answers pings by itself.
    let mut present = Socket::of(&server, "bugs").await;
    let absent = Socket::of(&server, "duck").await;
    let tokio_tungstenite::MaybeTlsStream::Plain(mut stream) = absent.stream.into_inner() else { unreachable!() };
    let reading = async {
        let mut bytes = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
        bytes
    };
    let staying = async {
        let until = tokio::time::Instant::now() + Duration::from_secs(3);
        while let Ok(frame) = tokio::time::timeout_at(until, present.stream.next()).await {
            frame.unwrap().unwrap();
        }
        present.say(json!({"type": "ping"})).await;
        assert_eq!(present.frame().await["type"], "pong");
    };
    let (bytes, ()) = tokio::join!(reading, staying);
    // One or two pings, and the close frame with its code.
    let code = 4408_u16.to_be_bytes();
    assert!(bytes.windows(2).any(|window| window == code), "{bytes:?}");
});

both!(a_reader_that_returns_late_catches_up_while_new_events_arrive, async |place| {
    let server = Server::start(place).await;
    let mut received = Received { cursor: now(&server, "duck").await, ..Received::default() };
    let mut sent = 0;
    let more = async |times: usize| {
        for _ in 0..times {
            futures_util::future::join_all((0..50).map(|_| server.send("bugs", "duck", "x"))).await;
        }
    };
    more(60).await;
    sent += 3_000;
    let mut socket = Socket::behind(&server, "duck", &received.cursor).await;
    let writing = more(40);
    sent += 2_000;
    let reading = async {
        while received.ids.len() < sent {
            received.note(&socket.event().await);
            if received.ids.len() < 500 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    };
    tokio::join!(writing, reading);
    let distinct: BTreeSet<i64> = received.ids.iter().copied().collect();
    assert_eq!(distinct.len(), sent);
    assert!(received.ids.is_sorted());
    assert!(socket.is_quiet().await);
});

/// A foreign transaction takes a position in the log and stays open for a while. Every later event waits for it.
#[test]
fn a_slow_foreign_transaction_hides_no_event() {
    crate::support::run(Kind::Postgres, async |place: &Place| {
        let server = Server::start(place).await;
        let before = place.numbers("SELECT max(id) FROM messaging.messages").await[0][0];
        let begin = place.numbers("SELECT last_position FROM messaging.event_log").await[0][0];
        let follower = Follower::start(server.address).await;
        let epoch_and_place = server.get("/api/events").await.json()["cursor"].as_str().unwrap().to_owned();
        let foreign = place.postgres().await;
        let looking_on = place.postgres().await;
        looking_on.batch_execute("BEGIN; SELECT count(*) FROM messaging.events").await.unwrap();
        let (sent, done) = (AtomicI64::new(0), AtomicBool::new(false));
        let slow = async {
            let mut transactions = 0;
            // Repeats until there were enough sends meanwhile. How many there are depends on the machine.
            while transactions < 12 || (sent.load(Ordering::Relaxed) < 24 && transactions < 200) {
                let took = "BEGIN; UPDATE messaging.event_log SET last_position = last_position + 1;
                            SELECT pg_sleep(0.05);
                            INSERT INTO messaging.events (position, type, actor_id, subject_id, at)
                            SELECT last_position, 'user.updated', 1, 1, now() FROM messaging.event_log;
                            SELECT pg_sleep(0.1); COMMIT";
                foreign.batch_execute(took).await.unwrap();
                transactions += 1;
            }
            done.store(true, Ordering::Relaxed);
        };
        let writing = async {
            while !done.load(Ordering::Relaxed) {
                futures_util::future::join_all((0..4).map(|_| server.send("bugs", "duck", "x"))).await;
                sent.fetch_add(4, Ordering::Relaxed);
            }
        };
        tokio::join!(slow, writing);
        assert!(sent.load(Ordering::Relaxed) >= 24, "{sent:?}");
        // The events of the other transaction are delivered at the latest with the next event.
        server.send("bugs", "duck", "the last").await;
        follower.assert_delivered(place, before).await;
        // A caller that may see every event sees each position once.
        let (mut cursor, mut places) = (epoch_and_place, Vec::new());
        loop {
            let answer = server.get(&format!("/api/events?after={cursor}")).await.json();
            let events = answer["events"].as_array().unwrap().clone();
            if events.is_empty() {
                break;
            }
            let place = |event: &Value| event["cursor"].as_str()?.rsplit_once('-')?.1.parse::<i64>().ok();
            places.extend(events.iter().map(|event| place(event).unwrap()));
            cursor = answer["cursor"].as_str().unwrap().to_owned();
        }
        let end = place.numbers("SELECT last_position FROM messaging.event_log").await[0][0];
        assert_eq!(places, (begin + 1..=end).collect::<Vec<i64>>());
        looking_on.batch_execute("COMMIT").await.unwrap();
    });
}
