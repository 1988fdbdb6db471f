//! Reactions: emoji that people put under a message.
//!
//! Invariants: a person puts an emoji under a message once; a tombstone has none; an emoji under a message is known by its one
//! form (`emoji`), so that a heart is a heart however it was typed.

use std::collections::HashSet;

use super::auth::Principal;
use super::emoji;
use super::memberships::caller_of;
use super::messages::{Message, locked, message_deleted, visible};
use crate::app::App;
use crate::error::{Error, Result};
use crate::ids::{ConversationId, UserId};
use crate::store::events::{self, NewEvent};
pub use crate::store::reactions::{Reaction, Tally};
use crate::store::{self, Conn};
use crate::time::Timestamp;

/// Different emoji under a message.
pub const MAX_DISTINCT_EMOJI: usize = 20;
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

struct Change {
    conversation: ConversationId,
    seq: i64,
    user: UserId,
    emoji: &'static str,
    now: Timestamp,
}

impl Change {
    fn new(app: &App, principal: &Principal, conversation: i64, seq: i64, emoji: &str) -> Result<Self> {
        let user = principal.require_person()?.id;
        let emoji = emoji::parse(emoji)
            .ok_or_else(|| Error::invalid("emoji", "unknown_emoji", "must be one emoji, or the :shortcode: of one"))?;
        Ok(Self { conversation: ConversationId(conversation), seq, user, emoji, now: app.clock.now() })
    }

    /// The message under its conversation's lock, for a person who is not erased before the transaction ends.
    async fn message(&self, conn: &mut Conn) -> Result<Message> {
        if store::users::lock_shared(conn, &[self.user.0]).await?.is_empty() {
            return Err(Error::Unauthenticated);
        }
        Ok(locked(conn, Some(self.user), self.conversation, self.seq).await?.1)
    }

    async fn log(&self, conn: &mut Conn, kind: events::Kind) -> Result<()> {
        store::conversations::mark_changed(conn, self.conversation).await?;
        let event = NewEvent::of_conversation(kind, self.conversation, self.user, self.now).message(self.seq);
        events::append(conn, &[NewEvent { detail: Some(self.emoji), ..event }]).await
    }
}

/// Puts an emoji under a message; how often it is there now, and whether the caller's is new.
///
/// # Errors
/// 403 `act_as_required`; 404 `message_not_found`; 409 `message_deleted`, `too_many_reactions`; 422 on `emoji`.
pub async fn add(app: &App, principal: &Principal, conversation: i64, seq: i64, emoji: &str) -> Result<(Tally, bool)> {
    let change = Change::new(app, principal, conversation, seq, emoji)?;
    app.db.write(change, |conn, change| Box::pin(add_now(conn, change))).await
}

async fn add_now(conn: &mut Conn, change: &Change) -> Result<(Tally, bool)> {
    let message = change.message(conn).await?;
    if message.deleted_at.is_some() {
        return Err(message_deleted());
    }
    let mut tallies = message.decorations.reactions;
    let index = match tallies.iter().position(|tally| tally.emoji == change.emoji) {
        Some(index) => index,
        None if tallies.len() >= MAX_DISTINCT_EMOJI => {
            return Err(Error::Conflict {
                code: "too_many_reactions",
                detail: format!("a message may have {MAX_DISTINCT_EMOJI} different emoji under it").into(),
            });
        }
        None => {
            tallies.push(Tally { emoji: change.emoji.to_owned(), count: 0, me: true });
            tallies.len() - 1
        }
    };
    let Change { conversation, seq, user, emoji, now } = *change;
    let new = store::reactions::insert(conn, conversation, seq, emoji, user, now).await?;
    if new {
        tallies[index].count += 1;
        store::reactions::set_tallies(conn, conversation, seq, &tallies).await?;
        change.log(conn, events::Kind::ReactionAdded).await?;
    }
    Ok((Tally { me: true, ..tallies.swap_remove(index) }, new))
}

