//! `/api/conversations/{id}/pins`, and pinning.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use crate::domain::pins;
use crate::http::answers::{list, next_page, no_content};
use crate::http::bodies_messages::{MessageBody, join_messages};
use crate::http::extract::{PathSegments, Query};
use crate::http::policy::{Reader, Writer};
use crate::http::problem::Problem;
use crate::http::state::HttpState;

/// Pins a message: in a group by an admin or owner, in a direct conversation by either one.
#[utoipa::path(
    put,
    path = "/api/conversations/{id}/messages/{seq}/pin",
    tag = "conversations",
    params(
        ("id" = i64, Path, description = "The conversation.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1),
        ("seq" = i64, Path, description = "The message's place in it.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1),
    ),
    responses(
        (status = 204, description = "Pinned."),
        (status = 409, description = "`message_deleted`, `too_many_pins`."),
    ),
)]
pub async fn pin_message(
    State(state): State<HttpState>,
    Writer(principal): Writer,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    pins::set(&state.app, &principal, path.number(0), path.number(1), true).await?;
    Ok(no_content())
}

/// Takes a message's pin away: by whoever may pin it.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}/messages/{seq}/pin",
    tag = "conversations",
    params(
        ("id" = i64, Path, description = "The conversation.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1),
        ("seq" = i64, Path, description = "The message's place in it.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1),
    ),
    responses((status = 204, description = "Not pinned any more.")),
)]
pub async fn unpin_message(
    State(state): State<HttpState>,
    Writer(principal): Writer,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    pins::set(&state.app, &principal, path.number(0), path.number(1), false).await?;
    Ok(no_content())
}

/// A conversation's pinned messages, the latest pin first.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/pins",
    tag = "conversations",
    params(
        ("id" = i64, Path, description = "The conversation.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1),
        ("limit" = Option<u32>, Query, description = "Entries of the page; 50 when it is absent.", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "Where the page begins: taken from a Link header as it is."),
    ),
    responses((status = 200, description = "The messages. `Link` names the next page while there is one.", body = Vec<MessageBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/conversations/…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_pins(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    path: PathSegments,
    mut query: Query,
) -> Result<Response, Problem> {
    let (limit, cursor) = (query.limit(), query.text("cursor"));
    query.finish()?;
    let (page, names) = pins::list(&state.app, &principal, path.number(0), limit, cursor.as_deref()).await?;
    Ok(list(join_messages(&page.entries, &names)?, uri.path(), next_page(page.next, limit, [])))
}
