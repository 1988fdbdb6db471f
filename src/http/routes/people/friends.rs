//! `/api/friends` and `/api/blocks`: friends, friend requests and blocks.

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

/// The state of a friendship.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FriendState {
    /// A friend request that has not been answered yet.
    Asked,
    /// Both users have agreed.
    Friends,
}

/// A friendship or a friend request of the caller.
#[derive(Serialize, ToSchema)]
pub struct Friendship<'a> {
    #[schema(inline, value_type = FriendState)]
    state: &'static str,
    user: UserBody<'a>,
}

async fn list_users(
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

/// List the caller's friends
///
/// Ordered by user id.
#[utoipa::path(
    get,
    path = "/api/friends",
    tag = "people",
    params(PageQuery),
    responses((status = 200, description = "The friends. `Link` has the path of the next page, if there is one.", body = Vec<UserBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/friends?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_friends(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    uri: Uri,
    Query(page): Query<PageQuery>,
) -> Result<Response, Problem> {
    list_users(state, principal, Which::Friends, &uri, page, None).await
}

/// The direction of a friend request.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestDirection {
    /// Requests to the caller.
    #[default]
    Incoming,
    /// Requests of the caller.
    Outgoing,
}

/// Which friend requests to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RequestFilter {
    /// `incoming` if absent.
    #[serde(default)]
    direction: RequestDirection,
}

/// List friend requests
///
/// Returns the users who have sent a request to the caller, or to whom the caller has sent one, ordered by user id.
#[utoipa::path(
    get,
    path = "/api/friends/requests",
    tag = "people",
    params(RequestFilter, PageQuery),
    responses((status = 200, description = "The users. `Link` has the path of the next page, if there is one.", body = Vec<UserBody<'_>>, headers(
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
    list_users(state, principal, which, &uri, page, Some(direction)).await
}

/// Path parameter of a route about a friend or a friend request.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct FriendPath {
    /// The name of the other user.
    #[param(example = "elmer")]
    user_name: String,
}

/// Send or accept a friend request
///
/// If the other user has already sent a request to the caller, it is accepted.
#[utoipa::path(
    put,
    path = "/api/friends/{user_name}",
    tag = "people",
    params(FriendPath),
    responses(
        (status = 201, description = "The request was sent.", body = Friendship<'_>),
        (status = 200, description = "The users are friends now, or the friendship or the request existed before.", body = Friendship<'_>),
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

/// End a friendship, or decline or cancel a friend request
///
/// Either of the two users can do it, and either can send a new request.
#[utoipa::path(
    delete,
    path = "/api/friends/{user_name}",
    tag = "people",
    params(FriendPath),
    responses((status = 204, description = "There is no friendship and no request between the users.")),
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

/// List blocked users
///
/// Ordered by user id.
#[utoipa::path(
    get,
    path = "/api/blocks",
    tag = "people",
    params(PageQuery),
    responses((status = 200, description = "The users. `Link` has the path of the next page, if there is one.", body = Vec<UserBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/blocks?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_blocks(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    uri: Uri,
    Query(page): Query<PageQuery>,
) -> Result<Response, Problem> {
    list_users(state, principal, Which::Blocked, &uri, page, None).await
}

/// Path parameter of a route that blocks or unblocks a user.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct BlockPath {
    /// The name of the other user.
    #[param(example = "elmer")]
    user_name: String,
}

/// Block a user
///
/// Ends a friendship with the user. Direct messages of the user are refused in the same way as if the caller accepted them only
/// from friends. The user is not notified.
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

/// Unblock a user
///
/// Both users see the presence of each other again, if nothing else hides it.
#[utoipa::path(
    delete,
    path = "/api/blocks/{user_name}",
    tag = "people",
    params(BlockPath),
    responses((status = 204, description = "Unblocked.")),
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
