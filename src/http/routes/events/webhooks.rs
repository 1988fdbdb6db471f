//! `/api/webhooks`: outgoing webhooks.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::base::error::{Error, Result as DomainResult};
use crate::base::ids::WebhookId;
use crate::base::time::Timestamp;
use crate::domain::events::webhooks::{self, Delivery, DisabledReason, Fields, Webhook};
use crate::domain::identity::audit::By;
use crate::domain::shared::idempotency::{Once, StoredAnswer};
use crate::http::access::limits::LimitKey;
use crate::http::access::policy::Administrator;
use crate::http::bodies::answers::{given, json, list, next_page, no_content, not_null, present, resource, to_json};
use crate::http::bodies::extract::{JsonBody, Path, Query, idempotency_key};
use crate::http::bodies::parameters::{IdSchema, IdempotencyKeyHeader, PageQuery};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;
use crate::live::webhooks::TestOutcome;

/// An outgoing webhook.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhook)]
pub struct WebhookBody<'a> {
    #[schema(minimum = 1, example = 1)]
    id: i64,
    #[schema(example = "https://example.com/hook")]
    url: &'a str,
    /// The types of events that are delivered. Null for all types.
    #[schema(example = json!(["message.created"]))]
    event_types: Option<Vec<&'a str>>,
    enabled: bool,
    /// When it was disabled. Null while it is enabled, and if an older version disabled it.
    #[schema(value_type = Option<String>, format = DateTime)]
    disabled_at: Option<Timestamp>,
    /// Why it is disabled. Null while it is enabled.
    disabled_reason: Option<DisabledReasonWord>,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    /// When the previous secret stops signing. Null if only the current one signs.
    #[schema(value_type = Option<String>, format = DateTime)]
    previous_secret_expires_at: Option<Timestamp>,
    /// The secret that signs deliveries. It is shown only once, in the answer to the creation or to the rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")]
    secret: Option<String>,
}

/// Why a webhook is disabled.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = WebhookDisabledReason)]
pub enum DisabledReasonWord {
    /// An administrator disabled it.
    Administrator,
    /// The receiver answered 410 Gone.
    Gone,
}

impl From<DisabledReason> for DisabledReasonWord {
    fn from(reason: DisabledReason) -> Self {
        match reason {
            DisabledReason::Administrator => Self::Administrator,
            DisabledReason::Gone => Self::Gone,
        }
    }
}

impl<'a> WebhookBody<'a> {
    fn new(webhook: &'a Webhook, now: Timestamp) -> Self {
        let previous = webhook.previous_secret.as_ref().map(|previous| previous.until);
        Self {
            id: webhook.id.0,
            url: &webhook.url,
            event_types: webhook.event_types.as_deref().map(|types| types.split(' ').collect()),
            enabled: webhook.enabled,
            disabled_at: webhook.disabled_at,
            disabled_reason: webhook.disabled_reason.map(DisabledReasonWord::from),
            created_at: webhook.created_at,
            previous_secret_expires_at: previous.filter(|until| *until > now),
            secret: None,
        }
    }
}

/// The delivery of an event to a webhook.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookDelivery)]
pub struct DeliveryBody<'a> {
    /// The position of the event in the event log, as in its cursor.
    #[schema(minimum = 1, example = 42)]
    position: i64,
    #[serde(rename = "type")]
    #[schema(example = "message.created")]
    kind: &'a str,
    /// Null if the event is not about a conversation.
    conversation_id: Option<i64>,
    /// `pending`, `delivered`, or `dead` if the delivery was given up.
    #[schema(example = "delivered")]
    state: &'a str,
    attempts: i64,
    /// The time of the next attempt. Null if there is none.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_at: Option<Timestamp>,
    /// The HTTP status of the last answer. Null if the receiver did not answer.
    #[schema(example = 200)]
    last_status: Option<i64>,
}

impl<'a> DeliveryBody<'a> {
    fn new(delivery: &'a Delivery) -> Self {
        Self {
            position: delivery.position,
            kind: &delivery.kind,
            conversation_id: Some(delivery.conversation).filter(|id| *id > 0),
            state: &delivery.state,
            attempts: delivery.attempts,
            next_at: (delivery.state == "pending").then_some(delivery.next_at),
            last_at: delivery.last_at,
            last_status: delivery.last_status,
        }
    }
}

