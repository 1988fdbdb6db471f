//! Rows of `messaging.members`: who is in a conversation, as what, and since when.
//!
//! Invariant: a row is written under its conversation's lock, and `member_count` of the conversation with it.

use super::conversations::{History, Kind};
use super::{Conn, Row, Value};
use crate::error::Result;
use crate::ids::{ConversationId, UserId};

/// What a member may do, each more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads, sends, reacts.
    Member,
    /// Also sees to members and messages.
    Admin,
    /// Also gives roles, and ends the group.
    Owner,
}

impl Role {
    /// As it stands in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// The role of a word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Member, Self::Admin, Self::Owner].into_iter().find(|role| role.as_str() == word)
    }
}

/// A conversation as somebody sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Direct or group.
    pub kind: Kind,
    /// What those see who joined later.
    pub history: History,
    /// Whether members may add others.
    pub members_can_add: bool,
    /// How many messages it has.
    pub last_seq: i64,
    /// How many members.
    pub member_count: i64,
    /// As what they are in it, and how many messages it had when they joined; `None` for who is not.
    pub member: Option<(Role, i64)>,
}

fn standing(row: &Row<'_>) -> Result<Standing> {
    let role = row.option_text(5)?.map(|word| Role::parse(word).unwrap_or(Role::Member));
    Ok(Standing {
        kind: Kind::parse(row.text(0)?),
        history: History::parse(row.text(1)?),
        members_can_add: row.bool(2)?,
        last_seq: row.i64(3)?,
        member_count: row.i64(4)?,
        member: role.zip(row.option_i64(6)?),
    })
}

/// How somebody stands to a conversation; `None` when there is no such conversation (any more).
pub async fn standing_of(
    conn: &mut Conn,
    conversation: ConversationId,
    user: Option<UserId>,
) -> Result<Option<Standing>> {
    conn.first(
        "SELECT c.kind, c.history, c.members_can_add, c.last_seq, c.member_count, m.role, m.joined_seq
           FROM messaging.conversations c
           LEFT JOIN messaging.members m ON m.conversation_id = c.id AND m.user_id = $2
          WHERE c.id = $1 AND c.deleted_at IS NULL",
        &[Value::I64(conversation.0), Value::OptionI64(user.map(|user| user.0))],
        standing,
    )
    .await
}
