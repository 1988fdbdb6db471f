//! Splits text into search terms.
//!
//! Invariants: messages and queries are split by the same function, in Rust and never in a database, so that both databases
//! find the same messages. Terms contain only letters and digits, so they need no escaping in the search indexes. Text in a script
//! without spaces between words is split into all pairs of adjacent characters, and the last character of each run is a term of
//! its own. So any part of the text can be found.

use std::collections::HashMap;

use unicode_normalization::char::{compose, decompose_compatible, is_combining_mark};

/// Longest term, in characters. The rest of a longer word is ignored.
pub const MAX_TERM_CHARACTERS: usize = 64;
/// Maximum number of terms of one text. PostgreSQL counts positions up to 16,383.
const MAX_TERMS: usize = 16_000;
/// Maximum number of positions that are kept for one term of a text. PostgreSQL keeps 256.
const MAX_REPEATS: usize = 200;

/// The kind of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A word.
    Word,
    /// Two adjacent characters of a script without spaces.
    Pair,
    /// The last character of a run in a script without spaces.
    Last,
}

/// A term and its position in the text. Positions are counted in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The folded text.
    pub text: String,
    /// The kind of the term.
    pub shape: Shape,
    /// The position of its first character.
    pub start: usize,
    /// The position after its first character.
    pub first_end: usize,
    /// The position after its last character.
    pub end: usize,
}

/// A folded character, and the range of the original characters that it comes from.
#[derive(Clone, Copy)]
struct Folded {
    character: char,
    start: usize,
    end: usize,
}

/// The terms of a text in order.
pub fn terms(text: &str) -> Vec<Term> {
    let folded = fold(text);
    let mut terms = Vec::new();
    let mut rest = folded.as_slice();
    while let Some(first) = rest.first() {
        let class = class_of(first.character);
        let length = rest.iter().take_while(|folded| class_of(folded.character) == class).count();
        let (run, after) = rest.split_at(length);
        match class {
            CharacterClass::Space => {}
            CharacterClass::Spaced => terms.push(Term {
                text: run.iter().take(MAX_TERM_CHARACTERS).map(|folded| folded.character).collect(),
                shape: Shape::Word,
                start: first.start,
                first_end: first.end,
                end: run.last().map_or(first.end, |last| last.end),
            }),
            CharacterClass::Unspaced => split_run(run, &mut terms),
        }
        if terms.len() >= MAX_TERMS {
            terms.truncate(MAX_TERMS);
            break;
        }
        rest = after;
    }
    terms
}

fn split_run(run: &[Folded], terms: &mut Vec<Term>) {
    for pair in run.windows(2) {
        terms.push(Term {
            text: pair.iter().map(|folded| folded.character).collect(),
            shape: Shape::Pair,
            start: pair[0].start,
            first_end: pair[0].end,
            end: pair[1].end,
        });
    }
    terms.extend(run.last().map(|last| Term {
        text: last.character.into(),
        shape: Shape::Last,
        start: last.start,
        first_end: last.end,
        end: last.end,
    }));
}

/// The terms of a text by position. `None` at a position where the term has already occurred `MAX_REPEATS` times in the text.
pub fn places(text: &str) -> Vec<Option<String>> {
    let terms = terms(text);
    if terms.len() <= MAX_REPEATS {
        return terms.into_iter().map(|term| Some(term.text)).collect();
    }
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut places = Vec::with_capacity(terms.len());
    for term in terms {
        let count = seen.entry(term.text.clone()).or_default();
        *count += 1;
        places.push((*count <= MAX_REPEATS).then_some(term.text));
    }
    places
}

/// Whether a text contains an http or https link.
pub fn has_link(text: &str) -> bool {
    text.match_indices("://").any(|(at, mark)| {
        let scheme = text[..at].to_ascii_lowercase();
        let next = text[at + mark.len()..].chars().next();
        (scheme.ends_with("http") || scheme.ends_with("https")) && next.is_some_and(char::is_alphanumeric)
    })
}

/// How a character separates or forms terms.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CharacterClass {
    /// Separates words.
    Space,
    /// Belongs to a script with spaces between words.
    Spaced,
    /// Belongs to a script without spaces between words.
    Unspaced,
}

