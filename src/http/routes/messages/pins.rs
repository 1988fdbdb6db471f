//! `/api/conversations/{id}/pins`: pinned messages.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use crate::domain::messages::pins;
use crate::http::access::policy::{Reader, Writer};
use crate::http::bodies::answers::{list, next_page, no_content};
use crate::http::bodies::extract::{Path, Query};
use crate::http::bodies::messages::{MessageBody, join_messages};
use crate::http::bodies::parameters::{ConversationPath, MessagePath, PageQuery};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// Pin a message
///
/// In a group, only admins and owners can pin messages. In a direct conversation, both users can.
#[utoipa::path(
    put,
    path = "/api/conversations/{id}/messages/{seq}/pin",
    tag = "reactions",
    params(MessagePath),
    responses(
        (status = 204, description = "Pinned."),
        (status = 409, description = "`message_deleted`, `too_many_pins`."),
    ),
)]
pub async fn pin_message(
    State(state): State<HttpState>,
    Writer(principal): Writer,
    Path(path): Path<MessagePath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    pins::set(&state.app, &principal, path.id, path.seq, true).await?;
    Ok(no_content())
}

/// Unpin a message
///
/// The users who can pin a message can also unpin it.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}/messages/{seq}/pin",
    tag = "reactions",
    params(MessagePath),
    responses((status = 204, description = "Unpinned.")),
)]
pub async fn unpin_message(
    State(state): State<HttpState>,
    Writer(principal): Writer,
    Path(path): Path<MessagePath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    pins::set(&state.app, &principal, path.id, path.seq, false).await?;
    Ok(no_content())
}

/// List the pinned messages of a conversation
///
/// Ordered from the latest pin to the earliest.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/pins",
    tag = "reactions",
    params(ConversationPath, PageQuery),
    responses((status = 200, description = "The messages. `Link` has the path of the next page, if there is one.", body = Vec<MessageBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/conversations/…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_pins(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    Path(path): Path<ConversationPath>,
    Query(PageQuery { limit, cursor }): Query<PageQuery>,
) -> Result<Response, Problem> {
    let (page, names) = pins::list(&state.app, &principal, path.id, limit, cursor.as_deref()).await?;
    Ok(list(join_messages(&page.entries, &names)?, uri.path(), next_page(page.next, limit, [])))
}
