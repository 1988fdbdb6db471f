//! Rows of `messaging.conversations`, `direct_conversations` and `members`.
//!
//! Invariants: who writes into conversations locks their rows first, in id order (`store::sends`); the pair of a direct
//! conversation is unique, whoever writes first.

use std::collections::BTreeSet;

use super::conversation_kinds::{History, Kind};
use super::members::{Keeps, Role};
use crate::base::error::Result;
use crate::base::ids::{ConversationId, MessageId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql, word_column};
use crate::store::driver::values::Value;

/// Where a conversation stands: its newest message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which conversation.
    pub id: ConversationId,
    /// How many messages it has, which is the newest one's seq.
    pub last_seq: i64,
    /// When the newest was sent; when the conversation was made while there is none.
    pub last_sent_at: Timestamp,
    /// The newest one's id; 0 while there is none.
    pub last_message_id: MessageId,
    /// Changes whenever a message that is already there may look different.
    pub content_version: i64,
}

/// Two people, the smaller id first; the same twice for notes to oneself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// The smaller id.
    pub lower: UserId,
    /// The larger id.
    pub higher: UserId,
}

impl Pair {
    /// In either order.
    pub fn new(one: UserId, other: UserId) -> Self {
        Self { lower: one.min(other), higher: one.max(other) }
    }

    /// The other one of the two.
    pub fn other(self, one: UserId) -> UserId {
        if one == self.lower { self.higher } else { self.lower }
    }
}

word_column!(Kind);
word_column!(History);

columns! {
    Head {
        id: "c.id",
        last_seq: "c.last_seq",
        last_sent_at: "c.last_sent_at",
        last_message_id: "c.last_message_id",
        content_version: "c.content_version",
    }
}

columns! {
    Pair {
        lower: "d.lower_user_id",
        higher: "d.higher_user_id",
    }
}

/// A user by folded name, with their conversations that have a message sent at `since` or later, each with the first seq
/// that they see; `None` for no such user.
pub async fn heads_of_user(
    conn: &mut Conn,
    user_name_key: &str,
    since: Timestamp,
) -> Result<Option<(UserId, Vec<(Head, i64)>)>> {
    let mut found = None;
    let heads = conn
        .rows(
            sql!(
                "SELECT u.id, c.history, m.joined_seq, ",
                Head::COLUMNS,
                " FROM messaging.users u
                  LEFT JOIN messaging.members m ON m.user_id = u.id
                  LEFT JOIN messaging.conversations c
                    ON c.id = m.conversation_id AND c.last_seq > 0 AND c.last_sent_at >= $2
                  WHERE u.user_name_key = $1"
            ),
            &[Value::Text(user_name_key), Value::Time(since)],
            |row| {
                let (user, (history, joined_seq), head): (UserId, (Option<History>, Option<i64>), Option<Head>) =
                    read(row)?;
                found = Some(user);
                Ok(head
                    .zip(Option::zip(history, joined_seq).map(|(history, joined_seq)| history.first_seq(joined_seq))))
            },
        )
        .await?;
    let seen = heads.into_iter().flatten().filter(|(head, first_seq)| head.last_seq >= *first_seq);
    Ok(found.map(|user| (user, seen.collect())))
}

/// One conversation that has a message sent at `since` or later.
pub async fn head_since(conn: &mut Conn, id: ConversationId, since: Timestamp) -> Result<Vec<Head>> {
    conn.rows(
        sql!(
            "SELECT ",
            Head::COLUMNS,
            " FROM messaging.conversations c WHERE c.id = $1 AND c.last_seq > 0 AND c.last_sent_at >= $2"
        ),
        &[Value::I64(id.0), Value::Time(since)],
        read,
    )
    .await
}

