//! The emoji that can be used as reactions.
//!
//! Invariant: an emoji is stored in one form, which Unicode calls fully qualified, however the user wrote it. Forms
//! with other variation selectors, or with none, are the same emoji.

use super::emoji_catalog;
use crate::base::error::Error;

/// Maximum number of characters in the name of a custom emoji.
pub const MAX_NAME_CHARACTERS: usize = 64;
/// Variation selectors: code points that choose between text and picture.
const VARIATION_SELECTORS: [char; 2] = ['\u{FE0E}', '\u{FE0F}'];
/// Skin tones: code points that change the colour of the emoji before them.
const SKIN_TONES: std::ops::RangeInclusive<char> = '\u{1F3FB}'..='\u{1F3FF}';

/// Parses an emoji: the character itself, in any form, or its `:shortcode:`.
pub fn parse(text: &str) -> Option<&'static str> {
    let shortcode = text.strip_prefix(':').and_then(|text| text.strip_suffix(':'));
    if let Some(shortcode) = shortcode {
        return emoji_catalog::by_shortcode(shortcode).map(|emoji| emoji.character);
    }
    let bare = without_selectors(text);
    // The library takes a digit such as `1` for the keycap emoji 1️⃣. The last line rejects that: without selectors, the found
    // emoji must equal the text.
    [text, &bare, &qualified(&bare)]
        .into_iter()
        .filter_map(|form| emojis::get(form).map(emojis::Emoji::as_str))
        .find(|emoji| without_selectors(emoji) == bare)
}

/// The name in `:name:`, if a custom emoji can have it.
pub fn custom_name(text: &str) -> Option<&str> {
    let name = text.strip_prefix(':')?.strip_suffix(':')?;
    is_custom_name(name).then_some(name)
}

/// Whether a custom emoji can have this name, apart from the names of the Unicode set.
pub fn is_custom_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=MAX_NAME_CHARACTERS).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// The error for a text that is no emoji.
pub fn unknown_emoji() -> Error {
    Error::invalid("emoji", "unknown_emoji", "must be one emoji or the :shortcode: of one")
}

/// Adds a variation selector after each character that is shown as text if no selector follows. A character with a skin tone
/// needs none, because it is shown as a picture.
fn qualified(bare: &str) -> String {
    let mut text = String::new();
    let mut characters = bare.chars().peekable();
    while let Some(character) = characters.next() {
        text.push(character);
        let alone = emojis::get(character.encode_utf8(&mut [0; 4])).map(emojis::Emoji::as_str);
        let toned = characters.peek().is_some_and(|next| SKIN_TONES.contains(next));
        if alone.is_some_and(|alone| alone.ends_with(VARIATION_SELECTORS[1])) && !toned {
            text.push(VARIATION_SELECTORS[1]);
        }
    }
    text
}

fn without_selectors(text: &str) -> String {
    text.chars().filter(|character| !VARIATION_SELECTORS.contains(character)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = &'static emojis::Emoji> {
        emojis::iter().flat_map(|emoji| {
            let tones: Vec<_> = emoji.skin_tones().map(Iterator::collect).unwrap_or_default();
            std::iter::once(emoji).chain(tones)
        })
    }

    #[test]
    fn every_form_of_an_emoji_parses_to_the_same_emoji() {
        let mut count = 0;
        for emoji in all() {
            let text = emoji.as_str();
            assert_eq!(parse(text), Some(text));
            let bare = without_selectors(text);
            for form in [bare.clone(), format!("{bare}\u{FE0F}"), format!("{bare}\u{FE0E}"), format!("{text}\u{FE0F}")]
            {
                assert_eq!(parse(&form), Some(text), "{form:?} is {}", emoji.name());
            }
            assert!(!text.contains(' ') && text.len() <= 64, "{text:?}");
            count += 1;
        }
        assert!(count > 3_500, "{count}");
    }

    #[test]
    fn every_shortcode_parses_to_its_emoji() {
        for emoji in emojis::iter() {
            for shortcode in emoji.shortcodes() {
                assert_eq!(parse(&format!(":{shortcode}:")), Some(emoji.as_str()), "{shortcode}");
            }
        }
        assert_eq!(parse(":+1:"), Some("👍"));
    }

    #[test]
    fn other_texts_are_not_emoji() {
        let others = [
            "",
            ":",
            "::",
            ":::",
            ":no_such:",
            "+1",
            "tada",
            "a",
            "1",
            "1\u{FE0F}",
            "#",
            "\u{FE0F}",
            "\u{200D}",
            "👍👍",
            "👍 ",
            " 👍",
            "👍a",
            "\u{1F3FF}\u{200D}",
            "🇩",
            ":👍:",
        ];
        for text in others {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
