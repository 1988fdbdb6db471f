//! Half-open connections: the network between a node and PostgreSQL goes silent, and neither side notices.
//!
//! Promise: a node whose connections are dead works again within seconds over new ones. Meanwhile sockets stay alive:
//! heartbeats and answers to pings do not wait for the database. Missed events arrive afterwards, without a gap. If the
//! database stays silent, streams end, because nothing can confirm that their readers may still read.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use posthaste::http::state::Timeouts;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::proxy::{Flow, Proxy};
use super::samples::{Samples, accepted, longest_gap};
use super::{assert_refused_for_now, call};
use crate::both;
use crate::messages::messages::assert_dense;
use crate::operations::durability::{Load, assert_kept, last_message, repeat_lost};
use crate::support::accounts::PASSWORD;
use crate::support::callers::secured;
use crate::support::place::Kind;
use crate::support::process::{Process, Wrapping};
use crate::support::watch::{Follower, Socket};
use crate::support::{Options, Place, Server, run};

/// A node must answer again within this time after its connections went silent.
const GAP_LIMIT: Duration = Duration::from_secs(15);
/// How long the answer to a ping may take.
const PONG_LIMIT: Duration = Duration::from_secs(1);
const PING_EVERY: Duration = Duration::from_millis(250);
/// How long the database is silent while the test observes sockets.
const SILENCE: Duration = Duration::from_secs(6);
const HEARTBEAT: Duration = Duration::from_millis(700);
/// More frames than a socket's queue holds.
const FRAMES: usize = 100;
/// Number of callers who send a request at the same time while the database is silent.
const CALLERS: usize = 40;
/// In these tests, the credentials of a reader stay valid for this long while the database cannot confirm them.
const UNCONFIRMED: Duration = Duration::from_secs(2);

/// Pings once. Returns how long the answer took, and the events that came before it.
async fn ping(socket: &mut Socket) -> (Duration, Vec<Value>) {
    let asked = Instant::now();
    let mut events = Vec::new();
    socket.say(json!({"type": "ping"})).await;
    loop {
        let frame = socket.frame().await;
        if frame["type"] == "pong" {
            return (asked.elapsed(), events);
        }
        events.push(frame);
    }
}

/// Pings repeatedly for some time. Returns the longest time that an answer took, and all other frames.
async fn keep_pinging(socket: &mut Socket, during: Duration) -> (Duration, Vec<Value>) {
    let (begun, mut longest, mut events) = (Instant::now(), Duration::ZERO, Vec::new());
    while begun.elapsed() < during {
        let (took, came) = ping(socket).await;
        longest = longest.max(took);
        events.extend(came);
        tokio::time::sleep(PING_EVERY).await;
    }
    (longest, events)
}

#[test]
fn a_node_works_again_after_its_connections_went_silent() {
    run(Kind::Postgres, async |place| {
        let proxy = Proxy::start(&place.postgres_url()).await;
        let database_url = Some(proxy.url(&place.postgres_url()));
        let node = Process::start_wrapped(place, Wrapping { database_url, ..Wrapping::default() }).await;
        let before = last_message(place).await;
        let follower = Follower::start(node.address).await;
        let mut socket = Socket::open_at(node.address, "/api/ws", &[("x-act-as", "porky")]).await.unwrap();
        let load = Load::start(node.address, "half-open");
        load.accepts_more(200).await;
        let (address, silent) = (node.address, Instant::now());
        let sends = accepted(&load);
        let reads = Samples::take(Duration::from_millis(50), move || async move {
            call(address, "bugs", Method::GET, "/api/messages/bugs?order=desc&limit=5", None).await.status.as_u16()
        });
        proxy.set_existing(Flow::Stall);
        let working = async {
            load.accepts_more(200).await;
            silent.elapsed()
        };
        let (working, (pong, _)) = tokio::join!(working, keep_pinging(&mut socket, GAP_LIMIT));
        let gap = longest_gap(&sends.end().await);
        let reads = reads.end().await;
        let reading = reads.windows(2).filter(|pair| pair[0].1 == 200).map(|pair| pair[1].0 - pair[0].0).max();
        let last_read = reads.last().unwrap().1;
        let mut attempts = load.stop().await;
        let refused = assert_refused_for_now(&attempts);
        println!(
            "sends again after {working:?}, gap {gap:?}, longest read {reading:?}, longest pong {pong:?}, {refused} refused"
        );
        assert!(gap < GAP_LIMIT && working < GAP_LIMIT, "no send was accepted for {gap:?}");
        assert!(reading.is_some_and(|reading| reading < GAP_LIMIT) && last_read == 200, "{reading:?} {last_read}");
        assert!(reads.iter().all(|(_, status)| [200, 503].contains(status)));
        assert!(pong < PONG_LIMIT, "{pong:?}");
        repeat_lost(node.address, &mut attempts).await;
        assert_kept(place, &attempts).await;
        assert_dense(place).await;
        follower.assert_delivered(place, before).await;
    });
}

