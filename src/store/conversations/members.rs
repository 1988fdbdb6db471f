//! Rows of `messaging.members`: the members of a conversation with their roles and their own settings.
//!
//! Invariant: a row is inserted or deleted under the lock of its conversation, and the same transaction changes
//! `member_count` of the conversation.

use super::conversation_kinds::{History, Kind};
use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::columns::{columns, read, sql, word_column};
use crate::store::db::{Conn, words};
use crate::store::driver::values::Value;

/// The role of a member in a group. Each role includes the rights of the roles before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads, sends and reacts.
    Member,
    /// Also manages members and messages.
    Admin,
    /// Also assigns roles and deletes the group.
    Owner,
}

impl Role {
    /// The word in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// The role with this word.
    ///
    /// # Errors
    /// [`Error::UnknownValue`](crate::base::error::Error::UnknownValue).
    pub fn parse(word: &str) -> Result<Self> {
        words::parse("members.role", &[Self::Member, Self::Admin, Self::Owner], Self::as_str, word)
    }
}

/// The parts of a conversation, and of a user's membership in it, that decide what the user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Direct or group.
    pub kind: Kind,
    /// Which messages a new member sees.
    pub history: History,
    /// Whether members may add others.
    pub members_can_add: bool,
    /// The number of messages.
    pub last_seq: i64,
    /// The number of members.
    pub member_count: i64,
    /// The role of the user, and the number of messages when the user joined. `None` when the user is not a member.
    pub member: Option<(Role, i64)>,
}

word_column!(Role);

columns! {
    Standing {
        kind: "c.kind",
        history: "c.history",
        members_can_add: "c.members_can_add",
        last_seq: "c.last_seq",
        member_count: "c.member_count",
        role: "m.role",
        joined_seq: "m.joined_seq",
    } => {
        let member = Option::zip(role, joined_seq);
        Standing { kind, history, members_can_add, last_seq, member_count, member }
    }
}

/// Reads a conversation. If `user` is given and is a member, the result includes the membership. `None` when the
/// conversation does not exist or is deleted.
pub async fn standing_of(
    conn: &mut Conn,
    conversation: ConversationId,
    user: Option<UserId>,
) -> Result<Option<Standing>> {
    conn.first(
        sql!(
            "SELECT ",
            Standing::COLUMNS,
            " FROM messaging.conversations c
              LEFT JOIN messaging.members m ON m.conversation_id = c.id AND m.user_id = $2
              WHERE c.id = $1 AND c.deleted_at IS NULL"
        ),
        &[Value::I64(conversation.0), Value::OptionI64(user.map(|user| user.0))],
        read,
    )
    .await
}

/// The parts of a membership that a send needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendingMember {
    /// The conversation.
    pub conversation: ConversationId,
    /// The sender.
    pub user: UserId,
    /// The `seq` of the first message that the sender sees.
    pub first_seq: i64,
}

columns! {
    SendingMember {
        conversation: "m.conversation_id",
        user: "m.user_id",
        history: "c.history",
        joined_seq: "m.joined_seq",
    } => SendingMember { conversation, user, first_seq: History::first_seq(history, joined_seq) }
}

/// The memberships for pairs of a conversation and a user. A pair without a membership is left out. The caller must hold
/// the locks of the conversations.
pub async fn sending(conn: &mut Conn, pairs: &[(ConversationId, UserId)]) -> Result<Vec<SendingMember>> {
    if let Conn::Sqlite(_) = conn {
        let mut found = Vec::with_capacity(pairs.len());
        for (conversation, user) in pairs {
            found.extend(
                conn.first(
                    sql!(
                        "SELECT ",
                        SendingMember::COLUMNS,
                        " FROM messaging.members m JOIN messaging.conversations c ON c.id = m.conversation_id
                          WHERE m.conversation_id = $1 AND m.user_id = $2 AND c.deleted_at IS NULL"
                    ),
                    &[Value::I64(conversation.0), Value::I64(user.0)],
                    read::<SendingMember>,
                )
                .await?,
            );
        }
        return Ok(found);
    }
    let conversations: Vec<i64> = pairs.iter().map(|(conversation, _)| conversation.0).collect();
    let users: Vec<i64> = pairs.iter().map(|(_, user)| user.0).collect();
    conn.rows(
        sql!(
            "SELECT ",
            SendingMember::COLUMNS,
            " FROM unnest($1::bigint[], $2::bigint[]) AS p (conversation_id, user_id)
              JOIN messaging.members m ON m.conversation_id = p.conversation_id AND m.user_id = p.user_id
              JOIN messaging.conversations c ON c.id = m.conversation_id
              WHERE c.deleted_at IS NULL"
        ),
        &[Value::I64s(&conversations), Value::I64s(&users)],
        read,
    )
    .await
}

