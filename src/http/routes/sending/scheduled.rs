//! `/api/scheduled`: scheduled messages.

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::domain::sending::scheduled;
use crate::http::access::policy::{PersonReading, PersonWriting};
use crate::http::bodies::answers::{RESOURCE_BYTES, list, next_page, no_content, resource, to_json};
use crate::http::bodies::conditions::precondition;
use crate::http::bodies::extract::{Path, Query};
use crate::http::bodies::parameters::{IdSchema, PageQuery, PreconditionHeaders};
use crate::http::bodies::problem::Problem;
use crate::http::bodies::scheduled::ScheduledBody;
use crate::http::state::HttpState;

/// List the caller's scheduled messages
///
/// Ordered by id. Includes messages whose send has failed.
#[utoipa::path(
    get,
    path = "/api/scheduled",
    tag = "messages",
    params(PageQuery),
    responses((status = 200, description = "The messages. `Link` has the path of the next page, if there is one.", body = Vec<ScheduledBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/scheduled?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_scheduled(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    uri: Uri,
    Query(PageQuery { limit, cursor }): Query<PageQuery>,
) -> Result<Response, Problem> {
    let page = scheduled::list(&state.app, &principal, limit, cursor.as_deref()).await?;
    let bodies: Vec<ScheduledBody<'_>> = page.entries.iter().map(ScheduledBody::new).collect();
    Ok(list(to_json(&bodies, 400 * bodies.len())?, uri.path(), next_page(page.next, limit, [])))
}

/// Path parameter of a route about one scheduled message.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ScheduledPath {
    /// The id of the scheduled message.
    #[param(value_type = IdSchema, inline, example = 1)]
    id: i64,
}

/// Get a scheduled message
///
/// Only its sender sees it. Once the message is sent, it is read in its conversation.
#[utoipa::path(
    get,
    path = "/api/scheduled/{id}",
    tag = "messages",
    params(ScheduledPath),
    responses(
        (status = 200, description = "The message.", body = ScheduledBody<'_>, headers(("ETag" = String, description = "The entity tag of this answer."))),
        (status = 304, description = "Not modified: the answer still has the entity tag in `If-None-Match`."),
    ),
)]
pub async fn get_scheduled(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    Path(path): Path<ScheduledPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let shown = scheduled::get(&state.app, &principal, path.id).await?;
    resource(&ScheduledBody::new(&shown))
}

/// Cancel a scheduled message
///
/// The message is not sent. A message that was already sent cannot be cancelled.
#[utoipa::path(
    delete,
    path = "/api/scheduled/{id}",
    tag = "messages",
    params(ScheduledPath, PreconditionHeaders),
    responses(
        (status = 204, description = "Cancelled. The message will not be sent."),
        (status = 412, description = "`precondition_failed`: the object has another entity tag than `If-Match` allows."),
    ),
)]
pub async fn cancel_scheduled(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    headers: HeaderMap,
    Path(path): Path<ScheduledPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let unchanged = precondition(&headers, |shown| to_json(&ScheduledBody::new(shown), RESOURCE_BYTES));
    scheduled::cancel(&state.app, &principal, path.id, unchanged).await?;
    Ok(no_content())
}
