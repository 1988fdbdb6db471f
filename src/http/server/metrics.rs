//! `/metrics`: for loopback peers and API keys with the scope `admin`, or on a separate address.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::base::error::Error;
use crate::http::access::admission::admit_to_metrics;
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// The media type of the OpenMetrics text format.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics on the address of the API: for loopback peers and API keys with the scope `admin`. Other callers get 404.
pub async fn guarded(State(state): State<HttpState>, request: Request) -> Result<Response, Problem> {
    if state.settings.metrics_elsewhere {
        return Err(Problem::of_status(StatusCode::NOT_FOUND));
    }
    admit_to_metrics(&state, &request.into_parts().0).await?;
    render(State(state)).await
}

/// The metrics on a separate address, without access control.
pub async fn render(State(state): State<HttpState>) -> Result<Response, Problem> {
    let text = state.app.metrics.render().map_err(Error::internal)?;
    let mut response = text.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
