//! The client that generates the load: it sends prepared requests over keep-alive connections without TLS.
//!
//! Invariant: the client does only the work that is needed to check every answer, because it shares the machine with the server
//! that it measures. It reads the status line and Content-Length, and counts the bytes of the body without keeping them. The same
//! client measures the server and the limits that the server is compared with, so its cost is in both numbers of every ratio.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::data::Random;
use crate::process::{Context, Outcome};

/// Connections of one load. All of them send without a pause.
pub const CONNECTIONS: usize = 64;
/// One thread keeps 64 connections busy on the machines that were tried. Two threads reached the same rate with a longer tail
/// of latencies.
const THREADS: usize = 1;
const BUFFER_BYTES: usize = 128 * 1024;
/// A load that still runs this long after its planned end counts as stuck.
const OVERTIME: Duration = Duration::from_secs(20);
const KEY_BYTES: usize = 32;

/// The bytes of a request.
pub struct Request {
    bytes: Vec<u8>,
    /// The offset of the Idempotency-Key in `bytes`. Each time the request is sent, a new key is written there.
    key_at: Option<usize>,
}

impl Request {
    /// Builds `GET path`.
    pub fn get(host: SocketAddr, path: &str) -> Self {
        let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        Self { bytes: text.into_bytes(), key_at: None }
    }

    /// Builds `POST path` with the bytes of a file.
    pub fn upload(host: SocketAddr, path: &str, content: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(content.len() + 256);
        let size = content.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
        );
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(content);
        Self { bytes, key_at: None }
    }

    /// Builds `PUT path` without a body.
    pub fn put(host: SocketAddr, path: &str) -> Self {
        let text = format!("PUT {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
        Self { bytes: text.into_bytes(), key_at: None }
    }

    /// Returns the request with one more header field, given as `Name: value` without the line end.
    pub fn with(mut self, header: &str) -> Self {
        let at = self.bytes.windows(2).position(|two| two == b"\r\n").map_or(self.bytes.len(), |end| end + 2);
        let line = format!("{header}\r\n");
        self.key_at = self.key_at.map(|key_at| key_at + line.len());
        self.bytes.splice(at..at, line.into_bytes());
        self
    }

    /// Builds `POST path` with a JSON body and, if `idempotent`, a new random Idempotency-Key each time it is sent.
    pub fn post(host: SocketAddr, path: &str, json: &str, idempotent: bool) -> Self {
        let mut text = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            json.len()
        );
        let mut key_at = None;
        if idempotent {
            text.push_str("Idempotency-Key: ");
            key_at = Some(text.len());
            text.push_str(&"0".repeat(KEY_BYTES));
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        text.push_str(json);
        Self { bytes: text.into_bytes(), key_at }
    }
}

/// The settings of one load.
#[derive(Clone)]
pub struct Load {
    /// The server.
    pub address: SocketAddr,
    /// The requests to send. Each is chosen at random, unless `in_order` is set.
    pub requests: Arc<Vec<Request>>,
    /// If set, each request is sent once, in order. The value is the index of the next one.
    pub in_order: Option<Arc<AtomicUsize>>,
    /// The statuses that count as success.
    pub expected_statuses: RangeInclusive<u16>,
    /// Time before the measurement starts.
    pub warm_up: Duration,
    /// Time of the measurement.
    pub duration: Duration,
}

/// The result of a load.
#[derive(Clone, Copy, Default)]
pub struct Measured {
    /// Answers per second.
    pub rate: f64,
    /// Median latency in microseconds.
    pub p50_us: u32,
    /// The latency that one answer in a hundred exceeds, in microseconds.
    pub p99_us: u32,
}

impl Load {
    /// Runs the load. Fails if any answer has an unexpected status.
    pub fn run(&self) -> Outcome<Measured> {
        let start = Instant::now() + self.warm_up;
        let window = Window { start, end: start + self.duration };
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let load = self.clone();
                std::thread::spawn(move || load.run_share(thread, window))
            })
            .collect();
        let mut tally = Tally::default();
        for thread in threads {
            tally.merge(thread.join().map_err(|_| "a client thread panicked".to_owned())??);
        }
        tally.summary(self)
    }

    fn run_share(&self, thread: usize, window: Window) -> Outcome<Tally> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a client thread")?;
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for connection in (thread..CONNECTIONS).step_by(THREADS) {
                tasks.spawn(run_connection(self.clone(), window, Random::from_clock(connection as u64)));
            }
            let mut tally = Tally::default();
            let limit = tokio::time::Instant::from_std(window.end + OVERTIME);
            while let Some(task) = tokio::time::timeout_at(limit, tasks.join_next())
                .await
                .map_err(|_| format!("{} stopped answering under load", self.address))?
            {
                tally.merge(task.context("a client connection")??);
            }
            Ok(tally)
        })
    }
}

