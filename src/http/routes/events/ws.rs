//! `/api/ws`: opens a WebSocket (RFC 6455). `http/socket/` handles the open socket.

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tracing::{Instrument as _, Span};

use crate::base::error::Error;
use crate::base::tasks::log_panic;
use crate::http::access::admission::SUBPROTOCOL;
use crate::http::access::lease::StreamLease;
use crate::http::access::policy::Reader;
use crate::http::bodies::extract::Query;
use crate::http::bodies::parameters::StreamStart;
use crate::http::bodies::problem::Problem;
use crate::http::server::upgrade::Upgrade;
use crate::http::socket::session::{FRAME_LIMIT_BYTES, READ_BUFFER_BYTES, SocketSession, WRITE_BUFFER_BYTES};
use crate::http::state::HttpState;
use crate::live::Subscription;

/// The only version of the protocol.
const WEBSOCKET_VERSION: &str = "13";
/// The length of a decoded `Sec-WebSocket-Key`.
const WEBSOCKET_KEY_BYTES: usize = 16;

/// Open a WebSocket
///
/// Delivers events and accepts requests as frames. The first frame of the server has the type `hello` and the fields `cursor`,
/// `heartbeat_ms` and `user_name`. If the cursor in `after` has expired, a frame `reset` comes before it. A later `reset` is
/// also followed by a new `hello`. Further frames of the server have the types `event`, `reply` and `pong`. Frames of the
/// client have the types `send`, `read`, `delivered`, `typing`, `presence` and `ping`. Credentials are sent in the header
/// `Authorization`, as the session cookie, or as the second of the subprotocols `posthaste, <token>`.
#[utoipa::path(
    get,
    path = "/api/ws",
    tag = "live",
    params(StreamStart),
    responses(
        (status = 101, description = "The connection has become a WebSocket."),
        (status = 400, description = "The request does not ask for a WebSocket."),
        (status = 426, description = "`unsupported_websocket_version`: `Sec-WebSocket-Version` is not 13."),
    ),
)]
pub async fn open_socket(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    connection_parts: Upgrade,
    headers: HeaderMap,
    Query(StreamStart { after }): Query<StreamStart>,
    request: Request,
) -> Result<Response, Problem> {
    let Upgrade { edge, permit } = connection_parts;
    if let Some(refusal) = refused_handshake(&headers) {
        return Ok(refusal);
    }
    let handshake = websocket(&state, request).await?;
    let lease = StreamLease::new(&state, &headers, principal.clone())?;
    let opened = match Subscription::open(&state.live, &principal, after.as_deref()).await {
        Err(Error::Gone { code, .. }) => (Subscription::open(&state.live, &principal, None).await?, Some(code)),
        opened => (opened?, None),
    };
    let (subscription, reset) = opened;
    let handshake = handshake
        .protocols([SUBPROTOCOL])
        .max_message_size(FRAME_LIMIT_BYTES)
        .max_frame_size(FRAME_LIMIT_BYTES)
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES);
    let span = Span::current();
    Ok(handshake.on_upgrade(move |socket| {
        let session = SocketSession::new(state, (edge, permit), lease, socket);
        log_panic("socket", Box::pin(session.run(subscription, reset))).instrument(span)
    }))
}

/// The answer to a handshake with another version of the protocol or with an invalid key (RFC 6455, section 4.2).
fn refused_handshake(headers: &HeaderMap) -> Option<Response> {
    let only = |name| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
    };
    if only(header::SEC_WEBSOCKET_VERSION) != Some(WEBSOCKET_VERSION.as_bytes()) {
        let detail = "Send Sec-WebSocket-Version: 13";
        let problem = Problem::new(StatusCode::UPGRADE_REQUIRED, "unsupported_websocket_version", detail);
        let mut response = problem.into_response();
        let headers = response.headers_mut();
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(WEBSOCKET_VERSION));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        return Some(response);
    }
    let key = only(header::SEC_WEBSOCKET_KEY).and_then(|key| BASE64_STANDARD.decode(key).ok());
    if key.is_none_or(|key| key.len() != WEBSOCKET_KEY_BYTES) {
        let detail = "Send one Sec-WebSocket-Key with 16 bytes in base64";
        return Some(Problem::new(StatusCode::BAD_REQUEST, "websocket_required", detail).into_response());
    }
    None
}

async fn websocket(state: &HttpState, request: Request) -> Result<WebSocketUpgrade, Problem> {
    use axum::extract::FromRequestParts;
    let (mut parts, _) = request.into_parts();
    WebSocketUpgrade::from_request_parts(&mut parts, state)
        .await
        .map_err(|rejection| Problem::of_status(rejection.into_response().status()))
}
