//! Events as readers get them.

use serde::Serialize;
use utoipa::ToSchema;

use super::conversations::ConversationBody;
use super::messages::MessageBody;
use super::users::UserBody;
use crate::base::error::{Error, Result as DomainResult};
use crate::base::time::Timestamp;
use crate::domain::events::event_data::{Data, EphemeralData, EphemeralEvent, Event};
use crate::domain::identity::users::DirectMessagesFrom;

/// Something that happened.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventBody<'a> {
    /// Where one goes on behind it. Null for what is not logged.
    #[schema(example = "5f3a9c1e7b204d68-42")]
    cursor: Option<&'a str>,
    /// What happened.
    #[serde(rename = "type")]
    #[schema(example = "message.created")]
    kind: &'a str,
    /// When.
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    at: Timestamp,
    /// Where, unless it is about people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, nullable = false)]
    conversation_id: Option<i64>,
    /// Who did it. Absent once they are erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "bugs", nullable = false)]
    actor_user_name: Option<&'a str>,
    /// What it is about.
    data: DataBody<'a>,
}

/// What it is about, as it is now: by the type of the event a message, a conversation, a user, or one of the small ones.
#[derive(Serialize, ToSchema)]
#[schema(as = EventData)]
#[serde(untagged)]
pub enum DataBody<'a> {
    /// `message.*`.
    Message(Box<MessageBody<'a>>),
    /// `reaction.*`.
    Reaction {
        /// Under which message.
        seq: i64,
        /// The emoji.
        emoji: &'a str,
        /// Whose.
        user_name: Option<&'a str>,
        /// How many people have put it there now.
        count: i64,
    },
    /// `receipt.updated`.
    Receipt {
        /// Who.
        user_name: Option<&'a str>,
        /// Up to where messages reached them.
        delivered_seq: i64,
        /// Up to where they read.
        read_seq: i64,
        /// When they said so.
        #[schema(value_type = String, format = DateTime)]
        at: Timestamp,
    },
    /// `conversation.*`, without what the caller has of it.
    Conversation(Box<ConversationBody<'a>>),
    /// `conversation.deleted`, when nothing is left of it.
    Ended {
        /// Which.
        id: i64,
    },
    /// `member.*`.
    Member {
        /// Who.
        user_name: Option<&'a str>,
        /// As what; null once they are not in it.
        role: Option<&'static str>,
    },
    /// `typing`, which is not logged.
    Typing {
        /// Who.
        user_name: &'a str,
        /// Until when, if nothing more is heard.
        #[schema(value_type = String, format = DateTime)]
        until: Timestamp,
    },
    /// `presence`, which is not logged.
    Presence {
        /// Who.
        user_name: &'a str,
        /// `online`, `away` or `offline`.
        state: &'static str,
        /// When they were there last.
        #[schema(value_type = String, format = DateTime)]
        last_seen_at: Timestamp,
    },
    /// `friend.*`: to whom it was done; `user.updated`.
    User(Box<UserBody<'a>>),
}

/// An event in JSON, with the cursor behind it.
///
/// # Errors
/// When it cannot be written, which would be a fault of ours.
pub fn render(event: &Event, cursor: &str) -> DomainResult<Vec<u8>> {
    let data = match &event.data {
        Data::Message(found) => DataBody::Message(Box::new(MessageBody::named(&found.0, &found.1).for_everybody())),
        Data::Reaction { seq, emoji, user_name, count } => {
            DataBody::Reaction { seq: *seq, emoji, user_name: user_name.as_deref(), count: *count }
        }
        Data::Receipt { user_name, watermarks, at } => DataBody::Receipt {
            user_name: user_name.as_deref(),
            delivered_seq: watermarks.delivered_seq,
            read_seq: watermarks.read_seq,
            at: *at,
        },
        Data::Conversation(conversation) => DataBody::Conversation(Box::new(ConversationBody::bare(conversation))),
        Data::Ended => DataBody::Ended { id: event.conversation_id.map_or(0, |id| id.0) },
        Data::Member { user_name, role } => {
            DataBody::Member { user_name: user_name.as_deref(), role: role.map(|role| role.as_str()) }
        }
        // What a person keeps private is not shown, so the default does not matter.
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

/// An ephemeral event in JSON.
///
/// # Errors
/// When it cannot be written, which would be a fault of ours.
pub fn render_ephemeral(event: &EphemeralEvent<'_>) -> DomainResult<String> {
    let user_name = event.actor_user_name;
    let data = match event.data {
        EphemeralData::Typing { until } => DataBody::Typing { user_name, until },
        EphemeralData::Presence { state, last_seen_at } => {
            DataBody::Presence { user_name, state: state.as_str(), last_seen_at }
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
