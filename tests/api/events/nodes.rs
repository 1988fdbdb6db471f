//! Several servers on one database: each server delivers the events of the others, with each kind of bus and without a bus.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use posthaste::base::time::Clock;
use posthaste::live::EphemeralDelivery;
use posthaste::live::bus::BusSettings;
use serde_json::{Value, json};

use crate::both;
use crate::support::callers::moment;
use crate::support::nats::NatsServer;
use crate::support::people::{get, post};
use crate::support::place::Kind;
use crate::support::watch::Socket;
use crate::support::{Options, Place, Server, run};

/// Number of events of which the median delay is measured.
const ROUNDS: usize = 20;
/// The longest delay of an event with the bus.
const WITH_BUS: Duration = Duration::from_millis(300);
/// The longest delay of an event without the bus. Servers then read the event log once a second.
const WITHOUT_BUS: Duration = Duration::from_secs(2);
/// Number of reads with the same cursor, alternately from the two servers.
const TURNS: usize = 200;

/// Defines a test that runs on PostgreSQL only, which has a bus of its own.
macro_rules! on_postgres {
    ($name:ident, $test:expr) => {
        #[test]
        fn $name() {
            run(Kind::Postgres, $test);
        }
    };
}

fn by_postgres(place: &Place) -> BusSettings {
    BusSettings::Postgres { listen_url: place.postgres_url() }
}

async fn two(place: &Place, bus: &BusSettings) -> (Server, Server) {
    let options = || Options { bus: bus.clone(), ..Options::default() };
    (Server::start_with(place, options()).await, Server::start_with(place, options()).await)
}

/// Sends a message on one server. Returns the time until a socket on the other server has received it.
async fn delay(one: &Server, socket: &mut Socket, body: &str) -> Duration {
    let started = Instant::now();
    one.send("bugs", "duck", body).await;
    loop {
        let event = socket.event_of("message.created").await;
        if event["data"]["body"] == body {
            return started.elapsed();
        }
    }
}

async fn median(one: &Server, socket: &mut Socket, what: &str) -> Duration {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        times.push(delay(one, socket, &format!("{what} {round}")).await);
        // The pause keeps the sends from falling into step with the servers' reads of the log, which happen once a second.
        tokio::time::sleep(Duration::from_millis(37)).await;
    }
    times.sort_unstable();
    times[ROUNDS / 2]
}

