//! `/api/api-keys`.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::base::error::{Error, Result as DomainResult};
use crate::base::ids::ApiKeyId;
use crate::base::time::Timestamp;
use crate::domain::identity::api_keys::{self, ApiKey, Made, NewApiKey};
use crate::domain::identity::audit::By;
use crate::domain::shared::idempotency::{Once, StoredAnswer};
use crate::http::access::policy::Administrator;
use crate::http::bodies::answers::{given, list, next_page, no_content, time_field, to_json};
use crate::http::bodies::extract::{JsonBody, Path, Query, idempotency_key};
use crate::http::bodies::parameters::{IdSchema, IdempotencyKeyHeader, PageQuery};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// A scope of an API key. No scope includes another one.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Requests that read.
    Read,
    /// Requests that change something.
    Write,
    /// Administrative requests.
    Admin,
}

/// An API key.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub struct ApiKeyBody<'a> {
    #[schema(minimum = 1, example = 1)]
    id: i64,
    #[schema(example = "the shop")]
    name: &'a str,
    #[schema(value_type = Vec<Scope>, example = json!(["read", "write"]))]
    scopes: Vec<&'a str>,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    /// The id of the user who created the key. Null if it was created on the command line or with another key.
    created_by: Option<i64>,
    /// The time of the last request with the key, exact to one minute.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// The secret. It is shown only once, in the answer to the creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "phk_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG")]
    key: Option<&'a str>,
}

impl<'a> ApiKeyBody<'a> {
    fn new(key: &'a ApiKey, text: Option<&'a str>) -> Self {
        Self {
            id: key.id.0,
            name: &key.name,
            scopes: key.scopes.split_whitespace().collect(),
            created_at: key.created_at,
            created_by: key.created_by.map(|id| id.0),
            last_used_at: key.last_used_at,
            expires_at: key.expires_at,
            key: text,
        }
    }
}

/// List API keys
///
/// Ordered by id, without their secrets.
#[utoipa::path(
    get,
    path = "/api/api-keys",
    tag = "administration",
    params(PageQuery),
    responses((status = 200, description = "The keys. `Link` has the path of the next page, if there is one.", body = Vec<ApiKeyBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/api-keys?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_api_keys(
    State(state): State<HttpState>,
    _caller: Administrator,
    uri: Uri,
    Query(PageQuery { limit, cursor }): Query<PageQuery>,
) -> Result<Response, Problem> {
    let page = api_keys::list(&state.app, limit, cursor.as_deref()).await?;
    let bodies: Vec<ApiKeyBody<'_>> = page.entries.iter().map(|key| ApiKeyBody::new(key, None)).collect();
    Ok(list(to_json(&bodies, 240 * bodies.len())?, uri.path(), next_page(page.next, limit, [])))
}

/// Request body for creating an API key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewApiKey, example = json!({"name": "the shop", "scopes": ["read", "write"]}))]
pub struct NewApiKeyBody {
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// `read` and `write` if absent.
    #[schema(value_type = Option<Vec<Scope>>, min_items = 1)]
    scopes: Option<Vec<String>>,
    /// The time at which the key expires. Never if absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<String>,
}

/// Create an API key
///
/// The secret is shown only in this answer.
#[utoipa::path(
    post,
    path = "/api/api-keys",
    tag = "administration",
    params(IdempotencyKeyHeader),
    request_body = NewApiKeyBody,
    responses((status = 201, description = "Created.", body = ApiKeyBody<'_>, headers(
        ("Idempotency-Replayed" = Option<String>, description = "`true` if this is the stored answer to an earlier request with the same key."),
    ))),
)]
pub async fn create_api_key(
    State(state): State<HttpState>,
    Administrator(principal): Administrator,
    uri: Uri,
    headers: HeaderMap,
    body: JsonBody<NewApiKeyBody>,
) -> Result<Response, Problem> {
    let request = idempotency_key(&state.app, &headers, &principal, uri.path(), &body.bytes)?;
    let expires_at = body.value.expires_at.map(|text| time_field("expires_at", &text)).transpose()?;
    let new = NewApiKey {
        name: body.value.name,
        scopes: body.value.scopes.unwrap_or_else(|| vec!["read".into(), "write".into()]),
        expires_at,
    };
    let by = By::principal(&principal, state.app.clock.now());
    let once = Once { request, render: render_created, sealed: true };
    Ok(given(api_keys::create(&state.app, new, by, once).await?))
}

fn render_created(made: &Made) -> DomainResult<StoredAnswer> {
    let body = serde_json::to_vec(&ApiKeyBody::new(&made.key, Some(&made.text))).map_err(Error::internal)?;
    Ok(StoredAnswer { status: StatusCode::CREATED.as_u16(), location: None, body })
}

/// Path parameter of a route about one API key.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ApiKeyPath {
    /// The id of the key.
    #[param(value_type = IdSchema, inline, example = 1)]
    id: i64,
}

/// Revoke an API key
///
/// The key stops working within a second.
#[utoipa::path(
    delete,
    path = "/api/api-keys/{id}",
    tag = "administration",
    params(ApiKeyPath),
    responses((status = 204, description = "Revoked.")),
)]
pub async fn revoke_api_key(
    State(state): State<HttpState>,
    Administrator(principal): Administrator,
    Path(path): Path<ApiKeyPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let by = By::principal(&principal, state.app.clock.now());
    api_keys::revoke(&state.app, ApiKeyId(path.id), by).await?;
    Ok(no_content())
}
