//! The clients: writers, readers with a cursor, and one that sends receipts. Each request may go to any node.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use posthaste::base::ids::Rng;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::{PEOPLE, World, assert_in_time};
use crate::operations::durability::{Attempt, Outcome, PAIRS, outcome};
use crate::support::random;
use crate::support::server::Answer;
use crate::support::wire::{Lost, Wire};

/// The longest pause between two requests of a client.
const PAUSE_MS: u64 = 20;
const AFTER_A_REFUSAL: Duration = Duration::from_millis(50);
/// How long a reader stays on a socket on which nothing arrives.
const QUIET: Duration = Duration::from_millis(700);
/// Messages on a page of a user's timeline.
const TIMELINE_LIMIT: usize = 200;
/// The longest time for opening a socket.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Events that a reader takes from one socket.
const VISIT_EVENTS: u64 = 60;
/// How long a client waits for a request before it uses another node.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Sends one request on a connection of its own, with a time limit.
async fn exchange(address: SocketAddr, request: &[u8]) -> Result<Answer, Lost> {
    let exchanging = async { Wire::connect(address).await?.exchange(request).await };
    tokio::time::timeout(REQUEST_TIMEOUT, exchanging).await.unwrap_or(Err(Lost::Unanswered))
}

/// The bytes of a request.
fn request(method: &str, target: &str, person: Option<&str>, body: Option<&Value>) -> Vec<u8> {
    let person = person.map(|person| format!("x-act-as: {person}\r\n")).unwrap_or_default();
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!("{method} {target} HTTP/1.1\r\nhost: 127.0.0.1\r\n{person}content-type: application/json\r\n");
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

async fn pause(rng: &Rng) {
    tokio::time::sleep(Duration::from_millis(random(rng, PAUSE_MS))).await;
}

/// Whether the answer only says that a later try may succeed. Panics if the answer is neither a success nor such a refusal,
/// because that breaks a promise.
fn is_refused_for_now(answer: &Result<Answer, Lost>) -> bool {
    match answer {
        Err(_) => true,
        Ok(answer) if answer.status == 503 => {
            crate::faults::assert_unavailable(answer);
            true
        }
        Ok(answer) => {
            assert!(answer.status.is_success(), "{}", String::from_utf8_lossy(&answer.bytes));
            false
        }
    }
}

/// Sends until the test ends. A send with a key is repeated, on any node, until it is accepted.
pub async fn write(world: Arc<World>, number: u64) -> Vec<Attempt> {
    let rng = world.rng(number);
    let mut attempts = Vec::new();
    while !world.is_over() {
        let pair = PAIRS[random(&rng, PAIRS.len() as u64) as usize];
        let body = format!("writer {number}: {}", attempts.len());
        let key = (random(&rng, 2) == 0).then(|| format!("key of {body}"));
        let mut attempt = Attempt::new(pair, body, key);
        let begun = Instant::now();
        loop {
            let answer = exchange(world.node(&rng), &attempt.request()).await;
            let again = is_refused_for_now(&answer) && (attempt.key.is_some() || matches!(answer, Err(Lost::Unsent)));
            attempt.outcome = outcome(answer, &attempt.body);
            if !again || (world.is_over() && attempt.key.is_none()) {
                break;
            }
            assert_in_time(begun, "a send with a key is accepted");
            tokio::time::sleep(AFTER_A_REFUSAL).await;
        }
        if let Outcome::Accepted((conversation, seq, id)) = attempt.outcome {
            world.note(conversation, seq, pair);
            if random(&rng, 3) == 0 {
                read_back(&world, &rng, pair.1, (conversation, seq, id)).await;
            }
        }
        attempts.push(attempt);
        pause(&rng).await;
    }
    attempts
}

/// Reads an acknowledged message as its recipient, on any node.
async fn read_back(world: &World, rng: &Rng, person: &str, (conversation, seq, id): (i64, i64, i64)) {
    let target = match random(rng, 2) {
        0 => format!("/api/conversations/{conversation}/messages?around={seq}"),
        _ => format!("/api/messages/{person}?order=desc&limit={TIMELINE_LIMIT}"),
    };
    let begun = Instant::now();
    loop {
        let answer = exchange(world.node(rng), &request("GET", &target, Some(person), None)).await;
        if !is_refused_for_now(&answer) {
            let page = answer.unwrap().json();
            let ids: Vec<i64> =
                page.as_array().unwrap().iter().map(|message| message["id"].as_i64().unwrap()).collect();
            // If the answer took long, so many later messages may have been sent that they fill the whole page.
            let is_passed = ids.len() == TIMELINE_LIMIT && ids.iter().all(|other| *other > id);
            assert!(ids.contains(&id) || is_passed, "{target} does not show the message {id}, which was acknowledged");
            world.read_back.fetch_add(1, Ordering::Relaxed);
            return;
        }
        assert_in_time(begun, "a page can be read");
        tokio::time::sleep(AFTER_A_REFUSAL).await;
    }
}

/// A reader of events, and the events that it received.
pub struct Reader {
    world: Arc<World>,
    rng: Rng,
    person: Option<&'static str>,
    cursor: String,
    position: i64,
    /// Ids of messages, in the order of delivery.
    pub ids: Vec<i64>,
    pub events: usize,
    pub visits: usize,
}

impl Reader {
    /// Starts with the events from now on.
    pub async fn begin(world: Arc<World>, number: u64, person: Option<&'static str>) -> Self {
        let rng = world.rng(number);
        let answer = exchange(world.node(&rng), &request("GET", "/api/events", person, None)).await.unwrap();
        let cursor = answer.json()["cursor"].as_str().unwrap().to_owned();
        let position = position_of(&cursor);
        Self { world, rng, person, cursor, position, ids: Vec::new(), events: 0, visits: 0 }
    }

    /// Reads until all writers have ended and no event is left.
    pub async fn run(mut self) -> Self {
        let mut ended = None;
        loop {
            let is_written = self.world.is_written.load(Ordering::Relaxed);
            let address = self.world.node(&self.rng);
            self.visits += 1;
            // Polls at the end, because only a poll shows that no event is left.
            let is_empty = if is_written || random(&self.rng, 2) == 0 {
                self.poll(address).await
            } else {
                self.visit_socket(address).await;
                false
            };
            if is_written {
                if is_empty {
                    return self;
                }
                assert_in_time(*ended.get_or_insert_with(Instant::now), "a reader reads everything");
            }
        }
    }

    /// Polls once. Returns whether no event is after the cursor.
    async fn poll(&mut self, address: SocketAddr) -> bool {
        let wait_s = if self.world.is_over() { 0 } else { random(&self.rng, 2) };
        let target = format!("/api/events?after={}&wait={wait_s}", self.cursor);
        let answer = exchange(address, &request("GET", &target, self.person, None)).await;
        if is_refused_for_now(&answer) {
            tokio::time::sleep(AFTER_A_REFUSAL).await;
            return false;
        }
        let page = answer.unwrap().json();
        let events = page["events"].as_array().unwrap();
        events.iter().for_each(|event| self.note(event));
        let cursor = page["cursor"].as_str().unwrap();
        assert!(position_of(cursor) >= self.position, "{cursor} is before {}", self.cursor);
        self.position = position_of(cursor);
        cursor.clone_into(&mut self.cursor);
        events.is_empty()
    }

    /// Reads a random number of events from a socket. Stops earlier if nothing arrives or the socket ends.
    async fn visit_socket(&mut self, address: SocketAddr) -> Option<()> {
        let mut opening = format!("ws://{address}/api/ws?after={}", self.cursor).into_client_request().unwrap();
        if let Some(person) = self.person {
            opening.headers_mut().insert("x-act-as", person.parse().unwrap());
        }
        let opening = tokio::time::timeout(OPEN_TIMEOUT, tokio_tungstenite::connect_async(opening));
        let Ok(Ok((mut stream, _))) = opening.await else {
            tokio::time::sleep(AFTER_A_REFUSAL).await;
            return None;
        };
        for _ in 0..random(&self.rng, VISIT_EVENTS) {
            let message = tokio::time::timeout(QUIET, stream.next()).await.ok()??.ok()?;
            let Message::Text(text) = message else { continue };
            let frame: Value = serde_json::from_str(text.as_str()).unwrap();
            match frame["type"].as_str() {
                Some("hello") => {}
                Some("event") => self.note(&frame["event"]),
                other => panic!("{other:?} for a cursor that is known: {frame}"),
            }
        }
        Some(())
    }

    fn note(&mut self, event: &Value) {
        // Events without a cursor are not in the log.
        let Some(cursor) = event["cursor"].as_str() else { return };
        let position = position_of(cursor);
        assert!(position > self.position, "{:?}: {cursor} after {}", self.person, self.cursor);
        self.position = position;
        cursor.clone_into(&mut self.cursor);
        self.events += 1;
        if event["type"] == "message.created" {
            self.ids.push(event["data"]["id"].as_i64().unwrap());
        }
    }
}

fn position_of(cursor: &str) -> i64 {
    cursor.rsplit_once('-').unwrap().1.parse().unwrap()
}

/// Bounds of the read watermark for each user and conversation: the highest acknowledged one and the highest attempted one.
#[derive(Default)]
pub struct Receipts {
    bounds: HashMap<(&'static str, i64), (i64, i64)>,
    count: usize,
}

impl Receipts {
    /// Sends receipts until the test ends.
    pub async fn run(world: Arc<World>) -> Self {
        let (rng, mut receipts) = (world.rng(1_000), Self::default());
        while !world.is_over() {
            pause(&rng).await;
            let person = PEOPLE[random(&rng, PEOPLE.len() as u64) as usize];
            let mut known: Vec<(i64, i64)> = {
                let newest = world.newest.lock().unwrap();
                let of_person = newest.iter().filter(|(_, (_, people))| people.contains(&person));
                of_person.map(|(conversation, (seq, _))| (*conversation, *seq)).collect()
            };
            known.sort_unstable();
            if known.is_empty() {
                continue;
            }
            let (conversation, newest) = known[random(&rng, known.len() as u64) as usize];
            let seq = newest - random(&rng, newest.unsigned_abs()).cast_signed();
            let bounds = receipts.bounds.entry((person, conversation)).or_default();
            bounds.1 = bounds.1.max(seq);
            let target = format!("/api/conversations/{conversation}/receipts");
            let body = json!({"read_seq": seq});
            let answer = exchange(world.node(&rng), &request("POST", &target, Some(person), Some(&body))).await;
            if !is_refused_for_now(&answer) {
                bounds.0 = bounds.0.max(seq);
                receipts.count += 1;
            }
        }
        receipts
    }

    pub fn bounds(&self, person: &'static str, conversation: i64) -> (i64, i64) {
        self.bounds.get(&(person, conversation)).copied().unwrap_or_default()
    }

    pub const fn count(&self) -> usize {
        self.count
    }
}
