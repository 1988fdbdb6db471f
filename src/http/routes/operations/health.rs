//! `/healthz` and `/readyz`, for the programs that monitor the process.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::base::error::Error;
use crate::domain::operations::health;
use crate::http::bodies::answers::{json_bytes, to_json};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// How long the database may take to answer.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of the server.
#[derive(Serialize, ToSchema)]
pub struct Health {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Check that the process runs
///
/// Does not ask the database: `/readyz` does.
#[utoipa::path(get, path = "/healthz", tag = "server", responses((status = 200, description = "The process runs.", body = Health)))]
pub async fn healthz() -> Result<Response, Problem> {
    Ok(json_bytes(StatusCode::OK, to_json(&Health { status: "ok" }, 32)?))
}

/// Check that the server can serve requests
///
/// The answer is 503 while the database does not answer within 2 seconds or cannot be written, or while a task of the server
/// fails repeatedly.
#[utoipa::path(get, path = "/readyz", tag = "server", responses((status = 200, description = "The server can serve requests.", body = Health)))]
pub async fn readyz(State(state): State<HttpState>) -> Result<Response, Problem> {
    match tokio::time::timeout(READY_TIMEOUT, health::check(&state.app)).await {
        Ok(Ok(())) => match state.tasks.failing() {
            None => Ok(json_bytes(StatusCode::OK, to_json(&Health { status: "ready" }, 32)?)),
            Some(task) => {
                let detail = format!("The task {task} of this server fails repeatedly");
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "task_failing", detail).retry_after_s(1))
            }
        },
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Error::unavailable("the database did not answer in time").into()),
    }
}
