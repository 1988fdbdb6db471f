//! `/api/admin/audit`.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::{list, next_page, to_json};
use crate::domain::audit::{self, Entry};
use crate::http::HttpState;
use crate::http::extract::Query;
use crate::http::policy::Administrator;
use crate::http::problem::Problem;
use crate::time::Timestamp;

/// Something that happened to an account or a key.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct AuditBody<'a> {
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    at: Timestamp,
    /// What, as a stable word.
    #[schema(example = "session.created")]
    action: &'a str,
    /// The id of the user who did it.
    #[schema(example = 1)]
    actor_id: Option<i64>,
    /// The id of the API key that did it.
    api_key_id: Option<i64>,
    /// The id of the user whom it was done to.
    #[schema(example = 1)]
    subject_id: Option<i64>,
    /// From where; null for the command line, and for who was erased.
    #[schema(example = "127.0.0.1")]
    address: Option<&'a str>,
    detail: Option<&'a str>,
}

impl<'a> AuditBody<'a> {
    /// An entry.
    pub fn new(entry: &'a Entry) -> Self {
        Self {
            at: entry.at,
            action: &entry.action,
            actor_id: entry.actor_id.map(|id| id.0),
            api_key_id: entry.api_key_id.map(|id| id.0),
            subject_id: entry.subject_id.map(|id| id.0),
            address: entry.address.as_deref(),
            detail: entry.detail.as_deref(),
        }
    }
}

/// What happened to accounts and keys, newest first.
#[utoipa::path(
    get,
    path = "/api/admin/audit",
    tag = "administration",
    params(
        ("limit" = Option<u32>, Query, description = "Entries of the page; 50 when it is absent.", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "Where the page begins: taken from a Link header as it is."),
    ),
    responses((status = 200, description = "The entries. `Link` names the next page while there is one.", body = Vec<AuditBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/admin/audit?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_audit(
    State(state): State<HttpState>,
    _caller: Administrator,
    uri: Uri,
    mut query: Query,
) -> Result<Response, Problem> {
    let (limit, cursor) = (query.limit(), query.text("cursor"));
    query.finish()?;
    let page = audit::list(&state.app, limit, cursor.as_deref()).await?;
    let bodies: Vec<AuditBody<'_>> = page.entries.iter().map(|(_, entry)| AuditBody::new(entry)).collect();
    Ok(list(to_json(&bodies, 200 * bodies.len())?, uri.path(), next_page(page.next, limit, [])))
}
