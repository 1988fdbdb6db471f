//! `/api/friends` and `/api/blocks`.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::access::principal::Principal;
use crate::domain::people::friends::{self, Which};
use crate::http::access::policy::{PersonReading, PersonWriting};
use crate::http::bodies::answers::{json, list, next_page, no_content, to_json};
use crate::http::bodies::extract::{Path, Query};
use crate::http::bodies::parameters::PageQuery;
use crate::http::bodies::problem::Problem;
use crate::http::bodies::users::UserBody;
use crate::http::state::HttpState;

/// What two people are to each other.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FriendState {
    /// One asked, the other did not answer.
    Asked,
    /// Friends.
    Friends,
}

/// What became of a request.
#[derive(Serialize, ToSchema)]
pub struct Friendship<'a> {
    #[schema(inline, value_type = FriendState)]
    state: &'static str,
    user: UserBody<'a>,
}

async fn people(
    state: HttpState,
    principal: Principal,
    which: Which,
    uri: &Uri,
    page: PageQuery,
    direction: Option<&str>,
) -> Result<Response, Problem> {
    let PageQuery { limit, cursor } = page;
    let page = friends::list(&state.app, &principal, which, limit, cursor.as_deref()).await?;
    let bodies: Vec<UserBody<'_>> =
        page.entries.iter().map(|user| UserBody::new(&state.app, user, &principal)).collect();
    let direction = direction.map(|direction| ("direction", direction.to_owned()));
    let next = next_page(page.next, limit, direction);
    Ok(list(to_json(&bodies, 320 * bodies.len())?, uri.path(), next))
}

/// The caller's friends, by id.
#[utoipa::path(
    get,
    path = "/api/friends",
    tag = "people",
    params(PageQuery),
    responses((status = 200, description = "The friends. `Link` names the next page while there is one.", body = Vec<UserBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/friends?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_friends(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    uri: Uri,
    Query(page): Query<PageQuery>,
) -> Result<Response, Problem> {
    people(state, principal, Which::Friends, &uri, page, None).await
}

/// Which requests.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestDirection {
    /// Others asked the caller.
    #[default]
    Incoming,
    /// The caller asked others.
    Outgoing,
}

/// Which friend requests to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RequestFilter {
    /// `incoming` when it is absent.
    #[serde(default)]
    direction: RequestDirection,
}

/// People who asked the caller to be their friend, or whom the caller asked, by id.
#[utoipa::path(
    get,
    path = "/api/friends/requests",
    tag = "people",
    params(RequestFilter, PageQuery),
    responses((status = 200, description = "The people. `Link` names the next page while there is one.", body = Vec<UserBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/friends/requests?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_friend_requests(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    uri: Uri,
    Query((filter, page)): Query<(RequestFilter, PageQuery)>,
) -> Result<Response, Problem> {
    let (which, direction) = match filter.direction {
        RequestDirection::Incoming => (Which::Incoming, "incoming"),
        RequestDirection::Outgoing => (Which::Outgoing, "outgoing"),
    };
    people(state, principal, which, &uri, page, Some(direction)).await
}

/// A friend, or somebody who may become one.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct FriendPath {
    /// Somebody else's name.
    #[param(example = "bugs")]
    user_name: String,
}

/// Asks somebody to be a friend, or accepts what they asked.
#[utoipa::path(
    put,
    path = "/api/friends/{user_name}",
    tag = "people",
    params(FriendPath),
    responses(
        (status = 201, description = "Asked.", body = Friendship<'_>),
        (status = 200, description = "Accepted; or it was so before.", body = Friendship<'_>),
        (status = 409, description = "`blocked`, `is_bot`, `too_many_friends`."),
    ),
)]
pub async fn put_friend(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<FriendPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let asked = friends::ask(&state.app, &principal, &path.user_name).await?;
    let status = if asked.new { StatusCode::CREATED } else { StatusCode::OK };
    json(status, &Friendship { state: asked.state.as_str(), user: UserBody::new(&state.app, &asked.user, &principal) })
}

/// Declines a request, takes one back, or ends a friendship.
#[utoipa::path(
    delete,
    path = "/api/friends/{user_name}",
    tag = "people",
    params(FriendPath),
    responses((status = 204, description = "There is nothing between the two any more.")),
)]
pub async fn delete_friend(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<FriendPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    friends::end(&state.app, &principal, &path.user_name).await?;
    Ok(no_content())
}

/// People whom the caller blocks, by id.
#[utoipa::path(
    get,
    path = "/api/blocks",
    tag = "people",
    params(PageQuery),
    responses((status = 200, description = "The people. `Link` names the next page while there is one.", body = Vec<UserBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/blocks?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_blocks(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    uri: Uri,
    Query(page): Query<PageQuery>,
) -> Result<Response, Problem> {
    people(state, principal, Which::Blocked, &uri, page, None).await
}

/// Somebody to block.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct BlockPath {
    /// Somebody else's name.
    #[param(example = "duck")]
    user_name: String,
}

/// Blocks somebody: ends a friendship, and answers their direct messages as if only friends could write. They are not told.
#[utoipa::path(
    put,
    path = "/api/blocks/{user_name}",
    tag = "people",
    params(BlockPath),
    responses(
        (status = 204, description = "Blocked."),
        (status = 409, description = "`too_many_blocks`."),
    ),
)]
pub async fn put_block(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<BlockPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    friends::block(&state.app, &principal, &path.user_name).await?;
    Ok(no_content())
}

/// Ends a block.
#[utoipa::path(
    delete,
    path = "/api/blocks/{user_name}",
    tag = "people",
    params(BlockPath),
    responses((status = 204, description = "Not blocked any more.")),
)]
pub async fn delete_block(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<BlockPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    friends::unblock(&state.app, &principal, &path.user_name).await?;
    Ok(no_content())
}
