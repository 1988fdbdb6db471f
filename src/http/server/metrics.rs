//! `/metrics`: for loopback peers and API keys with the scope `admin`, or on a separate address.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::base::error::Error;
use crate::http::access::admission::admit_to_metrics;
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// The name and the media type of the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text";
const OPEN_METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The media type of the Prometheus text format.
const TEXT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics on the address of the API: for loopback peers and API keys with the scope `admin`. Other callers get 404.
pub async fn guarded(State(state): State<HttpState>, request: Request) -> Result<Response, Problem> {
    if state.settings.metrics_elsewhere {
        return Err(Problem::of_status(StatusCode::NOT_FOUND));
    }
    let (head, _) = request.into_parts();
    admit_to_metrics(&state, &head).await?;
    render(State(state), head.headers).await
}

/// The metrics on a separate address, without access control. In the text format of OpenMetrics if the caller names it in `Accept`,
/// as Prometheus does, otherwise in that of Prometheus.
pub async fn render(State(state): State<HttpState>, headers: HeaderMap) -> Result<Response, Problem> {
    let metrics = &state.app.metrics;
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (rendered, content_type) = if accepted.into_iter().any(|value| value.contains(OPEN_METRICS)) {
        (metrics.render(), OPEN_METRICS_TYPE)
    } else {
        (metrics.render_text(), TEXT_TYPE)
    };
    let mut response = rendered.map_err(Error::internal)?.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
