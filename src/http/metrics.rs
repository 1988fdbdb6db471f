//! `/metrics`: for loopback peers, or on an address of its own.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::HttpState;
use super::client_address::via_proxy;
use super::edge::PeerAddress;
use super::problem::Problem;
use crate::error::Error;

/// What OpenMetrics text is called.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics on the API's own address: others than loopback peers find nothing here, and neither does a loopback peer that
/// is a configured proxy, for it may speak for anyone.
pub async fn guarded(State(state): State<HttpState>, request: Request) -> Result<Response, Problem> {
    let peer = request.extensions().get::<PeerAddress>().map(|peer| peer.0);
    let local = peer.is_some_and(|peer| {
        peer.ip().to_canonical().is_loopback() && !via_proxy(peer, &state.settings.trusted_proxies)
    });
    if state.settings.metrics_elsewhere || !local {
        return Err(Problem::of_status(StatusCode::NOT_FOUND));
    }
    render(State(state)).await
}

/// The metrics on an address of their own, for whoever reaches it.
pub async fn render(State(state): State<HttpState>) -> Result<Response, Problem> {
    let text = state.app.metrics.render().map_err(Error::internal)?;
    let mut response = text.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
