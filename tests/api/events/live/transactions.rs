//! Transactions that are open at the same time beside the servers, each pausing wherever it likes and then committed or
//! rolled back: the order of the log is that of their commits, and nobody is ahead of it.

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
        let writing = (0..WRITERS).map(|writer| write(place, servers, of(seed, writer), &left));
        let writing = futures_util::future::join_all(writing);
        let readers = [0, 1, 2].map(|way| read(servers, of(seed, WRITERS + way), way, cursor.clone(), &left));
        let (committed, told) = tokio::join!(writing, futures_util::future::join_all(readers));
        let end = place.numbers("SELECT last_position FROM messaging.event_log").await[0][0];
        // What was rolled back has left no gap.
        assert_eq!(end, begin + committed.iter().sum::<i64>());
        for positions in told {
            assert_eq!(positions, (begin + 1..=end).collect::<Vec<i64>>());
        }
        println!("{} events of transactions that were open at once", end - begin);
    });
}

/// Choices of one of many under a seed.
fn of(seed: u64, which: u64) -> Rng {
    Rng::Seeded((seed ^ (which << 40)).into())
}

async fn pause(rng: &Rng) {
    // None at all half the time.
    let pause_ms = random(rng, 8).saturating_sub(4);
    if pause_ms > 0 {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

/// Logs by SQL, as sends do: positions first, then the rows; how many events it committed.
async fn write(place: &Place, servers: [&Server; 2], rng: Rng, left: &AtomicUsize) -> i64 {
    const TAKE: &str = "UPDATE messaging.event_log SET last_position = last_position + $1 RETURNING last_position";
    const LOG: &str = "INSERT INTO messaging.events (position, type, actor_id, subject_id, at)
                       VALUES ($1, 'user.updated', 1, 1, now())";
    let mut connection = place.postgres().await;
    let mut committed = 0;
    for _ in 0..many(40, 1_000) {
        let transaction = connection.transaction().await.unwrap();
        // Its snapshot may be older than what others commit before it takes its positions.
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
        // Somebody may tell one of them, or both, or nobody; of nothing, too.
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

/// Reads from both servers in turn, going away and coming back, until the writers are done and nothing more comes; the
/// positions that were told.
async fn read(servers: [&Server; 2], rng: Rng, way: u64, mut cursor: String, left: &AtomicUsize) -> Vec<i64> {
    let mut positions = Vec::new();
    loop {
        let done = left.load(Ordering::Relaxed) == 0;
        let server = servers[random(&rng, 2) as usize];
        let told = match way {
            0 => by_socket(server, &rng, &cursor).await,
            1 => by_stream(server, &rng, &cursor).await,
            _ => {
                let answer = get(server, "duck", &format!("/api/events?after={cursor}")).await.json();
                answer["events"].as_array().unwrap().clone()
            }
        };
        if done && told.is_empty() {
            return positions;
        }
        for event in told {
            cursor = event["cursor"].as_str().unwrap().to_owned();
            positions.push(cursor.rsplit_once('-').unwrap().1.parse().unwrap());
        }
    }
}

/// Longer than the other server takes to look by itself: what has not come by then does not come.
const QUIET: Duration = Duration::from_millis(1_500);

async fn by_socket(server: &Server, rng: &Rng, cursor: &str) -> Vec<Value> {
    let mut socket = Socket::behind(server, "duck", cursor).await;
    let mut told = Vec::new();
    for _ in 0..=random(rng, 20) {
        match tokio::time::timeout(QUIET, socket.event()).await {
            Ok(event) => told.push(event),
            Err(_) => break,
        }
    }
    told
}

async fn by_stream(server: &Server, rng: &Rng, cursor: &str) -> Vec<Value> {
    let mut stream = Stream::open(server, "duck", Some(cursor)).await;
    assert_eq!(stream.next().await.unwrap().name, "hello");
    let mut told = Vec::new();
    for _ in 0..=random(rng, 20) {
        match tokio::time::timeout(QUIET, stream.next()).await {
            Ok(event) => told.push(event.unwrap().data),
            Err(_) => break,
        }
    }
    told
}
