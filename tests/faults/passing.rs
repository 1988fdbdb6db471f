//! Temporary faults: errors of PostgreSQL that are over a moment later.
//!
//! Promise: the unit of work is run again where that is safe. Otherwise the request is answered with 503 and Retry-After, never
//! with 500.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use super::{assert_refused_for_now, assert_unavailable, call};
use crate::operations::durability::{Load, assert_kept, repeat_lost};
use crate::support::cluster::Cluster;
use crate::support::place::{Kind, Place};
use crate::support::server::Answer;
use crate::support::{Options, Server, many, random, run, seeded};

const DURING: Duration = Duration::from_secs(6);
const CALLERS: usize = 32;
/// Number of requests of each caller while PostgreSQL allows few connections.
const REQUESTS: usize = 15;
const FEW_CONNECTIONS: &str = "max_connections=12";

/// Callers who read, react, edit and send receipts in one conversation until they are stopped. The tasks return all their
/// answers.
struct Crowd {
    stop: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<Vec<Answer>>>,
}

impl Crowd {
    async fn start(place: &Place, address: SocketAddr, callers: usize) -> Self {
        let first = place.numbers("SELECT conversation_id, seq FROM messaging.messages ORDER BY id LIMIT 1").await;
        let (conversation, stop) = (first[0][0], Arc::new(AtomicBool::new(false)));
        let callers = (0..callers)
            .map(|caller| {
                let stop = Arc::clone(&stop);
                tokio::spawn(async move {
                    let mut answers = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        answers.push(act(address, conversation, caller + answers.len()).await);
                    }
                    answers
                })
            })
            .collect();
        Self { stop, callers }
    }

    async fn stop(self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answers = Vec::new();
        for caller in self.callers {
            answers.extend(caller.await.unwrap());
        }
        answers
    }
}

/// One request. The number selects its kind.
async fn act(address: SocketAddr, conversation: i64, number: usize) -> Answer {
    let path = |rest: &str| format!("/api/conversations/{conversation}/{rest}");
    let person = ["rdibari", "bugs"][number / 5 % 2];
    match number % 5 {
        0 => call(address, "bugs", Method::GET, "/api/messages/bugs?order=desc&limit=10", None).await,
        1 => call(address, person, Method::PUT, &path("messages/1/reactions/%F0%9F%91%8D"), None).await,
        2 => call(address, person, Method::DELETE, &path("messages/1/reactions/%F0%9F%91%8D"), None).await,
        3 => call(address, person, Method::POST, &path("receipts"), Some(json!({"read_seq": 1}))).await,
        _ => {
            let edit = json!({"body": "Hey, whats up?"});
            call(address, "rdibari", Method::PATCH, &path("messages/1"), Some(edit)).await
        }
    }
}

/// Asserts that each answer is a success or a 503, and returns how many were refused. A reaction may already have been removed
/// by another caller.
fn count_refused(answers: &[Answer]) -> usize {
    let refusals = answers.iter().filter(|answer| !answer.status.is_success() && answer.status != 404);
    refusals.map(assert_unavailable).count()
}

#[test]
fn a_serializable_role_fails_no_write() {
    run(Kind::Postgres, async |place| {
        place
            .sql(&format!(
                "ALTER ROLE posthaste IN DATABASE {} SET default_transaction_isolation = 'serializable'",
                place.database
            ))
            .await;
        let server = Server::start(place).await;
        let load = Load::start(server.address, "serializable");
        let crowd = Crowd::start(place, server.address, 8).await;
        tokio::time::sleep(DURING).await;
        let (attempts, answers) = (load.stop().await, crowd.stop().await);
        let (unsent, refused) = (assert_refused_for_now(&attempts), count_refused(&answers));
        println!("{unsent} of {} sends and {refused} of {} requests refused", attempts.len(), answers.len());
        assert_eq!((unsent, refused), (0, 0));
        assert_kept(place, &attempts).await;
        server.stop().await;
    });
}

#[test]
fn a_pool_works_with_the_connections_that_it_gets() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start_with(&[FEW_CONNECTIONS]).await;
        let place = Place::in_cluster(&cluster.url()).await;
        // The server must not connect as a superuser: it could then use the connections that PostgreSQL keeps for superusers,
        // and the test needs one of them.
        place.sql(&format!("CREATE ROLE few LOGIN; GRANT ALL ON DATABASE {} TO few", place.database)).await;
        let database_url = Some(place.postgres_url().replacen("posthaste@", "few@", 1));
        let server = Server::start_with(&place, Options { database_url, ..Options::default() }).await;
        let first = place.numbers("SELECT conversation_id FROM messaging.messages ORDER BY id LIMIT 1").await[0][0];
        let address = server.address;
        let load = Load::start(address, "few");
        let callers = (0..CALLERS).map(|caller| {
            tokio::spawn(async move {
                let mut answers = Vec::new();
                for number in 0..REQUESTS {
                    answers.push(act(address, first, caller + number).await);
                }
                answers
            })
        });
        let mut answers = Vec::new();
        for caller in callers.collect::<Vec<_>>() {
            answers.extend(caller.await.unwrap());
        }
        let attempts = load.stop().await;
        let (unsent, refused) = (assert_refused_for_now(&attempts), count_refused(&answers));
        println!("{unsent} of {} sends and {refused} of {} requests refused", attempts.len(), answers.len());
        assert_eq!((unsent, refused), (0, 0));
        assert_kept(&place, &attempts).await;
        server.stop().await;
    });
}

#[test]
fn cancelled_statements_and_ended_backends_are_refusals_for_now() {
    run(Kind::Postgres, async |place| {
        let (_, rng) = seeded();
        let server = Server::start(place).await;
        let load = Load::start(server.address, "administrator");
        let crowd = Crowd::start(place, server.address, 8).await;
        load.accepts_more(50).await;
        let administrator = place.postgres().await;
        let (mut cancelled, mut ended) = (0, 0);
        let begun = Instant::now();
        while begun.elapsed() < DURING * u32::try_from(many(1, 5)).unwrap() {
            let (deed, condition) = match random(&rng, 3) {
                0 => ("pg_cancel_backend", "state = 'active'"),
                1 => ("pg_terminate_backend", "state = 'active'"),
                _ => ("pg_terminate_backend", "state LIKE 'idle in transaction%'"),
            };
            let sql = format!(
                "SELECT {deed}(pid) FROM pg_stat_activity WHERE datname = current_database() AND {condition}
                    AND application_name = 'posthaste' ORDER BY random() LIMIT 2"
            );
            let done = administrator.query(&sql, &[]).await.unwrap().len();
            if deed == "pg_cancel_backend" {
                cancelled += done
            } else {
                ended += done
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        load.accepts_more(50).await;
        let (mut attempts, answers) = (load.stop().await, crowd.stop().await);
        let (unsent, refused) = (assert_refused_for_now(&attempts), count_refused(&answers));
        println!(
            "{cancelled} cancelled, {ended} ended: {unsent} of {} sends and {refused} of {} requests refused",
            attempts.len(),
            answers.len()
        );
        assert!(cancelled > 10 && ended > 10, "{cancelled} {ended}");
        repeat_lost(server.address, &mut attempts).await;
        assert_kept(place, &attempts).await;
        server.stop().await;
    });
}
