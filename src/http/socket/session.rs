//! The session of `/api/ws`: events and requests on one WebSocket (RFC 6455).
//!
//! Invariants: what a frame asks for goes the way of a request, with its rules, limits and errors; one frame of a socket is
//! worked on at a time, in their order, while events go on. A socket whose reader does not read is closed: with its cursor
//! the reader loses nothing. Nothing that waits for the database delays the reading of the socket, so that heartbeats and
//! answers to pings go on while the database is silent.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use axum::response::{IntoResponse, Response};
use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::frames::{Asked, presence_of, reply, request_of};
use crate::base::error::Error;
use crate::domain::access::principal::Principal;
use crate::http::access::admission::admit_frame;
use crate::http::access::lease::{Lapse, Lease};
use crate::http::bodies::answers::no_content;
use crate::http::bodies::problem::Problem;
use crate::http::server::edge::Edge;
use crate::http::server::upgrade::Place;
use crate::http::state::HttpState;
use crate::live::{Here, Live, Next, Subscription};

/// Bytes of one frame from a client: a message at its longest, with every character escaped.
pub const FRAME_LIMIT_BYTES: usize = 128 * 1_024;
/// Bytes read at once from a socket. There may be thousands of idle ones.
pub const READ_BUFFER_BYTES: usize = 4 * 1_024;
/// Bytes that are gathered before they are written to a socket, where events wait for each other. Taken when they are needed.
pub const WRITE_BUFFER_BYTES: usize = 8 * 1_024;
/// Events that are written before a socket is asked again what else there is.
const EVENTS_AT_ONCE: usize = 64;
/// Frames that may wait while one is worked on. Beyond it the socket is not read, and its pings wait too.
const FRAMES_WAITING_LIMIT: usize = 32;
/// Bytes of the frames that may wait.
const FRAMES_WAITING_LIMIT_BYTES: usize = 2 * FRAME_LIMIT_BYTES;
/// How much later than two heartbeats a socket from which nothing comes is closed.
const HEARTBEAT_GRACE: Duration = Duration::from_millis(800);
/// How long a frame may take to be written to a socket that takes nothing.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the other side may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

const RESTART: (u16, &str) = (1012, "the server restarts: come back with the cursor");
const TOO_LARGE: (u16, &str) = (1009, "a frame may have up to 128 KiB");
const NOT_UNDERSTOOD: (u16, &str) = (1003, "frames are text");
const FAILED: (u16, &str) = (1011, "events cannot be read for now: come back with the cursor");
const UNCONFIRMED: (u16, &str) = (1011, "credentials cannot be confirmed for now: come back with the cursor");
const TOO_SLOW: (u16, &str) = (4008, "too slow: come back with the cursor, nothing is lost");
const CREDENTIALS_ENDED: (u16, &str) = (4401, "the credentials do not hold any more");
const HEARTBEAT_MISSED: (u16, &str) = (4408, "nothing was heard for two heartbeats");

