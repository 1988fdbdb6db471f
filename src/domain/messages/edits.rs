//! Editing and deleting messages, and the earlier bodies of a message.
//!
//! Invariants:
//! - Only the sender edits a message.
//! - No text of a deleted message remains, neither in its tombstone nor in a stored answer.
//! - The event of a change is written in the same transaction, as its last write.

use super::mentions;
use super::message_reads::{complete_for, message_deleted, message_not_found, require_visible, visible};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, UserId};
use crate::base::links::previewed_url;
use crate::base::time::Timestamp;
use crate::domain::access::membership::{Membership, Role};
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::names::Names;
use crate::domain::sending::drafts::{MAX_BODY_CHARACTERS, check_text, check_text_or_blank};
use crate::domain::shared::precondition::Precondition;
use crate::store;
use crate::store::db::Conn;
use crate::store::events::events::{self, NewEvent};
pub use crate::store::messages::edits::{EarlierText, Present};
use crate::store::messages::messages::{Kind, Message};

/// Maximum number of edits of a message.
pub const MAX_EDITS: i64 = 100;

/// An edit or a deletion.
struct Change {
    conversation: ConversationId,
    seq: i64,
    principal: Principal,
    body: String,
    now: Timestamp,
    unchanged: Precondition<(Message, Names)>,
}

impl Change {
    /// Checks the condition of a change of a locked message.
    async fn require_unchanged(&self, conn: &mut Conn) -> Result<()> {
        if !self.unchanged.is_set() {
            return Ok(());
        }
        let viewer = self.principal.viewer();
        let mut message = visible(conn, viewer, self.conversation, self.seq).await?;
        let names = complete_for(conn, viewer, std::slice::from_mut(&mut message)).await?;
        self.unchanged.require(&(message, names))
    }
}

/// Replaces the body of a message. Only its sender may do this.
///
/// # Errors
/// 404 `message_not_found`; 403 `not_your_message`, `act_as_required`; 409 `message_deleted`, `too_many_edits`; 422 for
/// `body`; 412 if the message does not meet `unchanged`.
pub async fn edit(
    app: &App,
    principal: &Principal,
    conversation: i64,
    seq: i64,
    body: String,
    unchanged: Precondition<(Message, Names)>,
) -> Result<(Message, Names)> {
    principal.require_person()?;
    check_text_or_blank("body", &body, MAX_BODY_CHARACTERS)?;
    let conversation = ConversationId(conversation);
    let change = Change { conversation, seq, principal: principal.clone(), body, now: app.clock.now(), unchanged };
    let edited = app.db.write(change, |conn, change| Box::pin(edit_in_transaction(conn, change))).await?;
    if let Some(previews) = &app.link_previews {
        previews.offer(&edited.0);
    }
    Ok(edited)
}

async fn edit_in_transaction(conn: &mut Conn, change: &Change) -> Result<(Message, Names)> {
    let person = change.principal.require_person()?.id;
    let (_, present) = lock_visible(conn, change.conversation, change.seq, Viewer::Person(person)).await?;
    if present.sender_id != person || present.kind == Kind::System {
        return Err(not_your_message());
    }
    if present.deleted {
        return Err(message_deleted());
    }
    let current = present.message?;
    if current.attachments.list().is_empty() {
        check_text("body", &change.body, MAX_BODY_CHARACTERS)?;
    }
    change.require_unchanged(conn).await?;
    if current.body != change.body {
        let editions = store::messages::edits::count(conn, change.conversation, change.seq).await?;
        if editions >= MAX_EDITS {
            return Err(Error::Conflict {
                code: "too_many_edits",
                detail: format!("A message can be edited at most {MAX_EDITS} times").into(),
            });
        }
        let written_at = current.edited_at.unwrap_or(current.created_at);
        let before = EarlierText { body: current.body.clone(), at: written_at };
        store::messages::edits::put(conn, change.conversation, change.seq, editions + 1, &before).await?;
        let keeps_preview = previewed_url(&current.body) == previewed_url(&change.body);
        let at = change.now.max(current.last_changed_at());
        store::messages::edits::set_body(conn, current, &change.body, keeps_preview, at).await?;
        mentions::renew(conn, change.conversation, change.seq, person, &change.body).await?;
        log(conn, change, events::Kind::MessageUpdated, person, at).await?;
    }
    let message = store::messages::messages::one(conn, change.conversation, change.seq).await?;
    let mut message = message.ok_or_else(message_not_found)?;
    let names = complete_for(conn, Viewer::Person(person), std::slice::from_mut(&mut message)).await?;
    Ok((message, names))
}

