//! `/api/scheduled`: messages that wait for their time.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::{list, next_page, no_content, resource, to_json};
use crate::domain::idempotency::StoredAnswer;
use crate::domain::scheduled::{self, Shown};
use crate::error::{Error, Result as DomainResult};
use crate::http::HttpState;
use crate::http::extract::{PathSegments, Query};
use crate::http::policy::{PersonReading, PersonWriting};
use crate::http::problem::Problem;
use crate::time::Timestamp;

/// A message that waits for its time, or was refused when it came.
#[derive(Serialize, ToSchema)]
#[schema(as = Scheduled)]
pub struct ScheduledBody<'a> {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    /// Null when the sender was erased.
    #[schema(example = "rdibari")]
    sender_user_name: Option<&'a str>,
    /// Null where a conversation is named.
    #[schema(example = "bugs")]
    recipient_user_name: Option<&'a str>,
    #[schema(minimum = 1)]
    conversation_id: Option<i64>,
    #[schema(example = "happy new year")]
    body: &'a str,
    #[schema(minimum = 1)]
    reply_to: Option<i64>,
    /// When the server accepted it.
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    /// When it is to be sent.
    #[schema(value_type = String, format = DateTime, example = "2027-01-01T00:00:00.000000Z")]
    send_at: Timestamp,
    /// When it was tried and refused. It is not tried again.
    #[schema(value_type = Option<String>, format = DateTime)]
    failed_at: Option<Timestamp>,
    /// Why, as the code that sending it would have been answered with.
    #[schema(example = "not_friends")]
    failure: Option<&'a str>,
}

impl<'a> ScheduledBody<'a> {
    fn new(shown: &'a Shown) -> Self {
        let scheduled = &shown.scheduled;
        let name = |id| shown.names.get(&id).map(String::as_str);
        Self {
            id: scheduled.id.0,
            sender_user_name: name(scheduled.sender_id),
            recipient_user_name: scheduled.recipient_id.and_then(name),
            conversation_id: scheduled.conversation_id.map(|id| id.0),
            body: &scheduled.body,
            reply_to: scheduled.reply_to,
            created_at: scheduled.created_at,
            send_at: scheduled.send_at,
            failed_at: scheduled.failed_at,
            failure: scheduled.failure.as_deref(),
        }
    }
}

/// The answer to a send for later.
pub fn render_accepted(shown: &Shown) -> DomainResult<StoredAnswer> {
    Ok(StoredAnswer {
        status: StatusCode::ACCEPTED.as_u16(),
        location: Some(format!("/api/scheduled/{}", shown.scheduled.id.0)),
        body: serde_json::to_vec(&ScheduledBody::new(shown)).map_err(Error::internal)?,
    })
}

/// The caller's messages that wait for their time, by id.
#[utoipa::path(
    get,
    path = "/api/scheduled",
    tag = "messages",
    params(
        ("limit" = Option<u32>, Query, description = "Entries of the page; 50 when it is absent.", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "Where the page begins: taken from a Link header as it is."),
    ),
    responses((status = 200, description = "The messages. `Link` names the next page while there is one.", body = Vec<ScheduledBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/scheduled?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_scheduled(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    uri: Uri,
    mut query: Query,
) -> Result<Response, Problem> {
    let (limit, cursor) = (query.limit(), query.text("cursor"));
    query.finish()?;
    let page = scheduled::list(&state.app, &principal, limit, cursor.as_deref()).await?;
    let bodies: Vec<ScheduledBody<'_>> = page.entries.iter().map(ScheduledBody::new).collect();
    Ok(list(to_json(&bodies, 400 * bodies.len())?, uri.path(), next_page(page.next, limit, [])))
}

/// One of the caller's messages that wait for their time.
#[utoipa::path(
    get,
    path = "/api/scheduled/{id}",
    tag = "messages",
    params(("id" = i64, Path, description = "Which.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)),
    responses(
        (status = 200, description = "The message.", body = ScheduledBody<'_>, headers(("ETag" = String, description = "Of this answer."))),
        (status = 304, description = "`If-None-Match` names this answer."),
    ),
)]
pub async fn get_scheduled(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    headers: HeaderMap,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    let shown = scheduled::get(&state.app, &principal, path.number(0)).await?;
    resource(&headers, &ScheduledBody::new(&shown))
}

/// Takes a message back before its time.
#[utoipa::path(
    delete,
    path = "/api/scheduled/{id}",
    tag = "messages",
    params(("id" = i64, Path, description = "Which.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)),
    responses((status = 204, description = "It will not be sent.")),
)]
pub async fn cancel_scheduled(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    scheduled::cancel(&state.app, &principal, path.number(0)).await?;
    Ok(no_content())
}
