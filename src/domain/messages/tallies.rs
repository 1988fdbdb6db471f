//! Counts of the reactions to a message by emoji, which of them include a reaction of the viewer, and the names of custom emoji.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, EmojiId};
use crate::domain::access::viewer::Viewer;
use crate::store;
use crate::store::db::Conn;
use crate::store::files::custom_emoji::{self, NamedEmoji};
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
            tallies.push(Tally { emoji: emoji.to_owned(), custom: None, count: 0, me: false });
            tallies.len() - 1
        }
    };
    tallies[index].count += 1;
    Ok(tally_of(tallies, emoji))
}

/// The count of an emoji for a user who has reacted with it: `me` is true.
pub fn tally_of(tallies: &[Tally], emoji: &str) -> Tally {
    let count = tallies.iter().find(|tally| tally.emoji == emoji).map_or(0, |tally| tally.count);
    Tally { emoji: emoji.to_owned(), custom: None, count, me: true }
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

/// Whether a message has a reaction with a custom emoji.
pub fn has_custom(message: &Message) -> bool {
    message.decorations.reactions.iter().any(|tally| custom_emoji::id_of(&tally.emoji).is_some())
}

/// Sets the present names of the custom emoji of messages. Makes no query if there are none.
///
/// # Errors
/// Errors of the database.
pub async fn set_names(conn: &mut Conn, messages: &mut [Message]) -> Result<()> {
    let mut tallies: Vec<&mut Tally> =
        messages.iter_mut().flat_map(|message| message.decorations.reactions.iter_mut()).collect();
    set_names_of(conn, &mut tallies).await
}

/// As [`set_names`], for single counts.
///
/// # Errors
/// Errors of the database.
pub async fn set_names_of(conn: &mut Conn, tallies: &mut [&mut Tally]) -> Result<()> {
    let names = names(conn, tallies.iter().map(|tally| tally.emoji.as_str())).await?;
    for tally in tallies {
        tally.custom = custom_emoji::id_of(&tally.emoji).map(|id| named(&names, id));
    }
    Ok(())
}

/// The names of the custom emoji among the emoji of reactions.
///
/// # Errors
/// Errors of the database.
pub async fn names(conn: &mut Conn, emoji: impl Iterator<Item = &str>) -> Result<HashMap<EmojiId, String>> {
    let ids: BTreeSet<i64> = emoji.filter_map(custom_emoji::id_of).map(|id| id.0).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let found = custom_emoji::names(conn, &Vec::from_iter(ids)).await?;
    Ok(found.into_iter().map(|NamedEmoji { id, name }| (id, name)).collect())
}

/// A custom emoji with its name from `names`. An emoji without a row, which only an event about a removed reaction can name, is
/// shown with its key instead of a name.
pub fn named(names: &HashMap<EmojiId, String>, id: EmojiId) -> NamedEmoji {
    NamedEmoji { id, name: names.get(&id).cloned().unwrap_or_else(|| custom_emoji::key(id)) }
}