/// List webhooks
///
/// Ordered by id.
#[utoipa::path(
    get,
    path = "/api/webhooks",
    tag = "integrations",
    params(PageQuery),
    responses((status = 200, description = "The webhooks. `Link` has the path of the next page, if there is one.", body = Vec<WebhookBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/webhooks?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_webhooks(
    State(state): State<HttpState>,
    _caller: Administrator,
    uri: Uri,
    Query(PageQuery { limit, cursor }): Query<PageQuery>,
) -> Result<Response, Problem> {
    let page = webhooks::list(&state.app, limit, cursor.as_deref()).await?;
    let now = state.app.clock.now();
    let bodies: Vec<WebhookBody<'_>> = page.entries.iter().map(|webhook| WebhookBody::new(webhook, now)).collect();
    Ok(list(to_json(&bodies, 240 * bodies.len())?, uri.path(), next_page(page.next, limit, [])))
}

/// Request body for creating a webhook.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewWebhook, example = json!({"url": "https://example.com/hook", "event_types": ["message.created"]}))]
pub struct NewWebhookBody {
    /// Must begin with `https://` and must not be a private address, unless the operator allows it.
    #[schema(max_length = 2000)]
    url: String,
    /// The types of events to deliver. All types if absent or null.
    #[schema(min_items = 1, max_items = 64)]
    event_types: Option<Vec<String>>,
    /// True if absent.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    enabled: Option<bool>,
}

/// Create a webhook
///
/// The webhook receives all events from now on. Its secret is shown only in this answer.
#[utoipa::path(
    post,
    path = "/api/webhooks",
    tag = "integrations",
    params(IdempotencyKeyHeader),
    request_body = NewWebhookBody,
    responses(
        (status = 201, description = "Created.", body = WebhookBody<'_>, headers(
            ("Location" = String, description = "The path of the webhook."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this is the stored answer to an earlier request with the same key."),
        )),
        (status = 409, description = "`too_many_webhooks`."),
    ),
)]
pub async fn create_webhook(
    State(state): State<HttpState>,
    Administrator(principal): Administrator,
    uri: Uri,
    headers: HeaderMap,
    body: JsonBody<NewWebhookBody>,
) -> Result<Response, Problem> {
    let request = idempotency_key(&state.app, &headers, &principal, uri.path(), &body.bytes)?;
    let NewWebhookBody { url, event_types, enabled } = body.value;
    let fields = Fields { url: Some(url), event_types: Some(event_types), enabled };
    let by = By::principal(&principal, state.app.clock.now());
    let once = Once { request, render: render_created, sealed: true };
    Ok(given(webhooks::create(&state.app, fields, by, once).await?))
}

fn render_created(made: &Webhook) -> DomainResult<StoredAnswer> {
    let location = Some(format!("/api/webhooks/{}", made.id.0));
    Ok(StoredAnswer { status: StatusCode::CREATED.as_u16(), location, body: with_secret(made)? })
}

fn render_rotated(rotated: &Webhook) -> DomainResult<StoredAnswer> {
    Ok(StoredAnswer { status: StatusCode::OK.as_u16(), location: None, body: with_secret(rotated)? })
}

/// The webhook directly after its secret was made, so a previous secret still signs.
fn with_secret(webhook: &Webhook) -> DomainResult<Vec<u8>> {
    let secret = Some(webhooks::secret_text(&webhook.secret));
    let body = WebhookBody { secret, ..WebhookBody::new(webhook, Timestamp::MIN) };
    serde_json::to_vec(&body).map_err(Error::internal)
}

/// Get a webhook
///
/// With its state and without its secret.
#[utoipa::path(
    get,
    path = "/api/webhooks/{id}",
    tag = "integrations",
    params(WebhookPath),
    responses(
        (status = 200, description = "The webhook, without its secret.", body = WebhookBody<'_>, headers(("ETag" = String, description = "The entity tag of this answer."))),
        (status = 304, description = "Not modified: the answer still has the entity tag in `If-None-Match`."),
    ),
)]
pub async fn get_webhook(
    State(state): State<HttpState>,
    _caller: Administrator,
    Path(path): Path<WebhookPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let webhook = webhooks::get(&state.app, WebhookId(path.id)).await?;
    resource(&WebhookBody::new(&webhook, state.app.clock.now()))
}

/// Replace the secret of a webhook
///
/// For 24 hours deliveries have two signatures, one by the new secret and one by the previous one. A second rotation within that
/// time ends the oldest secret at once.
#[utoipa::path(
    post,
    path = "/api/webhooks/{id}/rotate-secret",
    tag = "integrations",
    params(WebhookPath, IdempotencyKeyHeader),
    responses(
        (status = 200, description = "The webhook with its new secret, which is shown only in this answer.", body = WebhookBody<'_>, headers(
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this is the stored answer to an earlier request with the same key."),
        )),
    ),
)]
pub async fn rotate_webhook_secret(
    State(state): State<HttpState>,
    Administrator(principal): Administrator,
    uri: Uri,
    headers: HeaderMap,
    Path(path): Path<WebhookPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let request = idempotency_key(&state.app, &headers, &principal, uri.path(), b"")?;
    let by = By::principal(&principal, state.app.clock.now());
    let once = Once { request, render: render_rotated, sealed: true };
    Ok(given(webhooks::rotate_secret(&state.app, WebhookId(path.id), by, once).await?))
}

/// The outcome of a test of a webhook.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookTest)]
pub struct TestBody {
    /// Whether the receiver answered with 2xx.
    delivered: bool,
    /// The HTTP status of the answer. Null if the receiver did not answer.
    #[schema(minimum = 100, maximum = 999, example = 204)]
    status: Option<u16>,
    /// The time until the answer or the failure, in milliseconds.
    #[schema(example = 12)]
    duration_ms: u64,
    /// What went wrong, in a sentence. Null after a success.
    error: Option<String>,
}

