//! `/api/conversations/{id}/messages`: what was said, and changing it.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::base::time::Timestamp;
use crate::domain::messages::history::{self, Listing, Next};
use crate::domain::messages::{edits, messages};
use crate::domain::shared::pagination::Limit;
use crate::http::access::policy::{PersonWriting, Reader, Writer};
use crate::http::bodies::answers::{json, list, no_content, resource};
use crate::http::bodies::extract::{JsonBody, Path, Query};
use crate::http::bodies::messages::{MessageBody, join};
use crate::http::bodies::parameters::{ConversationPath, Date, IdSchema, LimitSchema, MessagePath, limit};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// One message.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/messages/{seq}",
    tag = "conversations",
    params(MessagePath),
    responses(
        (status = 200, description = "The message.", body = MessageBody<'_>, headers(("ETag" = String, description = "Of this answer."))),
        (status = 304, description = "`If-None-Match` names this answer."),
    ),
)]
pub async fn get_conversation_message(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    headers: HeaderMap,
    Path(path): Path<MessagePath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let (message, names) = messages::get(&state.app, &principal, path.id, path.seq).await?;
    resource(&headers, &MessageBody::named(&message, &names))
}

/// Which part of a conversation to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HistoryPlace {
    /// What comes before this seq. One place alone may be named.
    #[param(value_type = Option<IdSchema>, inline)]
    before: Option<i64>,
    /// What comes after this seq.
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    after: Option<i64>,
    /// This seq, with as many before as after it.
    #[param(value_type = Option<IdSchema>, inline)]
    around: Option<i64>,
    /// From the first message sent on this date (UTC), or at this time, on.
    #[param(value_type = Option<String>, example = "2026-11-22")]
    date: Option<Date>,
    /// Entries of the page; 50 when it is absent.
    #[serde(default, deserialize_with = "limit")]
    #[param(value_type = Option<LimitSchema>, inline)]
    limit: Limit,
}

/// A page of a conversation, oldest first: the newest messages when no place is named.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/messages",
    tag = "conversations",
    params(ConversationPath, HistoryPlace),
    responses((status = 200, description = "The messages by `seq`. `Link` names the next page while there is one: the older one, or with `after` the newer one.", body = Vec<MessageBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/conversations/…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_conversation_messages(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    Path(path): Path<ConversationPath>,
    Query(query): Query<HistoryPlace>,
) -> Result<Response, Problem> {
    let listing = Listing {
        before: query.before,
        after: query.after,
        around: query.around,
        date: query.date.map(|date| date.begins_at),
    };
    let limit = query.limit;
    let page = history::list(&state.app, &principal, path.id, listing, limit).await?;
    let next = page.next.map(|next| {
        let place = match next {
            Next::Before(seq) => ("before", seq.to_string()),
            Next::After(seq) => ("after", seq.to_string()),
        };
        vec![place, ("limit", limit.get().to_string())]
    });
    Ok(list(join(&page.messages), uri.path(), next))
}

/// Another body for a message.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"body": "hey there"}))]
pub struct MessageEdit {
    /// 1 to 8,000 characters, kept byte for byte. U+0000 is refused.
    #[schema(min_length = 1, max_length = 8000, pattern = r"^[^\u0000]*$")]
    body: String,
}

/// Edits a message of the caller's own. What it said before is kept, for everyone who can see it.
#[utoipa::path(
    patch,
    path = "/api/conversations/{id}/messages/{seq}",
    tag = "conversations",
    params(MessagePath),
    request_body = MessageEdit,
    responses(
        (status = 200, description = "The message as it is now.", body = MessageBody<'_>),
        (status = 409, description = "`message_deleted`, `too_many_edits`."),
    ),
)]
pub async fn edit_message(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<MessagePath>,
    body: JsonBody<MessageEdit>,
) -> Result<Response, Problem> {
    let edited = edits::edit(&state.app, &principal, path.id, path.seq, body.value.body).await?;
    json(StatusCode::OK, &MessageBody::named(&edited.0, &edited.1))
}

/// Deletes a message: one's own, or any as an administrator. A tombstone stays in its place.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}/messages/{seq}",
    tag = "conversations",
    params(MessagePath),
    responses((status = 204, description = "Deleted.")),
)]
pub async fn delete_message(
    State(state): State<HttpState>,
    Writer(principal): Writer,
    Path(path): Path<MessagePath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    edits::delete(&state.app, &principal, path.id, path.seq).await?;
    Ok(no_content())
}

/// A body that a message had.
#[derive(Serialize, ToSchema)]
#[schema(as = Edition)]
pub struct EditionBody<'a> {
    #[schema(example = "hye")]
    body: &'a str,
    /// When it was written.
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    at: Timestamp,
}

/// What a message said before it was edited, oldest first; at most 100 bodies.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/messages/{seq}/history",
    tag = "conversations",
    params(MessagePath),
    responses((status = 200, description = "The earlier bodies; empty for a message that was never edited, and for a tombstone.", body = Vec<EditionBody<'_>>)),
)]
pub async fn list_editions(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    Path(path): Path<MessagePath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let editions = edits::list(&state.app, &principal, path.id, path.seq).await?;
    let bodies: Vec<EditionBody<'_>> =
        editions.iter().map(|edition| EditionBody { body: &edition.body, at: edition.at }).collect();
    json(StatusCode::OK, &bodies)
}
