//! `/api/sessions`.

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

/// Somebody who wants to log in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"user_name": "bugs", "password": "what's up, doc?"}))]
pub struct NewSession {
    /// Who; or `email`.
    #[schema(min_length = 1, max_length = 254)]
    user_name: Option<String>,
    /// Who; or `user_name`.
    #[schema(min_length = 1, max_length = 254)]
    email: Option<String>,
    /// May be left out where access is open.
    password: Option<String>,
    /// What the authenticator shows, or a recovery code, when a second factor is on.
    #[schema(max_length = 254)]
    code: Option<String>,
    /// Whether the token goes into a cookie, for pages of this server, instead of the answer.
    #[serde(default)]
    cookie: bool,
}

/// A session that was made.
#[derive(Serialize, ToSchema)]
pub struct MadeSession<'a> {
    /// Goes into `Authorization: Bearer …`; shown once. Null when it went into a cookie.
    #[schema(example = "phs_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG")]
    token: Option<&'a str>,
    /// When the session ends unless it is used before.
    #[schema(value_type = String, format = DateTime, example = "2026-12-22T08:30:00.123456Z")]
    expires_at: Timestamp,
    user: UserBody<'a>,
}

/// Logs in. With a second factor on and no code: 401 `mfa_required`.
#[utoipa::path(
    post,
    path = "/api/sessions",
    tag = "sessions",
    request_body = NewSession,
    responses(
        (status = 201, description = "Logged in.", body = MadeSession<'_>, headers(
            ("Set-Cookie" = Option<String>, description = "The session, when `cookie` was true."),
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

/// The caller's devices, by id; never a token.
#[utoipa::path(
    get,
    path = "/api/sessions",
    tag = "sessions",
    params(PageQuery),
    responses((status = 200, description = "The devices. `Link` names the next page while there is one.", body = Vec<SessionBody<'_>>, headers(
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

/// A session.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct SessionPath {
    /// The session's id, or `current`.
    #[param(example = "current")]
    id: String,
}

/// Ends one of the caller's sessions: logs that device out.
#[utoipa::path(
    delete,
    path = "/api/sessions/{id}",
    tag = "sessions",
    params(SessionPath),
    responses((status = 204, description = "Ended.", headers(
        ("Set-Cookie" = Option<String>, description = "Takes the cookie away, when the session that called with it was ended."),
    ))),
)]
pub async fn end_session(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    headers: HeaderMap,
    Path(path): Path<SessionPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let session = if path.id == "current" { None } else { Some(SessionId(number_or_zero(&path.id))) };
    sessions::end(&state.app, &principal, session).await?;
    let mut response = no_content();
    // Beside a bearer token, a cookie is another session's, which goes on.
    let by_cookie = !headers.contains_key(header::AUTHORIZATION);
    if by_cookie && session.is_none_or(|id| principal.credential() == Credential::Session(id)) {
        set_cookie(&state, &mut response, "", 0);
    }
    Ok(response)
}
