//! Events with their data, as readers get them.

use crate::base::ids::ConversationId;
use crate::base::time::Timestamp;
use crate::domain::identity::names::Names;
use crate::store::conversations::conversations::Conversation;
use crate::store::conversations::members::Role;
use crate::store::events::event_kinds::{EphemeralKind, Kind};
use crate::store::identity::users::User;
use crate::store::messages::messages::Message;
use crate::store::messages::reactions::Tally;
use crate::store::messages::receipts::Watermarks;
use crate::store::people::presence::State;

/// An event with its data.
#[derive(Clone, Debug)]
pub struct Event {
    /// The position in the event log.
    pub position: i64,
    /// The kind of the event.
    pub kind: Kind,
    /// When it happened.
    pub at: Timestamp,
    /// The conversation in which it happened; `None` for an event about users.
    pub conversation_id: Option<ConversationId>,
    /// The user who caused it; `None` once this user is erased.
    pub actor_user_name: Option<String>,
    /// The objects to which the event refers, read when the event is read.
    pub data: Data,
}

/// The data of an event.
#[derive(Clone, Debug)]
pub enum Data {
    /// A message, and the names of the users in it.
    Message(Box<(Message, Names)>),
    /// A reaction that was added or removed.
    Reaction {
        /// The `seq` of the message.
        seq: i64,
        /// The emoji, and the number of users with this reaction when the event is read.
        tally: Tally,
        /// The user who added or removed it; `None` once this user is erased.
        user_name: Option<String>,
    },
    /// The watermarks of a member.
    Receipt {
        /// The member; `None` once this user is erased.
        user_name: Option<String>,
        /// The highest `seq` that was delivered to the member, and that the member has read.
        watermarks: Watermarks,
        /// When the watermarks changed.
        at: Timestamp,
    },
    /// A conversation.
    Conversation(Box<Conversation>),
    /// No data: the conversation was deleted, and only its id is known.
    Ended,
    /// A user who was or is a member of a group.
    Member {
        /// The member; `None` once this user is erased.
        user_name: Option<String>,
        /// The role now; `None` if the user is no longer a member.
        role: Option<Role>,
    },
    /// A user.
    User(Box<User>),
}

/// An event that is delivered to online users and not logged.
#[derive(Clone, Copy, Debug)]
pub struct EphemeralEvent<'a> {
    /// When it happened.
    pub at: Timestamp,
    /// The conversation in which it happened; `None` for an event about a user.
    pub conversation_id: Option<ConversationId>,
    /// The user who is typing, or whose presence has changed.
    pub actor_user_name: &'a str,
    /// The data of the event.
    pub data: EphemeralData,
}

/// The data of an [`EphemeralEvent`].
#[derive(Clone, Copy, Debug)]
pub enum EphemeralData {
    /// The user is writing a message.
    Typing {
        /// When to stop showing it, unless another typing event arrives before.
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
