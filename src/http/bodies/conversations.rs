//! Conversations as callers see them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::messages::MessageBody;
use super::users::UserBody;
use crate::base::error::{Error, Result as DomainResult};
use crate::base::time::Timestamp;
use crate::domain::conversations::conversations::{Conversation, History, Me, Shown};
use crate::domain::conversations::members::Role;

/// A conversation, as the caller has it.
#[derive(Serialize, ToSchema)]
#[schema(as = Conversation)]
pub struct ConversationBody<'a> {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    #[schema(inline, value_type = ConversationKind)]
    kind: &'static str,
    /// Of a group.
    #[schema(example = "Looney Tunes")]
    title: Option<&'a str>,
    avatar_url: Option<&'a str>,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    /// The id of the user who made it.
    #[schema(minimum = 1, example = 1)]
    created_by: i64,
    /// How many messages it has; the newest one's seq.
    #[schema(minimum = 0, example = 3)]
    last_seq: i64,
    /// The newest message, if there is one that the caller sees.
    #[schema(value_type = Option<MessageBody<'_>>)]
    last_message: Option<&'a RawValue>,
    #[schema(minimum = 0, example = 2)]
    member_count: i64,
    #[schema(inline, value_type = HistoryWord)]
    history: &'static str,
    /// Whether members may add others.
    members_can_add: bool,
    /// The other one in a direct conversation; null when they were erased, and for callers who are not in it.
    peer: Option<UserBody<'a>>,
    /// What the caller has of it; null for callers who stand for nobody.
    me: Option<MeBody<'a>>,
}

/// What a member has of a conversation.
#[derive(Serialize, ToSchema)]
#[schema(as = OwnMembership)]
pub struct MeBody<'a> {
    #[schema(inline, value_type = RoleWord)]
    role: &'static str,
    #[schema(value_type = String, format = DateTime)]
    joined_at: Timestamp,
    /// Read up to this seq.
    read_seq: i64,
    /// Delivered up to this seq.
    delivered_seq: i64,
    unread_count: i64,
    mention_count: i64,
    /// No notifications until then.
    #[schema(value_type = Option<String>, format = DateTime)]
    muted_until: Option<Timestamp>,
    pinned: bool,
    archived: bool,
    /// What the caller has begun to write.
    draft: Option<&'a str>,
}

/// What sort of conversation.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConversationKind {
    /// Of two people, or notes to oneself.
    Direct,
    /// Of any number.
    Group,
}

/// What those see who joined later.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HistoryWord {
    /// Everything.
    All,
    /// What came after them.
    SinceJoined,
}

impl HistoryWord {
    /// The rule of the word.
    pub const fn history(self) -> History {
        match self {
            Self::All => History::All,
            Self::SinceJoined => History::SinceJoined,
        }
    }
}

impl<'a> MeBody<'a> {
    fn new(me: &'a Me, last_seq: i64) -> Self {
        Self {
            role: me.role.as_str(),
            joined_at: me.joined_at,
            read_seq: me.read_seq,
            delivered_seq: me.delivered_seq,
            unread_count: me.unread_count(last_seq),
            mention_count: me.mention_count,
            muted_until: me.keeps.muted_until,
            pinned: me.keeps.pinned,
            archived: me.keeps.archived,
            draft: me.keeps.draft.as_deref(),
        }
    }
}

impl<'a> ConversationBody<'a> {
    /// A conversation as it is shown to a caller.
    ///
    /// # Errors
    /// When a rendered message is no JSON, which would be a fault of ours.
    pub fn new(shown: &'a Shown) -> DomainResult<Self> {
        let Shown { conversation, last_message, peer, principal, direct_messages_from } = shown;
        let last_message = last_message
            .as_ref()
            .map(|message| serde_json::from_slice(&message.text))
            .transpose()
            .map_err(Error::internal)?;
        let peer =
            peer.as_ref().map(|peer| UserBody::shown(peer, *direct_messages_from, principal.sees_private(peer.id)));
        let me = conversation.me.as_ref().map(|me| MeBody::new(me, conversation.head.last_seq));
        Ok(Self { last_message, peer, me, ..Self::bare(conversation) })
    }

    /// A conversation without what is in it, and without anybody.
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

/// What a member may do in a group.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoleWord {
    /// Reads, sends, reacts.
    Member,
    /// Also sees to members and messages.
    Admin,
    /// Also gives roles, and ends the group.
    Owner,
}

impl RoleWord {
    /// The role of the word.
    pub const fn role(self) -> Role {
        match self {
            Self::Member => Role::Member,
            Self::Admin => Role::Admin,
            Self::Owner => Role::Owner,
        }
    }
}
