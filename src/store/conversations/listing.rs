//! The conversations of a user in the order of their last messages, and all conversations by id.

use super::conversation_kinds::Kind;
use super::conversations::Conversation;
use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// The largest number of conversations with messages since the first page that a later page looks at.
const MAX_MOVED: i64 = 1_000;

/// When something was last sent in a conversation.
#[derive(Clone, Copy, Debug)]
pub struct Activity {
    /// The conversation.
    pub id: ConversationId,
    /// The time of the last message. In a conversation without messages, when it was created.
    pub last_sent_at: Timestamp,
    /// When it was created.
    pub created_at: Timestamp,
}

columns! {
    Activity { id: "p.id", last_sent_at: "p.last_sent_at", created_at: "p.created_at" }
}

/// The conversations of a user that are not hidden, latest activity first.
pub async fn latest_of(conn: &mut Conn, user: UserId, limit: i64) -> Result<Vec<Conversation>> {
    conn.rows(
        sql!(
            "SELECT ",
            Conversation::COLUMNS,
            " FROM (SELECT l.id FROM messaging.members k JOIN messaging.conversations l ON l.id = k.conversation_id
                    WHERE k.user_id = $1 AND l.deleted_at IS NULL AND l.last_seq >= k.hidden_below_seq
                    ORDER BY l.last_sent_at DESC, l.id DESC LIMIT $2) AS p
             JOIN messaging.conversations c ON c.id = p.id
             JOIN messaging.members m ON m.conversation_id = c.id AND m.user_id = $1
             ORDER BY c.last_sent_at DESC, c.id DESC"
        ),
        &[Value::I64(user.0), Value::I64(limit)],
        read,
    )
    .await
}

/// The conversations of a user that are not hidden: those with messages after `since`, and before the place `before` up to
/// `limit` others, latest activity first. One statement, so that a conversation that moves meanwhile is not missed.
pub async fn active_before(
    conn: &mut Conn,
    user: UserId,
    since: Timestamp,
    before: (Timestamp, ConversationId),
    limit: i64,
) -> Result<Vec<Activity>> {
    conn.rows(
        sql!(
            "SELECT ",
            Activity::COLUMNS,
            " FROM (SELECT l.id, l.last_sent_at, l.created_at
                      FROM messaging.members k JOIN messaging.conversations l ON l.id = k.conversation_id
                     WHERE k.user_id = $1 AND l.deleted_at IS NULL AND l.last_seq >= k.hidden_below_seq
                       AND l.last_sent_at > $2
                     ORDER BY l.last_sent_at DESC, l.id DESC LIMIT $5) AS p
             UNION ALL
             SELECT ",
            Activity::COLUMNS,
            " FROM (SELECT l.id, l.last_sent_at, l.created_at
                      FROM messaging.members k JOIN messaging.conversations l ON l.id = k.conversation_id
                     WHERE k.user_id = $1 AND l.deleted_at IS NULL AND l.last_seq >= k.hidden_below_seq
                       AND l.last_sent_at <= $2 AND (l.last_sent_at, l.id) < ($3, $4)
                     ORDER BY l.last_sent_at DESC, l.id DESC LIMIT $6) AS p"
        ),
        &[
            Value::I64(user.0),
            Value::Time(since),
            Value::Time(before.0),
            Value::I64(before.1.0),
            Value::I64(MAX_MOVED),
            Value::I64(limit),
        ],
        read,
    )
    .await
}

/// Conversations of a user by their ids, in no particular order. Those that the user has left are missing.
pub async fn by_ids(conn: &mut Conn, user: UserId, ids: &[i64]) -> Result<Vec<Conversation>> {
    conn.rows(
        sql!(
            "SELECT ",
            Conversation::COLUMNS,
            " FROM messaging.conversations c
              JOIN messaging.members m ON m.conversation_id = c.id AND m.user_id = $1
              WHERE c.id = ANY($2) AND c.deleted_at IS NULL"
        ),
        &[Value::I64(user.0), Value::I64s(ids)],
        read,
    )
    .await
}

/// For each conversation the time of its last message that was sent until `at`, found by binary search. Conversations
/// without such a message are left out.
pub async fn last_sent_until(
    conn: &mut Conn,
    conversations: &[i64],
    at: Timestamp,
) -> Result<Vec<(ConversationId, Timestamp)>> {
    conn.rows(
        "WITH RECURSIVE halving (conversation_id, before, behind) AS (
             SELECT c.id, CAST(0 AS BIGINT), c.last_seq + 1 FROM messaging.conversations c WHERE c.id = ANY($1)
             UNION ALL
             SELECT h.conversation_id,
                    CASE WHEN m.timestamp_sent <= $2 THEN m.seq ELSE h.before END,
                    CASE WHEN m.timestamp_sent <= $2 THEN h.behind ELSE m.seq END
               FROM halving h JOIN messaging.messages m
                 ON m.conversation_id = h.conversation_id AND m.seq = (h.before + h.behind) / 2
              WHERE h.behind - h.before > 1)
         SELECT h.conversation_id, n.timestamp_sent
           FROM halving h JOIN messaging.messages n ON n.conversation_id = h.conversation_id AND n.seq = h.before
          WHERE h.behind - h.before <= 1",
        &[Value::I64s(conversations), Value::Time(at)],
        read,
    )
    .await
}

/// All conversations by id, of one kind or of both, after one of them, without the part of a member.
pub async fn all_after(
    conn: &mut Conn,
    after: ConversationId,
    kind: Option<Kind>,
    limit: i64,
) -> Result<Vec<Conversation>> {
    let kinds: &[&str] = match kind {
        None => &["direct", "group"],
        Some(Kind::Direct) => &["direct"],
        Some(Kind::Group) => &["group"],
    };
    conn.rows(
        sql!(
            "SELECT ",
            Conversation::COLUMNS,
            " FROM messaging.conversations c
             LEFT JOIN messaging.members m ON m.conversation_id = c.id AND m.user_id = NULL
             WHERE c.id > $1 AND c.deleted_at IS NULL AND c.kind = ANY($2)
             ORDER BY c.id LIMIT $3"
        ),
        &[Value::I64(after.0), Value::Texts(kinds), Value::I64(limit)],
        read,
    )
    .await
}
