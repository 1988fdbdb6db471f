//! Rows of `messaging.events`, and the one row of `messaging.event_log` that numbers them.
//!
//! Invariant: numbering is the last statement of its transaction. Its counter row stays locked until the commit, so
//! positions become visible in their order and a reader that saw one never meets a smaller one later.

use super::{Conn, Value};
use crate::error::Result;
use crate::ids::{ConversationId, UserId};
use crate::time::Timestamp;

/// What happened, as a word of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message entered its conversation.
    MessageCreated,
    /// A message was edited.
    MessageUpdated,
    /// A message became a tombstone.
    MessageDeleted,
    /// Somebody asked somebody to be a friend.
    FriendRequested,
    /// They became friends.
    FriendAccepted,
    /// There is nothing between them any more.
    FriendRemoved,
    /// A group was made, or a direct conversation.
    ConversationCreated,
    /// Its title, picture or rules changed.
    ConversationUpdated,
    /// A group was ended.
    ConversationDeleted,
    /// Somebody is in a group now.
    MemberAdded,
    /// Somebody has another role there.
    MemberUpdated,
    /// Somebody is not in it any more.
    MemberRemoved,
    /// An emoji was put under a message.
    ReactionAdded,
    /// It was taken back.
    ReactionRemoved,
    /// Somebody's watermark moved.
    ReceiptUpdated,
}

impl Kind {
    /// As it stands in the log and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MessageCreated => "message.created",
            Self::MessageUpdated => "message.updated",
            Self::MessageDeleted => "message.deleted",
            Self::FriendRequested => "friend.requested",
            Self::FriendAccepted => "friend.accepted",
            Self::FriendRemoved => "friend.removed",
            Self::ConversationCreated => "conversation.created",
            Self::ConversationUpdated => "conversation.updated",
            Self::ConversationDeleted => "conversation.deleted",
            Self::MemberAdded => "member.added",
            Self::MemberUpdated => "member.updated",
            Self::MemberRemoved => "member.removed",
            Self::ReactionAdded => "reaction.added",
            Self::ReactionRemoved => "reaction.removed",
            Self::ReceiptUpdated => "receipt.updated",
        }
    }
}

/// An event to be logged: references only.
#[derive(Clone, Copy, Debug)]
pub struct NewEvent<'a> {
    /// What.
    pub kind: Kind,
    /// Where, unless it is between two people.
    pub conversation_id: Option<ConversationId>,
    /// Which message, if it is about one.
    pub seq: Option<i64>,
    /// Who did it.
    pub actor_id: UserId,
    /// To whom, if it is about somebody.
    pub subject_id: Option<UserId>,
    /// An emoji, where it is about one.
    pub detail: Option<&'a str>,
    /// When.
    pub at: Timestamp,
}

impl NewEvent<'_> {
    /// An event of a conversation.
    pub const fn of_conversation(kind: Kind, conversation: ConversationId, actor_id: UserId, at: Timestamp) -> Self {
        let conversation_id = Some(conversation);
        Self { kind, conversation_id, seq: None, actor_id, subject_id: None, detail: None, at }
    }

    /// An event between two people.
    pub const fn between(kind: Kind, actor_id: UserId, subject: UserId, at: Timestamp) -> Self {
        Self { kind, conversation_id: None, seq: None, actor_id, subject_id: Some(subject), detail: None, at }
    }

    /// Of a message of the conversation.
    #[must_use]
    pub const fn message(self, seq: i64) -> Self {
        Self { seq: Some(seq), ..self }
    }

    /// About somebody.
    #[must_use]
    pub const fn about(self, subject: UserId) -> Self {
        Self { subject_id: Some(subject), ..self }
    }
}

/// Logs events in the given order: one statement on PostgreSQL, where sends do it with the messages (`store::sends`).
pub async fn append(conn: &mut Conn, events: &[NewEvent<'_>]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let count = events.len() as i64;
    let last = conn
        .one(
            "UPDATE messaging.event_log SET last_position = last_position + $1 RETURNING last_position",
            &[Value::I64(count)],
            |row| row.i64(0),
        )
        .await?;
    let first = last - count + 1;
    if let Conn::Postgres(_) = conn {
        return append_set(conn, events, first).await;
    }
    for (event, position) in events.iter().zip(first..) {
        conn.execute(
            "INSERT INTO messaging.events (position, type, conversation_id, seq, actor_id, subject_id, detail, at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            &[
                Value::I64(position),
                Value::Text(event.kind.as_str()),
                Value::OptionI64(event.conversation_id.map(|id| id.0)),
                Value::OptionI64(event.seq),
                Value::I64(event.actor_id.0),
                Value::OptionI64(event.subject_id.map(|id| id.0)),
                Value::OptionText(event.detail),
                Value::Time(event.at),
            ],
        )
        .await?;
    }
    Ok(())
}

async fn append_set(conn: &mut Conn, events: &[NewEvent<'_>], first: i64) -> Result<()> {
    let positions: Vec<i64> = (first..).take(events.len()).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    let conversations: Vec<Option<i64>> = events.iter().map(|event| event.conversation_id.map(|id| id.0)).collect();
    let seqs: Vec<Option<i64>> = events.iter().map(|event| event.seq).collect();
    let actors: Vec<i64> = events.iter().map(|event| event.actor_id.0).collect();
    let subjects: Vec<Option<i64>> = events.iter().map(|event| event.subject_id.map(|id| id.0)).collect();
    let details: Vec<Option<&str>> = events.iter().map(|event| event.detail).collect();
    let times: Vec<Timestamp> = events.iter().map(|event| event.at).collect();
    conn.execute(
        "INSERT INTO messaging.events (position, type, conversation_id, seq, actor_id, subject_id, detail, at)
         SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                              $7::text[], $8::timestamptz[])",
        &[
            Value::I64s(&positions),
            Value::Texts(&kinds),
            Value::OptionI64s(&conversations),
            Value::OptionI64s(&seqs),
            Value::I64s(&actors),
            Value::OptionI64s(&subjects),
            Value::OptionTexts(&details),
            Value::Times(&times),
        ],
    )
    .await?;
    Ok(())
}

/// Keeps every other transaction from logging until this one ends.
pub async fn lock(conn: &mut Conn) -> Result<()> {
    conn.one("SELECT id FROM messaging.event_log WHERE id = 1 FOR UPDATE", &[], |row| row.i64(0)).await?;
    Ok(())
}

/// The position of the newest event; 0 while there is none.
pub async fn last_position(conn: &mut Conn) -> Result<i64> {
    conn.one("SELECT last_position FROM messaging.event_log WHERE id = 1", &[], |row| row.i64(0)).await
}
