//! `/api/scheduled`: messages that wait for their time.

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;

use crate::domain::scheduled::{self};
use crate::http::answers::{list, next_page, no_content, resource, to_json};
use crate::http::bodies_scheduled::ScheduledBody;
use crate::http::extract::{PathSegments, Query};
use crate::http::policy::{PersonReading, PersonWriting};
use crate::http::problem::Problem;
use crate::http::state::HttpState;

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
