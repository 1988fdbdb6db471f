//! Readers that go away and come back at random while messages are sent, in each way to read: from one server, and from two
//! in turn with each bus.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use posthaste::base::ids::Rng;
use posthaste::live::bus::BusSettings;

use super::faults::Told;
use super::{now, poll};
use crate::both;
use crate::support::nats::NatsServer;
use crate::support::people::get;
use crate::support::place::Kind;
use crate::support::watch::{Socket, Stream};
use crate::support::{Options, Place, Server, many, random, run, seeded};

/// Returns in a soak, in each way to read.
const RETURNS_OF_A_SOAK: usize = 1_000;
/// Messages by which the writer may be ahead of a reader.
const AHEAD: usize = 60;

both!(a_reader_that_comes_and_goes_gets_everything_once, async |place| {
    let server = Server::start(place).await;
    come_and_go(&[&server], many(150, RETURNS_OF_A_SOAK)).await;
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
    come_and_go(&[&one, &other], many(60, RETURNS_OF_A_SOAK)).await;
}

async fn come_and_go(servers: &[&Server], returns: usize) {
    let started = Instant::now();
    let cursor = now(servers[0], "duck").await;
    let done = AtomicBool::new(false);
    let told: [AtomicUsize; 3] = Default::default();
    let writing = async {
        let mut sent = Vec::new();
        while !done.load(Ordering::Relaxed) {
            // Not far ahead: whoever comes back reads on in the log, a page of it each time.
            if told.iter().any(|told| told.load(Ordering::Relaxed).saturating_add(AHEAD) < sent.len()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
            let sending = (0..12).map(|number| servers[number % servers.len()].send("bugs", "duck", "x"));
            sent.extend(futures_util::future::join_all(sending).await.iter().map(|told| told["id"].as_i64().unwrap()));
            // So that the readers are at the end now and then.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        sent
    };
    let reading = async {
        let (_, rng) = seeded();
        let coming = Coming { servers, rng, cursor, returns };
        let [by_socket, by_stream, by_poll] = &told;
        let (by_socket, by_stream, by_poll) =
            (coming.by_socket(by_socket), coming.by_stream(by_stream), coming.by_poll(by_poll));
        let told = futures_util::future::join3(by_socket, by_stream, by_poll).await;
        done.store(true, Ordering::Relaxed);
        [told.0, told.1, told.2]
    };
    let (sent, readers) = tokio::join!(writing, reading);
    for mut told in readers {
        // What came after the last return.
        loop {
            let (events, _) = poll(servers[0], "duck", &told.cursor).await;
            if events.is_empty() {
                break;
            }
            events.iter().for_each(|event| told.note(event));
        }
        let distinct: BTreeSet<i64> = told.ids.iter().copied().collect();
        assert_eq!(distinct.len(), told.ids.len(), "told twice");
        assert_eq!(distinct, sent.iter().copied().collect(), "missed");
        assert!(told.ids.is_sorted(), "out of order");
    }
    assert!(sent.len() > returns, "{}", sent.len());
    println!("3 x {returns} returns to {} servers, {} events in {:?}", servers.len(), sent.len(), started.elapsed());
}

/// Who comes, and where.
struct Coming<'a> {
    servers: &'a [&'a Server],
    rng: Rng,
    cursor: String,
    returns: usize,
}

impl Coming<'_> {
    fn server(&self) -> &Server {
        self.servers[random(&self.rng, self.servers.len() as u64) as usize]
    }

    fn begin(&self) -> Told {
        Told { cursor: self.cursor.clone(), ..Told::default() }
    }

    async fn by_socket(&self, count: &AtomicUsize) -> Told {
        let mut told = self.begin();
        for _ in 0..self.returns {
            let mut socket = Socket::behind(self.server(), "duck", &told.cursor).await;
            for _ in 0..random(&self.rng, 8) {
                told.note(&socket.event().await);
            }
            count.store(told.ids.len(), Ordering::Relaxed);
        }
        count.store(usize::MAX, Ordering::Relaxed);
        told
    }

    async fn by_stream(&self, count: &AtomicUsize) -> Told {
        let mut told = self.begin();
        for _ in 0..self.returns {
            let mut stream = Stream::open(self.server(), "duck", Some(&told.cursor)).await;
            assert_eq!(stream.next().await.unwrap().name, "hello");
            for _ in 0..random(&self.rng, 8) {
                told.note(&stream.next().await.unwrap().data);
            }
            count.store(told.ids.len(), Ordering::Relaxed);
        }
        count.store(usize::MAX, Ordering::Relaxed);
        told
    }

    async fn by_poll(&self, count: &AtomicUsize) -> Told {
        let mut told = self.begin();
        for _ in 0..self.returns {
            let wait_s = random(&self.rng, 2);
            let target = format!("/api/events?after={}&wait={wait_s}", told.cursor);
            let answer = get(self.server(), "duck", &target).await.json();
            answer["events"].as_array().unwrap().iter().for_each(|event| told.note(event));
            told.cursor = answer["cursor"].as_str().unwrap().to_owned();
            count.store(told.ids.len(), Ordering::Relaxed);
        }
        count.store(usize::MAX, Ordering::Relaxed);
        told
    }
}
