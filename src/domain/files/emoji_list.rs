//! The list of emoji: the Unicode set and the custom emoji, for pickers and for the completion of `:name`.
//!
//! Invariant: the order is total. A cursor contains the three values by which the last emoji of a page is sorted, and the time of the
//! first page. Reactions after that time do not count, so they move no emoji between two pages.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::custom_emoji::MAX_CUSTOM_EMOJI;
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::text::fold;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::messages::emoji_catalog::{self, UnicodeEmoji, words_of};
use crate::domain::shared::pagination::{Limit, Page, decode_cursor};
use crate::store;
pub use crate::store::files::custom_emoji::CustomEmoji;

/// Maximum number of characters of a search.
pub const MAX_QUERY_CHARACTERS: usize = 64;
/// Maximum number of the caller's reactions that are counted.
const MAX_COUNTED_REACTIONS: i64 = 2_000;
/// The place of the first custom emoji, after all emoji of the Unicode set.
const CUSTOM_PLACE: i64 = 1_000_000;

/// An emoji of the list.
#[derive(Clone, Debug)]
pub enum ListedEmoji {
    /// An emoji of the Unicode set.
    Unicode(&'static UnicodeEmoji),
    /// A custom emoji.
    Custom(Box<CustomEmoji>),
}

impl ListedEmoji {
    /// The keywords. Those of a custom emoji are the words of its name.
    pub fn keywords(&self) -> Vec<String> {
        match self {
            Self::Unicode(emoji) => emoji.keywords.clone(),
            Self::Custom(emoji) => words_of(&emoji.name).collect(),
        }
    }
}

/// The values that determine the place of an emoji: the most used first, then the best matches, then the order of the set.
type Place = (Reverse<i64>, i64, i64);

/// Lists the emoji that match `q`, or all emoji if `q` is absent. The emoji that the caller has used most come first.
///
/// # Errors
/// 422 for `q` and `cursor`.
pub async fn list(
    app: &App,
    principal: &Principal,
    q: Option<&str>,
    limit: Limit,
    cursor: Option<&str>,
) -> Result<Page<Vec<ListedEmoji>>> {
    if q.is_some_and(|q| q.chars().count() > MAX_QUERY_CHARACTERS) {
        return Err(Error::invalid("q", "too_long", format!("must have at most {MAX_QUERY_CHARACTERS} characters")));
    }
    let query = q.map(Query::new).filter(|query| !query.shortcode.is_empty());
    let after = cursor.map(|cursor| decode_cursor::<4>("emoji", cursor)).transpose()?;
    let person = principal.person().map(|person| person.id);
    // A reaction between two pages must not move an emoji from the later page to the earlier one. So the later pages count
    // the reactions until the first page.
    let first_page_at = after.map_or_else(|| app.clock.now().micros(), |[.., at]| at);
    let until = if after.is_some() { Timestamp::from_micros(first_page_at) } else { Timestamp::MAX };
    let (custom, uses) = app
        .db
        .read((person, until), |conn, (person, until)| {
            Box::pin(async move {
                let custom = store::files::custom_emoji::list(conn, MAX_CUSTOM_EMOJI).await?;
                let uses = match person {
                    Some(user) => {
                        store::messages::reactions::uses_of(conn, *user, *until, MAX_COUNTED_REACTIONS).await?
                    }
                    None => Vec::new(),
                };
                Ok((custom, uses))
            })
        })
        .await?;
    let mut found = matching(query.as_ref(), custom, &places_used(&uses));
    if let Some([uses, rank, place, _]) = after {
        found.retain(|(at, _)| *at > (Reverse(uses), rank, place));
    }
    found.sort_unstable_by_key(|(at, _)| *at);
    found.truncate(limit.get() + 1);
    let page =
        Page::new("emoji", found, limit, |((Reverse(uses), rank, place), _)| [*uses, *rank, *place, first_page_at]);
    Ok(Page { entries: page.entries.into_iter().map(|(_, emoji)| emoji).collect(), next: page.next })
}

/// How often each place of the list was used. The skin tones of an emoji count together.
fn places_used(uses: &[(String, i64)]) -> HashMap<i64, i64> {
    let mut places = HashMap::new();
    for (emoji, count) in uses {
        let place = match store::files::custom_emoji::id_of(emoji) {
            Some(id) => Some(CUSTOM_PLACE + id.0),
            None => emoji_catalog::place_of(emoji).map(|place| place as i64),
        };
        if let Some(place) = place {
            *places.entry(place).or_default() += count;
        }
    }
    places
}

fn matching(query: Option<&Query>, custom: Vec<CustomEmoji>, used: &HashMap<i64, i64>) -> Vec<(Place, ListedEmoji)> {
    let at = |rank: i64, place: i64| (Reverse(used.get(&place).copied().unwrap_or_default()), rank, place);
    let mut found = Vec::new();
    for (place, emoji) in (0_i64..).zip(emoji_catalog::all()) {
        let shortcodes = emoji.shortcodes.iter().map(String::as_str);
        if let Some(rank) = query.map_or(Some(0), |query| query.rank(shortcodes, &emoji.keywords)) {
            found.push((at(rank, place), ListedEmoji::Unicode(emoji)));
        }
    }
    for emoji in custom {
        let place = CUSTOM_PLACE + emoji.id.0;
        let keywords: Vec<String> = words_of(&emoji.name).collect();
        let rank = query.map_or(Some(0), |query| query.rank([emoji.name.as_str()].into_iter(), &keywords));
        if let Some(rank) = rank {
            found.push((at(rank, place), ListedEmoji::Custom(Box::new(emoji))));
        }
    }
    found
}

/// A search in the form in which it is compared.
struct Query {
    shortcode: String,
    words: Vec<String>,
}

impl Query {
    fn new(text: &str) -> Self {
        Self { shortcode: as_shortcode(text.trim().trim_matches(':')), words: words_of(text).collect() }
    }

