//! Readers that do not read the data that they get. The server closes them. They cost the server little memory, and they hardly
//! delay other readers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use posthaste::http::state::Timeouts;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::both;
use crate::support::place::Kind;
use crate::support::process::Process;
use crate::support::wire::{Wire, send_request};
use crate::support::{Options, Place, Server, is_soak, many};

const STREAM: &str = "GET /api/events/stream HTTP/1.1\r\nhost: 127.0.0.1\r\nx-act-as: duck\r\n\r\n";
const SOCKET: &str = "GET /api/ws HTTP/1.1\r\nhost: 127.0.0.1\r\nx-act-as: duck\r\nconnection: upgrade\r\n\
                      upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const PAGE: &str = "GET /api/messages/duck?limit=200&order=desc HTTP/1.1\r\nhost: 127.0.0.1\r\nx-act-as: duck\r\n\r\n";

const STALL: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection with a small receive buffer, so that the server soon cannot send when data is not read.
async fn connect(address: SocketAddr, request: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1_024).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// A reader that has received its first data.
async fn connect_reader(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = connect(address, request).await;
    let (mut bytes, mut chunk) = (Vec::new(), [0; 1_024]);
    while !bytes.windows(5).any(|window| window == b"hello") {
        let count = tokio::time::timeout(PATIENCE, stream.read(&mut chunk)).await.unwrap().unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&chunk[..count]);
    }
    stream
}

async fn fill(server: &Server, body: &str) {
    for _ in 0..50 {
        futures_util::future::join_all((0..16).map(|_| server.send("bugs", "duck", body))).await;
    }
}

/// Reads the rest of a connection, which must end.
async fn read_rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A connection that was reset has ended, too.
    drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection is not closed"));
    bytes
}

