//! Reactions: emoji that people put under a message.
//!
//! Invariants: a person puts an emoji under a message once; a tombstone has none; an emoji under a message is known by its one
//! form (`emoji`), so that a heart is a heart however it was typed.

use super::message_reads::visible;
use super::{emoji, tallies};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, UserId};
use crate::base::request_id::RequestId;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::sending::change_batch::{Act, Change, Changed};
use crate::store;
use crate::store::db::Conn;
use crate::store::events::events::{self, NewEvent};
pub use crate::store::messages::reactions::{Reaction, Tally};

/// People who are named for each emoji.
pub const MAX_NAMES: i64 = 50;
/// Reactions of an erased person that are removed in one transaction.
const BITE: i64 = 200;

/// An emoji under a message, and who put it there.
#[derive(Clone, Debug)]
pub struct Named {
    /// How many, and whether the caller is among them.
    pub tally: Tally,
    /// The names of the first [`MAX_NAMES`], by id.
    pub user_names: Vec<String>,
}

async fn change(
    app: &App,
    principal: &Principal,
    conversation: i64,
    emoji: &str,
    act: impl FnOnce(&'static str) -> Act,
) -> Result<Changed> {
    let person = principal.require_person()?.id;
    let emoji = emoji::parse(emoji)
        .ok_or_else(|| Error::invalid("emoji", "unknown_emoji", "must be one emoji, or the :shortcode: of one"))?;
    let conversation = ConversationId(conversation);
    let request_id = RequestId::current();
    app.changes.make(Change { person, conversation, act: act(emoji), now: app.clock.now(), request_id }).await
}

/// Puts an emoji under a message; how often it is there now, and whether the caller's is new.
///
/// # Errors
/// 403 `act_as_required`; 404 `message_not_found`; 409 `message_deleted`, `too_many_reactions`; 422 on `emoji`.
pub async fn add(app: &App, principal: &Principal, conversation: i64, seq: i64, emoji: &str) -> Result<(Tally, bool)> {
    match change(app, principal, conversation, emoji, |emoji| Act::React(seq, emoji)).await? {
        Changed::Reacted(tally, new) => Ok((tally, new)),
        _ => Err(Error::internal("a reaction became something else")),
    }
}

/// Takes an emoji of the caller's away.
///
/// # Errors
/// 403 `act_as_required`; 404 `message_not_found`, `reaction_not_found`; 422 on `emoji`.
pub async fn remove(app: &App, principal: &Principal, conversation: i64, seq: i64, emoji: &str) -> Result<()> {
    change(app, principal, conversation, emoji, |emoji| Act::Unreact(seq, emoji)).await?;
    Ok(())
}

/// The emoji under a message, in the order in which they came, and who put them there.
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

/// Removes reactions of an erased person, one conversation at a time; whether there may be more.
///
/// # Errors
/// Of the database.
pub async fn forget(conn: &mut Conn, user: UserId, now: Timestamp) -> Result<bool> {
    let start = (ConversationId(0), 0, "");
    let first = store::messages::reactions::of_user(conn, user, start, 1).await?;
    let Some(conversation) = first.first().map(|reaction| reaction.conversation) else { return Ok(false) };
    store::conversations::conversations::lock_one(conn, conversation).await?;
    let mut bite = store::messages::reactions::of_user(conn, user, start, BITE).await?;
    bite.retain(|reaction| reaction.conversation == conversation);
    for Reaction { seq, emoji, .. } in &bite {
        store::messages::reactions::delete(conn, conversation, *seq, emoji, user).await?;
        // An erasure goes on although a message is damaged: the message is not read, and counts that cannot be read stay.
        match store::messages::reactions::tallies_of(conn, conversation, *seq).await {
            Ok(Some(mut tallies)) => {
                tallies::without(&mut tallies, emoji);
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
    let log: Vec<NewEvent<'_>> = bite
        .iter()
        .map(|reaction| NewEvent { detail: Some(&reaction.emoji), ..removed.message(reaction.seq) })
        .collect();
    events::append(conn, &log).await?;
    Ok(true)
}