#[test]
fn a_socket_is_alive_while_the_database_is_silent_and_misses_nothing() {
    run(Kind::Postgres, async |place| {
        let proxy = Proxy::start(&place.postgres_url()).await;
        let timeouts = Timeouts { heartbeat: HEARTBEAT, ..Timeouts::default() };
        let database_url = Some(proxy.url(&place.postgres_url()));
        let node = Server::start_with(place, Options { timeouts, database_url, ..Options::default() }).await;
        let other = Server::start(place).await;
        let mut talking = Socket::of(&node, "duck").await;
        let mut listening = Socket::of(&node, "porky").await;
        proxy.set(Flow::Stall);
        // The first send waits for the database, and two more sends wait behind it.
        for number in 0..3 {
            let body = format!("of the socket {number}");
            talking.say(json!({"type": "send", "ref": number, "recipient_user_name": "porky", "body": body})).await;
        }
        let sending = async {
            for number in 0..20 {
                other.send("bugs", "duck", &format!("missed {number}")).await;
            }
        };
        let counting = async {
            let (mut pings, until) = (0, tokio::time::Instant::now() + SILENCE);
            while let Ok(frame) = tokio::time::timeout_at(until, listening.stream.next()).await {
                pings += usize::from(matches!(frame.unwrap().unwrap(), Message::Ping(_)));
                // The WebSocket library only queues its pong. The flush sends it.
                listening.stream.flush().await.unwrap();
            }
            pings
        };
        let ((pong, came), pings, ()) = tokio::join!(keep_pinging(&mut talking, SILENCE), counting, sending);
        println!("longest pong {pong:?}, {pings} heartbeats in {SILENCE:?}");
        assert!(pong < PONG_LIMIT, "{pong:?}");
        assert!(pings >= 4, "{pings} heartbeats in {SILENCE:?}");
        assert!(came.is_empty(), "{came:?}");
        proxy.set(Flow::Pass);
        let (mut missed, mut replies) = (Vec::new(), Vec::new());
        while missed.len() < 20 || replies.len() < 3 {
            let frame = talking.frame().await;
            let body = frame["event"]["data"]["body"].as_str().unwrap_or_default();
            if frame["type"] == "reply" {
                replies.push((frame["ref"].as_i64().unwrap(), frame["status"].as_i64().unwrap()));
            } else if body.starts_with("missed") {
                missed.push(body.to_owned());
            }
        }
        assert_eq!(missed, (0..20).map(|number| format!("missed {number}")).collect::<Vec<_>>());
        assert_eq!(replies, [(0, 201), (1, 201), (2, 201)]);
        let mut received = Vec::new();
        while received.len() < 3 {
            received.push(listening.event_of("message.created").await["data"]["body"].as_str().unwrap().to_owned());
        }
        assert_eq!(received, (0..3).map(|number| format!("of the socket {number}")).collect::<Vec<_>>());
        node.stop().await;
        other.stop().await;
    });
}

