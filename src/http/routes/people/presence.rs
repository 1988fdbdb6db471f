//! `/api/users/{user_name}/presence` and `/api/presence`: the presence of one user, and of several.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::base::error::Error;
use crate::base::time::Timestamp;
use crate::domain::people::presence::{self, ASKED_LIMIT};
use crate::http::access::policy::Reader;
use crate::http::bodies::answers::json;
use crate::http::bodies::events::PresenceState;
use crate::http::bodies::extract::{Path, Query};
use crate::http::bodies::parameters::UserPath;
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// The presence of a user.
#[derive(Serialize, ToSchema)]
#[schema(as = Presence)]
pub struct PresenceBody {
    #[schema(value_type = PresenceState)]
    state: &'static str,
    /// The time at which the user was last seen. Null if the user was never online, or if the caller may not see their presence.
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    last_seen_at: Option<Timestamp>,
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
    json(StatusCode::OK, &body_of(seen))
}

/// The presence of one of several users.
#[derive(Serialize, ToSchema)]
#[schema(as = UserPresence)]
pub struct UserPresence {
    /// The name of the user.
    user_name: String,
    #[serde(flatten)]
    presence: PresenceBody,
}

/// Whose presence to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PresenceQuery {
    /// The names of 1 to 100 users, separated by commas. `me` stands for the caller.
    #[param(value_type = String, required = true, example = "bugs,duck")]
    user_names: Option<String>,
}

/// List the presence of several users
///
/// In the order of the names. Names of nobody are left out. Each user is shown as by the operation for one user.
#[utoipa::path(
    get,
    path = "/api/presence",
    tag = "live",
    params(PresenceQuery),
    responses((status = 200, description = "The presence of the users.", body = Vec<UserPresence>)),
)]
pub async fn list_presence(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    Query(query): Query<PresenceQuery>,
) -> Result<Response, Problem> {
    let names = query.user_names.unwrap_or_default();
    let names: Vec<String> =
        names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.is_empty() {
        return Err(Error::invalid(
            "user_names",
            "required",
            "needs at least one user name; separate several by commas",
        )
        .into());
    }
    if names.len() > ASKED_LIMIT {
        return Err(
            Error::invalid("user_names", "too_many", format!("must have at most {ASKED_LIMIT} user names")).into()
        );
    }
    if names.iter().any(|name| name.contains('\0')) {
        return Err(Error::invalid("user_names", "nul_character", "must not contain U+0000").into());
    }
    let found = presence::seen_among(&state.app, &principal, &names).await?;
    let listed = found.into_iter().map(|(user_name, seen)| UserPresence { user_name, presence: body_of(seen) });
    json(StatusCode::OK, &listed.collect::<Vec<_>>())
}

fn body_of(seen: presence::Seen) -> PresenceBody {
    PresenceBody { state: seen.state.as_str(), last_seen_at: seen.last_seen_at }
}
