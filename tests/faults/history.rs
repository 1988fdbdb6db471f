//! The history checker: clients work on two nodes over one database while faults happen. At the end everything that the clients
//! saw is compared with the promises.
//!
//! Promises: an acknowledged message is stored once, at the place that the answer named, in the order of its conversation. A
//! read that begins after an acknowledged send sees it, on any node. Each reader gets each event that they may see once and in
//! order, even if they change nodes and ways of reading. Unread counts agree with a simple model.

mod clients;
mod injector;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use posthaste::base::ids::Rng;
use reqwest::Method;

use super::call;
use crate::operations::durability::{Attempt, assert_kept, last_message};
use crate::support::cluster::Cluster;
use crate::support::nats::NatsServer;
use crate::support::place::{Kind, Place};
use crate::support::{is_soak, many, random, seeded};
use clients::{Reader, Receipts};
use injector::Injector;

/// For how many seconds faults happen, in a test and in a soak.
const DURING_S: (usize, usize) = (14, 100);
const WRITERS: usize = 6;
const PEOPLE: [&str; 4] = ["rdibari", "bugs", "duck", "porky"];
/// Time for the nodes to recover from the last fault.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// The state that the clients share.
pub struct World {
    /// The addresses of the nodes. A node that is down keeps its last address.
    pub nodes: Mutex<Vec<SocketAddr>>,
    /// Set when no new work may begin.
    pub stop: AtomicBool,
    /// Set when all writers have ended. A reader that reaches the end of the event log after that has read everything.
    pub is_written: AtomicBool,
    /// The largest acknowledged seq of each conversation, and its members.
    pub newest: Mutex<HashMap<i64, (i64, [&'static str; 2])>>,
    /// Number of reads that found an acknowledged message directly after its send, on any node.
    pub read_back: AtomicUsize,
    seed: u64,
}

impl World {
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A random generator of one client.
    pub fn rng(&self, client: u64) -> Rng {
        Rng::Seeded(self.seed.wrapping_add(client.wrapping_mul(0x9E37_79B9)).into())
    }

    /// Records an acknowledged message.
    pub fn note(&self, conversation: i64, seq: i64, (sender, recipient): (&'static str, &'static str)) {
        let mut newest = self.newest.lock().unwrap();
        let known = newest.entry(conversation).or_insert((seq, [sender, recipient]));
        known.0 = known.0.max(seq);
    }

    pub fn node(&self, rng: &Rng) -> SocketAddr {
        let nodes = self.nodes.lock().unwrap();
        nodes[random(rng, nodes.len() as u64) as usize]
    }
}

#[test]
fn sqlite() {
    run(Kind::Sqlite);
}

#[test]
fn postgres() {
    run(Kind::Postgres);
}

fn run(kind: Kind) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // A soak also stops the database and the bus, which other tests must not share.
        let of_its_own = kind == Kind::Postgres && is_soak();
        let cluster = if of_its_own { Some(Cluster::start().await) } else { None };
        let nats = if of_its_own { Some(NatsServer::start().await) } else { None };
        let place = match &cluster {
            Some(cluster) => Place::in_cluster(&cluster.url()).await,
            None => Place::new(kind).await,
        };
        check(&place, cluster, nats).await;
        if !of_its_own {
            place.remove().await;
        }
    });
}

async fn check(place: &Place, cluster: Option<Cluster>, nats: Option<NatsServer>) {
    let (seed, rng) = seeded();
    let mut injector = Injector::start(place, cluster, nats, rng).await;
    let before = last_message(place).await;
    let world = Arc::new(World {
        nodes: Mutex::new(injector.addresses()),
        stop: AtomicBool::new(false),
        is_written: AtomicBool::new(false),
        newest: Mutex::default(),
        read_back: AtomicUsize::new(0),
        seed,
    });
    let readers = PEOPLE.into_iter().map(Some).chain([None]).enumerate();
    let mut reading = Vec::new();
    for (number, person) in readers {
        let reader = Reader::begin(Arc::clone(&world), 100 + number as u64, person).await;
        reading.push((person, tokio::spawn(reader.run())));
    }
    let writing: Vec<_> =
        (0..WRITERS).map(|number| tokio::spawn(clients::write(Arc::clone(&world), number as u64))).collect();
    let receiving = tokio::spawn(Receipts::run(Arc::clone(&world)));
    let during = Duration::from_secs(many(DURING_S.0, DURING_S.1) as u64);
    let faults = injector.inject(&world, during).await;
    world.stop.store(true, Ordering::Relaxed);
    let mut attempts = Vec::new();
    for writer in writing {
        attempts.extend(writer.await.unwrap());
    }
    let receipts = receiving.await.unwrap();
    world.is_written.store(true, Ordering::Relaxed);
    let accepted = attempts.iter().filter(|attempt| attempt.accepted().is_some()).count();
    println!(
        "{} sends, {accepted} accepted, {} read back, {} receipts, faults: {faults:?}",
        attempts.len(),
        world.read_back.load(Ordering::Relaxed),
        receipts.count()
    );
    for (person, reader) in reading {
        let reader = reader.await.unwrap();
        println!("{person:?}: {} events on {} visits", reader.events, reader.visits);
        assert_read(place, person, before, &reader).await;
    }
    assert!(accepted > 100, "too few sends were accepted to show anything: {accepted}");
    assert_history(place, &attempts).await;
    assert_unread(place, &world, &receipts).await;
    injector.end().await;
}

