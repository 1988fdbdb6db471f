//! Locks whose owner has vanished: a transaction holds a lock that every writer needs, and its client does not end it.
//!
//! Promise: such a transaction stops the other nodes for a few seconds only, even if its client is gone for longer. No acknowledged
//! write is lost, no write is done twice, and no node uses more connections than documented.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use super::proxy::{Flow, Proxy};
use super::samples::{accepted, connections, longest_gap, most, readiness};
use super::{CONNECTIONS_OF_A_SERVER, assert_refused_for_now, assert_unavailable, call};
use crate::messages::messages::assert_dense;
use crate::operations::durability::{Load, Outcome, assert_kept, assert_kept_beside, repeat_lost};
use crate::support::cluster::Cluster;
use crate::support::place::{Kind, Place};
use crate::support::process::{Process, Wrapping, signal};
use crate::support::wire::{Wire, get_request, send_request};
use crate::support::{Server, run};

/// The longest time in which the other node may send nothing. PostgreSQL ends an abandoned transaction after 5 s. The other 4 s
/// allow for a busy machine.
const GAP_LIMIT: Duration = Duration::from_secs(9);
/// A node must work again within this time after the fault has ended.
const RECOVERY_LIMIT: Duration = Duration::from_secs(15);
/// How long a foreign transaction keeps its locks: longer than the lock timeout of a node.
const FOREIGN_LOCK: Duration = Duration::from_secs(12);
/// Sends must be accepted again within this time after a lock is gone.
const AFTER_A_LOCK: Duration = Duration::from_secs(4);
/// How long a foreign lock blocks all commits.
const STUCK: Duration = Duration::from_secs(6);
/// `/readyz` must report within this time that commits are stuck, and later that they work again.
const NOT_READY_WITHIN: Duration = Duration::from_secs(5);
/// A test pauses a process at most this many times to catch it while it holds a lock.
const PAUSES: usize = 30;
/// How long a process stays paused before the test checks whether it holds a lock.
const CATCH_AFTER: Duration = Duration::from_millis(300);
const PAUSE_OF_A_NODE: Duration = Duration::from_secs(15);
const PAUSE_OF_A_BACKEND: Duration = Duration::from_secs(12);

struct Nodes {
    /// The proxy between the database and `node`.
    proxy: Proxy,
    node: Process,
    other: Process,
}

impl Nodes {
    async fn start(place: &Place) -> Self {
        let other = Process::start(place).await;
        let proxy = Proxy::start(&place.postgres_url()).await;
        let database_url = Some(proxy.url(&place.postgres_url()));
        let node = Process::start_wrapped(place, Wrapping { database_url, ..Wrapping::default() }).await;
        Self { proxy, node, other }
    }
}

#[test]
fn a_node_that_vanishes_before_the_commit_of_a_send_stops_the_others_for_seconds() {
    run(Kind::Postgres, async |place| {
        let nodes = Nodes::start(place).await;
        let request = send_request("bugs", "duck", "vanished", Some("vanished"));
        vanish(place, &nodes, &["vanished"], async |address| {
            Wire::connect(address).await.unwrap().exchange(&request).await.unwrap()
        })
        .await;
        // The sender repeats the send on the other node. The message is stored once.
        let answer = Wire::connect(nodes.other.address).await.unwrap().exchange(&request).await.unwrap();
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
        assert_eq!(place.numbers("SELECT count(*) FROM messaging.messages WHERE body = 'vanished'").await, [[1]]);
        assert_dense(place).await;
    });
}

