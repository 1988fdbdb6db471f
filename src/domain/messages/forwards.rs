//! Forwarding: sending the text and the attachments of a message into another conversation.
//!
//! Invariant: a forward is an ordinary send by the caller. It needs the same permissions and is refused for the same
//! reasons.

use super::message_reads::{message_deleted, visible};
use super::messages::send;
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::ConversationId;
use crate::base::text::is_blank;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::sending::drafts::{NewMessage, Sent};
use crate::domain::shared::idempotency::{KeyedAnswer, Once};
use crate::store::db::Conn;
use crate::store::messages::messages::{Kind, Message};

struct Input {
    viewer: Viewer,
    conversation: ConversationId,
    seq: i64,
    once: Once<Sent>,
    now: Timestamp,
}

enum Source {
    /// The message to forward.
    Message(Box<Message>),
    /// The stored answer of an earlier request with the same idempotency key.
    KeyedAnswer(KeyedAnswer),
}

/// Sends the body of a message into another conversation of the caller.
///
/// # Errors
/// 403 `act_as_required`, `not_friends`; 404 `message_not_found`, `conversation_not_found`; 409 `message_deleted`,
/// `not_forwardable`; 422 for `conversation_id`, and `idempotency_key_reused`.
pub async fn forward(
    app: &App,
    principal: &Principal,
    conversation: i64,
    seq: i64,
    into: i64,
    once: Once<Sent>,
) -> Result<KeyedAnswer> {
    principal.require_person()?;
    let input = Input {
        viewer: principal.viewer(),
        conversation: ConversationId(conversation),
        seq,
        once: once.clone(),
        now: app.clock.now(),
    };
    let message = match app.db.read(input, |conn, input| Box::pin(find_source(conn, input))).await? {
        Source::Message(message) => message,
        Source::KeyedAnswer(given) => return Ok(given),
    };
    if message.deleted_at.is_some() {
        return Err(message_deleted());
    }
    if message.kind == Kind::System {
        let detail = "System messages cannot be forwarded".into();
        return Err(Error::Conflict { code: "not_forwardable", detail });
    }
    // Earlier versions accepted such a text.
    if message.attachments.list().is_empty() && is_blank(&message.body) {
        let detail = "This message has no visible text".into();
        return Err(Error::Conflict { code: "not_forwardable", detail });
    }
    let new = NewMessage {
        conversation_id: Some(into),
        attachment_ids: message.attachments.list().iter().map(|attachment| attachment.id).collect(),
        link_preview_declined: message.link_preview.is_declined(),
        body: message.body,
        ..NewMessage::default()
    };
    send(app, principal, new, once).await
}

/// Finds the message to forward. A repeated request gets its stored answer before the message is read, because the
/// message may have been deleted since.
async fn find_source(conn: &mut Conn, input: &Input) -> Result<Source> {
    if let Some(given) = input.once.given(conn, input.now).await? {
        return Ok(Source::KeyedAnswer(given));
    }
    let message = visible(conn, input.viewer, input.conversation, input.seq).await?;
    Ok(Source::Message(Box::new(message)))
}
