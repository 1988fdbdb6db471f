//! Graceful shutdown: every request that the server has begun to answer gets its answer.

use std::time::{Duration, Instant};

use super::{Attempt, Load, Outcome, SENDERS, assert_kept, outcome, stored};
use crate::both;
use crate::messages::messages::assert_dense;
use crate::support::Place;
use crate::support::place::Kind;
use crate::support::process::Process;
use crate::support::wire::{Lost, Wire, get_request, send_request};

const END_TIMEOUT: Duration = Duration::from_secs(10);
const ROUNDS: usize = 5;

both!(sends_in_progress_at_the_shutdown_are_answered, async |place| {
    let server = Process::start(place).await;
    let load = Load::start(server.address, "under way");
    let mut slow = Wire::connect(server.address).await.unwrap();
    let request = send_request("bugs", "duck", "slow", None);
    slow.write(&request[..request.len() - 5]).await.unwrap();
    load.accepts_more(100).await;
    // Until `hold` is released, nothing can be written, so soon every sender waits for its answer.
    let hold = Hold::take(place).await;
    let accepted = accepted_when_all_wait(&server, &load).await;
    let asked = Instant::now();
    server.send_sigterm();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(load.accepted(), accepted, "a send was accepted while nothing could be written");
    hold.release().await;
    slow.write(&request[request.len() - 5..]).await.unwrap();
    let answer = slow.answer().await.unwrap();
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("connection"), Some("close"));
    let status = server.ended(END_TIMEOUT.saturating_sub(asked.elapsed())).await;
    assert!(status.success(), "{status}");
    let mut attempts = load.stop().await;
    assert_eq!(attempts.len(), accepted + SENDERS, "each sender had one send in progress");
    assert!(attempts.iter().all(|attempt| attempt.accepted().is_some()));
    attempts.push(Attempt {
        sender: "bugs",
        recipient: "duck",
        body: "slow".into(),
        key: None,
        outcome: outcome(Ok(answer), "slow"),
    });
    assert_kept(place, &attempts).await;
    assert_dense(place).await;
});

both!(a_shutdown_under_load_drops_no_request_in_progress, async |place| {
    let mut server = Process::start(place).await;
    let mut attempts = Vec::new();
    for round in 0..ROUNDS {
        let load = Load::start(server.address, &format!("round {round}"));
        load.accepts_more(50).await;
        server.send_sigterm();
        let status = server.ended(END_TIMEOUT).await;
        assert!(status.success(), "{status}");
        attempts.extend(load.stop().await);
        server = Process::start(place).await;
        assert_kept(place, &attempts).await;
        assert_dense(place).await;
        let there = stored(place).await;
        for attempt in &attempts {
            match attempt.outcome {
                Outcome::Accepted(_) => {}
                // The server was closing this idle connection when the request was sent, so it never read the request.
                Outcome::Lost(Lost::Unanswered | Lost::Unsent) => {
                    assert!(!there.contains_key(&attempt.body), "{} was sent and not answered", attempt.body);
                }
                Outcome::Lost(Lost::Cut) => panic!("the answer to {} ended early", attempt.body),
                Outcome::Refused(ref answer) => panic!("{} got {answer:?}", attempt.body),
            }
        }
    }
    server.terminate().await;
    let unread = attempts.iter().filter(|attempt| attempt.accepted().is_none()).count();
    println!("{} sends, {unread} of them never read", attempts.len());
});

/// Waits until every sender waits for the database. Returns how many sends have been accepted by then.
///
/// A send that was committed just before the writes were blocked counts as waiting until its answer is sent. So the function
/// also waits until the number of accepted sends no longer rises.
async fn accepted_when_all_wait(server: &Process, load: &Load) -> usize {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        assert!(Instant::now() < deadline, "some senders never wait");
        let accepted = load.accepted();
        let all_wait = waiting_sends(server).await >= SENDERS;
        tokio::time::sleep(Duration::from_millis(100)).await;
        if all_wait && load.accepted() == accepted && waiting_sends(server).await >= SENDERS {
            return accepted;
        }
    }
}

/// The number of sends that wait for the database, from the server's own metrics.
async fn waiting_sends(server: &Process) -> usize {
    let answer = Wire::connect(server.address).await.unwrap().exchange(&get_request("/metrics")).await.unwrap();
    let text = String::from_utf8(answer.bytes).unwrap();
    let line = text.lines().find(|line| line.contains("store_queue_length{") && line.contains("\"send\"")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// A lock that prevents all other connections from writing.
pub enum Hold {
    Sqlite(rusqlite::Connection),
    Postgres(tokio_postgres::Client),
}

impl Hold {
    pub async fn take(place: &Place) -> Self {
        match place.kind {
            Kind::Sqlite => {
                let connection = rusqlite::Connection::open(place.sqlite_file()).unwrap();
                connection.busy_timeout(Duration::from_secs(5)).unwrap();
                connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                Self::Sqlite(connection)
            }
            Kind::Postgres => {
                let client = place.postgres().await;
                client.batch_execute("BEGIN; SELECT 1 FROM messaging.event_log FOR UPDATE").await.unwrap();
                Self::Postgres(client)
            }
        }
    }

    pub async fn release(self) {
        match self {
            Self::Sqlite(connection) => connection.execute_batch("ROLLBACK").unwrap(),
            Self::Postgres(client) => client.batch_execute("ROLLBACK").await.unwrap(),
        }
    }
}
