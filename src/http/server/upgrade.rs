//! The parts of an HTTP connection that a `SocketSession` takes over.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use tokio::sync::OwnedSemaphorePermit;

use super::edge::Edge;
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// The permit of one open connection. It is released when its last clone is dropped.
#[derive(Clone)]
pub struct ConnectionPermit(#[expect(dead_code, reason = "held, not read")] Arc<OwnedSemaphorePermit>);

impl ConnectionPermit {
    /// Wraps a permit of the semaphore.
    pub(super) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(permit))
    }
}

/// The parts that the socket session takes over.
pub struct Upgrade {
    /// Answers the frames that stand for requests.
    pub edge: Edge,
    /// Keeps the connection counted as open.
    pub permit: ConnectionPermit,
}

impl FromRequestParts<HttpState> for Upgrade {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &HttpState) -> Result<Self, Problem> {
        match (parts.extensions.remove::<Edge>(), parts.extensions.remove::<ConnectionPermit>()) {
            (Some(edge), Some(permit)) => Ok(Self { edge, permit }),
            _ => {
                let detail = "This path is a WebSocket; send Connection: Upgrade and Upgrade: websocket";
                Err(Problem::new(StatusCode::BAD_REQUEST, "websocket_required", detail))
            }
        }
    }
}
