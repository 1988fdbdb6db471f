//! Rows of `messaging.members`: who is in a conversation, as what, and since when.
//!
//! Invariant: a row is written under its conversation's lock, and `member_count` of the conversation with it.

use super::conversation_kinds::{History, Kind};
use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::columns::{columns, read, sql, word_column};
use crate::store::db::{Conn, words};
use crate::store::driver::values::Value;

/// What a member may do, each more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads, sends, reacts.
    Member,
    /// Also sees to members and messages.
    Admin,
    /// Also gives roles, and ends the group.
    Owner,
}

impl Role {
    /// As it stands in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// The role of a word.
    ///
    /// # Errors
    /// [`Error::UnknownValue`](crate::base::error::Error::UnknownValue).
    pub fn parse(word: &str) -> Result<Self> {
        words::parse("members.role", &[Self::Member, Self::Admin, Self::Owner], Self::as_str, word)
    }
}

/// A conversation as somebody sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Direct or group.
    pub kind: Kind,
    /// What those see who joined later.
    pub history: History,
    /// Whether members may add others.
    pub members_can_add: bool,
    /// How many messages it has.
    pub last_seq: i64,
    /// How many members.
    pub member_count: i64,
    /// As what they are in it, and how many messages it had when they joined; `None` for who is not.
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

/// A conversation, with the membership of `user` in it if one is named and is a member; `None` when there is no such
/// conversation (any more).
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

/// Somebody who sends into a conversation, as far as a send needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendingMember {
    /// Where.
    pub conversation: ConversationId,
    /// Who.
    pub user: UserId,
    /// The first message that they see.
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

/// Those of some pairs of a conversation and a person who are members. To be asked under the conversations' locks.
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

/// Somebody to be made a member.
#[derive(Clone, Copy, Debug)]
pub struct NewMember {
    /// Who.
    pub user: UserId,
    /// As what.
    pub role: Role,
}

/// Makes people members, whose watermarks begin at `last_seq`: those of them who were none before. The conversation is
/// locked.
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
                     VALUES ($1, $2, $3, $4, $5, $5, $5) ON CONFLICT DO NOTHING",
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
                 SELECT $1::bigint, n.user_id, n.role, $2::timestamptz, $3::bigint, $3::bigint, $3::bigint
                   FROM unnest($4::bigint[], $5::text[]) AS n (user_id, role)
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
    // Whether all have read a message depends on who they are: what was rendered is looked at again.
    conn.execute(
        "UPDATE messaging.conversations SET member_count = member_count + $2, content_version = content_version + 1
          WHERE id = $1",
        &[Value::I64(conversation.0), Value::I64(by)],
    )
    .await?;
    Ok(())
}

/// Takes somebody out, and remembers that they were in it. The conversation is locked.
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

/// Takes everybody out of a group that ends.
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

/// Gives a member another role.
pub async fn set_role(conn: &mut Conn, conversation: ConversationId, user: UserId, role: Role) -> Result<()> {
    conn.execute(
        "UPDATE messaging.members SET role = $3 WHERE conversation_id = $1 AND user_id = $2",
        &[Value::I64(conversation.0), Value::I64(user.0), Value::Text(role.as_str())],
    )
    .await?;
    Ok(())
}

/// As what somebody is in a conversation.
pub async fn role_of(conn: &mut Conn, conversation: ConversationId, user: UserId) -> Result<Option<Role>> {
    conn.first(
        "SELECT role FROM messaging.members WHERE conversation_id = $1 AND user_id = $2",
        &[Value::I64(conversation.0), Value::I64(user.0)],
        read,
    )
    .await
}

/// Whether somebody else owns a group too.
pub async fn has_other_owner(conn: &mut Conn, conversation: ConversationId, user: UserId) -> Result<bool> {
    let found = conn
        .first(
            "SELECT user_id FROM messaging.members WHERE conversation_id = $1 AND role = 'owner' AND user_id <> $2 LIMIT 1",
            &[Value::I64(conversation.0), Value::I64(user.0)],
            |row| row.i64(0),
        )
        .await?;
    Ok(found.is_some())
}

