//! The JSON form of incoming webhooks.

use serde::Serialize;
use utoipa::ToSchema;

use crate::base::time::Timestamp;
use crate::domain::conversations::incoming_webhooks::IncomingWebhook;

/// An incoming webhook of a group.
#[derive(Serialize, ToSchema)]
#[schema(as = IncomingWebhook)]
pub struct IncomingWebhookBody<'a> {
    #[schema(minimum = 1, example = 1)]
    id: i64,
    #[schema(example = "CI")]
    name: &'a str,
    #[schema(minimum = 1, example = 1)]
    conversation_id: i64,
    /// The user who created it. Null after they were erased.
    #[schema(example = "rdibari")]
    created_by_user_name: Option<&'a str>,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    /// The address at which programs post messages. It is shown only once, in the answer to its creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        nullable = false,
        example = "https://chat.example.org/api/hooks/phh_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
    )]
    url: Option<&'a str>,
}

impl<'a> IncomingWebhookBody<'a> {
    /// The JSON form of an incoming webhook. `url` is given only when it is created.
    pub fn new(found: &'a IncomingWebhook, url: Option<&'a str>) -> Self {
        Self {
            id: found.id.0,
            name: &found.name,
            conversation_id: found.conversation_id.0,
            created_by_user_name: found.created_by_user_name.as_deref(),
            created_at: found.created_at,
            url,
        }
    }
}