/// A member to insert.
#[derive(Clone, Copy, Debug)]
pub struct NewMember {
    /// The user.
    pub user: UserId,
    /// The role of the new member.
    pub role: Role,
}

/// Inserts members with both watermarks at `last_seq`, and returns the users who were not members before. The caller must
/// hold the lock of the conversation. Nobody joins before the conversation was created, even when the clock was set back.
pub async fn insert(
    conn: &mut Conn,
    conversation: ConversationId,
    new: &[NewMember],
    last_seq: i64,
    at: Timestamp,
) -> Result<Vec<UserId>> {
    let mut added = Vec::with_capacity(new.len());
    if let Conn::Sqlite(_) = conn {
        for member in new {
            let inserted = conn
                .execute(
                    "INSERT INTO messaging.members (conversation_id, user_id, role, joined_at, joined_seq, read_seq,
                                                    delivered_seq)
                     SELECT $1, $2, $3, CASE WHEN c.created_at > $4 THEN c.created_at ELSE $4 END, $5, $5, $5
                       FROM messaging.conversations c WHERE c.id = $1
                     ON CONFLICT DO NOTHING",
                    &[
                        Value::I64(conversation.0),
                        Value::I64(member.user.0),
                        Value::Text(member.role.as_str()),
                        Value::Time(at),
                        Value::I64(last_seq),
                    ],
                )
                .await?;
            if inserted > 0 {
                added.push(member.user);
            }
        }
    } else {
        let users: Vec<i64> = new.iter().map(|member| member.user.0).collect();
        let roles: Vec<&str> = new.iter().map(|member| member.role.as_str()).collect();
        added = conn
            .rows(
                "INSERT INTO messaging.members (conversation_id, user_id, role, joined_at, joined_seq, read_seq,
                                                delivered_seq)
                 SELECT $1::bigint, n.user_id, n.role, greatest(c.created_at, $2::timestamptz), $3::bigint, $3::bigint,
                        $3::bigint
                   FROM messaging.conversations c, unnest($4::bigint[], $5::text[]) AS n (user_id, role)
                  WHERE c.id = $1::bigint
                 ON CONFLICT DO NOTHING RETURNING user_id",
                &[
                    Value::I64(conversation.0),
                    Value::Time(at),
                    Value::I64(last_seq),
                    Value::I64s(&users),
                    Value::Texts(&roles),
                ],
                |row| row.i64(0).map(UserId),
            )
            .await?;
        added.sort_unstable();
    }
    let ids: Vec<i64> = added.iter().map(|user| user.0).collect();
    conn.execute(
        "DELETE FROM messaging.former_members WHERE user_id = ANY($1) AND conversation_id = $2",
        &[Value::I64s(&ids), Value::I64(conversation.0)],
    )
    .await?;
    change_count(conn, conversation, added.len() as i64).await?;
    Ok(added)
}

async fn change_count(conn: &mut Conn, conversation: ConversationId, by: i64) -> Result<()> {
    // Messages show whether all members have read them. A change of the members can change this, so the content version
    // rises too.
    conn.execute(
        "UPDATE messaging.conversations SET member_count = member_count + $2, content_version = content_version + 1
          WHERE id = $1",
        &[Value::I64(conversation.0), Value::I64(by)],
    )
    .await?;
    Ok(())
}