/// Deletes a message. The sender, an admin or owner of the group, and an administrator of the server may do this.
/// Deleting a tombstone changes nothing.
///
/// # Errors
/// 404 `message_not_found`; 403 `not_your_message`; 412 if the message does not meet `unchanged`.
pub async fn delete(
    app: &App,
    principal: &Principal,
    conversation: i64,
    seq: i64,
    unchanged: Precondition<(Message, Names)>,
) -> Result<()> {
    let (conversation, now) = (ConversationId(conversation), app.clock.now());
    let change = Change { conversation, seq, principal: principal.clone(), body: String::new(), now, unchanged };
    app.db.write(change, |conn, change| Box::pin(delete_in_transaction(conn, change))).await
}

async fn delete_in_transaction(conn: &mut Conn, change: &Change) -> Result<()> {
    let viewer = change.principal.viewer();
    let (membership, present) = lock_visible(conn, change.conversation, change.seq, viewer).await?;
    let moderates = change.principal.is_admin() || membership.is_at_least(Role::Admin);
    if !moderates && (viewer != Viewer::Person(present.sender_id) || present.kind == Kind::System) {
        return Err(not_your_message());
    }
    change.require_unchanged(conn).await?;
    if present.deleted {
        return Ok(());
    }
    if let Some(key) = present.key {
        store::shared::idempotency::blank(conn, &[key]).await?;
    }
    store::messages::removals::make_tombstones(conn, change.conversation, &[change.seq], change.now).await?;
    let at = present.message.map_or(change.now, |message| change.now.max(message.last_changed_at()));
    log(conn, change, events::Kind::MessageDeleted, viewer.person().unwrap_or(present.sender_id), at).await
}

/// Locks the conversation and reads the message, if the viewer may see it.
async fn lock_visible(
    conn: &mut Conn,
    conversation: ConversationId,
    seq: i64,
    viewer: Viewer,
) -> Result<(Membership, Present)> {
    store::conversations::conversations::lock_one(conn, conversation).await?;
    let membership = require_visible(conn, viewer, conversation, seq).await?;
    Ok((
        membership,
        store::messages::edits::present_message(conn, conversation, seq).await?.ok_or_else(message_not_found)?,
    ))
}

async fn log(conn: &mut Conn, change: &Change, kind: events::Kind, actor_id: UserId, at: Timestamp) -> Result<()> {
    store::conversations::conversations::mark_changed(conn, change.conversation).await?;
    let event = NewEvent::of_conversation(kind, change.conversation, actor_id, at).message(change.seq);
    events::append(conn, &[event]).await
}

fn not_your_message() -> Error {
    Error::Forbidden { code: "not_your_message", detail: "Only the sender of the message may do this".into() }
}

/// The earlier bodies of a message, oldest first.
///
/// # Errors
/// 404 `message_not_found`.
pub async fn list(app: &App, principal: &Principal, conversation: i64, seq: i64) -> Result<Vec<EarlierText>> {
    app.db
        .read((ConversationId(conversation), seq, principal.viewer()), |conn, (conversation, seq, viewer)| {
            Box::pin(async move {
                require_visible(conn, *viewer, *conversation, *seq).await?;
                store::messages::edits::present_message(conn, *conversation, *seq)
                    .await?
                    .ok_or_else(message_not_found)?;
                store::messages::edits::list(conn, *conversation, *seq).await
            })
        })
        .await
}
