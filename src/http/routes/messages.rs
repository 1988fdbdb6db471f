//! `/api/messages`.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::scheduled::{ScheduledBody, render_accepted};
use super::{given, list, time_field, to_json};
use crate::domain::drafts::{Answer, Keyed, NewMessage, Sent};
use crate::domain::idempotency::{Given, Once, StoredAnswer};
use crate::domain::messages::{self, Message};
use crate::domain::names::Names;
use crate::domain::reactions::Tally;
use crate::domain::tails::Rendered;
use crate::domain::timeline::{self, Listing};
use crate::domain::{scheduled, system_messages};
use crate::http::HttpState;
use crate::http::extract::{JsonBody, PathSegments, Query, idempotency_key};
use crate::http::policy::{Reader, Writer};
use crate::http::problem::Problem;
use crate::time::Timestamp;

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

/// A message to be sent.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"sender_user_name": "rdibari", "recipient_user_name": "bugs", "body": "hey"}))]
pub struct SendMessage {
    /// Who sends. May be left out when the caller is a user, and must be the caller's own name then.
    #[schema(min_length = 1, max_length = 32)]
    sender_user_name: Option<String>,
    /// To whom; or `conversation_id`.
    #[schema(min_length = 1, max_length = 32)]
    recipient_user_name: Option<String>,
    /// Where; or `recipient_user_name`.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    conversation_id: Option<i64>,
    /// 1 to 8,000 characters, kept byte for byte. U+0000 is refused.
    #[schema(min_length = 1, max_length = 8000, pattern = r"^[^\u0000]*$")]
    body: String,
    /// The seq of a message of the same conversation.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    reply_to: Option<i64>,
    /// Files uploaded before; none can be yet.
    #[schema(max_items = 0)]
    attachment_ids: Option<Vec<i64>>,
    /// When to send it, within a year: it is accepted with 202 then, and can be seen and taken back under `/api/scheduled`.
    #[schema(value_type = Option<String>, format = DateTime)]
    send_at: Option<String>,
}

/// Sends a message: it is on disk when the answer comes.
#[utoipa::path(
    post,
    path = "/api/messages",
    tag = "messages",
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeat with the same key and body is answered with the first answer, for 7 days.", min_length = 1, max_length = 255, pattern = "^[ -~]+$")),
    request_body = SendMessage,
    responses(
        (status = 201, description = "Sent.", body = MessageBody<'_>, headers(
            ("Location" = String, description = "Where the message is: `/api/conversations/{id}/messages/{seq}`."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` on the answer to a repeat."),
        )),
        (status = 202, description = "Accepted for later: the message has `send_at`.", body = ScheduledBody<'_>, headers(
            ("Location" = String, description = "Where it waits: `/api/scheduled/{id}`."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` on the answer to a repeat."),
        )),
        (status = 409, description = "`too_many_scheduled`."),
    ),
)]
pub async fn send_message(
    State(state): State<HttpState>,
    Writer(principal): Writer,
    uri: Uri,
    headers: HeaderMap,
    query: Query,
    body: JsonBody<SendMessage>,
) -> Result<Response, Problem> {
    query.finish()?;
    let request = idempotency_key(&state.app, &headers, &principal, uri.path(), &body.bytes)?;
    let new = NewMessage {
        sender_user_name: body.value.sender_user_name,
        recipient_user_name: body.value.recipient_user_name,
        conversation_id: body.value.conversation_id,
        body: body.value.body,
        reply_to: body.value.reply_to,
        attachment_ids: body.value.attachment_ids.unwrap_or_default(),
    };
    if let Some(text) = &body.value.send_at {
        let send_at = time_field("send_at", text)?;
        let once = Once { request, render: render_accepted, sealed: false };
        return Ok(given(scheduled::schedule(&state.app, &principal, new, send_at, once).await?));
    }
    let keyed = request.map(|request| Keyed { request, render: render_sent });
    Ok(given(render_answer(messages::send(&state.app, &principal, new, keyed).await?)))
}

