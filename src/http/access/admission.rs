//! Admission: finds the caller of a request by its credentials, and checks the rate limit.
//!
//! Invariants:
//! - Admission comes before routing, so that callers without credentials cannot find out which paths exist.
//! - On a public route, credentials that are refused with 401 or 403 count as no credentials. Any other error, such as 422 for
//!   `X-Act-As` or 503, is the answer to the request.
//! - A browser can send the cookie with requests of foreign pages too. So a cookie does not authorise unsafe requests from other
//!   origins.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Method, StatusCode, header};

use super::client_address::{ClientAddress, PeerAddress, client_address};
use super::limits::{Decision, LimitKey};
use super::request_span;
use crate::base::error::Error;
use crate::domain::access::principal::{Access, Credential, Principal};
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::credentials::{Credentials, authenticate};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// The name of the cookie with the token of a session.
pub const SESSION_COOKIE: &str = "posthaste_session";

/// The subprotocol of the WebSocket.
pub const SUBPROTOCOL: &str = "posthaste";

/// The routes that need no credentials, by method and path. `{}` stands for one segment.
const PUBLIC_ROUTES: &[(Method, &str)] = &[
    (Method::GET, "/api/capabilities"),
    (Method::POST, "/api/users"),
    (Method::POST, "/api/sessions"),
    (Method::POST, "/api/password-resets"),
    // A user who has forgotten the password has only the code.
    (Method::PUT, "/api/password-resets/{}"),
    (Method::PUT, "/api/email-confirmations/{}"),
    (Method::GET, "/api/invites/{}"),
    // The token in the path is the permission.
    (Method::GET, "/api/files/{}"),
    (Method::POST, "/api/hooks/{}"),
];

/// Whether a path is under `/api`.
pub fn is_api(path: &str) -> bool {
    path == "/api" || path.starts_with("/api/")
}

/// Whether a route needs no credentials. `path` may be a template of the OpenAPI document.
pub fn is_public(method: &Method, path: &str) -> bool {
    PUBLIC_ROUTES.iter().any(|(public_method, template)| {
        let head = *public_method == Method::GET && *method == Method::HEAD;
        if public_method != method && !head {
            return false;
        }
        match template.strip_suffix("{}") {
            Some(prefix) => path.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && !rest.contains('/')),
            None => *template == path,
        }
    })
}

/// Finds the caller and stores the [`Principal`] in the extensions of the request. The edge writes the decision of the rate limit
/// into the headers of the answer, also if the answer is an error.
pub async fn admit(state: &HttpState, request: &mut Request) -> (Decision, Result<(), Problem>) {
    let address = address_of(state, request.extensions(), request.headers());
    request.extensions_mut().insert(ClientAddress(address));
    if !is_api(request.uri().path()) {
        return (Decision::UNLIMITED, Ok(()));
    }
    let public = is_public(request.method(), request.uri().path());
    let outcome = identify(state, request.method(), request.headers(), address).await;
    let (key, outcome) = match outcome {
        Ok(principal) => {
            request_span::record_principal(&principal);
            let key = limit_key(&principal);
            request.extensions_mut().insert(principal);
            (key, Ok(()))
        }
        Err(problem) if public && problem.refuses_caller() => (Some(LimitKey::Address(address)), Ok(())),
        Err(problem) => (Some(LimitKey::Address(address)), Err(problem)),
    };
    let decision = key.map_or(Decision::UNLIMITED, |key| state.limits.check(key));
    match decision.problem() {
        Some(refusal) => (decision, Err(refusal)),
        None => (decision, outcome),
    }
}

fn address_of(state: &HttpState, extensions: &Extensions, headers: &HeaderMap) -> IpAddr {
    match extensions.get::<PeerAddress>() {
        Some(peer) => client_address(peer.0, headers, &state.settings.trusted_proxies),
        None => IpAddr::from([0, 0, 0, 0]),
    }
}

/// The rate limit of a caller. `None` for a caller without credentials, whom open access admits.
fn limit_key(principal: &Principal) -> Option<LimitKey> {
    match (principal.credential(), principal.person()) {
        (Credential::ApiKey(id, _), _) => Some(LimitKey::ApiKey(id.0)),
        (Credential::Session(_) | Credential::Jwt, Some(person)) => Some(LimitKey::Account(person.id.0)),
        _ => None,
    }
}

/// Finds the caller by the credentials in the headers.
///
/// # Errors
/// 401 for missing or invalid credentials; 403 `foreign_origin` for a cookie from another origin; the errors of
/// [`authenticate`] about `X-Act-As`.
pub async fn identify(
    state: &HttpState,
    method: &Method,
    headers: &HeaderMap,
    address: IpAddr,
) -> Result<Principal, Problem> {
    let (credentials, by_cookie) = shown_credentials(headers, address)?;
    if by_cookie {
        state.settings.origins.check_cookie(method, headers)?;
    }
    match authenticate(&state.app, credentials.clone()).await {
        // A cookie can outlive its session. Under open access, which needs no credentials, such a cookie must not lead to an
        // error.
        Err(Error::Unauthenticated) if by_cookie && state.app.settings.access == Access::Open => {
            Ok(authenticate(&state.app, Credentials { token: None, ..credentials }).await?)
        }
        outcome => Ok(outcome?),
    }
}

