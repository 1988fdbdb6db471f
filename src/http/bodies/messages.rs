//! Messages as callers see them.

use std::borrow::Cow;

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::answers::to_json;
use super::problem::Problem;
use crate::base::error::Result;
use crate::base::time::Timestamp;
use crate::domain::conversations::system_messages;
use crate::domain::identity::names::Names;
use crate::domain::messages::messages::Message;
use crate::domain::messages::reactions::Tally;
use crate::domain::messages::tails::Rendered;
use crate::domain::sending::drafts::Sent;
use crate::domain::shared::idempotency::StoredAnswer;

/// Bytes that one message takes in JSON, beside its body.
const MESSAGE_BYTES: usize = 520;

/// A message.
#[derive(Serialize, ToSchema)]
#[schema(as = Message)]
pub struct MessageBody<'a> {
    /// In the whole server.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    conversation_id: i64,
    /// 1, 2, 3 … without a gap inside the conversation.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    seq: i64,
    #[schema(inline, value_type = MessageKind)]
    kind: &'static str,
    #[schema(minimum = 1, example = 1)]
    sender_id: i64,
    /// Null when the sender was erased.
    #[schema(example = "rdibari")]
    sender_user_name: Option<&'a str>,
    /// Null in a group.
    #[schema(minimum = 1, example = 2)]
    recipient_id: Option<i64>,
    /// Null in a group, and when the recipient was erased.
    #[schema(example = "bugs")]
    recipient_user_name: Option<&'a str>,
    /// Byte for byte what was sent.
    #[schema(example = "Hey, whats up?", max_length = 8000)]
    #[schema(value_type = String)]
    body: Cow<'a, str>,
    /// When the server accepted it.
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    /// When it entered the conversation.
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    timestamp_sent: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    timestamp_delivered: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    timestamp_read: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    edited_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    deleted_at: Option<Timestamp>,
    /// The seq of the message that this one answers.
    #[schema(minimum = 1)]
    reply_to: Option<i64>,
    thread: Option<Thread>,
    /// Names of the members who are mentioned.
    mentions: Vec<&'a str>,
    reactions: Vec<Reaction<'a>>,
    attachments: Vec<Attachment<'a>>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pinned_at: Option<Timestamp>,
}

/// What sort of message.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// Written by a person.
    Text,
    /// Written by the server.
    System,
}

/// What answers a message.
#[derive(Serialize, ToSchema)]
pub struct Thread {
    /// How many answers.
    reply_count: i64,
    /// When the last one was sent.
    #[schema(value_type = String, format = DateTime)]
    last_reply_at: Timestamp,
}

impl Thread {
    fn of(message: &Message) -> Option<Self> {
        let reply_count = message.decorations.reply_count;
        message.decorations.last_reply_at.map(|last_reply_at| Self { reply_count, last_reply_at })
    }
}

/// One emoji under a message.
#[derive(Serialize, ToSchema)]
pub struct Reaction<'a> {
    #[schema(example = "👍")]
    emoji: &'a str,
    /// How many people put it there.
    #[schema(minimum = 1, example = 1)]
    count: i64,
    /// Whether the caller is among them; absent in events, which are the same for everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    me: Option<bool>,
}

impl<'a> Reaction<'a> {
    /// An emoji with its count.
    pub fn new(tally: &'a Tally) -> Self {
        Self { emoji: &tally.emoji, count: tally.count, me: Some(tally.me) }
    }
}

/// A file in a message.
#[derive(Serialize, ToSchema)]
pub struct Attachment<'a> {
    id: i64,
    url: &'a str,
    thumbnail_url: Option<&'a str>,
    content_type: &'a str,
    file_name: Option<&'a str>,
    size_bytes: i64,
    width: Option<i64>,
    height: Option<i64>,
    blurhash: Option<&'a str>,
    duration_ms: Option<i64>,
}

impl<'a> MessageBody<'a> {
    /// A message with the names of the people in it.
    pub fn new(
        message: &'a Message,
        sender_user_name: Option<&'a str>,
        recipient_user_name: Option<&'a str>,
        mentions: Vec<&'a str>,
    ) -> Self {
        Self {
            id: message.id.0,
            conversation_id: message.conversation_id.0,
            seq: message.seq,
            kind: message.kind.as_str(),
            sender_id: message.sender_id.0,
            sender_user_name,
            recipient_id: message.recipient_id.map(|id| id.0),
            recipient_user_name,
            body: Cow::Borrowed(&message.body),
            created_at: message.created_at,
            timestamp_sent: message.timestamp_sent,
            timestamp_delivered: message.timestamp_delivered,
            timestamp_read: message.timestamp_read,
            edited_at: message.edited_at,
            deleted_at: message.deleted_at,
            reply_to: message.reply_to,
            thread: Thread::of(message),
            mentions,
            reactions: message.decorations.reactions.iter().map(Reaction::new).collect(),
            attachments: Vec::new(),
            pinned_at: message.decorations.pinned_at,
        }
    }

    /// As it is told to everybody at once.
    #[must_use]
    pub fn for_everybody(mut self) -> Self {
        for reaction in &mut self.reactions {
            reaction.me = None;
        }
        self
    }

    /// A message whose people are looked up in `names`.
    pub fn named(message: &'a Message, names: &'a Names) -> Self {
        let name = |id| names.get(&id).map(String::as_str);
        let mentions = message.mentions.iter().copied().filter_map(name).collect();
        let body = Self::new(message, name(message.sender_id), message.recipient_id.and_then(name), mentions);
        match message.action {
            Some(action) if message.deleted_at.is_none() => {
                Self { body: Cow::Owned(system_messages::text(action, message, names)), ..body }
            }
            _ => body,
        }
    }
}

/// A message that was sent now.
///
/// # Errors
/// When it cannot be rendered, which would be a fault of ours.
pub fn render_sent(sent: &Sent) -> Result<StoredAnswer> {
    let message = &sent.message;
    let mentions = sent.mentioned_user_names.iter().map(String::as_str).collect();
    let recipient = sent.recipient_user_name.as_deref();
    let body = MessageBody::new(message, Some(&sent.sender_user_name), recipient, mentions);
    Ok(StoredAnswer {
        status: StatusCode::CREATED.as_u16(),
        location: Some(format!("/api/conversations/{}/messages/{}", message.conversation_id.0, message.seq)),
        body: to_json(&body, MESSAGE_BYTES + message.body.len())?,
    })
}

/// A message as it is kept and answered.
///
/// # Errors
/// When it cannot be rendered, which would be a fault of ours.
pub fn render(message: &Message, names: &Names) -> Result<Vec<u8>> {
    to_json(&MessageBody::named(message, names), MESSAGE_BYTES + message.body.len())
}

/// A JSON array of messages.
///
/// # Errors
/// None that could be foreseen.
pub fn join_messages(messages: &[Message], names: &Names) -> Result<Vec<u8>, Problem> {
    let bodies: Vec<MessageBody<'_>> = messages.iter().map(|message| MessageBody::named(message, names)).collect();
    let size = messages.iter().map(|message| MESSAGE_BYTES + message.body.len()).sum();
    Ok(to_json(&bodies, size)?)
}

/// A JSON array of rendered messages.
pub fn join(messages: &[Rendered]) -> Vec<u8> {
    let mut array = Vec::with_capacity(messages.iter().map(|message| message.text.len() + 1).sum::<usize>() + 2);
    array.push(b'[');
    for (index, message) in messages.iter().enumerate() {
        if index > 0 {
            array.push(b',');
        }
        array.extend_from_slice(&message.text);
    }
    array.push(b']');
    array
}