#[test]
fn polls_end_in_time_and_streams_stay_alive_while_the_database_is_silent() {
    run(Kind::Postgres, async |place| {
        let proxy = Proxy::start(&place.postgres_url()).await;
        let timeouts = Timeouts { keep_alive: HEARTBEAT, ..Timeouts::default() };
        let database_url = Some(proxy.url(&place.postgres_url()));
        let node = Server::start_with(place, Options { timeouts, database_url, ..Options::default() }).await;
        let cursor = node.get("/api/events").await.json()["cursor"].as_str().unwrap().to_owned();
        let mut stream =
            node.request(Method::GET, "/api/events/stream").header("x-act-as", "duck").send().await.unwrap();
        let asked = Instant::now();
        let polling = async {
            let target = format!("/api/events?after={cursor}&wait=3");
            let answer = call(node.address, "duck", Method::GET, &target, None).await;
            (answer, asked.elapsed())
        };
        let silencing = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            proxy.set(Flow::Stall);
        };
        let streaming = async {
            let (mut comments, until) = (0, tokio::time::Instant::now() + SILENCE);
            while let Ok(chunk) = tokio::time::timeout_at(until, stream.chunk()).await {
                comments += usize::from(chunk.unwrap().expect("an open stream").starts_with(b":"));
            }
            comments
        };
        let ((answer, took), (), comments) = tokio::join!(polling, silencing, streaming);
        println!("poll of 3 s answered after {took:?}, {comments} comments in {SILENCE:?}");
        assert_eq!(answer.status, 200);
        assert!(took < Duration::from_millis(4_500), "{took:?}");
        assert!(comments >= 4, "{comments}");
        proxy.set(Flow::Pass);
        node.stop().await;
    });
}

#[test]
fn readers_that_cannot_be_confirmed_are_closed_and_can_return() {
    run(Kind::Postgres, async |place: &Place| {
        let proxy = Proxy::start(&place.postgres_url()).await;
        let timeouts = Timeouts { unconfirmed: UNCONFIRMED, ..Timeouts::default() };
        let database_url = Some(proxy.url(&place.postgres_url()));
        let options = Options { timeouts, database_url, demo: false, ..secured() };
        let node = Server::secured_with(place, options, &["bugs"]).await;
        let log_in = json!({"user_name": "bugs", "password": PASSWORD});
        let answer = node.post("/api/sessions", &log_in).await;
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
        let bearer = format!("Bearer {}", answer.json()["token"].as_str().unwrap());
        let headers = [("authorization", bearer.as_str())];
        let mut socket = Socket::open(&node, "/api/ws", &headers).await.unwrap();
        let mut stream =
            node.request(Method::GET, "/api/events/stream").header("authorization", &bearer).send().await.unwrap();
        let poll = node
            .request(Method::GET, &format!("/api/events?after={}&wait=30", socket.cursor))
            .header("authorization", &bearer);
        let polling = tokio::spawn(crate::support::answer_of(poll));
        tokio::time::sleep(UNCONFIRMED * 2).await;
        assert!(!polling.is_finished(), "the database answers");
        proxy.set(Flow::Stall);
        let silent = Instant::now();
        let closed = async {
            let code = socket.next().await.unwrap_err();
            (code, silent.elapsed())
        };
        let ended = async {
            while stream.chunk().await.ok().flatten().is_some() {}
            silent.elapsed()
        };
        let ((code, closed), ended, polled) = tokio::join!(closed, ended, polling);
        println!("socket closed with {code} after {closed:?}, stream ended after {ended:?}");
        super::assert_unavailable(&polled.unwrap());
        assert_eq!(code, 1011);
        for took in [closed, ended] {
            assert!(took > UNCONFIRMED / 2 && took < UNCONFIRMED + Duration::from_secs(4), "{took:?}");
        }
        proxy.set(Flow::Pass);
        let target = format!("/api/ws?after={}", socket.cursor);
        let mut back = Socket::open(&node, &target, &headers).await.unwrap();
        let note = json!({"recipient_user_name": "bugs", "body": "to oneself"});
        let request = node.request(Method::POST, "/api/messages").header("authorization", &bearer).json(&note);
        assert_eq!(crate::support::answer_of(request).await.status, 201);
        assert_eq!(back.event_of("message.created").await["data"]["body"], "to oneself");
        node.stop().await;
    });
}

