//! Erasures: removing a user from every table.
//!
//! Invariant: the transaction of [`forget_person`] also inserts a row into `messaging.erasures`. The row stays until the
//! user's messages are processed too. So every erasure that begins is finished, even after a crash.

use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;
use crate::store::shared::idempotency::{Digest, key};
use crate::store::{conversations, files, identity, messages};

/// An erasure that is not finished.
#[derive(Clone, Copy, Debug)]
pub struct Erasure {
    /// The user to erase.
    pub user: UserId,
    /// Whether the user's messages become tombstones.
    pub delete_messages: bool,
}

/// Deletes a user with profile, credentials, presence, scheduled messages and saved drafts, and records that the erasure
/// has begun. `name_digest` is the keyed hash of the user name.
pub async fn forget_person(
    conn: &mut Conn,
    user: UserId,
    name_digest: &[u8],
    delete_messages: bool,
    now: Timestamp,
) -> Result<()> {
    conversations::incoming_webhooks::forget(conn, user).await?;
    // A bot can send only while it has its incoming webhook, so the webhook is deleted too.
    conversations::incoming_webhooks::delete_of_bot(conn, user, now).await?;
    let areas = [
        identity::DELETED_WITH_PERSON,
        messages::DELETED_WITH_PERSON,
        conversations::DELETED_WITH_PERSON,
        files::DELETED_WITH_PERSON,
        super::DELETED_WITH_PERSON,
        &["DELETE FROM messaging.users WHERE id = $1"],
    ];
    for sql in areas.into_iter().flatten() {
        conn.execute(sql, &[Value::I64(user.0)]).await?;
    }
    conn.execute(
        "INSERT INTO messaging.erased_people (user_id, name_digest) VALUES ($1, $2)",
        &[Value::I64(user.0), Value::Bytes(name_digest)],
    )
    .await?;
    conn.execute(
        "INSERT INTO messaging.erasures (user_id, delete_messages, at) VALUES ($1, $2, $3)",
        &[Value::I64(user.0), Value::Bool(delete_messages), Value::Time(now)],
    )
    .await?;
    Ok(())
}

/// Whether a user with this name was erased. The name is given as a keyed hash.
pub async fn was_erased(conn: &mut Conn, name_digest: &[u8]) -> Result<bool> {
    let sql = "SELECT user_id FROM messaging.erased_people WHERE name_digest = $1";
    Ok(conn.first(sql, &[Value::Bytes(name_digest)], |row| row.i64(0)).await?.is_some())
}

/// Up to 100 erasures that have begun and are not finished.
pub async fn unfinished(conn: &mut Conn) -> Result<Vec<Erasure>> {
    conn.rows("SELECT user_id, delete_messages FROM messaging.erasures ORDER BY user_id LIMIT 100", &[], |row| {
        Ok(Erasure { user: UserId(row.i64(0)?), delete_messages: row.bool(1)? })
    })
    .await
}

/// Deletes the record of a finished erasure, and the rows that record the user as a former member.
pub async fn finish(conn: &mut Conn, user: UserId) -> Result<()> {
    conn.execute("DELETE FROM messaging.former_members WHERE user_id = $1", &[Value::I64(user.0)]).await?;
    conn.execute("DELETE FROM messaging.erasures WHERE user_id = $1", &[Value::I64(user.0)]).await?;
    Ok(())
}

/// The parts of a message that an erasure needs.
#[derive(Clone, Debug)]
pub struct ErasedMessage {
    /// The `seq` of the message.
    pub seq: i64,
    /// Whether the user sent it and it is not yet a tombstone.
    pub own: bool,
    /// The idempotency key under which the answer to its send is stored.
    pub key: Option<(i64, Digest)>,
}

// $2 is the user.
columns! {
    ErasedMessage {
        seq: "seq",
        own: "sender_id = $2 AND deleted_at IS NULL",
        day: "idempotency_day",
        digest: "idempotency_digest",
    } => ErasedMessage { seq, own, key: key(day, digest) }
}

/// Messages of a conversation in the order of `seq`, after `after`. `own` of each result is computed for `user`.
pub async fn traces(
    conn: &mut Conn,
    conversation: ConversationId,
    user: UserId,
    after: i64,
    limit: i64,
) -> Result<Vec<ErasedMessage>> {
    conn.rows(
        sql!(
            "SELECT ",
            ErasedMessage::COLUMNS,
            " FROM messaging.messages WHERE conversation_id = $1 AND seq > $3 ORDER BY seq LIMIT $4"
        ),
        &[Value::I64(conversation.0), Value::I64(user.0), Value::I64(after), Value::I64(limit)],
        read,
    )
    .await
}
