//! The JSON form of conversations.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::messages::MessageBody;
use super::users::UserBody;
use crate::base::error::{Error, Result as DomainResult};
use crate::base::time::Timestamp;
use crate::domain::conversations::conversations::{Conversation, History, Kind, Me, Shown};
use crate::domain::conversations::members::Role;

/// A conversation as the caller sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Conversation)]
pub struct ConversationBody<'a> {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    #[schema(inline, value_type = ConversationKind)]
    kind: &'static str,
    /// The title of a group. Null for a direct conversation.
    #[schema(example = "Looney Tunes")]
    title: Option<&'a str>,
    avatar_url: Option<&'a str>,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    /// The id of the user who created the conversation.
    #[schema(minimum = 1, example = 1)]
    created_by: i64,
    /// The `seq` of the newest message, which is also the number of messages.
    #[schema(minimum = 0, example = 3)]
    last_seq: i64,
    /// The newest message that the caller can see. Null if there is none.
    #[schema(value_type = Option<MessageBody<'_>>)]
    last_message: Option<&'a RawValue>,
    #[schema(minimum = 0, example = 2)]
    member_count: i64,
    #[schema(inline, value_type = HistoryWord)]
    history: &'static str,
    /// Whether members without the role owner or admin may add others.
    members_can_add: bool,
    /// The other user of a direct conversation. Null if they were erased, and if the caller is not in the conversation.
    peer: Option<UserBody<'a>>,
    /// The caller's own state in the conversation. Null if the caller is not a member.
    me: Option<MeBody<'a>>,
}

/// The state of the caller as a member of a conversation.
#[derive(Serialize, ToSchema)]
#[schema(as = OwnMembership)]
pub struct MeBody<'a> {
    #[schema(inline, value_type = RoleWord)]
    role: &'static str,
    #[schema(value_type = String, format = DateTime)]
    joined_at: Timestamp,
    /// The `seq` up to which the caller has read.
    read_seq: i64,
    /// The `seq` up to which messages were delivered to the caller.
    delivered_seq: i64,
    /// The number of messages that the caller has not read. System messages are not counted.
    unread_count: i64,
    /// The number of messages that the caller has not read and that mention the caller.
    mention_count: i64,
    /// The time until which the caller wants no notifications.
    #[schema(value_type = Option<String>, format = DateTime)]
    muted_until: Option<Timestamp>,
    pinned: bool,
    archived: bool,
    /// A saved draft: a text that the caller has not sent yet.
    draft: Option<&'a str>,
}

/// The kind of a conversation.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConversationKind {
    /// Exactly two users, or one user alone (notes to oneself).
    Direct,
    /// A group with a title and members.
    Group,
}

impl ConversationKind {
    /// The corresponding value of the domain.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Direct => Kind::Direct,
            Self::Group => Kind::Group,
        }
    }
}

/// Which messages a member who joined later can see.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = GroupHistory)]
pub enum HistoryWord {
    /// All messages.
    All,
    /// Only messages since they joined.
    SinceJoined,
}

impl HistoryWord {
    /// The corresponding value of the domain.
    pub const fn history(self) -> History {
        match self {
            Self::All => History::All,
            Self::SinceJoined => History::SinceJoined,
        }
    }
}

impl<'a> MeBody<'a> {
    fn new(me: &'a Me) -> Self {
        Self {
            role: me.role.as_str(),
            joined_at: me.joined_at,
            read_seq: me.read_seq,
            delivered_seq: me.delivered_seq,
            unread_count: me.unread_count,
            mention_count: me.mention_count,
            muted_until: me.keeps.muted_until,
            pinned: me.keeps.pinned,
            archived: me.keeps.archived,
            draft: me.keeps.draft.as_deref(),
        }
    }
}

impl<'a> ConversationBody<'a> {
    /// The JSON form of a conversation for a caller.
    ///
    /// # Errors
    /// A rendered message is not JSON, which would be a bug.
    pub fn new(shown: &'a Shown) -> DomainResult<Self> {
        let Shown { conversation, last_message, peer, principal, direct_messages_from } = shown;
        let last_message = last_message
            .as_ref()
            .map(|message| serde_json::from_slice(&message.text))
            .transpose()
            .map_err(Error::internal)?;
        let peer =
            peer.as_ref().map(|peer| UserBody::shown(peer, *direct_messages_from, principal.sees_private(peer.id)));
        let me = conversation.me.as_ref().map(MeBody::new);
        Ok(Self { last_message, peer, me, ..Self::bare(conversation) })
    }

    /// The JSON form without the last message, the peer and the state of the caller.
    pub fn bare(conversation: &'a Conversation) -> Self {
        Self {
            id: conversation.head.id.0,
            kind: conversation.kind.as_str(),
            title: conversation.title.as_deref(),
            avatar_url: conversation.avatar_url.as_deref(),
            created_at: conversation.created_at,
            created_by: conversation.created_by.0,
            last_seq: conversation.head.last_seq,
            last_message: None,
            member_count: conversation.member_count,
            history: conversation.history.as_str(),
            members_can_add: conversation.members_can_add,
            peer: None,
            me: None,
        }
    }
}

/// The role of a member in a group.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = GroupRole)]
pub enum RoleWord {
    /// Reads messages, sends messages and reacts.
    Member,
    /// Also manages members and deletes messages of others.
    Admin,
    /// Also sets roles and deletes the group.
    Owner,
}

impl RoleWord {
    /// The corresponding value of the domain.
    pub const fn role(self) -> Role {
        match self {
            Self::Member => Role::Member,
            Self::Admin => Role::Admin,
            Self::Owner => Role::Owner,
        }
    }
}
