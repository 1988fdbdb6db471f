//! `/api/conversations/{id}/receipts`, and who has reached a message.

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

/// Bytes that one entry takes in JSON.
const RECEIPT_BYTES: usize = 140;

/// How far the caller is. At least one field.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"read_seq": 3}))]
pub struct ReceiptReport {
    /// Up to where messages reached the caller. Less than before changes nothing.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    delivered_seq: Option<i64>,
    /// Up to where the caller read; they have reached the caller then as well.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    read_seq: Option<i64>,
    /// The first message that the caller wants to count as unread, for themself alone; null takes that back.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    unread_from: Option<Option<i64>>,
}

/// How far the caller is, and what is left.
#[derive(Serialize, ToSchema)]
pub struct ReceiptState {
    #[schema(minimum = 0, example = 3)]
    delivered_seq: i64,
    #[schema(minimum = 0, example = 3)]
    read_seq: i64,
    #[schema(minimum = 1)]
    unread_from: Option<i64>,
    /// Messages that the caller has not read.
    #[schema(minimum = 0)]
    unread_count: i64,
    /// Those beyond `read_seq` that mention the caller.
    #[schema(minimum = 0)]
    mention_count: i64,
}

/// Says up to where messages reached the caller, and up to where they read. Neither goes back.
#[utoipa::path(
    post,
    path = "/api/conversations/{id}/receipts",
    tag = "conversations",
    params(ConversationPath),
    request_body = ReceiptReport,
    responses((status = 200, description = "How far the caller is now.", body = ReceiptState)),
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

/// Who has reached a message, and when.
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

/// Who has reached a message, by id: members who were there when it was sent, its sender aside.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/messages/{seq}/receipts",
    tag = "conversations",
    params(MessagePath, PageQuery),
    responses((status = 200, description = "The members. `Link` names the next page while there is one.", body = Vec<ReceiptBody<'_>>, headers(
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
