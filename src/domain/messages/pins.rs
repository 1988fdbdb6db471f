//! Pinned messages of a conversation.
//!
//! Invariant: in a group, admins and owners can pin. In a direct conversation, both members can. Administrators of the
//! server can pin in every conversation that they may see. A tombstone cannot be pinned.

use super::message_reads::{complete_for, lock_visible, message_deleted};
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

/// Maximum number of pinned messages of a conversation.
pub const MAX_PINS: i64 = 100;
const LIST: &str = "pins";

struct Change {
    conversation: ConversationId,
    seq: i64,
    principal: Principal,
    pinned: bool,
    now: Timestamp,
}

/// Pins or unpins a message. Does nothing if the message is already in that state.
///
/// # Errors
/// 404 `message_not_found`; 403 `insufficient_role`; 409 `message_deleted`, `too_many_pins`.
pub async fn set(app: &App, principal: &Principal, conversation: i64, seq: i64, pinned: bool) -> Result<()> {
    let conversation = ConversationId(conversation);
    let change = Change { conversation, seq, principal: principal.clone(), pinned, now: app.clock.now() };
    app.db.write(change, |conn, change| Box::pin(set_in_transaction(conn, change))).await
}

async fn set_in_transaction(conn: &mut Conn, change: &Change) -> Result<()> {
    let Change { conversation, seq, pinned, now, .. } = *change;
    let viewer = change.principal.viewer();
    let (own, message) = lock_visible(conn, viewer, conversation, seq).await?;
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
            detail: format!("A conversation has at most {MAX_PINS} pinned messages; unpin one first").into(),
        });
    }
    // A message is not pinned before it was sent, even if the clock was set back.
    let now = now.max(message.timestamp_sent);
    store::messages::pins::set(conn, conversation, seq, pinned.then_some(now)).await?;
    store::conversations::conversations::mark_changed(conn, conversation).await?;
    let actor = viewer.person().unwrap_or(message.sender_id);
    let event = NewEvent::of_conversation(events::Kind::MessageUpdated, conversation, actor, now).message(seq);
    events::append(conn, &[event]).await
}

/// Lists the pinned messages of a conversation, the latest pin first.
///
/// # Errors
/// 404 `conversation_not_found`; 422 if the cursor is invalid.
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
