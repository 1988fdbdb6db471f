//! The JSON form of scheduled messages.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::base::error::{Error, Result as DomainResult};
use crate::base::time::Timestamp;
use crate::domain::sending::scheduled::Shown;
use crate::domain::shared::idempotency::StoredAnswer;

/// A scheduled message that waits for its time, or whose send has failed.
#[derive(Serialize, ToSchema)]
#[schema(as = Scheduled)]
pub struct ScheduledBody<'a> {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    /// Null after the sender was erased.
    #[schema(example = "rdibari")]
    sender_user_name: Option<&'a str>,
    /// The recipient. Null if the message goes to `conversation_id`.
    #[schema(example = "bugs")]
    recipient_user_name: Option<&'a str>,
    #[schema(minimum = 1)]
    conversation_id: Option<i64>,
    #[schema(example = "happy new year")]
    body: &'a str,
    #[schema(minimum = 1)]
    reply_to: Option<i64>,
    /// The ids of the attachments.
    attachment_ids: &'a [i64],
    /// False if the sender wants no preview of a link.
    link_preview: bool,
    /// The time at which the server accepted the message.
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    /// The time at which the message is sent.
    #[schema(value_type = String, format = DateTime, example = "2027-01-01T00:00:00.000000Z")]
    send_at: Timestamp,
    /// The time at which the send failed. Null while the message waits. A failed send is not repeated.
    #[schema(value_type = Option<String>, format = DateTime)]
    failed_at: Option<Timestamp>,
    /// The error code of the failed send. Null while the message waits.
    #[schema(example = "not_friends")]
    failure: Option<&'a str>,
}

impl<'a> ScheduledBody<'a> {
    /// The JSON form of a scheduled message.
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
            attachment_ids: &scheduled.attachment_ids.0,
            link_preview: !scheduled.link_preview_declined,
            created_at: scheduled.created_at,
            send_at: scheduled.send_at,
            failed_at: scheduled.failed_at,
            failure: scheduled.failure.as_deref(),
        }
    }
}

/// Renders the answer to a send with `send_at`.
pub fn render_accepted(shown: &Shown) -> DomainResult<StoredAnswer> {
    Ok(StoredAnswer {
        status: StatusCode::ACCEPTED.as_u16(),
        location: Some(format!("/api/scheduled/{}", shown.scheduled.id.0)),
        body: serde_json::to_vec(&ScheduledBody::new(shown)).map_err(Error::internal)?,
    })
}
