//! Pins: `pinned_at` of `messaging.messages`.
//!
//! Invariant: a pin changes only under the lock of the conversation. A tombstone is not pinned.

use crate::base::error::Result;
use crate::base::ids::ConversationId;
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::driver::values::Value;

/// The number of pinned messages of a conversation.
pub async fn count(conn: &mut Conn, conversation: ConversationId) -> Result<i64> {
    conn.one(
        "SELECT count(*) FROM messaging.messages WHERE conversation_id = $1 AND pinned_at IS NOT NULL",
        &[Value::I64(conversation.0)],
        |row| row.i64(0),
    )
    .await
}

/// Pins a message, or removes its pin.
pub async fn set(conn: &mut Conn, conversation: ConversationId, seq: i64, pinned_at: Option<Timestamp>) -> Result<()> {
    conn.execute(
        "UPDATE messaging.messages SET pinned_at = $3 WHERE conversation_id = $1 AND seq = $2",
        &[Value::I64(conversation.0), Value::I64(seq), Value::OptionTime(pinned_at)],
    )
    .await?;
    Ok(())
}

/// The `seq`s of the pinned messages of a conversation from `first_seq` on, the latest pin first. Only pins that are older
/// than the place `before`.
pub async fn list(
    conn: &mut Conn,
    conversation: ConversationId,
    first_seq: i64,
    before: (Timestamp, i64),
    limit: i64,
) -> Result<Vec<i64>> {
    conn.rows(
        "SELECT seq FROM messaging.messages
          WHERE conversation_id = $1 AND pinned_at IS NOT NULL AND (pinned_at, seq) < ($2, $3) AND seq >= $4
          ORDER BY pinned_at DESC, seq DESC LIMIT $5",
        &[
            Value::I64(conversation.0),
            Value::Time(before.0),
            Value::I64(before.1),
            Value::I64(first_seq),
            Value::I64(limit),
        ],
        |row| row.i64(0),
    )
    .await
}
