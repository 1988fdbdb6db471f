//! `/api/conversations/{id}/messages/{seq}/forward`.

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

/// Where a message is to be said again.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"conversation_id": 2}))]
pub struct Forward {
    /// A conversation that the caller is in.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    conversation_id: i64,
}

/// Sends what a message says into another conversation, as the caller's own message.
#[utoipa::path(
    post,
    path = "/api/conversations/{id}/messages/{seq}/forward",
    tag = "conversations",
    params(MessagePath, IdempotencyKeyHeader),
    request_body = Forward,
    responses(
        (status = 201, description = "Sent.", body = MessageBody<'_>, headers(
            ("Location" = String, description = "Where the message is: `/api/conversations/{id}/messages/{seq}`."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` on the answer to a repeat."),
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
