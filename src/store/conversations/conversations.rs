//! Rows of `messaging.conversations`, `direct_conversations` and `members`.
//!
//! Invariants: a transaction that writes into conversations first locks their rows, in the order of their ids
//! (`store::batches::sends`). The pair of a direct conversation is unique, even when two transactions create it at the same
//! time.

use std::collections::BTreeSet;

use super::conversation_kinds::{History, Kind};
use super::members::{MemberSettings, Role};
use crate::base::error::Result;
use crate::base::ids::{ConversationId, MessageId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql, word_column};
use crate::store::driver::values::Value;

/// The head of a conversation: its newest state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The conversation.
    pub id: ConversationId,
    /// The number of its messages, which is the `seq` of the newest one.
    pub last_seq: i64,
    /// When the newest message was sent. In a conversation without messages, when it was created.
    pub last_sent_at: Timestamp,
    /// The id of the newest message. 0 in a conversation without messages.
    pub last_message_id: MessageId,
    /// Rises with each change of what the existing messages show.
    pub content_version: i64,
}

/// The two users of a direct conversation, the smaller id first. For notes to oneself, both are the same user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// The smaller id.
    pub lower: UserId,
    /// The larger id.
    pub higher: UserId,
}

impl Pair {
    /// The pair of two users, who can be given in either order.
    pub fn new(one: UserId, other: UserId) -> Self {
        Self { lower: one.min(other), higher: one.max(other) }
    }

    /// The other user of the pair.
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

/// Finds a user by folded name, and the heads of those conversations of the user in which a message was sent at `since` or
/// later. Each head comes with the first `seq` that the user sees. `None` when no user has this name.
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

/// The head of a conversation, if a message was sent in it at `since` or later.
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

/// Reads the heads of conversations before the transaction writes to them. Only for SQLite, which needs no row locks
/// because it has only one writer.
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

/// Stores the new heads of conversations. Only for SQLite. PostgreSQL does it in the statement that inserts the messages.
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

/// The direct conversations of pairs. Pairs without one are left out.
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

/// Creates the direct conversation of a pair, or returns the one that another transaction created at the same moment. The
/// `bool` is `true` when it is new.
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

/// The conversations among `ids` that are groups and not deleted.
pub async fn groups_among(conn: &mut Conn, ids: &[i64]) -> Result<Vec<ConversationId>> {
    conn.rows(
        "SELECT id FROM messaging.conversations WHERE id = ANY($1) AND kind = 'group' AND deleted_at IS NULL",
        &[Value::I64s(ids)],
        |row| row.i64(0).map(ConversationId),
    )
    .await
}

/// The members of direct conversations: one or two rows for each. Groups are left out.
pub async fn direct_members(conn: &mut Conn, ids: &[i64]) -> Result<Vec<(ConversationId, UserId)>> {
    conn.rows(
        // MATERIALIZED, so that the database finds the direct conversations first, and does not read the members of groups.
        // A group can have ten thousand members.
        "WITH direct AS MATERIALIZED (
             SELECT id FROM messaging.conversations WHERE id = ANY($1) AND kind = 'direct')
         SELECT m.conversation_id, m.user_id FROM direct JOIN messaging.members m ON m.conversation_id = direct.id
          ORDER BY m.conversation_id, m.user_id",
        &[Value::I64s(ids)],
        |row| Ok((ConversationId(row.i64(0)?), UserId(row.i64(1)?))),
    )
    .await
}

/// Locks a conversation until the transaction ends, and returns whether it exists. On SQLite no lock is needed, because
/// there is only one writer.
pub async fn lock_one(conn: &mut Conn, id: ConversationId) -> Result<bool> {
    let sql = "SELECT id FROM messaging.conversations WHERE id = $1 FOR UPDATE";
    Ok(conn.first(sql, &[Value::I64(id.0)], |row| row.i64(0)).await?.is_some())
}

/// The conversations of a user and when the user joined them, in the order of their ids, after `after`.
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

/// Raises the content version of a conversation, after a change of what its existing messages show.
pub async fn mark_changed(conn: &mut Conn, id: ConversationId) -> Result<()> {
    let sql = "UPDATE messaging.conversations SET content_version = content_version + 1 WHERE id = $1";
    conn.execute(sql, &[Value::I64(id.0)]).await?;
    Ok(())
}

/// Like [`mark_changed`], but changes nothing in a conversation of more than `member_limit` members.
pub(in crate::store) async fn mark_changed_up_to(conn: &mut Conn, id: ConversationId, member_limit: i64) -> Result<()> {
    conn.execute(
        "UPDATE messaging.conversations SET content_version = content_version + 1 WHERE id = $1 AND member_count <= $2",
        &[Value::I64(id.0), Value::I64(member_limit)],
    )
    .await?;
    Ok(())
}

