//! Units of work that fail, hang or are dropped in the middle.
//!
//! Promise: only successful work is committed, events keep their order, and nothing keeps running on the database for a caller
//! that no longer waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use posthaste::base::error::Error;
use posthaste::base::ids::UserId;
use posthaste::base::time::{Clock, Timestamp};
use posthaste::store::db::Db;
use posthaste::store::driver::environment::{Environment, Location};
use posthaste::store::events::events::{self, Kind as EventKind, NewEvent};
use posthaste::store::identity::revocations::{self, Revoked};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::both;
use crate::support::place::Kind;
use crate::support::{Place, Server, run};

/// The number of connections in the pool. It must never be exceeded.
const POOL_SIZE: i64 = 16;
/// A statement must have ended on the database within this time after its caller has gone.
const GONE_WITHIN: Duration = Duration::from_secs(8);
/// A statement that would never end must have failed within this time. PostgreSQL ends it after 10 s.
const ENDED_WITHIN: Duration = Duration::from_secs(20);
/// The second host of a URL must be tried within this time if the first one is silent.
const SECOND_HOST_WITHIN: Duration = Duration::from_secs(10);

async fn open(location: &Location) -> Db {
    Db::open(location, Environment::new(Clock::System)).await.unwrap()
}

both!(events_of_one_unit_of_work_keep_their_order_around_a_revocation, async |place: &Place| {
    Server::start(place).await.stop().await;
    let db = open(&place.location()).await;
    let last = "SELECT last_position, (SELECT last_revocation FROM messaging.server_state) FROM messaging.event_log";
    let before = place.numbers(last).await;
    db.write((), |conn, ()| {
        Box::pin(async move {
            let event = |subject| {
                NewEvent::between(EventKind::FriendRequested, UserId(1), UserId(subject), Timestamp::from_micros(1))
            };
            revocations::insert(conn, Revoked::User(UserId(1)), Timestamp::from_micros(1)).await?;
            events::append(conn, &[event(11), event(12)]).await?;
            events::append(conn, &[event(13)]).await?;
            revocations::insert(conn, Revoked::User(UserId(2)), Timestamp::from_micros(1)).await
        })
    })
    .await
    .unwrap();
    let (position, revocation) = (before[0][0], before[0][1]);
    assert_eq!(place.numbers(last).await, [[position + 3, revocation + 2]]);
    let logged =
        format!("SELECT position, subject_id FROM messaging.events WHERE position > {position} ORDER BY position");
    assert_eq!(place.numbers(&logged).await, [[position + 1, 11], [position + 2, 12], [position + 3, 13]]);
    let revoked =
        format!("SELECT position, user_id FROM messaging.revocations WHERE position > {revocation} ORDER BY position");
    assert_eq!(place.numbers(&revoked).await, [[revocation + 1, 1], [revocation + 2, 2]]);
    db.close().await;
});

#[test]
fn a_unit_of_work_that_ignores_a_failed_statement_fails() {
    run(Kind::Postgres, async |place| {
        Server::start(place).await.stop().await;
        let db = open(&place.location()).await;
        let outcome = db
            .write((), |conn, ()| {
                Box::pin(async move {
                    conn.execute("UPDATE messaging.event_log SET epoch = 'changed'", &[]).await?;
                    let failed =
                        conn.execute("INSERT INTO messaging.event_log SELECT * FROM messaging.event_log", &[]).await;
                    assert!(matches!(failed, Err(Error::Duplicate { .. })), "{failed:?}");
                    Ok(())
                })
            })
            .await;
        assert!(outcome.is_err());
        let changed = "SELECT count(*) FROM messaging.event_log WHERE epoch = 'changed'";
        assert_eq!(place.numbers(changed).await, [[0]]);
        db.close().await;
    });
}

#[test]
fn a_write_after_a_failed_begin_does_not_happen() {
    run(Kind::Postgres, async |place| {
        Server::start(place).await.stop().await;
        let url = place.postgres_url();
        let server = url.split('@').nth(1).and_then(|rest| rest.split('/').next()).unwrap().to_owned();
        let spoils = Arc::new(AtomicBool::new(false));
        let address = spoil_begins(server.clone(), Arc::clone(&spoils)).await;
        let db = open(&Location::parse(&url.replacen(&server, &address, 1)).unwrap()).await;
        spoils.store(true, Ordering::Relaxed);
        let outcome = db.write((), |conn, ()| {
            Box::pin(async move { conn.execute("UPDATE messaging.event_log SET epoch = 'changed'", &[]).await })
        });
        assert!(outcome.await.is_err());
        let changed = "SELECT count(*) FROM messaging.event_log WHERE epoch = 'changed'";
        assert_eq!(place.numbers(changed).await, [[0]]);
        db.close().await;
    });
}

