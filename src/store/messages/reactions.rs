//! Rows of `messaging.reactions`, and the counts of reactions in the rows of messages.
//!
//! Invariant: `reaction_counts` of a message holds the number of its rows here for each emoji, in the order in which the
//! emoji were first added. Both change only under the lock of the conversation.

use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::columns::{column, columns, read, sql};
use crate::store::db::{Conn, Row};
use crate::store::driver::values::Value;
use crate::store::files::custom_emoji::NamedEmoji;

/// An emoji that was added to a message, and the number of users who added it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The emoji. A custom emoji has the form `custom:ID`.
    pub emoji: String,
    /// The custom emoji. Not stored, but filled in when messages are read, because its name can change. `None` for a Unicode
    /// emoji.
    pub custom: Option<NamedEmoji>,
    /// How many users have added it.
    pub count: i64,
    /// Whether the viewer is one of them. Not stored, but filled in for each viewer.
    pub me: bool,
}

/// A reaction of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaction {
    /// The conversation.
    pub conversation: ConversationId,
    /// The `seq` of the message.
    pub seq: i64,
    /// The emoji.
    pub emoji: String,
    /// When it was added.
    pub at: Timestamp,
}

columns! {
    Reaction { conversation: "conversation_id", seq: "seq", emoji: "emoji", at: "at" }
}

/// Parses counts in the form of the database: `👍 3 🎉 1`.
///
/// # Errors
/// [`Error::UnknownValue`] for an emoji without a positive count.
fn read_tallies(text: &str) -> Result<Vec<Tally>> {
    let unknown = || Error::unknown_word("messages.reaction_counts", text);
    let mut words = text.split(' ');
    let mut tallies = Vec::new();
    while let Some(emoji) = words.next() {
        let count = words.next().and_then(|count| count.parse().ok()).filter(|count| *count > 0).ok_or_else(unknown)?;
        tallies.push(Tally { emoji: emoji.to_owned(), custom: None, count, me: false });
    }
    Ok(tallies)
}

// The column is NULL when there are no reactions.
column!(Vec<Tally>, |row, at| row.option_text(at)?.map_or_else(|| Ok(Vec::new()), read_tallies));

