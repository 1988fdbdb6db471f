//! Reading messages inside a unit of work: which ones a caller sees, and what is loaded with them.

use super::{mentions, tallies, watermarks};
use crate::base::error::{Error, Result};
use crate::base::ids::ConversationId;
use crate::domain::access::membership::{Membership, membership};
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::names::{self, Names};
use crate::store;
use crate::store::db::Conn;
use crate::store::messages::messages::Message;

/// A message that a viewer sees.
///
/// # Errors
/// 404 `message_not_found`.
pub async fn visible(conn: &mut Conn, viewer: Viewer, conversation: ConversationId, seq: i64) -> Result<Message> {
    seen_by(conn, viewer, conversation, seq).await?;
    store::messages::messages::one(conn, conversation, seq).await?.ok_or_else(message_not_found)
}

/// That a viewer sees a message, and as what.
///
/// # Errors
/// 404 `message_not_found`.
pub async fn seen_by(conn: &mut Conn, viewer: Viewer, conversation: ConversationId, seq: i64) -> Result<Membership> {
    match membership(conn, viewer, conversation).await {
        Ok(membership) if membership.sees(seq) => Ok(membership),
        Ok(_) | Err(Error::NotFound { .. }) => Err(message_not_found()),
        Err(error) => Err(error),
    }
}

/// A message that a viewer sees, under its conversation's lock, and as what they see it.
///
/// # Errors
/// 404 `message_not_found`.
pub async fn locked(
    conn: &mut Conn,
    viewer: Viewer,
    conversation: ConversationId,
    seq: i64,
) -> Result<(Membership, Message)> {
    store::conversations::conversations::lock_one(conn, conversation).await?;
    let membership = seen_by(conn, viewer, conversation, seq).await?;
    let message = store::messages::messages::one(conn, conversation, seq).await?.ok_or_else(message_not_found)?;
    Ok((membership, message))
}

/// Loads what messages do not hold themselves, as far as their readers see it; and the names of everyone in them.
///
/// # Errors
/// Of the database.
pub async fn complete(conn: &mut Conn, messages: &mut [Message]) -> Result<Names> {
    watermarks::set_times(conn, messages).await?;
    mentions::load(conn, messages).await?;
    let people = messages.iter().flat_map(|message| {
        let people = [Some(message.sender_id), message.recipient_id, message.subject_id].into_iter().flatten();
        people.chain(message.mentions.iter().copied())
    });
    let names = names::load(conn, people.collect()).await?;
    mentions::order(messages, &names);
    Ok(names)
}

/// [`complete`] for a viewer, with the viewer's own reactions marked.
///
/// # Errors
/// Of the database.
pub async fn complete_for(conn: &mut Conn, viewer: Viewer, messages: &mut [Message]) -> Result<Names> {
    tallies::mark_own(conn, viewer, messages).await?;
    complete(conn, messages).await
}

/// It is a tombstone.
pub fn message_deleted() -> Error {
    Error::Conflict { code: "message_deleted", detail: "this message was deleted".into() }
}

/// There is no such message for this caller.
pub fn message_not_found() -> Error {
    Error::NotFound { code: "message_not_found", detail: "there is no such message".into() }
}
