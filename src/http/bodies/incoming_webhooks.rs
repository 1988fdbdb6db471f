//! Incoming webhooks as callers see them.

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
    /// Null once they were erased.
    #[schema(example = "rdibari")]
    created_by_user_name: Option<&'a str>,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    /// Where programs write to, once, in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        nullable = false,
        example = "https://chat.example.org/api/hooks/phh_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
    )]
    url: Option<&'a str>,
}

impl<'a> IncomingWebhookBody<'a> {
    /// An incoming webhook, with its address where it is made.
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
