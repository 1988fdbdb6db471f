//! The JSON form of events.

use std::borrow::Cow;

use serde::Serialize;
use utoipa::ToSchema;

use super::conversations::{ConversationBody, RoleWord};
use super::messages::{MessageBody, ShownEmoji};
use super::users::UserBody;
use crate::base::error::{Error, Result as DomainResult};
use crate::base::time::Timestamp;
use crate::domain::events::event_data::{Data, EphemeralData, EphemeralEvent, Event};
use crate::domain::identity::users::DirectMessagesFrom;

/// An event.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventBody<'a> {
    /// The cursor after this event. Null for ephemeral events, which are not stored.
    #[schema(example = "5f3a9c1e7b204d68-42")]
    cursor: Option<&'a str>,
    /// The type of the event.
    #[serde(rename = "type")]
    #[schema(example = "message.created")]
    kind: &'a str,
    /// The time of the event.
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    at: Timestamp,
    /// The conversation. Absent if the event is not about a conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, nullable = false)]
    conversation_id: Option<i64>,
    /// The user who caused the event. Null after they were erased.
    #[schema(example = "bugs")]
    actor_user_name: Option<&'a str>,
    /// The subject of the event in its present state.
    #[schema(value_type = Object)]
    data: DataBody<'a>,
}

/// The subject of an event. Its form depends on the type of the event.
#[derive(Serialize)]
#[serde(untagged)]
enum DataBody<'a> {
    Message(Box<MessageBody<'a>>),
    Reaction(ReactionChange<'a>),
    Receipt(WatermarkChange<'a>),
    Conversation(Box<ConversationBody<'a>>),
    Ended(EndedConversation),
    Member(MemberChange<'a>),
    Typing(TypingChange<'a>),
    Presence(PresenceChange<'a>),
    User(Box<UserBody<'a>>),
}

/// One emoji on a message, after a user added or removed it.
#[derive(Serialize, ToSchema)]
pub struct ReactionChange<'a> {
    /// The `seq` of the message.
    #[schema(minimum = 1)]
    seq: i64,
    /// The emoji, or `:name:` for a custom emoji.
    #[schema(value_type = String)]
    emoji: Cow<'a, str>,
    /// The id of a custom emoji. Absent for an emoji of the Unicode set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, nullable = false)]
    custom_emoji_id: Option<i64>,
    /// The path of the picture of a custom emoji. Absent for an emoji of the Unicode set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    url: Option<String>,
    /// The user who added or removed it. Null after they were erased.
    user_name: Option<&'a str>,
    /// The number of users with this reaction now.
    #[schema(minimum = 0)]
    count: i64,
}

/// The watermarks of a member, after one of them rose.
#[derive(Serialize, ToSchema)]
pub struct WatermarkChange<'a> {
    /// The member. Null after they were erased.
    user_name: Option<&'a str>,
    /// The `seq` up to which messages were delivered to them.
    #[schema(minimum = 0)]
    delivered_seq: i64,
    /// The `seq` up to which they have read.
    #[schema(minimum = 0)]
    read_seq: i64,
    /// The time of the report.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

/// What remains of a conversation that no longer exists.
#[derive(Serialize, ToSchema)]
pub struct EndedConversation {
    /// The id of the conversation.
    #[schema(minimum = 1)]
    id: i64,
}

/// A user who became, is or was a member of a group.
#[derive(Serialize, ToSchema)]
pub struct MemberChange<'a> {
    /// The user. Null after they were erased.
    user_name: Option<&'a str>,
    /// Their role. Null once they are no longer a member.
    #[schema(value_type = Option<RoleWord>)]
    role: Option<&'static str>,
}

/// A member who is writing a message.
#[derive(Serialize, ToSchema)]
pub struct TypingChange<'a> {
    /// The member.
    user_name: &'a str,
    /// The time after which this event no longer counts, unless another one arrives.
    #[schema(value_type = String, format = DateTime)]
    until: Timestamp,
}

/// The presence of a user, after it changed.
#[derive(Serialize, ToSchema)]
pub struct PresenceChange<'a> {
    /// The user.
    user_name: &'a str,
    /// The presence over all devices.
    #[schema(value_type = PresenceState)]
    state: &'static str,
    /// The time at which they were last seen.
    #[schema(value_type = String, format = DateTime)]
    last_seen_at: Timestamp,
}

/// The state of presence.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PresenceState {
    /// The user has an open stream of events.
    Online,
    /// The user has an open stream of events, and the clients report that nobody is at the device.
    Away,
    /// The user has no open stream of events.
    Offline,
}

/// Renders an event as JSON, with the cursor after it.
///
/// # Errors
/// The event cannot be written as JSON, which would be a bug.
pub fn render(event: &Event, cursor: &str) -> DomainResult<Vec<u8>> {
    let data = match &event.data {
        Data::Message(found) => DataBody::Message(Box::new(MessageBody::named(&found.0, &found.1).for_all_readers())),
        Data::Reaction { seq, tally, user_name } => {
            let ShownEmoji { emoji, custom_emoji_id, url } = ShownEmoji::new(tally);
            let (user_name, count) = (user_name.as_deref(), tally.count);
            DataBody::Reaction(ReactionChange { seq: *seq, emoji, custom_emoji_id, url, user_name, count })
        }
        Data::Receipt { user_name, watermarks, at } => DataBody::Receipt(WatermarkChange {
            user_name: user_name.as_deref(),
            delivered_seq: watermarks.delivered_seq,
            read_seq: watermarks.read_seq,
            at: *at,
        }),
        Data::Conversation(conversation) => DataBody::Conversation(Box::new(ConversationBody::bare(conversation))),
        Data::Ended => DataBody::Ended(EndedConversation { id: event.conversation_id.map_or(0, |id| id.0) }),
        Data::Member { user_name, role } => {
            let (user_name, role) = (user_name.as_deref(), role.map(|role| role.as_str()));
            DataBody::Member(MemberChange { user_name, role })
        }
        // Private fields are not shown, so the default is not used.
        Data::User(user) => DataBody::User(Box::new(UserBody::shown(user, DirectMessagesFrom::Everyone, false))),
    };
    let body = EventBody {
        cursor: Some(cursor),
        kind: event.kind.as_str(),
        at: event.at,
        conversation_id: event.conversation_id.map(|id| id.0),
        actor_user_name: event.actor_user_name.as_deref(),
        data,
    };
    serde_json::to_vec(&body).map_err(Error::internal)
}

/// Renders an ephemeral event as JSON.
///
/// # Errors
/// The event cannot be written as JSON, which would be a bug.
pub fn render_ephemeral(event: &EphemeralEvent<'_>) -> DomainResult<String> {
    let user_name = event.actor_user_name;
    let data = match event.data {
        EphemeralData::Typing { until } => DataBody::Typing(TypingChange { user_name, until }),
        EphemeralData::Presence { state, last_seen_at } => {
            DataBody::Presence(PresenceChange { user_name, state: state.as_str(), last_seen_at })
        }
    };
    let body = EventBody {
        cursor: None,
        kind: event.data.kind().as_str(),
        at: event.at,
        conversation_id: event.conversation_id.map(|id| id.0),
        actor_user_name: Some(user_name),
        data,
    };
    serde_json::to_string(&body).map_err(Error::internal)
}
