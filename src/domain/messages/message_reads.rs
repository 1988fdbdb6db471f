//! Reads messages inside a unit of work: checks whether a viewer may see them, and loads the data that belongs to them.

use super::{mentions, tallies, watermarks};
use crate::base::error::{Error, Result};
use crate::base::ids::ConversationId;
use crate::domain::access::membership::{Membership, membership};
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::names::{self, Names};
use crate::store;
use crate::store::db::Conn;
use crate::store::messages::messages::Message;

/// Reads a message that the viewer may see.
///
/// # Errors
/// 404 `message_not_found`.
pub async fn visible(conn: &mut Conn, viewer: Viewer, conversation: ConversationId, seq: i64) -> Result<Message> {
    require_visible(conn, viewer, conversation, seq).await?;
    store::messages::messages::one(conn, conversation, seq).await?.ok_or_else(message_not_found)
}

/// Checks that the viewer may see a message. Returns their membership.
///
/// # Errors
/// 404 `message_not_found`.
pub async fn require_visible(
    conn: &mut Conn,
    viewer: Viewer,
    conversation: ConversationId,
    seq: i64,
) -> Result<Membership> {
    match membership(conn, viewer, conversation).await {
        Ok(membership) if membership.sees(seq) => Ok(membership),
        Ok(_) | Err(Error::NotFound { .. }) => Err(message_not_found()),
        Err(error) => Err(error),
    }
}

/// Locks the conversation, and reads a message that the viewer may see, with the viewer's membership.
///
/// # Errors
/// 404 `message_not_found`.
pub async fn lock_visible(
    conn: &mut Conn,
    viewer: Viewer,
    conversation: ConversationId,
    seq: i64,
) -> Result<(Membership, Message)> {
    store::conversations::conversations::lock_one(conn, conversation).await?;
    let membership = require_visible(conn, viewer, conversation, seq).await?;
    let message = store::messages::messages::one(conn, conversation, seq).await?.ok_or_else(message_not_found)?;
    Ok((membership, message))
}

/// Loads the data of messages that their rows do not contain: times of receipts, mentions, and names of custom emoji. Returns
/// the names of all users in the messages.
///
/// # Errors
/// Errors of the database.
pub async fn complete(conn: &mut Conn, messages: &mut [Message]) -> Result<Names> {
    watermarks::set_times(conn, messages).await?;
    mentions::load(conn, messages).await?;
    tallies::set_names(conn, messages).await?;
    let people = messages.iter().flat_map(|message| {
        let people = [Some(message.sender_id), message.recipient_id, message.subject_id].into_iter().flatten();
        people.chain(message.mentions.iter().copied())
    });
    let names = names::load(conn, people.collect()).await?;
    mentions::drop_erased(messages, &names);
    Ok(names)
}

/// As [`complete`], and marks the viewer's own reactions.
///
/// # Errors
/// Errors of the database.
pub async fn complete_for(conn: &mut Conn, viewer: Viewer, messages: &mut [Message]) -> Result<Names> {
    tallies::mark_own(conn, viewer, messages).await?;
    complete(conn, messages).await
}

/// The error for a change of a tombstone.
pub fn message_deleted() -> Error {
    Error::Conflict { code: "message_deleted", detail: "This message was deleted".into() }
}

/// The error for a message that does not exist or that the caller may not see.
pub fn message_not_found() -> Error {
    Error::NotFound { code: "message_not_found", detail: "Message not found".into() }
}