pub(in crate::store) fn write_tallies(tallies: &[Tally]) -> Option<String> {
    let words: Vec<String> = tallies.iter().map(|tally| format!("{} {}", tally.emoji, tally.count)).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// How many users have added an emoji to a message.
pub async fn count_of(conn: &mut Conn, conversation: ConversationId, seq: i64, emoji: &str) -> Result<i64> {
    let tallies = tallies_of(conn, conversation, seq).await?.unwrap_or_default();
    Ok(tallies.into_iter().find(|tally| tally.emoji == emoji).map_or(0, |tally| tally.count))
}

/// The counts of reactions to a message. `None` when the message does not exist.
pub async fn tallies_of(conn: &mut Conn, conversation: ConversationId, seq: i64) -> Result<Option<Vec<Tally>>> {
    conn.first(
        "SELECT reaction_counts FROM messaging.messages WHERE conversation_id = $1 AND seq = $2",
        &[Value::I64(conversation.0), Value::I64(seq)],
        read,
    )
    .await
}

/// Stores the counts of reactions to a message.
pub async fn set_tallies(conn: &mut Conn, conversation: ConversationId, seq: i64, tallies: &[Tally]) -> Result<()> {
    let text = write_tallies(tallies);
    conn.execute(
        "UPDATE messaging.messages SET reaction_counts = $3 WHERE conversation_id = $1 AND seq = $2",
        &[Value::I64(conversation.0), Value::I64(seq), Value::OptionText(text.as_deref())],
    )
    .await?;
    Ok(())
}

/// Inserts a reaction that does not exist yet.
pub async fn insert(
    conn: &mut Conn,
    conversation: ConversationId,
    seq: i64,
    emoji: &str,
    user: UserId,
    now: Timestamp,
) -> Result<()> {
    conn.execute(
        "INSERT INTO messaging.reactions (conversation_id, seq, emoji, user_id, at) VALUES ($1, $2, $3, $4, $5)",
        &[Value::I64(conversation.0), Value::I64(seq), Value::Text(emoji), Value::I64(user.0), Value::Time(now)],
    )
    .await?;
    Ok(())
}

/// Deletes a reaction.
pub async fn delete(conn: &mut Conn, conversation: ConversationId, seq: i64, emoji: &str, user: UserId) -> Result<()> {
    conn.execute(
        "DELETE FROM messaging.reactions WHERE conversation_id = $1 AND seq = $2 AND emoji = $3 AND user_id = $4",
        &[Value::I64(conversation.0), Value::I64(seq), Value::Text(emoji), Value::I64(user.0)],
    )
    .await?;
    Ok(())
}

/// The reactions of a user to messages.
pub async fn own(
    conn: &mut Conn,
    user: UserId,
    messages: &[(ConversationId, i64)],
) -> Result<Vec<(ConversationId, i64, String)>> {
    let read = |row: &Row<'_>| Ok((ConversationId(row.i64(0)?), row.i64(1)?, row.text(2)?.to_owned()));
    if let Conn::Sqlite(_) = conn {
        let mut found = Vec::new();
        for (conversation, seq) in messages {
            found.extend(
                conn.rows(
                    "SELECT conversation_id, seq, emoji FROM messaging.reactions
                      WHERE user_id = $1 AND conversation_id = $2 AND seq = $3",
                    &[Value::I64(user.0), Value::I64(conversation.0), Value::I64(*seq)],
                    read,
                )
                .await?,
            );
        }
        return Ok(found);
    }
    let conversations: Vec<i64> = messages.iter().map(|(conversation, _)| conversation.0).collect();
    let seqs: Vec<i64> = messages.iter().map(|(_, seq)| *seq).collect();
    conn.rows(
        "SELECT r.conversation_id, r.seq, r.emoji
           FROM unnest($2::bigint[], $3::bigint[]) AS m (conversation_id, seq)
           JOIN messaging.reactions r
             ON r.user_id = $1 AND r.conversation_id = m.conversation_id AND r.seq = m.seq",
        &[Value::I64(user.0), Value::I64s(&conversations), Value::I64s(&seqs)],
        read,
    )
    .await
}

/// The names of the first `limit` users who have added an emoji to a message, in the order of their ids.
pub async fn names(
    conn: &mut Conn,
    conversation: ConversationId,
    seq: i64,
    emoji: &str,
    limit: i64,
) -> Result<Vec<String>> {
    conn.rows(
        "SELECT u.user_name FROM messaging.reactions r JOIN messaging.users u ON u.id = r.user_id
          WHERE r.conversation_id = $1 AND r.seq = $2 AND r.emoji = $3 ORDER BY r.user_id LIMIT $4",
        &[Value::I64(conversation.0), Value::I64(seq), Value::Text(emoji), Value::I64(limit)],
        |row| Ok(row.text(0)?.to_owned()),
    )
    .await
}

/// The reactions of a user, in the order of conversation, `seq` and emoji, after the place `after`.
pub async fn of_user(
    conn: &mut Conn,
    user: UserId,
    after: (ConversationId, i64, &str),
    limit: i64,
) -> Result<Vec<Reaction>> {
    conn.rows(
        sql!(
            "SELECT ",
            Reaction::COLUMNS,
            " FROM messaging.reactions
              WHERE user_id = $1 AND (conversation_id, seq, emoji) > ($2, $3, $4)
              ORDER BY conversation_id, seq, emoji LIMIT $5"
        ),
        &[Value::I64(user.0), Value::I64(after.0.0), Value::I64(after.1), Value::Text(after.2), Value::I64(limit)],
        read,
    )
    .await
}

/// How often a user has used each emoji until `until`, among up to `limit` of their reactions: those in the newest
/// conversations.
pub async fn uses_of(conn: &mut Conn, user: UserId, until: Timestamp, limit: i64) -> Result<Vec<(String, i64)>> {
    conn.rows(
        "SELECT r.emoji, count(*) FROM (SELECT emoji FROM messaging.reactions WHERE user_id = $1 AND at <= $3
                                         ORDER BY conversation_id DESC, seq DESC LIMIT $2) AS r
          GROUP BY r.emoji",
        &[Value::I64(user.0), Value::I64(limit), Value::Time(until)],
        read,
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_as_they_were_written() {
        let tally = |emoji: &str, count| Tally { emoji: emoji.into(), custom: None, count, me: false };
        let tallies = vec![tally("👍", 3), tally("❤️", 10_000), tally("👩🏿‍❤️‍👨🏼", 1)];
        assert_eq!(read_tallies(&write_tallies(&tallies).unwrap()).unwrap(), tallies);
        assert_eq!(write_tallies(&[]), None);
        for wrong in ["", "👍", "👍 x", "👍 0", "👍 -1", "👍 1 🎉", "👍 1  🎉 2", "👍 99999999999999999999"]
        {
            let refused = read_tallies(wrong);
            assert!(matches!(refused, Err(Error::UnknownValue { .. })), "{wrong:?} is {refused:?}");
        }
    }
}