/// Waits until the other server delivers events of the first one sooner than it would by its own reads of the log.
async fn wait_until_the_bus_works(one: &Server, socket: &mut Socket, what: &str) {
    for round in 0..30 {
        // Three short delays in a row are no coincidence: a server reads the log by itself once a second.
        let mut fast = 0;
        for part in 0..3 {
            fast += usize::from(delay(one, socket, &format!("{what} {round} {part}")).await < WITH_BUS);
        }
        if fast == 3 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("{what}: the bus does not deliver wake-ups");
}

/// Asserts that an ephemeral event of one server arrives once at its user's sockets on both servers, and at no other socket.
async fn assert_ephemeral_events_pass(one: &Server, other: &Server, place: &Place) {
    let duck = place.numbers("SELECT id FROM messaging.users WHERE user_name = 'duck'").await[0][0];
    let mut here = Socket::of(one, "duck").await;
    let mut there = Socket::of(other, "duck").await;
    let mut stranger = Socket::of(other, "bugs").await;
    let event = json!({"type": "test.whisper", "data": {"word": "psst"}});
    one.live.publish_ephemeral(EphemeralDelivery { to: vec![duck], event: event.to_string() });
    assert_eq!(here.event().await, event);
    assert_eq!(there.event().await, event);
    assert!(here.is_quiet().await && there.is_quiet().await && stranger.is_quiet().await);
}

/// Reads with one cursor from two servers in turn while messages are sent to both.
async fn assert_cursor_works_on_both(one: &Server, other: &Server) {
    let mut cursor = get(one, "duck", "/api/events").await.json()["cursor"].as_str().unwrap().to_owned();
    let done = AtomicBool::new(false);
    // Sends as long as the reader reads, because every second read waits up to a second for an event.
    let writing = async {
        let mut sent = Vec::new();
        for number in 0.. {
            let (left, right) = (format!("left {number}"), format!("right {number}"));
            tokio::join!(one.send("bugs", "duck", &left), other.send("rdibari", "duck", &right));
            sent.extend([left, right]);
            if done.load(Ordering::Relaxed) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sent
    };
    let reading = async {
        let mut seen = Vec::new();
        let mut cursors = HashSet::new();
        for turn in 0..TURNS {
            let server = if turn % 2 == 0 { one } else { other };
            let answer = get(server, "duck", &format!("/api/events?after={cursor}&wait={}", turn % 2)).await;
            assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
            let body = answer.json();
            for event in body["events"].as_array().unwrap() {
                assert!(cursors.insert(event["cursor"].as_str().unwrap().to_owned()), "twice: {event}");
                if event["type"] == "message.created" {
                    seen.push(event["data"]["body"].as_str().unwrap().to_owned());
                }
            }
            cursor = body["cursor"].as_str().unwrap().to_owned();
        }
        done.store(true, Ordering::Relaxed);
        seen
    };
    let (sent, mut seen) = tokio::join!(writing, reading);
    // Reads the events after the last turn. They are at most those of one round of the writer.
    let rest = get(other, "duck", &format!("/api/events?after={cursor}")).await.json();
    let rest = rest["events"].as_array().unwrap().iter().filter(|event| event["type"] == "message.created");
    seen.extend(rest.map(|event| event["data"]["body"].as_str().unwrap().to_owned()));
    let mut expected = sent;
    expected.sort_unstable();
    let mut found = seen.clone();
    found.sort_unstable();
    assert_eq!(found, expected);
    for side in ["left ", "right "] {
        let numbers: Vec<u32> = seen.iter().filter_map(|body| body.strip_prefix(side)?.parse().ok()).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
}

both!(without_a_bus_the_other_server_finds_an_event_in_the_log, async |place| {
    let (one, other) = two(place, &BusSettings::Local).await;
    let mut socket = Socket::of(&other, "duck").await;
    for round in 0..3 {
        let took = delay(&one, &mut socket, &format!("without a bus {round}")).await;
        assert!(took < WITHOUT_BUS, "{took:?}");
    }
});

both!(without_a_bus_a_cursor_may_change_servers, async |place| {
    let (one, other) = two(place, &BusSettings::Local).await;
    assert_cursor_works_on_both(&one, &other).await;
});

on_postgres!(with_postgres_as_bus_the_other_server_delivers_soon, async |place| {
    let (one, other) = two(place, &by_postgres(place)).await;
    let mut socket = Socket::of(&other, "duck").await;
    wait_until_the_bus_works(&one, &mut socket, "connecting").await;
    let took = median(&one, &mut socket, "by postgres").await;
    assert!(took < WITH_BUS, "{took:?}");
    assert_ephemeral_events_pass(&one, &other, place).await;
});

on_postgres!(with_postgres_as_bus_a_cursor_may_change_servers, async |place| {
    let (one, other) = two(place, &by_postgres(place)).await;
    assert_cursor_works_on_both(&one, &other).await;
});

on_postgres!(an_ephemeral_event_too_long_for_postgres_stays_on_its_server, async |place| {
    let (one, other) = two(place, &by_postgres(place)).await;
    let mut socket = Socket::of(&other, "duck").await;
    wait_until_the_bus_works(&one, &mut socket, "connecting").await;
    let duck = place.numbers("SELECT id FROM messaging.users WHERE user_name = 'duck'").await[0][0];
    let event = json!({"type": "test.whisper", "data": {"word": "x".repeat(8_000)}});
    one.live.publish_ephemeral(EphemeralDelivery { to: vec![duck], event: event.to_string() });
    assert!(socket.is_quiet().await);
    assert_ephemeral_events_pass(&one, &other, place).await;
});

on_postgres!(a_listening_connection_is_opened_again_after_its_end, async |place| {
    let (one, other) = two(place, &by_postgres(place)).await;
    let mut socket = Socket::of(&other, "duck").await;
    wait_until_the_bus_works(&one, &mut socket, "before").await;
    for round in 0..3 {
        let ended = place
            .numbers(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                  WHERE application_name = 'posthaste-listen' AND datname = current_database()",
            )
            .await;
        assert!(ended[0][0] >= 1, "{ended:?}");
        // Events arrive even while the bus does not work.
        let took = delay(&one, &mut socket, &format!("meanwhile {round}")).await;
        assert!(took < WITHOUT_BUS, "{took:?}");
        wait_until_the_bus_works(&one, &mut socket, &format!("after {round}")).await;
    }
});

on_postgres!(an_unreachable_listen_url_stops_nothing, async |place| {
    // Port 1 has no listener.
    let nowhere = BusSettings::Postgres { listen_url: "postgres://posthaste@127.0.0.1:1/nowhere".into() };
    let (one, other) = two(place, &nowhere).await;
    let mut socket = Socket::of(&other, "duck").await;
    let took = delay(&one, &mut socket, "without a bus").await;
    assert!(took < WITHOUT_BUS, "{took:?}");
});

on_postgres!(forged_messages_on_the_bus_are_ignored, async |place| {
    let (one, other) = two(place, &by_postgres(place)).await;
    let mut socket = Socket::of(&other, "duck").await;
    wait_until_the_bus_works(&one, &mut socket, "connecting").await;
    let (client, connection) = tokio_postgres::connect(&place.postgres_url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let everyone: Vec<i64> = (1..=50).collect();
    let forged =
        json!({"server": "x", "whisper": {"to": everyone, "event": "{\"type\": \"test.forged\"}"}}).to_string();
    for text in [forged.clone(), format!("AAAA {forged}"), format!(" {forged}"), String::new(), "x".into()] {
        client.execute("SELECT pg_notify('posthaste', $1)", &[&text]).await.unwrap();
    }
    assert!(socket.is_quiet().await);
    assert_ephemeral_events_pass(&one, &other, place).await;
});

on_postgres!(servers_do_not_echo_each_other, async |place| {
    let (one, other) = two(place, &by_postgres(place)).await;
    let mut socket = Socket::of(&other, "duck").await;
    wait_until_the_bus_works(&one, &mut socket, "connecting").await;
    let notified = Arc::new(AtomicI64::new(0));
    let (client, mut connection) = tokio_postgres::connect(&place.postgres_url(), tokio_postgres::NoTls).await.unwrap();
    let counted = Arc::clone(&notified);
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if matches!(message, tokio_postgres::AsyncMessage::Notification(_)) {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    client.batch_execute("LISTEN posthaste").await.unwrap();
    // A socket on each server receives the event. Delivering it writes no event, so the servers must send no further wake-ups.
    let mut here = Socket::of(&one, "duck").await;
    let took = delay(&one, &mut here, "once").await;
    assert!(took < WITHOUT_BUS, "{took:?}");
    socket.event_of("message.created").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    // One wake-up for the commit, and one more if the tailer read the log between two commits of the batch.
    let wake_ups = notified.load(Ordering::Relaxed);
    assert!((1..=3).contains(&wake_ups), "{wake_ups}");
});

on_postgres!(with_nats_as_bus_the_other_server_delivers_soon, async |place| {
    let nats = NatsServer::start_with(Some("posthaste:secret%21")).await;
    let (one, other) = two(place, &BusSettings::Nats { url: nats.url() }).await;
    let mut socket = Socket::of(&other, "duck").await;
    wait_until_the_bus_works(&one, &mut socket, "connecting").await;
    let took = median(&one, &mut socket, "by nats").await;
    assert!(took < WITH_BUS, "{took:?}");
    assert_ephemeral_events_pass(&one, &other, place).await;
});

on_postgres!(with_nats_as_bus_a_cursor_may_change_servers, async |place| {
    let nats = NatsServer::start().await;
    let (one, other) = two(place, &BusSettings::Nats { url: nats.url() }).await;
    assert_cursor_works_on_both(&one, &other).await;
});

on_postgres!(servers_reconnect_to_nats_after_it_has_stopped, async |place| {
    let mut nats = NatsServer::start().await;
    let (one, other) = two(place, &BusSettings::Nats { url: nats.url() }).await;
    let mut socket = Socket::of(&other, "duck").await;
    wait_until_the_bus_works(&one, &mut socket, "before").await;
    for round in 0..2 {
        nats.stop();
        for part in 0..3 {
            let took = delay(&one, &mut socket, &format!("meanwhile {round} {part}")).await;
            assert!(took < WITHOUT_BUS, "{took:?}");
        }
        nats.start_again().await;
        wait_until_the_bus_works(&one, &mut socket, &format!("after {round}")).await;
    }
    assert_ephemeral_events_pass(&one, &other, place).await;
});

on_postgres!(servers_connect_to_nats_that_starts_after_them, async |place| {
    let mut nats = NatsServer::start().await;
    nats.stop();
    let (one, other) = two(place, &BusSettings::Nats { url: nats.url() }).await;
    let mut socket = Socket::of(&other, "duck").await;
    let took = delay(&one, &mut socket, "without").await;
    assert!(took < WITHOUT_BUS, "{took:?}");
    nats.start_again().await;
    wait_until_the_bus_works(&one, &mut socket, "with").await;
});

on_postgres!(installations_that_share_a_nats_server_do_not_receive_each_others_events, async |place| {
    let nats = NatsServer::start().await;
    let elsewhere = Place::new(Kind::Sqlite).await;
    let bus = BusSettings::Nats { url: nats.url() };
    let (one, other) = two(place, &bus).await;
    let stranger = Server::start_with(&elsewhere, Options { bus, ..Options::default() }).await;
    let mut there = Socket::of(&other, "duck").await;
    wait_until_the_bus_works(&one, &mut there, "connecting").await;
    let mut socket = Socket::of(&stranger, "duck").await;
    let everyone: Vec<i64> = (1..=50).collect();
    one.live.publish_ephemeral(EphemeralDelivery { to: everyone, event: json!({"type": "test.whisper"}).to_string() });
    assert_eq!(there.event().await["type"], "test.whisper");
    assert!(socket.is_quiet().await);
    stranger.stop().await;
    elsewhere.remove().await;
});

both!(two_servers_send_each_scheduled_message_once, async |place| {
    let hand = Arc::new(AtomicI64::new(moment("2026-01-01T00:00:00Z")));
    let options = || Options { clock: Clock::Manual(Arc::clone(&hand)), ..Options::default() };
    let (one, other) = (Server::start_with(place, options()).await, Server::start_with(place, options()).await);
    let mut expected = Vec::new();
    for number in 0..40 {
        let body = format!("later {number}");
        let new = json!({"recipient_user_name": "duck", "body": body, "send_at": "2026-01-01T01:00:00Z"});
        let server = if number % 2 == 0 { &one } else { &other };
        assert_eq!(post(server, "bugs", "/api/messages", new).await.status, 202);
        expected.push(body);
    }
    hand.store(moment("2026-01-01T01:00:01Z"), Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = get(&one, "bugs", "/api/scheduled").await.json();
        if left == json!([]) {
            break;
        }
        assert!(Instant::now() < deadline, "{left}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Waits until both servers have looked for work once more.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let messages = one.all("/api/messages/duck?with=bugs").await;
    let bodies = |messages: &[Value]| {
        let mut bodies: Vec<String> =
            messages.iter().map(|message| message["body"].as_str().unwrap().to_owned()).collect();
        bodies.sort_unstable();
        bodies
    };
    expected.sort_unstable();
    assert_eq!(bodies(&messages), expected);
    assert_eq!(bodies(&other.all("/api/messages/duck?with=bugs").await), expected);
});
