//! `/api/conversations/{id}/incoming-webhooks` and `/api/hooks/{token}`.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::base::error::{Error, Result as DomainResult};
use crate::domain::conversations::incoming_webhooks::{self, Made};
use crate::domain::shared::idempotency::{KeyedRequest, Once, StoredAnswer};
use crate::http::access::limits::LimitKey;
use crate::http::access::policy::{PersonReading, PersonWriting, Public};
use crate::http::bodies::answers::{given, list, next_page, no_content, to_json};
use crate::http::bodies::extract::{JsonBody, JsonOrPayload, Path, Query, idempotency_key};
use crate::http::bodies::incoming_webhooks::IncomingWebhookBody;
use crate::http::bodies::parameters::{GroupPath, IdSchema, IdempotencyKeyHeader, PageQuery};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// An incoming webhook to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewIncomingWebhook, example = json!({"name": "CI"}))]
pub struct NewIncomingWebhookBody {
    /// Under which its messages appear.
    #[schema(min_length = 1, max_length = 32)]
    name: String,
}

/// Makes an incoming webhook: an address at which programs write into a group. It is in this answer alone.
#[utoipa::path(
    post,
    path = "/api/conversations/{id}/incoming-webhooks",
    tag = "integrations",
    params(GroupPath, IdempotencyKeyHeader),
    request_body = NewIncomingWebhookBody,
    responses(
        (status = 201, description = "Made.", body = IncomingWebhookBody<'_>, headers(
            ("Location" = String, description = "`/api/conversations/{id}/incoming-webhooks`"),
            ("Idempotency-Replayed" = Option<String>, description = "`true` on the answer to a repeat."),
        )),
        (status = 403, description = "`insufficient_role`."),
        (status = 409, description = "`not_a_group`, `too_many_incoming_webhooks`."),
    ),
)]
pub async fn create_incoming_webhook(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    uri: Uri,
    headers: HeaderMap,
    Path(path): Path<GroupPath>,
    body: JsonBody<NewIncomingWebhookBody>,
) -> Result<Response, Problem> {
    let request = idempotency_key(&state.app, &headers, &principal, uri.path(), &body.bytes)?;
    let once = Once { request, render: render_made, sealed: true };
    let base_url = match &state.app.settings.public_url {
        Some(url) => url.clone(),
        // As the caller reached it.
        None => {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            format!("http://{}", host.or(uri.host()).unwrap_or_default())
        }
    };
    let name = body.value.name;
    let made = incoming_webhooks::create(&state.app, &principal, path.id, name, &base_url, once).await?;
    Ok(given(made))
}

fn render_made(made: &Made) -> DomainResult<StoredAnswer> {
    let body = IncomingWebhookBody::new(&made.incoming_webhook, Some(&made.url));
    Ok(StoredAnswer {
        status: StatusCode::CREATED.as_u16(),
        location: Some(format!("/api/conversations/{}/incoming-webhooks", made.incoming_webhook.conversation_id.0)),
        body: serde_json::to_vec(&body).map_err(Error::internal)?,
    })
}

/// The incoming webhooks of a group, by id, without their addresses.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/incoming-webhooks",
    tag = "integrations",
    params(GroupPath, PageQuery),
    responses(
        (status = 200, description = "The incoming webhooks. `Link` names the next page while there is one.", body = Vec<IncomingWebhookBody<'_>>, headers(
            ("Link" = Option<String>, description = "`</api/conversations/…/incoming-webhooks?…>; rel=\"next\"`"),
        )),
        (status = 403, description = "`insufficient_role`."),
        (status = 409, description = "`not_a_group`."),
    ),
)]
pub async fn list_incoming_webhooks(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    uri: Uri,
    Path(path): Path<GroupPath>,
    Query(PageQuery { limit, cursor }): Query<PageQuery>,
) -> Result<Response, Problem> {
    let page = incoming_webhooks::list(&state.app, &principal, path.id, limit, cursor.as_deref()).await?;
    let bodies: Vec<IncomingWebhookBody<'_>> =
        page.entries.iter().map(|found| IncomingWebhookBody::new(found, None)).collect();
    Ok(list(to_json(&bodies, 240 * bodies.len())?, uri.path(), next_page(page.next, limit, [])))
}

/// An incoming webhook of a group.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct IncomingWebhookPath {
    /// The group.
    #[param(value_type = IdSchema, inline, example = 1)]
    id: i64,
    /// The incoming webhook.
    #[param(value_type = IdSchema, inline, example = 1)]
    hook_id: i64,
}

/// Ends an incoming webhook. What came by it stays.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}/incoming-webhooks/{hook_id}",
    tag = "integrations",
    params(IncomingWebhookPath),
    responses(
        (status = 204, description = "Ended."),
        (status = 403, description = "`insufficient_role`."),
        (status = 409, description = "`not_a_group`."),
    ),
)]
pub async fn end_incoming_webhook(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<IncomingWebhookPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    incoming_webhooks::end(&state.app, &principal, path.id, path.hook_id).await?;
    Ok(no_content())
}

/// What a program says, in Slack's shape. Fields that are not named here are left alone.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"text": "The build is green."}))]
pub struct IncomingMessage {
    #[schema(min_length = 1, max_length = 8000)]
    text: String,
}

/// The same, as a form.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document alone")]
pub struct IncomingForm {
    /// An `IncomingMessage` as JSON.
    #[schema(example = "{\"text\": \"The build is green.\"}")]
    payload: String,
}

/// The address of an incoming webhook.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct HookPath {
    /// The token.
    #[param(example = "phh_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG")]
    token: String,
}

/// Writes into a group, as Slack's incoming webhooks do. Whoever has the address may.
#[utoipa::path(
    post,
    path = "/api/hooks/{token}",
    tag = "integrations",
    params(
        HookPath,
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat with the same key and body writes nothing again, for 7 days.", min_length = 1, max_length = 255, pattern = "^[ -~]+$"),
    ),
    request_body(content((IncomingMessage = "application/json"), (IncomingForm = "application/x-www-form-urlencoded"))),
    responses(
        (status = 200, description = "`ok`: the message is written.", body = String, content_type = "text/plain", headers(
            ("Idempotency-Replayed" = Option<String>, description = "`true` on the answer to a repeat."),
        )),
        (status = 415, description = "The body is neither `application/json` in UTF-8 nor `application/x-www-form-urlencoded`."),
    ),
)]
pub async fn post_by_hook(
    State(state): State<HttpState>,
    _caller: Public,
    headers: HeaderMap,
    Path(path): Path<HookPath>,
    body: JsonOrPayload<IncomingMessage>,
) -> Result<Response, Problem> {
    let target = incoming_webhooks::find(&state.app, &path.token).await?;
    if let Some(refusal) = state.limits.check(LimitKey::IncomingWebhook(target.id.0)).problem() {
        return Err(refusal);
    }
    let scope = format!("incoming-webhook:{}", target.id.0);
    let days = &state.app.key_days;
    let keyed = |key: &HeaderValue| KeyedRequest::new(days, &scope, key.as_bytes(), "POST", "/api/hooks", &body.bytes);
    let request = headers.get("idempotency-key").map(keyed).transpose()?;
    let replayed = incoming_webhooks::post(&state.app, target, body.value.text, request).await?;
    let mut response = Response::new(Body::from("ok"));
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    if replayed {
        response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}
