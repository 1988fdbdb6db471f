//! Rows of `messaging.message_edits`: the earlier bodies of messages. Also the statements of the edits that create them.
//!
//! Invariants: a message changes only under the lock of its conversation. A change of an existing message raises the
//! `content_version` of the conversation. A tombstone has no earlier bodies.

use super::digests::{Checked, Fields};
use super::link_previews;
use super::messages::{Kind, Message, StoredMessage};
use super::search;
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::columns::{Columns, columns, read, sql};
use crate::store::db::{Conn, Row};
use crate::store::driver::values::Value;
use crate::store::shared::idempotency::{Digest, key};

/// The parts of a message that an edit or a deletion needs.
#[derive(Debug)]
pub struct Present {
    /// The sender.
    pub sender_id: UserId,
    /// The kind of the message.
    pub kind: Kind,
    /// Whether it is a tombstone.
    pub deleted: bool,
    /// The idempotency key under which the answer to its send is stored.
    pub key: Option<(i64, Digest)>,
    /// The message, or an error that describes its damage. A damaged message can still be deleted.
    pub message: Result<Message>,
}

/// An earlier body of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierText {
    /// The body.
    pub body: String,
    /// When it was written.
    pub at: Timestamp,
}

impl EarlierText {
    /// The digest of an earlier body. `number` counts the editions of the message from 1.
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

columns! {
    Present {
        sender_id: "m.sender_id",
        kind: "m.kind",
        deleted: "m.deleted_at IS NOT NULL",
        day: "m.idempotency_day",
        digest: "m.idempotency_digest",
        message: StoredMessage::COLUMNS,
    } => Present { sender_id, kind, deleted, key: key(day, digest), message }
}

/// Reads a message that is about to be changed. `None` when it does not exist.
pub async fn present_message(conn: &mut Conn, conversation: ConversationId, seq: i64) -> Result<Option<Present>> {
    conn.first(
        sql!("SELECT ", Present::COLUMNS, " FROM messaging.messages m WHERE m.conversation_id = $1 AND m.seq = $2"),
        &[Value::I64(conversation.0), Value::I64(seq)],
        read,
    )
    .await
}

/// Stores an earlier body. `number` counts the editions of the message from 1.
pub async fn put(
    conn: &mut Conn,
    conversation: ConversationId,
    seq: i64,
    number: i64,
    edition: &EarlierText,
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

/// Replaces the body of a message. `message` is its current state. `keeps_preview` is whether the first link stays the same.
pub async fn set_body(
    conn: &mut Conn,
    message: Message,
    body: &str,
    keeps_preview: bool,
    now: Timestamp,
) -> Result<()> {
    let mut message = Message { body: body.to_owned(), edited_at: Some(now), ..message };
    if !keeps_preview {
        link_previews::take(conn, &mut message).await?;
    }
    conn.execute(
        "UPDATE messaging.messages SET body = $3, edited_at = $4, digest = $5, link_preview = $6
          WHERE conversation_id = $1 AND seq = $2",
        &[
            Value::I64(message.conversation_id.0),
            Value::I64(message.seq),
            Value::Text(body),
            Value::Time(now),
            Value::I64(message.digest()),
            Value::OptionText(message.link_preview.stored()),
        ],
    )
    .await?;
    search::renew(conn, message.conversation_id, &[message.seq]).await
}

/// The number of edits of a message.
pub async fn count(conn: &mut Conn, conversation: ConversationId, seq: i64) -> Result<i64> {
    conn.one(
        "SELECT count(*) FROM messaging.message_edits WHERE conversation_id = $1 AND seq = $2",
        &[Value::I64(conversation.0), Value::I64(seq)],
        |row| row.i64(0),
    )
    .await
}

/// An earlier body that has not been compared with its digest.
struct StoredEdition {
    edition: EarlierText,
    digest: Option<i64>,
}

columns! {
    StoredEdition {
        body: "e.body",
        at: "e.at",
        digest: "e.digest",
    } => StoredEdition { edition: EarlierText { body, at }, digest }
}

/// Lists the earlier bodies of a message, oldest first.
///
/// # Errors
/// [`Error::Damaged`] when one of them is damaged; errors of the database.
pub async fn list(conn: &mut Conn, conversation: ConversationId, seq: i64) -> Result<Vec<EarlierText>> {
    conn.rows(
        sql!(
            "SELECT e.conversation_id, e.seq, e.edition, ",
            StoredEdition::COLUMNS,
            " FROM messaging.message_edits e WHERE e.conversation_id = $1 AND e.seq = $2 ORDER BY e.edition"
        ),
        &[Value::I64(conversation.0), Value::I64(seq)],
        |row| checked_edition(row).map(|(edition, _)| edition),
    )
    .await
}

/// The place of an earlier body: its conversation, seq and edition.
pub type EditionPlace = (ConversationId, i64, i64);

/// The next earlier bodies of the whole database after a place, in order. Each comes with its place. A damaged one is an
/// error in the list.
pub async fn list_after(
    conn: &mut Conn,
    (conversation, seq, number): EditionPlace,
    limit: i64,
) -> Result<Vec<(EditionPlace, Result<Checked>)>> {
    conn.rows(
        sql!(
            "SELECT e.conversation_id, e.seq, e.edition, ",
            StoredEdition::COLUMNS,
            " FROM messaging.message_edits e WHERE (e.conversation_id, e.seq, e.edition) > ($1, $2, $3)
              ORDER BY e.conversation_id, e.seq, e.edition LIMIT $4"
        ),
        &[Value::I64(conversation.0), Value::I64(seq), Value::I64(number), Value::I64(limit)],
        |row| Ok((read(row)?, checked_edition(row).map(|(_, checked)| checked))),
    )
    .await
}

/// Reads an earlier body, whose place comes first in the row, and compares it with its digest.
fn checked_edition(row: &Row<'_>) -> Result<(EarlierText, Checked)> {
    let next = &mut 0;
    let (conversation, seq, number) = EditionPlace::read_from(row, next)?;
    let damaged = |source| Error::Damaged { conversation_id: conversation.0, seq, source };
    match StoredEdition::read_from(row, next) {
        Ok(StoredEdition { edition, digest: Some(digest) }) if digest != edition.digest(conversation, seq, number) => {
            Err(damaged(format!("its earlier body {number} does not match its digest").into()))
        }
        Ok(StoredEdition { edition, digest: Some(_) }) => Ok((edition, Checked::Matches)),
        Ok(StoredEdition { edition, digest: None }) => Ok((edition, Checked::NoDigest)),
        Err(Error::Internal(source)) => Err(damaged(source)),
        Err(error) => Err(error),
    }
}
