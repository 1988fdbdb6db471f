//! How often each emoji is under a message, and which of them are a reader's own.

use std::collections::HashSet;

use crate::base::error::{Error, Result};
use crate::base::ids::ConversationId;
use crate::domain::access::viewer::Viewer;
use crate::store;
use crate::store::db::Conn;
use crate::store::messages::messages::Message;
use crate::store::messages::reactions::Tally;

/// Different emoji under a message.
pub const MAX_DISTINCT_EMOJI: usize = 20;

/// One more of an emoji, of the caller's; how often it is there then.
///
/// # Errors
/// 409 `too_many_reactions`.
pub fn with(tallies: &mut Vec<Tally>, emoji: &str) -> Result<Tally> {
    let index = match tallies.iter().position(|tally| tally.emoji == emoji) {
        Some(index) => index,
        None if tallies.len() >= MAX_DISTINCT_EMOJI => {
            return Err(Error::Conflict {
                code: "too_many_reactions",
                detail: format!("a message may have {MAX_DISTINCT_EMOJI} different emoji under it").into(),
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

/// How often an emoji is there, for one who put it there.
pub fn tally_of(tallies: &[Tally], emoji: &str) -> Tally {
    let count = tallies.iter().find(|tally| tally.emoji == emoji).map_or(0, |tally| tally.count);
    Tally { emoji: emoji.to_owned(), count, me: true }
}

/// One less of an emoji.
pub fn without(tallies: &mut Vec<Tally>, emoji: &str) {
    for tally in tallies.iter_mut().filter(|tally| tally.emoji == emoji) {
        tally.count -= 1;
    }
    tallies.retain(|tally| tally.count > 0);
}

/// Fills in, for messages that are to be shown to somebody, which reactions are their own. Where there are none, nothing is
/// asked.
///
/// # Errors
/// Of the database.
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