/// Starts a proxy to the server on which every BEGIN is a syntax error while `spoils` is set. Returns its address.
async fn spoil_begins(server: String, spoils: Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let upstream = TcpStream::connect(&server).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = upstream.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            let spoils = Arc::clone(&spoils);
            tokio::spawn(async move {
                let mut bytes = vec![0; 64 << 10];
                while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
                    let wanted = b"BEGIN ISOLATION";
                    if let Some(at) = bytes[..count].windows(wanted.len()).position(|window| window == wanted)
                        && spoils.load(Ordering::Relaxed)
                    {
                        bytes[at..at + 5].copy_from_slice(b"BEGXN");
                    }
                    if to_server.write_all(&bytes[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn callers_that_go_away_leave_no_statement_on_the_database() {
    run(Kind::Postgres, async |place| {
        let db = open(&place.location()).await;
        let sleep = || {
            db.read((), |conn, ()| {
                Box::pin(async move { conn.one("SELECT pg_sleep(60)::text", &[], |_| Ok(())).await })
            })
        };
        let most = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'posthaste'";
        for _ in 0..4 {
            let readers = futures_util::future::join_all((0..POOL_SIZE + 4).map(|_| sleep()));
            assert!(
                tokio::time::timeout(Duration::from_millis(700), readers).await.is_err(),
                "the callers ended too early"
            );
            let count = place.numbers(most).await[0][0];
            assert!(count <= POOL_SIZE, "{count} connections");
        }
        let sleeping = "SELECT count(*) FROM pg_stat_activity
                         WHERE datname = current_database() AND state = 'active' AND query LIKE '%pg_sleep(60)%'
                           AND pid <> pg_backend_pid()";
        let dropped = Instant::now();
        while place.numbers(sleeping).await != [[0]] {
            assert!(dropped.elapsed() < GONE_WITHIN, "statements still run after their callers have gone");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("no statement runs {:?} after the callers have gone", dropped.elapsed());
        let one =
            db.read((), |conn, ()| Box::pin(async move { conn.one("SELECT 1::bigint", &[], |row| row.i64(0)).await }));
        assert_eq!(one.await.unwrap(), 1);
        db.close().await;
    });
}

#[test]
fn an_endless_statement_is_ended_unless_it_is_maintenance() {
    run(Kind::Postgres, async |place| {
        let limit = format!("ALTER ROLE posthaste IN DATABASE {} SET statement_timeout = '1s'", place.database);
        place.sql(&limit).await;
        let db = open(&place.location()).await;
        let maintained = db.maintain((), |conn, ()| {
            Box::pin(async move { conn.one("SELECT pg_sleep(12.5)::text", &[], |_| Ok(())).await })
        });
        let begun = Instant::now();
        let written = db.write((), |conn, ()| {
            Box::pin(async move { conn.one("SELECT pg_sleep(60)::text", &[], |_| Ok(())).await })
        });
        let written = async { (written.await, begun.elapsed()) };
        let (maintained, (written, elapsed)) = tokio::join!(maintained, written);
        maintained.unwrap();
        println!("ended after {elapsed:?}");
        assert!(matches!(written, Err(Error::Unavailable { .. })), "{written:?}");
        assert!(elapsed > Duration::from_secs(5) && elapsed < ENDED_WITHIN, "{elapsed:?}");
        db.close().await;
    });
}

#[test]
fn a_silent_host_does_not_block_the_next_one() {
    run(Kind::Postgres, async |place| {
        // Puts a host that accepts connections and never answers before the real one.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = place.postgres_url();
        let (before, after) = url.split_once("127.0.0.1").expect("the cluster listens on 127.0.0.1");
        let url = format!("{before}{},127.0.0.1{after}", silent.local_addr().unwrap());
        let location = Location::parse(&url).unwrap();
        let begun = Instant::now();
        let db = open(&location).await;
        let elapsed = begun.elapsed();
        println!("connected after {elapsed:?} to {}", location.describe());
        assert!(elapsed < SECOND_HOST_WITHIN, "{elapsed:?}");
        // Later connections do not try the silent host first.
        let begun = Instant::now();
        let reads = (0..POOL_SIZE).map(|_| {
            db.read((), |conn, ()| {
                Box::pin(async move { conn.one("SELECT pg_sleep(0.1)::text", &[], |_| Ok(())).await })
            })
        });
        futures_util::future::join_all(reads).await.into_iter().for_each(|outcome| outcome.unwrap());
        println!("{POOL_SIZE} reads took {:?}", begun.elapsed());
        assert!(begun.elapsed() < SECOND_HOST_WITHIN, "{:?}", begun.elapsed());
        db.close().await;
    });
}
