//! `/api/users`: listing, registering, reading, changing and erasing users.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::base::error::{Error, Result as DomainResult};
use crate::base::tasks;
use crate::domain::access::principal::Principal;
use crate::domain::identity::audit::By;
use crate::domain::identity::users::{self, Changes, Listing, Registration, User};
use crate::domain::people::erasure;
use crate::domain::shared::idempotency::{Once, StoredAnswer};
use crate::domain::shared::precondition::Precondition;
use crate::http::access::client_address::ClientAddress;
use crate::http::access::policy::{Public, Reader, Writer};
use crate::http::bodies::answers::{
    RESOURCE_BYTES, given, list, next_page, no_content, not_null, present, resource, to_json,
};
use crate::http::bodies::conditions::precondition;
use crate::http::bodies::extract::{JsonBody, Path, Query, idempotency_key};
use crate::http::bodies::parameters::{PageQuery, PreconditionHeaders, UserPath};
use crate::http::bodies::problem::Problem;
use crate::http::bodies::users::{DirectMessagesFrom, UserBody};
use crate::http::state::HttpState;

/// Which users to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UserSearch {
    /// A prefix of a user name, a full name or a last name. Case and accents are ignored.
    #[param(max_length = 64, example = "bu")]
    q: Option<String>,
}

/// List users
///
/// Ordered by id.
#[utoipa::path(
    get,
    path = "/api/users",
    tag = "users",
    params(UserSearch, PageQuery),
    responses((status = 200, description = "The users. `Link` has the path of the next page, if there is one.", body = Vec<UserBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/users?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_users(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    Query((filter, page)): Query<(UserSearch, PageQuery)>,
) -> Result<Response, Problem> {
    let listing = Listing { query: filter.q, limit: page.limit, cursor: page.cursor };
    let (query, limit) = (listing.query.clone(), listing.limit);
    let page = users::list(&state.app, &principal, listing).await?;
    let bodies: Vec<UserBody<'_>> =
        page.entries.iter().map(|user| UserBody::new(&state.app, user, &principal)).collect();
    let next = next_page(page.next, limit, query.map(|query| ("q", query)));
    Ok(list(to_json(&bodies, 320 * bodies.len())?, uri.path(), next))
}

/// Get a user
///
/// `email` and `direct_messages_from` are null unless the caller may see them.
#[utoipa::path(
    get,
    path = "/api/users/{user_name}",
    tag = "users",
    params(UserPath),
    responses(
        (status = 200, description = "The user.", body = UserBody<'_>, headers(("ETag" = String, description = "The entity tag of this answer."))),
        (status = 304, description = "Not modified: the answer still has the entity tag in `If-None-Match`."),
    ),
)]
pub async fn get_user(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    Path(path): Path<UserPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let user = users::get(&state.app, &principal, &path.user_name).await?;
    resource(&UserBody::new(&state.app, &user, &principal))
}

/// Request body for creating a user.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"user_name": "elmer", "password": "what's up, doc?", "email": "elmer@example.org"}))]
pub struct NewUser {
    /// 1 to 32 characters from `A-Z a-z 0-9 . _ -`, with at least one letter or digit. A name is never used for two users.
    #[schema(min_length = 1, max_length = 32, pattern = r"^[A-Za-z0-9._-]+$")]
    user_name: String,
    /// 8 to 256 characters, and not a common password. Optional for API keys and administrators.
    #[schema(min_length = 8, max_length = 256)]
    password: Option<String>,
    #[schema(max_length = 254)]
    email: Option<String>,
    #[schema(max_length = 32)]
    first_name: Option<String>,
    #[schema(max_length = 32)]
    last_name: Option<String>,
}

/// Create a user
///
/// Administrators and API keys can create any user. Without credentials, people can create their own account if registration is
/// open.
#[utoipa::path(
    post,
    path = "/api/users",
    tag = "users",
    security((), ("bearer" = [])),
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "A repeated request with the same key and body has no second effect and gets the first answer again, for 7 days. Ignored without credentials.", min_length = 1, max_length = 255, pattern = "^[ -~]+$"),
    ),
    request_body = NewUser,
    responses(
        (status = 201, description = "Created.", body = UserBody<'_>, headers(
            ("Location" = String, description = "The path of the user."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this is the stored answer to an earlier request with the same key."),
        )),
        (status = 403, description = "`registration_closed`."),
        (status = 409, description = "`user_name_taken`, `email_taken`."),
    ),
)]
pub async fn register_user(
    State(state): State<HttpState>,
    Public(principal): Public,
    ClientAddress(address): ClientAddress,
    uri: Uri,
    headers: HeaderMap,
    body: JsonBody<NewUser>,
) -> Result<Response, Problem> {
    let app = &state.app;
    let request = match &principal {
        Some(principal) => idempotency_key(app, &headers, principal, uri.path(), &body.bytes)?,
        None => None,
    };
    let by = match &principal {
        Some(principal) => By::principal(principal, app.clock.now()),
        None => By::stranger(address, app.clock.now()),
    };
    let render = match app.settings.direct_messages_from {
        users::DirectMessagesFrom::Everyone => render_for_everyone,
        users::DirectMessagesFrom::Friends => render_for_friends,
    };
    let registration = Registration {
        user_name: body.value.user_name,
        first_name: body.value.first_name.unwrap_or_default(),
        last_name: body.value.last_name.unwrap_or_default(),
        email: body.value.email,
        password: body.value.password,
        admin: false,
    };
    let once = Once { request, render, sealed: false };
    Ok(given(users::register(app, principal.as_ref(), registration, by, once).await?))
}