    /// How well an emoji matches: 0 if a shortcode is equal, 1 if one begins with the search, 2 if each word of the search is the
    /// beginning of a keyword. `None` if it does not match.
    fn rank<'a>(&self, shortcodes: impl Iterator<Item = &'a str> + Clone, keywords: &[String]) -> Option<i64> {
        if shortcodes.clone().any(|shortcode| as_shortcode(shortcode) == self.shortcode) {
            return Some(0);
        }
        if shortcodes.clone().any(|shortcode| as_shortcode(shortcode).starts_with(&self.shortcode)) {
            return Some(1);
        }
        let matches = |word: &String| keywords.iter().any(|keyword| keyword.starts_with(word.as_str()));
        (!self.words.is_empty() && self.words.iter().all(matches)).then_some(2)
    }
}

/// A text in lower case with `_` between its words, as shortcodes are written.
fn as_shortcode(text: &str) -> String {
    fold(text).replace([' ', '-'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(q: &str) -> Vec<&'static str> {
        let mut found = matching(Some(&Query::new(q)), Vec::new(), &HashMap::new());
        found.sort_unstable_by_key(|(at, _)| *at);
        let character = |(_, emoji)| match emoji {
            ListedEmoji::Unicode(emoji) => emoji.character,
            ListedEmoji::Custom(_) => unreachable!(),
        };
        found.into_iter().map(character).collect()
    }

    #[test]
    fn exact_matches_come_before_prefixes_and_prefixes_before_keywords() {
        let hearts = found("Heart");
        assert_eq!(hearts[..2], ["❤️", "😍"]);
        let place = |character: &str| hearts.iter().position(|found| *found == character).unwrap();
        assert!(place("😍") < place("💔"));
        assert_eq!(found(":+1:")[0], "👍");
        assert_eq!(found("thumbs up")[0], "👍");
        assert_eq!(found("red heart")[0], "❤️");
        assert!(found("agree").contains(&"👍"));
        assert!(found("!!!").is_empty() && found("no such emoji").is_empty());
    }
}
