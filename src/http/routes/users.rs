//! `/api/users`.

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::{list, resource, to_json};
use crate::domain::auth::Principal;
use crate::domain::users::{self, Listing, User};
use crate::http::HttpState;
use crate::http::extract::{Caller, PathSegments, Query};
use crate::http::problem::Problem;
use crate::time::Timestamp;

/// A person.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub struct UserBody<'a> {
    /// Given by the server, never given again.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    #[schema(example = "Rebecca")]
    first_name: &'a str,
    #[schema(example = "DiBari")]
    last_name: &'a str,
    /// Unique without regard to ASCII case.
    #[schema(example = "rdibari")]
    user_name: &'a str,
    /// Null unless the caller is that user, an administrator, an API key or open access.
    #[schema(example = "rdibari@example.org")]
    email: Option<&'a str>,
    /// Whether a second factor is on.
    mfa: bool,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    modified_at: Timestamp,
    avatar_url: Option<&'a str>,
    role: Role,
    is_bot: bool,
    /// Null unless the caller is that user, an administrator, an API key or open access.
    direct_messages_from: Option<DirectMessagesFrom>,
}

/// What a user may do on the whole server.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// What everyone may.
    User,
    /// Administration too.
    Admin,
}

/// From whom direct messages are taken.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DirectMessagesFrom {
    /// From everyone.
    Everyone,
    /// From friends alone.
    Friends,
}

impl<'a> UserBody<'a> {
    fn new(user: &'a User, principal: &Principal) -> Self {
        let private = principal.sees_private(user.id);
        Self {
            id: user.id.0,
            first_name: &user.first_name,
            last_name: &user.last_name,
            user_name: &user.user_name,
            email: user.email.as_deref().filter(|_| private),
            mfa: user.mfa,
            created_at: user.created_at,
            modified_at: user.modified_at,
            avatar_url: None,
            role: Role::User,
            is_bot: false,
            direct_messages_from: private.then_some(DirectMessagesFrom::Everyone),
        }
    }
}

/// Users, by id.
#[utoipa::path(
    get,
    path = "/api/users",
    tag = "users",
    params(
        ("q" = Option<String>, Query, description = "A prefix of a user name, a full name or a last name; case and accents do not matter.", max_length = 64, example = "bu"),
        ("limit" = Option<u32>, Query, description = "Entries of the page; 50 when it is absent.", minimum = 1, maximum = 200, example = 50),
        ("cursor" = Option<String>, Query, description = "Where the page begins: taken from a Link header as it is."),
    ),
    responses((status = 200, description = "The users. `Link` names the next page while there is one.", body = Vec<UserBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/users?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_users(
    State(state): State<HttpState>,
    Caller(principal): Caller,
    uri: Uri,
    mut query: Query,
) -> Result<Response, Problem> {
    let listing = Listing { query: query.text("q"), limit: query.limit(), cursor: query.text("cursor") };
    query.finish()?;
    let (wanted, limit) = (listing.query.clone(), listing.limit.get());
    let page = users::list(&state.app, &principal, listing).await?;
    let bodies: Vec<UserBody<'_>> = page.entries.iter().map(|user| UserBody::new(user, &principal)).collect();
    let next = page.next.map(|cursor| {
        let mut parameters = vec![("limit", limit.to_string()), ("cursor", cursor)];
        parameters.extend(wanted.map(|wanted| ("q", wanted)));
        parameters
    });
    Ok(list(to_json(&bodies, 320 * bodies.len())?, uri.path(), next))
}

/// One user.
#[utoipa::path(
    get,
    path = "/api/users/{user_name}",
    tag = "users",
    params(("user_name" = String, Path, description = "The user's name; `me` is the caller.", example = "rdibari")),
    responses(
        (status = 200, description = "The user.", body = UserBody<'_>, headers(("ETag" = String, description = "Of this answer."))),
        (status = 304, description = "`If-None-Match` names this answer."),
    ),
)]
pub async fn get_user(
    State(state): State<HttpState>,
    Caller(principal): Caller,
    headers: HeaderMap,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    let user = users::get(&state.app, &principal, path.text(0)).await?;
    resource(&headers, &UserBody::new(&user, &principal))
}
