//! The pictures of users and groups: `users.avatar_id` and `conversations.avatar_id`.
//!
//! Invariant: an attachment is locked before it becomes a picture, and from then on it does not expire. When it is no longer a
//! picture, it expires at once, unless something else uses it.

use crate::base::error::Result;
use crate::base::ids::{AttachmentId, ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::driver::values::Value;

/// Sets the picture of a user. `None` removes it.
pub async fn set_of_user(
    conn: &mut Conn,
    user: UserId,
    avatar: Option<AttachmentId>,
    modified_at: Timestamp,
) -> Result<()> {
    conn.execute(
        "UPDATE messaging.users SET avatar_id = $2, modified_at = CASE WHEN modified_at > $3 THEN modified_at ELSE $3 END
          WHERE id = $1",
        &[Value::I64(user.0), Value::OptionI64(avatar.map(|avatar| avatar.0)), Value::Time(modified_at)],
    )
    .await
    .map(drop)
}

/// The attachment that is the picture of a group. `None` if it has no picture or one at another address.
pub async fn of_group(conn: &mut Conn, group: ConversationId) -> Result<Option<AttachmentId>> {
    let sql = "SELECT avatar_id FROM messaging.conversations WHERE id = $1";
    let found = conn.first(sql, &[Value::I64(group.0)], |row| row.option_i64(0)).await?;
    Ok(found.flatten().map(AttachmentId))
}

/// Sets the attachment that is the picture of a group. `None` removes it.
pub async fn set_of_group(conn: &mut Conn, group: ConversationId, avatar: Option<AttachmentId>) -> Result<()> {
    conn.execute(
        "UPDATE messaging.conversations SET avatar_id = $2 WHERE id = $1",
        &[Value::I64(group.0), Value::OptionI64(avatar.map(|avatar| avatar.0))],
    )
    .await
    .map(drop)
}

/// Stores that an attachment does not expire.
pub async fn keep(conn: &mut Conn, avatar: AttachmentId) -> Result<()> {
    let sql = "UPDATE messaging.attachments SET expires_at = NULL WHERE id = $1";
    conn.execute(sql, &[Value::I64(avatar.0)]).await.map(drop)
}

/// Lets an attachment expire that is no longer a picture.
pub async fn release(conn: &mut Conn, avatar: AttachmentId) -> Result<()> {
    // `created_at` is in the past, so the next sweep deletes the attachment unless something else uses it.
    let sql = "UPDATE messaging.attachments SET expires_at = created_at WHERE id = $1";
    conn.execute(sql, &[Value::I64(avatar.0)]).await.map(drop)
}

/// Removes the picture of a group and lets its attachment expire.
pub async fn release_of_group(conn: &mut Conn, group: ConversationId) -> Result<()> {
    if let Some(avatar) = of_group(conn, group).await? {
        release(conn, avatar).await?;
        set_of_group(conn, group, None).await?;
    }
    Ok(())
}