/// Removes a member, and records the user as a former member. The caller must hold the lock of the conversation.
pub async fn delete(conn: &mut Conn, conversation: ConversationId, user: UserId, at: Timestamp) -> Result<()> {
    let place = [Value::I64(conversation.0), Value::I64(user.0)];
    conn.execute("DELETE FROM messaging.members WHERE conversation_id = $1 AND user_id = $2", &place).await?;
    conn.execute("DELETE FROM messaging.receipts WHERE conversation_id = $1 AND user_id = $2", &place).await?;
    conn.execute(
        "INSERT INTO messaging.former_members (conversation_id, user_id, left_at) VALUES ($1, $2, $3)
         ON CONFLICT (user_id, conversation_id) DO UPDATE SET left_at = excluded.left_at",
        &[place[0], place[1], Value::Time(at)],
    )
    .await?;
    change_count(conn, conversation, -1).await
}

/// Removes all members of a group that is being deleted, and records them as former members.
pub async fn delete_all(conn: &mut Conn, conversation: ConversationId, at: Timestamp) -> Result<()> {
    conn.execute(
        "INSERT INTO messaging.former_members (conversation_id, user_id, left_at)
         SELECT conversation_id, user_id, $2 FROM messaging.members WHERE conversation_id = $1
         ON CONFLICT (user_id, conversation_id) DO UPDATE SET left_at = excluded.left_at",
        &[Value::I64(conversation.0), Value::Time(at)],
    )
    .await?;
    conn.execute("DELETE FROM messaging.members WHERE conversation_id = $1", &[Value::I64(conversation.0)]).await?;
    Ok(())
}

/// Sets the role of a member.
pub async fn set_role(conn: &mut Conn, conversation: ConversationId, user: UserId, role: Role) -> Result<()> {
    conn.execute(
        "UPDATE messaging.members SET role = $3 WHERE conversation_id = $1 AND user_id = $2",
        &[Value::I64(conversation.0), Value::I64(user.0), Value::Text(role.as_str())],
    )
    .await?;
    Ok(())
}

/// The role of a user in a conversation. `None` when the user is not a member.
pub async fn role_of(conn: &mut Conn, conversation: ConversationId, user: UserId) -> Result<Option<Role>> {
    conn.first(
        "SELECT role FROM messaging.members WHERE conversation_id = $1 AND user_id = $2",
        &[Value::I64(conversation.0), Value::I64(user.0)],
        read,
    )
    .await
}

/// The owner of a group, other than `user`, who joined first. An owner who is not banned comes before those who are.
pub async fn other_owner(conn: &mut Conn, conversation: ConversationId, user: UserId) -> Result<Option<Candidate>> {
    conn.first(
        sql!(
            "SELECT ",
            Candidate::COLUMNS,
            " FROM messaging.members m JOIN messaging.users u ON u.id = m.user_id
              WHERE m.conversation_id = $1 AND m.role = 'owner' AND m.user_id <> $2
              ORDER BY CASE WHEN u.banned_at IS NULL THEN 0 ELSE 1 END, m.joined_at, m.user_id LIMIT 1"
        ),
        &[Value::I64(conversation.0), Value::I64(user.0)],
        read,
    )
    .await
}

/// A member who may become the owner of a group.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The user.
    pub user: UserId,
    /// Whether the user is banned, and so can manage nothing.
    pub is_banned: bool,
}

columns! {
    Candidate {
        user: "m.user_id",
        is_banned: "u.banned_at IS NOT NULL",
    }
}

/// The member who becomes owner when `user` no longer is: the admin who joined first. If there is no admin, the member who
/// joined first. A banned member only if all others are banned.
pub async fn successor(conn: &mut Conn, conversation: ConversationId, user: UserId) -> Result<Option<Candidate>> {
    conn.first(
        sql!(
            "SELECT ",
            Candidate::COLUMNS,
            " FROM messaging.members m JOIN messaging.users u ON u.id = m.user_id
              WHERE m.conversation_id = $1 AND m.user_id <> $2
              ORDER BY CASE WHEN u.banned_at IS NULL THEN 0 ELSE 1 END,
                       CASE m.role WHEN 'owner' THEN 0 WHEN 'admin' THEN 1 ELSE 2 END, m.joined_at, m.user_id LIMIT 1"
        ),
        &[Value::I64(conversation.0), Value::I64(user.0)],
        read,
    )
    .await
}

