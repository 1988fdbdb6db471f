//! `/api/conversations/{id}/messages/{seq}/replies`: the thread of a message.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use crate::domain::messages::threads;
use crate::http::access::policy::Reader;
use crate::http::bodies::answers::{list, next_page};
use crate::http::bodies::extract::{Path, Query};
use crate::http::bodies::messages::{MessageBody, join_messages};
use crate::http::bodies::parameters::{MessagePath, PageQuery};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// List the replies to a message
///
/// Ordered by `seq`.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/messages/{seq}/replies",
    tag = "messages",
    params(MessagePath, PageQuery),
    responses((status = 200, description = "The replies without tombstones. `Link` has the path of the next page, if there is one.", body = Vec<MessageBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/conversations/…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_replies(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    Path(path): Path<MessagePath>,
    Query(PageQuery { limit, cursor }): Query<PageQuery>,
) -> Result<Response, Problem> {
    let (conversation, seq) = (path.id, path.seq);
    let (page, names) = threads::list(&state.app, &principal, conversation, seq, limit, cursor.as_deref()).await?;
    Ok(list(join_messages(&page.entries, &names)?, uri.path(), next_page(page.next, limit, [])))
}
