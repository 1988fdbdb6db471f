//! `/api/events`: what happened, by long poll and as a stream of server-sent events (WHATWG HTML, section 9.2).

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
use crate::http::access::lease::{Lapse, Lease};
use crate::http::access::policy::Reader;
use crate::http::bodies::answers::{json_bytes, to_json};
use crate::http::bodies::events::EventBody;
use crate::http::bodies::extract::Query;
use crate::http::bodies::parameters::{MAX_WAIT, StreamStart};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;
use crate::live::{Frame, Here, Next, Subscription};

/// Events of one answer.
const POLL_LIMIT: usize = 200;

/// Events, and where to go on.
#[derive(Serialize, ToSchema)]
pub struct Events<'a> {
    /// In their order. Empty means that the end of the log was reached.
    #[schema(value_type = Vec<EventBody<'_>>)]
    events: Vec<&'a RawValue>,
    /// What to ask with next.
    #[schema(example = "5f3a9c1e7b204d68-42")]
    cursor: String,
}

/// Where a poll begins, and how long it may wait.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PollStart {
    /// The cursor to go on behind, as an event or an answer gave it.
    #[param(max_length = 64, example = "5f3a9c1e7b204d68-42")]
    after: Option<String>,
    /// Seconds to wait for an event; 0 when it is absent.
    #[serde(default, rename = "wait", deserialize_with = "wait_s")]
    #[param(value_type = Option<i64>, minimum = 0, maximum = 60)]
    wait_s: u64,
}

fn wait_s<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let seconds = i64::deserialize(deserializer)?;
    let within = u64::try_from(seconds).ok().filter(|seconds| *seconds <= MAX_WAIT.as_secs());
    within.ok_or_else(|| D::Error::invalid_value(Unexpected::Signed(seconds), &"must be between 0 and 60 seconds"))
}

/// Events behind a cursor. Without one, the cursor of now.
///
/// Answers with up to 200 events as soon as there is one that the caller may see, and after `wait` seconds without any.
#[utoipa::path(
    get,
    path = "/api/events",
    tag = "live",
    params(PollStart),
    responses(
        (status = 200, description = "Events.", body = Events<'_>),
        (status = 410, description = "`cursor_expired`: events behind the cursor are not kept any more, or it is of another log."),
    ),
)]
pub async fn poll_events(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    headers: HeaderMap,
    Query(PollStart { after, wait_s }): Query<PollStart>,
) -> Result<Response, Problem> {
    let mut subscription = Subscription::open(&state.live, &principal, after.as_deref()).await?;
    let mut lease = Lease::new(&state, &headers, principal)?;
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
                lapse = lease.lapse() => return Err(match lapse {
                    Lapse::Ended => Error::Unauthenticated,
                    Lapse::Unconfirmed => Error::unavailable("credentials cannot be confirmed"),
                }.into()),
            },
        };
        match next {
            Next::Event(frame) => frames.push(frame),
            Next::Reset if frames.is_empty() => return Err(crate::domain::events::events::cursor_expired().into()),
            // Asked again with the cursor, it begins in the log.
            Next::Reset | Next::TooSlow => break,
        }
    }
    let raw = |frame: &'_ std::sync::Arc<Frame>| serde_json::from_str::<Box<RawValue>>(frame.json());
    let events = frames.iter().map(raw).collect::<Result<Vec<_>, _>>().map_err(Error::internal)?;
    let size_bytes: usize = frames.iter().map(|frame| frame.json().len() + 1).sum();
    let body = Events { events: events.iter().map(|event| &**event).collect(), cursor: subscription.cursor() };
    Ok(json_bytes(axum::http::StatusCode::OK, to_json(&body, size_bytes + 80)?))
}

/// What a stream begins with.
#[derive(Serialize, ToSchema)]
pub struct Hello<'a> {
    /// Where it begins.
    cursor: &'a str,
}

/// Events as they happen, until the caller goes. `curl -N` shows them.
///
/// The first event is called `hello`; `id` is the cursor, so that a browser's EventSource goes on by itself. `reset` says that
/// events were forgotten: read what you show anew.
#[utoipa::path(
    get,
    path = "/api/events/stream",
    tag = "live",
    params(
        StreamStart,
        ("Last-Event-ID" = Option<String>, Header, description = "The same, as EventSource sends it; it goes before `after`.", max_length = 64),
    ),
    responses((status = 200, description = "A stream of events: `data` is an Event.", content_type = "text/event-stream", body = String)),
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
            let wrong = || Error::invalid("Last-Event-ID", "invalid_cursor", "is not a cursor of events");
            Some(last.to_str().map_err(|_| wrong())?.to_owned())
        }
        None => after,
    };
    let lease = Lease::new(&state, &headers, principal.clone())?;
    let mut head = String::from("retry: 2000\n");
    let subscription = match Subscription::open(&state.live, &principal, after.as_deref()).await {
        Err(Error::Gone { code, .. }) => {
            head.push_str(&reset(code));
            Subscription::open(&state.live, &principal, None).await?
        }
        opened => opened?,
    };
    let cursor = subscription.cursor();
    let hello = serde_json::to_string(&Hello { cursor: &cursor }).map_err(Error::internal)?;
    head.push_str(&format!("event: hello\nid: {cursor}\ndata: {hello}\n\n"));
    let quiet_since = Instant::now();
    let here = state.live.arrive(principal.viewer());
    let streaming = Streaming { state, lease, subscription, _here: here, head: Some(head), quiet_since };
    let body = futures_util::stream::unfold(streaming, |mut streaming| async move {
        let bytes = streaming.next().await?;
        Some((Ok::<Bytes, Infallible>(bytes), streaming))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // nginx would keep what it gets until it has a buffer full.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn reset(reason: &str) -> String {
    format!("event: reset\ndata: {{\"reason\":\"{reason}\"}}\n\n")
}

struct Streaming {
    state: HttpState,
    lease: Lease,
    subscription: Subscription,
    /// Its reader is online.
    _here: Option<Here>,
    head: Option<String>,
    quiet_since: Instant,
}

impl Streaming {
    /// What is sent next; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(head) = self.head.take() {
            return Some(head.into());
        }
        let keep_alive_at = self.quiet_since + self.state.settings.timeouts.keep_alive;
        let next = tokio::select! {
            next = self.subscription.next() => next.ok()?,
            () = self.state.live.stopped() => return None,
            _ = self.lease.lapse() => return None,
            () = tokio::time::sleep_until(keep_alive_at) => {
                self.quiet_since = Instant::now();
                return Some(Bytes::from_static(b":\n\n"));
            }
        };
        self.quiet_since = Instant::now();
        match next {
            Next::Event(frame) => Some(written(&frame, &self.subscription)),
            // The browser comes back with its last cursor and gets a `reset` then.
            Next::Reset | Next::TooSlow => None,
        }
    }
}

fn written(frame: &Frame, subscription: &Subscription) -> Bytes {
    let json = frame.json();
    match frame.position {
        Some(_) => format!("id: {}\ndata: {json}\n\n", subscription.cursor()).into(),
        None => format!("data: {json}\n\n").into(),
    }
}