/// Groups of which a user is an owner, in the order of their ids, after `after`.
pub async fn owned_by(conn: &mut Conn, user: UserId, after: ConversationId, limit: i64) -> Result<Vec<ConversationId>> {
    conn.rows(
        "SELECT conversation_id FROM messaging.members
          WHERE user_id = $1 AND conversation_id > $2 AND role = 'owner' ORDER BY conversation_id LIMIT $3",
        &[Value::I64(user.0), Value::I64(after.0), Value::I64(limit)],
        |row| row.i64(0).map(ConversationId),
    )
    .await
}

/// Groups of a user in which every owner is banned, in the order of their ids, after `after`.
pub async fn without_active_owner(
    conn: &mut Conn,
    user: UserId,
    after: ConversationId,
    limit: i64,
) -> Result<Vec<ConversationId>> {
    conn.rows(
        "SELECT m.conversation_id FROM messaging.members m JOIN messaging.conversations c ON c.id = m.conversation_id
          WHERE m.user_id = $1 AND m.conversation_id > $2 AND c.kind = 'group'
            AND NOT EXISTS (SELECT 1 FROM messaging.members o JOIN messaging.users u ON u.id = o.user_id
                             WHERE o.conversation_id = m.conversation_id AND o.role = 'owner' AND u.banned_at IS NULL)
          ORDER BY m.conversation_id LIMIT $3",
        &[Value::I64(user.0), Value::I64(after.0), Value::I64(limit)],
        |row| row.i64(0).map(ConversationId),
    )
    .await
}

/// A member of a conversation.
#[derive(Clone, Debug)]
pub struct Member {
    /// The user.
    pub user: UserId,
    /// The role of the member.
    pub role: Role,
    /// When the member joined.
    pub joined_at: Timestamp,
}

columns! {
    Member {
        user: "user_id",
        role: "role",
        joined_at: "joined_at",
    }
}

