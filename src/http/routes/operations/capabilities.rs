//! `/api/capabilities`: what this server can do, for clients that must choose before anyone logged in.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::access::principal::Access;
use crate::domain::identity::password_hashing::{MAX_PASSWORD_CHARACTERS, MIN_PASSWORD_CHARACTERS};
use crate::domain::sending::drafts;
use crate::domain::shared::pagination;
use crate::http::access::policy::Public;
use crate::http::bodies::answers::resource;
use crate::http::bodies::extract::{BODY_LIMIT_BYTES, Query};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// What this server can do.
#[derive(Serialize, ToSchema)]
pub struct Capabilities {
    #[schema(example = "posthaste")]
    server: &'static str,
    #[schema(example = "0.1.0")]
    version: &'static str,
    access: AccessMode,
    /// Whether the demo's people are there to be chosen from.
    demo: bool,
    registration: Registration,
    /// Whether codes for a forgotten password are sent by mail.
    mail: bool,
    limits: Limits,
}

/// Who is let in.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessMode {
    /// Callers with credentials.
    Secured,
    /// Everyone who reaches the server.
    Open,
}

/// Whether people may make accounts by themselves.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    /// They may.
    Open,
    /// An administrator makes them.
    Closed,
}

/// Limits that a client should know.
#[derive(Serialize, ToSchema)]
pub struct Limits {
    #[schema(example = 8000)]
    message_body_characters: usize,
    #[schema(example = 200)]
    page_entries: usize,
    #[schema(example = 262144)]
    json_body_bytes: usize,
    #[schema(example = 8)]
    password_characters_min: usize,
    #[schema(example = 256)]
    password_characters_max: usize,
}

/// What this server can do. Needs no credentials.
#[utoipa::path(
    get,
    path = "/api/capabilities",
    tag = "server",
    responses(
        (status = 200, description = "What it can do.", body = Capabilities, headers(("ETag" = String, description = "Of this answer."))),
        (status = 304, description = "`If-None-Match` names this answer."),
    ),
)]
pub async fn get_capabilities(
    State(state): State<HttpState>,
    _caller: Public,
    headers: HeaderMap,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let settings = &state.app.settings;
    let mut response = resource(
        &headers,
        &Capabilities {
            server: "posthaste",
            version: env!("CARGO_PKG_VERSION"),
            access: match settings.access {
                Access::Secured => AccessMode::Secured,
                Access::Open => AccessMode::Open,
            },
            demo: settings.demo,
            registration: if settings.registration_open { Registration::Open } else { Registration::Closed },
            mail: state.app.mailer.is_some(),
            limits: Limits {
                message_body_characters: drafts::MAX_BODY_CHARACTERS,
                page_entries: pagination::MAX_LIMIT,
                json_body_bytes: BODY_LIMIT_BYTES,
                password_characters_min: MIN_PASSWORD_CHARACTERS,
                password_characters_max: MAX_PASSWORD_CHARACTERS,
            },
        },
    )?;
    // The same for everyone: a cache may keep it, and asks whether it still holds.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}
