//! Events: how soon after the answer to a send they arrive, how many arrive per second, and how much memory a socket takes.
//!
//! Invariant: for both sides of a ratio, the same client counts each frame that it receives on real sockets.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::credentials::Caller;
use crate::data::{self, BIG_GROUP};
use crate::limits::Limit;
use crate::process::{Context, Outcome};
use crate::report::{Figure, Target, Unit};
use crate::server::Server;
use crate::settings::{Settings, say};
use crate::turns::{TURNS, median, turn};

const LISTENERS: u64 = 1_000;
const IDLE_SOCKETS: u64 = 9_000;
const BROADCASTS: u64 = 300;
const SINGLE_BROADCASTS: usize = 50;
const SENDS_PER_SECOND: u64 = 100;
const EVENT_AT_MOST_MS: f64 = 3.0;
const FAN_OUT_AT_MOST_MS: f64 = 50.0;
/// Smallest allowed rate of frames, as a share of the rate of bare axum with a broadcast channel.
const FRAMES_RATIO: f64 = 0.5;
const IDLE_AT_MOST_KIB: f64 = 20.0;
/// Smallest allowed rate of sends while sockets listen, as a share of the rate while none listens.
const LISTENED_RATIO: f64 = 0.8;
const READ_BUFFER_BYTES: usize = 4_096;
const PATIENCE: Duration = Duration::from_secs(60);

type Socket = WebSocketStream<TcpStream>;

/// Measures everything about events on one server. `settle` runs before each load of sends. It finishes the background work of
/// the load before.
pub fn measure(
    database: &'static str,
    settings: &Settings,
    folder: &Path,
    server: &Server,
    settle: impl Fn() -> Outcome<()>,
) -> Outcome<Vec<Figure>> {
    say(&format!("{database}: events"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let mut figures = vec![runtime.block_on(event_delay(database, settings, server.address))?];
    let bare = Limit::broadcast(folder)?;
    let ours = runtime.block_on(fan_out(server.address, true))?;
    let limit = runtime.block_on(fan_out(bare.address, false))?;
    drop(bare);
    let what = format!("one message to {LISTENERS} sockets, the last, {database}");
    figures.push(Figure::time(&what, ours.last, FAN_OUT_AT_MOST_MS));
    figures.push(Figure {
        what: format!("frames to {LISTENERS} sockets, {database}"),
        value: ours.frames_per_second,
        unit: Unit::PerSecond,
        latency_us: None,
        limit: Some(("bare axum, broadcast".into(), limit.frames_per_second)),
        paired_ratio: None,
        target: Target::Ratio(FRAMES_RATIO),
    });
    let sends = || {
        settle()?;
        turn(settings.posts_as(server.address, &Caller::Nobody, false))
    };
    // In operation the readers are on other machines. Here one thread reads for all of them, so that they take little processor
    // time from the server.
    let ears = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let ears = ears.context("starting a runtime")?;
    let (mut alone, mut listened) = (vec![sends()?], Vec::with_capacity(TURNS));
    for _ in 0..TURNS {
        let listeners = ears.block_on(Listeners::open(server.address, LISTENERS, true))?;
        let turn = sends()?;
        drop(listeners);
        let before = alone.last().map_or(0.0, |before| before.rate);
        let after = sends()?;
        let beside = f64::midpoint(before, after.rate);
        say(&format!("  sends: {beside:.0}/s, with listeners: {:.2}", turn.rate / beside));
        listened.push((turn, turn.rate / beside));
        alone.push(after);
    }
    let (_, alone) = median(alone.into_iter().map(|turn| (turn, turn.rate)).collect());
    let (listened, ratio) = median(listened);
    let what = format!("sends with {LISTENERS} listeners, {database}");
    let limit = ("sends with none", alone);
    figures.push(Figure::paired(&what, listened, limit, ratio, Target::Ratio(LISTENED_RATIO)));
    let before_bytes = server.anonymous_memory_bytes()?;
    let idle = runtime.block_on(Listeners::open(server.address, IDLE_SOCKETS, true))?;
    let after_bytes = server.anonymous_memory_bytes()?;
    let each_kib = after_bytes.saturating_sub(before_bytes) as f64 / IDLE_SOCKETS as f64 / 1_024.0;
    drop(idle);
    figures.push(Figure {
        what: format!("each of {IDLE_SOCKETS} idle sockets, {database}"),
        value: each_kib,
        unit: Unit::Kibibytes,
        latency_us: None,
        limit: None,
        paired_ratio: None,
        target: Target::AtMost(IDLE_AT_MOST_KIB),
    });
    Ok(figures)
}

async fn connect(address: SocketAddr, user: u64) -> Outcome<Socket> {
    let mut request = format!("ws://{address}/api/ws").into_client_request().context("a socket's request")?;
    let name = data::user_name(user).parse().context("a user's name")?;
    request.headers_mut().insert("x-act-as", name);
    let stream = TcpStream::connect(address).await.context("connecting a socket")?;
    stream.set_nodelay(true).context("setting TCP_NODELAY")?;
    // The WebSocket library fills its buffer with zeros for each read. A large buffer costs the client more than the data that
    // it reads.
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
    let opening = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
    let (socket, _) = opening.await.context("opening a socket")?;
    Ok(socket)
}

async fn text(socket: &mut Socket) -> Outcome<String> {
    loop {
        match tokio::time::timeout(PATIENCE, socket.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => return Ok(text.as_str().to_owned()),
            Ok(Some(Ok(_))) => {}
            other => return Err(format!("a socket ended: {other:?}")),
        }
    }
}

/// The median of the times from the answer to a send until its event arrives.
async fn event_delay(database: &str, settings: &Settings, address: SocketAddr) -> Outcome<Figure> {
    let mut socket = connect(address, 2).await?;
    text(&mut socket).await?;
    let client = reqwest::Client::builder().no_proxy().build().context("making a client")?;
    let (sent, mut sending) = tokio::sync::mpsc::unbounded_channel();
    let count = SENDS_PER_SECOND * settings.duration.as_secs();
    let sender = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(1_000 / SENDS_PER_SECOND));
        for _ in 0..count {
            tick.tick().await;
            let body =
                json!({"sender_user_name": data::user_name(1), "recipient_user_name": data::user_name(2), "body": "x"});
            let answer = client.post(format!("http://{address}/api/messages")).json(&body).send().await;
            if answer.is_ok_and(|answer| answer.status() == 201) {
                let _ = sent.send(Instant::now());
            }
        }
    });
    let mut taken = Vec::new();
    while (taken.len() as u64) < count {
        let frame = text(&mut socket).await?;
        let arrived = Instant::now();
        if frame.contains("\"message.created\"") {
            let answered = sending.recv().await.ok_or("a send failed")?;
            taken.push(arrived.saturating_duration_since(answered));
        }
    }
    sender.await.context("sending")?;
    taken.sort_unstable();
    let middle = taken[taken.len() / 2];
    Ok(Figure::time(&format!("event after the answer to its send, {database}"), middle, EVENT_AT_MOST_MS))
}