/// Who would own a group after somebody: the oldest admin, else the oldest member.
pub async fn successor(conn: &mut Conn, conversation: ConversationId, user: UserId) -> Result<Option<UserId>> {
    conn.first(
        "SELECT user_id FROM messaging.members WHERE conversation_id = $1 AND user_id <> $2
          ORDER BY CASE role WHEN 'admin' THEN 0 ELSE 1 END, joined_at, user_id LIMIT 1",
        &[Value::I64(conversation.0), Value::I64(user.0)],
        |row| row.i64(0).map(UserId),
    )
    .await
}

/// A member of a conversation.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// As what.
    pub role: Role,
    /// Since when.
    pub joined_at: Timestamp,
}

columns! {
    Member {
        user: "user_id",
        role: "role",
        joined_at: "joined_at",
    }
}

/// Members by id, after `after`.
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

/// One member.
pub async fn one(conn: &mut Conn, conversation: ConversationId, user: UserId) -> Result<Option<Member>> {
    conn.first(
        sql!("SELECT ", Member::COLUMNS, " FROM messaging.members WHERE conversation_id = $1 AND user_id = $2"),
        &[Value::I64(conversation.0), Value::I64(user.0)],
        read,
    )
    .await
}

/// What a member keeps for themself.
#[derive(Clone, Debug, Default)]
pub struct Keeps {
    /// No notifications until then.
    pub muted_until: Option<Timestamp>,
    /// Shown first.
    pub pinned: bool,
    /// Shown apart.
    pub archived: bool,
    /// What they have begun to write.
    pub draft: Option<String>,
}

columns! {
    Keeps {
        muted_until: "m.muted_until",
        pinned: "m.pinned",
        archived: "m.archived",
        draft: "m.draft",
    }
}

/// Writes what a member keeps for themself.
pub async fn keep(conn: &mut Conn, conversation: ConversationId, user: UserId, keeps: &Keeps) -> Result<()> {
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

/// Takes a conversation out of somebody's list until its next message.
pub async fn hide(conn: &mut Conn, conversation: ConversationId, user: UserId, below_seq: i64) -> Result<()> {
    conn.execute(
        "UPDATE messaging.members SET hidden_below_seq = $3 WHERE conversation_id = $1 AND user_id = $2",
        &[Value::I64(conversation.0), Value::I64(user.0), Value::I64(below_seq)],
    )
    .await?;
    Ok(())
}

/// Conversations that somebody left, by id, after `after`.
pub async fn left_by(conn: &mut Conn, user: UserId, after: ConversationId, limit: i64) -> Result<Vec<ConversationId>> {
    conn.rows(
        "SELECT conversation_id FROM messaging.former_members WHERE user_id = $1 AND conversation_id > $2
          ORDER BY conversation_id LIMIT $3",
        &[Value::I64(user.0), Value::I64(after.0), Value::I64(limit)],
        |row| row.i64(0).map(ConversationId),
    )
    .await
}

/// Groups that somebody is in, by id, after `after`.
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

/// A conversation that somebody is in, or was.
#[derive(Clone, Debug)]
pub struct Belonging {
    /// Which.
    pub conversation: ConversationId,
    /// As what they are in it.
    pub role: Option<Role>,
    /// Since when they are in it.
    pub joined_at: Option<Timestamp>,
    /// When they left it.
    pub left_at: Option<Timestamp>,
    /// What they keep of it.
    pub keeps: Keeps,
}

columns! {
    Belonging {
        conversation: "m.conversation_id",
        role: "m.role",
        joined_at: "m.joined_at",
        left_at: "m.left_at",
        keeps: Keeps::COLUMNS,
    }
}

/// Conversations that somebody is in or left, by id, after `after`.
pub async fn belongings_of(conn: &mut Conn, user: UserId, after: ConversationId, limit: i64) -> Result<Vec<Belonging>> {
    conn.rows(
        sql!(
            "SELECT ",
            Belonging::COLUMNS,
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

/// Who is in some conversations, each with the seq behind which they see messages. One query serves many conversations, so an
/// unknown word in `history` is no error here: it shows as little as `since_joined`.
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