#[test]
fn a_node_that_vanishes_before_the_commit_of_an_edit_stops_the_others_for_seconds() {
    run(Kind::Postgres, async |place| {
        let nodes = Nodes::start(place).await;
        let first = place.numbers("SELECT conversation_id, seq FROM messaging.messages ORDER BY id LIMIT 1").await;
        let target = format!("/api/conversations/{}/messages/{}", first[0][0], first[0][1]);
        let edit =
            async |address| call(address, "rdibari", Method::PATCH, &target, Some(json!({"body": "edited"}))).await;
        vanish(place, &nodes, &["edited"], edit).await;
        assert_eq!(edit(nodes.other.address).await.status, 200);
        assert_eq!(place.numbers("SELECT count(*) FROM messaging.messages WHERE body = 'edited'").await, [[1]]);
    });
}

#[test]
fn a_node_that_vanishes_before_the_commit_of_a_member_change_stops_the_others_for_seconds() {
    run(Kind::Postgres, async |place| {
        let nodes = Nodes::start(place).await;
        let new = json!({"kind": "group", "title": "Looney Tunes", "member_user_names": ["duck"]});
        let made = call(nodes.other.address, "bugs", Method::POST, "/api/conversations", Some(new)).await;
        assert_eq!(made.status, 201);
        let target = format!("/api/conversations/{}/members/duck", made.json()["id"]);
        let remove = async |address| call(address, "bugs", Method::DELETE, &target, None).await;
        vanish(place, &nodes, &[""], remove).await;
        let members = format!(
            "SELECT count(*) FROM messaging.members WHERE conversation_id = {}",
            made.json()["id"].as_i64().unwrap()
        );
        let answer = remove(nodes.other.address).await;
        // The answer is 404 if the COMMIT of the first change reached PostgreSQL in time, so that the member is already
        // removed.
        assert!([204, 404].contains(&answer.status.as_u16()), "{}", answer.status);
        assert_eq!(place.numbers(&members).await, [[1]]);
    });
}

