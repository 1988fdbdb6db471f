//! Counts of the reactions to a message by emoji, and which of them include a reaction of the viewer.

use std::collections::HashSet;

use crate::base::error::{Error, Result};
use crate::base::ids::ConversationId;
use crate::domain::access::viewer::Viewer;
use crate::store;
use crate::store::db::Conn;
use crate::store::messages::messages::Message;
use crate::store::messages::reactions::Tally;

/// Maximum number of different emoji on a message.
pub const MAX_DISTINCT_EMOJI: usize = 20;

/// Adds a reaction of the caller to the counts. Returns the new count of the emoji.
///
/// # Errors
/// 409 `too_many_reactions`.
pub fn add_one(tallies: &mut Vec<Tally>, emoji: &str) -> Result<Tally> {
    let index = match tallies.iter().position(|tally| tally.emoji == emoji) {
        Some(index) => index,
        None if tallies.len() >= MAX_DISTINCT_EMOJI => {
            return Err(Error::Conflict {
                code: "too_many_reactions",
                detail: format!("A message has at most {MAX_DISTINCT_EMOJI} different emoji").into(),
            });
        }
        None => {
            tallies.push(Tally { emoji: emoji.to_owned(), count: 0, me: false });
            tallies.len() - 1
        }
    };
    tallies[index].count += 1;
    Ok(tally_of(tallies, emoji))
}

/// The count of an emoji for a user who has reacted with it: `me` is true.
pub fn tally_of(tallies: &[Tally], emoji: &str) -> Tally {
    let count = tallies.iter().find(|tally| tally.emoji == emoji).map_or(0, |tally| tally.count);
    Tally { emoji: emoji.to_owned(), count, me: true }
}

/// Removes a reaction from the counts.
pub fn remove_one(tallies: &mut Vec<Tally>, emoji: &str) {
    for tally in tallies.iter_mut().filter(|tally| tally.emoji == emoji) {
        tally.count -= 1;
    }
    tallies.retain(|tally| tally.count > 0);
}

/// Marks the viewer's own reactions in messages. Makes no query if the messages have no reactions.
///
/// # Errors
/// Errors of the database.
pub async fn mark_own(conn: &mut Conn, viewer: Viewer, messages: &mut [Message]) -> Result<()> {
    let Viewer::Person(person) = viewer else { return Ok(()) };
    let places: Vec<(ConversationId, i64)> = messages
        .iter()
        .filter(|message| !message.decorations.reactions.is_empty())
        .map(|message| (message.conversation_id, message.seq))
        .collect();
    if places.is_empty() {
        return Ok(());
    }
    let own: HashSet<(ConversationId, i64, String)> =
        store::messages::reactions::own(conn, person, &places).await?.into_iter().collect();
    for message in messages {
        for tally in &mut message.decorations.reactions {
            tally.me = own.contains(&(message.conversation_id, message.seq, tally.emoji.clone()));
        }
    }
    Ok(())
}
