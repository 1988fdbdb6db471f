//! Reactions: emoji that members add to a message.
//!
//! Invariants:
//! - A user adds an emoji to a message at most once.
//! - A tombstone has no reactions.
//! - Each emoji has one form (see `emoji`), so a heart is the same reaction however it was typed. A custom emoji is stored by its
//!   id, so a reaction shows the present name of the emoji.

use std::sync::Arc;

use super::message_reads::visible;
use super::{emoji, tallies};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, UserId};
use crate::base::request_id::RequestId;
use crate::base::text::fold_ascii;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::sending::change_batch::{Change, ChangeAnswer, ChangeKind};
use crate::store;
use crate::store::db::Conn;
use crate::store::events::events::{self, NewEvent};
use crate::store::files::custom_emoji;
pub use crate::store::files::custom_emoji::NamedEmoji;
pub use crate::store::messages::reactions::{Reaction, Tally};

/// Maximum number of user names listed for each emoji.
pub const MAX_NAMES: i64 = 50;
/// Maximum number of reactions of an erased user that one transaction removes.
const BATCH_ROWS: i64 = 200;

/// An emoji on a message, with the names of users who added it.
#[derive(Clone, Debug)]
pub struct Named {
    /// The count, and whether the caller is among those users.
    pub tally: Tally,
    /// The names of the first [`MAX_NAMES`] users, by id.
    pub user_names: Vec<String>,
}

async fn change(
    app: &App,
    principal: &Principal,
    conversation: i64,
    emoji: &str,
    is_addition: bool,
    kind: impl FnOnce(Arc<str>) -> ChangeKind,
) -> Result<ChangeAnswer> {
    let person = principal.require_person()?.id;
    let emoji = match emoji::parse(emoji) {
        Some(emoji) => emoji.into(),
        None => custom_key(app, emoji, is_addition).await?.ok_or_else(emoji::unknown_emoji)?,
    };
    let conversation = ConversationId(conversation);
    let request_id = RequestId::current();
    app.changes.make(Change { person, conversation, kind: kind(emoji), now: app.clock.now(), request_id }).await
}

/// The key of the custom emoji that a path names: by its `:name:`, or by its key. A reaction with a deleted emoji can be removed, so
/// then the name may also be the last one of a deleted emoji, unless another emoji has it now.
async fn custom_key(app: &App, text: &str, is_addition: bool) -> Result<Option<Arc<str>>> {
    if let Some(id) = custom_emoji::id_of(text) {
        // Whether the emoji still exists is checked in the transaction that adds the reaction.
        return Ok(Some(custom_emoji::key(id).into()));
    }
    let Some(name_key) = emoji::custom_name(text).map(fold_ascii) else { return Ok(None) };
    app.db
        .read((name_key, is_addition), |conn, (name_key, is_addition)| {
            Box::pin(async move {
                let mut id = custom_emoji::id_by_name(conn, name_key).await?;
                if id.is_none() && !is_addition {
                    id = custom_emoji::deleted_id_by_name(conn, name_key).await?;
                }
                Ok(id.map(|id| custom_emoji::key(id).into()))
            })
        })
        .await
}

/// Adds a reaction of the caller. Returns the count of the emoji, and whether the reaction is new.
///
/// # Errors
/// 403 `act_as_required`; 404 `message_not_found`; 409 `message_deleted`, `too_many_reactions`; 422 for `emoji`.
pub async fn add(app: &App, principal: &Principal, conversation: i64, seq: i64, emoji: &str) -> Result<(Tally, bool)> {
    let answer = change(app, principal, conversation, emoji, true, |emoji| ChangeKind::React(seq, emoji)).await?;
    let ChangeAnswer::Reacted(mut tally, new) = answer else {
        return Err(Error::internal("the answer to a reaction has the wrong type"));
    };
    if custom_emoji::id_of(&tally.emoji).is_some() {
        tally = app
            .db
            .read(tally, |conn, tally| {
                Box::pin(async move {
                    let mut tally = tally.clone();
                    tallies::set_names_of(conn, &mut [&mut tally]).await?;
                    Ok(tally)
                })
            })
            .await?;
    }
    Ok((tally, new))
}

/// Removes a reaction of the caller.
///
/// # Errors
/// 403 `act_as_required`; 404 `message_not_found`, `reaction_not_found`; 422 for `emoji`.
pub async fn remove(app: &App, principal: &Principal, conversation: i64, seq: i64, emoji: &str) -> Result<()> {
    change(app, principal, conversation, emoji, false, |emoji| ChangeKind::Unreact(seq, emoji)).await?;
    Ok(())
}

/// Lists the emoji on a message, in the order in which they were first added, with the names of users who added them.
///
/// # Errors
/// 404 `message_not_found`.
pub async fn list(app: &App, principal: &Principal, conversation: i64, seq: i64) -> Result<Vec<Named>> {
    let input = (principal.viewer(), ConversationId(conversation), seq);
    app.db
        .read(input, |conn, (viewer, conversation, seq)| {
            Box::pin(async move {
                let mut messages = [visible(conn, *viewer, *conversation, *seq).await?];
                tallies::mark_own(conn, *viewer, &mut messages).await?;
                tallies::set_names(conn, &mut messages).await?;
                let [message] = messages;
                let mut named = Vec::with_capacity(message.decorations.reactions.len());
                for tally in message.decorations.reactions {
                    let user_names =
                        store::messages::reactions::names(conn, *conversation, *seq, &tally.emoji, MAX_NAMES).await?;
                    named.push(Named { tally, user_names });
                }
                Ok(named)
            })
        })
        .await
}

/// Removes a batch of an erased user's reactions, all in one conversation. Returns whether there may be more.
///
/// # Errors
/// Errors of the database.
pub async fn forget(conn: &mut Conn, user: UserId, now: Timestamp) -> Result<bool> {
    let start = (ConversationId(0), 0, "");
    let first = store::messages::reactions::of_user(conn, user, start, 1).await?;
    let Some(conversation) = first.first().map(|reaction| reaction.conversation) else { return Ok(false) };
    store::conversations::conversations::lock_one(conn, conversation).await?;
    let mut batch = store::messages::reactions::of_user(conn, user, start, BATCH_ROWS).await?;
    batch.retain(|reaction| reaction.conversation == conversation);
    for Reaction { seq, emoji, .. } in &batch {
        store::messages::reactions::delete(conn, conversation, *seq, emoji, user).await?;
        // An erasure continues even if a message is damaged. The message itself is not read. Counts that cannot be read
        // stay unchanged.
        match store::messages::reactions::tallies_of(conn, conversation, *seq).await {
            Ok(Some(mut tallies)) => {
                tallies::remove_one(&mut tallies, emoji);
                store::messages::reactions::set_tallies(conn, conversation, *seq, &tallies).await?;
            }
            Ok(None) => {}
            Err(error @ Error::UnknownValue { .. }) => {
                tracing::error!(%error, conversation_id = conversation.0, seq, "the counts of reactions cannot be read");
            }
            Err(error) => return Err(error),
        }
    }
    store::conversations::conversations::mark_changed(conn, conversation).await?;
    let removed = NewEvent::of_conversation(events::Kind::ReactionRemoved, conversation, user, now);
    let log: Vec<NewEvent<'_>> = batch
        .iter()
        .map(|reaction| NewEvent { detail: Some(&reaction.emoji), ..removed.message(reaction.seq) })
        .collect();
    events::append(conn, &log).await?;
    Ok(true)
}