#[test]
fn callers_with_credentials_are_refused_together_while_the_database_is_silent() {
    run(Kind::Postgres, async |place: &Place| {
        let proxy = Proxy::start(&place.postgres_url()).await;
        let database_url = Some(proxy.url(&place.postgres_url()));
        let options = Options { database_url, demo: false, ..secured() };
        let node = Server::secured_with(place, options, &["bugs"]).await;
        let answer = node.post("/api/sessions", &json!({"user_name": "bugs", "password": PASSWORD})).await;
        let token = answer.json()["token"].as_str().unwrap().to_owned();
        proxy.set(Flow::Stall);
        // After this time the node's last read of the revocations is too old to rely on.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let client = reqwest::Client::builder().no_proxy().timeout(super::ANSWER_TIMEOUT).build().unwrap();
        let calls = (0..CALLERS).map(async |_| {
            let asked = Instant::now();
            let request = client.get(format!("http://{}/api/sessions", node.address)).bearer_auth(&token);
            super::assert_unavailable(&crate::support::answer_of(request).await);
            asked.elapsed()
        });
        let longest = futures_util::future::join_all(calls).await.into_iter().max().unwrap();
        println!("{CALLERS} callers were refused within {longest:?}");
        assert!(longest < GAP_LIMIT, "{longest:?}");
        proxy.set(Flow::Pass);
        node.stop().await;
    });
}

// The server processes frames that arrived before the close frame, just as it processes a request whose caller does not wait
// for the answer.
both!(frames_before_a_close_frame_are_processed, async |place| {
    let server = Server::start(place).await;
    let mut socket = Socket::of(&server, "bugs").await;
    for number in 0..10 {
        let body = format!("before the close {number}");
        socket.say(json!({"type": "send", "recipient_user_name": "duck", "body": body})).await;
    }
    socket.stream.close(None).await.unwrap();
    while socket.stream.next().await.is_some_and(|frame| frame.is_ok()) {}
    let deadline = Instant::now() + Duration::from_secs(10);
    let count = "SELECT count(*) FROM messaging.messages WHERE body LIKE 'before the close%'";
    while place.numbers(count).await != [[10]] {
        assert!(Instant::now() < deadline, "{:?}", place.numbers(count).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_dense(place).await;
    server.stop().await;
});

// While the queue of a socket's incoming frames is full, the client must wait. No frame is lost, and the frames keep their
// order.
both!(more_frames_than_the_queue_holds_are_processed_in_order, async |place| {
    let server = Server::start(place).await;
    let mut socket = Socket::of(&server, "porky").await;
    for number in 0..FRAMES {
        let frame = json!({"type": "send", "ref": number, "recipient_user_name": "duck", "body": "x".repeat(3_000)});
        socket.say(frame).await;
        // Invalid frames are also answered in the order in which they arrived.
        socket.say(json!({"type": "nonsense", "ref": number})).await;
    }
    let mut replies = Vec::new();
    while replies.len() < 2 * FRAMES {
        let frame = socket.frame().await;
        if frame["type"] == "reply" {
            replies.push((frame["ref"].as_u64().unwrap() as usize, frame["status"].as_u64().unwrap()));
        }
    }
    let expected: Vec<_> = (0..FRAMES).flat_map(|number| [(number, 201), (number, 422)]).collect();
    assert_eq!(replies, expected);
    server.stop().await;
});
