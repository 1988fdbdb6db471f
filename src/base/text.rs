//! Folding of text, for comparison and search; finding texts that show nothing; the sentence that lists words.
//!
//! Invariant: folding happens here and never in SQL, so that both databases agree. A folded text is only a key: texts are
//! stored and shown as they were written.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Folds ASCII case, for user names and email addresses.
pub fn fold_ascii(text: &str) -> String {
    text.to_ascii_lowercase()
}

/// Folds case, accents and compatibility forms, for people's names.
pub fn fold(text: &str) -> String {
    let lower: String =
        text.nfkd().filter(|character| !is_combining_mark(*character)).flat_map(char::to_lowercase).collect();
    // Lower-casing can produce a combining mark (İ). The second pass removes it, so that folding a folded text changes nothing.
    lower.nfkd().filter(|character| !is_combining_mark(*character)).collect()
}

/// An upper bound, in byte order, of all texts that begin with `prefix`. It works because U+10FFFF is the largest code point and is
/// never assigned to a character.
pub fn past_prefix(prefix: &str) -> String {
    format!("{prefix}\u{10FFFF}")
}

/// The sentence for a value that must be one of several words.
pub fn choices(words: &[&str]) -> String {
    match words {
        [] => "must not be given".to_owned(),
        [word] => format!("must be {word}"),
        [first @ .., last] => format!("must be {} or {last}", first.join(", ")),
    }
}

/// Whether a text shows nothing: it is empty or has only white space, control characters and invisible characters. A text
/// with U+0000 is not blank, because U+0000 is an error of its own.
pub fn is_blank(text: &str) -> bool {
    text.chars().all(|character| {
        character.is_whitespace() || is_invisible(character) || (character.is_control() && character != '\0')
    })
}

/// Whether Unicode gives a character the property `Default_Ignorable_Code_Point`. Also U+2800, a Braille pattern without dots,
/// and the marks around annotations.
const fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}' | '\u{180B}'..='\u{180F}'
        | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{2800}' | '\u{3164}'
        | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}' | '\u{1BCA0}'..='\u{1BCA3}'
        | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_listed_in_a_sentence() {
        assert_eq!(choices(&["direct", "group"]), "must be direct or group");
        assert_eq!(choices(&["a", "b", "c"]), "must be a, b or c");
        assert_eq!(choices(&["a"]), "must be a");
    }

    #[test]
    fn texts_without_a_visible_character_are_blank() {
        let invisible = [
            "",
            " ",
            "\t\r\n",
            "\u{A0}\u{3000}\u{2003}",
            "\u{200B}\u{FEFF}\u{2060}",
            "\u{AD}",
            "\u{3164}",
            "\u{2800} ",
        ];
        for text in invisible {
            assert!(is_blank(text), "{text:?}");
        }
        for text in ["a", " . ", "👍", "\u{200B}x", "❤\u{FE0F}", "\u{301}", "0", "\u{E000}"] {
            assert!(!is_blank(text), "{text:?}");
        }
    }

    #[test]
    fn case_and_accents_fold() {
        assert_eq!(fold("Ångström É ﬁ İ"), "angstrom e fi i");
        assert_eq!(fold(&fold("İstanbul ẞ")), fold("İstanbul ẞ"));
        assert_eq!(fold_ascii("Bugs.Bunny-É"), "bugs.bunny-É");
    }
}