/// Test a webhook
///
/// Delivers an event of the type `webhook.test` at once and waits for the answer, up to 15 seconds. A test changes nothing about the
/// webhook and is not in the list of its deliveries. It also works while the webhook is disabled.
#[utoipa::path(
    post,
    path = "/api/webhooks/{id}/test",
    tag = "integrations",
    params(WebhookPath),
    responses((status = 200, description = "The outcome, also if the receiver did not answer.", body = TestBody)),
)]
pub async fn test_webhook(
    State(state): State<HttpState>,
    _caller: Administrator,
    Path(path): Path<WebhookPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let webhook = webhooks::get(&state.app, WebhookId(path.id)).await?;
    if let Some(problem) = state.limits.check(LimitKey::WebhookTest(path.id)).problem() {
        return Err(problem);
    }
    let TestOutcome { status, duration, error } = state.live.test_webhook(&webhook).await?;
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    json(StatusCode::OK, &TestBody { delivered: error.is_none(), status, duration_ms, error })
}

/// Request body for changing a webhook. An absent field is not changed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookChanges, example = json!({"enabled": false}))]
pub struct WebhookChangesBody {
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, max_length = 2000)]
    url: Option<String>,
    /// The types of events to deliver. Null for all types.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 64)]
    event_types: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    enabled: Option<bool>,
}

/// Path parameter of a route about one webhook.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct WebhookPath {
    /// The id of the webhook.
    #[param(value_type = IdSchema, inline, example = 1)]
    id: i64,
}

/// Change a webhook
///
/// A disabled webhook keeps its position in the event log and continues there when it is enabled again. The server disables a
/// webhook whose receiver answers 410.
#[utoipa::path(
    patch,
    path = "/api/webhooks/{id}",
    tag = "integrations",
    params(WebhookPath),
    request_body = WebhookChangesBody,
    responses((status = 200, description = "The changed webhook.", body = WebhookBody<'_>)),
)]
pub async fn update_webhook(
    State(state): State<HttpState>,
    Administrator(principal): Administrator,
    Path(path): Path<WebhookPath>,
    body: JsonBody<WebhookChangesBody>,
) -> Result<Response, Problem> {
    let WebhookChangesBody { url, event_types, enabled } = body.value;
    let fields = Fields { url, event_types, enabled };
    let by = By::principal(&principal, state.app.clock.now());
    let webhook = webhooks::update(&state.app, WebhookId(path.id), fields, by).await?;
    json(StatusCode::OK, &WebhookBody::new(&webhook, state.app.clock.now()))
}

/// Delete a webhook
///
/// Its list of deliveries is deleted too.
#[utoipa::path(
    delete,
    path = "/api/webhooks/{id}",
    tag = "integrations",
    params(WebhookPath),
    responses((status = 204, description = "Deleted.")),
)]
pub async fn delete_webhook(
    State(state): State<HttpState>,
    Administrator(principal): Administrator,
    Path(path): Path<WebhookPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let by = By::principal(&principal, state.app.clock.now());
    webhooks::delete(&state.app, WebhookId(path.id), by).await?;
    Ok(no_content())
}

/// List the latest deliveries of a webhook
///
/// Ordered from the newest event to the oldest.
#[utoipa::path(
    get,
    path = "/api/webhooks/{id}/deliveries",
    tag = "integrations",
    params(WebhookPath, PageQuery),
    responses((status = 200, description = "The deliveries. `Link` has the path of the next page, if there is one.", body = Vec<DeliveryBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/webhooks/1/deliveries?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_deliveries(
    State(state): State<HttpState>,
    _caller: Administrator,
    Path(path): Path<WebhookPath>,
    uri: Uri,
    Query(PageQuery { limit, cursor }): Query<PageQuery>,
) -> Result<Response, Problem> {
    let page = webhooks::ledger(&state.app, WebhookId(path.id), limit, cursor.as_deref()).await?;
    let bodies: Vec<DeliveryBody<'_>> = page.entries.iter().map(DeliveryBody::new).collect();
    Ok(list(to_json(&bodies, 240 * bodies.len())?, uri.path(), next_page(page.next, limit, [])))
}

/// Request body for a replay.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookReplay, example = json!({"after": "5f3a9c1e7b204d68-42"}))]
pub struct ReplayBody {
    /// A cursor of the event log.
    #[schema(max_length = 64)]
    after: String,
}

/// Deliver events to a webhook again
///
/// Delivers all events after the cursor again, with the same ids as before.
#[utoipa::path(
    post,
    path = "/api/webhooks/{id}/replay",
    tag = "integrations",
    params(WebhookPath),
    request_body = ReplayBody,
    responses(
        (status = 204, description = "The deliveries will begin."),
        (status = 410, description = "`cursor_expired`: the events after the cursor are no longer stored, or the cursor belongs to another event log."),
    ),
)]
pub async fn replay_webhook(
    State(state): State<HttpState>,
    _caller: Administrator,
    Path(path): Path<WebhookPath>,
    body: JsonBody<ReplayBody>,
) -> Result<Response, Problem> {
    webhooks::replay(&state.app, WebhookId(path.id), &body.value.after).await?;
    Ok(no_content())
}