#[derive(Clone, Copy)]
struct Window {
    start: Instant,
    end: Instant,
}

#[derive(Default)]
struct Tally {
    latencies_us: Vec<u32>,
    wrong: u64,
    first_wrong: Option<String>,
}

impl Tally {
    fn merge(&mut self, other: Tally) {
        self.latencies_us.extend(other.latencies_us);
        self.wrong += other.wrong;
        self.first_wrong = self.first_wrong.take().or(other.first_wrong);
    }

    fn summary(mut self, load: &Load) -> Outcome<Measured> {
        if let Some(first) = self.first_wrong {
            let expected = load.expected_statuses.clone();
            return Err(format!("{} answers were not {expected:?}; the first was:\n{first}", self.wrong));
        }
        if self.latencies_us.is_empty() {
            return Err(format!("{} answered nothing within the measurement", load.address));
        }
        self.latencies_us.sort_unstable();
        let count = self.latencies_us.len();
        Ok(Measured {
            rate: count as f64 / load.duration.as_secs_f64(),
            p50_us: self.latencies_us[count / 2],
            p99_us: self.latencies_us[count * 99 / 100],
        })
    }
}

/// Sends requests over one connection, one at a time, until the window ends.
async fn run_connection(load: Load, window: Window, mut random: Random) -> Outcome<Tally> {
    let stream =
        tokio::net::TcpStream::connect(load.address).await.context(format!("connecting to {}", load.address))?;
    stream.set_nodelay(true).context("setting TCP_NODELAY")?;
    let mut connection = Connection { stream, buffer: vec![0; BUFFER_BYTES] };
    let mut tally = Tally { latencies_us: Vec::with_capacity(16 * 1024), ..Tally::default() };
    let mut keyed = Vec::with_capacity(1024);
    loop {
        let place = match &load.in_order {
            Some(next) => next.fetch_add(1, Ordering::Relaxed),
            None => random.below(load.requests.len() as u64) as usize,
        };
        let request = load.requests.get(place).ok_or_else(|| "there are no requests left".to_owned())?;
        let bytes = match request.key_at {
            None => &request.bytes,
            Some(at) => {
                keyed.clear();
                keyed.extend_from_slice(&request.bytes);
                random.write_hex(&mut keyed[at..at + KEY_BYTES]);
                &keyed
            }
        };
        let sent_at = Instant::now();
        if sent_at >= window.end {
            return Ok(tally);
        }
        let answer = connection.exchange(bytes).await?;
        if !load.expected_statuses.contains(&answer.status) {
            tally.wrong += 1;
            tally.first_wrong.get_or_insert_with(|| connection.excerpt(&answer));
        }
        let answered_at = Instant::now();
        if answered_at >= window.start && answered_at < window.end {
            tally.latencies_us.push(u32::try_from((answered_at - sent_at).as_micros()).unwrap_or(u32::MAX));
        }
    }
}

struct Connection {
    stream: tokio::net::TcpStream,
    buffer: Vec<u8>,
}

struct Answer {
    status: u16,
    /// Bytes of the buffer that the answer has filled. Only the first half of the buffer always holds the start of the answer:
    /// the rest of a long answer overwrites the second half.
    size_bytes: usize,
}

