//! `/api/conversations/{id}/messages/{seq}/forward`: forwarding a message.

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::domain::messages::forwards;
use crate::domain::shared::idempotency::Once;
use crate::http::access::policy::PersonWriting;
use crate::http::bodies::answers::given;
use crate::http::bodies::extract::{JsonBody, Path, idempotency_key};
use crate::http::bodies::messages::{MessageBody, render_sent};
use crate::http::bodies::parameters::{IdempotencyKeyHeader, MessagePath};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// Request body for forwarding a message.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"conversation_id": 1}))]
pub struct Forward {
    /// The target: a conversation of the caller.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    conversation_id: i64,
}

/// Forward a message
///
/// Sends the text of a message to another conversation as a message of the caller.
#[utoipa::path(
    post,
    path = "/api/conversations/{id}/messages/{seq}/forward",
    tag = "messages",
    params(MessagePath, IdempotencyKeyHeader),
    request_body = Forward,
    responses(
        (status = 201, description = "Sent.", body = MessageBody<'_>, headers(
            ("Location" = String, description = "The path of the new message: `/api/conversations/{id}/messages/{seq}`."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this is the stored answer to an earlier request with the same key."),
        )),
        (status = 409, description = "`message_deleted`, `not_forwardable`."),
    ),
)]
pub async fn forward_message(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    uri: Uri,
    headers: HeaderMap,
    Path(path): Path<MessagePath>,
    body: JsonBody<Forward>,
) -> Result<Response, Problem> {
    let request = idempotency_key(&state.app, &headers, &principal, uri.path(), &body.bytes)?;
    let once = Once { request, render: render_sent, sealed: false };
    let (conversation, seq, into) = (path.id, path.seq, body.value.conversation_id);
    Ok(given(forwards::forward(&state.app, &principal, conversation, seq, into, once).await?))
}
