//! `/api/sessions`: logging in, and the sessions of the caller.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::base::ids::SessionId;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Credential;
use crate::domain::identity::sessions::{self, LogIn, Session};
use crate::http::access::admission::SESSION_COOKIE;
use crate::http::access::client_address::ClientAddress;
use crate::http::access::policy::{PersonReading, PersonWriting, Public};
use crate::http::bodies::answers::{json, list, next_page, no_content, to_json};
use crate::http::bodies::extract::{JsonBody, Path, Query};
use crate::http::bodies::parameter_reader::number_or_zero;
use crate::http::bodies::parameters::PageQuery;
use crate::http::bodies::problem::Problem;
use crate::http::bodies::sessions::SessionBody;
use crate::http::bodies::users::UserBody;
use crate::http::state::HttpState;

/// Request body for logging in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"user_name": "elmer", "password": "what's up, doc?"}))]
pub struct NewSession {
    /// The name of the user. Give either this or `email`.
    #[schema(min_length = 1, max_length = 254)]
    user_name: Option<String>,
    /// The email address of the user. Give either this or `user_name`.
    #[schema(min_length = 1, max_length = 254)]
    email: Option<String>,
    /// May be absent under open access.
    password: Option<String>,
    /// A code of the authenticator app or a recovery code. Needed if a second factor is enabled.
    #[schema(max_length = 254)]
    code: Option<String>,
    /// Whether the token is set as a cookie, for pages of this server, and not returned in the answer.
    #[serde(default)]
    cookie: bool,
}

/// A new session.
#[derive(Serialize, ToSchema)]
pub struct MadeSession<'a> {
    /// The token for `Authorization: Bearer …`. It is shown only once. Null if it was set as a cookie.
    #[schema(example = "phs_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG")]
    token: Option<&'a str>,
    /// The time at which the session ends, unless it is used before that time.
    #[schema(value_type = String, format = DateTime, example = "2026-12-22T08:30:00.123456Z")]
    expires_at: Timestamp,
    user: UserBody<'a>,
}

/// Log in
///
/// If a second factor is enabled and `code` is absent, the answer is 401 `mfa_required`.
#[utoipa::path(
    post,
    path = "/api/sessions",
    tag = "sessions",
    request_body = NewSession,
    responses(
        (status = 201, description = "Logged in.", body = MadeSession<'_>, headers(
            ("Set-Cookie" = Option<String>, description = "The token of the session, if `cookie` is true."),
        )),
        (status = 401, description = "`invalid_credentials`, `mfa_required`."),
        (status = 403, description = "`banned`; `foreign_origin`."),
    ),
)]
pub async fn create_session(
    State(state): State<HttpState>,
    _caller: Public,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    body: JsonBody<NewSession>,
) -> Result<Response, Problem> {
    if body.value.cookie && headers.contains_key(header::ORIGIN) {
        state.settings.origins.check_cookie(&Method::POST, &headers)?;
    }
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let log_in = LogIn {
        user_name: body.value.user_name,
        email: body.value.email,
        password: body.value.password,
        code: body.value.code,
        agent: agent.to_owned(),
    };
    let made = sessions::create(&state.app, log_in, address).await?;
    let session = MadeSession {
        token: (!body.value.cookie).then_some(made.token.as_str()),
        expires_at: made.expires_at,
        user: UserBody::whole(&made.user, state.app.settings.direct_messages_from),
    };
    let mut response = json(StatusCode::CREATED, &session)?;
    if body.value.cookie {
        let lasts_s = (made.ends_at.micros() - state.app.clock.now().micros()) / 1_000_000;
        set_cookie(&state, &mut response, &made.token, lasts_s);
    }
    Ok(response)
}

fn set_cookie(state: &HttpState, response: &mut Response, value: &str, lasts_s: i64) {
    let origin = state.settings.origins.public_origin.as_deref().unwrap_or_default();
    let secure = if origin.starts_with("https://") { "; Secure" } else { "" };
    let cookie = format!("{SESSION_COOKIE}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={lasts_s}{secure}");
    if let Ok(mut cookie) = HeaderValue::try_from(cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
}

/// List the caller's sessions
///
/// Ordered by id, without their tokens.
#[utoipa::path(
    get,
    path = "/api/sessions",
    tag = "sessions",
    params(PageQuery),
    responses((status = 200, description = "The sessions. `Link` has the path of the next page, if there is one.", body = Vec<SessionBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/sessions?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_sessions(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    uri: Uri,
    Query(PageQuery { limit, cursor }): Query<PageQuery>,
) -> Result<Response, Problem> {
    let page = sessions::list(&state.app, &principal, limit, cursor.as_deref()).await?;
    let current = |session: &Session| principal.credential() == Credential::Session(session.id);
    let bodies: Vec<SessionBody<'_>> =
        page.entries.iter().map(|session| SessionBody::new(session, current(session))).collect();
    Ok(list(to_json(&bodies, 320 * bodies.len())?, uri.path(), next_page(page.next, limit, [])))
}

/// Path parameter of a route about one session.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct SessionPath {
    /// The id of the session, or `current` for the session of the request.
    #[param(example = "current")]
    id: String,
}

/// Log out: end one of the caller's sessions
///
/// `current` ends the session of the request. Its token is refused from then on.
#[utoipa::path(
    delete,
    path = "/api/sessions/{id}",
    tag = "sessions",
    params(SessionPath),
    responses((status = 204, description = "The session has ended.", headers(
        ("Set-Cookie" = Option<String>, description = "Removes the cookie, if the request used the cookie of the session that has ended."),
    ))),
)]
pub async fn delete_session(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    headers: HeaderMap,
    Path(path): Path<SessionPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let session = if path.id == "current" { None } else { Some(SessionId(number_or_zero(&path.id))) };
    sessions::end(&state.app, &principal, session).await?;
    let mut response = no_content();
    // If the request has a bearer token, that token names the session. A cookie then belongs to another session, which continues.
    let by_cookie = !headers.contains_key(header::AUTHORIZATION);
    if by_cookie && session.is_none_or(|id| principal.credential() == Credential::Session(id)) {
        set_cookie(&state, &mut response, "", 0);
    }
    Ok(response)
}
