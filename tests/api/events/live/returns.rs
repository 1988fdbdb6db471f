//! Readers that disconnect and return at random while messages are sent, with each way of reading. They read from one server,
//! or alternately from two servers with each kind of bus.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use posthaste::base::ids::Rng;
use posthaste::live::bus::BusSettings;

use super::faults::Received;
use super::{now, poll};
use crate::both;
use crate::support::nats::NatsServer;
use crate::support::people::get;
use crate::support::place::Kind;
use crate::support::watch::{Socket, Stream};
use crate::support::{Options, Place, Server, many, random, run, seeded};

/// How many times each reader returns in a soak.
const RETURNS_IN_SOAK: usize = 1_000;
/// How many messages the writer may be ahead of a reader.
const MAX_AHEAD: usize = 60;

both!(a_reader_that_disconnects_and_returns_gets_everything_once, async |place| {
    let server = Server::start(place).await;
    disconnect_and_return(&[&server], many(150, RETURNS_IN_SOAK)).await;
});

#[test]
fn a_reader_that_changes_servers_gets_everything_once() {
    run(Kind::Postgres, async |place| between_two(place, BusSettings::Local).await);
}

#[test]
fn a_reader_that_changes_servers_gets_everything_once_with_postgres() {
    run(Kind::Postgres, async |place| {
        between_two(place, BusSettings::Postgres { listen_url: place.postgres_url() }).await;
    });
}

#[test]
fn a_reader_that_changes_servers_gets_everything_once_with_nats() {
    run(Kind::Postgres, async |place| {
        let nats = NatsServer::start().await;
        between_two(place, BusSettings::Nats { url: nats.url() }).await;
    });
}

async fn between_two(place: &Place, bus: BusSettings) {
    let options = || Options { bus: bus.clone(), ..Options::default() };
    let (one, other) = (Server::start_with(place, options()).await, Server::start_with(place, options()).await);
    disconnect_and_return(&[&one, &other], many(60, RETURNS_IN_SOAK)).await;
}

async fn disconnect_and_return(servers: &[&Server], returns: usize) {
    let started = Instant::now();
    let cursor = now(servers[0], "duck").await;
    let done = AtomicBool::new(false);
    let received: [AtomicUsize; 3] = Default::default();
    let writing = async {
        let mut sent = Vec::new();
        while !done.load(Ordering::Relaxed) {
            // The writer waits if it is too far ahead of a reader, because a reader that returns reads the log page by page.
            if received.iter().any(|received| received.load(Ordering::Relaxed).saturating_add(MAX_AHEAD) < sent.len()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
            let sending = (0..12).map(|number| servers[number % servers.len()].send("bugs", "duck", "x"));
            sent.extend(
                futures_util::future::join_all(sending).await.iter().map(|answer| answer["id"].as_i64().unwrap()),
            );
            // The pause lets readers reach the end of the log now and then.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        sent
    };
    let reading = async {
        let (_, rng) = seeded();
        let coming = Returning { servers, rng, cursor, returns };
        let [by_socket, by_stream, by_poll] = &received;
        let (by_socket, by_stream, by_poll) =
            (coming.by_socket(by_socket), coming.by_stream(by_stream), coming.by_poll(by_poll));
        let received = futures_util::future::join3(by_socket, by_stream, by_poll).await;
        done.store(true, Ordering::Relaxed);
        [received.0, received.1, received.2]
    };
    let (sent, readers) = tokio::join!(writing, reading);
    for mut received in readers {
        // Reads the events after the last return.
        loop {
            let (events, _) = poll(servers[0], "duck", &received.cursor).await;
            if events.is_empty() {
                break;
            }
            events.iter().for_each(|event| received.note(event));
        }
        let distinct: BTreeSet<i64> = received.ids.iter().copied().collect();
        assert_eq!(distinct.len(), received.ids.len(), "some messages were delivered twice");
        assert_eq!(distinct, sent.iter().copied().collect(), "missed");
        assert!(received.ids.is_sorted(), "messages were delivered out of order");
    }
    assert!(sent.len() > returns, "{}", sent.len());
    println!("3 x {returns} returns to {} servers, {} events in {:?}", servers.len(), sent.len(), started.elapsed());
}

/// A reader, and the servers that it reads from.
struct Returning<'a> {
    servers: &'a [&'a Server],
    rng: Rng,
    cursor: String,
    returns: usize,
}

impl Returning<'_> {
    fn server(&self) -> &Server {
        self.servers[random(&self.rng, self.servers.len() as u64) as usize]
    }

    fn begin(&self) -> Received {
        Received { cursor: self.cursor.clone(), ..Received::default() }
    }

    async fn by_socket(&self, count: &AtomicUsize) -> Received {
        let mut received = self.begin();
        for _ in 0..self.returns {
            let mut socket = Socket::behind(self.server(), "duck", &received.cursor).await;
            for _ in 0..random(&self.rng, 8) {
                received.note(&socket.event().await);
            }
            count.store(received.ids.len(), Ordering::Relaxed);
        }
        count.store(usize::MAX, Ordering::Relaxed);
        received
    }

    async fn by_stream(&self, count: &AtomicUsize) -> Received {
        let mut received = self.begin();
        for _ in 0..self.returns {
            let mut stream = Stream::open(self.server(), "duck", Some(&received.cursor)).await;
            assert_eq!(stream.next().await.unwrap().name, "hello");
            for _ in 0..random(&self.rng, 8) {
                received.note(&stream.next().await.unwrap().data);
            }
            count.store(received.ids.len(), Ordering::Relaxed);
        }
        count.store(usize::MAX, Ordering::Relaxed);
        received
    }

    async fn by_poll(&self, count: &AtomicUsize) -> Received {
        let mut received = self.begin();
        for _ in 0..self.returns {
            let wait_s = random(&self.rng, 2);
            let target = format!("/api/events?after={}&wait={wait_s}", received.cursor);
            let answer = get(self.server(), "duck", &target).await.json();
            answer["events"].as_array().unwrap().iter().for_each(|event| received.note(event));
            received.cursor = answer["cursor"].as_str().unwrap().to_owned();
            count.store(received.ids.len(), Ordering::Relaxed);
        }
        count.store(usize::MAX, Ordering::Relaxed);
        received
    }
}