both!(readers_that_do_not_read_are_closed, async |place| {
    let timeouts = Timeouts { stall: STALL, ..Timeouts::default() };
    let server = Server::start_with(place, Options { timeouts, ..Options::default() }).await;
    let body = "x".repeat(7_900);
    let mut stream = connect_reader(server.address, STREAM).await;
    let mut socket = connect_reader(server.address, SOCKET).await;
    // A slow reader that still reads something now and then stays connected.
    let mut slow = connect_reader(server.address, STREAM).await;
    let done = AtomicBool::new(false);
    let taking = async {
        let mut chunk = vec![0; 64 * 1_024];
        while !done.load(Ordering::Relaxed) {
            assert!(slow.read(&mut chunk).await.unwrap() > 0, "a slow reader was closed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let filling = async {
        fill(&server, &body).await;
        tokio::time::sleep(STALL * 2).await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(taking, filling);
    // A connection that does not read ordinary answers is closed, too.
    let mut pages = connect(server.address, &PAGE.repeat(20)).await;
    tokio::time::sleep(STALL * 3).await;
    assert!(read_rest(&mut stream).await.len() < 800 * body.len());
    read_rest(&mut socket).await;
    assert!(read_rest(&mut pages).await.len() < 20 * 200 * body.len());
    drop(slow);
    let deadline = Instant::now() + PATIENCE;
    while server.app.metrics.subscriptions.get() > 0 {
        assert!(Instant::now() < deadline, "a reader is still connected");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
});

/// The delays of the events of a load, in order.
struct Measured {
    latencies: Vec<Duration>,
}

impl Measured {
    fn p99(&self) -> Duration {
        percentile(self.latencies.clone(), 99)
    }

    /// The median of the 99th percentiles of each second. The machine's other work affects some of the seconds.
    fn p99_of_a_second(&self) -> Duration {
        percentile(self.latencies.chunks(RATE as usize).map(|second| percentile(second.to_vec(), 99)).collect(), 50)
    }
}

fn percentile(mut of: Vec<Duration>, hundredth: usize) -> Duration {
    of.sort_unstable();
    of[of.len() * hundredth / 100]
}

/// A stalled reader closes its connection and connects again after this time.
const RETURN: Duration = Duration::from_secs(20);
/// Sends per second. At this rate the server is busy and still does not have to wait for a processor core.
const RATE: u64 = 1_000;

/// Sends `count` messages over some connections, each with the moment of its send as text, and receives them on a socket.
async fn load(address: SocketAddr, count: usize) -> Measured {
    let (mut reader, _) = tokio_tungstenite::connect_async(format!("ws://{address}/api/ws")).await.unwrap();
    reader.next().await.unwrap().unwrap();
    let (started, next) = (Instant::now(), AtomicUsize::new(0));
    let sending = (0..16).map(async |_| {
        let mut wire = Wire::connect(address).await.unwrap();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            tokio::time::sleep_until((started + Duration::from_micros(number as u64 * 1_000_000 / RATE)).into()).await;
            let body = format!("{} {}", started.elapsed().as_micros(), "x".repeat(400));
            let answer = wire.exchange(&send_request("bugs", "duck", &body, None)).await.unwrap();
            assert_eq!(answer.status, 201);
        }
    });
    let reading = async {
        let mut latencies = Vec::with_capacity(count);
        while latencies.len() < count {
            let message = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap().unwrap();
            let Message::Text(text) = message else { continue };
            let frame: Value = serde_json::from_str(text.as_str()).unwrap();
            if frame["event"]["type"] != "message.created" {
                continue;
            }
            let body = frame["event"]["data"]["body"].as_str().unwrap();
            let sent = Duration::from_micros(body.split_once(' ').unwrap().0.parse().unwrap());
            latencies.push(started.elapsed() - sent);
        }
        latencies
    };
    let (_, latencies) = tokio::join!(futures_util::future::join_all(sending), reading);
    Measured { latencies }
}

/// The private memory of a process in bytes.
fn own_memory(id: u32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<i64>().unwrap() * 1_024
}

const MAX_GROWTH_BYTES: i64 = 64 * 1_024 * 1_024;

#[cfg(target_os = "linux")]
both!(readers_that_do_not_read_cost_little, async |place: &Place| {
    let (readers, events, compared) = (many(40, 200), many(2_000, 50_000), many(500, 25_000));
    let server = Process::start(place).await;
    let (address, id) = (server.address, server.id().unwrap());
    // The first load brings the server to its usual size. PostgreSQL plans for tables of their present size only after ANALYZE,
    // which runs by itself after a minute. The loads that are compared must not have different plans.
    load(address, compared).await;
    if place.kind == Kind::Postgres {
        place.sql("ANALYZE").await;
    }
    let mut without = load(address, compared).await;
    let before = own_memory(id);
    let stalled: Vec<_> = (0..readers)
        .map(|number| {
            let request = if number % 2 == 0 { STREAM } else { SOCKET };
            tokio::spawn(async move {
                // A reader that was closed connects again and stalls again. The readers do not connect all together, because
                // many connections at the same moment are another test.
                tokio::time::sleep(RETURN.mul_f64(number as f64 / readers as f64)).await;
                loop {
                    let _open = connect_reader(address, request).await;
                    tokio::time::sleep(RETURN).await;
                }
            })
        })
        .collect();
    let most = Arc::new(AtomicI64::new(0));
    let watched = Arc::clone(&most);
    let watching = tokio::spawn(async move {
        loop {
            watched.fetch_max(own_memory(id), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let with = load(address, events).await;
    let growth = most.load(Ordering::Relaxed) - before;
    watching.abort();
    for reader in stalled {
        reader.abort();
    }
    // The load without stalled readers runs before and after, because the machine does other work at times.
    without.latencies.extend(load(address, compared).await.latencies);
    println!(
        "{readers} stalled readers, {events} events: memory grew by {:.1} MiB; p99 of an event {:?}, without them {:?}",
        growth as f64 / 1_048_576.0,
        with.p99(),
        without.p99()
    );
    let (with, without) = (with.p99_of_a_second(), without.p99_of_a_second());
    println!("p99 of the median second {with:?}, without them {without:?}");
    assert!(growth <= MAX_GROWTH_BYTES, "{growth}");
    if is_soak() {
        assert!(with <= without.mul_f64(1.5), "{with:?} {without:?}");
    }
    server.terminate().await;
});
