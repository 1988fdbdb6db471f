//! What leaves HTTP with a request for another protocol.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use tokio::sync::OwnedSemaphorePermit;

use super::edge::Edge;
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// A place among the connections that may be open; free again once nobody holds it any more.
#[derive(Clone)]
pub struct Place(#[expect(dead_code, reason = "held, not read")] Arc<OwnedSemaphorePermit>);

impl Place {
    /// A place that holds a permit.
    pub(super) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(permit))
    }
}

/// What a request for another protocol takes with it out of HTTP.
pub struct Upgrade {
    /// What answers the frames that stand for requests.
    pub edge: Edge,
    /// Its place among the connections that may be open.
    pub place: Place,
}

impl FromRequestParts<HttpState> for Upgrade {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &HttpState) -> Result<Self, Problem> {
        match (parts.extensions.remove::<Edge>(), parts.extensions.remove::<Place>()) {
            (Some(edge), Some(place)) => Ok(Self { edge, place }),
            _ => {
                let detail = "ask for a WebSocket: Connection: Upgrade, Upgrade: websocket";
                Err(Problem::new(StatusCode::BAD_REQUEST, "websocket_required", detail))
            }
        }
    }
}
