//! `/api/conversations/{id}/messages/{seq}/replies`.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use crate::domain::threads;
use crate::http::answers::{list, next_page};
use crate::http::bodies_messages::{MessageBody, join_messages};
use crate::http::extract::{PathSegments, Query};
use crate::http::policy::Reader;
use crate::http::problem::Problem;
use crate::http::state::HttpState;

/// The messages that answer one, by `seq`.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/messages/{seq}/replies",
    tag = "conversations",
    params(
        ("id" = i64, Path, description = "The conversation.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1),
        ("seq" = i64, Path, description = "The message's place in it.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1),
        ("limit" = Option<u32>, Query, description = "Entries of the page; 50 when it is absent.", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "Where the page begins: taken from a Link header as it is."),
    ),
    responses((status = 200, description = "The messages, tombstones left out. `Link` names the next page while there is one.", body = Vec<MessageBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/conversations/…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_replies(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    path: PathSegments,
    mut query: Query,
) -> Result<Response, Problem> {
    let (limit, cursor) = (query.limit(), query.text("cursor"));
    query.finish()?;
    let (conversation, seq) = (path.number(0), path.number(1));
    let (page, names) = threads::list(&state.app, &principal, conversation, seq, limit, cursor.as_deref()).await?;
    Ok(list(join_messages(&page.entries, &names)?, uri.path(), next_page(page.next, limit, [])))
}
