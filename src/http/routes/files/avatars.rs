//! `/api/users/{user_name}/avatar` and `/api/conversations/{id}/avatar`: the pictures of users and groups.

use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::domain::access::principal::Principal;
use crate::domain::conversations::conversations;
use crate::domain::files::avatars::{self, MAX_AVATAR_BYTES, NewAvatar};
use crate::domain::identity::users;
use crate::http::access::policy::{PersonWriting, Writer};
use crate::http::bodies::answers::{json, no_content};
use crate::http::bodies::conversations::ConversationBody;
use crate::http::bodies::extract::{JsonBody, Path, Query, media_type};
use crate::http::bodies::file_body::receive_up_to;
use crate::http::bodies::parameters::{GroupPath, OwnUserPath, UserPath};
use crate::http::bodies::problem::Problem;
use crate::http::bodies::users::UserBody;
use crate::http::state::HttpState;

/// Request body for choosing a picture among the attachments.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"attachment_id": 1}))]
pub struct AvatarChoice {
    /// An image that the caller may see.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    attachment_id: i64,
}

/// Reads a picture: the id of an attachment as JSON, or else the bytes of an image.
async fn read_avatar(state: &HttpState, principal: &Principal, request: Request) -> Result<NewAvatar, Problem> {
    if media_type(request.headers()).0.eq_ignore_ascii_case("application/json") {
        let choice = JsonBody::<AvatarChoice>::from_request(request, state).await?;
        return Ok(NewAvatar::Attachment(choice.value.attachment_id));
    }
    let (parts, body) = request.into_parts();
    let stall_timeout = state.settings.timeouts.body;
    let file = receive_up_to(MAX_AVATAR_BYTES, &state.app, principal, &parts.headers, body, stall_timeout).await?;
    Ok(NewAvatar::Uploaded(file.received))
}

/// Set the caller's picture
///
/// The body is an image (JPEG, PNG, GIF or WebP, at most 8 MiB), or JSON that names an attachment.
#[utoipa::path(
    put,
    path = "/api/users/{user_name}/avatar",
    tag = "pictures",
    params(OwnUserPath),
    request_body(content((AvatarChoice = "application/json"), (Vec<u8> = "application/octet-stream"))),
    responses(
        (status = 200, description = "The changed user.", body = UserBody<'_>),
        (status = 413, description = "`file_too_large` or `file_quota_exceeded`."),
        (status = 501, description = "`files_not_configured`."),
        (status = 507, description = "`storage_full`."),
    ),
)]
pub async fn put_user_avatar(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(OwnUserPath { user_name }): Path<OwnUserPath>,
    _query: Query<()>,
    request: Request,
) -> Result<Response, Problem> {
    users::require_own_name(&state.app, &principal, &user_name).await?;
    let avatar = read_avatar(&state, &principal, request).await?;
    let user = avatars::set_own(&state.app, &principal, avatar).await?;
    json(StatusCode::OK, &UserBody::new(&state.app, &user, &principal))
}

/// Remove a user's picture
///
/// Users can remove their own picture, and administrators that of every user.
#[utoipa::path(
    delete,
    path = "/api/users/{user_name}/avatar",
    tag = "pictures",
    params(UserPath),
    responses((status = 204, description = "Removed.")),
)]
pub async fn delete_user_avatar(
    State(state): State<HttpState>,
    Writer(principal): Writer,
    Path(path): Path<UserPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    avatars::remove(&state.app, &principal, &path.user_name).await?;
    Ok(no_content())
}

/// Set the picture of a group
///
/// Only admins and owners of the group. The body is an image (JPEG, PNG, GIF or WebP, at most 8 MiB), or JSON that names an
/// attachment.
#[utoipa::path(
    put,
    path = "/api/conversations/{id}/avatar",
    tag = "pictures",
    params(GroupPath),
    request_body(content((AvatarChoice = "application/json"), (Vec<u8> = "application/octet-stream"))),
    responses(
        (status = 200, description = "The changed conversation.", body = ConversationBody<'_>),
        (status = 403, description = "`insufficient_role`: the role of the caller does not allow this."),
        (status = 409, description = "`not_a_group`: the conversation is direct."),
        (status = 413, description = "`file_too_large` or `file_quota_exceeded`."),
        (status = 501, description = "`files_not_configured`."),
        (status = 507, description = "`storage_full`."),
    ),
)]
pub async fn put_group_avatar(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(GroupPath { id }): Path<GroupPath>,
    _query: Query<()>,
    request: Request,
) -> Result<Response, Problem> {
    conversations::check_may_set_avatar(&state.app, &principal, id).await?;
    let avatar = read_avatar(&state, &principal, request).await?;
    let shown = conversations::set_avatar(&state.app, &principal, id, avatar).await?;
    json(StatusCode::OK, &ConversationBody::new(&shown)?)
}

/// Remove the picture of a group
///
/// Only admins and owners of the group.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}/avatar",
    tag = "pictures",
    params(GroupPath),
    responses(
        (status = 204, description = "Removed."),
        (status = 403, description = "`insufficient_role`: the role of the caller does not allow this."),
        (status = 409, description = "`not_a_group`: the conversation is direct."),
    ),
)]
pub async fn delete_group_avatar(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(GroupPath { id }): Path<GroupPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    conversations::remove_avatar(&state.app, &principal, id).await?;
    Ok(no_content())
}