/// The heads of conversations that are about to be written. On SQLite, where the writer is alone.
pub(in crate::store) async fn lock(conn: &mut Conn, ids: &[i64]) -> Result<Vec<Head>> {
    conn.rows(
        sql!(
            "SELECT ",
            Head::COLUMNS,
            " FROM messaging.conversations c WHERE c.id = ANY($1) AND c.deleted_at IS NULL ORDER BY c.id"
        ),
        &[Value::I64s(ids)],
        read,
    )
    .await
}

/// Moves locked conversations to their new heads. On SQLite; PostgreSQL does it with the messages.
pub(in crate::store) async fn advance(conn: &mut Conn, heads: &[Head]) -> Result<()> {
    for head in heads {
        conn.execute(
            "UPDATE messaging.conversations SET last_seq = $2, last_sent_at = $3, last_message_id = $4 WHERE id = $1",
            &[
                Value::I64(head.id.0),
                Value::I64(head.last_seq),
                Value::Time(head.last_sent_at),
                Value::I64(head.last_message_id.0),
            ],
        )
        .await?;
    }
    Ok(())
}

/// The direct conversations of those pairs that have one.
pub async fn direct(conn: &mut Conn, pairs: &[Pair]) -> Result<Vec<(Pair, ConversationId)>> {
    if let Conn::Sqlite(_) = conn {
        let mut found = Vec::with_capacity(pairs.len());
        for pair in pairs {
            found.extend(
                conn.first(
                    sql!(
                        "SELECT ",
                        Pair::COLUMNS,
                        ", d.conversation_id FROM messaging.direct_conversations d
                          WHERE d.lower_user_id = $1 AND d.higher_user_id = $2"
                    ),
                    &[Value::I64(pair.lower.0), Value::I64(pair.higher.0)],
                    read::<(Pair, ConversationId)>,
                )
                .await?,
            );
        }
        return Ok(found);
    }
    let lower: Vec<i64> = pairs.iter().map(|pair| pair.lower.0).collect();
    let higher: Vec<i64> = pairs.iter().map(|pair| pair.higher.0).collect();
    conn.rows(
        sql!(
            "SELECT ",
            Pair::COLUMNS,
            ", d.conversation_id
               FROM unnest($1::bigint[], $2::bigint[]) AS p (lower_user_id, higher_user_id)
               JOIN messaging.direct_conversations d
                 ON d.lower_user_id = p.lower_user_id AND d.higher_user_id = p.higher_user_id"
        ),
        &[Value::I64s(&lower), Value::I64s(&higher)],
        read,
    )
    .await
}

/// Makes the direct conversation of a pair, or finds the one that another transaction made at the same moment. Whether it
/// is new comes with it.
pub async fn create_direct(
    conn: &mut Conn,
    pair: Pair,
    creator: UserId,
    at: Timestamp,
) -> Result<(ConversationId, bool)> {
    let id = conn
        .one(
            "INSERT INTO messaging.conversations
                    (kind, created_at, created_by, last_seq, last_sent_at, last_message_id, member_count)
             VALUES ('direct', $1, $2, 0, $1, 0, $3) RETURNING id",
            &[Value::Time(at), Value::I64(creator.0), Value::I64(if pair.lower == pair.higher { 1 } else { 2 })],
            |row| row.i64(0).map(ConversationId),
        )
        .await?;
    let won = conn
        .execute(
            "INSERT INTO messaging.direct_conversations (lower_user_id, higher_user_id, conversation_id)
             VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            &[Value::I64(pair.lower.0), Value::I64(pair.higher.0), Value::I64(id.0)],
        )
        .await?;
    if won == 0 {
        conn.execute("DELETE FROM messaging.conversations WHERE id = $1", &[Value::I64(id.0)]).await?;
        let winner = conn
            .one(
                "SELECT conversation_id FROM messaging.direct_conversations
                  WHERE lower_user_id = $1 AND higher_user_id = $2",
                &[Value::I64(pair.lower.0), Value::I64(pair.higher.0)],
                |row| row.i64(0).map(ConversationId),
            )
            .await?;
        return Ok((winner, false));
    }
    for user in [pair.lower, pair.higher] {
        conn.execute(
            "INSERT INTO messaging.members (conversation_id, user_id, joined_at) VALUES ($1, $2, $3)
             ON CONFLICT DO NOTHING",
            &[Value::I64(id.0), Value::I64(user.0), Value::Time(at)],
        )
        .await?;
    }
    Ok((id, true))
}

