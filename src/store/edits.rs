//! Rows of `messaging.message_edits`, and the changes of a message that lead to them.
//!
//! Invariants: a message is changed under its conversation's lock; whoever changes what is there raises the conversation's
//! `content_version`; a tombstone has no earlier bodies.

use super::idempotency::Digest;
use super::mentions;
use super::messages::Kind;
use super::{Conn, Row, Value, search, threads};
use crate::error::Result;
use crate::ids::{ConversationId, UserId};
use crate::time::Timestamp;

/// What a change needs to know of a message.
#[derive(Clone, Debug)]
pub struct Present {
    /// Who said it.
    pub sender_id: UserId,
    /// What sort it is.
    pub kind: Kind,
    /// Its body.
    pub body: String,
    /// When that body was written.
    pub written_at: Timestamp,
    /// Whether it is a tombstone.
    pub deleted: bool,
    /// Where the answer to its send is stored.
    pub key: Option<(i64, Digest)>,
}

/// A body that a message had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edition {
    /// The body.
    pub body: String,
    /// When it was written.
    pub at: Timestamp,
}

fn present(row: &Row<'_>) -> Result<Present> {
    let digest = row.option_bytes(6)?.and_then(|bytes| Digest::try_from(bytes).ok());
    Ok(Present {
        sender_id: UserId(row.i64(0)?),
        kind: Kind::parse(row.text(1)?),
        body: row.text(2)?.to_owned(),
        written_at: row.time(3)?,
        deleted: row.bool(4)?,
        key: row.option_i64(5)?.zip(digest),
    })
}

/// A message that is about to be changed.
pub async fn present_message(conn: &mut Conn, conversation: ConversationId, seq: i64) -> Result<Option<Present>> {
    conn.first(
        "SELECT sender_id, kind, body, coalesce(edited_at, created_at), deleted_at IS NOT NULL, idempotency_day,
                idempotency_digest
           FROM messaging.messages WHERE conversation_id = $1 AND seq = $2",
        &[Value::I64(conversation.0), Value::I64(seq)],
        present,
    )
    .await
}

/// Keeps a body that a message had; editions count from 1.
pub async fn put(
    conn: &mut Conn,
    conversation: ConversationId,
    seq: i64,
    number: i64,
    edition: &Edition,
) -> Result<()> {
    conn.execute(
        "INSERT INTO messaging.message_edits (conversation_id, seq, edition, body, at) VALUES ($1, $2, $3, $4, $5)",
        &[
            Value::I64(conversation.0),
            Value::I64(seq),
            Value::I64(number),
            Value::Text(&edition.body),
            Value::Time(edition.at),
        ],
    )
    .await?;
    Ok(())
}

/// Gives a message another body.
pub async fn set_body(
    conn: &mut Conn,
    conversation: ConversationId,
    seq: i64,
    body: &str,
    now: Timestamp,
) -> Result<()> {
    conn.execute(
        "UPDATE messaging.messages SET body = $3, edited_at = $4 WHERE conversation_id = $1 AND seq = $2",
        &[Value::I64(conversation.0), Value::I64(seq), Value::Text(body), Value::Time(now)],
    )
    .await?;
    search::renew(conn, conversation, &[seq]).await
}

/// How often a message was edited.
pub async fn count(conn: &mut Conn, conversation: ConversationId, seq: i64) -> Result<i64> {
    conn.one(
        "SELECT count(*) FROM messaging.message_edits WHERE conversation_id = $1 AND seq = $2",
        &[Value::I64(conversation.0), Value::I64(seq)],
        |row| row.i64(0),
    )
    .await
}

/// The bodies that a message had before, oldest first.
pub async fn list(conn: &mut Conn, conversation: ConversationId, seq: i64) -> Result<Vec<Edition>> {
    conn.rows(
        "SELECT body, at FROM messaging.message_edits WHERE conversation_id = $1 AND seq = $2 ORDER BY edition",
        &[Value::I64(conversation.0), Value::I64(seq)],
        |row| Ok(Edition { body: row.text(0)?.to_owned(), at: row.time(1)? }),
    )
    .await
}

/// Makes messages of a conversation tombstones, which they are not yet, and forgets what they said before and what was put
/// on them.
pub async fn bury(conn: &mut Conn, conversation: ConversationId, seqs: &[i64], now: Timestamp) -> Result<()> {
    mentions::delete(conn, conversation, seqs).await?;
    conn.execute(
        "DELETE FROM messaging.message_edits WHERE conversation_id = $1 AND seq = ANY($2)",
        &[Value::I64(conversation.0), Value::I64s(seqs)],
    )
    .await?;
    conn.execute(
        "DELETE FROM messaging.reactions WHERE conversation_id = $1 AND seq = ANY($2)",
        &[Value::I64(conversation.0), Value::I64s(seqs)],
    )
    .await?;
    conn.execute(
        "UPDATE messaging.messages
            SET body = '', deleted_at = $3, edited_at = NULL, pinned_at = NULL, reaction_counts = NULL
          WHERE conversation_id = $1 AND seq = ANY($2)",
        &[Value::I64(conversation.0), Value::I64s(seqs), Value::Time(now)],
    )
    .await?;
    search::renew(conn, conversation, seqs).await?;
    threads::lower(conn, conversation, seqs).await
}
