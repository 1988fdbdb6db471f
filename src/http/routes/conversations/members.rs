//! `/api/conversations/{id}/members`.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::conversations::members::{self, Shown};
use crate::http::access::policy::{PersonWriting, Reader};
use crate::http::bodies::answers::{json, list, next_page, no_content, to_json};
use crate::http::bodies::conversations::RoleWord;
use crate::http::bodies::extract::{JsonBody, Path, Query};
use crate::http::bodies::parameters::{ConversationPath, IdSchema, PageQuery};
use crate::http::bodies::problem::Problem;
use crate::http::bodies::users::UserBody;
use crate::http::state::HttpState;

/// A member of a conversation.
#[derive(Serialize, ToSchema)]
#[schema(as = Member)]
pub struct MemberBody<'a> {
    user: UserBody<'a>,
    #[schema(inline, value_type = RoleWord)]
    role: &'static str,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    joined_at: Timestamp,
}

impl<'a> MemberBody<'a> {
    fn new(state: &HttpState, shown: &'a Shown, principal: &Principal) -> Self {
        Self {
            user: UserBody::new(&state.app, &shown.user, principal),
            role: shown.member.role.as_str(),
            joined_at: shown.member.joined_at,
        }
    }
}

/// List the members of a conversation
///
/// Ordered by user id.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/members",
    tag = "members",
    params(ConversationPath, PageQuery),
    responses((status = 200, description = "The members. `Link` has the path of the next page, if there is one.", body = Vec<MemberBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/conversations/…/members?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_members(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    Path(path): Path<ConversationPath>,
    Query(PageQuery { limit, cursor }): Query<PageQuery>,
) -> Result<Response, Problem> {
    let page = members::list(&state.app, &principal, path.id, limit, cursor.as_deref()).await?;
    let bodies: Vec<MemberBody<'_>> =
        page.entries.iter().map(|shown| MemberBody::new(&state, shown, &principal)).collect();
    Ok(list(to_json(&bodies, 400 * bodies.len())?, uri.path(), next_page(page.next, limit, [])))
}

/// Request body for adding a member or changing a role.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"role": "admin"}))]
pub struct MemberRole {
    /// If absent, a new member gets the role `member`, and an existing member keeps the role.
    #[schema(inline)]
    role: Option<RoleWord>,
}

/// Path parameters of a route about one member of a group.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct MemberPath {
    /// The id of the group.
    #[param(value_type = IdSchema, inline, example = 1)]
    id: i64,
    /// The name of the user, or `me` for the caller.
    #[param(example = "elmer")]
    user_name: String,
}

/// Add a member to a group or change a role
///
/// Who may add members and set roles depends on the role of the caller and on the settings of the group.
#[utoipa::path(
    put,
    path = "/api/conversations/{id}/members/{user_name}",
    tag = "members",
    params(MemberPath),
    request_body = MemberRole,
    responses(
        (status = 201, description = "Added.", body = MemberBody<'_>),
        (status = 200, description = "The member with the changed role.", body = MemberBody<'_>),
        (status = 403, description = "`insufficient_role`, `not_friends`."),
        (status = 409, description = "`not_a_group`, `last_owner`, `too_many_members`."),
    ),
)]
pub async fn put_member(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<MemberPath>,
    body: JsonBody<MemberRole>,
) -> Result<Response, Problem> {
    let role = body.value.role.map(RoleWord::role);
    let (shown, new) = members::put(&state.app, &principal, path.id, &path.user_name, role).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    json(status, &MemberBody::new(&state, &shown, &principal))
}

/// Remove a member from a group or leave it
///
/// With `me` the caller leaves the group. When the last member leaves, the group is deleted.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}/members/{user_name}",
    tag = "members",
    params(MemberPath),
    responses(
        (status = 204, description = "Removed."),
        (status = 403, description = "`insufficient_role`: the role of the caller does not allow this."),
        (status = 409, description = "`not_a_group`, `last_owner`."),
    ),
)]
pub async fn remove_member(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<MemberPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    members::remove(&state.app, &principal, path.id, &path.user_name).await?;
    Ok(no_content())
}