/// Those of some conversations that are groups.
pub async fn groups_among(conn: &mut Conn, ids: &[i64]) -> Result<Vec<ConversationId>> {
    conn.rows(
        "SELECT id FROM messaging.conversations WHERE id = ANY($1) AND kind = 'group' AND deleted_at IS NULL",
        &[Value::I64s(ids)],
        |row| row.i64(0).map(ConversationId),
    )
    .await
}

/// The members of direct conversations: one or two rows each.
pub async fn direct_members(conn: &mut Conn, ids: &[i64]) -> Result<Vec<(ConversationId, UserId)>> {
    conn.rows(
        // Materialized, so that of a group among them nobody's row is read: it may be ten thousand.
        "WITH direct AS MATERIALIZED (
             SELECT id FROM messaging.conversations WHERE id = ANY($1) AND kind = 'direct')
         SELECT m.conversation_id, m.user_id FROM direct JOIN messaging.members m ON m.conversation_id = direct.id
          ORDER BY m.conversation_id, m.user_id",
        &[Value::I64s(ids)],
        |row| Ok((ConversationId(row.i64(0)?), UserId(row.i64(1)?))),
    )
    .await
}

/// Locks one conversation until the transaction ends; whether there is one. SQLite's writer is alone anyway.
pub async fn lock_one(conn: &mut Conn, id: ConversationId) -> Result<bool> {
    let sql = "SELECT id FROM messaging.conversations WHERE id = $1 FOR UPDATE";
    Ok(conn.first(sql, &[Value::I64(id.0)], |row| row.i64(0)).await?.is_some())
}

/// The conversations of a person with when they joined, by id, after `after`.
pub async fn of_user(
    conn: &mut Conn,
    user: UserId,
    after: ConversationId,
    limit: i64,
) -> Result<Vec<(ConversationId, Timestamp)>> {
    conn.rows(
        "SELECT conversation_id, joined_at FROM messaging.members WHERE user_id = $1 AND conversation_id > $2
          ORDER BY conversation_id LIMIT $3",
        &[Value::I64(user.0), Value::I64(after.0), Value::I64(limit)],
        |row| Ok((ConversationId(row.i64(0)?), row.time(1)?)),
    )
    .await
}

/// Says that what is there of a conversation looks different now.
pub async fn mark_changed(conn: &mut Conn, id: ConversationId) -> Result<()> {
    let sql = "UPDATE messaging.conversations SET content_version = content_version + 1 WHERE id = $1";
    conn.execute(sql, &[Value::I64(id.0)]).await?;
    Ok(())
}

/// [`mark_changed`], where a conversation has no more members than `member_limit`.
pub(in crate::store) async fn mark_changed_up_to(conn: &mut Conn, id: ConversationId, member_limit: i64) -> Result<()> {
    conn.execute(
        "UPDATE messaging.conversations SET content_version = content_version + 1 WHERE id = $1 AND member_count <= $2",
        &[Value::I64(id.0), Value::I64(member_limit)],
    )
    .await?;
    Ok(())
}

/// Those of some conversations that are deleted.
pub async fn deleted(conn: &mut Conn, ids: &[i64]) -> Result<BTreeSet<i64>> {
    let sql = "SELECT id FROM messaging.conversations WHERE id = ANY($1) AND deleted_at IS NOT NULL";
    Ok(conn.rows(sql, &[Value::I64s(ids)], |row| row.i64(0)).await?.into_iter().collect())
}

/// Where a conversation stands.
pub async fn head_of(conn: &mut Conn, id: ConversationId) -> Result<Option<Head>> {
    conn.first(
        sql!("SELECT ", Head::COLUMNS, " FROM messaging.conversations c WHERE c.id = $1 AND c.deleted_at IS NULL"),
        &[Value::I64(id.0)],
        read,
    )
    .await
}

