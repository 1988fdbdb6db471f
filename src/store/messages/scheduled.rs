//! Rows of `messaging.scheduled_sends`.
//!
//! Invariant: the transaction that sends a scheduled message also deletes its row. So the message is sent only once, even
//! when several nodes try.

use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, ScheduledId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::columns::{Columns, columns, read, sql};
use crate::store::db::{Conn, Row};
use crate::store::driver::values::Value;

/// A message that is sent at a later time.
#[derive(Clone, Debug)]
pub struct Scheduled {
    /// Assigned by the database.
    pub id: ScheduledId,
    /// The sender.
    pub sender_id: UserId,
    /// The recipient. `None` when `conversation_id` is set.
    pub recipient_id: Option<UserId>,
    /// The conversation. `None` when `recipient_id` is set.
    pub conversation_id: Option<ConversationId>,
    /// The text.
    pub body: String,
    /// The `seq` of the message that it replies to.
    pub reply_to: Option<i64>,
    /// The attachments, in the order in which the sender gave them.
    pub attachment_ids: AttachmentIds,
    /// Whether the sender wants no preview of its link.
    pub link_preview_declined: bool,
    /// When the server accepted it.
    pub created_at: Timestamp,
    /// When it is to be sent.
    pub send_at: Timestamp,
    /// When sending it was refused.
    pub failed_at: Option<Timestamp>,
    /// Why it was refused, as the code of an error.
    pub failure: Option<String>,
}

/// Ids of attachments. The database stores them as a text, separated by spaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachmentIds(pub Vec<i64>);

impl AttachmentIds {
    fn stored(&self) -> Option<String> {
        let ids: Vec<String> = self.0.iter().map(i64::to_string).collect();
        (!ids.is_empty()).then(|| ids.join(" "))
    }
}

impl Columns<'_> for AttachmentIds {
    fn read_from(row: &Row<'_>, next: &mut usize) -> Result<Self> {
        let Some(stored) = <Option<&str> as Columns<'_>>::read_from(row, next)? else { return Ok(Self::default()) };
        let ids = stored.split(' ').map(str::parse).collect::<Result<Vec<i64>, _>>().map_err(Error::internal)?;
        Ok(Self(ids))
    }
}

columns! {
    Scheduled {
        id: "id",
        sender_id: "sender_id",
        recipient_id: "recipient_id",
        conversation_id: "conversation_id",
        body: "body",
        reply_to: "reply_to",
        attachment_ids: "attachment_ids",
        link_preview_declined: "link_preview_declined",
        created_at: "created_at",
        send_at: "send_at",
        failed_at: "failed_at",
        failure: "failure",
    }
}

/// Inserts a scheduled message. The `id` of `new` is ignored. Its attachments must be locked.
pub async fn insert(conn: &mut Conn, new: &Scheduled) -> Result<ScheduledId> {
    let id = conn.one(
        "INSERT INTO messaging.scheduled_sends (sender_id, recipient_id, conversation_id, body, reply_to, created_at,
                                                send_at, attachment_ids, link_preview_declined)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id",
        &[
            Value::I64(new.sender_id.0),
            Value::OptionI64(new.recipient_id.map(|id| id.0)),
            Value::OptionI64(new.conversation_id.map(|id| id.0)),
            Value::Text(&new.body),
            Value::OptionI64(new.reply_to),
            Value::Time(new.created_at),
            Value::Time(new.send_at),
            Value::OptionText(new.attachment_ids.stored().as_deref()),
            Value::Bool(new.link_preview_declined),
        ],
        |row| row.i64(0).map(ScheduledId),
    )
    .await?;
    for attachment in &new.attachment_ids.0 {
        conn.execute(
            "INSERT INTO messaging.scheduled_attachments (scheduled_id, attachment_id) VALUES ($1, $2)",
            &[Value::I64(id.0), Value::I64(*attachment)],
        )
        .await?;
    }
    Ok(id)
}

/// The scheduled messages of a user in the order of their ids, after `after`.
pub async fn list(conn: &mut Conn, sender: UserId, after: ScheduledId, limit: i64) -> Result<Vec<Scheduled>> {
    conn.rows(
        sql!(
            "SELECT ",
            Scheduled::COLUMNS,
            " FROM messaging.scheduled_sends WHERE sender_id = $1 AND id > $2 ORDER BY id LIMIT $3"
        ),
        &[Value::I64(sender.0), Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// How many scheduled messages a user has.
pub async fn count(conn: &mut Conn, sender: UserId) -> Result<i64> {
    let sql = "SELECT count(*) FROM messaging.scheduled_sends WHERE sender_id = $1";
    conn.one(sql, &[Value::I64(sender.0)], |row| row.i64(0)).await
}

/// One scheduled message of a user.
pub async fn one(conn: &mut Conn, sender: UserId, id: ScheduledId) -> Result<Option<Scheduled>> {
    conn.first(
        sql!("SELECT ", Scheduled::COLUMNS, " FROM messaging.scheduled_sends WHERE id = $2 AND sender_id = $1"),
        &[Value::I64(sender.0), Value::I64(id.0)],
        read,
    )
    .await
}

/// Deletes a scheduled message of a user, and returns whether it existed.
pub async fn delete(conn: &mut Conn, sender: UserId, id: ScheduledId) -> Result<bool> {
    let sql = "DELETE FROM messaging.scheduled_sends WHERE id = $1 AND sender_id = $2";
    let deleted = conn.execute(sql, &[Value::I64(id.0), Value::I64(sender.0)]).await? > 0;
    if deleted {
        delete_attachments(conn, id).await?;
    }
    Ok(deleted)
}

/// The scheduled messages whose time has come, the earliest first. Refused ones are left out.
pub async fn due(conn: &mut Conn, now: Timestamp, limit: i64) -> Result<Vec<ScheduledId>> {
    conn.rows(
        "SELECT id FROM messaging.scheduled_sends WHERE failed_at IS NULL AND send_at <= $1 ORDER BY send_at, id LIMIT $2",
        &[Value::Time(now), Value::I64(limit)],
        |row| row.i64(0).map(ScheduledId),
    )
    .await
}

/// Deletes a scheduled message in order to send it in this transaction, and returns it. `None` when another node is sending
/// it, or when it was deleted.
pub async fn take(conn: &mut Conn, id: ScheduledId) -> Result<Option<Scheduled>> {
    let sql = sql!(
        "SELECT ",
        Scheduled::COLUMNS,
        " FROM messaging.scheduled_sends WHERE id = $1 AND failed_at IS NULL FOR UPDATE SKIP LOCKED"
    );
    let found = conn.first(sql, &[Value::I64(id.0)], read).await?;
    if found.is_some() {
        conn.execute("DELETE FROM messaging.scheduled_sends WHERE id = $1", &[Value::I64(id.0)]).await?;
        delete_attachments(conn, id).await?;
    }
    Ok(found)
}

async fn delete_attachments(conn: &mut Conn, id: ScheduledId) -> Result<()> {
    let sql = "DELETE FROM messaging.scheduled_attachments WHERE scheduled_id = $1";
    conn.execute(sql, &[Value::I64(id.0)]).await.map(drop)
}

/// Records that sending a scheduled message was refused.
pub async fn fail(conn: &mut Conn, id: ScheduledId, at: Timestamp, failure: &str) -> Result<()> {
    conn.execute(
        "UPDATE messaging.scheduled_sends SET failed_at = $2, failure = $3 WHERE id = $1",
        &[Value::I64(id.0), Value::Time(at), Value::Text(failure)],
    )
    .await?;
    Ok(())
}