/// The answer to a send.
pub fn render_answer(answer: Answer) -> Given {
    match answer {
        Answer::Sent(sent) => Given { answer: render_sent(&sent), replayed: false },
        Answer::Stored { answer, replayed } => Given { answer, replayed },
    }
}

/// A message that was sent now.
pub fn render_sent(sent: &Sent) -> StoredAnswer {
    let message = &sent.message;
    let mentions = sent.mentioned_user_names.iter().map(String::as_str).collect();
    let recipient = sent.recipient_user_name.as_deref();
    let body = MessageBody::new(message, Some(&sent.sender_user_name), recipient, mentions);
    StoredAnswer {
        status: StatusCode::CREATED.as_u16(),
        location: Some(format!("/api/conversations/{}/messages/{}", message.conversation_id.0, message.seq)),
        // Text and numbers alone: that cannot fail.
        body: to_json(&body, MESSAGE_BYTES + message.body.len()).unwrap_or_default(),
    }
}

/// Every message of every conversation that the user is in.
#[utoipa::path(
    get,
    path = "/api/messages/{user_name}",
    tag = "messages",
    params(
        ("user_name" = String, Path, description = "Whose messages; `me` is the caller.", example = "rdibari"),
        ("days" = Option<u32>, Query, description = "The last so many days; 30 when no window is named. Not beside `since` or `until`.", minimum = 1, maximum = 3650),
        ("since" = Option<String>, Query, description = "Sent then or later.", format = DateTime),
        ("until" = Option<String>, Query, description = "Sent before.", format = DateTime),
        ("order" = Option<Order>, Query, description = "`asc`, oldest first, when it is absent."),
        ("with" = Option<String>, Query, description = "Only the direct conversation with this user."),
        ("limit" = Option<u32>, Query, description = "Entries of the page; 50 when it is absent.", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "Where the page begins: taken from a Link header as it is."),
    ),
    responses((status = 200, description = "The messages, by `timestamp_sent` and `id`. `Link` names the next page while there is one, with the window as it was resolved for the first.", body = Vec<MessageBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/messages/…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_messages(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    path: PathSegments,
    mut query: Query,
) -> Result<Response, Problem> {
    let listing = Listing {
        days: query.number("days"),
        since: query.time("since"),
        until: query.time("until"),
        descending: query.word("order", &["asc", "desc"]) == "desc",
        with: query.text("with"),
        limit: query.limit(),
        cursor: query.text("cursor"),
    };
    query.finish()?;
    let (limit, until, with) = (listing.limit.get(), listing.until, listing.with.clone());
    let order = if listing.descending { "desc" } else { "asc" };
    let found = timeline::list(&state.app, &principal, path.text(0), listing, render).await?;
    let body = join(&found.page.entries);
    let next = found.page.next.map(|cursor| {
        let mut parameters = vec![
            ("order", order.to_owned()),
            ("limit", limit.to_string()),
            ("since", found.since.to_string()),
            ("cursor", cursor),
        ];
        parameters.extend(until.map(|until| ("until", until.to_string())));
        parameters.extend(with.map(|with| ("with", with)));
        parameters
    });
    Ok(list(body, uri.path(), next))
}

/// A message as it is kept and answered.
pub fn render(message: &Message, names: &Names) -> Vec<u8> {
    // Text and numbers alone: that cannot fail.
    to_json(&MessageBody::named(message, names), MESSAGE_BYTES + message.body.len()).unwrap_or_default()
}

/// A JSON array of messages.
///
/// # Errors
/// None that could be foreseen.
pub fn join_messages(messages: &[Message], names: &Names) -> Result<Vec<u8>, Problem> {
    let bodies: Vec<MessageBody<'_>> = messages.iter().map(|message| MessageBody::named(message, names)).collect();
    let size = messages.iter().map(|message| MESSAGE_BYTES + message.body.len()).sum();
    to_json(&bodies, size)
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

/// The order of a list in time.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Oldest first.
    Asc,
    /// Newest first.
    Desc,
}
