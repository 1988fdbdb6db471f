//! `/api/conversations`.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::messages::MessageBody;
use super::resource;
use crate::domain::messages;
use crate::http::HttpState;
use crate::http::extract::{PathSegments, Query};
use crate::http::policy::Reader;
use crate::http::problem::Problem;

/// One message.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/messages/{seq}",
    tag = "conversations",
    params(
        ("id" = i64, Path, description = "The conversation.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1),
        ("seq" = i64, Path, description = "The message's place in it.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1),
    ),
    responses(
        (status = 200, description = "The message.", body = MessageBody<'_>, headers(("ETag" = String, description = "Of this answer."))),
        (status = 304, description = "`If-None-Match` names this answer."),
    ),
)]
pub async fn get_conversation_message(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    headers: HeaderMap,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    let (message, names) = messages::get(&state.app, &principal, path.number(0), path.number(1)).await?;
    resource(&headers, &MessageBody::named(&message, &names))
}
