//! Faults of storage and network, one file for each kind. The promises against each are in docs/reliability.md.
//!
//! Each kind is a real fault: a disk that fails a call, a peer that goes silent, a server that is stopped. To add one, write a
//! file here that injects the fault into a running server, and compare what clients and the database saw with the promise.
//! `proxy` stands between a server and PostgreSQL; `samples` measures while the fault lasts.

mod backup_sync;
mod clocks;
mod damage;
mod damaged_rows;
mod disk;
mod failover;
mod files;
mod half_open;
mod history;
mod lost_answers;
mod passing;
mod pooler;
mod proxy;
mod readiness;
mod replaced;
mod samples;
mod settings;
mod syncs;
mod tail;
mod unknown_values;
mod vanished;
mod work;

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use crate::operations::durability::Attempt;
use crate::support::server::{Answer, answer_of};

/// Maximum number of connections of one node to PostgreSQL: 16 in its pool, and one that listens (docs/operating.md).
const CONNECTIONS_OF_A_SERVER: i64 = 17;
/// Longer than any time limit of the server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// A request of a user under open access.
async fn call(address: SocketAddr, person: &str, method: Method, target: &str, body: Option<Value>) -> Answer {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT).build().unwrap();
    let request = client.request(method, format!("http://{address}{target}")).header("x-act-as", person);
    answer_of(match body {
        Some(body) => request.json(&body),
        None => request,
    })
    .await
}

/// Asserts that every refusal is a 503 with `Retry-After`. Returns the number of refusals.
#[track_caller]
fn assert_refused_for_now<'a>(attempts: impl IntoIterator<Item = &'a Attempt>) -> usize {
    let refusals = attempts.into_iter().filter_map(Attempt::refused);
    refusals.map(assert_unavailable).count()
}

#[track_caller]
fn assert_unavailable(answer: &Answer) {
    answer.problem(503, "unavailable");
    let retry_after = answer.header("retry-after");
    assert!(retry_after.is_some_and(|seconds| seconds.parse::<u32>().is_ok()), "{retry_after:?}");
}
