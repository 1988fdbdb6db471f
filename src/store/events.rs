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
        }
    }
}

/// An event to be logged: references only.
#[derive(Clone, Copy, Debug)]
pub struct NewEvent {
    /// What.
    pub kind: Kind,
    /// Where.
    pub conversation_id: ConversationId,
    /// Which message.
    pub seq: i64,
    /// Who did it.
    pub actor_id: UserId,
    /// When.
    pub at: Timestamp,
}

/// Logs events in the given order, one statement each: sends on PostgreSQL do it in one (`store::sends`).
pub async fn append(conn: &mut Conn, events: &[NewEvent]) -> Result<()> {
    let count = events.len() as i64;
    let last = conn
        .one(
            "UPDATE messaging.event_log SET last_position = last_position + $1 RETURNING last_position",
            &[Value::I64(count)],
            |row| row.i64(0),
        )
        .await?;
    for (event, position) in events.iter().zip(last - count + 1..) {
        conn.execute(
            "INSERT INTO messaging.events (position, type, conversation_id, seq, actor_id, at)
             VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                Value::I64(position),
                Value::Text(event.kind.as_str()),
                Value::I64(event.conversation_id.0),
                Value::I64(event.seq),
                Value::I64(event.actor_id.0),
                Value::Time(event.at),
            ],
        )
        .await?;
    }
    Ok(())
}

/// An event between two people, outside of conversations.
#[derive(Clone, Copy, Debug)]
pub struct PersonEvent {
    /// What.
    pub kind: Kind,
    /// Who did it.
    pub actor_id: UserId,
    /// To whom.
    pub subject_id: UserId,
    /// When.
    pub at: Timestamp,
}

/// Logs an event between two people.
pub async fn append_about_person(conn: &mut Conn, event: PersonEvent) -> Result<()> {
    let position = conn
        .one("UPDATE messaging.event_log SET last_position = last_position + 1 RETURNING last_position", &[], |row| {
            row.i64(0)
        })
        .await?;
    conn.execute(
        "INSERT INTO messaging.events (position, type, actor_id, subject_id, at) VALUES ($1, $2, $3, $4, $5)",
        &[
            Value::I64(position),
            Value::Text(event.kind.as_str()),
            Value::I64(event.actor_id.0),
            Value::I64(event.subject_id.0),
            Value::Time(event.at),
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
