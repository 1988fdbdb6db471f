//! `/api/events`: events by long poll and as a stream of server-sent events (WHATWG HTML, section 9.2).

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use serde::de::{Deserializer, Error as _, Unexpected};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use crate::base::error::Error;
use crate::http::access::lease::{LeaseEnd, StreamLease};
use crate::http::access::policy::Reader;
use crate::http::bodies::answers::{json_bytes, to_json};
use crate::http::bodies::events::EventBody;
use crate::http::bodies::extract::Query;
use crate::http::bodies::frames::{StreamHello, StreamReset};
use crate::http::bodies::parameters::{MAX_WAIT, StreamStart};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;
use crate::live::{Frame, Next, PresenceGuard, Subscription};

/// Maximum number of events in one answer.
const POLL_LIMIT: usize = 200;

/// Events and the cursor after them.
#[derive(Serialize, ToSchema)]
pub struct Events<'a> {
    /// The events in order. Empty if there is no newer event.
    #[schema(value_type = Vec<EventBody<'_>>)]
    events: Vec<&'a RawValue>,
    /// The cursor for the next request.
    #[schema(example = "5f3a9c1e7b204d68-42")]
    cursor: String,
}

/// The parameters of a long poll.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PollStart {
    /// Returns the events after this cursor: that of an event or of an earlier answer. If absent, only events that happen
    /// from now on.
    #[param(max_length = 64, example = "5f3a9c1e7b204d68-42")]
    after: Option<String>,
    /// The seconds to wait for an event. 0 if absent.
    #[serde(default, rename = "wait", deserialize_with = "wait_s")]
    #[param(value_type = Option<i64>, minimum = 0, maximum = 60)]
    wait_s: u64,
}

fn wait_s<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let seconds = i64::deserialize(deserializer)?;
    let within = u64::try_from(seconds).ok().filter(|seconds| *seconds <= MAX_WAIT.as_secs());
    within.ok_or_else(|| D::Error::invalid_value(Unexpected::Signed(seconds), &"must be between 0 and 60 seconds"))
}

/// Get events after a cursor
///
/// Returns up to 200 events as soon as there is one that the caller may see, or no events after `wait` seconds. Without `after`,
/// it returns the current cursor, from which the caller can continue.
#[utoipa::path(
    get,
    path = "/api/events",
    tag = "live",
    params(PollStart),
    responses(
        (status = 200, description = "The events.", body = Events<'_>),
        (status = 410, description = "`cursor_expired`: the events after the cursor are no longer stored, or the cursor belongs to another event log."),
    ),
)]
pub async fn poll_events(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    headers: HeaderMap,
    Query(PollStart { after, wait_s }): Query<PollStart>,
) -> Result<Response, Problem> {
    let mut subscription = Subscription::open(&state.live, &principal, after.as_deref()).await?;
    let mut lease = StreamLease::new(&state, &headers, principal)?;
    let deadline = Instant::now() + Duration::from_secs(wait_s);
    let stopped = state.live.stopped();
    tokio::pin!(stopped);
    let mut frames = Vec::new();
    while frames.len() < POLL_LIMIT {
        let next = match subscription.try_next().await? {
            Some(next) => next,
            None if !frames.is_empty() || state.live.is_stopping() => break,
            None => tokio::select! {
                next = subscription.next() => next?,
                () = tokio::time::sleep_until(deadline) => break,
                () = &mut stopped => break,
                lease_end = lease.expired() => return Err(match lease_end {
                    LeaseEnd::Invalid => Error::Unauthenticated,
                    LeaseEnd::Unconfirmed => Error::unavailable("credentials cannot be confirmed"),
                }.into()),
            },
        };
        match next {
            Next::Event(frame) => frames.push(frame),
            Next::Reset if frames.is_empty() => return Err(crate::domain::events::events::cursor_expired().into()),
            // The next request continues from the event log with the cursor.
            Next::Reset | Next::TooSlow => break,
        }
    }
    let raw = |frame: &'_ std::sync::Arc<Frame>| serde_json::from_str::<Box<RawValue>>(frame.json());
    let events = frames.iter().map(raw).collect::<Result<Vec<_>, _>>().map_err(Error::internal)?;
    let size_bytes: usize = frames.iter().map(|frame| frame.json().len() + 1).sum();
    let body = Events { events: events.iter().map(|event| &**event).collect(), cursor: subscription.cursor() };
    Ok(json_bytes(axum::http::StatusCode::OK, to_json(&body, size_bytes + 80)?))
}

