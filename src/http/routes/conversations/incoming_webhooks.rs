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
use crate::http::bodies::slack::SlackMessage;
use crate::http::state::HttpState;

/// Request body for creating an incoming webhook.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewIncomingWebhook, example = json!({"name": "CI"}))]
pub struct NewIncomingWebhookBody {
    /// The name under which its messages appear.
    #[schema(min_length = 1, max_length = 32)]
    name: String,
}

/// Create an incoming webhook
///
/// Creates an address at which programs can post messages into a group. The address is shown only in this answer.
#[utoipa::path(
    post,
    path = "/api/conversations/{id}/incoming-webhooks",
    tag = "integrations",
    params(GroupPath, IdempotencyKeyHeader),
    request_body = NewIncomingWebhookBody,
    responses(
        (status = 201, description = "Created.", body = IncomingWebhookBody<'_>, headers(
            ("Location" = String, description = "`/api/conversations/{id}/incoming-webhooks`"),
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this is the stored answer to an earlier request with the same key."),
        )),
        (status = 403, description = "`insufficient_role`: the role of the caller does not allow this."),
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
    let once = Once { request, render: render_created, sealed: true };
    let base_url = match &state.app.settings.public_url {
        Some(url) => url.clone(),
        // The address at which the caller reached the server.
        None => {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            format!("http://{}", host.unwrap_or_default())
        }
    };
    let name = body.value.name;
    let made = incoming_webhooks::create(&state.app, &principal, path.id, name, &base_url, once).await?;
    Ok(given(made))
}

fn render_created(made: &Made) -> DomainResult<StoredAnswer> {
    let body = IncomingWebhookBody::new(&made.incoming_webhook, Some(&made.url));
    Ok(StoredAnswer {
        status: StatusCode::CREATED.as_u16(),
        location: Some(format!("/api/conversations/{}/incoming-webhooks", made.incoming_webhook.conversation_id.0)),
        body: serde_json::to_vec(&body).map_err(Error::internal)?,
    })
}

/// List the incoming webhooks of a group
///
/// Ordered by id, without their addresses.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/incoming-webhooks",
    tag = "integrations",
    params(GroupPath, PageQuery),
    responses(
        (status = 200, description = "The incoming webhooks. `Link` has the path of the next page, if there is one.", body = Vec<IncomingWebhookBody<'_>>, headers(
            ("Link" = Option<String>, description = "`</api/conversations/…/incoming-webhooks?…>; rel=\"next\"`"),
        )),
        (status = 403, description = "`insufficient_role`: the role of the caller does not allow this."),
        (status = 409, description = "`not_a_group`: the conversation is direct."),
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

/// Path parameters of a route about one incoming webhook of a group.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct IncomingWebhookPath {
    /// The id of the group.
    #[param(value_type = IdSchema, inline, example = 1)]
    id: i64,
    /// The id of the incoming webhook.
    #[param(value_type = IdSchema, inline, example = 1)]
    hook_id: i64,
}

/// Delete an incoming webhook
///
/// Its messages remain.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}/incoming-webhooks/{hook_id}",
    tag = "integrations",
    params(IncomingWebhookPath),
    responses(
        (status = 204, description = "Deleted."),
        (status = 403, description = "`insufficient_role`: the role of the caller does not allow this."),
        (status = 409, description = "`not_a_group`: the conversation is direct."),
    ),
)]
pub async fn delete_incoming_webhook(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<IncomingWebhookPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    incoming_webhooks::end(&state.app, &principal, path.id, path.hook_id).await?;
    Ok(no_content())
}

/// A message of a program, as a form.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only for the OpenAPI document")]
pub struct IncomingForm {
    /// An `IncomingMessage` in JSON.
    #[schema(example = "{\"text\": \"The build is green.\"}")]
    payload: String,
}

/// Path parameter of the address of an incoming webhook.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct HookPath {
    /// The token of the incoming webhook.
    #[param(example = "phh_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG")]
    token: String,
}

/// Post a message through an incoming webhook
///
/// Accepts the format of Slack's incoming webhooks: `text`, `blocks` and `attachments` become one text. The token in the address is the only credential.
#[utoipa::path(
    post,
    path = "/api/hooks/{token}",
    tag = "integrations",
    params(
        HookPath,
        ("Idempotency-Key" = Option<String>, Header, description = "A repeated request with the same key and body posts no second message, for 7 days.", min_length = 1, max_length = 255, pattern = "^[ -~]+$"),
    ),
    request_body(content((SlackMessage = "application/json"), (IncomingForm = "application/x-www-form-urlencoded"))),
    responses(
        (status = 200, description = "`ok`: the message was posted.", body = String, content_type = "text/plain", headers(
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this is the stored answer to an earlier request with the same key."),
        )),
        (status = 415, description = "The body is neither `application/json` in UTF-8 nor `application/x-www-form-urlencoded`."),
    ),
)]
pub async fn post_incoming_message(
    State(state): State<HttpState>,
    _caller: Public,
    headers: HeaderMap,
    Path(path): Path<HookPath>,
    body: JsonOrPayload<SlackMessage>,
) -> Result<Response, Problem> {
    let target = incoming_webhooks::find(&state.app, &path.token).await?;
    if let Some(problem) = state.limits.check(LimitKey::IncomingWebhook(target.id.0)).problem() {
        return Err(problem);
    }
    let scope = format!("incoming-webhook:{}", target.id.0);
    let days = &state.app.key_days;
    let keyed = |key: &HeaderValue| KeyedRequest::new(days, &scope, key.as_bytes(), "POST", "/api/hooks", &body.bytes);
    let request = headers.get("idempotency-key").map(keyed).transpose()?;
    let replayed = incoming_webhooks::post(&state.app, target, body.value.to_body(), request).await?;
    let mut response = Response::new(Body::from("ok"));
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    if replayed {
        response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}