impl Connection {
    async fn exchange(&mut self, request: &[u8]) -> Outcome<Answer> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        self.stream.write_all(request).await.context("sending a request")?;
        let mut filled = 0;
        let head = loop {
            let count = self.stream.read(&mut self.buffer[filled..]).await.context("reading an answer")?;
            if count == 0 {
                return Err("the server closed a connection without answering".to_owned());
            }
            filled += count;
            if let Some(head) = Head::read(&self.buffer[..filled])? {
                break head;
            }
            if filled == self.buffer.len() {
                return Err("the head of an answer does not end".to_owned());
            }
        };
        let mut left = (head.head_bytes + head.body_bytes)
            .checked_sub(filled)
            .ok_or_else(|| "the server sent more than its Content-Length says".to_owned())?;
        while left > 0 {
            // Keeps the start of the answer in the first half of the buffer. Further bytes are only counted, so they may
            // overwrite the second half.
            let from = filled.min(self.buffer.len() / 2);
            let to = self.buffer.len().min(from + left);
            let count = self.stream.read(&mut self.buffer[from..to]).await.context("reading a body")?;
            if count == 0 {
                return Err("the server closed a connection within a body".to_owned());
            }
            filled = from + count;
            left -= count;
        }
        Ok(Answer { status: head.status, size_bytes: filled })
    }

    fn excerpt(&self, answer: &Answer) -> String {
        let end = answer.size_bytes.min(1_000);
        String::from_utf8_lossy(&self.buffer[..end]).into_owned()
    }
}

struct Head {
    status: u16,
    head_bytes: usize,
    body_bytes: usize,
}

impl Head {
    /// Returns `None` while the head is incomplete.
    fn read(bytes: &[u8]) -> Outcome<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = &bytes[..end];
        let status = head
            .get(9..12)
            .filter(|_| head.starts_with(b"HTTP/1.1 "))
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
            .ok_or_else(|| format!("not an HTTP/1.1 answer: {}", String::from_utf8_lossy(head)))?;
        let body_bytes = header(head, "content-length")
            .and_then(|value| value.parse().ok())
            .ok_or_else(|| format!("an answer without Content-Length: {}", String::from_utf8_lossy(head)))?;
        Ok(Some(Self { status, head_bytes: end + 4, body_bytes }))
    }
}

fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let (before, after) = line.split_at_checked(name.len())?;
        let value = before.eq_ignore_ascii_case(name.as_bytes()).then_some(after)?.strip_prefix(b":")?;
        std::str::from_utf8(value).ok().map(str::trim)
    })
}

/// One whole answer.
pub struct Page {
    pub status: u16,
    /// The Content-Type of the answer; empty if it has none.
    pub content_type: String,
    pub body: Vec<u8>,
}

/// Sends one request on its own connection, and counts the bytes of the answer's body without keeping them. Fails if the status is
/// not the expected one.
pub fn transfer(address: SocketAddr, request: &Request, expected_status: u16, at_most: Duration) -> Outcome<usize> {
    let mut stream = TcpStream::connect_timeout(&address, at_most).context(format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(at_most)).context("setting a timeout")?;
    stream.set_write_timeout(Some(at_most)).context("setting a timeout")?;
    stream.write_all(&request.bytes).context("sending a file")?;
    let mut buffer = vec![0; 256 * 1024];
    let mut filled = 0;
    let head = loop {
        let count = stream.read(&mut buffer[filled..]).context("reading an answer")?;
        if count == 0 {
            return Err(format!("{address} closed a connection without a complete answer"));
        }
        filled += count;
        if let Some(head) = Head::read(&buffer[..filled])? {
            break head;
        }
    };
    if head.status != expected_status {
        return Err(format!("the answer was {}", String::from_utf8_lossy(&buffer[..filled])));
    }
    let mut left = (head.head_bytes + head.body_bytes).saturating_sub(filled);
    while left > 0 {
        match stream.read(&mut buffer).context("reading a file")? {
            0 => return Err(format!("{address} closed a connection within a file")),
            count => left = left.saturating_sub(count),
        }
    }
    Ok(head.body_bytes)
}

/// Sends one request on its own connection and keeps the whole answer.
pub fn fetch(address: SocketAddr, request: &Request, at_most: Duration) -> Outcome<Page> {
    let mut stream = TcpStream::connect_timeout(&address, at_most).context(format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(at_most)).context("setting a timeout")?;
    stream.write_all(&request.bytes).context("sending a request")?;
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let count = stream.read(&mut chunk).context("reading an answer")?;
        if count == 0 {
            return Err(format!("{address} closed a connection within an answer"));
        }
        bytes.extend_from_slice(&chunk[..count]);
        if let Some(head) = Head::read(&bytes)?
            && bytes.len() >= head.head_bytes + head.body_bytes
        {
            let content_type = header(&bytes[..head.head_bytes], "content-type").unwrap_or_default().to_owned();
            return Ok(Page { status: head.status, content_type, body: bytes.split_off(head.head_bytes) });
        }
    }
}
