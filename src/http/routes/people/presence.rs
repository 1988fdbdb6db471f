//! `/api/users/{user_name}/presence`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::base::time::Timestamp;
use crate::domain::people::presence;
use crate::http::access::policy::Reader;
use crate::http::bodies::answers::json;
use crate::http::bodies::extract::{Path, Query};
use crate::http::bodies::parameters::UserPath;
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// Whether somebody is there.
#[derive(Serialize, ToSchema)]
#[schema(as = Presence)]
pub struct PresenceBody {
    #[schema(inline, value_type = PresenceState)]
    state: &'static str,
    /// When they were there last. Null for who never was, and for whoever the caller may not see.
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    last_seen_at: Option<Timestamp>,
}

/// Whether somebody is there.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PresenceState {
    /// A stream of events of theirs is open.
    Online,
    /// One is open, and their clients say that nobody looks.
    Away,
    /// None is.
    Offline,
}

/// Whether somebody is there: for friends, and those who share a conversation of up to 100 members. For all others everybody is
/// as if they had never been there.
#[utoipa::path(
    get,
    path = "/api/users/{user_name}/presence",
    tag = "live",
    params(UserPath),
    responses((status = 200, description = "Whether they are there.", body = PresenceBody)),
)]
pub async fn get_presence(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    Path(path): Path<UserPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let seen = presence::seen(&state.app, &principal, &path.user_name).await?;
    json(StatusCode::OK, &PresenceBody { state: seen.state.as_str(), last_seen_at: seen.last_seen_at })
}