/// Cuts `node` off from the database before the commit of `write`, while the other node sends messages. `bodies` are the bodies of
/// the messages that `write` may have stored.
async fn vanish(place: &Place, nodes: &Nodes, bodies: &[&str], write: impl AsyncFn(SocketAddr) -> super::Answer) {
    let Nodes { proxy, node, other } = nodes;
    let load = Load::start(other.address, "other");
    load.accepts_more(100).await;
    let (sends, backends, ready) = (accepted(&load), connections(place).await, readiness(other.address));
    proxy.vanish_before_commit();
    tokio::select! {
        biased;
        () = proxy.vanished() => {}
        answer = write(node.address) => panic!("answered without a COMMIT: {}", answer.status),
    }
    load.accepts_more(100).await;
    let gap = longest_gap(&sends.end().await);
    // The network works again and delivers the bytes that it held back.
    let back = Instant::now();
    proxy.set(Flow::Pass);
    let mut answers = Vec::new();
    loop {
        let request = send_request("porky", "duck", "back", Some("back"));
        let answer = Wire::connect(node.address).await.unwrap().exchange(&request).await.unwrap();
        if answer.status == 201 {
            break;
        }
        answers.push(answer);
        assert!(back.elapsed() < RECOVERY_LIMIT, "the node does not work again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let recovery = back.elapsed();
    answers.iter().for_each(assert_unavailable);
    let most_backends = most(&backends.end().await);
    let ready = ready.end().await;
    let attempts = load.stop().await;
    println!("gap {gap:?}, recovery {recovery:?}, {most_backends} connections, {} refused", {
        assert_refused_for_now(&attempts)
    });
    assert!(gap < GAP_LIMIT, "the other node sent nothing for {gap:?}");
    assert!(most_backends <= 2 * CONNECTIONS_OF_A_SERVER, "{most_backends} connections");
    assert_eq!(ready.last().unwrap().1, 200);
    assert_kept_beside(place, &attempts, &[bodies, &["back"]].concat()).await;
}

#[test]
fn a_node_that_is_paused_in_the_middle_of_its_load_stops_the_others_for_seconds() {
    run(Kind::Postgres, async |place| {
        let (node, other) = (Process::start(place).await, Process::start(place).await);
        let (paused_load, load) = (Load::start(node.address, "paused"), Load::start(other.address, "other"));
        paused_load.accepts_more(100).await;
        load.accepts_more(100).await;
        let (sends, backends) = (accepted(&load), connections(place).await);
        let caught = pause_in_a_transaction(place, &node).await;
        tokio::time::sleep(PAUSE_OF_A_NODE).await;
        node.resume();
        let resumed = Instant::now();
        paused_load.accepts_more(100).await;
        let recovery = resumed.elapsed();
        load.accepts_more(100).await;
        let (gap, most_backends) = (longest_gap(&sends.end().await), most(&backends.end().await));
        let mut attempts = paused_load.stop().await;
        attempts.extend(load.stop().await);
        let refused = assert_refused_for_now(&attempts);
        println!(
            "gap {gap:?}, recovery {recovery:?}, {most_backends} connections, {refused} refused, {}",
            if caught { "paused in a transaction" } else { "never caught in a transaction" }
        );
        assert!(gap < GAP_LIMIT, "the other node sent nothing for {gap:?}");
        assert!(recovery < RECOVERY_LIMIT, "{recovery:?}");
        assert!(most_backends <= 2 * CONNECTIONS_OF_A_SERVER, "{most_backends} connections");
        repeat_lost(other.address, &mut attempts).await;
        assert_kept(place, &attempts).await;
        assert_dense(place).await;
    });
}

/// Pauses and resumes a node until a pause falls into a transaction. Leaves the node paused. Returns whether that
/// succeeded.
async fn pause_in_a_transaction(place: &Place, node: &Process) -> bool {
    let abandoned = "SELECT count(*) FROM pg_stat_activity
                      WHERE datname = current_database() AND state = 'idle in transaction'
                        AND state_change < clock_timestamp() - interval '250 ms'";
    for _ in 0..PAUSES {
        node.pause();
        tokio::time::sleep(CATCH_AFTER).await;
        if place.numbers(abandoned).await != [[0]] {
            return true;
        }
        node.resume();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    node.pause();
    false
}

#[test]
fn a_foreign_lock_on_the_event_counter_refuses_sends_until_it_ends() {
    foreign_lock("SELECT 1 FROM messaging.event_log FOR UPDATE", false);
}

#[test]
fn a_foreign_lock_on_a_table_refuses_reads_and_sends_until_it_ends() {
    foreign_lock("LOCK TABLE messaging.messages IN ACCESS EXCLUSIVE MODE", true);
}

fn foreign_lock(sql: &str, stops_reads: bool) {
    run(Kind::Postgres, async |place| {
        let server = Server::start(place).await;
        let load = Load::start(server.address, "behind the lock");
        load.accepts_more(100).await;
        let backends = connections(place).await;
        let foreign = place.postgres().await;
        foreign.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
        let reading = async {
            let answer = call(server.address, "bugs", Method::GET, "/api/messages/bugs?order=desc", None).await;
            if stops_reads { assert_unavailable(&answer) } else { assert_eq!(answer.status, 200) }
        };
        tokio::join!(tokio::time::sleep(FOREIGN_LOCK), reading);
        let refused_meanwhile = load.refused();
        foreign.batch_execute("ROLLBACK").await.unwrap();
        let released = Instant::now();
        load.accepts_more(100).await;
        let recovery = released.elapsed();
        let most_backends = most(&backends.end().await);
        let mut attempts = load.stop().await;
        let refused = assert_refused_for_now(&attempts);
        println!("{refused} refused, recovery {recovery:?}, {most_backends} connections");
        assert!(refused_meanwhile > 0, "nothing was refused for {FOREIGN_LOCK:?}");
        assert!(recovery < AFTER_A_LOCK, "{recovery:?}");
        assert!(most_backends < CONNECTIONS_OF_A_SERVER, "{most_backends} connections");
        repeat_lost(server.address, &mut attempts).await;
        assert_kept(place, &attempts).await;
        assert_dense(place).await;
        server.stop().await;
    });
}

#[test]
fn a_paused_backend_of_postgres_loses_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start().await;
        let place = Place::in_cluster(&cluster.url()).await;
        let server = Server::start(&place).await;
        let load = Load::start(server.address, "paused");
        load.accepts_more(100).await;
        let backends = connections(&place).await;
        let (pid, caught) = pause_a_busy_backend(&place, &load).await;
        tokio::time::sleep(PAUSE_OF_A_BACKEND).await;
        signal("CONT", pid);
        let resumed = Instant::now();
        load.accepts_more(100).await;
        let recovery = resumed.elapsed();
        let most_backends = most(&backends.end().await);
        let answer = Wire::connect(server.address).await.unwrap().exchange(&get_request("/readyz")).await.unwrap();
        assert_eq!(answer.status, 200);
        let mut attempts = load.stop().await;
        let refused = assert_refused_for_now(&attempts);
        let lost = attempts.iter().filter(|attempt| matches!(attempt.outcome, Outcome::Lost(_))).count();
        println!(
            "recovery {recovery:?}, {most_backends} connections, {refused} refused, {lost} without an answer, {}",
            if caught { "paused while it held a lock" } else { "never caught while it held a lock" }
        );
        assert!(recovery < AFTER_A_LOCK, "{recovery:?}");
        assert!(most_backends < CONNECTIONS_OF_A_SERVER, "{most_backends} connections");
        repeat_lost(server.address, &mut attempts).await;
        assert_kept(&place, &attempts).await;
        assert_dense(&place).await;
        server.stop().await;
    });
}

