//! `/api/users/{user_name}/presence`: the presence of a user.

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

/// The presence of a user.
#[derive(Serialize, ToSchema)]
#[schema(as = Presence)]
pub struct PresenceBody {
    #[schema(inline, value_type = PresenceState)]
    state: &'static str,
    /// The time at which the user was last seen. Null if the user was never online, or if the caller may not see their presence.
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    last_seen_at: Option<Timestamp>,
}

/// The state of presence.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PresenceState {
    /// The user has an open stream of events.
    Online,
    /// The user has an open stream of events, and the clients report that nobody is at the device.
    Away,
    /// The user has no open stream of events.
    Offline,
}

/// Get the presence of a user
///
/// Visible to friends and to users who share a conversation with at most 100 members. For all other callers the user is shown as
/// offline and never seen.
#[utoipa::path(
    get,
    path = "/api/users/{user_name}/presence",
    tag = "live",
    params(UserPath),
    responses((status = 200, description = "The presence of the user.", body = PresenceBody)),
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
