//! The Unicode set of emoji, with names and keywords for search.
//!
//! Invariant: each emoji without a skin tone is in the set once, and no two have the same shortcode. The first shortcode is its
//! name.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::base::text::fold;

/// Keywords beside the words of the names, one line for each emoji: its shortcode, a colon and the keywords.
const KEYWORDS: &str = include_str!("emoji_keywords.txt");
/// Words of names that are no keywords.
const STOP_WORDS: &[&str] = &["a", "and", "in", "of", "on", "over", "the", "with", "without"];

/// An emoji of the Unicode set.
#[derive(Debug)]
pub struct UnicodeEmoji {
    /// The emoji in the form that Unicode calls fully qualified.
    pub character: &'static str,
    /// Its shortcodes without colons: those of GitHub or, if it has none, one that is derived from its Unicode name.
    pub shortcodes: Vec<String>,
    /// The group of the Unicode standard, such as `food_and_drink`.
    pub group: &'static str,
    /// The other shortcodes, the words of the Unicode name, and further words. In lower case.
    pub keywords: Vec<String>,
}

impl UnicodeEmoji {
    /// The first shortcode.
    pub fn name(&self) -> &str {
        self.shortcodes.first().map_or("", String::as_str)
    }
}

struct Catalog {
    emoji: Vec<UnicodeEmoji>,
    by_shortcode: HashMap<String, usize>,
    by_character: HashMap<&'static str, usize>,
}

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let more = keywords();
    let emoji: Vec<UnicodeEmoji> = emojis::iter().map(|emoji| describe(emoji, &more)).collect();
    let mut by_shortcode = HashMap::new();
    for (index, emoji) in emoji.iter().enumerate() {
        for shortcode in &emoji.shortcodes {
            by_shortcode.entry(shortcode.clone()).or_insert(index);
        }
    }
    let by_character = emoji.iter().enumerate().map(|(index, emoji)| (emoji.character, index)).collect();
    Catalog { emoji, by_shortcode, by_character }
});

/// All emoji without skin tones, in the order of the Unicode standard.
pub fn all() -> &'static [UnicodeEmoji] {
    &CATALOG.emoji
}

/// The emoji with a shortcode.
pub fn by_shortcode(shortcode: &str) -> Option<&'static UnicodeEmoji> {
    CATALOG.by_shortcode.get(shortcode).and_then(|index| CATALOG.emoji.get(*index))
}

/// The place in [`all`] of a character, whatever its skin tone.
pub fn place_of(character: &str) -> Option<usize> {
    let toneless = emojis::get(character)?;
    let toneless = toneless.with_skin_tone(emojis::SkinTone::Default).unwrap_or(toneless);
    CATALOG.by_character.get(toneless.as_str()).copied()
}

fn keywords() -> HashMap<&'static str, Vec<&'static str>> {
    let lines = KEYWORDS.lines().filter_map(|line| line.split_once(": "));
    lines.map(|(shortcode, words)| (shortcode, words.split(' ').collect())).collect()
}

fn describe(emoji: &'static emojis::Emoji, more: &HashMap<&'static str, Vec<&'static str>>) -> UnicodeEmoji {
    let mut shortcodes: Vec<String> = emoji.shortcodes().map(str::to_owned).collect();
    if shortcodes.is_empty() {
        shortcodes.push(words_of(emoji.name()).collect::<Vec<_>>().join("_"));
    }
    let words = words_of(emoji.name()).filter(|word| !STOP_WORDS.contains(&word.as_str()));
    let of_shortcodes = shortcodes.iter().filter_map(|shortcode| more.get(shortcode.as_str())).flatten();
    let mut keywords: Vec<String> = Vec::new();
    let others = shortcodes.iter().skip(1).cloned();
    for word in others.chain(words).chain(of_shortcodes.map(|word| (*word).to_owned())) {
        if !keywords.contains(&word) {
            keywords.push(word);
        }
    }
    UnicodeEmoji { character: emoji.as_str(), shortcodes, group: group(emoji.group()), keywords }
}

/// The words of a text, in lower case and without accents.
pub fn words_of(text: &str) -> impl Iterator<Item = String> {
    let folded = fold(text);
    let words: Vec<String> = folded
        .split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    words.into_iter()
}

const fn group(group: emojis::Group) -> &'static str {
    match group {
        emojis::Group::SmileysAndEmotion => "smileys_and_emotion",
        emojis::Group::PeopleAndBody => "people_and_body",
        emojis::Group::AnimalsAndNature => "animals_and_nature",
        emojis::Group::FoodAndDrink => "food_and_drink",
        emojis::Group::TravelAndPlaces => "travel_and_places",
        emojis::Group::Activities => "activities",
        emojis::Group::Objects => "objects",
        emojis::Group::Symbols => "symbols",
        emojis::Group::Flags => "flags",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_emoji_has_a_name_of_its_own() {
        let mut seen = HashSet::new();
        for (place, emoji) in all().iter().enumerate() {
            for shortcode in &emoji.shortcodes {
                assert!(!shortcode.is_empty() && seen.insert(shortcode.clone()), "{shortcode:?}");
                assert_eq!(by_shortcode(shortcode).unwrap().character, emoji.character);
            }
            assert_eq!(place_of(emoji.character), Some(place));
            assert!(!emoji.keywords.is_empty(), "{}", emoji.name());
        }
        assert!(all().len() > 1_800);
        assert_eq!(place_of("👍🏽"), place_of("👍"));
    }

    #[test]
    fn every_line_of_the_keywords_is_of_an_emoji_and_says_something_new() {
        let mut before = HashSet::new();
        for line in KEYWORDS.lines() {
            let (shortcode, words) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"));
            let emoji = by_shortcode(shortcode).unwrap_or_else(|| panic!("{shortcode}"));
            assert!(before.insert(emoji.name()), "{shortcode} has two lines");
            let mut own = HashSet::new();
            for word in words.split(' ') {
                assert!(!word.is_empty() && fold(word) == word && own.insert(word), "{line:?}");
            }
        }
        assert!(before.len() > 300, "{}", before.len());
    }
}