/// Pauses and resumes backends of PostgreSQL until a pause stops all sends. Leaves the last one paused. Returns its process id and
/// whether its pause stopped all sends.
async fn pause_a_busy_backend(place: &Place, load: &Load) -> (u32, bool) {
    let busy = "SELECT pid::bigint FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'posthaste'
                 ORDER BY state = 'idle', xact_start LIMIT 1";
    let mut pid = 0;
    for _ in 0..PAUSES {
        pid = u32::try_from(place.numbers(busy).await[0][0]).unwrap();
        signal("STOP", pid);
        tokio::time::sleep(CATCH_AFTER / 2).await;
        let accepted = load.accepted();
        tokio::time::sleep(CATCH_AFTER).await;
        if load.accepted() == accepted {
            return (pid, true);
        }
        signal("CONT", pid);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    signal("STOP", pid);
    (pid, false)
}

#[test]
fn a_server_whose_commits_are_stuck_is_not_ready() {
    run(Kind::Postgres, async |place| {
        let server = Server::start(place).await;
        let load = Load::start(server.address, "stuck");
        load.accepts_more(100).await;
        let ready = readiness(server.address);
        let foreign = place.postgres().await;
        foreign.batch_execute("BEGIN; SELECT 1 FROM messaging.event_log FOR UPDATE").await.unwrap();
        tokio::time::sleep(STUCK).await;
        let released = Instant::now();
        foreign.batch_execute("ROLLBACK").await.unwrap();
        load.accepts_more(100).await;
        tokio::time::sleep(NOT_READY_WITHIN).await;
        let samples = ready.end().await;
        let not_ready = samples.iter().find(|(_, status)| *status == 503).map(|(at, _)| *at - samples[0].0);
        let ready_again = samples.iter().rev().take_while(|(_, status)| *status == 200).last();
        let ready_again = ready_again.map(|(at, _)| at.saturating_duration_since(released));
        println!("not ready after {not_ready:?}, ready again {ready_again:?} after the end of the lock");
        assert!(not_ready.is_some_and(|after| after < NOT_READY_WITHIN), "{not_ready:?}");
        assert!(ready_again.is_some_and(|after| after < NOT_READY_WITHIN), "{ready_again:?}");
        assert_kept(place, &load.stop().await).await;
        server.stop().await;
    });
}
