//! Rows of `messaging.receipts`, and the watermarks in `messaging.members`. Each row records one step: a move of a
//! watermark.
//!
//! Invariants: both are written under the lock of their conversation. Watermarks only rise, and the watermark of delivery is
//! never below the one of reading. Each step has a row, except a step that passes only the member's own messages.

use std::collections::HashMap;

use super::messages::{Message, Range};
use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::columns::{columns, read, sql, word_column};
use crate::store::db::{Conn, words};
use crate::store::driver::values::Value;

/// The two watermarks of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The last message that was delivered to the member.
    Delivered,
    /// The last message that the member has read.
    Read,
}

impl Kind {
    /// The word in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Read => "read",
        }
    }

    pub(in crate::store) fn parse(word: &str) -> Result<Self> {
        words::parse("receipts.kind", &[Self::Delivered, Self::Read], Self::as_str, word)
    }
}

/// The watermarks of a member, and the mark of unread messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// The `seq` of the last delivered message.
    pub delivered_seq: i64,
    /// The `seq` of the last message that was read.
    pub read_seq: i64,
    /// The `seq` of the first message that the member has marked as unread.
    pub unread_from: Option<i64>,
}

columns! {
    Watermarks {
        delivered_seq: "m.delivered_seq",
        read_seq: "m.read_seq",
        unread_from: "m.unread_from",
    }
}

/// The watermarks of a user in a conversation. `None` when the user is not a member.
pub async fn watermarks_of(conn: &mut Conn, conversation: ConversationId, user: UserId) -> Result<Option<Watermarks>> {
    conn.first(
        sql!(
            "SELECT ",
            Watermarks::COLUMNS,
            " FROM messaging.members m WHERE m.conversation_id = $1 AND m.user_id = $2"
        ),
        &[Value::I64(conversation.0), Value::I64(user.0)],
        read,
    )
    .await
}

pub(in crate::store) async fn set_watermarks(
    conn: &mut Conn,
    conversation: ConversationId,
    user: UserId,
    watermarks: Watermarks,
) -> Result<()> {
    conn.execute(
        "UPDATE messaging.members SET delivered_seq = $3, read_seq = $4, unread_from = $5
          WHERE conversation_id = $1 AND user_id = $2",
        &[
            Value::I64(conversation.0),
            Value::I64(user.0),
            Value::I64(watermarks.delivered_seq),
            Value::I64(watermarks.read_seq),
            Value::OptionI64(watermarks.unread_from),
        ],
    )
    .await?;
    Ok(())
}

pub(in crate::store) async fn insert(
    conn: &mut Conn,
    conversation: ConversationId,
    user: UserId,
    kind: Kind,
    seq: i64,
    at: Timestamp,
) -> Result<()> {
    conn.execute(
        "INSERT INTO messaging.receipts (conversation_id, user_id, kind, seq, at) VALUES ($1, $2, $3, $4, $5)",
        &[Value::I64(conversation.0), Value::I64(user.0), Value::Text(kind.as_str()), Value::I64(seq), Value::Time(at)],
    )
    .await?;
    Ok(())
}

/// Moves the watermarks of a sender to the sender's new message. Returns whether they passed a message of another user. Only
/// for SQLite. PostgreSQL does it in the statement that inserts the messages (`store::batches::sends`).
pub(in crate::store) async fn follow_send(conn: &mut Conn, message: &Message) -> Result<bool> {
    let place = [Value::I64(message.conversation_id.0), Value::I64(message.sender_id.0), Value::I64(message.seq)];
    // Most senders have read everything before their message, so only their row in `members` changes. Everything that was
    // read was also delivered, so both watermarks rise by 1.
    let moved = conn
        .execute(
            "UPDATE messaging.members SET delivered_seq = $3, read_seq = $3, unread_from = NULL
              WHERE conversation_id = $1 AND user_id = $2 AND read_seq = $3 - 1",
            &place,
        )
        .await?;
    if moved > 0 {
        return Ok(false);
    }
    let Some(before) = watermarks_of(conn, message.conversation_id, message.sender_id).await? else {
        return Ok(false);
    };
    for (kind, seq) in [(Kind::Delivered, before.delivered_seq), (Kind::Read, before.read_seq)] {
        if seq < message.seq - 1 {
            insert(conn, message.conversation_id, message.sender_id, kind, message.seq, message.timestamp_sent).await?;
        }
    }
    let after = Watermarks { delivered_seq: message.seq, read_seq: message.seq, unread_from: None };
    set_watermarks(conn, message.conversation_id, message.sender_id, after).await?;
    Ok(true)
}

/// The steps of a member from which the times of delivery and reading of the messages of a range are computed.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The member.
    pub user: UserId,
    /// The number of messages when the member joined.
    pub joined_seq: i64,
    /// Steps of delivery in the order of `seq`.
    pub delivered: Vec<(i64, Timestamp)>,
    /// Steps of reading in the order of `seq`.
    pub read: Vec<(i64, Timestamp)>,
}