/// Members in the order of their ids, after `after`.
pub async fn list(conn: &mut Conn, conversation: ConversationId, after: UserId, limit: i64) -> Result<Vec<Member>> {
    conn.rows(
        sql!(
            "SELECT ",
            Member::COLUMNS,
            " FROM messaging.members WHERE conversation_id = $1 AND user_id > $2 ORDER BY user_id LIMIT $3"
        ),
        &[Value::I64(conversation.0), Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// One member of a conversation.
pub async fn one(conn: &mut Conn, conversation: ConversationId, user: UserId) -> Result<Option<Member>> {
    conn.first(
        sql!("SELECT ", Member::COLUMNS, " FROM messaging.members WHERE conversation_id = $1 AND user_id = $2"),
        &[Value::I64(conversation.0), Value::I64(user.0)],
        read,
    )
    .await
}

/// A member's own settings for a conversation.
#[derive(Clone, Debug, Default)]
pub struct MemberSettings {
    /// Until when the member gets no notifications.
    pub muted_until: Option<Timestamp>,
    /// Whether the conversation is shown first in the member's list.
    pub pinned: bool,
    /// Whether the conversation is shown in a separate list.
    pub archived: bool,
    /// The saved draft.
    pub draft: Option<String>,
}

columns! {
    MemberSettings {
        muted_until: "m.muted_until",
        pinned: "m.pinned",
        archived: "m.archived",
        draft: "m.draft",
    }
}

/// Updates a member's own settings.
pub async fn keep(conn: &mut Conn, conversation: ConversationId, user: UserId, keeps: &MemberSettings) -> Result<()> {
    conn.execute(
        "UPDATE messaging.members SET muted_until = $3, pinned = $4, archived = $5, draft = $6
          WHERE conversation_id = $1 AND user_id = $2",
        &[
            Value::I64(conversation.0),
            Value::I64(user.0),
            Value::OptionTime(keeps.muted_until),
            Value::Bool(keeps.pinned),
            Value::Bool(keeps.archived),
            Value::OptionText(keeps.draft.as_deref()),
        ],
    )
    .await?;
    Ok(())
}

/// Hides a conversation from a member's list until its next message. The messages before that one no longer count as unread,
/// and the mark of unread messages is removed. The watermarks stay, because the other members see them.
pub async fn hide(conn: &mut Conn, conversation: ConversationId, user: UserId, below_seq: i64) -> Result<()> {
    conn.execute(
        "UPDATE messaging.members SET hidden_below_seq = $3, unread_from = NULL
          WHERE conversation_id = $1 AND user_id = $2",
        &[Value::I64(conversation.0), Value::I64(user.0), Value::I64(below_seq)],
    )
    .await?;
    Ok(())
}

/// Conversations that a user has left, in the order of their ids, after `after`.
pub async fn left_by(conn: &mut Conn, user: UserId, after: ConversationId, limit: i64) -> Result<Vec<ConversationId>> {
    conn.rows(
        "SELECT conversation_id FROM messaging.former_members WHERE user_id = $1 AND conversation_id > $2
          ORDER BY conversation_id LIMIT $3",
        &[Value::I64(user.0), Value::I64(after.0), Value::I64(limit)],
        |row| row.i64(0).map(ConversationId),
    )
    .await
}

/// Groups of which a user is a member, in the order of their ids, after `after`.
pub async fn groups_of(
    conn: &mut Conn,
    user: UserId,
    after: ConversationId,
    limit: i64,
) -> Result<Vec<ConversationId>> {
    conn.rows(
        "SELECT m.conversation_id FROM messaging.members m JOIN messaging.conversations c ON c.id = m.conversation_id
          WHERE m.user_id = $1 AND m.conversation_id > $2 AND c.kind = 'group' ORDER BY m.conversation_id LIMIT $3",
        &[Value::I64(user.0), Value::I64(after.0), Value::I64(limit)],
        |row| row.i64(0).map(ConversationId),
    )
    .await
}

/// A conversation of which a user is or was a member.
#[derive(Clone, Debug)]
pub struct PastOrPresentMembership {
    /// The conversation.
    pub conversation: ConversationId,
    /// The role of the user. `None` for a former member.
    pub role: Option<Role>,
    /// When the user joined. `None` for a former member.
    pub joined_at: Option<Timestamp>,
    /// When the user left. `None` for a member.
    pub left_at: Option<Timestamp>,
    /// The user's own settings.
    pub keeps: MemberSettings,
}

columns! {
    PastOrPresentMembership {
        conversation: "m.conversation_id",
        role: "m.role",
        joined_at: "m.joined_at",
        left_at: "m.left_at",
        keeps: MemberSettings::COLUMNS,
    }
}

/// Conversations of which a user is or was a member, in the order of their ids, after `after`.
pub async fn belongings_of(
    conn: &mut Conn,
    user: UserId,
    after: ConversationId,
    limit: i64,
) -> Result<Vec<PastOrPresentMembership>> {
    conn.rows(
        sql!(
            "SELECT ",
            PastOrPresentMembership::COLUMNS,
            " FROM (SELECT conversation_id, role, joined_at, CAST(NULL AS TIMESTAMPTZ) AS left_at, muted_until, pinned,
                           archived, draft
                      FROM messaging.members WHERE user_id = $1 AND conversation_id > $2
                    UNION ALL
                    SELECT conversation_id, CAST(NULL AS TEXT), CAST(NULL AS TIMESTAMPTZ), left_at,
                           CAST(NULL AS TIMESTAMPTZ), FALSE, FALSE, CAST(NULL AS TEXT)
                      FROM messaging.former_members WHERE user_id = $1 AND conversation_id > $2) AS m
              ORDER BY m.conversation_id LIMIT $3"
        ),
        &[Value::I64(user.0), Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// The members of conversations. With each member comes a `seq`: the member sees the messages after it. An unknown word in
/// `history` is not an error here, because the error would affect all conversations of the query. The word is treated like
/// `since_joined`, which shows the fewest messages.
pub async fn audiences(conn: &mut Conn, conversations: &[i64]) -> Result<Vec<(ConversationId, UserId, i64)>> {
    conn.rows(
        "SELECT m.conversation_id, m.user_id, CASE WHEN c.history = 'all' THEN 0 ELSE m.joined_seq END
           FROM messaging.members m JOIN messaging.conversations c ON c.id = m.conversation_id
          WHERE m.conversation_id = ANY($1)",
        &[Value::I64s(conversations)],
        |row| Ok((ConversationId(row.i64(0)?), UserId(row.i64(1)?), row.i64(2)?)),
    )
    .await
}
