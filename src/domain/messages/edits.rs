//! Changing what was said: editing, deleting, and the bodies that a message had before.
//!
//! Invariants: only who said it edits it; a tombstone holds nothing of what was said, here or in a stored answer; the event
//! of a change is written with it, last.

use super::mentions;
use super::message_reads::{complete_for, message_deleted, message_not_found, seen_by};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::domain::access::membership::{Membership, Role};
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::names::Names;
use crate::domain::sending::drafts::{MAX_BODY_CHARACTERS, check_text};
use crate::store;
use crate::store::db::Conn;
use crate::store::events::events::{self, NewEvent};
pub use crate::store::messages::edits::{Edition, Present};
use crate::store::messages::messages::{Kind, Message};

/// How often a message may be edited.
pub const MAX_EDITS: i64 = 100;

/// A change that is wanted.
struct Change {
    conversation: ConversationId,
    seq: i64,
    principal: Principal,
    body: String,
    now: Timestamp,
}

/// Gives a message of the caller's another body.
///
/// # Errors
/// 404 `message_not_found`; 403 `not_your_message`, `act_as_required`; 409 `message_deleted`, `too_many_edits`; 422 on `body`.
pub async fn edit(
    app: &App,
    principal: &Principal,
    conversation: i64,
    seq: i64,
    body: String,
) -> Result<(Message, Names)> {
    principal.require_person()?;
    check_text("body", &body, MAX_BODY_CHARACTERS)?;
    let conversation = ConversationId(conversation);
    let change = Change { conversation, seq, principal: principal.clone(), body, now: app.clock.now() };
    app.db.write(change, |conn, change| Box::pin(replace(conn, change))).await
}

async fn replace(conn: &mut Conn, change: &Change) -> Result<(Message, Names)> {
    let person = change.principal.require_person()?.id;
    let (_, present) = visible(conn, change.conversation, change.seq, Viewer::Person(person)).await?;
    if present.sender_id != person || present.kind == Kind::System {
        return Err(not_your_message());
    }
    if present.deleted {
        return Err(message_deleted());
    }
    let current = present.message?;
    if current.body != change.body {
        let editions = store::messages::edits::count(conn, change.conversation, change.seq).await?;
        if editions >= MAX_EDITS {
            return Err(Error::Conflict {
                code: "too_many_edits",
                detail: format!("a message may be edited {MAX_EDITS} times").into(),
            });
        }
        let written_at = current.edited_at.unwrap_or(current.created_at);
        let before = Edition { body: current.body.clone(), at: written_at };
        store::messages::edits::put(conn, change.conversation, change.seq, editions + 1, &before).await?;
        store::messages::edits::set_body(conn, current, &change.body, change.now).await?;
        mentions::renew(conn, change.conversation, change.seq, person, &change.body).await?;
        log(conn, change, events::Kind::MessageUpdated, person).await?;
    }
    let message = store::messages::messages::one(conn, change.conversation, change.seq).await?;
    let mut message = message.ok_or_else(message_not_found)?;
    let names = complete_for(conn, Viewer::Person(person), std::slice::from_mut(&mut message)).await?;
    Ok((message, names))
}

/// Deletes a message: by who said it, or by an administrator. Deleting a tombstone changes nothing.
///
/// # Errors
/// 404 `message_not_found`; 403 `not_your_message`.
pub async fn delete(app: &App, principal: &Principal, conversation: i64, seq: i64) -> Result<()> {
    let conversation = ConversationId(conversation);
    let change = Change { conversation, seq, principal: principal.clone(), body: String::new(), now: app.clock.now() };
    app.db.write(change, |conn, change| Box::pin(bury(conn, change))).await
}

async fn bury(conn: &mut Conn, change: &Change) -> Result<()> {
    let viewer = change.principal.viewer();
    let (membership, present) = visible(conn, change.conversation, change.seq, viewer).await?;
    let moderates = change.principal.is_admin() || membership.is_at_least(Role::Admin);
    if !moderates && (viewer != Viewer::Person(present.sender_id) || present.kind == Kind::System) {
        return Err(not_your_message());
    }
    if present.deleted {
        return Ok(());
    }
    if let Some(key) = present.key {
        store::shared::idempotency::blank(conn, &[key]).await?;
    }
    store::messages::removals::make_tombstones(conn, change.conversation, &[change.seq], change.now).await?;
    log(conn, change, events::Kind::MessageDeleted, viewer.person().unwrap_or(present.sender_id)).await
}

/// The message under its conversation's lock, for those who can see it.
async fn visible(
    conn: &mut Conn,
    conversation: ConversationId,
    seq: i64,
    viewer: Viewer,
) -> Result<(Membership, Present)> {
    store::conversations::conversations::lock_one(conn, conversation).await?;
    let membership = seen_by(conn, viewer, conversation, seq).await?;
    Ok((
        membership,
        store::messages::edits::present_message(conn, conversation, seq).await?.ok_or_else(message_not_found)?,
    ))
}

async fn log(conn: &mut Conn, change: &Change, kind: events::Kind, actor_id: UserId) -> Result<()> {
    store::conversations::conversations::mark_changed(conn, change.conversation).await?;
    let event = NewEvent::of_conversation(kind, change.conversation, actor_id, change.now).message(change.seq);
    events::append(conn, &[event]).await
}

fn not_your_message() -> Error {
    Error::Forbidden { code: "not_your_message", detail: "only who wrote a message may do this to it".into() }
}

/// The bodies that a message had before, oldest first.
///
/// # Errors
/// 404 `message_not_found`.
pub async fn list(app: &App, principal: &Principal, conversation: i64, seq: i64) -> Result<Vec<Edition>> {
    app.db
        .read((ConversationId(conversation), seq, principal.viewer()), |conn, (conversation, seq, viewer)| {
            Box::pin(async move {
                seen_by(conn, *viewer, *conversation, *seq).await?;
                store::messages::edits::present_message(conn, *conversation, *seq)
                    .await?
                    .ok_or_else(message_not_found)?;
                store::messages::edits::list(conn, *conversation, *seq).await
            })
        })
        .await
}
