//! Pins: messages that a conversation keeps at hand.
//!
//! Invariant: in a group admins and owners pin, in a direct conversation either one, and administrators of the server
//! everywhere they see; a tombstone is not pinned.

use super::message_reads::{complete_for, locked, message_deleted};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::ConversationId;
use crate::base::time::Timestamp;
use crate::domain::access::membership::{Kind, Role, membership, require_role};
use crate::domain::access::principal::Principal;
use crate::domain::identity::names::Names;
use crate::domain::shared::pagination::{Limit, Page, decode_cursor};
use crate::store;
use crate::store::db::Conn;
use crate::store::events::events::{self, NewEvent};
use crate::store::messages::messages::Message;

/// Pinned messages of a conversation.
pub const MAX_PINS: i64 = 100;
const LIST: &str = "pins";

struct Change {
    conversation: ConversationId,
    seq: i64,
    principal: Principal,
    pinned: bool,
    now: Timestamp,
}

/// Pins a message, or takes its pin away. What is so already stays.
///
/// # Errors
/// 404 `message_not_found`; 403 `insufficient_role`; 409 `message_deleted`, `too_many_pins`.
pub async fn set(app: &App, principal: &Principal, conversation: i64, seq: i64, pinned: bool) -> Result<()> {
    let conversation = ConversationId(conversation);
    let change = Change { conversation, seq, principal: principal.clone(), pinned, now: app.clock.now() };
    app.db.write(change, |conn, change| Box::pin(set_now(conn, change))).await
}

async fn set_now(conn: &mut Conn, change: &Change) -> Result<()> {
    let Change { conversation, seq, pinned, now, .. } = *change;
    let viewer = change.principal.viewer();
    let (own, message) = locked(conn, viewer, conversation, seq).await?;
    if !change.principal.is_admin() {
        require_role(&own, if own.kind == Kind::Direct { Role::Member } else { Role::Admin })?;
    }
    if message.decorations.pinned_at.is_some() == pinned {
        return Ok(());
    }
    if message.deleted_at.is_some() {
        return Err(message_deleted());
    }
    if pinned && store::messages::pins::count(conn, conversation).await? >= MAX_PINS {
        return Err(Error::Conflict {
            code: "too_many_pins",
            detail: format!("a conversation may have {MAX_PINS} pinned messages").into(),
        });
    }
    store::messages::pins::set(conn, conversation, seq, pinned.then_some(now)).await?;
    store::conversations::conversations::mark_changed(conn, conversation).await?;
    let actor = viewer.person().unwrap_or(message.sender_id);
    let event = NewEvent::of_conversation(events::Kind::MessageUpdated, conversation, actor, now).message(seq);
    events::append(conn, &[event]).await
}

/// A conversation's pinned messages, the latest pin first.
///
/// # Errors
/// 404 `conversation_not_found`; 422 for a cursor that is none.
pub async fn list(
    app: &App,
    principal: &Principal,
    conversation: i64,
    limit: Limit,
    cursor: Option<&str>,
) -> Result<(Page<Vec<Message>>, Names)> {
    let before = match cursor {
        Some(cursor) => {
            let [micros, seq] = decode_cursor(LIST, cursor)?;
            (Timestamp::from_micros(micros), seq)
        }
        None => (Timestamp::MAX, 0),
    };
    let input = (principal.viewer(), ConversationId(conversation), before, limit);
    let (messages, names) = app
        .db
        .read(input, |conn, (viewer, conversation, before, limit)| {
            Box::pin(async move {
                let first_seq = membership(conn, *viewer, *conversation).await?.first_seq;
                let seqs =
                    store::messages::pins::list(conn, *conversation, first_seq, *before, limit.to_read()).await?;
                let mut messages = store::messages::messages::by_seqs(conn, *conversation, &seqs).await?;
                let names = complete_for(conn, *viewer, &mut messages).await?;
                Ok((messages, names))
            })
        })
        .await?;
    let place = |last: &Message| [last.decorations.pinned_at.unwrap_or(Timestamp::MIN).micros(), last.seq];
    Ok((Page::new(LIST, messages, limit, place), names))
}
