//! The JSON form of messages.

use std::borrow::Cow;

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::answers::to_json;
use super::attachments::AttachmentBody;
use super::emoji;
use super::problem::Problem;
use crate::base::error::Result;
use crate::base::time::Timestamp;
use crate::domain::conversations::system_messages;
use crate::domain::identity::names::Names;
use crate::domain::messages::messages::{Message, Preview};
use crate::domain::messages::reactions::{NamedEmoji, Tally};
use crate::domain::messages::tails::Rendered;
use crate::domain::sending::drafts::Sent;
use crate::domain::shared::idempotency::StoredAnswer;

/// The usual size of a message in JSON without its body, in bytes.
const MESSAGE_BYTES: usize = 520;

/// A message.
#[derive(Serialize, ToSchema)]
#[schema(as = Message)]
pub struct MessageBody<'a> {
    /// Unique on the whole server.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    conversation_id: i64,
    /// The number of the message in its conversation: 1, 2, 3 and so on, without gaps.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    seq: i64,
    #[schema(inline, value_type = MessageKind)]
    kind: &'static str,
    #[schema(minimum = 1, example = 1)]
    sender_id: i64,
    /// Null after the sender was erased.
    #[schema(example = "rdibari")]
    sender_user_name: Option<&'a str>,
    /// Null in a group.
    #[schema(minimum = 1, example = 2)]
    recipient_id: Option<i64>,
    /// Null in a group, and after the recipient was erased.
    #[schema(example = "bugs")]
    recipient_user_name: Option<&'a str>,
    /// The text, byte for byte as it was sent. Empty after the message was deleted.
    #[schema(example = "Hey, whats up?", max_length = 8000)]
    #[schema(value_type = String)]
    body: Cow<'a, str>,
    /// The time at which the server accepted the message.
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    /// The time at which the message entered the conversation.
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    timestamp_sent: Timestamp,
    /// The time at which the message was delivered to the recipient or, in a group, to the last of the members. Null before that,
    /// and in groups of more than 100 members.
    #[schema(value_type = Option<String>, format = DateTime)]
    timestamp_delivered: Option<Timestamp>,
    /// The time at which the recipient read the message or, in a group, the last of the members did. Null before that, and in
    /// groups of more than 100 members.
    #[schema(value_type = Option<String>, format = DateTime)]
    timestamp_read: Option<Timestamp>,
    /// The time of the last edit. Null if the message was never edited.
    #[schema(value_type = Option<String>, format = DateTime)]
    edited_at: Option<Timestamp>,
    /// Set on a tombstone.
    #[schema(value_type = Option<String>, format = DateTime)]
    deleted_at: Option<Timestamp>,
    /// The `seq` of the message that this one replies to.
    #[schema(minimum = 1)]
    reply_to: Option<i64>,
    /// Null if the message has no replies.
    thread: Option<Thread>,
    /// The names of the mentioned members.
    mentions: Vec<&'a str>,
    reactions: Vec<Reaction<'a>>,
    attachments: Vec<AttachmentBody<'a>>,
    /// The preview of the first link in the text. Null if there is none, and until it is made.
    link_preview: Option<Box<LinkPreviewBody<'a>>>,
    /// Null if the message is not pinned.
    #[schema(value_type = Option<String>, format = DateTime)]
    pinned_at: Option<Timestamp>,
}

/// The preview of a link: what its page says about itself.
#[derive(Serialize, ToSchema)]
#[schema(as = LinkPreview)]
pub struct LinkPreviewBody<'a> {
    /// The URL as it is in the text.
    #[schema(example = "https://example.org/news", max_length = 2000)]
    url: &'a str,
    /// The title of the page, or the file name of an image. Null if an image has no name.
    #[schema(example = "News", max_length = 200)]
    title: Option<&'a str>,
    #[schema(max_length = 400)]
    description: Option<&'a str>,
    /// The image of the page. Null if it has none, and if its image could not be stored.
    image: Option<AttachmentBody<'a>>,
}

impl<'a> LinkPreviewBody<'a> {
    fn new(preview: &'a Preview) -> Self {
        let Preview { url, title, description, image } = preview;
        Self {
            url,
            title: title.as_deref(),
            description: description.as_deref(),
            image: image.as_ref().map(AttachmentBody::new),
        }
    }
}

