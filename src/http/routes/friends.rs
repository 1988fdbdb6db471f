//! `/api/friends` and `/api/blocks`.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::auth::Principal;
use crate::domain::friends::{self, Which};
use crate::http::answers::{json, list, next_page, no_content, to_json};
use crate::http::bodies_users::UserBody;
use crate::http::extract::{PathSegments, Query};
use crate::http::policy::{PersonReading, PersonWriting};
use crate::http::problem::Problem;
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
    mut query: Query,
    direction: Option<&str>,
) -> Result<Response, Problem> {
    let (limit, cursor) = (query.limit(), query.text("cursor"));
    query.finish()?;
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
    params(
        ("limit" = Option<u32>, Query, description = "Entries of the page; 50 when it is absent.", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "Where the page begins: taken from a Link header as it is."),
    ),
    responses((status = 200, description = "The friends. `Link` names the next page while there is one.", body = Vec<UserBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/friends?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_friends(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    uri: Uri,
    query: Query,
) -> Result<Response, Problem> {
    people(state, principal, Which::Friends, &uri, query, None).await
}

/// Which requests.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestDirection {
    /// Others asked the caller.
    Incoming,
    /// The caller asked others.
    Outgoing,
}

/// People who asked the caller to be their friend, or whom the caller asked, by id.
#[utoipa::path(
    get,
    path = "/api/friends/requests",
    tag = "people",
    params(
        ("direction" = Option<RequestDirection>, Query, description = "`incoming` when it is absent."),
        ("limit" = Option<u32>, Query, description = "Entries of the page; 50 when it is absent.", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "Where the page begins: taken from a Link header as it is."),
    ),
    responses((status = 200, description = "The people. `Link` names the next page while there is one.", body = Vec<UserBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/friends/requests?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_friend_requests(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    uri: Uri,
    mut query: Query,
) -> Result<Response, Problem> {
    let direction = query.word("direction", &["incoming", "outgoing"]);
    let which = if direction == "incoming" { Which::Incoming } else { Which::Outgoing };
    people(state, principal, which, &uri, query, Some(direction)).await
}

/// Asks somebody to be a friend, or accepts what they asked.
#[utoipa::path(
    put,
    path = "/api/friends/{user_name}",
    tag = "people",
    params(("user_name" = String, Path, description = "Somebody else's name.", example = "bugs")),
    responses(
        (status = 201, description = "Asked.", body = Friendship<'_>),
        (status = 200, description = "Accepted; or it was so before.", body = Friendship<'_>),
        (status = 409, description = "`blocked`, `is_bot`, `too_many_friends`."),
    ),
)]
pub async fn put_friend(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    let asked = friends::ask(&state.app, &principal, path.text(0)).await?;
    let status = if asked.new { StatusCode::CREATED } else { StatusCode::OK };
    json(status, &Friendship { state: asked.state.as_str(), user: UserBody::new(&state.app, &asked.user, &principal) })
}

/// Declines a request, takes one back, or ends a friendship.
#[utoipa::path(
    delete,
    path = "/api/friends/{user_name}",
    tag = "people",
    params(("user_name" = String, Path, description = "Somebody else's name.", example = "bugs")),
    responses((status = 204, description = "There is nothing between the two any more.")),
)]
pub async fn delete_friend(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    friends::end(&state.app, &principal, path.text(0)).await?;
    Ok(no_content())
}

/// People whom the caller blocks, by id.
#[utoipa::path(
    get,
    path = "/api/blocks",
    tag = "people",
    params(
        ("limit" = Option<u32>, Query, description = "Entries of the page; 50 when it is absent.", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "Where the page begins: taken from a Link header as it is."),
    ),
    responses((status = 200, description = "The people. `Link` names the next page while there is one.", body = Vec<UserBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/blocks?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_blocks(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    uri: Uri,
    query: Query,
) -> Result<Response, Problem> {
    people(state, principal, Which::Blocked, &uri, query, None).await
}

/// Blocks somebody: ends a friendship, and answers their direct messages as if only friends could write. They are not told.
#[utoipa::path(
    put,
    path = "/api/blocks/{user_name}",
    tag = "people",
    params(("user_name" = String, Path, description = "Somebody else's name.", example = "duck")),
    responses(
        (status = 204, description = "Blocked."),
        (status = 409, description = "`too_many_blocks`."),
    ),
)]
pub async fn put_block(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    friends::block(&state.app, &principal, path.text(0)).await?;
    Ok(no_content())
}

/// Ends a block.
#[utoipa::path(
    delete,
    path = "/api/blocks/{user_name}",
    tag = "people",
    params(("user_name" = String, Path, description = "Somebody else's name.", example = "duck")),
    responses((status = 204, description = "Not blocked any more.")),
)]
pub async fn delete_block(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    friends::unblock(&state.app, &principal, path.text(0)).await?;
    Ok(no_content())
}
