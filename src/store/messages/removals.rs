//! Removing messages: turning them into tombstones, and deleting the messages of deleted conversations.
//!
//! Invariant: removed text leaves the search index in the same transaction. The digest of a tombstone covers what remains of
//! the message.

use super::link_previews::LinkPreview;
use super::messages::{self, Message};
use super::{DELETED_WITH_MESSAGES, search, threads};
use crate::base::error::Result;
use crate::base::ids::ConversationId;
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::driver::values::Value;
use crate::store::files::attachments::AttachmentList;

/// Turns messages of a conversation into tombstones, and deletes their earlier bodies, mentions, reactions and attachments.
/// The messages must not be tombstones yet. They are deleted at `now`, and never before they were sent or edited.
pub async fn make_tombstones(
    conn: &mut Conn,
    conversation: ConversationId,
    seqs: &[i64],
    now: Timestamp,
) -> Result<()> {
    let places: Vec<(ConversationId, i64)> = seqs.iter().map(|seq| (conversation, *seq)).collect();
    let before = messages::each_at(conn, &places).await?;
    delete_belongings(conn, conversation, seqs).await?;
    conn.execute(
        "UPDATE messaging.messages
            SET body = '', edited_at = NULL, pinned_at = NULL, reaction_counts = NULL, attachments = NULL,
                link_preview = NULL, digest = NULL,
                deleted_at = CASE WHEN edited_at > $3 AND edited_at > timestamp_sent THEN edited_at
                                  WHEN timestamp_sent > $3 THEN timestamp_sent ELSE $3 END
          WHERE conversation_id = $1 AND seq = ANY($2)",
        &[Value::I64(conversation.0), Value::I64s(seqs), Value::Time(now)],
    )
    .await?;
    // A damaged message gets no digest, because what remains of it may be wrong.
    let sound = before.into_iter().filter_map(Result::ok);
    let tombstone = |message: Message| Message {
        body: String::new(),
        attachments: AttachmentList::default(),
        link_preview: LinkPreview::default(),
        deleted_at: Some(now.max(message.last_changed_at())),
        edited_at: None,
        ..message
    };
    write_digests(conn, &sound.map(tombstone).collect::<Vec<_>>()).await?;
    search::renew(conn, conversation, seqs).await?;
    threads::lower(conn, conversation, seqs).await
}

/// Deletes the first `limit` messages of a deleted conversation, with all rows that belong to them. Returns how many
/// messages it deleted.
pub async fn delete_first(conn: &mut Conn, conversation: ConversationId, limit: i64) -> Result<u64> {
    let place = [Value::I64(conversation.0), Value::I64(limit)];
    let sql = "SELECT seq, id FROM messaging.messages WHERE conversation_id = $1 ORDER BY seq LIMIT $2";
    let found = conn.rows(sql, &place, |row| Ok((row.i64(0)?, row.i64(1)?))).await?;
    let (seqs, ids): (Vec<i64>, Vec<i64>) = found.into_iter().unzip();
    search::remove(conn, &ids).await?;
    delete_belongings(conn, conversation, &seqs).await?;
    conn.execute(
        "DELETE FROM messaging.messages WHERE conversation_id = $1 AND seq = ANY($2)",
        &[place[0], Value::I64s(&seqs)],
    )
    .await?;
    Ok(seqs.len() as u64)
}

async fn delete_belongings(conn: &mut Conn, conversation: ConversationId, seqs: &[i64]) -> Result<()> {
    for sql in DELETED_WITH_MESSAGES {
        conn.execute(sql, &[Value::I64(conversation.0), Value::I64s(seqs)]).await?;
    }
    Ok(())
}

/// Stores the digests of messages. `messages` must contain the same values as the rows in the database.
async fn write_digests(conn: &mut Conn, messages: &[Message]) -> Result<()> {
    if let Conn::Sqlite(_) = conn {
        for message in messages {
            conn.execute(
                "UPDATE messaging.messages SET digest = $3 WHERE conversation_id = $1 AND seq = $2",
                &[Value::I64(message.conversation_id.0), Value::I64(message.seq), Value::I64(message.digest())],
            )
            .await?;
        }
        return Ok(());
    }
    let column = |read: fn(&Message) -> i64| messages.iter().map(read).collect::<Vec<i64>>();
    conn.execute(
        "UPDATE messaging.messages m SET digest = n.digest
           FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS n (conversation_id, seq, digest)
          WHERE m.conversation_id = n.conversation_id AND m.seq = n.seq",
        &[
            Value::I64s(&column(|message| message.conversation_id.0)),
            Value::I64s(&column(|message| message.seq)),
            Value::I64s(&column(Message::digest)),
        ],
    )
    .await
    .map(drop)
}
