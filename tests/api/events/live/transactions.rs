//! Transactions that are open at the same time on other connections. Each one pauses at random and is then committed or rolled
//! back. Invariant: the order of the log is the order of the commits, and no reader gets an event before an earlier one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use posthaste::base::ids::Rng;
use serde_json::Value;

use super::now;
use crate::support::people::get;
use crate::support::place::Kind;
use crate::support::watch::{Socket, Stream};
use crate::support::{Place, Server, many, random, run, seeded};

const WRITERS: u64 = 6;

#[test]
fn open_transactions_hide_and_repeat_nothing() {
    run(Kind::Postgres, async |place| {
        let (one, other) = (Server::start(place).await, Server::start(place).await);
        let servers = [&one, &other];
        let (seed, _) = seeded();
        let begin = place.numbers("SELECT last_position FROM messaging.event_log").await[0][0];
        let cursor = now(&one, "duck").await;
        let left = AtomicUsize::new(WRITERS as usize);
        let writing = (0..WRITERS).map(|writer| write(place, servers, rng_of(seed, writer), &left));
        let writing = futures_util::future::join_all(writing);
        let readers = [0, 1, 2].map(|way| read(servers, rng_of(seed, WRITERS + way), way, cursor.clone(), &left));
        let (committed, delivered) = tokio::join!(writing, futures_util::future::join_all(readers));
        let end = place.numbers("SELECT last_position FROM messaging.event_log").await[0][0];
        // A transaction that was rolled back leaves no gap.
        assert_eq!(end, begin + committed.iter().sum::<i64>());
        for positions in delivered {
            assert_eq!(positions, (begin + 1..=end).collect::<Vec<i64>>());
        }
        println!("{} events of transactions that were open at the same time", end - begin);
    });
}

/// A generator of random choices for one of several tasks, derived from the seed.
fn rng_of(seed: u64, which: u64) -> Rng {
    Rng::Seeded((seed ^ (which << 40)).into())
}

async fn pause(rng: &Rng) {
    // Half of the time there is no pause.
    let pause_ms = random(rng, 8).saturating_sub(4);
    if pause_ms > 0 {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

/// Writes events by SQL as sends do: first the positions, then the rows. Returns how many events it committed.
async fn write(place: &Place, servers: [&Server; 2], rng: Rng, left: &AtomicUsize) -> i64 {
    const TAKE: &str = "UPDATE messaging.event_log SET last_position = last_position + $1 RETURNING last_position";
    const LOG: &str = "INSERT INTO messaging.events (position, type, actor_id, subject_id, at)
                       VALUES ($1, 'user.updated', 1, 1, now())";
    let mut connection = place.postgres().await;
    let mut committed = 0;
    for _ in 0..many(40, 1_000) {
        let transaction = connection.transaction().await.unwrap();
        // This query may take the transaction's snapshot. Other transactions can commit after it and before this transaction
        // takes its positions.
        transaction.query("SELECT count(*) FROM messaging.users", &[]).await.unwrap();
        pause(&rng).await;
        let count = 1 + random(&rng, 3) as i64;
        let last: i64 = transaction.query_one(TAKE, &[&count]).await.unwrap().get(0);
        pause(&rng).await;
        for position in last - count + 1..=last {
            transaction.execute(LOG, &[&position]).await.unwrap();
            pause(&rng).await;
        }
        if random(&rng, 4) == 0 {
            transaction.rollback().await.unwrap();
        } else {
            transaction.commit().await.unwrap();
            committed += count;
        }
        // Wakes one server, both or none, even if the transaction was rolled back.
        for server in servers {
            if random(&rng, 2) == 0 {
                server.live.look();
            }
        }
        pause(&rng).await;
    }
    left.fetch_sub(1, Ordering::Relaxed);
    committed
}

/// Reads from both servers in turn, disconnects and returns, until the writers have finished and no event is left. Returns the
/// positions that were delivered.
async fn read(servers: [&Server; 2], rng: Rng, way: u64, mut cursor: String, left: &AtomicUsize) -> Vec<i64> {
    let mut positions = Vec::new();
    loop {
        let done = left.load(Ordering::Relaxed) == 0;
        let server = servers[random(&rng, 2) as usize];
        let delivered = match way {
            0 => by_socket(server, &rng, &cursor).await,
            1 => by_stream(server, &rng, &cursor).await,
            _ => {
                let answer = get(server, "duck", &format!("/api/events?after={cursor}")).await.json();
                answer["events"].as_array().unwrap().clone()
            }
        };
        if done && delivered.is_empty() {
            return positions;
        }
        for event in delivered {
            cursor = event["cursor"].as_str().unwrap().to_owned();
            positions.push(cursor.rsplit_once('-').unwrap().1.parse().unwrap());
        }
    }
}

/// Longer than the interval at which a server reads the log by itself. An event that has not arrived after this time will not
/// arrive.
const QUIET: Duration = Duration::from_millis(1_500);

async fn by_socket(server: &Server, rng: &Rng, cursor: &str) -> Vec<Value> {
    let mut socket = Socket::behind(server, "duck", cursor).await;
    let mut delivered = Vec::new();
    for _ in 0..=random(rng, 20) {
        match tokio::time::timeout(QUIET, socket.event()).await {
            Ok(event) => delivered.push(event),
            Err(_) => break,
        }
    }
    delivered
}

async fn by_stream(server: &Server, rng: &Rng, cursor: &str) -> Vec<Value> {
    let mut stream = Stream::open(server, "duck", Some(cursor)).await;
    assert_eq!(stream.next().await.unwrap().name, "hello");
    let mut delivered = Vec::new();
    for _ in 0..=random(rng, 20) {
        match tokio::time::timeout(QUIET, stream.next()).await {
            Ok(event) => delivered.push(event.unwrap().data),
            Err(_) => break,
        }
    }
    delivered
}
