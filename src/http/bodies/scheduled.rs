//! Scheduled messages as callers see them.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::base::error::{Error, Result as DomainResult};
use crate::base::time::Timestamp;
use crate::domain::sending::scheduled::Shown;
use crate::domain::shared::idempotency::StoredAnswer;

/// A message that waits for its time, or was refused when it came.
#[derive(Serialize, ToSchema)]
#[schema(as = Scheduled)]
pub struct ScheduledBody<'a> {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    /// Null when the sender was erased.
    #[schema(example = "rdibari")]
    sender_user_name: Option<&'a str>,
    /// Null where a conversation is named.
    #[schema(example = "bugs")]
    recipient_user_name: Option<&'a str>,
    #[schema(minimum = 1)]
    conversation_id: Option<i64>,
    #[schema(example = "happy new year")]
    body: &'a str,
    #[schema(minimum = 1)]
    reply_to: Option<i64>,
    /// When the server accepted it.
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    /// When it is to be sent.
    #[schema(value_type = String, format = DateTime, example = "2027-01-01T00:00:00.000000Z")]
    send_at: Timestamp,
    /// When it was tried and refused. It is not tried again.
    #[schema(value_type = Option<String>, format = DateTime)]
    failed_at: Option<Timestamp>,
    /// Why, as the code that sending it would have been answered with.
    #[schema(example = "not_friends")]
    failure: Option<&'a str>,
}

impl<'a> ScheduledBody<'a> {
    /// A scheduled message with the names of its people.
    pub fn new(shown: &'a Shown) -> Self {
        let scheduled = &shown.scheduled;
        let name = |id| shown.names.get(&id).map(String::as_str);
        Self {
            id: scheduled.id.0,
            sender_user_name: name(scheduled.sender_id),
            recipient_user_name: scheduled.recipient_id.and_then(name),
            conversation_id: scheduled.conversation_id.map(|id| id.0),
            body: &scheduled.body,
            reply_to: scheduled.reply_to,
            created_at: scheduled.created_at,
            send_at: scheduled.send_at,
            failed_at: scheduled.failed_at,
            failure: scheduled.failure.as_deref(),
        }
    }
}

/// The answer to a send for later.
pub fn render_accepted(shown: &Shown) -> DomainResult<StoredAnswer> {
    Ok(StoredAnswer {
        status: StatusCode::ACCEPTED.as_u16(),
        location: Some(format!("/api/scheduled/{}", shown.scheduled.id.0)),
        body: serde_json::to_vec(&ScheduledBody::new(shown)).map_err(Error::internal)?,
    })
}