/// The credentials in the headers, and whether they come from the cookie.
fn shown_credentials(headers: &HeaderMap, address: IpAddr) -> Result<(Credentials, bool), Problem> {
    let bearer = match bearer(headers)? {
        Some(token) => Some(token),
        None => subprotocol_token(headers),
    };
    let cookie = if bearer.is_none() { session_cookie(headers) } else { None };
    let act_as = act_as(headers)?;
    let by_cookie = cookie.is_some();
    Ok((Credentials { token: bearer.or(cookie), act_as, address }, by_cookie))
}

/// The credentials of a request that stays open, so that they can be checked again.
pub struct ShownCredentials {
    credentials: Credentials,
    by_cookie: bool,
    viewer: Viewer,
}

impl ShownCredentials {
    /// The credentials of a request that was admitted as `principal`.
    ///
    /// # Errors
    /// Those of [`identify`] for malformed headers. They do not occur, because the request was admitted with the same headers.
    pub fn new(headers: &HeaderMap, principal: &Principal) -> Result<Self, Problem> {
        let (credentials, by_cookie) = shown_credentials(headers, principal.address())?;
        Ok(Self { credentials, by_cookie, viewer: principal.viewer() })
    }

    /// Checks whether the caller would still be admitted as the same user.
    pub async fn check(&self, state: &HttpState) -> CredentialCheck {
        let open = state.app.settings.access == Access::Open;
        match authenticate(&state.app, self.credentials.clone()).await {
            Ok(principal) if principal.viewer() == self.viewer => CredentialCheck::Valid(Some(Box::new(principal))),
            Err(Error::Unauthenticated) if self.by_cookie && open => CredentialCheck::Valid(None),
            Err(Error::Unavailable { .. } | Error::UnknownValue { .. } | Error::Internal(_)) => {
                CredentialCheck::Unknown
            }
            _ => CredentialCheck::Invalid,
        }
    }
}

/// The result of checking credentials again.
pub enum CredentialCheck {
    /// They are valid, and belong to this caller. `None` under open access if the session of the cookie has ended: there, the end
    /// of a session has no effect.
    Valid(Option<Box<Principal>>),
    /// The check failed, for example because the database did not answer.
    Unknown,
    /// They are no longer valid, or now belong to another viewer.
    Invalid,
}

/// The token of a WebSocket that a page opens. A page cannot set headers, so it sends `Sec-WebSocket-Protocol: posthaste, <token>`.
fn subprotocol_token(headers: &HeaderMap) -> Option<String> {
    let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|line| line.to_str().ok());
    let mut words = lines.flat_map(|line| line.split(',')).map(str::trim);
    (words.next() == Some(SUBPROTOCOL)).then(|| words.next())?.filter(|token| !token.is_empty()).map(str::to_owned)
}

/// Checks the rate limit for a frame of a WebSocket. A frame counts as a request.
pub fn admit_frame(state: &HttpState, principal: &Principal) -> Option<Problem> {
    limit_key(principal).and_then(|key| state.limits.check(key).problem())
}

fn act_as(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let mut values = headers.get_all("x-act-as").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::invalid("X-Act-As", "duplicate", "must not be given more than once"));
    }
    let name = value.to_str().map_err(|_| Error::invalid("X-Act-As", "user_not_found", "no user has this name"))?;
    Ok(Some(name.to_owned()))
}

fn bearer(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    let token = text.and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    });
    match token {
        Some(token) => Ok(Some(token)),
        None => {
            tracing::info!(reason = "it is not one Bearer token", "a header Authorization was refused");
            Err(Error::Unauthenticated.into())
        }
    }
}

fn session_cookie(headers: &HeaderMap) -> Option<String> {
    // Cookies of other programs on the same host can have any bytes, so the line as a whole need not be UTF-8.
    let lines = headers.get_all(header::COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let mut values = pairs.filter_map(|pair| {
        let (name, value) = std::str::from_utf8(pair).ok()?.trim().split_once('=')?;
        (name == SESSION_COOKIE).then_some(value)
    });
    values.next().map(str::to_owned)
}

/// Checks that a request may read the metrics: it comes from a loopback peer that is not a proxy, or has an API key with the
/// scope `admin`.
///
/// # Errors
/// 404, as if there were no metrics.
pub async fn admit_to_metrics(state: &HttpState, request: &Parts) -> Result<(), Problem> {
    let peer = request.extensions.get::<PeerAddress>().map(|peer| peer.0);
    let local = peer.is_some_and(|peer| {
        peer.ip().to_canonical().is_loopback()
            && !super::client_address::is_from_proxy(peer, &state.settings.trusted_proxies)
    });
    if local {
        return Ok(());
    }
    let address = address_of(state, &request.extensions, &request.headers);
    let has_token = request.headers.contains_key(header::AUTHORIZATION);
    let identified =
        if has_token { identify(state, &request.method, &request.headers, address).await.ok() } else { None };
    match identified {
        Some(principal) if principal.is_admin() && matches!(principal.credential(), Credential::ApiKey(..)) => Ok(()),
        _ => Err(Problem::of_status(StatusCode::NOT_FOUND)),
    }
}
