//! The server is killed at random times, many times.

use std::ops::Range;
use std::time::Duration;

use posthaste::base::ids::Rng;

use super::{Load, Outcome, assert_kept, last_message, repeat_lost};
use crate::both;
use crate::messages::messages::assert_dense;
use crate::support::Place;
use crate::support::place::Kind;
use crate::support::process::{Process, Wrapping};
use crate::support::watch::Follower;

const ROUNDS: usize = 30;
const KILL_BETWEEN_MS: Range<u64> = 30..300;
const STARTS: usize = 20;
const PAIRS_OF_STARTS: usize = 10;
/// The time from the start of a server until it is killed. The range covers a whole start on an empty database.
const KILL_START_BETWEEN_MS: Range<u64> = 2..120;

both!(a_killed_server_loses_and_duplicates_nothing, async |place| {
    let mut server = Process::start(place).await;
    let before = last_message(place).await;
    let follower = Follower::start(server.address).await;
    let mut attempts = Vec::new();
    let mut repeated = 0;
    for round in 0..ROUNDS {
        let load = Load::start(server.address, &format!("round {round}"));
        let delay = random_delay(KILL_BETWEEN_MS);
        tokio::time::sleep(delay).await;
        server.kill();
        let mut sent = load.stop().await;
        let backends = backends(place).await;
        server = Process::start(place).await;
        follower.moved(server.address);
        // Repeats the sends without waiting for the last transactions of the killed server, so that both can be in progress at
        // the same time.
        repeated += repeat_lost(server.address, &mut sent).await;
        wait_for_end(place, &backends).await;
        attempts.extend(sent);
        println!("round {round}: killed after {delay:?}, {} sends in all", attempts.len());
        assert_kept(place, &attempts).await;
        assert_dense(place).await;
    }
    let returns = follower.assert_delivered(place, before).await;
    assert!(returns >= ROUNDS, "{returns}");
    server.terminate().await;
    let accepted = attempts.iter().filter(|attempt| attempt.accepted().is_some()).count();
    let lost = attempts.iter().filter(|attempt| matches!(attempt.outcome, Outcome::Lost(_))).count();
    println!("{accepted} accepted, {repeated} of them by a repeat; {lost} without an answer");
    assert!(accepted > ROUNDS * 10, "too few sends were accepted to show anything: {accepted}");
    assert!(repeated > 0 && lost > 0, "no kill happened during a send");
    assert!(attempts.iter().all(|attempt| attempt.refused().is_none()));
});

both!(a_server_killed_while_it_starts_starts_again, async |place| {
    for _ in 0..STARTS {
        // Each start needs an empty database, so only the kind of the given place is used.
        let place = Place::new(place.kind).await;
        let server = Process::spawn(&place, Wrapping::default());
        let delay = random_delay(KILL_START_BETWEEN_MS);
        tokio::time::sleep(delay).await;
        println!("killed after {delay:?}, its log: {}", server.log());
        server.kill();
        let server = Process::start(&place).await;
        assert_demo(&place).await;
        server.terminate().await;
        place.remove().await;
    }
});

both!(servers_that_start_together_on_an_empty_database_share_it, async |place| {
    for _ in 0..PAIRS_OF_STARTS {
        let place = Place::new(place.kind).await;
        let (one, other) = tokio::join!(Process::start(&place), Process::start(&place));
        assert_demo(&place).await;
        one.terminate().await;
        other.terminate().await;
        place.remove().await;
    }
});

/// Asserts that the messages of the demo are stored once.
async fn assert_demo(place: &Place) {
    let messages = place.numbers("SELECT conversation_id, seq FROM messaging.messages ORDER BY id").await;
    let seqs: Vec<i64> = messages.iter().map(|row| row[1]).collect();
    assert_eq!(seqs, [1, 2, 3, 1]);
    // A rollback does not reset a sequence of PostgreSQL, so the ids may have gaps.
    let people = place.numbers("SELECT id FROM messaging.users ORDER BY id").await;
    assert_eq!(people.len(), 4);
    assert_dense(place).await;
}

fn random_delay(between_ms: Range<u64>) -> Duration {
    let random = u64::from_le_bytes(Rng::System.bytes().unwrap());
    Duration::from_millis(between_ms.start + random % (between_ms.end - between_ms.start))
}

/// The process ids of PostgreSQL backends that still work for a killed server.
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