/// The conversations among `ids` that are deleted.
pub async fn deleted(conn: &mut Conn, ids: &[i64]) -> Result<BTreeSet<i64>> {
    let sql = "SELECT id FROM messaging.conversations WHERE id = ANY($1) AND deleted_at IS NOT NULL";
    Ok(conn.rows(sql, &[Value::I64s(ids)], |row| row.i64(0)).await?.into_iter().collect())
}

/// The head of a conversation that is not deleted.
pub async fn head_of(conn: &mut Conn, id: ConversationId) -> Result<Option<Head>> {
    conn.first(
        sql!("SELECT ", Head::COLUMNS, " FROM messaging.conversations c WHERE c.id = $1 AND c.deleted_at IS NULL"),
        &[Value::I64(id.0)],
        read,
    )
    .await
}

/// A conversation, as a user sees it in the list of conversations.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The head of the conversation.
    pub head: Head,
    /// Direct or group.
    pub kind: Kind,
    /// The title of a group.
    pub title: Option<String>,
    /// The picture of a group.
    pub avatar_url: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// The user who created it.
    pub created_by: UserId,
    /// The number of members.
    pub member_count: i64,
    /// Which messages a new member sees.
    pub history: History,
    /// Whether members may add others.
    pub members_can_add: bool,
    /// The other user of a direct conversation, or the user alone for notes to oneself. `None` for a group, and when `me`
    /// is `None`.
    pub peer: Option<UserId>,
    /// The part that belongs to the member. `None` when the user is not a member or no user was given.
    pub me: Option<Me>,
}

/// The part of a conversation that belongs to one member.
#[derive(Clone, Debug)]
pub struct Me {
    /// The role of the member.
    pub role: Role,
    /// When the member joined.
    pub joined_at: Timestamp,
    /// The number of messages in the conversation when the member joined.
    pub joined_seq: i64,
    /// The watermark of read messages.
    pub read_seq: i64,
    /// The watermark of delivered messages.
    pub delivered_seq: i64,
    /// The `seq` of the first message that the member has marked as unread.
    pub unread_from: Option<i64>,
    /// Messages below this `seq` do not count as unread: those from before the member hid the conversation.
    pub hidden_below_seq: i64,
    /// The number of unread messages. Filled in separately (`store::messages::unread`).
    pub unread_count: i64,
    /// The number of unread messages that mention the member. Filled in separately.
    pub mention_count: i64,
    /// The member's own settings.
    pub keeps: MemberSettings,
}

columns! {
    Me {
        joined_seq: "m.joined_seq",
        role: "m.role",
        joined_at: "m.joined_at",
        read_seq: "m.read_seq",
        delivered_seq: "m.delivered_seq",
        unread_from: "m.unread_from",
        hidden_below_seq: "m.hidden_below_seq",
        keeps: MemberSettings::COLUMNS,
    } => Me {
        role,
        joined_at,
        joined_seq,
        read_seq,
        delivered_seq,
        unread_from,
        hidden_below_seq,
        unread_count: 0,
        mention_count: 0,
        keeps,
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

/// A conversation without the part of a member. It is also returned after it was deleted, as long as its messages are being
/// removed.
pub async fn including_deleted(conn: &mut Conn, id: ConversationId) -> Result<Option<Conversation>> {
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

/// A conversation that is not deleted. If `user` is given and is a member, it includes the part of that member.
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

/// The fields of a group that can be changed.
#[derive(Clone, Debug)]
pub struct Group {
    /// The title.
    pub title: String,
    /// The picture.
    pub avatar_url: Option<String>,
    /// Which messages a new member sees.
    pub history: History,
    /// Whether members may add others.
    pub members_can_add: bool,
}

/// Creates a group without members.
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

/// Updates the fields of a group.
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

/// Marks a group as deleted, so that no user sees it. Its messages are removed later, in small batches.
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

/// Groups that are deleted and still have rows to remove.
pub async fn ended(conn: &mut Conn, limit: i64) -> Result<Vec<ConversationId>> {
    conn.rows(
        "SELECT id FROM messaging.conversations WHERE deleted_at IS NOT NULL ORDER BY deleted_at, id LIMIT $1",
        &[Value::I64(limit)],
        |row| row.i64(0).map(ConversationId),
    )
    .await
}

/// Removes a deleted group that has no messages left, with its receipts and the counts of its system messages.
pub async fn delete(conn: &mut Conn, id: ConversationId) -> Result<()> {
    conn.execute("DELETE FROM messaging.receipts WHERE conversation_id = $1", &[Value::I64(id.0)]).await?;
    let sql = "DELETE FROM messaging.uncounted_messages WHERE conversation_id = $1";
    conn.execute(sql, &[Value::I64(id.0)]).await?;
    let sql = "DELETE FROM messaging.conversations WHERE id = $1 AND deleted_at IS NOT NULL";
    conn.execute(sql, &[Value::I64(id.0)]).await?;
    Ok(())
}
