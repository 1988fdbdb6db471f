//! An event with what it is about, as readers get it.

use crate::base::ids::ConversationId;
use crate::base::time::Timestamp;
use crate::domain::identity::names::Names;
use crate::store::conversations::conversations::Conversation;
use crate::store::conversations::members::Role;
use crate::store::events::event_kinds::{EphemeralKind, Kind};
use crate::store::identity::users::User;
use crate::store::messages::messages::Message;
use crate::store::messages::receipts::Watermarks;
use crate::store::people::presence::State;

/// An event with what it is about.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its place in the log.
    pub position: i64,
    /// What happened.
    pub kind: Kind,
    /// When.
    pub at: Timestamp,
    /// Where, unless it is about people.
    pub conversation_id: Option<ConversationId>,
    /// Who did it; `None` once they are erased.
    pub actor_user_name: Option<String>,
    /// What it is about.
    pub data: Data,
}

/// What an event is about.
#[derive(Clone, Debug)]
pub enum Data {
    /// A message, with the names of the people in it.
    Message(Box<(Message, Names)>),
    /// An emoji under a message.
    Reaction {
        /// Which message.
        seq: i64,
        /// The emoji.
        emoji: String,
        /// Whose.
        user_name: Option<String>,
        /// How many people have put it there now.
        count: i64,
    },
    /// How far somebody has got.
    Receipt {
        /// Who.
        user_name: Option<String>,
        /// How far it was delivered, and read.
        watermarks: Watermarks,
        /// When they moved.
        at: Timestamp,
    },
    /// A conversation.
    Conversation(Box<Conversation>),
    /// Only which conversation: it is gone.
    Ended,
    /// Somebody in a group.
    Member {
        /// Who.
        user_name: Option<String>,
        /// As what; `None` once they are not in it.
        role: Option<Role>,
    },
    /// Somebody.
    User(Box<User>),
}

/// An event that is delivered to online users and not logged.
#[derive(Clone, Copy, Debug)]
pub struct EphemeralEvent<'a> {
    /// When it happened.
    pub at: Timestamp,
    /// Where, unless it is about a user.
    pub conversation_id: Option<ConversationId>,
    /// The user whom it is about.
    pub actor_user_name: &'a str,
    /// What it is about.
    pub data: EphemeralData,
}

/// What an [`EphemeralEvent`] is about.
#[derive(Clone, Copy, Debug)]
pub enum EphemeralData {
    /// The user is writing a message.
    Typing {
        /// When to stop showing it, if no other such event comes.
        until: Timestamp,
    },
    /// The presence of the user has changed.
    Presence {
        /// The state over all devices and servers.
        state: State,
        /// When the user was last seen.
        last_seen_at: Timestamp,
    },
}

impl EphemeralData {
    /// The kind of an event with this data.
    pub const fn kind(self) -> EphemeralKind {
        match self {
            Self::Typing { .. } => EphemeralKind::Typing,
            Self::Presence { .. } => EphemeralKind::Presence,
        }
    }
}