/// Asserts that each acknowledged message is stored once at the place that its answer named, in the order of its conversation.
async fn assert_history(place: &Place, attempts: &[Attempt]) {
    assert_kept(place, attempts).await;
    let mut unknown = attempts.iter().filter(|attempt| attempt.accepted().is_none() && attempt.key.is_some());
    assert!(unknown.next().is_none(), "a send with a key has no known outcome");
    assert_in_order(place).await;
}

/// Asserts that everything the reader may see was delivered, once and in order.
async fn assert_read(place: &Place, person: Option<&str>, before: i64, reader: &Reader) {
    let only = person.map_or(String::new(), |person| {
        format!(
            " AND conversation_id IN (SELECT m.conversation_id FROM messaging.members m
                                        JOIN messaging.users u ON u.id = m.user_id WHERE u.user_name = '{person}')"
        )
    });
    let sql = format!("SELECT id FROM messaging.messages WHERE id > {before}{only} ORDER BY id");
    let expected: BTreeSet<i64> = place.numbers(&sql).await.into_iter().flatten().collect();
    let delivered: BTreeSet<i64> = reader.ids.iter().copied().collect();
    assert_eq!(delivered.len(), reader.ids.len(), "{person:?}: some messages were delivered twice");
    let missed: Vec<&i64> = expected.difference(&delivered).collect();
    assert!(missed.is_empty(), "{person:?}: {} messages were not delivered: {missed:?}", missed.len());
    assert_eq!(delivered, expected, "{person:?}");
}

/// Asserts that each read watermark is at least the highest acknowledged one and at most the highest attempted one, and that
/// the unread count is the number of messages after the watermark. A user has also read everything up to their own last
/// message.
async fn assert_unread(place: &Place, world: &World, receipts: &Receipts) {
    let node = world.nodes.lock().unwrap()[0];
    let conversations = world.newest.lock().unwrap().clone();
    for (conversation, (_, people)) in conversations {
        for person in BTreeSet::from(people) {
            let answer = call(node, person, Method::GET, &format!("/api/conversations/{conversation}"), None).await;
            assert_eq!(answer.status, 200);
            let me = answer.json()["me"].clone();
            let own = format!(
                "SELECT coalesce(max(m.seq), 0) FROM messaging.messages m JOIN messaging.users u ON u.id = m.sender_id
                  WHERE m.conversation_id = {conversation} AND u.user_name = '{person}'"
            );
            let own = place.numbers(&own).await[0][0];
            let (least, most) = receipts.bounds(person, conversation);
            let read_seq = me["read_seq"].as_i64().unwrap();
            assert!(
                (own.max(least)..=own.max(most)).contains(&read_seq),
                "{person} {conversation}: {me} {own} {least} {most}"
            );
            let unread = format!(
                "SELECT count(*) FROM messaging.messages
                  WHERE conversation_id = {conversation} AND seq > {read_seq} AND kind = 'text'"
            );
            assert_eq!(me["unread_count"], place.numbers(&unread).await[0][0], "{person} {conversation}: {me}");
        }
    }
}

/// Asserts that messages are numbered without gaps in each conversation, and that their ids and times rise with the numbers.
async fn assert_in_order(place: &Place) {
    let gaps = "SELECT conversation_id, count(*) FROM messaging.messages GROUP BY conversation_id
                HAVING count(*) <> max(seq) OR min(seq) <> 1";
    assert_eq!(place.numbers(gaps).await, Vec::<Vec<i64>>::new());
    let disordered = "SELECT a.conversation_id, a.seq FROM messaging.messages a JOIN messaging.messages b
                        ON b.conversation_id = a.conversation_id AND b.seq = a.seq + 1
                      WHERE b.id <= a.id OR b.timestamp_sent < a.timestamp_sent";
    assert_eq!(place.numbers(disordered).await, Vec::<Vec<i64>>::new());
}

/// Asserts that less than [`DRAIN_TIMEOUT`] has passed since `begun`. `what` names what must happen in this time.
pub fn assert_in_time(begun: Instant, what: &str) {
    assert!(begun.elapsed() < DRAIN_TIMEOUT, "this never happens: {what}");
}
