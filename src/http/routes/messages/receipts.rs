//! `/api/conversations/{id}/receipts`: reporting receipts, and the receipts of a message.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::time::Timestamp;
use crate::domain::messages::receipts;
use crate::domain::messages::watermarks::Report;
use crate::http::access::policy::{PersonWriting, Reader};
use crate::http::bodies::answers::{json, list, next_page, present, to_json};
use crate::http::bodies::extract::{JsonBody, Path, Query};
use crate::http::bodies::parameters::{ConversationPath, MessagePath, PageQuery};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// The usual size of an entry in JSON, in bytes.
const RECEIPT_BYTES: usize = 140;

/// Request body for reporting receipts. Give at least one field.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"read_seq": 1}))]
pub struct ReceiptReport {
    /// The `seq` up to which messages were delivered to the caller. A smaller number than before has no effect.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    delivered_seq: Option<i64>,
    /// The `seq` up to which the caller has read. These messages count as delivered too.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    read_seq: Option<i64>,
    /// The `seq` of the first message that the caller wants to mark as unread. Other members do not see this. Null removes the
    /// mark.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    unread_from: Option<Option<i64>>,
}

/// The watermarks of the caller and the numbers of unread messages.
#[derive(Serialize, ToSchema)]
pub struct ReceiptState {
    #[schema(minimum = 0, example = 3)]
    delivered_seq: i64,
    #[schema(minimum = 0, example = 3)]
    read_seq: i64,
    #[schema(minimum = 1)]
    unread_from: Option<i64>,
    /// The number of messages that the caller has not read. System messages are not counted.
    #[schema(minimum = 0)]
    unread_count: i64,
    /// The number of messages that the caller has not read and that mention the caller.
    #[schema(minimum = 0)]
    mention_count: i64,
}

/// Report receipts
///
/// Raises the caller's watermarks: the `seq` up to which messages were delivered, and up to which they were read. A watermark
/// never decreases.
#[utoipa::path(
    post,
    path = "/api/conversations/{id}/receipts",
    tag = "receipts",
    params(ConversationPath),
    request_body = ReceiptReport,
    responses((status = 200, description = "The watermarks after the report.", body = ReceiptState)),
)]
pub async fn report_receipts(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<ConversationPath>,
    body: JsonBody<ReceiptReport>,
) -> Result<Response, Problem> {
    let ReceiptReport { delivered_seq, read_seq, unread_from } = body.value;
    let report = Report { delivered_seq, read_seq, unread_from };
    let standing = receipts::report(&state.app, &principal, path.id, report).await?;
    let body = ReceiptState {
        delivered_seq: standing.watermarks.delivered_seq,
        read_seq: standing.watermarks.read_seq,
        unread_from: standing.watermarks.unread_from,
        unread_count: standing.unread_count,
        mention_count: standing.mention_count,
    };
    json(StatusCode::OK, &body)
}

/// The receipts of one member for a message.
#[derive(Serialize, ToSchema)]
#[schema(as = Receipt)]
pub struct ReceiptBody<'a> {
    #[schema(example = "bugs")]
    user_name: &'a str,
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    delivered_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    read_at: Option<Timestamp>,
}

/// List the receipts of a message
///
/// Has the members who were in the conversation when the message was sent, without its sender, ordered by user id.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/messages/{seq}/receipts",
    tag = "receipts",
    params(MessagePath, PageQuery),
    responses((status = 200, description = "The members. `Link` has the path of the next page, if there is one.", body = Vec<ReceiptBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/conversations/…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_receipts(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    Path(path): Path<MessagePath>,
    Query(PageQuery { limit, cursor }): Query<PageQuery>,
) -> Result<Response, Problem> {
    let page = receipts::list(&state.app, &principal, path.id, path.seq, limit, cursor.as_deref()).await?;
    let bodies: Vec<ReceiptBody<'_>> = page
        .entries
        .iter()
        .map(|receipt| ReceiptBody {
            user_name: &receipt.user_name,
            delivered_at: receipt.delivered_at,
            read_at: receipt.read_at,
        })
        .collect();
    Ok(list(to_json(&bodies, RECEIPT_BYTES * bodies.len())?, uri.path(), next_page(page.next, limit, [])))
}
