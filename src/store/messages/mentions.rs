//! Rows of `messaging.mentions`: the members whom a message mentions.
//!
//! Invariant: a row is written together with the body that contains the mention, and deleted together with it.

use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// A mention of a user in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mention {
    /// The conversation.
    pub conversation: ConversationId,
    /// The `seq` of the message.
    pub seq: i64,
    /// The mentioned user.
    pub user: UserId,
    /// Its place among the mentions of the message, beginning with 1.
    pub place: i64,
    /// Whether the user is the sender of the message. Such a mention is shown and not counted.
    pub own: bool,
}

columns! {
    Mention { conversation: "n.conversation_id", seq: "n.seq", user: "n.user_id", place: "n.place", own: "n.own" }
}

/// A member of a conversation, with the user name.
#[derive(Clone, Debug)]
pub struct NamedMember {
    /// The conversation.
    pub conversation: ConversationId,
    /// The user.
    pub user: UserId,
    /// As written.
    pub user_name: String,
    /// Folded.
    pub user_name_key: String,
}

columns! {
    NamedMember {
        conversation: "m.conversation_id",
        user: "u.id",
        user_name: "u.user_name",
        user_name_key: "u.user_name_key",
    }
}

/// The members of conversations whose folded names are among `user_name_keys`.
pub async fn members_by_names(
    conn: &mut Conn,
    conversations: &[i64],
    user_name_keys: &[&str],
) -> Result<Vec<NamedMember>> {
    conn.rows(
        sql!(
            "SELECT ",
            NamedMember::COLUMNS,
            " FROM messaging.users u JOIN messaging.members m ON m.user_id = u.id
              WHERE u.user_name_key = ANY($1) AND m.conversation_id = ANY($2)"
        ),
        &[Value::Texts(user_name_keys), Value::I64s(conversations)],
        read,
    )
    .await
}

/// Inserts mentions, on PostgreSQL with one statement.
pub(in crate::store) async fn insert_all(conn: &mut Conn, mentions: &[Mention]) -> Result<()> {
    if let Conn::Sqlite(_) = conn {
        return insert(conn, mentions).await;
    }
    let column = |read: fn(&Mention) -> i64| mentions.iter().map(read).collect::<Vec<i64>>();
    conn.execute(
        "INSERT INTO messaging.mentions (conversation_id, seq, user_id, place, own)
         SELECT n.conversation_id, n.seq, n.user_id, n.place, n.own <> 0
           FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
                AS n (conversation_id, seq, user_id, place, own)",
        &[
            Value::I64s(&column(|mention| mention.conversation.0)),
            Value::I64s(&column(|mention| mention.seq)),
            Value::I64s(&column(|mention| mention.user.0)),
            Value::I64s(&column(|mention| mention.place)),
            Value::I64s(&column(|mention| i64::from(mention.own))),
        ],
    )
    .await?;
    Ok(())
}

/// Deletes the mentions in messages of several conversations, on PostgreSQL with one statement.
pub(in crate::store) async fn delete_of(conn: &mut Conn, messages: &[(ConversationId, i64)]) -> Result<()> {
    if let Conn::Sqlite(_) = conn {
        for (conversation, seq) in messages {
            delete(conn, *conversation, &[*seq]).await?;
        }
        return Ok(());
    }
    let conversations: Vec<i64> = messages.iter().map(|(conversation, _)| conversation.0).collect();
    let seqs: Vec<i64> = messages.iter().map(|(_, seq)| *seq).collect();
    conn.execute(
        "DELETE FROM messaging.mentions n
          USING unnest($1::bigint[], $2::bigint[]) AS p (conversation_id, seq)
          WHERE n.conversation_id = p.conversation_id AND n.seq = p.seq",
        &[Value::I64s(&conversations), Value::I64s(&seqs)],
    )
    .await?;
    Ok(())
}

/// Inserts mentions with one statement each. Used for edits on both databases, and for sends on SQLite.
pub async fn insert(conn: &mut Conn, mentions: &[Mention]) -> Result<()> {
    for mention in mentions {
        conn.execute(
            "INSERT INTO messaging.mentions (conversation_id, seq, user_id, place, own) VALUES ($1, $2, $3, $4, $5)",
            &[
                Value::I64(mention.conversation.0),
                Value::I64(mention.seq),
                Value::I64(mention.user.0),
                Value::I64(mention.place),
                Value::Bool(mention.own),
            ],
        )
        .await?;
    }
    Ok(())
}

/// Deletes the mentions in messages of a conversation.
pub async fn delete(conn: &mut Conn, conversation: ConversationId, seqs: &[i64]) -> Result<()> {
    conn.execute(
        "DELETE FROM messaging.mentions WHERE conversation_id = $1 AND seq = ANY($2)",
        &[Value::I64(conversation.0), Value::I64s(seqs)],
    )
    .await?;
    Ok(())
}

/// The mentions in messages.
pub async fn of_messages(conn: &mut Conn, messages: &[(ConversationId, i64)]) -> Result<Vec<Mention>> {
    if let Conn::Sqlite(_) = conn {
        let mut found = Vec::new();
        for (conversation, seq) in messages {
            let place = [Value::I64(conversation.0), Value::I64(*seq)];
            let sql = sql!(
                "SELECT ",
                Mention::COLUMNS,
                " FROM messaging.mentions n WHERE n.conversation_id = $1 AND n.seq = $2 ORDER BY n.user_id"
            );
            found.extend(conn.rows(sql, &place, read::<Mention>).await?);
        }
        return Ok(found);
    }
    let conversations: Vec<i64> = messages.iter().map(|(conversation, _)| conversation.0).collect();
    let seqs: Vec<i64> = messages.iter().map(|(_, seq)| *seq).collect();
    conn.rows(
        sql!(
            "SELECT ",
            Mention::COLUMNS,
            " FROM unnest($1::bigint[], $2::bigint[]) AS p (conversation_id, seq)
              JOIN messaging.mentions n ON n.conversation_id = p.conversation_id AND n.seq = p.seq"
        ),
        &[Value::I64s(&conversations), Value::I64s(&seqs)],
        read,
    )
    .await
}

/// The mentions of a user, in the order of conversation and `seq`, after the place `after`.
pub async fn of_user(conn: &mut Conn, user: UserId, after: (ConversationId, i64), limit: i64) -> Result<Vec<Mention>> {
    conn.rows(
        sql!(
            "SELECT ",
            Mention::COLUMNS,
            " FROM messaging.mentions n
              WHERE n.user_id = $1 AND (n.conversation_id, n.seq) > ($2, $3) ORDER BY n.conversation_id, n.seq LIMIT $4"
        ),
        &[Value::I64(user.0), Value::I64(after.0.0), Value::I64(after.1), Value::I64(limit)],
        read,
    )
    .await
}

/// Deletes up to `limit` mentions of a user. Returns how many.
pub async fn forget(conn: &mut Conn, user: UserId, limit: i64) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.mentions
          WHERE (conversation_id, seq, user_id) IN
                (SELECT conversation_id, seq, user_id FROM messaging.mentions
                  WHERE user_id = $1 ORDER BY conversation_id, seq LIMIT $2)",
        &[Value::I64(user.0), Value::I64(limit)],
    )
    .await
}
