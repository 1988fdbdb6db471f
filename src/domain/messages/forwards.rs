//! Forwarding: what was said in one conversation, said again in another.
//!
//! Invariant: a forward is a send like any other, by the caller, and goes the way of all sends: it needs what they need, and
//! is refused for what they are refused for.

use super::message_reads::{message_deleted, visible};
use super::messages::send;
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::ConversationId;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::sending::drafts::{NewMessage, Sent};
use crate::domain::shared::idempotency::{Given, Once};
use crate::store::db::Conn;
use crate::store::messages::messages::{Kind, Message};

struct Wanted {
    viewer: Viewer,
    conversation: ConversationId,
    seq: i64,
    once: Once<Sent>,
    now: Timestamp,
}

enum Source {
    /// What is to be said again.
    Message(Box<Message>),
    /// It was said, for this key.
    Given(Given),
}

/// Sends the body of a message into another conversation of the caller's.
///
/// # Errors
/// 403 `act_as_required`, `not_friends`; 404 `message_not_found`, `conversation_not_found`; 409 `message_deleted`,
/// `not_forwardable`; 422 on `conversation_id`, and `idempotency_key_reused`.
pub async fn forward(
    app: &App,
    principal: &Principal,
    conversation: i64,
    seq: i64,
    into: i64,
    once: Once<Sent>,
) -> Result<Given> {
    principal.require_person()?;
    let wanted = Wanted {
        viewer: principal.viewer(),
        conversation: ConversationId(conversation),
        seq,
        once: once.clone(),
        now: app.clock.now(),
    };
    let message = match app.db.read(wanted, |conn, wanted| Box::pin(source(conn, wanted))).await? {
        Source::Message(message) => message,
        Source::Given(given) => return Ok(given),
    };
    if message.deleted_at.is_some() {
        return Err(message_deleted());
    }
    if message.kind == Kind::System {
        let detail = "what the server says about a conversation belongs there".into();
        return Err(Error::Conflict { code: "not_forwardable", detail });
    }
    let new = NewMessage { conversation_id: Some(into), body: message.body, ..NewMessage::default() };
    send(app, principal, new, once).await
}

/// A repeat is answered before anything is looked at: what it forwarded may be gone.
async fn source(conn: &mut Conn, wanted: &Wanted) -> Result<Source> {
    if let Some(given) = wanted.once.given(conn, wanted.now).await? {
        return Ok(Source::Given(given));
    }
    let message = visible(conn, wanted.viewer, wanted.conversation, wanted.seq).await?;
    Ok(Source::Message(Box::new(message)))
}
