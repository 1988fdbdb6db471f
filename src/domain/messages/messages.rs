//! Sending a message, and reading one message.

use super::message_reads::{complete_for, message_not_found, visible};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, MessageId};
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::names::Names;
use crate::domain::sending::drafts::{Answer, Draft, NewMessage, Sent};
use crate::domain::shared::idempotency::{KeyedAnswer, Once};
use crate::store;
use crate::store::db::Conn;
pub use crate::store::messages::link_previews::Preview;
pub use crate::store::messages::messages::Message;

/// Sends a message.
///
/// # Errors
/// 422 for wrong fields and unknown users, 403 `not_the_sender`, `not_friends`, 404 `conversation_not_found`, 422
/// `idempotency_key_reused`.
pub async fn send(app: &App, principal: &Principal, new: NewMessage, once: Once<Sent>) -> Result<KeyedAnswer> {
    send_draft(app, Draft::new(principal, new, once)?).await
}

/// Sends a draft and returns its answer. The answer to a draft with an idempotency key is rendered in the transaction,
/// because it is stored. Without a key it is rendered here, after the commit, so that no transaction waits for it.
///
/// # Errors
/// The errors of the draft and of the rendering.
pub async fn send_draft(app: &App, draft: Draft) -> Result<KeyedAnswer> {
    let render = draft.once.render;
    match app.sends.send(draft).await? {
        Answer::Sent(sent) => render(&sent).map(KeyedAnswer::now),
        Answer::SentWithKey(given, _) | Answer::KeyedAnswer(given) => Ok(given),
    }
}

/// One message, if the caller may see it.
///
/// # Errors
/// 404 `message_not_found`, also if the caller may not see the conversation.
pub async fn get(app: &App, principal: &Principal, conversation: i64, seq: i64) -> Result<(Message, Names)> {
    app.db
        .read((ConversationId(conversation), seq, principal.viewer()), |conn, (conversation, seq, viewer)| {
            Box::pin(shown(conn, *viewer, *conversation, *seq))
        })
        .await
}

/// As [`get`], for the message with an id.
///
/// # Errors
/// As [`get`].
pub async fn get_by_id(app: &App, principal: &Principal, id: i64) -> Result<(Message, Names)> {
    app.db
        .read((MessageId(id), principal.viewer()), |conn, (id, viewer)| {
            Box::pin(async move {
                let place = store::messages::messages::place_of(conn, *id).await?;
                let (conversation, seq) = place.ok_or_else(message_not_found)?;
                shown(conn, *viewer, conversation, seq).await
            })
        })
        .await
}

async fn shown(conn: &mut Conn, viewer: Viewer, conversation: ConversationId, seq: i64) -> Result<(Message, Names)> {
    let mut message = visible(conn, viewer, conversation, seq).await?;
    let names = complete_for(conn, viewer, std::slice::from_mut(&mut message)).await?;
    Ok((message, names))
}

/// The error for a caller who asks for the messages of another user.
pub fn not_yours() -> Error {
    Error::Forbidden { code: "not_your_messages", detail: "Only this user may read these messages".into() }
}
