//! Rows of `messaging.message_edits`, and the changes of a message that lead to them.
//!
//! Invariants: a message is changed under its conversation's lock; whoever changes what is there raises the conversation's
//! `content_version`; a tombstone has no earlier bodies.

use super::db::{Conn, Row};
use super::digests::{Checked, Fields};
use super::idempotency::Digest;
use super::messages::{self, Kind, Message};
use super::search;
use super::values::Value;
use crate::error::{Error, Result};
use crate::ids::{ConversationId, UserId};
use crate::time::Timestamp;

/// What a change needs to know of a message.
#[derive(Debug)]
pub struct Present {
    /// Who said it.
    pub sender_id: UserId,
    /// What sort it is.
    pub kind: Kind,
    /// Whether it is a tombstone.
    pub deleted: bool,
    /// Where the answer to its send is stored.
    pub key: Option<(i64, Digest)>,
    /// The message, or why it is damaged: it can be deleted all the same.
    pub message: Result<Message>,
}

/// A body that a message had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edition {
    /// The body.
    pub body: String,
    /// When it was written.
    pub at: Timestamp,
}

impl Edition {
    /// The digest of a body that a message had; `number` is its edition, from 1.
    fn digest(&self, conversation: ConversationId, seq: i64, number: i64) -> i64 {
        let mut fields = Fields::<6>::default();
        fields.put(conversation.0);
        fields.put(seq);
        fields.put(number);
        fields.put_text(&self.body);
        fields.put(self.at.micros());
        fields.digest()
    }
}

fn present(row: &Row<'_>) -> Result<Present> {
    let digest = row.option_bytes(messages::COLUMN_COUNT + 1)?.and_then(|bytes| Digest::try_from(bytes).ok());
    Ok(Present {
        kind: Kind::parse(row.text(4)?)?,
        sender_id: UserId(row.i64(5)?),
        deleted: row.option_time(13)?.is_some(),
        key: row.option_i64(messages::COLUMN_COUNT)?.zip(digest),
        message: messages::message(row),
    })
}

/// A message that is about to be changed.
pub async fn present_message(conn: &mut Conn, conversation: ConversationId, seq: i64) -> Result<Option<Present>> {
    conn.first(
        messages::message_columns!(
            ", m.idempotency_day, m.idempotency_digest
               FROM messaging.messages m WHERE m.conversation_id = $1 AND m.seq = $2"
        ),
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
        "INSERT INTO messaging.message_edits (conversation_id, seq, edition, body, at, digest)
         VALUES ($1, $2, $3, $4, $5, $6)",
        &[
            Value::I64(conversation.0),
            Value::I64(seq),
            Value::I64(number),
            Value::Text(&edition.body),
            Value::Time(edition.at),
            Value::I64(edition.digest(conversation, seq, number)),
        ],
    )
    .await?;
    Ok(())
}

/// Gives a message, as it is now, another body.
pub async fn set_body(conn: &mut Conn, message: Message, body: &str, now: Timestamp) -> Result<()> {
    let message = Message { body: body.to_owned(), edited_at: Some(now), ..message };
    conn.execute(
        "UPDATE messaging.messages SET body = $3, edited_at = $4, digest = $5 WHERE conversation_id = $1 AND seq = $2",
        &[
            Value::I64(message.conversation_id.0),
            Value::I64(message.seq),
            Value::Text(body),
            Value::Time(now),
            Value::I64(message.digest()),
        ],
    )
    .await?;
    search::renew(conn, message.conversation_id, &[message.seq]).await
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
///
/// # Errors
/// [`Error::Damaged`] when one of them is; of the database.
pub async fn list(conn: &mut Conn, conversation: ConversationId, seq: i64) -> Result<Vec<Edition>> {
    conn.rows(
        "SELECT conversation_id, seq, edition, body, at, digest FROM messaging.message_edits
          WHERE conversation_id = $1 AND seq = $2 ORDER BY edition",
        &[Value::I64(conversation.0), Value::I64(seq)],
        edition,
    )
    .await
}

/// The place of an earlier body: its conversation, seq and edition.
pub type EditionPlace = (ConversationId, i64, i64);

/// The next earlier bodies of the whole database behind a place, in order; in the place of a damaged one the error that says
/// so. Each comes with its place.
pub async fn each_behind(
    conn: &mut Conn,
    (conversation, seq, number): EditionPlace,
    limit: i64,
) -> Result<Vec<(EditionPlace, Result<Checked>)>> {
    conn.rows(
        "SELECT conversation_id, seq, edition, body, at, digest FROM messaging.message_edits
          WHERE (conversation_id, seq, edition) > ($1, $2, $3) ORDER BY conversation_id, seq, edition LIMIT $4",
        &[Value::I64(conversation.0), Value::I64(seq), Value::I64(number), Value::I64(limit)],
        |row| {
            let place = (ConversationId(row.i64(0)?), row.i64(1)?, row.i64(2)?);
            let checked = if row.option_i64(5)?.is_some() { Checked::Matches } else { Checked::NoDigest };
            Ok((place, edition(row).map(|_| checked)))
        },
    )
    .await
}

/// Reads an earlier body and compares it with its digest.
fn edition(row: &Row<'_>) -> Result<Edition> {
    let (conversation_id, seq, number) = (row.i64(0)?, row.i64(1)?, row.i64(2)?);
    let damaged = |source| Error::Damaged { conversation_id, seq, source };
    let read = || {
        let edition = Edition { body: row.text(3)?.to_owned(), at: row.time(4)? };
        Ok((edition, row.option_i64(5)?))
    };
    match read() {
        Ok((edition, Some(digest))) if digest != edition.digest(ConversationId(conversation_id), seq, number) => {
            Err(damaged(format!("its earlier body {number} does not match its digest").into()))
        }
        Ok((edition, _)) => Ok(edition),
        Err(Error::Internal(source)) => Err(damaged(source)),
        Err(error) => Err(error),
    }
}