/// Stream events
///
/// Sends events as server-sent events until the caller disconnects. `curl -N` shows them. The first event is `hello`, or
/// `reset` and then `hello` if the cursor has expired. The `id` of an event is its cursor, so that the EventSource of a
/// browser continues after a reconnect. The event `reset` means that events after the cursor are no longer stored: load the
/// current state again.
#[utoipa::path(
    get,
    path = "/api/events/stream",
    tag = "live",
    params(
        StreamStart,
        ("Last-Event-ID" = Option<String>, Header, description = "A cursor, as EventSource sends it. It takes precedence over `after`.", max_length = 64),
    ),
    responses((status = 200, description = "A stream of server-sent events. `data` is an Event.", content_type = "text/event-stream", body = String)),
)]
pub async fn stream_events(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    headers: HeaderMap,
    Query(StreamStart { after }): Query<StreamStart>,
) -> Result<Response, Problem> {
    let last = headers.get("last-event-id").filter(|last| !last.is_empty());
    let after = match last {
        Some(last) => {
            let wrong = || Error::invalid("Last-Event-ID", "invalid_cursor", "not a cursor of the event log");
            Some(last.to_str().map_err(|_| wrong())?.to_owned())
        }
        None => after,
    };
    let lease = StreamLease::new(&state, &headers, principal.clone())?;
    let mut head = String::from("retry: 2000\n");
    let subscription = match Subscription::open(&state.live, &principal, after.as_deref()).await {
        Err(Error::Gone { code, .. }) => {
            let reset = serde_json::to_string(&StreamReset { reason: code }).map_err(Error::internal)?;
            head.push_str(&format!("event: reset\ndata: {reset}\n\n"));
            Subscription::open(&state.live, &principal, None).await?
        }
        opened => opened?,
    };
    let cursor = subscription.cursor();
    let hello = serde_json::to_string(&StreamHello { cursor: &cursor }).map_err(Error::internal)?;
    head.push_str(&format!("event: hello\nid: {cursor}\ndata: {hello}\n\n"));
    let quiet_since = Instant::now();
    let presence = state.live.arrive(principal.viewer());
    let stream = EventStream { state, lease, subscription, _presence: presence, head: Some(head), quiet_since };
    let body = futures_util::stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        Some((Ok::<Bytes, Infallible>(bytes), stream))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Without this header, nginx would hold events back until its buffer is full.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The state of a stream of server-sent events.
struct EventStream {
    state: HttpState,
    lease: StreamLease,
    subscription: Subscription,
    /// Keeps the user online while the stream is open.
    _presence: Option<PresenceGuard>,
    /// The beginning of the stream, until it is sent.
    head: Option<String>,
    /// The time of the last output.
    quiet_since: Instant,
}

impl EventStream {
    /// The next output. `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(head) = self.head.take() {
            return Some(head.into());
        }
        let keep_alive_at = self.quiet_since + self.state.settings.timeouts.keep_alive;
        let next = tokio::select! {
            next = self.subscription.next() => next.ok()?,
            () = self.state.live.stopped() => return None,
            _ = self.lease.expired() => return None,
            () = tokio::time::sleep_until(keep_alive_at) => {
                self.quiet_since = Instant::now();
                return Some(Bytes::from_static(b":\n\n"));
            }
        };
        self.quiet_since = Instant::now();
        match next {
            Next::Event(frame) => Some(server_sent_event(&frame, &self.subscription)),
            // The browser reconnects with its last cursor and then gets a `reset`.
            Next::Reset | Next::TooSlow => None,
        }
    }
}

fn server_sent_event(frame: &Frame, subscription: &Subscription) -> Bytes {
    let json = frame.json();
    match frame.position {
        Some(_) => format!("id: {}\ndata: {json}\n\n", subscription.cursor()).into(),
        None => format!("data: {json}\n\n").into(),
    }
}
