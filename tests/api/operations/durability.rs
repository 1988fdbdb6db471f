//! Durability: after a 201 the message is stored exactly once, also if the server is killed, the disk is full or the database
//! stops.

mod crash;
mod faults;
mod outage;
pub mod shutdown;
mod storm;
mod system_calls;
mod takeover;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::Place;
use crate::support::place::Kind;
use crate::support::server::Answer;
use crate::support::wire::{Lost, Wire, send_request};

const SENDERS: usize = 16;
pub(crate) const PAIRS: &[(&str, &str)] =
    &[("rdibari", "bugs"), ("bugs", "duck"), ("duck", "duck"), ("porky", "rdibari"), ("bugs", "rdibari")];
/// The pause of a sender after a refusal.
const PAUSE: Duration = Duration::from_millis(5);

/// The place of a message: `(conversation_id, seq, id)`.
pub(crate) type Position = (i64, i64, i64);

/// One send, and its outcome as the sender sees it.
pub(crate) struct Attempt {
    sender: &'static str,
    recipient: &'static str,
    /// Unique among all attempts.
    pub(crate) body: String,
    pub(crate) key: Option<String>,
    pub(crate) outcome: Outcome,
}

pub(crate) enum Outcome {
    /// 201: the message must be stored.
    Accepted(Position),
    /// Another answer.
    Refused(Answer),
    /// No complete answer: the message may be stored or not.
    Lost(Lost),
}

impl Attempt {
    pub(crate) fn new((sender, recipient): (&'static str, &'static str), body: String, key: Option<String>) -> Self {
        Self { sender, recipient, body, key, outcome: Outcome::Lost(Lost::Unsent) }
    }

    pub(crate) fn request(&self) -> Vec<u8> {
        send_request(self.sender, self.recipient, &self.body, self.key.as_deref())
    }

    pub(crate) fn accepted(&self) -> Option<Position> {
        match self.outcome {
            Outcome::Accepted(position) => Some(position),
            _ => None,
        }
    }

    pub(crate) fn refused(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Refused(answer) => Some(answer),
            _ => None,
        }
    }

    /// Sends the message again with its key, as a caller should after a lost answer. The send must now be accepted.
    async fn repeat(&mut self, address: SocketAddr) {
        let answer = Wire::connect(address).await.unwrap().exchange(&self.request()).await.unwrap();
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
        self.outcome = outcome(Ok(answer), &self.body);
    }
}

pub(crate) fn outcome(answer: Result<Answer, Lost>, body: &str) -> Outcome {
    match answer {
        Ok(answer) if answer.status == 201 => {
            let message = answer.json();
            assert_eq!(message["body"], body);
            let number = |field: &str| message.get(field).and_then(Value::as_i64).unwrap();
            Outcome::Accepted((number("conversation_id"), number("seq"), number("id")))
        }
        Ok(answer) => Outcome::Refused(answer),
        Err(lost) => Outcome::Lost(lost),
    }
}

/// Senders, each with a connection of its own, that send one message after the other. Every second sender uses idempotency
/// keys.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    pub(crate) counts: Arc<Counts>,
    senders: Vec<JoinHandle<Vec<Attempt>>>,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) accepted: AtomicUsize,
    refused: AtomicUsize,
}

impl Load {
    /// Starts the senders. The bodies of their messages contain `name`, so that they differ from those of another load.
    pub(crate) fn start(address: SocketAddr, name: &str) -> Self {
        Self::start_padded(address, name, 0)
    }

    /// Starts senders whose message bodies have at least `characters` characters.
    pub(crate) fn start_padded(address: SocketAddr, name: &str, characters: usize) -> Self {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let senders = (0..SENDERS)
            .map(|sender| {
                let name = format!("{name}-{sender}");
                tokio::spawn(keep_sending(address, name, characters, Arc::clone(&stop), Arc::clone(&counts)))
            })
            .collect();
        Self { stop, counts, senders }
    }

    pub(crate) fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    pub(crate) fn refused(&self) -> usize {
        self.counts.refused.load(Ordering::Relaxed)
    }

    /// Waits until `count` more sends have been accepted.
    pub(crate) async fn accepts_more(&self, count: usize) {
        let target = self.accepted() + count;
        self.wait_for("sends are accepted", |load| load.accepted() >= target).await;
    }

