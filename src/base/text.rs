//! Folding of text, for comparison and search; the sentence that lists words.
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
    fn case_and_accents_fold() {
        assert_eq!(fold("Ångström É ﬁ İ"), "angstrom e fi i");
        assert_eq!(fold(&fold("İstanbul ẞ")), fold("İstanbul ẞ"));
        assert_eq!(fold_ascii("Bugs.Bunny-É"), "bugs.bunny-É");
    }
}
