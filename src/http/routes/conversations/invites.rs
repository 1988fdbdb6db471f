//! `/api/conversations/{id}/invites` and `/api/invites/{code}`.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::base::error::{Error, Result as DomainResult};
use crate::base::time::Timestamp;
use crate::domain::conversations::conversations;
use crate::domain::conversations::invites::{self, Made, NewInvite};
use crate::domain::shared::idempotency::{Once, StoredAnswer};
use crate::http::access::policy::{PersonReading, PersonWriting, Public};
use crate::http::bodies::answers::{given, json, list, next_page, no_content, time_field, to_json};
use crate::http::bodies::conversations::ConversationBody;
use crate::http::bodies::extract::{JsonBody, Path, Query, idempotency_key};
use crate::http::bodies::invites::InviteBody;
use crate::http::bodies::parameters::{GroupPath, IdSchema, IdempotencyKeyHeader, PageQuery};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// Request body for creating an invite.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewInvite, example = json!({"max_uses": 1}))]
pub struct NewInviteBody {
    /// The time at which the invite expires, at most 365 days from now. 7 days from now if absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<String>,
    /// Maximum number of uses. No limit if absent.
    #[schema(minimum = 1, maximum = 10000)]
    max_uses: Option<i64>,
}

/// Create an invite into a group
///
/// The code of the invite is shown only in this answer.
#[utoipa::path(
    post,
    path = "/api/conversations/{id}/invites",
    tag = "members",
    params(GroupPath, IdempotencyKeyHeader),
    request_body = NewInviteBody,
    responses(
        (status = 201, description = "Created.", body = InviteBody<'_>, headers(
            ("Location" = String, description = "`/api/conversations/{id}/invites`"),
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this is the stored answer to an earlier request with the same key."),
        )),
        (status = 403, description = "`insufficient_role`: the role of the caller does not allow this."),
        (status = 409, description = "`not_a_group`, `too_many_invites`."),
    ),
)]
pub async fn create_invite(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    uri: Uri,
    headers: HeaderMap,
    Path(path): Path<GroupPath>,
    body: JsonBody<NewInviteBody>,
) -> Result<Response, Problem> {
    let request = idempotency_key(&state.app, &headers, &principal, uri.path(), &body.bytes)?;
    let expires_at = body.value.expires_at.map(|text| time_field("expires_at", &text)).transpose()?;
    let new = NewInvite { expires_at, max_uses: body.value.max_uses };
    let once = Once { request, render: render_created, sealed: true };
    Ok(given(invites::create(&state.app, &principal, path.id, new, once).await?))
}

fn render_created(made: &Made) -> DomainResult<StoredAnswer> {
    Ok(StoredAnswer {
        status: StatusCode::CREATED.as_u16(),
        location: Some(format!("/api/conversations/{}/invites", made.invite.conversation_id.0)),
        body: serde_json::to_vec(&InviteBody::new(&made.invite, Some(&made.code))).map_err(Error::internal)?,
    })
}

/// List the invites into a group
///
/// Only invites that can still be used, ordered by id, without their codes.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/invites",
    tag = "members",
    params(GroupPath, PageQuery),
    responses(
        (status = 200, description = "The invites. `Link` has the path of the next page, if there is one.", body = Vec<InviteBody<'_>>, headers(
            ("Link" = Option<String>, description = "`</api/conversations/…/invites?…>; rel=\"next\"`"),
        )),
        (status = 403, description = "`insufficient_role`: the role of the caller does not allow this."),
        (status = 409, description = "`not_a_group`: the conversation is direct."),
    ),
)]
pub async fn list_invites(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    uri: Uri,
    Path(path): Path<GroupPath>,
    Query(PageQuery { limit, cursor }): Query<PageQuery>,
) -> Result<Response, Problem> {
    let page = invites::list(&state.app, &principal, path.id, limit, cursor.as_deref()).await?;
    let bodies: Vec<InviteBody<'_>> = page.entries.iter().map(|invite| InviteBody::new(invite, None)).collect();
    Ok(list(to_json(&bodies, 240 * bodies.len())?, uri.path(), next_page(page.next, limit, [])))
}

/// Path parameters of a route about one invite into a group.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct InvitePath {
    /// The id of the group.
    #[param(value_type = IdSchema, inline, example = 1)]
    id: i64,
    /// The id of the invite.
    #[param(value_type = IdSchema, inline, example = 1)]
    invite_id: i64,
}

/// Delete an invite
///
/// Nobody can join the group with the code any more. Users who have joined with it stay members.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}/invites/{invite_id}",
    tag = "members",
    params(InvitePath),
    responses(
        (status = 204, description = "Deleted."),
        (status = 403, description = "`insufficient_role`: the role of the caller does not allow this."),
        (status = 409, description = "`not_a_group`: the conversation is direct."),
    ),
)]
pub async fn delete_invite(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<InvitePath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    invites::end(&state.app, &principal, path.id, path.invite_id).await?;
    Ok(no_content())
}

/// The group that an invite leads to, as shown to everybody who has the code of the invite.
#[derive(Serialize, ToSchema)]
pub struct InvitePreview<'a> {
    conversation: GroupPreview<'a>,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// The part of a group that is shown to people with an invite.
#[derive(Serialize, ToSchema)]
pub struct GroupPreview<'a> {
    #[schema(example = "Looney Tunes")]
    title: Option<&'a str>,
    avatar_url: Option<&'a str>,
    member_count: i64,
}

/// Path parameter of a route about an invite, identified by its code.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct InviteCodePath {
    /// The code of the invite.
    #[param(example = "phi_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG")]
    code: String,
}

/// Get the group that an invite leads to
///
/// Needs no credentials. Does not use the invite.
#[utoipa::path(
    get,
    path = "/api/invites/{code}",
    tag = "members",
    params(InviteCodePath),
    responses((status = 200, description = "The group and the time at which the invite expires.", body = InvitePreview<'_>)),
)]
pub async fn get_invite(
    State(state): State<HttpState>,
    _caller: Public,
    Path(path): Path<InviteCodePath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let (invite, group) = invites::look(&state.app, &path.code).await?;
    let conversation = GroupPreview {
        title: group.title.as_deref(),
        avatar_url: group.avatar_url.as_deref(),
        member_count: group.member_count,
    };
    json(StatusCode::OK, &InvitePreview { conversation, expires_at: invite.expires_at })
}

/// Join a group with an invite
///
/// A caller who is already a member stays one, and the invite is not used up.
#[utoipa::path(
    post,
    path = "/api/invites/{code}",
    tag = "members",
    params(InviteCodePath),
    responses(
        (status = 201, description = "Joined.", body = ConversationBody<'_>),
        (status = 200, description = "The caller is already a member. The invite is not used.", body = ConversationBody<'_>),
        (status = 409, description = "`too_many_members`."),
    ),
)]
pub async fn accept_invite(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<InviteCodePath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let (conversation, joined) = invites::accept(&state.app, &principal, &path.code).await?;
    let shown = conversations::get(&state.app, &principal, conversation.0).await?;
    let status = if joined { StatusCode::CREATED } else { StatusCode::OK };
    json(status, &ConversationBody::new(&shown)?)
}
