//! The socket session of `/api/ws`: events and requests on one open WebSocket (RFC 6455).
//!
//! Invariants:
//! - A frame is handled like a request, with the same rules, limits and errors. The frames of a socket are handled one at a time
//!   and in order. Events are delivered meanwhile.
//! - A socket whose client does not read is closed. The client reconnects with its cursor and loses no event.
//! - Work that waits for the database does not delay reading from the socket, so heartbeats and answers to pings continue while
//!   the database does not answer.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use axum::response::{IntoResponse, Response};
use futures_util::SinkExt;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::frames::{ClientFrame, presence_of, reply, request_of};
use crate::base::error::Error;
use crate::domain::access::principal::Principal;
use crate::http::access::admission::admit_frame;
use crate::http::access::lease::{LeaseEnd, StreamLease};
use crate::http::bodies::answers::no_content;
use crate::http::bodies::frames::{HelloFrame, PongFrame, ResetFrame};
use crate::http::bodies::problem::Problem;
use crate::http::server::edge::Edge;
use crate::http::server::upgrade::ConnectionPermit;
use crate::http::state::HttpState;
use crate::live::{Live, Next, PresenceGuard, Subscription};

/// The limit of a frame from a client, in bytes: the longest message with every character escaped.
pub const FRAME_LIMIT_BYTES: usize = 128 * 1_024;
/// The size of the read buffer of a socket, in bytes. Small, because there may be thousands of idle sockets.
pub const READ_BUFFER_BYTES: usize = 4 * 1_024;
/// The number of bytes that a socket collects before it writes them, so that one write carries several events. The buffer is
/// allocated when it is needed.
pub const WRITE_BUFFER_BYTES: usize = 8 * 1_024;
/// Maximum number of events that are written before the socket does other work.
const EVENTS_PER_WRITE: usize = 64;
/// Frames that may wait while one is handled. At this limit the socket is not read, so its pings wait too.
const FRAMES_WAITING_LIMIT: usize = 32;
/// The limit of the total size of waiting frames, in bytes.
const FRAMES_WAITING_LIMIT_BYTES: usize = 2 * FRAME_LIMIT_BYTES;
/// A socket is closed when nothing has arrived for two heartbeats plus this time.
const HEARTBEAT_GRACE: Duration = Duration::from_millis(800);
/// How long writing a frame may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the client may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

const RESTART: (u16, &str) = (1012, "the server restarts; reconnect with the cursor");
const TOO_LARGE: (u16, &str) = (1009, "a frame must have at most 128 KiB");
const PROTOCOL_ERROR: (u16, &str) = (1002, "a frame breaks the rules of the WebSocket protocol (RFC 6455)");
const NOT_UNDERSTOOD: (u16, &str) = (1003, "frames must be text");
const NOT_UTF8: (u16, &str) = (1007, "a text is not UTF-8");
const FAILED: (u16, &str) = (1011, "events cannot be read now; reconnect with the cursor");
const UNCONFIRMED: (u16, &str) = (1011, "credentials cannot be confirmed now; reconnect with the cursor");
const TOO_SLOW: (u16, &str) = (4008, "too slow; reconnect with the cursor, no event is lost");
const CREDENTIALS_ENDED: (u16, &str) = (4401, "the credentials are no longer valid");
const HEARTBEAT_MISSED: (u16, &str) = (4408, "nothing was received for two heartbeats");

