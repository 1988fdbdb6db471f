//! Threads: the number of replies to a message, which is stored in the row of the message.
//!
//! Invariant: `reply_count` is the number of replies that are not tombstones, and `last_reply_at` is the time at which the
//! last of them was sent. Both change under the lock of the conversation, in the transaction that adds or removes a reply.

use std::collections::BTreeMap;

use super::messages::Message;
use crate::base::error::Result;
use crate::base::ids::ConversationId;
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::driver::values::Value;

/// A message that replies to another one.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// The conversation.
    pub conversation: ConversationId,
    /// The `seq` of the message that it replies to.
    pub parent: i64,
    /// When the reply was sent.
    pub sent_at: Timestamp,
}

impl Reply {
    /// The reply that a message is. `None` if it replies to nothing.
    pub fn of(message: &Message) -> Option<Self> {
        let (conversation, sent_at) = (message.conversation_id, message.timestamp_sent);
        Some(Self { conversation, parent: message.reply_to?, sent_at })
    }
}

/// Adds new replies to the counts of their parents. This changes what the parents show, so the content versions of their
/// conversations rise too.
pub async fn raise(conn: &mut Conn, replies: &[Reply]) -> Result<()> {
    let mut parents: BTreeMap<(ConversationId, i64), (i64, Timestamp)> = BTreeMap::new();
    for reply in replies {
        let (count, last) = parents.entry((reply.conversation, reply.parent)).or_insert((0, reply.sent_at));
        *count += 1;
        *last = (*last).max(reply.sent_at);
    }
    if parents.is_empty() {
        return Ok(());
    }
    if let Conn::Sqlite(_) = conn {
        for ((conversation, parent), (count, last)) in &parents {
            conn.execute(
                "UPDATE messaging.messages SET reply_count = reply_count + $3, last_reply_at = $4
                  WHERE conversation_id = $1 AND seq = $2",
                &[Value::I64(conversation.0), Value::I64(*parent), Value::I64(*count), Value::Time(*last)],
            )
            .await?;
            crate::store::conversations::conversations::mark_changed(conn, *conversation).await?;
        }
        return Ok(());
    }
    conn.execute(
        "WITH parents AS (
             UPDATE messaging.messages m SET reply_count = m.reply_count + n.replies, last_reply_at = n.last_at
               FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[])
                    AS n (conversation_id, seq, replies, last_at)
              WHERE m.conversation_id = n.conversation_id AND m.seq = n.seq RETURNING m.conversation_id)
         UPDATE messaging.conversations SET content_version = content_version + 1
          WHERE id IN (SELECT conversation_id FROM parents)",
        &[
            Value::I64s(&parents.keys().map(|(conversation, _)| conversation.0).collect::<Vec<_>>()),
            Value::I64s(&parents.keys().map(|(_, parent)| *parent).collect::<Vec<_>>()),
            Value::I64s(&parents.values().map(|(count, _)| *count).collect::<Vec<_>>()),
            Value::Times(&parents.values().map(|(_, last)| *last).collect::<Vec<_>>()),
        ],
    )
    .await?;
    Ok(())
}

/// Subtracts messages of a conversation that have just become tombstones from the counts of their parents.
pub async fn lower(conn: &mut Conn, conversation: ConversationId, seqs: &[i64]) -> Result<()> {
    conn.execute(
        "UPDATE messaging.messages
            SET reply_count = reply_count - (SELECT count(*) FROM messaging.messages r
                                              WHERE r.conversation_id = $1 AND r.reply_to = messages.seq
                                                AND r.seq = ANY($2)),
                last_reply_at = (SELECT r.timestamp_sent FROM messaging.messages r
                                  WHERE r.conversation_id = $1 AND r.reply_to = messages.seq AND r.deleted_at IS NULL
                                  ORDER BY r.seq DESC LIMIT 1)
          WHERE conversation_id = $1
            AND seq IN (SELECT t.reply_to FROM messaging.messages t
                         WHERE t.conversation_id = $1 AND t.seq = ANY($2) AND t.reply_to IS NOT NULL)",
        &[Value::I64(conversation.0), Value::I64s(seqs)],
    )
    .await?;
    Ok(())
}

/// The `seq`s of the replies to a message that are not tombstones, after `after`.
pub async fn list(
    conn: &mut Conn,
    conversation: ConversationId,
    parent: i64,
    after: i64,
    limit: i64,
) -> Result<Vec<i64>> {
    conn.rows(
        "SELECT seq FROM messaging.messages
          WHERE conversation_id = $1 AND reply_to = $2 AND seq > $3 AND deleted_at IS NULL ORDER BY seq LIMIT $4",
        &[Value::I64(conversation.0), Value::I64(parent), Value::I64(after), Value::I64(limit)],
        |row| row.i64(0),
    )
    .await
}