/// Takes an emoji of the caller's away.
///
/// # Errors
/// 403 `act_as_required`; 404 `message_not_found`, `reaction_not_found`; 422 on `emoji`.
pub async fn remove(app: &App, principal: &Principal, conversation: i64, seq: i64, emoji: &str) -> Result<()> {
    let change = Change::new(app, principal, conversation, seq, emoji)?;
    app.db
        .write(change, |conn, change| {
            Box::pin(async move {
                let message = change.message(conn).await?;
                let Change { conversation, seq, user, emoji, .. } = *change;
                if !store::reactions::delete(conn, conversation, seq, emoji, user).await? {
                    let detail = "the caller has not put this emoji under this message".into();
                    return Err(Error::NotFound { code: "reaction_not_found", detail });
                }
                let tallies = without(message.decorations.reactions, emoji);
                store::reactions::set_tallies(conn, conversation, seq, &tallies).await?;
                change.log(conn, events::Kind::ReactionRemoved).await
            })
        })
        .await
}

/// One less of an emoji.
fn without(mut tallies: Vec<Tally>, emoji: &str) -> Vec<Tally> {
    for tally in tallies.iter_mut().filter(|tally| tally.emoji == emoji) {
        tally.count -= 1;
    }
    tallies.retain(|tally| tally.count > 0);
    tallies
}

/// The emoji under a message, in the order in which they came, and who put them there.
///
/// # Errors
/// 404 `message_not_found`.
pub async fn list(app: &App, principal: &Principal, conversation: i64, seq: i64) -> Result<Vec<Named>> {
    let input = (caller_of(principal), ConversationId(conversation), seq);
    app.db
        .read(input, |conn, (caller, conversation, seq)| {
            Box::pin(async move {
                let mut messages = [visible(conn, *caller, *conversation, *seq).await?];
                mark_own(conn, *caller, &mut messages).await?;
                let [message] = messages;
                let mut named = Vec::with_capacity(message.decorations.reactions.len());
                for tally in message.decorations.reactions {
                    let user_names =
                        store::reactions::names(conn, *conversation, *seq, &tally.emoji, MAX_NAMES).await?;
                    named.push(Named { tally, user_names });
                }
                Ok(named)
            })
        })
        .await
}

/// Fills in, for messages that are to be shown to somebody, which reactions are their own. Where there are none, nothing is
/// asked.
///
/// # Errors
/// Of the database.
pub async fn mark_own(conn: &mut Conn, reader: Option<UserId>, messages: &mut [Message]) -> Result<()> {
    let Some(reader) = reader else { return Ok(()) };
    let places: Vec<(ConversationId, i64)> = messages
        .iter()
        .filter(|message| !message.decorations.reactions.is_empty())
        .map(|message| (message.conversation_id, message.seq))
        .collect();
    if places.is_empty() {
        return Ok(());
    }
    let own: HashSet<(ConversationId, i64, String)> =
        store::reactions::own(conn, reader, &places).await?.into_iter().collect();
    for message in messages {
        for tally in &mut message.decorations.reactions {
            tally.me = own.contains(&(message.conversation_id, message.seq, tally.emoji.clone()));
        }
    }
    Ok(())
}

/// Takes an erased person's reactions away, a bite of one conversation; whether there may be more.
///
/// # Errors
/// Of the database.
pub async fn forget(conn: &mut Conn, user: UserId, now: Timestamp) -> Result<bool> {
    let start = (ConversationId(0), 0, "");
    let first = store::reactions::of_user(conn, user, start, 1).await?;
    let Some(conversation) = first.first().map(|reaction| reaction.conversation) else { return Ok(false) };
    store::conversations::lock_one(conn, conversation).await?;
    let mut bite = store::reactions::of_user(conn, user, start, BITE).await?;
    bite.retain(|reaction| reaction.conversation == conversation);
    for Reaction { seq, emoji, .. } in &bite {
        store::reactions::delete(conn, conversation, *seq, emoji, user).await?;
        if let Some(message) = store::messages::one(conn, conversation, *seq).await? {
            let tallies = without(message.decorations.reactions, emoji);
            store::reactions::set_tallies(conn, conversation, *seq, &tallies).await?;
        }
    }
    store::conversations::mark_changed(conn, conversation).await?;
    let removed = NewEvent::of_conversation(events::Kind::ReactionRemoved, conversation, user, now);
    let log: Vec<NewEvent<'_>> = bite
        .iter()
        .map(|reaction| NewEvent { detail: Some(&reaction.emoji), ..removed.message(reaction.seq) })
        .collect();
    events::append(conn, &log).await?;
    Ok(true)
}