/// A conversation as somebody sees it in their list.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Where it stands.
    pub head: Head,
    /// Direct or group.
    pub kind: Kind,
    /// Of a group.
    pub title: Option<String>,
    /// A picture of a group.
    pub avatar_url: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: UserId,
    /// How many members.
    pub member_count: i64,
    /// What those see who joined later.
    pub history: History,
    /// Whether members may add others.
    pub members_can_add: bool,
    /// The other one in a direct conversation, for one of the two.
    pub peer: Option<UserId>,
    /// What the member has of it; `None` for who is none.
    pub me: Option<Me>,
}

/// What a member has of a conversation.
#[derive(Clone, Debug)]
pub struct Me {
    /// As what they are in it.
    pub role: Role,
    /// Since when.
    pub joined_at: Timestamp,
    /// How many messages it had then.
    pub joined_seq: i64,
    /// Up to where they have read.
    pub read_seq: i64,
    /// Up to where it reached them.
    pub delivered_seq: i64,
    /// Where they want to go on reading.
    pub unread_from: Option<i64>,
    /// Messages beyond `read_seq` that mention them.
    pub mention_count: i64,
    /// What they keep for themself.
    pub keeps: Keeps,
}

columns! {
    Me {
        joined_seq: "m.joined_seq",
        role: "m.role",
        joined_at: "m.joined_at",
        read_seq: "m.read_seq",
        delivered_seq: "m.delivered_seq",
        unread_from: "m.unread_from",
        mention_count: "(SELECT count(*) FROM messaging.mentions n
                          WHERE n.user_id = m.user_id AND n.conversation_id = c.id AND n.seq > m.read_seq)",
        keeps: Keeps::COLUMNS,
    }
}

columns! {
    Conversation {
        head: Head::COLUMNS,
        kind: "c.kind",
        title: "c.title",
        avatar_url: "c.avatar_url",
        created_at: "c.created_at",
        created_by: "c.created_by",
        member_count: "c.member_count",
        history: "c.history",
        members_can_add: "c.members_can_add",
        peer: "CASE WHEN c.kind = 'direct' AND m.user_id IS NOT NULL THEN
                    coalesce((SELECT o.user_id FROM messaging.members o
                               WHERE o.conversation_id = c.id AND o.user_id <> m.user_id), m.user_id) END",
        me: Me::COLUMNS,
    }
}

/// One conversation as nobody in particular has it, also when it ended and its messages are still being removed.
pub async fn even_ended(conn: &mut Conn, id: ConversationId) -> Result<Option<Conversation>> {
    conn.first(
        sql!(
            "SELECT ",
            Conversation::COLUMNS,
            " FROM messaging.conversations c
             LEFT JOIN messaging.members m ON m.conversation_id = c.id AND m.user_id = NULL
             WHERE c.id = $1"
        ),
        &[Value::I64(id.0)],
        read,
    )
    .await
}

/// One conversation, with what `user` has of it if one is named and is a member.
pub async fn one(conn: &mut Conn, id: ConversationId, user: Option<UserId>) -> Result<Option<Conversation>> {
    conn.first(
        sql!(
            "SELECT ",
            Conversation::COLUMNS,
            " FROM messaging.conversations c
             LEFT JOIN messaging.members m ON m.conversation_id = c.id AND m.user_id = $2
             WHERE c.id = $1 AND c.deleted_at IS NULL"
        ),
        &[Value::I64(id.0), Value::OptionI64(user.map(|user| user.0))],
        read,
    )
    .await
}

