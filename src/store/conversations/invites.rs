//! Rows of `messaging.invites`.
//!
//! Invariant: one conditional statement checks the number of uses and raises it, so an invite is never used more often than
//! allowed.

use crate::base::error::Result;
use crate::base::ids::{ConversationId, InviteId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;
use crate::store::identity::sessions::SecretHash;

/// An invite, without its code.
#[derive(Clone, Debug)]
pub struct Invite {
    /// Assigned by the database.
    pub id: InviteId,
    /// The group that users join with it.
    pub conversation_id: ConversationId,
    /// The user who created it. `None` in rows of older versions, after that user was erased.
    pub created_by: Option<UserId>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// Maximum number of uses. `None` for no limit.
    pub max_uses: Option<i64>,
    /// Number of uses so far.
    pub uses: i64,
}

columns! {
    Invite {
        id: "i.id",
        conversation_id: "i.conversation_id",
        created_by: "i.created_by",
        created_at: "i.created_at",
        expires_at: "i.expires_at",
        max_uses: "i.max_uses",
        uses: "i.uses",
    }
}

/// Inserts a new invite. The `id` and the `uses` of `invite` are ignored.
pub async fn insert(conn: &mut Conn, code_hash: &SecretHash, invite: &Invite) -> Result<InviteId> {
    conn.one(
        "INSERT INTO messaging.invites (code_hash, conversation_id, created_by, created_at, expires_at, max_uses, uses)
         VALUES ($1, $2, $3, $4, $5, $6, 0) RETURNING id",
        &[
            Value::Bytes(code_hash),
            Value::I64(invite.conversation_id.0),
            Value::OptionI64(invite.created_by.map(|user| user.0)),
            Value::Time(invite.created_at),
            Value::Time(invite.expires_at),
            Value::OptionI64(invite.max_uses),
        ],
        |row| row.i64(0).map(InviteId),
    )
    .await
}

/// The invite with this code, even when it is no longer valid.
pub async fn by_code(conn: &mut Conn, code_hash: &SecretHash) -> Result<Option<Invite>> {
    conn.first(
        sql!("SELECT ", Invite::COLUMNS, " FROM messaging.invites i WHERE i.code_hash = $1"),
        &[Value::Bytes(code_hash)],
        read,
    )
    .await
}

/// The valid invites of a conversation in the order of their ids, after `after`.
pub async fn list(
    conn: &mut Conn,
    conversation: ConversationId,
    after: InviteId,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<Invite>> {
    conn.rows(
        sql!(
            "SELECT ",
            Invite::COLUMNS,
            " FROM messaging.invites i
              WHERE i.conversation_id = $1 AND i.id > $2 AND i.expires_at > $3 AND (i.max_uses IS NULL OR i.uses < i.max_uses)
              ORDER BY i.id LIMIT $4"
        ),
        &[Value::I64(conversation.0), Value::I64(after.0), Value::Time(now), Value::I64(limit)],
        read,
    )
    .await
}

/// The number of valid invites of a conversation.
pub async fn count(conn: &mut Conn, conversation: ConversationId, now: Timestamp) -> Result<i64> {
    conn.one(
        "SELECT count(*) FROM messaging.invites
          WHERE conversation_id = $1 AND expires_at > $2 AND (max_uses IS NULL OR uses < max_uses)",
        &[Value::I64(conversation.0), Value::Time(now)],
        |row| row.i64(0),
    )
    .await
}

/// Counts one use of an invite. Returns `false` when the invite is no longer valid.
pub async fn use_once(conn: &mut Conn, id: InviteId, now: Timestamp) -> Result<bool> {
    let used = conn
        .execute(
            "UPDATE messaging.invites SET uses = uses + 1
              WHERE id = $1 AND expires_at > $2 AND (max_uses IS NULL OR uses < max_uses)",
            &[Value::I64(id.0), Value::Time(now)],
        )
        .await?;
    Ok(used > 0)
}

/// Deletes an invite of a conversation, and returns whether it existed.
pub async fn delete(conn: &mut Conn, conversation: ConversationId, id: InviteId) -> Result<bool> {
    let sql = "DELETE FROM messaging.invites WHERE conversation_id = $1 AND id = $2";
    Ok(conn.execute(sql, &[Value::I64(conversation.0), Value::I64(id.0)]).await? > 0)
}

/// Deletes all invites of a conversation.
pub async fn delete_of(conn: &mut Conn, conversation: ConversationId) -> Result<()> {
    conn.execute("DELETE FROM messaging.invites WHERE conversation_id = $1", &[Value::I64(conversation.0)]).await?;
    Ok(())
}

/// Deletes the invites that a user created for a conversation.
pub async fn delete_made_by(conn: &mut Conn, conversation: ConversationId, user: UserId) -> Result<()> {
    let sql = "DELETE FROM messaging.invites WHERE conversation_id = $1 AND created_by = $2";
    conn.execute(sql, &[Value::I64(conversation.0), Value::I64(user.0)]).await?;
    Ok(())
}

/// Deletes the invites that a user created for conversations of which the user is a member.
pub async fn delete_all_made_by(conn: &mut Conn, user: UserId) -> Result<()> {
    conn.execute(
        "DELETE FROM messaging.invites WHERE id IN (
             SELECT i.id FROM messaging.members m
               JOIN messaging.invites i ON i.conversation_id = m.conversation_id AND i.created_by = m.user_id
              WHERE m.user_id = $1)",
        &[Value::I64(user.0)],
    )
    .await?;
    Ok(())
}

/// Deletes up to `limit` expired invites. Returns how many.
pub async fn delete_expired(conn: &mut Conn, now: Timestamp, limit: i64) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.invites WHERE id IN
             (SELECT id FROM messaging.invites WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)",
        &[Value::Time(now), Value::I64(limit)],
    )
    .await
}

/// The invites that a user created for conversations of which the user is a member, in the order of their ids, after
/// `after`.
pub async fn made_by(conn: &mut Conn, user: UserId, after: InviteId, limit: i64) -> Result<Vec<Invite>> {
    conn.rows(
        sql!(
            "SELECT ",
            Invite::COLUMNS,
            " FROM messaging.members m
              JOIN messaging.invites i ON i.conversation_id = m.conversation_id AND i.created_by = m.user_id
              WHERE m.user_id = $1 AND i.id > $2 ORDER BY i.id LIMIT $3"
        ),
        &[Value::I64(user.0), Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}