/// Sockets that count the frames that they receive.
struct Listeners {
    tasks: JoinSet<()>,
    frames: Arc<AtomicU64>,
    changed: watch::Receiver<()>,
}

impl Listeners {
    /// Opens the sockets. If `greeted`, waits until each has received its first frame.
    async fn open(address: SocketAddr, count: u64, greeted: bool) -> Outcome<Self> {
        let frames = Arc::new(AtomicU64::new(0));
        let (change, changed) = watch::channel(());
        let mut tasks = JoinSet::new();
        let mut opening = futures_util::stream::iter((0..count).map(|number| connect(address, number % LISTENERS + 1)))
            .buffer_unordered(64);
        while let Some(socket) = opening.next().await {
            let mut socket = socket?;
            if greeted {
                text(&mut socket).await?;
            }
            let (frames, change) = (Arc::clone(&frames), change.clone());
            tasks.spawn(async move {
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() {
                        frames.fetch_add(1, Ordering::Relaxed);
                        change.send_replace(());
                    }
                }
            });
        }
        Ok(Self { tasks, frames, changed })
    }

    async fn wait_for_frames(&mut self, count: u64) -> Outcome<()> {
        let frames = Arc::clone(&self.frames);
        let waiting = self.changed.wait_for(|()| frames.load(Ordering::Relaxed) >= count);
        let outcome = tokio::time::timeout(PATIENCE, waiting).await;
        let got = frames.load(Ordering::Relaxed);
        outcome.map(drop).map_err(|_| format!("{got} of {count} frames came, on {} sockets", self.tasks.len()))
    }
}

struct FanOut {
    last: Duration,
    frames_per_second: f64,
}

async fn fan_out(address: SocketAddr, ours: bool) -> Outcome<FanOut> {
    let mut listeners = Listeners::open(address, LISTENERS, ours).await?;
    let client = reqwest::Client::builder().no_proxy().build().context("making a client")?;
    let send = || {
        let body = json!({"sender_user_name": data::user_name(1), "conversation_id": BIG_GROUP, "body": "everybody hears this"});
        let request = client.post(format!("http://{address}/api/messages")).header("x-act-as", data::user_name(1));
        let request = request.header("content-type", "application/json").body(body.to_string());
        async move {
            let answer = request.send().await.context("sending")?;
            if answer.status() == 201 { Ok(()) } else { Err(format!("sending: {}", answer.status())) }
        }
    };
    let mut expected = listeners.frames.load(Ordering::Relaxed);
    let mut taken = Vec::new();
    for _ in 0..SINGLE_BROADCASTS {
        let started = Instant::now();
        send().await?;
        expected += LISTENERS;
        listeners.wait_for_frames(expected).await?;
        taken.push(started.elapsed());
    }
    taken.sort_unstable();
    let started = Instant::now();
    let mut sending = futures_util::stream::iter((0..BROADCASTS).map(|_| send())).buffer_unordered(64);
    while let Some(sent) = sending.next().await {
        sent?;
    }
    drop(sending);
    listeners.wait_for_frames(expected + BROADCASTS * LISTENERS).await?;
    let frames_per_second = (BROADCASTS * LISTENERS) as f64 / started.elapsed().as_secs_f64();
    Ok(FanOut { last: taken[taken.len() / 2], frames_per_second })
}