    pub(crate) async fn wait_for(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_so(self) {
            assert!(Instant::now() < deadline, "this never happens: {what}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Stops each sender after its present send. Returns all sends.
    pub(crate) async fn stop(self) -> Vec<Attempt> {
        self.stop.store(true, Ordering::Relaxed);
        let mut attempts = Vec::new();
        for sender in self.senders {
            attempts.extend(sender.await.unwrap());
        }
        attempts
    }
}

async fn keep_sending(
    address: SocketAddr,
    name: String,
    characters: usize,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut wire = None;
    while !stop.load(Ordering::Relaxed) {
        let number = attempts.len();
        let mut body = format!("{name}-{number}");
        body.extend(std::iter::repeat_n('.', characters.saturating_sub(body.len())));
        let key = (number % 2 == 0).then(|| format!("key {name}-{number}"));
        let mut attempt = Attempt::new(PAIRS[number % PAIRS.len()], body, key);
        attempt.outcome = outcome(send(&mut wire, address, &attempt.request()).await, &attempt.body);
        match &attempt.outcome {
            Outcome::Accepted(_) => {
                counts.accepted.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Refused(_) => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
            Outcome::Lost(Lost::Unsent) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Outcome::Lost(_) => {}
        }
        attempts.push(attempt);
    }
    attempts
}

/// Sends on the open connection, or opens a new one.
async fn send(wire: &mut Option<Wire>, address: SocketAddr, request: &[u8]) -> Result<Answer, Lost> {
    let mut open = match wire.take() {
        Some(open) => open,
        None => Wire::connect(address).await?,
    };
    let answer = open.exchange(request).await?;
    if answer.header("connection") != Some("close") {
        *wire = Some(open);
    }
    Ok(answer)
}

/// The id of the newest message.
pub(crate) async fn last_message(place: &Place) -> i64 {
    place.numbers("SELECT coalesce(max(id), 0) FROM messaging.messages").await[0][0]
}

/// All messages of the database, by body.
pub(crate) async fn stored(place: &Place) -> HashMap<String, Vec<Position>> {
    const SQL: &str = "SELECT body, conversation_id, seq, id FROM messaging.messages";
    let rows: Vec<(String, Position)> = match place.kind {
        Kind::Sqlite => {
            let connection = rusqlite::Connection::open(place.sqlite_file()).unwrap();
            let mut statement = connection.prepare(&SQL.replace("messaging.", "")).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?))));
            rows.unwrap().map(Result::unwrap).collect()
        }
        Kind::Postgres => {
            let rows = place.postgres().await.query(SQL, &[]).await.unwrap();
            rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3)))).collect()
        }
    };
    let mut stored: HashMap<String, Vec<Position>> = HashMap::new();
    for (body, position) in rows {
        stored.entry(body).or_default().push(position);
    }
    stored
}

/// Asserts three things: each accepted message is stored once, at the place that its answer named; no message is stored twice;
/// and every stored message was sent.
pub(crate) async fn assert_kept(place: &Place, attempts: &[Attempt]) {
    assert_kept_beside(place, attempts, &[]).await;
}

/// Like [`assert_kept`], for a database that may also hold messages with the bodies in `others`.
pub(crate) async fn assert_kept_beside(place: &Place, attempts: &[Attempt], others: &[&str]) {
    let stored = stored(place).await;
    let mut known: HashSet<&str> = ["Hey, whats up?", "nothing much, you", "samees", "omw"].into();
    known.extend(others);
    for attempt in attempts {
        known.insert(&attempt.body);
        let found = stored.get(&attempt.body).map_or(&[][..], Vec::as_slice);
        match attempt.accepted() {
            Some(position) => assert_eq!(found, [position], "{} was accepted", attempt.body),
            None => assert!(found.len() <= 1, "{} is stored {} times", attempt.body, found.len()),
        }
    }
    let strangers: Vec<&String> = stored.keys().filter(|body| !known.contains(body.as_str())).collect();
    assert!(strangers.is_empty(), "messages that were not sent are stored: {strangers:?}");
}

/// Repeats every send that has a key and an unknown outcome. Returns their number.
pub(crate) async fn repeat_lost(address: SocketAddr, attempts: &mut [Attempt]) -> usize {
    let lost = attempts.iter_mut().filter(|attempt| attempt.key.is_some() && attempt.accepted().is_none());
    let repeats: Vec<_> = lost.map(|attempt| attempt.repeat(address)).collect();
    let count = repeats.len();
    // Each repeat has a connection of its own, and a process cannot open thousands of them at the same time.
    futures_util::stream::iter(repeats).for_each_concurrent(256, |repeat| repeat).await;
    count
}
