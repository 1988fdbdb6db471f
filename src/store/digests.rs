//! Digests of messages and of their earlier bodies, by which damage to a stored row is found.
//!
//! A digest is XXH3-64: it finds accidents (a flipped bit, a row under another key), and is no protection against somebody
//! who may write into the database.
//!
//! Invariants: whatever writes a column that a digest covers writes the digest with it, or NULL where it cannot compute it.
//! What is covered is never changed without a migration that sets the digests of before to NULL.

use xxhash_rust::xxh3::xxh3_64;

use super::db::Conn;
use super::edits::Edition;
use super::messages::Message;
use super::values::Value;
use crate::error::Result;
use crate::ids::ConversationId;

/// What a comparison with a digest found, where it found no damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The digest matches.
    Matches,
    /// There is none: the row was written by a version that had no digests.
    NoDigest,
}

/// The digest of a message, over what identifies it and what it says. Left out is what others change without reading the
/// message: when it was delivered and read, its replies, reactions and pin, and the key of its send.
pub fn of_message(message: &Message) -> i64 {
    // The order and the width of the fields are what is stored: they are not to be changed.
    let mut fields = Fields::<22>::default();
    fields.put(message.conversation_id.0);
    fields.put(message.seq);
    fields.put(message.id.0);
    fields.put(message.timestamp_sent.micros());
    fields.put_text(message.kind.as_str());
    fields.put(message.sender_id.0);
    fields.put_option(message.recipient_id.map(|id| id.0));
    fields.put(message.created_at.micros());
    fields.put_option(message.reply_to);
    fields.put_text(&message.body);
    fields.put_option(message.edited_at.map(|at| at.micros()));
    fields.put_option(message.deleted_at.map(|at| at.micros()));
    fields.put_text(message.action.map(|action| action.as_str()).unwrap_or_default());
    fields.put_option(message.subject_id.map(|id| id.0));
    fields.digest()
}

/// The digest of a body that a message had; `number` is its edition, from 1.
pub fn of_edition(conversation: ConversationId, seq: i64, number: i64, edition: &Edition) -> i64 {
    let mut fields = Fields::<6>::default();
    fields.put(conversation.0);
    fields.put(seq);
    fields.put(number);
    fields.put_text(&edition.body);
    fields.put(edition.at.micros());
    fields.digest()
}

/// Writes the digests of messages, which are as the database has them now.
pub(super) async fn write(conn: &mut Conn, messages: &[Message]) -> Result<()> {
    if let Conn::Sqlite(_) = conn {
        for message in messages {
            conn.execute(
                "UPDATE messaging.messages SET digest = $3 WHERE conversation_id = $1 AND seq = $2",
                &[Value::I64(message.conversation_id.0), Value::I64(message.seq), Value::I64(of_message(message))],
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
            Value::I64s(&column(of_message)),
        ],
    )
    .await
    .map(drop)
}

/// Fields as eight bytes each, so that no two rows have the same bytes. A text is its length and its own digest: that needs
/// no memory for a copy of it.
struct Fields<const COUNT: usize> {
    words: [u64; COUNT],
    next: usize,
}

impl<const COUNT: usize> Default for Fields<COUNT> {
    fn default() -> Self {
        Self { words: [0; COUNT], next: 0 }
    }
}

impl<const COUNT: usize> Fields<COUNT> {
    fn put(&mut self, number: i64) {
        self.words[self.next] = number.cast_unsigned();
        self.next += 1;
    }

    /// Whether there is a number, and the number.
    fn put_option(&mut self, number: Option<i64>) {
        self.put(i64::from(number.is_some()));
        self.put(number.unwrap_or_default());
    }

    fn put_text(&mut self, text: &str) {
        self.put(text.len() as i64);
        self.put(xxh3_64(text.as_bytes()).cast_signed());
    }

    fn digest(&self) -> i64 {
        debug_assert_eq!(self.next, COUNT, "a word a field");
        let mut bytes = [0; 256];
        for (place, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        xxh3_64(&bytes[..COUNT * 8]).cast_signed()
    }
}
