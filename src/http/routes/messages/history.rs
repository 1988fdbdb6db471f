//! `/api/conversations/{id}/messages`: reading, editing and deleting messages. `/api/messages/by-id/{id}`: reading one by its id.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::base::time::Timestamp;
use crate::domain::identity::names::Names;
use crate::domain::messages::edits;
use crate::domain::messages::history::{self, Listing, Next};
use crate::domain::messages::messages::{self, Message};
use crate::domain::shared::pagination::Limit;
use crate::domain::shared::precondition::Precondition;
use crate::http::access::policy::{PersonWriting, Reader, Writer};
use crate::http::bodies::answers::{json, list, no_content, resource};
use crate::http::bodies::conditions::precondition;
use crate::http::bodies::extract::{JsonBody, Path, Query};
use crate::http::bodies::messages::{MessageBody, join, render};
use crate::http::bodies::parameters::{
    ConversationPath, Date, IdSchema, LimitSchema, MessagePath, PreconditionHeaders, limit,
};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// Get a message
///
/// A deleted message is a tombstone: an empty text with `deleted_at`.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/messages/{seq}",
    tag = "messages",
    params(MessagePath),
    responses(
        (status = 200, description = "The message.", body = MessageBody<'_>, headers(("ETag" = String, description = "The entity tag of this answer."))),
        (status = 304, description = "Not modified: the answer still has the entity tag in `If-None-Match`."),
    ),
)]
pub async fn get_conversation_message(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    Path(path): Path<MessagePath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let (message, names) = messages::get(&state.app, &principal, path.id, path.seq).await?;
    resource(&MessageBody::named(&message, &names))
}

/// Get a message by its id
///
/// The same message as under its conversation, for callers that know only the `id`.
#[utoipa::path(
    get,
    path = "/api/messages/by-id/{id}",
    tag = "messages",
    params(MessageIdPath),
    responses(
        (status = 200, description = "The message.", body = MessageBody<'_>, headers(("ETag" = String, description = "The entity tag of this answer."))),
        (status = 304, description = "Not modified: the answer still has the entity tag in `If-None-Match`."),
    ),
)]
pub async fn get_message_by_id(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    Path(path): Path<MessageIdPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let (message, names) = messages::get_by_id(&state.app, &principal, path.id).await?;
    resource(&MessageBody::named(&message, &names))
}

/// Path parameter of a route about one message of any conversation.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct MessageIdPath {
    /// The `id` of the message.
    #[param(value_type = IdSchema, inline, example = 1)]
    id: i64,
}

/// Which messages of a conversation to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HistoryPlace {
    /// Messages before this `seq`. At most one of `before`, `after`, `around` and `date` is allowed.
    #[param(value_type = Option<IdSchema>, inline)]
    before: Option<i64>,
    /// Messages after this `seq`.
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    after: Option<i64>,
    /// The message with this `seq`, with the same number of messages before and after it.
    #[param(value_type = Option<IdSchema>, inline)]
    around: Option<i64>,
    /// Messages from this date (in UTC) or this time on.
    #[param(value_type = Option<String>, example = "2026-11-22")]
    date: Option<Date>,
    /// The maximum number of entries on the page. 50 if absent.
    #[serde(default, deserialize_with = "limit")]
    #[param(value_type = Option<LimitSchema>, inline)]
    limit: Limit,
}

/// List the messages of a conversation
///
/// Ordered from the oldest to the newest. Without `before`, `after`, `around` and `date`, the page has the newest messages.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/messages",
    tag = "messages",
    params(ConversationPath, HistoryPlace),
    responses(
        (status = 200, description = "The messages, ordered by `seq`. `Link` has the path of the next page, if there is one: the page with older messages, or with newer ones for `after`.", body = Vec<MessageBody<'_>>, headers(
            ("Link" = Option<String>, description = "`</api/conversations/…>; rel=\"next\"`"),
        )),
        (status = 410, description = "`cursor_expired`: the conversation has no message with the `seq` in `after`, because a backup was restored."),
    ),
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

/// Request body for editing a message.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"body": "hey there"}))]
pub struct MessageEdit {
    /// The new text: 1 to 8,000 characters, stored byte for byte. U+0000 is refused.
    #[schema(min_length = 1, max_length = 8000, pattern = r"^[^\u0000]*$")]
    body: String,
}

/// Edit a message
///
/// Only the sender can edit a message. The earlier text is kept and shown to everybody who can see the message.
#[utoipa::path(
    patch,
    path = "/api/conversations/{id}/messages/{seq}",
    tag = "messages",
    params(MessagePath, PreconditionHeaders),
    request_body = MessageEdit,
    responses(
        (status = 200, description = "The edited message.", body = MessageBody<'_>, headers(("ETag" = String, description = "The entity tag of this answer."))),
        (status = 412, description = "`precondition_failed`: the object has another entity tag than `If-Match` allows."),
        (status = 409, description = "`message_deleted`, `too_many_edits`."),
    ),
)]
pub async fn edit_message(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    headers: HeaderMap,
    Path(path): Path<MessagePath>,
    body: JsonBody<MessageEdit>,
) -> Result<Response, Problem> {
    let unchanged = unchanged(&headers);
    let edited = edits::edit(&state.app, &principal, path.id, path.seq, body.value.body, unchanged).await?;
    resource(&MessageBody::named(&edited.0, &edited.1))
}

/// The conditions of a request that changes a message.
fn unchanged(headers: &HeaderMap) -> Precondition<(Message, Names)> {
    precondition(headers, |(message, names)| render(message, names))
}

/// Delete a message
///
/// Senders can delete their own messages. Administrators, and admins and owners of a group, can delete messages of others. A
/// tombstone remains.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}/messages/{seq}",
    tag = "messages",
    params(MessagePath, PreconditionHeaders),
    responses(
        (status = 204, description = "Deleted."),
        (status = 412, description = "`precondition_failed`: the object has another entity tag than `If-Match` allows."),
    ),
)]
pub async fn delete_message(
    State(state): State<HttpState>,
    Writer(principal): Writer,
    headers: HeaderMap,
    Path(path): Path<MessagePath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    edits::delete(&state.app, &principal, path.id, path.seq, unchanged(&headers)).await?;
    Ok(no_content())
}

/// An earlier text of an edited message.
#[derive(Serialize, ToSchema)]
#[schema(as = EarlierText)]
pub struct EditionBody<'a> {
    #[schema(example = "hye")]
    body: &'a str,
    /// The time at which this text was written.
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    at: Timestamp,
}

/// List the earlier texts of a message
///
/// Ordered from the oldest to the newest, at most 100.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/messages/{seq}/history",
    tag = "messages",
    params(MessagePath),
    responses((status = 200, description = "The earlier texts. Empty for a message that was never edited, and for a tombstone.", body = Vec<EditionBody<'_>>)),
)]
pub async fn list_message_history(
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