/// The kind of a message.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// A message of a user.
    Text,
    /// A message that the server writes.
    System,
}

/// The thread of a message: the replies to it.
#[derive(Serialize, ToSchema)]
pub struct Thread {
    /// The number of replies.
    reply_count: i64,
    /// The time of the last reply.
    #[schema(value_type = String, format = DateTime)]
    last_reply_at: Timestamp,
}

impl Thread {
    fn of(message: &Message) -> Option<Self> {
        let reply_count = message.decorations.reply_count;
        message.decorations.last_reply_at.map(|last_reply_at| Self { reply_count, last_reply_at })
    }
}

/// An emoji on a message.
#[derive(Serialize, ToSchema)]
pub struct Reaction<'a> {
    /// The emoji, or `:name:` for a custom emoji.
    #[schema(example = "👍", value_type = String)]
    emoji: Cow<'a, str>,
    /// The id of a custom emoji. Absent for an emoji of the Unicode set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, nullable = false)]
    custom_emoji_id: Option<i64>,
    /// The path of the picture of a custom emoji. Absent for an emoji of the Unicode set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    url: Option<String>,
    /// The number of users with this reaction.
    #[schema(minimum = 1, example = 1)]
    count: i64,
    /// Whether the caller has this reaction. Absent in events, which are the same for all readers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    me: Option<bool>,
}

impl<'a> Reaction<'a> {
    /// The JSON form of a reaction.
    pub fn new(tally: &'a Tally) -> Self {
        let ShownEmoji { emoji, custom_emoji_id, url } = ShownEmoji::new(tally);
        Self { emoji, custom_emoji_id, url, count: tally.count, me: Some(tally.me) }
    }
}

/// How the emoji of a reaction is shown.
pub struct ShownEmoji<'a> {
    /// The emoji, or `:name:` for a custom emoji.
    pub emoji: Cow<'a, str>,
    /// The id of a custom emoji.
    pub custom_emoji_id: Option<i64>,
    /// The path of the picture of a custom emoji.
    pub url: Option<String>,
}

impl<'a> ShownEmoji<'a> {
    /// The emoji of a count.
    pub fn new(tally: &'a Tally) -> Self {
        match &tally.custom {
            Some(NamedEmoji { id, name }) => Self {
                emoji: Cow::Owned(format!(":{name}:")),
                custom_emoji_id: Some(id.0),
                url: Some(emoji::url(id.0)),
            },
            None => Self { emoji: Cow::Borrowed(&tally.emoji), custom_emoji_id: None, url: None },
        }
    }
}

impl<'a> MessageBody<'a> {
    /// The JSON form of a message with the given user names.
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
            attachments: message.attachments.list().iter().map(AttachmentBody::new).collect(),
            link_preview: message.link_preview.preview().map(LinkPreviewBody::new).map(Box::new),
            pinned_at: message.decorations.pinned_at,
        }
    }

    /// The form for events, without the parts that depend on the reader.
    #[must_use]
    pub fn for_all_readers(mut self) -> Self {
        for reaction in &mut self.reactions {
            reaction.me = None;
        }
        self
    }

    /// The JSON form of a message with the user names from `names`.
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

/// Renders the answer to a send.
///
/// # Errors
/// The message cannot be written as JSON, which would be a bug.
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

/// Renders a message for an answer and for the cache of tails.
///
/// # Errors
/// The message cannot be written as JSON, which would be a bug.
pub fn render(message: &Message, names: &Names) -> Result<Vec<u8>> {
    to_json(&MessageBody::named(message, names), MESSAGE_BYTES + message.body.len())
}

/// Renders messages as a JSON array.
///
/// # Errors
/// A message cannot be written as JSON, which would be a bug.
pub fn join_messages(messages: &[Message], names: &Names) -> Result<Vec<u8>, Problem> {
    let bodies: Vec<MessageBody<'_>> = messages.iter().map(|message| MessageBody::named(message, names)).collect();
    let size = messages.iter().map(|message| MESSAGE_BYTES + message.body.len()).sum();
    Ok(to_json(&bodies, size)?)
}

/// Joins rendered messages to a JSON array.
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