/// The work on a frame; its outcome is the reply, where the frame gets one.
type Working = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// Why a socket ends, and whether it is told.
enum End {
    Told((u16, &'static str)),
    /// The other side closed, or is gone.
    Over,
}

/// A WebSocket that is open.
pub struct Session {
    /// Among the connections that may be open.
    _place: Place,
    state: HttpState,
    edge: Edge,
    lease: Lease,
    socket: WebSocket,
    /// That its reader is here.
    here: Option<Here>,
    /// When something came last.
    heard: Instant,
    /// When a ping went out last.
    asked: Instant,
    /// The frame that is worked on.
    working: Option<Working>,
    /// Frames that came meanwhile, each with its size in bytes; `None` is one that is malformed.
    waiting: VecDeque<(usize, Option<Asked>)>,
    waiting_bytes: usize,
    /// Nothing more is read. The socket ends so once every frame before has been worked on.
    ending: Option<End>,
}

impl Session {
    /// A session on a socket that has just been opened.
    pub fn new(state: HttpState, upgrade: (Edge, Place), lease: Lease, socket: WebSocket) -> Self {
        let now = Instant::now();
        let here = state.live.arrive(lease.principal().viewer());
        let (edge, place) = upgrade;
        Self {
            _place: place,
            state,
            edge,
            lease,
            socket,
            here,
            heard: now,
            asked: now,
            working: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            ending: None,
        }
    }

    /// Delivers events and works on frames until the socket ends.
    pub async fn run(mut self, subscription: Subscription, reset: Option<&'static str>) {
        let metrics = Arc::clone(&self.state.app.metrics);
        metrics.sockets.inc();
        let end = self.talk(subscription, reset).await;
        let close = async {
            let told = match end {
                End::Told((code, reason)) => {
                    let frame = CloseFrame { code, reason: reason.into() };
                    self.socket.send(Message::Close(Some(frame))).await.is_ok()
                }
                End::Over => true,
            };
            // RFC 6455, 5.5.1: a Close frame is answered. Ours is sent, and theirs answered, by reading on.
            if told {
                while let Some(Ok(_)) = self.socket.recv().await {}
            }
        };
        // Who does not answer is cut off.
        drop(tokio::time::timeout(CLOSE_TIMEOUT, close).await);
        metrics.sockets.dec();
    }

    async fn talk(&mut self, mut subscription: Subscription, reset: Option<&'static str>) -> End {
        let heartbeat = self.heartbeat();
        let stopped = self.state.live.stopped();
        tokio::pin!(stopped);
        let (live, reader) = (Arc::clone(&self.state.live), self.lease.principal().clone());
        let mut step = self.begin(&subscription.cursor(), reset).await;
        loop {
            let next = {
                // Held while other work is done, because a read that is dropped and begun again may never end.
                let mut advancing = pin!(advance(&mut subscription, &live, &reader));
                loop {
                    if let Err(end) = step {
                        return end;
                    }
                    if self.working.is_none()
                        && self.waiting.is_empty()
                        && let Some(end) = self.ending.take()
                    {
                        return end;
                    }
                    let look_at = self.look_at(heartbeat);
                    step = tokio::select! {
                        next = &mut advancing, if self.ending.is_none() => break next,
                        () = &mut stopped, if self.working.is_none() => Err(End::Told(RESTART)),
                        lapse = self.lease.lapse() => Err(End::Told(match lapse {
                            Lapse::Ended => CREDENTIALS_ENDED,
                            Lapse::Unconfirmed => UNCONFIRMED,
                        })),
                        () = tokio::time::sleep_until(look_at), if self.is_reading() => self.look_after(heartbeat).await,
                        reply = finished(&mut self.working) => {
                            self.working = None;
                            match reply {
                                Some(reply) => self.write(Message::Text(reply.into())).await,
                                None => Ok(()),
                            }
                        }
                        frame = self.socket.recv(), if self.is_reading() => self.take(frame).await,
                    };
                    if step.is_ok() {
                        step = self.work_on().await;
                    }
                }
            };
            step = self.deliver(next, &mut subscription).await;
        }
    }

    /// Whether the next frame is read: the socket has not ended, and few frames wait.
    fn is_reading(&self) -> bool {
        self.ending.is_none()
            && self.waiting.len() < FRAMES_WAITING_LIMIT
            && self.waiting_bytes < FRAMES_WAITING_LIMIT_BYTES
    }

    /// The time between two pings: not the same for all, so that thousands that came back at once are not asked at once.
    fn heartbeat(&self) -> Duration {
        let base = self.state.settings.timeouts.heartbeat;
        let [random] = self.state.app.rng.bytes::<1>().unwrap_or([128]);
        base.mul_f64(0.8 + 0.2 * f64::from(random) / 255.0)
    }

    async fn begin(&mut self, cursor: &str, reset: Option<&'static str>) -> Result<(), End> {
        if let Some(reason) = reset {
            self.say(&json!({"type": "reset", "reason": reason})).await?;
        }
        let hello = json!({
            "type": "hello",
            "cursor": cursor,
            "heartbeat_ms": self.state.settings.timeouts.heartbeat.as_millis() as u64,
            "user_name": self.lease.principal().person().map(|person| &person.user_name),
        });
        self.say(&hello).await
    }

    /// Writes an event and those in memory behind it, and sends them off together.
    async fn deliver(&mut self, next: Result<Next, Error>, subscription: &mut Subscription) -> Result<(), End> {
        let mut frame = match next {
            Ok(Next::Event(frame)) => frame,
            Ok(Next::TooSlow) => return Err(End::Told(TOO_SLOW)),
            Ok(Next::Reset) => return self.begin(&subscription.cursor(), Some("cursor_expired")).await,
            Err(error) => {
                tracing::warn!(%error, "a socket's events could not be read");
                return Err(End::Told(FAILED));
            }
        };
        let mut written = 0;
        loop {
            let text = Utf8Bytes::try_from(frame.text()).map_err(|error| {
                tracing::error!(%error, "an event is no UTF-8");
                End::Told(FAILED)
            })?;
            patiently(self.socket.feed(Message::Text(text)), subscription.overflowed()).await?;
            written += 1;
            if written == EVENTS_AT_ONCE {
                break;
            }
            match subscription.next_in_memory() {
                Some(next) => frame = next,
                None => break,
            }
        }
        patiently(self.socket.flush(), subscription.overflowed()).await
    }

    /// When the other side is to be looked after next.
    fn look_at(&self, heartbeat: Duration) -> Instant {
        (self.heard.max(self.asked) + heartbeat).min(self.heard + heartbeat * 2 + HEARTBEAT_GRACE)
    }

    /// Pings the other side, or finds that it is gone.
    async fn look_after(&mut self, heartbeat: Duration) -> Result<(), End> {
        if self.heard.elapsed() >= heartbeat * 2 + HEARTBEAT_GRACE {
            return Err(End::Told(HEARTBEAT_MISSED));
        }
        self.asked = Instant::now();
        self.write(Message::Ping(axum::body::Bytes::new())).await
    }

    async fn say(&mut self, value: &Value) -> Result<(), End> {
        self.write(Message::Text(value.to_string().into())).await
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        if matches!(self.ending, Some(End::Over)) {
            return Ok(());
        }
        patiently(self.socket.send(message), std::future::pending()).await
    }

    /// Answers a ping at once; any other frame waits for its turn.
    async fn take(&mut self, frame: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        let message = match frame {
            None => return self.end(End::Over),
            Some(Err(error)) => {
                let too_large = error.to_string().contains("too long");
                return self.end(if too_large { End::Told(TOO_LARGE) } else { End::Over });
            }
            Some(Ok(message)) => message,
        };
        self.heard = Instant::now();
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return self.end(End::Told(NOT_UNDERSTOOD)),
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
            Message::Close(_) => return self.end(End::Over),
        };
        let asked: Option<Asked> = serde_json::from_str(text.as_str()).ok();
        if asked.as_ref().is_some_and(|asked| asked.kind == "ping") {
            return self.say(&json!({"type": "pong"})).await;
        }
        self.waiting_bytes += text.as_str().len();
        self.waiting.push_back((text.as_str().len(), asked));
        Ok(())
    }

    /// Reads nothing more. What was read before is still worked on: its sender cannot know that it was not.
    fn end(&mut self, end: End) -> Result<(), End> {
        if matches!(end, End::Over) {
            self.here = None;
        }
        self.ending = Some(end);
        Ok(())
    }

    /// Takes up the frames that wait, until there is one that takes time.
    async fn work_on(&mut self) -> Result<(), End> {
        while self.working.is_none()
            && let Some((size_bytes, asked)) = self.waiting.pop_front()
        {
            self.waiting_bytes -= size_bytes;
            self.working = self.begin_work(asked).await?;
        }
        Ok(())
    }

    async fn begin_work(&mut self, asked: Option<Asked>) -> Result<Option<Working>, End> {
        let Some(asked) = asked else {
            let detail = "must be a JSON object with a type: send, read, delivered, typing, presence or ping";
            return self.refuse(None, Error::invalid("type", "malformed_frame", detail)).await;
        };
        let principal = self.lease.principal().clone();
        let reference = asked.reference.clone();
        if let Some(problem) = admit_frame(&self.state, &principal) {
            return self.answer(reference.as_ref(), problem).await;
        }
        if asked.kind == "presence" {
            let said = presence_of(asked).map(|state| principal.require_person().map(|_| state));
            return match said.map_err(Error::Invalid).flatten() {
                Ok(state) => {
                    if let Some(here) = &mut self.here {
                        here.say(state);
                    }
                    if reference.is_none() { Ok(None) } else { self.respond(reference.as_ref(), no_content()).await }
                }
                Err(error) => self.refuse(reference, error).await,
            };
        }
        match request_of(asked) {
            Ok((request, reference, always)) => {
                let edge = self.edge.clone();
                Ok(Some(Box::pin(async move {
                    let response = edge.frame(request, principal).await;
                    let told = always || reference.is_some() || !response.status().is_success();
                    if told { reply(reference.as_ref(), response).await } else { None }
                })))
            }
            Err(errors) => self.refuse(reference, Error::Invalid(errors)).await,
        }
    }

    async fn refuse(&mut self, reference: Option<Value>, error: Error) -> Result<Option<Working>, End> {
        self.answer(reference.as_ref(), Problem::from(error)).await
    }

    async fn answer(&mut self, reference: Option<&Value>, problem: Problem) -> Result<Option<Working>, End> {
        self.respond(reference, problem.into_response()).await
    }

    async fn respond(&mut self, reference: Option<&Value>, response: Response) -> Result<Option<Working>, End> {
        let response = self.edge.finished(response);
        if let Some(text) = reply(reference, response).await {
            self.write(Message::Text(text.into())).await?;
        }
        Ok(None)
    }
}

/// Waits for the next event. Where the log is another one, the subscription has begun anew when this returns.
async fn advance(subscription: &mut Subscription, live: &Arc<Live>, reader: &Principal) -> Result<Next, Error> {
    let next = subscription.next().await?;
    if matches!(next, Next::Reset) {
        *subscription = Subscription::open(live, reader, None).await?;
    }
    Ok(next)
}

/// What the frame that is worked on comes to; waits for ever where there is none.
async fn finished(working: &mut Option<Working>) -> Option<String> {
    match working {
        Some(working) => working.await,
        None => std::future::pending().await,
    }
}

/// Writes, unless the reader does not read.
async fn patiently(
    write: impl Future<Output = Result<(), axum::Error>>,
    overflowed: impl Future<Output = ()>,
) -> Result<(), End> {
    tokio::select! {
        biased;
        written = write => written.map_err(|_| End::Over),
        () = overflowed => Err(End::Told(TOO_SLOW)),
        () = tokio::time::sleep(WRITE_TIMEOUT) => Err(End::Told(TOO_SLOW)),
    }
}
