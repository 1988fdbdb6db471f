//! `/api/attachments/{id}/links` and `/api/files/{token}`: URLs of files that need no header.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::file_answer::{self, Confirmation, FileResponses, Permission};
use crate::base::time::Timestamp;
use crate::domain::files::links;
use crate::http::access::policy::{PersonReading, Public};
use crate::http::bodies::answers::{json, not_null};
use crate::http::bodies::extract::{JsonBody, Path, Query};
use crate::http::bodies::parameters::{AttachmentPath, LinkPath};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// Pages of any origin may show a file by its link. Without this header, a page with a Cross-Origin-Embedder-Policy could not.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Request body for making links to a file.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"expires_in_s": 300}))]
pub struct NewLink {
    /// The lifetime of the links in seconds. 300 if absent.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 10, maximum = 3600)]
    expires_in_s: Option<i64>,
}

/// The links to a file.
#[derive(Serialize, ToSchema)]
#[schema(as = FileLinks)]
pub struct LinksBody {
    /// A path that gives the file without credentials.
    #[schema(example = "/api/files/q0Ck6nUrzDkCKcl9uU8V7ybs0eU0bLsnm3QJrM9kYdHk1bYw3b2oTj1x0Tn8N3p5oXk1dEE")]
    url: String,
    /// A path that gives the thumbnail without credentials. Null unless the file is a JPEG, PNG, GIF or WebP image.
    thumbnail_url: Option<String>,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:35:00.123456Z")]
    expires_at: Timestamp,
}

/// Make links to a file
///
/// The links need no credentials, so an `<img>` element or a media player can use them. Each use is checked as a request of the
/// caller: a link ends when the caller may not see the file any more. Everybody who has the link can use it.
#[utoipa::path(
    post,
    path = "/api/attachments/{id}/links",
    tag = "files",
    params(AttachmentPath),
    request_body = NewLink,
    responses((status = 200, description = "The links.", body = LinksBody)),
)]
pub async fn create_link(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    Path(AttachmentPath { id }): Path<AttachmentPath>,
    body: JsonBody<NewLink>,
) -> Result<Response, Problem> {
    let expires_in_s = body.value.expires_in_s.unwrap_or(links::DEFAULT_LIFETIME_S);
    let made = links::create(&state.app, &principal, id, expires_in_s).await?;
    let path = |token: String| format!("/api/files/{token}");
    let body = LinksBody { url: path(made.file), thumbnail_url: made.thumbnail.map(path), expires_at: made.expires_at };
    json(StatusCode::OK, &body)
}

/// Get a file by its link
///
/// Needs no credentials.
#[utoipa::path(get, path = "/api/files/{token}", tag = "files", params(LinkPath), responses(FileResponses))]
pub async fn get_linked_file(
    State(state): State<HttpState>,
    _caller: Public,
    Path(LinkPath { token }): Path<LinkPath>,
    _query: Query<()>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let link = links::open(&state.app, &token)?;
    let content = links::content(&state.app, link).await?;
    let app = Arc::clone(&state.app);
    let permission: Permission = Arc::new(move || {
        let app = Arc::clone(&app);
        async move { Confirmation::of(&links::content(&app, link).await) }.boxed()
    });
    let mut response = file_answer::answer(&state, &headers, &content, permission).await?;
    let left_s = (link.expires_at.micros() - state.app.clock.now().micros()).max(0) / 1_000_000;
    let headers = response.headers_mut();
    // A cached copy does not outlive the link.
    if let Ok(cached) = HeaderValue::try_from(format!("private, max-age={left_s}")) {
        headers.insert(header::CACHE_CONTROL, cached);
    }
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
    Ok(response)
}