fn class_of(character: char) -> CharacterClass {
    if !character.is_alphanumeric() {
        return CharacterClass::Space;
    }
    match u32::from(character) {
        // Thai and Lao, Myanmar, Khmer.
        0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff
        // Hangul has spaces, but people often search for a part of a word.
        | 0x1100..=0x11ff | 0x3130..=0x318f | 0xa960..=0xa97f | 0xac00..=0xd7ff
        // Hiragana, Katakana, Bopomofo, Han.
        | 0x3005..=0x3007 | 0x3021..=0x3029 | 0x3031..=0x312f | 0x31a0..=0x31bf | 0x31f0..=0x31ff | 0x3400..=0x4dbf
        | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3ffff => CharacterClass::Unspaced,
        _ => CharacterClass::Spaced,
    }
}

/// Folds case, accents and compatibility forms, as `text::fold` does for names, and records from which characters of the text each
/// folded character comes. Unlike `text::fold`, it keeps the marks that form another letter in Kana and Hangul.
fn fold(text: &str) -> Vec<Folded> {
    let mut folded: Vec<Folded> = Vec::with_capacity(text.len());
    for (at, character) in text.chars().enumerate() {
        if character.is_ascii() {
            folded.push(Folded { character: character.to_ascii_lowercase(), start: at, end: at + 1 });
            continue;
        }
        decompose_compatible(character, |part| fold_part(&mut folded, part, at));
    }
    folded
}

fn fold_part(folded: &mut Vec<Folded>, part: char, at: usize) {
    if joins(part)
        && let Some(last) = folded.last_mut()
        && let Some(joined) = compose(last.character, part)
    {
        last.character = joined;
        last.end = at + 1;
        return;
    }
    if is_combining_mark(part) || is_invisible(part) {
        // A mark belongs to the character before it.
        if let Some(last) = folded.last_mut().filter(|last| last.end == at && last.character.is_alphanumeric()) {
            last.end = at + 1;
        }
        return;
    }
    for lower in part.to_lowercase() {
        // Lower-casing can produce a combining mark (İ). A final sigma is folded to a sigma.
        decompose_compatible(if lower == 'ς' { 'σ' } else { lower }, |character| {
            if !is_combining_mark(character) {
                folded.push(Folded { character, start: at, end: at + 1 });
            }
        });
    }
}

/// Whether a character is a voicing mark of Kana, or a vowel or final of Hangul. These are parts of a letter, not accents.
fn joins(character: char) -> bool {
    matches!(character, '\u{3099}' | '\u{309a}' | '\u{1161}'..='\u{1175}' | '\u{11a8}'..='\u{11c2}')
}

/// Whether a character is the soft hyphen, a joiner or the byte order mark. These do not separate words.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{200c}' | '\u{200d}' | '\u{2060}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        terms(text).into_iter().map(|term| term.text).collect()
    }

    #[test]
    fn words_are_folded_and_runs_are_split_into_pairs() {
        assert_eq!(
            texts("Ångström, don't PANIC! x² ΟΔΟΣ οδός"),
            ["angstrom", "don", "t", "panic", "x2", "οδοσ", "οδοσ"]
        );
        assert_eq!(texts("東京都 tower5階"), ["東京", "京都", "都", "tower5", "階"]);
        assert_eq!(texts("한국어"), ["한국", "국어", "어"]);
        assert_eq!(texts("\u{1112}\u{1161}\u{11ab}"), ["한"]);
        assert_eq!(texts("が か\u{3099} ｶﾞ カ"), ["が", "が", "ガ", "カ"]);
        assert_eq!(texts("co\u{ad}operate e\u{301}te\u{301}"), ["cooperate", "ete"]);
        assert_eq!(texts("👍 -- \"'(*)"), Vec::<String>::new());
        assert_eq!(texts(&"a".repeat(100)), ["a".repeat(64)]);
    }

    #[test]
    fn positions_refer_to_the_original_text() {
        let found = terms("a e\u{301}te\u{301}! 東京");
        let places: Vec<_> = found.iter().map(|term| (term.start, term.first_end, term.end)).collect();
        assert_eq!(places, [(0, 1, 1), (2, 4, 7), (9, 10, 11), (10, 11, 11)]);
    }

    #[test]
    fn terms_and_positions_stay_within_the_limits_of_the_indexes() {
        let places = places(&"a ".repeat(4_000));
        assert_eq!(places.len(), 4_000);
        assert_eq!(places.iter().flatten().count(), MAX_REPEATS);
        assert_eq!(terms(&"\u{fdfa}".repeat(8_000)).len(), MAX_TERMS);
    }

    #[test]
    fn links_are_recognised() {
        for text in ["see https://example.org", "HTTP://x", "(http://1.2.3.4)"] {
            assert!(has_link(text), "{text}");
        }
        for text in ["http:/x", "://x", "ftp://x", "https:// x", "https://", "example.org"] {
            assert!(!has_link(text), "{text}");
        }
    }
}
