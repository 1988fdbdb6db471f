//! The server is killed at any moment, again and again.

use std::time::Duration;

use posthaste::ids::Rng;

use super::{Load, Outcome, assert_kept, repeat_lost};
use crate::both;
use crate::messages::assert_dense;
use crate::support::Place;
use crate::support::place::Kind;
use crate::support::process::Process;

const ROUNDS: usize = 30;
const KILL_BETWEEN_MS: std::ops::Range<u64> = 30..300;

both!(a_killed_server_has_lost_and_doubled_nothing, async |place| {
    let mut server = Process::start(place).await;
    let mut attempts = Vec::new();
    let mut repeated = 0;
    for round in 0..ROUNDS {
        let load = Load::start(server.address, &format!("round {round}"));
        let delay = random_delay();
        tokio::time::sleep(delay).await;
        server.kill();
        let mut sent = load.stop().await;
        let backends = backends(place).await;
        server = Process::start(place).await;
        // Before the killed server's last transactions have ended, so that they meet their repeats.
        repeated += repeat_lost(server.address, &mut sent).await;
        wait_for_end(place, &backends).await;
        attempts.extend(sent);
        println!("round {round}: killed after {delay:?}, {} sends in all", attempts.len());
        assert_kept(place, &attempts).await;
        assert_dense(place).await;
    }
    server.terminate().await;
    let accepted = attempts.iter().filter(|attempt| attempt.accepted().is_some()).count();
    let lost = attempts.iter().filter(|attempt| matches!(attempt.outcome, Outcome::Lost(_))).count();
    println!("{accepted} accepted, {repeated} of them by a repeat; {lost} without an answer");
    assert!(accepted > ROUNDS * 10, "too few sends were accepted to show anything: {accepted}");
    assert!(repeated > 0 && lost > 0, "no kill met a send on its way");
    assert!(attempts.iter().all(|attempt| attempt.refused().is_none()));
});

fn random_delay() -> Duration {
    let random = u64::from_le_bytes(Rng::System.bytes().unwrap());
    Duration::from_millis(KILL_BETWEEN_MS.start + random % (KILL_BETWEEN_MS.end - KILL_BETWEEN_MS.start))
}

/// The server processes of PostgreSQL that still work for a server that is gone.
async fn backends(place: &Place) -> Vec<i64> {
    if place.kind == Kind::Sqlite {
        return Vec::new();
    }
    let others =
        "SELECT pid::bigint FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    place.numbers(others).await.into_iter().map(|row| row[0]).collect()
}

async fn wait_for_end(place: &Place, backends: &[i64]) {
    if backends.is_empty() {
        return;
    }
    let ids: Vec<String> = backends.iter().map(i64::to_string).collect();
    let left = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid IN ({})",
        ids.join(", ")
    );
    for _ in 0..1_000 {
        if place.numbers(&left).await == [[0]] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the killed server's transactions do not end");
}