fn render_for_everyone(user: &User) -> DomainResult<StoredAnswer> {
    render_created(user, users::DirectMessagesFrom::Everyone)
}

fn render_for_friends(user: &User) -> DomainResult<StoredAnswer> {
    render_created(user, users::DirectMessagesFrom::Friends)
}

fn render_created(user: &User, default: users::DirectMessagesFrom) -> DomainResult<StoredAnswer> {
    Ok(StoredAnswer {
        status: StatusCode::CREATED.as_u16(),
        location: Some(format!("/api/users/{}", user.user_name)),
        body: serde_json::to_vec(&UserBody::whole(user, default)).map_err(Error::internal)?,
    })
}

/// Request body for changing a user. An absent field is not changed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"first_name": "Rebecca"}))]
pub struct UserChanges {
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, max_length = 32)]
    first_name: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, max_length = 32)]
    last_name: Option<String>,
    /// Null removes the address. A new address is not confirmed.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 254)]
    email: Option<Option<String>>,
    /// Null uses the default of the server.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<DirectMessagesFrom>)]
    direct_messages_from: Option<Option<DirectMessagesFrom>>,
}

/// Change a user
///
/// Users can change themselves. Administrators can change every user.
#[utoipa::path(
    patch,
    path = "/api/users/{user_name}",
    tag = "users",
    params(UserPath, PreconditionHeaders),
    request_body = UserChanges,
    responses(
        (status = 200, description = "The changed user.", body = UserBody<'_>, headers(("ETag" = String, description = "The entity tag of this answer."))),
        (status = 412, description = "`precondition_failed`: the object has another entity tag than `If-Match` allows."),
        (status = 409, description = "`email_taken`."),
    ),
)]
pub async fn update_user(
    State(state): State<HttpState>,
    Writer(principal): Writer,
    headers: HeaderMap,
    Path(path): Path<UserPath>,
    body: JsonBody<UserChanges>,
) -> Result<Response, Problem> {
    let direct_messages_from = body.value.direct_messages_from.map(|chosen| {
        chosen.map(|chosen| match chosen {
            DirectMessagesFrom::Everyone => users::DirectMessagesFrom::Everyone,
            DirectMessagesFrom::Friends => users::DirectMessagesFrom::Friends,
        })
    });
    let changes = Changes {
        first_name: body.value.first_name,
        last_name: body.value.last_name,
        email: body.value.email,
        direct_messages_from,
    };
    let unchanged = unchanged(&state, &headers, &principal);
    let user = users::update(&state.app, &principal, &path.user_name, changes, unchanged).await?;
    resource(&UserBody::new(&state.app, &user, &principal))
}

/// The conditions of a request that changes a user.
fn unchanged(state: &HttpState, headers: &HeaderMap, principal: &Principal) -> Precondition<User> {
    let (app, principal) = (Arc::clone(&state.app), principal.clone());
    precondition(headers, move |user| to_json(&UserBody::new(&app, user, &principal), RESOURCE_BYTES))
}

/// What happens to the messages of an erased user.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErasedMessages {
    /// They remain without the name of the sender.
    #[default]
    Keep,
    /// They become tombstones.
    Delete,
}

/// How to erase a user.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ErasureChoice {
    /// What happens to the messages of the user. `keep` if absent.
    #[serde(default)]
    messages: ErasedMessages,
}

/// Erase a user
///
/// Deletes the user with all personal data. This cannot be undone. Users can erase themselves. Administrators can erase every
/// user.
#[utoipa::path(
    delete,
    path = "/api/users/{user_name}",
    tag = "users",
    params(UserPath, ErasureChoice, PreconditionHeaders),
    responses(
        (status = 204, description = "Erased."),
        (status = 412, description = "`precondition_failed`: the object has another entity tag than `If-Match` allows."),
    ),
)]
pub async fn erase_user(
    State(state): State<HttpState>,
    Writer(principal): Writer,
    headers: HeaderMap,
    Path(path): Path<UserPath>,
    Query(query): Query<ErasureChoice>,
) -> Result<Response, Problem> {
    let delete_messages = query.messages == ErasedMessages::Delete;
    let unchanged = unchanged(&state, &headers, &principal);
    // A separate task, so that the erasure continues if the caller disconnects.
    let (app, user_name) = (state.app, path.user_name);
    let erasing = tasks::spawn("erasure", async move {
        erasure::erase(&app, &principal, &user_name, delete_messages, unchanged).await
    });
    erasing.await.map_err(Error::internal)??;
    Ok(no_content())
}
