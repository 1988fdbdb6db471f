//! Rows of `messaging.incoming_webhooks`.
//!
//! Invariants: a bot can send only while its incoming webhook has a row. When the row is deleted, the bot is recorded as a
//! former member of the group, so that an erasure finds the bot's messages.

use crate::base::error::Result;
use crate::base::ids::{ConversationId, IncomingWebhookId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;
use crate::store::identity::sessions::SecretHash;
use crate::store::identity::users::UserSummary;

/// An incoming webhook, without its token.
#[derive(Clone, Debug)]
pub struct IncomingWebhook {
    /// Assigned by the database.
    pub id: IncomingWebhookId,
    /// The conversation into which it posts.
    pub conversation_id: ConversationId,
    /// The bot that is the sender of its messages.
    pub bot_id: UserId,
    /// The name of the incoming webhook.
    pub name: String,
    /// The name of the user who created it. `None` when that user no longer exists.
    pub created_by_user_name: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
}

columns! {
    IncomingWebhook {
        id: "h.id",
        conversation_id: "h.conversation_id",
        bot_id: "h.bot_id",
        name: "h.name",
        created_by_user_name: "u.user_name",
        created_at: "h.created_at",
    }
}

/// Inserts an incoming webhook. The `id` of `new` is ignored.
pub async fn insert(
    conn: &mut Conn,
    token_hash: &SecretHash,
    new: &IncomingWebhook,
    created_by: UserId,
) -> Result<IncomingWebhookId> {
    conn.one(
        "INSERT INTO messaging.incoming_webhooks (token_hash, conversation_id, bot_id, name, created_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
        &[
            Value::Bytes(token_hash),
            Value::I64(new.conversation_id.0),
            Value::I64(new.bot_id.0),
            Value::Text(&new.name),
            Value::I64(created_by.0),
            Value::Time(new.created_at),
        ],
        |row| row.i64(0).map(IncomingWebhookId),
    )
    .await
}

/// The number of incoming webhooks of a conversation.
pub async fn count(conn: &mut Conn, conversation: ConversationId) -> Result<i64> {
    let sql = "SELECT count(*) FROM messaging.incoming_webhooks WHERE conversation_id = $1";
    conn.one(sql, &[Value::I64(conversation.0)], |row| row.i64(0)).await
}

/// The incoming webhooks of a conversation in the order of their ids, after `after`.
pub async fn list(
    conn: &mut Conn,
    conversation: ConversationId,
    after: IncomingWebhookId,
    limit: i64,
) -> Result<Vec<IncomingWebhook>> {
    conn.rows(
        sql!(
            "SELECT ",
            IncomingWebhook::COLUMNS,
            " FROM messaging.incoming_webhooks h LEFT JOIN messaging.users u ON u.id = h.created_by
              WHERE h.conversation_id = $1 AND h.id > $2 ORDER BY h.id LIMIT $3"
        ),
        &[Value::I64(conversation.0), Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// The incoming webhooks that a user created, in the order of their ids, after `after`.
pub async fn made_by(
    conn: &mut Conn,
    user: UserId,
    after: IncomingWebhookId,
    limit: i64,
) -> Result<Vec<IncomingWebhook>> {
    conn.rows(
        sql!(
            "SELECT ",
            IncomingWebhook::COLUMNS,
            " FROM messaging.incoming_webhooks h LEFT JOIN messaging.users u ON u.id = h.created_by
              WHERE h.created_by = $1 AND h.id > $2 ORDER BY h.id LIMIT $3"
        ),
        &[Value::I64(user.0), Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// The conversation and the bot to which the token of an incoming webhook gives access.
#[derive(Clone, Debug)]
pub struct Target {
    /// The incoming webhook.
    pub id: IncomingWebhookId,
    /// The conversation into which it posts.
    pub conversation: ConversationId,
    /// The bot that is the sender.
    pub bot: UserSummary,
}

/// The target of a token.
pub async fn by_token(conn: &mut Conn, token_hash: &SecretHash) -> Result<Option<Target>> {
    let sql = "SELECT id, conversation_id, bot_id FROM messaging.incoming_webhooks WHERE token_hash = $1";
    let Some((id, conversation, bot)) = conn.first(sql, &[Value::Bytes(token_hash)], read::<(_, _, i64)>).await? else {
        return Ok(None);
    };
    let found = crate::store::identity::users::summaries_by_ids(conn, &[bot]).await?;
    Ok(found.into_iter().next().map(|bot| Target { id, conversation, bot }))
}

/// Whether a bot has an incoming webhook for a group that is not deleted. The caller must hold the lock of the group.
pub async fn may_post(conn: &mut Conn, conversation: ConversationId, bot: UserId) -> Result<bool> {
    let found = conn
        .first(
            "SELECT h.id FROM messaging.incoming_webhooks h JOIN messaging.conversations c ON c.id = h.conversation_id
              WHERE h.bot_id = $1 AND h.conversation_id = $2 AND c.deleted_at IS NULL",
            &[Value::I64(bot.0), Value::I64(conversation.0)],
            |row| row.i64(0),
        )
        .await?;
    Ok(found.is_some())
}

/// Deletes an incoming webhook of a conversation, and returns its bot. `None` when there is no such webhook. The caller must
/// hold the lock of the conversation.
pub async fn delete(
    conn: &mut Conn,
    conversation: ConversationId,
    id: IncomingWebhookId,
    at: Timestamp,
) -> Result<Option<UserId>> {
    let sql = "SELECT bot_id FROM messaging.incoming_webhooks WHERE id = $1 AND conversation_id = $2";
    let place = [Value::I64(id.0), Value::I64(conversation.0)];
    let Some(bot) = conn.first(sql, &place, |row| row.i64(0).map(UserId)).await? else { return Ok(None) };
    delete_of_bot(conn, bot, at).await?;
    Ok(Some(bot))
}

/// The incoming webhooks that a user created in a conversation, with their bots.
pub async fn made_in(
    conn: &mut Conn,
    conversation: ConversationId,
    user: UserId,
) -> Result<Vec<(IncomingWebhookId, UserId)>> {
    conn.rows(
        "SELECT id, bot_id FROM messaging.incoming_webhooks WHERE conversation_id = $1 AND created_by = $2 ORDER BY id",
        &[Value::I64(conversation.0), Value::I64(user.0)],
        |row| Ok((IncomingWebhookId(row.i64(0)?), UserId(row.i64(1)?))),
    )
    .await
}

/// The conversations in which a user created incoming webhooks, in the order of their ids, after `after`.
pub async fn conversations_of(
    conn: &mut Conn,
    user: UserId,
    after: ConversationId,
    limit: i64,
) -> Result<Vec<ConversationId>> {
    conn.rows(
        "SELECT DISTINCT conversation_id FROM messaging.incoming_webhooks WHERE created_by = $1 AND conversation_id > $2
          ORDER BY conversation_id LIMIT $3",
        &[Value::I64(user.0), Value::I64(after.0), Value::I64(limit)],
        |row| row.i64(0).map(ConversationId),
    )
    .await
}

/// Deletes the incoming webhook of a bot.
pub async fn delete_of_bot(conn: &mut Conn, bot: UserId, at: Timestamp) -> Result<()> {
    conn.execute(
        "INSERT INTO messaging.former_members (conversation_id, user_id, left_at)
         SELECT conversation_id, bot_id, $2 FROM messaging.incoming_webhooks WHERE bot_id = $1
         ON CONFLICT (user_id, conversation_id) DO UPDATE SET left_at = excluded.left_at",
        &[Value::I64(bot.0), Value::Time(at)],
    )
    .await?;
    conn.execute("DELETE FROM messaging.incoming_webhooks WHERE bot_id = $1", &[Value::I64(bot.0)]).await?;
    Ok(())
}

/// Deletes all incoming webhooks of a conversation.
pub async fn delete_of(conn: &mut Conn, conversation: ConversationId, at: Timestamp) -> Result<()> {
    conn.execute(
        "INSERT INTO messaging.former_members (conversation_id, user_id, left_at)
         SELECT conversation_id, bot_id, $2 FROM messaging.incoming_webhooks WHERE conversation_id = $1
         ON CONFLICT (user_id, conversation_id) DO UPDATE SET left_at = excluded.left_at",
        &[Value::I64(conversation.0), Value::Time(at)],
    )
    .await?;
    let sql = "DELETE FROM messaging.incoming_webhooks WHERE conversation_id = $1";
    conn.execute(sql, &[Value::I64(conversation.0)]).await?;
    Ok(())
}

/// Clears the creator of the incoming webhooks that a user created.
pub async fn forget(conn: &mut Conn, user: UserId) -> Result<()> {
    let sql = "UPDATE messaging.incoming_webhooks SET created_by = NULL WHERE created_by = $1";
    conn.execute(sql, &[Value::I64(user.0)]).await?;
    Ok(())
}
