//! `/api/ws`: opening a WebSocket (RFC 6455). Its session is in `http/socket/`.

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use tracing::{Instrument as _, Span};

use crate::base::error::Error;
use crate::base::tasks::log_panic;
use crate::http::access::admission::SUBPROTOCOL;
use crate::http::access::lease::Lease;
use crate::http::access::policy::Reader;
use crate::http::bodies::extract::Query;
use crate::http::bodies::parameters::StreamStart;
use crate::http::bodies::problem::Problem;
use crate::http::server::upgrade::Upgrade;
use crate::http::socket::session::{FRAME_LIMIT_BYTES, READ_BUFFER_BYTES, Session, WRITE_BUFFER_BYTES};
use crate::http::state::HttpState;
use crate::live::Subscription;

/// Opens a WebSocket: events as they happen, and frames that send.
///
/// The server sends `{"type": "hello", "cursor", "heartbeat_ms", "user_name"}` first, then `event`, `reply`, `reset` and `pong`; the client may
/// send `send`, `read`, `delivered`, `typing`, `presence` and `ping`. The token goes in the header, the cookie, or the
/// subprotocols `posthaste, <token>`.
#[utoipa::path(
    get,
    path = "/api/ws",
    tag = "live",
    params(StreamStart),
    responses(
        (status = 101, description = "The connection is a WebSocket now."),
        (status = 400, description = "Not a request for a WebSocket."),
    ),
)]
pub async fn open_socket(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    upgrade: Upgrade,
    headers: HeaderMap,
    Query(StreamStart { after }): Query<StreamStart>,
    request: Request,
) -> Result<Response, Problem> {
    let Upgrade { edge, place } = upgrade;
    let upgrade = websocket(&state, request).await?;
    let lease = Lease::new(&state, &headers, principal.clone())?;
    let opened = match Subscription::open(&state.live, &principal, after.as_deref()).await {
        Err(Error::Gone { code, .. }) => (Subscription::open(&state.live, &principal, None).await?, Some(code)),
        opened => (opened?, None),
    };
    let (subscription, reset) = opened;
    let upgrade = upgrade
        .protocols([SUBPROTOCOL])
        .max_message_size(FRAME_LIMIT_BYTES)
        .max_frame_size(FRAME_LIMIT_BYTES)
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES);
    let span = Span::current();
    Ok(upgrade.on_upgrade(move |socket| {
        let session = Session::new(state, (edge, place), lease, socket);
        log_panic("socket", Box::pin(session.run(subscription, reset))).instrument(span)
    }))
}

async fn websocket(state: &HttpState, request: Request) -> Result<WebSocketUpgrade, Problem> {
    use axum::extract::FromRequestParts;
    let (mut parts, _) = request.into_parts();
    WebSocketUpgrade::from_request_parts(&mut parts, state)
        .await
        .map_err(|rejection| Problem::of_status(rejection.into_response().status()))
}