/// The handling of a frame. The result is the reply, if the frame gets one.
type FrameWork = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// Why a socket session ends.
enum End {
    /// The server closes the socket, with this code and reason.
    Close((u16, &'static str)),
    /// The client has closed the socket or is gone.
    Gone,
}

/// The handling of one open WebSocket.
pub struct SocketSession {
    /// Counts the socket as an open connection.
    _permit: ConnectionPermit,
    state: HttpState,
    edge: Edge,
    lease: StreamLease,
    socket: WebSocket,
    /// Keeps the user online. `None` if the caller is not a user, or the client is gone.
    presence: Option<PresenceGuard>,
    /// The time of the last frame from the client.
    received_at: Instant,
    /// The time of the last ping to the client.
    pinged_at: Instant,
    /// The frame that is being handled.
    in_progress: Option<FrameWork>,
    /// The frames that wait, each with its size in bytes. `None` is a malformed frame.
    waiting: VecDeque<(usize, Option<ClientFrame>)>,
    waiting_bytes: usize,
    /// If set, nothing more is read, and the socket session ends for this reason once all earlier frames are handled.
    ending: Option<End>,
}

impl SocketSession {
    /// Creates the socket session of a WebSocket that has just been opened.
    pub fn new(state: HttpState, upgrade: (Edge, ConnectionPermit), lease: StreamLease, socket: WebSocket) -> Self {
        let now = Instant::now();
        let presence = state.live.arrive(lease.principal().viewer());
        let (edge, permit) = upgrade;
        Self {
            _permit: permit,
            state,
            edge,
            lease,
            socket,
            presence,
            received_at: now,
            pinged_at: now,
            in_progress: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            ending: None,
        }
    }

    /// Delivers events and handles frames until the socket session ends.
    pub async fn run(mut self, subscription: Subscription, reset: Option<&'static str>) {
        let metrics = Arc::clone(&self.state.app.metrics);
        metrics.sockets.inc();
        let end = self.run_until_end(subscription, reset).await;
        let close = async {
            let wait_for_close = match end {
                End::Close((code, reason)) => {
                    let frame = CloseFrame { code, reason: reason.into() };
                    self.socket.send(Message::Close(Some(frame))).await.is_ok()
                }
                End::Gone => true,
            };
            // RFC 6455, 5.5.1: both sides send a Close frame. Reading flushes the server's frame and waits for the client's.
            if wait_for_close {
                while let Some(Ok(_)) = self.socket.recv().await {}
            }
        };
        // A client that does not answer is disconnected.
        drop(tokio::time::timeout(CLOSE_TIMEOUT, close).await);
        metrics.sockets.dec();
    }

    async fn run_until_end(&mut self, mut subscription: Subscription, reset: Option<&'static str>) -> End {
        let heartbeat = self.heartbeat();
        let stopped = self.state.live.stopped();
        tokio::pin!(stopped);
        let (live, reader) = (Arc::clone(&self.state.live), self.lease.principal().clone());
        let mut step = self.send_hello(&subscription.cursor(), reset).await;
        loop {
            let next = {
                // This future is kept while other work is done. If each loop created it again, a slow read of the database might
                // never finish.
                let mut advancing = pin!(advance(&mut subscription, &live, &reader));
                loop {
                    if let Err(end) = step {
                        return end;
                    }
                    if self.in_progress.is_none()
                        && self.waiting.is_empty()
                        && let Some(end) = self.ending.take()
                    {
                        return end;
                    }
                    let check_at = self.next_heartbeat_check(heartbeat);
                    step = tokio::select! {
                        next = &mut advancing, if self.ending.is_none() => break next,
                        () = &mut stopped, if self.in_progress.is_none() => Err(End::Close(RESTART)),
                        lease_end = self.lease.expired() => Err(End::Close(match lease_end {
                            LeaseEnd::Invalid => CREDENTIALS_ENDED,
                            LeaseEnd::Unconfirmed => UNCONFIRMED,
                        })),
                        () = tokio::time::sleep_until(check_at), if self.is_reading() => self.check_heartbeat(heartbeat).await,
                        reply = frame_done(&mut self.in_progress) => {
                            self.in_progress = None;
                            match reply {
                                Some(reply) => self.write(Message::Text(reply.into())).await,
                                None => Ok(()),
                            }
                        }
                        frame = self.socket.recv(), if self.is_reading() => self.receive(frame).await,
                    };
                    if step.is_ok() {
                        step = self.start_waiting_frames().await;
                    }
                }
            };
            step = self.deliver(next, &mut subscription).await;
        }
    }

    /// Whether the next frame is read: the socket session is not ending, and the waiting frames are below both limits.
    fn is_reading(&self) -> bool {
        self.ending.is_none()
            && self.waiting.len() < FRAMES_WAITING_LIMIT
            && self.waiting_bytes < FRAMES_WAITING_LIMIT_BYTES
    }

    /// The time between two pings. It varies, so that thousands of sockets that reconnected together are not pinged together.
    fn heartbeat(&self) -> Duration {
        let base = self.state.settings.timeouts.heartbeat;
        let [random] = self.state.app.rng.bytes::<1>().unwrap_or([128]);
        base.mul_f64(0.8 + 0.2 * f64::from(random) / 255.0)
    }

    async fn send_hello(&mut self, cursor: &str, reset: Option<&'static str>) -> Result<(), End> {
        if let Some(reason) = reset {
            self.send_json(&ResetFrame::new(reason)).await?;
        }
        let heartbeat_ms = self.state.settings.timeouts.heartbeat.as_millis() as u64;
        let principal = self.lease.principal().clone();
        let user_name = principal.person().map(|person| &*person.user_name);
        self.send_json(&HelloFrame::new(cursor, heartbeat_ms, user_name)).await
    }

    /// Writes an event together with the following ones that are in memory.
    async fn deliver(&mut self, next: Result<Next, Error>, subscription: &mut Subscription) -> Result<(), End> {
        let mut frame = match next {
            Ok(Next::Event(frame)) => frame,
            Ok(Next::TooSlow) => return Err(End::Close(TOO_SLOW)),
            Ok(Next::Reset) => return self.send_hello(&subscription.cursor(), Some("cursor_expired")).await,
            Err(error) => {
                tracing::warn!(%error, "cannot read the events of a socket");
                return Err(End::Close(FAILED));
            }
        };
        let mut written = 0;
        loop {
            let text = Utf8Bytes::try_from(frame.text()).map_err(|error| {
                tracing::error!(%error, "an event is not UTF-8");
                End::Close(FAILED)
            })?;
            write_or_end(self.socket.feed(Message::Text(text)), subscription.overflowed()).await?;
            written += 1;
            if written == EVENTS_PER_WRITE {
                break;
            }
            match subscription.next_in_memory() {
                Some(next) => frame = next,
                None => break,
            }
        }
        write_or_end(self.socket.flush(), subscription.overflowed()).await
    }

    /// The time of the next heartbeat check.
    fn next_heartbeat_check(&self, heartbeat: Duration) -> Instant {
        (self.received_at.max(self.pinged_at) + heartbeat).min(self.received_at + heartbeat * 2 + HEARTBEAT_GRACE)
    }

    /// Pings the client, or ends the socket session if nothing has been received for too long.
    async fn check_heartbeat(&mut self, heartbeat: Duration) -> Result<(), End> {
        if self.received_at.elapsed() >= heartbeat * 2 + HEARTBEAT_GRACE {
            return Err(End::Close(HEARTBEAT_MISSED));
        }
        self.pinged_at = Instant::now();
        self.write(Message::Ping(axum::body::Bytes::new())).await
    }

    async fn send_json(&mut self, frame: &impl Serialize) -> Result<(), End> {
        let text = serde_json::to_string(frame).map_err(|error| {
            tracing::error!(%error, "a frame cannot be written as JSON");
            End::Close(FAILED)
        })?;
        self.write(Message::Text(text.into())).await
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        if matches!(self.ending, Some(End::Gone)) {
            return Ok(());
        }
        write_or_end(self.socket.send(message), std::future::pending()).await
    }

    /// Answers a ping immediately. Any other frame is queued.
    async fn receive(&mut self, frame: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        let message = match frame {
            None => return self.stop_reading(End::Gone),
            Some(Err(error)) => return self.stop_reading(end_of(error)),
            Some(Ok(message)) => message,
        };
        self.received_at = Instant::now();
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return self.stop_reading(End::Close(NOT_UNDERSTOOD)),
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
            Message::Close(_) => return self.stop_reading(End::Gone),
        };
        let client_frame: Option<ClientFrame> = serde_json::from_str(text.as_str().trim_start_matches('\u{feff}')).ok();
        if client_frame.as_ref().is_some_and(|client_frame| client_frame.kind == "ping") {
            return self.send_json(&PongFrame::new()).await;
        }
        self.waiting_bytes += text.as_str().len();
        self.waiting.push_back((text.as_str().len(), client_frame));
        Ok(())
    }

    /// Stops reading. Frames that have been read are still handled, because the client cannot know whether the server handled them.
    fn stop_reading(&mut self, end: End) -> Result<(), End> {
        if matches!(end, End::Gone) {
            self.presence = None;
        }
        self.ending = Some(end);
        Ok(())
    }

    /// Starts the waiting frames in order, until the work of one of them is in progress. A frame that is answered without such
    /// work does not stop the loop.
    async fn start_waiting_frames(&mut self) -> Result<(), End> {
        while self.in_progress.is_none()
            && let Some((size_bytes, client_frame)) = self.waiting.pop_front()
        {
            self.waiting_bytes -= size_bytes;
            self.in_progress = self.start_frame(client_frame).await?;
        }
        Ok(())
    }

    async fn start_frame(&mut self, client_frame: Option<ClientFrame>) -> Result<Option<FrameWork>, End> {
        let Some(client_frame) = client_frame else {
            let detail = "must be a JSON object whose type is send, read, delivered, typing, presence or ping";
            return self.refuse(None, Error::invalid("type", "malformed_frame", detail)).await;
        };
        let principal = self.lease.principal().clone();
        let reference = client_frame.reference.clone();
        if let Some(problem) = admit_frame(&self.state, &principal) {
            return self.answer(reference.as_ref(), problem).await;
        }
        if client_frame.kind == "presence" {
            let state = presence_of(client_frame).map(|state| principal.require_person().map(|_| state));
            return match state.map_err(Error::Invalid).flatten() {
                Ok(state) => {
                    if let Some(guard) = &mut self.presence {
                        guard.say(state);
                    }
                    if reference.is_none() { Ok(None) } else { self.respond(reference.as_ref(), no_content()).await }
                }
                Err(error) => self.refuse(reference, error).await,
            };
        }
        match request_of(client_frame) {
            Ok((request, reference, always)) => {
                let edge = self.edge.clone();
                Ok(Some(Box::pin(async move {
                    let response = edge.frame(request, principal).await;
                    let replies = always || reference.is_some() || !response.status().is_success();
                    if replies { reply(reference.as_ref(), response).await } else { None }
                })))
            }
            Err(errors) => self.refuse(reference, Error::Invalid(errors)).await,
        }
    }

    async fn refuse(&mut self, reference: Option<Value>, error: Error) -> Result<Option<FrameWork>, End> {
        self.answer(reference.as_ref(), Problem::from(error)).await
    }

    async fn answer(&mut self, reference: Option<&Value>, problem: Problem) -> Result<Option<FrameWork>, End> {
        self.respond(reference, problem.into_response()).await
    }

    async fn respond(&mut self, reference: Option<&Value>, response: Response) -> Result<Option<FrameWork>, End> {
        let response = self.edge.finish_response(response);
        if let Some(text) = reply(reference, response).await {
            self.write(Message::Text(text.into())).await?;
        }
        Ok(None)
    }
}

/// How the socket session ends after an error of reading.
fn end_of(error: axum::Error) -> End {
    use tungstenite::Error;
    use tungstenite::error::ProtocolError;
    match error.into_inner().downcast_ref() {
        Some(Error::Capacity(_)) => End::Close(TOO_LARGE),
        Some(Error::Utf8(_)) => End::Close(NOT_UTF8),
        // The connection has ended.
        Some(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => End::Gone,
        Some(Error::Protocol(_)) => End::Close(PROTOCOL_ERROR),
        _ => End::Gone,
    }
}

/// Waits for the next event. If it is [`Next::Reset`], this function has opened the subscription again, without a cursor.
async fn advance(subscription: &mut Subscription, live: &Arc<Live>, reader: &Principal) -> Result<Next, Error> {
    let next = subscription.next().await?;
    if matches!(next, Next::Reset) {
        *subscription = Subscription::open(live, reader, None).await?;
    }
    Ok(next)
}

/// Waits for the frame that is being handled. Without one, it waits forever.
async fn frame_done(in_progress: &mut Option<FrameWork>) -> Option<String> {
    match in_progress {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// Waits for a write. Ends the socket session if the client does not read.
async fn write_or_end(
    write: impl Future<Output = Result<(), axum::Error>>,
    overflowed: impl Future<Output = ()>,
) -> Result<(), End> {
    tokio::select! {
        biased;
        written = write => written.map_err(|_| End::Gone),
        () = overflowed => Err(End::Close(TOO_SLOW)),
        () = tokio::time::sleep(WRITE_TIMEOUT) => Err(End::Close(TOO_SLOW)),
    }
}
