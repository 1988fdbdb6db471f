//! The order of system calls shows that each 201 waited for the disk. A test that kills the server cannot show this, because
//! the kernel keeps written data in its cache.

use std::collections::{HashMap, HashSet};

use crate::support::cluster::Cluster;
use crate::support::place::{Kind, Place};
use crate::support::process::{Process, Wrapping};
use crate::support::trace::{self, Call};
use crate::support::wire::{Wire, send_request};

const CONNECTIONS: usize = 8;
const SENDS_EACH: usize = 125;
const TOKEN: &str = "durable-";
const TOKEN_DIGITS: usize = 6;
const SOCKET_CALLS: &str = "read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg";
const FILE_CALLS: &str = "write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync";

#[test]
fn each_201_follows_a_sync_of_its_message_on_sqlite() {
    run(async {
        let place = Place::new(Kind::Sqlite).await;
        let log = place.folder.path().join("system-calls");
        let command = trace::tracer(&log, &format!("{SOCKET_CALLS},{FILE_CALLS}"), &[]);
        send_traced(&place, command).await;
        let calls = trace::calls(&log);
        assert_synced(&calls, &calls, "posthaste.db-wal>");
        place.remove().await;
    });
}

#[test]
fn each_201_follows_a_sync_of_its_message_on_postgres() {
    run(async {
        let logs = tempfile::tempdir().unwrap();
        let (cluster_log, server_log) = (logs.path().join("cluster"), logs.path().join("server"));
        // The test starts its own cluster, so that the trace contains no commits of other tests.
        let mut cluster = Cluster::start_wrapped(trace::tracer(&cluster_log, FILE_CALLS, &[])).await;
        let place = Place::in_cluster(&cluster.url()).await;
        send_traced(&place, trace::tracer(&server_log, SOCKET_CALLS, &[])).await;
        cluster.stop_cleanly().await;
        assert_synced(&trace::calls(&server_log), &trace::calls(&cluster_log), "/pg_wal/");
    });
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

/// Starts the server under a tracer, sends messages, and ends the server so that the trace is complete.
async fn send_traced(place: &Place, command: Vec<String>) {
    let server = Process::start_wrapped(place, Wrapping { command, ..Wrapping::default() }).await;
    let senders = (0..CONNECTIONS).map(|connection| {
        let address = server.address;
        async move {
            let mut wire = Wire::connect(address).await.unwrap();
            for number in 0..SENDS_EACH {
                // The body contains the token three times, because the header of a page of the log may split one of them.
                let token = format!("{TOKEN}{:0TOKEN_DIGITS$}", connection * SENDS_EACH + number);
                let body = format!("{token} {token} {token}");
                let (sender, recipient) = super::PAIRS[number % super::PAIRS.len()];
                let answer = wire.exchange(&send_request(sender, recipient, &body, None)).await.unwrap();
                assert_eq!(answer.status, 201);
            }
        }
    });
    futures_util::future::join_all(senders).await;
    server.terminate().await;
}

/// Asserts for every message: the request was read, then the message was written to the database's log, then that log was
/// synced, and only then the 201 was begun.
fn assert_synced(server: &[Call], database: &[Call], log_name: &str) {
    let requests = first_by_token(server, |call| call.is_receive() && call.arguments.contains("POST /api/messages"));
    let answers = first_by_token(server, |call| call.is_write() && call.arguments.contains("HTTP/1.1 201"));
    let writes = first_by_token(database, |call| call.is_write() && call.descriptor().contains(log_name));
    let syncs: Vec<&Call> =
        database.iter().filter(|call| call.is_sync() && call.descriptor().contains(log_name)).collect();
    assert_eq!(answers.len(), CONNECTIONS * SENDS_EACH, "the trace does not have every answer");
    let mut used = HashSet::new();
    for (token, answer) in &answers {
        let request = requests.get(token).unwrap_or_else(|| panic!("the trace does not have the request of {token}"));
        assert_eq!(request.descriptor(), answer.descriptor());
        let write = writes.get(token).unwrap_or_else(|| panic!("{token} was answered and never written"));
        assert!(request.ended < write.began, "{token} was written before its request was read");
        let sync =
            syncs.iter().find(|sync| write.ended < sync.began && sync.ended < answer.began && sync.result == Some(0));
        let sync = sync.unwrap_or_else(|| {
            panic!("{token} was written at {} and answered at {}, without a sync in between", write.ended, answer.began)
        });
        used.insert(sync.began);
    }
    println!("{} answers after {} syncs of {}", answers.len(), used.len(), syncs.len());
}

/// The first call that contains each token.
fn first_by_token(calls: &[Call], is_wanted: impl Fn(&Call) -> bool) -> HashMap<&str, &Call> {
    let mut first: HashMap<&str, &Call> = HashMap::new();
    for call in calls.iter().filter(|call| is_wanted(call)) {
        for (at, _) in call.arguments.match_indices(TOKEN) {
            let Some(token) = call.arguments.get(at..at + TOKEN.len() + TOKEN_DIGITS) else { continue };
            let earlier = first.entry(token).or_insert(call);
            if call.began < earlier.began {
                *earlier = call;
            }
        }
    }
    first
}