/// Somebody's conversations that are not hidden, latest activity first, behind `before`.
pub async fn latest_of(
    conn: &mut Conn,
    user: UserId,
    before: (Timestamp, ConversationId),
    limit: i64,
) -> Result<Vec<Conversation>> {
    conn.rows(
        sql!(
            "SELECT ",
            Conversation::COLUMNS,
            " FROM (SELECT l.id FROM messaging.members k JOIN messaging.conversations l ON l.id = k.conversation_id
                    WHERE k.user_id = $1 AND l.deleted_at IS NULL AND l.last_seq >= k.hidden_below_seq
                      AND (l.last_sent_at, l.id) < ($2, $3)
                    ORDER BY l.last_sent_at DESC, l.id DESC LIMIT $4) AS p
             JOIN messaging.conversations c ON c.id = p.id
             JOIN messaging.members m ON m.conversation_id = c.id AND m.user_id = $1
             ORDER BY c.last_sent_at DESC, c.id DESC"
        ),
        &[Value::I64(user.0), Value::Time(before.0), Value::I64(before.1.0), Value::I64(limit)],
        read,
    )
    .await
}

/// A group's own fields.
#[derive(Clone, Debug)]
pub struct Group {
    /// What it is called.
    pub title: String,
    /// Its picture.
    pub avatar_url: Option<String>,
    /// What those see who join later.
    pub history: History,
    /// Whether members may add others.
    pub members_can_add: bool,
}

/// Makes a group without members.
pub async fn create_group(conn: &mut Conn, group: &Group, creator: UserId, at: Timestamp) -> Result<ConversationId> {
    conn.one(
        "INSERT INTO messaging.conversations (kind, title, avatar_url, history, members_can_add, created_at, created_by,
                                              last_seq, last_sent_at, last_message_id, member_count)
         VALUES ('group', $1, $2, $3, $4, $5, $6, 0, $5, 0, 0) RETURNING id",
        &[
            Value::Text(&group.title),
            Value::OptionText(group.avatar_url.as_deref()),
            Value::Text(group.history.as_str()),
            Value::Bool(group.members_can_add),
            Value::Time(at),
            Value::I64(creator.0),
        ],
        |row| row.i64(0).map(ConversationId),
    )
    .await
}

/// Writes a group's own fields.
pub async fn update_group(conn: &mut Conn, id: ConversationId, group: &Group) -> Result<()> {
    conn.execute(
        "UPDATE messaging.conversations SET title = $2, avatar_url = $3, history = $4, members_can_add = $5 WHERE id = $1",
        &[
            Value::I64(id.0),
            Value::Text(&group.title),
            Value::OptionText(group.avatar_url.as_deref()),
            Value::Text(group.history.as_str()),
            Value::Bool(group.members_can_add),
        ],
    )
    .await?;
    Ok(())
}

/// Ends a group: nobody sees it any more. Its messages are removed later, a bite at a time.
pub async fn end(conn: &mut Conn, id: ConversationId, at: Timestamp) -> Result<()> {
    conn.execute(
        "UPDATE messaging.conversations
            SET deleted_at = $2, title = NULL, avatar_url = NULL, member_count = 0, content_version = content_version + 1
          WHERE id = $1",
        &[Value::I64(id.0), Value::Time(at)],
    )
    .await?;
    Ok(())
}

/// Groups that ended and are not removed yet.
pub async fn ended(conn: &mut Conn, limit: i64) -> Result<Vec<ConversationId>> {
    conn.rows(
        "SELECT id FROM messaging.conversations WHERE deleted_at IS NOT NULL ORDER BY deleted_at, id LIMIT $1",
        &[Value::I64(limit)],
        |row| row.i64(0).map(ConversationId),
    )
    .await
}

/// Removes a group that ended and has no messages left, with what is kept of who read them.
pub async fn delete(conn: &mut Conn, id: ConversationId) -> Result<()> {
    conn.execute("DELETE FROM messaging.receipts WHERE conversation_id = $1", &[Value::I64(id.0)]).await?;
    let sql = "DELETE FROM messaging.conversations WHERE id = $1 AND deleted_at IS NOT NULL";
    conn.execute(sql, &[Value::I64(id.0)]).await?;
    Ok(())
}