impl Progress {
    /// When the member's watermark reached a message: the time of the first step to it or past it. If the clock was set back
    /// after the delivery, the message counts as read at the time of its delivery.
    pub fn reached(&self, kind: Kind, seq: i64) -> Option<Timestamp> {
        let first =
            |steps: &[(i64, Timestamp)]| steps.get(steps.partition_point(|(step, _)| *step < seq)).map(|(_, at)| *at);
        match kind {
            Kind::Delivered => first(&self.delivered),
            Kind::Read => first(&self.read).map(|at| first(&self.delivered).map_or(at, |delivered| delivered.max(at))),
        }
    }
}

/// A member with one step. `step` is `None` when the query found no step for the row.
struct ProgressRow {
    conversation: ConversationId,
    user: UserId,
    joined_seq: i64,
    step: Option<Step>,
}

struct Step {
    seq: i64,
    kind: Kind,
    at: Timestamp,
}

word_column!(Kind);

columns! {
    Step {
        seq: "r.seq",
        kind: "r.kind",
        at: "r.at",
    }
}

columns! {
    ProgressRow {
        conversation: "m.conversation_id",
        user: "m.user_id",
        joined_seq: "m.joined_seq",
        step: Step::COLUMNS,
    }
}

/// The members of each range's conversation, with their steps from the first message of the range to the first step that
/// reaches its last message. Each conversation may have only one range. Conversations of more than `member_limit` members
/// are left out.
pub async fn progress(
    conn: &mut Conn,
    ranges: &[Range],
    member_limit: i64,
) -> Result<HashMap<ConversationId, Vec<Progress>>> {
    let mut found = HashMap::with_capacity(ranges.len());
    if let Conn::Sqlite(_) = conn {
        for range in ranges {
            conn.rows(
                sql!(
                    "SELECT ",
                    ProgressRow::COLUMNS,
                    " FROM messaging.conversations c
                      JOIN messaging.members m ON m.conversation_id = c.id
                      LEFT JOIN (SELECT 'delivered' AS kind UNION ALL SELECT 'read') k ON m.delivered_seq >= $2
                      LEFT JOIN messaging.receipts r
                        ON r.conversation_id = m.conversation_id AND r.user_id = m.user_id AND r.kind = k.kind
                       AND r.seq >= $2
                       AND r.seq <= (SELECT coalesce(min(n.seq), $3) FROM messaging.receipts n
                                      WHERE n.conversation_id = m.conversation_id AND n.user_id = m.user_id
                                        AND n.kind = k.kind AND n.seq >= $3)
                      WHERE c.id = $1 AND c.member_count <= $4
                      ORDER BY m.conversation_id, m.user_id, k.kind, r.seq"
                ),
                &[
                    Value::I64(range.conversation_id.0),
                    Value::I64(range.first_seq),
                    Value::I64(range.last_seq),
                    Value::I64(member_limit),
                ],
                |row| read(row).map(|row| add_progress(&mut found, row)),
            )
            .await?;
        }
        return Ok(found);
    }
    let conversations: Vec<i64> = ranges.iter().map(|range| range.conversation_id.0).collect();
    let first: Vec<i64> = ranges.iter().map(|range| range.first_seq).collect();
    let last: Vec<i64> = ranges.iter().map(|range| range.last_seq).collect();
    conn.rows(
        sql!(
            "SELECT ",
            ProgressRow::COLUMNS,
            " FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS p (conversation_id, first_seq, last_seq)
              JOIN messaging.conversations c ON c.id = p.conversation_id AND c.member_count <= $4
              JOIN messaging.members m ON m.conversation_id = c.id
              LEFT JOIN LATERAL (
                   SELECT s.kind, s.seq, s.at
                     FROM (VALUES ('delivered'), ('read')) AS k (kind)
                     -- At most as many steps matter as there are messages. With the order and the limit they are looked up in
                     -- the primary key from seq to seq. Without them, every step of the member in the conversation is read.
                     JOIN LATERAL (
                          SELECT o.kind, o.seq, o.at FROM messaging.receipts o
                           WHERE o.conversation_id = m.conversation_id AND o.user_id = m.user_id AND o.kind = k.kind
                             AND m.delivered_seq >= p.first_seq AND o.seq >= p.first_seq
                             AND o.seq <= (SELECT coalesce(min(n.seq), p.last_seq) FROM messaging.receipts n
                                            WHERE n.conversation_id = m.conversation_id AND n.user_id = m.user_id
                                              AND n.kind = k.kind AND n.seq >= p.last_seq)
                           ORDER BY o.seq LIMIT p.last_seq - p.first_seq + 1) AS s ON TRUE) AS r ON TRUE
              ORDER BY m.conversation_id, m.user_id, r.kind, r.seq"
        ),
        &[Value::I64s(&conversations), Value::I64s(&first), Value::I64s(&last), Value::I64(member_limit)],
        |row| read(row).map(|row| add_progress(&mut found, row)),
    )
    .await?;
    Ok(found)
}

/// Adds a row to the progress of its conversation. The rows of one member must follow each other.
fn add_progress(found: &mut HashMap<ConversationId, Vec<Progress>>, row: ProgressRow) {
    let ProgressRow { conversation, user, joined_seq, step } = row;
    let members = found.entry(conversation).or_default();
    if members.last().is_none_or(|last| last.user != user) {
        members.push(Progress { user, joined_seq, delivered: Vec::new(), read: Vec::new() });
    }
    if let (Some(member), Some(step)) = (members.last_mut(), step) {
        let steps = match step.kind {
            Kind::Delivered => &mut member.delivered,
            Kind::Read => &mut member.read,
        };
        steps.push((step.seq, step.at));
    }
}

/// When a member received and read a message.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The member.
    pub user: UserId,
    /// The member's name.
    pub user_name: String,
    /// When the message was delivered to the member.
    pub delivered_at: Option<Timestamp>,
    /// When the member read the message.
    pub read_at: Option<Timestamp>,
}

// $2 is the `seq` of the message.
columns! {
    Receipt {
        user: "m.user_id",
        user_name: "u.user_name",
        delivered_at: "(SELECT d.at FROM messaging.receipts d
                         WHERE d.conversation_id = m.conversation_id AND d.user_id = m.user_id AND d.kind = 'delivered'
                           AND d.seq >= $2 ORDER BY d.seq LIMIT 1)",
        read_at: "(SELECT r.at FROM messaging.receipts r
                    WHERE r.conversation_id = m.conversation_id AND r.user_id = m.user_id AND r.kind = 'read'
                      AND r.seq >= $2 ORDER BY r.seq LIMIT 1)",
    } => {
        // As in `Progress::reached`.
        let read_at = Option::map(read_at, |at: Timestamp| at.max(Option::unwrap_or(delivered_at, at)));
        Receipt { user, user_name, delivered_at, read_at }
    }
}

/// The members of a group who have received a message, in the order of their ids, after `after`. The sender, and members who
/// joined after the message, are left out.
pub async fn of_message(conn: &mut Conn, message: &Message, after: UserId, limit: i64) -> Result<Vec<Receipt>> {
    conn.rows(
        sql!(
            "SELECT ",
            Receipt::COLUMNS,
            " FROM messaging.members m JOIN messaging.users u ON u.id = m.user_id
              WHERE m.conversation_id = $1 AND m.user_id > $4 AND m.user_id <> $3 AND m.joined_seq < $2
                AND m.delivered_seq >= $2
              ORDER BY m.user_id LIMIT $5"
        ),
        &[
            Value::I64(message.conversation_id.0),
            Value::I64(message.seq),
            Value::I64(message.sender_id.0),
            Value::I64(after.0),
            Value::I64(limit),
        ],
        read,
    )
    .await
}

/// A step as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// The conversation.
    pub conversation: ConversationId,
    /// The watermark that moved.
    pub kind: Kind,
    /// The `seq` that it moved to.
    pub seq: i64,
    /// When it moved.
    pub at: Timestamp,
}

columns! {
    Kept {
        conversation: "conversation_id",
        kind: "kind",
        seq: "seq",
        at: "at",
    }
}

/// The steps of a user in a conversation, in the order of kind and `seq`, after the place `after`.
pub async fn of_member(
    conn: &mut Conn,
    conversation: ConversationId,
    user: UserId,
    after: (&str, i64),
    limit: i64,
) -> Result<Vec<Kept>> {
    conn.rows(
        sql!(
            "SELECT ",
            Kept::COLUMNS,
            " FROM messaging.receipts
              WHERE conversation_id = $1 AND user_id = $2 AND (kind, seq) > ($3, $4) ORDER BY kind, seq LIMIT $5"
        ),
        &[Value::I64(conversation.0), Value::I64(user.0), Value::Text(after.0), Value::I64(after.1), Value::I64(limit)],
        read,
    )
    .await
}

/// Deletes up to `limit` steps of a user in all conversations. An erasure uses it for conversations of which the user is no
/// longer a member. Returns how many were deleted.
pub async fn forget_rest(conn: &mut Conn, user: UserId, limit: i64) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.receipts
          WHERE (conversation_id, user_id, kind, seq) IN
                (SELECT conversation_id, user_id, kind, seq FROM messaging.receipts WHERE user_id = $1 LIMIT $2)",
        &[Value::I64(user.0), Value::I64(limit)],
    )
    .await
}

/// Deletes up to `limit` steps of a user in a conversation. Returns how many.
pub async fn forget(conn: &mut Conn, conversation: ConversationId, user: UserId, limit: i64) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.receipts
          WHERE conversation_id = $1 AND user_id = $2
            AND (kind, seq) IN (SELECT kind, seq FROM messaging.receipts
                                 WHERE conversation_id = $1 AND user_id = $2 ORDER BY kind, seq LIMIT $3)",
        &[Value::I64(conversation.0), Value::I64(user.0), Value::I64(limit)],
    )
    .await
}
