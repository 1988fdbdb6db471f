//! Text cut into the terms that search knows.
//!
//! Invariants: what is said and what is asked for are cut by the same function, in Rust and never in a database, so that both
//! find the same. Terms hold letters and digits alone: neither index needs anything escaped. Scripts that put no space between
//! words are cut into every two neighbouring characters, and the last one of a run alone, so that any part of it is found.

use std::collections::HashMap;

use unicode_normalization::char::{compose, decompose_compatible, is_combining_mark};

/// Characters of a term; what a longer word has beyond them is not looked at.
pub const MAX_TERM_CHARACTERS: usize = 64;
/// Terms of one text: PostgreSQL counts positions up to 16,383.
const MAX_TERMS: usize = 16_000;
/// How often a text holds one term with its place: PostgreSQL keeps 256.
const MAX_REPEATS: usize = 200;

/// What a term is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A word.
    Word,
    /// Two neighbouring characters of a script without spaces.
    Pair,
    /// The last character of such a run, alone.
    Last,
}

/// A term and where it stands, in characters of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Folded.
    pub text: String,
    /// What it is.
    pub shape: Shape,
    /// Its first character.
    pub start: usize,
    /// Behind its first character.
    pub first_end: usize,
    /// Behind its last character.
    pub end: usize,
}

/// A folded character, and the characters that it was made of.
#[derive(Clone, Copy)]
struct Folded {
    character: char,
    start: usize,
    end: usize,
}

/// The terms of a text, in their order.
pub fn terms(text: &str) -> Vec<Term> {
    let folded = fold(text);
    let mut found = Vec::new();
    let mut rest = folded.as_slice();
    while let Some(first) = rest.first() {
        let sort = sort_of(first.character);
        let length = rest.iter().take_while(|folded| sort_of(folded.character) == sort).count();
        let (run, behind) = rest.split_at(length);
        match sort {
            Sort::Space => {}
            Sort::Spaced => found.push(Term {
                text: run.iter().take(MAX_TERM_CHARACTERS).map(|folded| folded.character).collect(),
                shape: Shape::Word,
                start: first.start,
                first_end: first.end,
                end: run.last().map_or(first.end, |last| last.end),
            }),
            Sort::Unspaced => cut_run(run, &mut found),
        }
        if found.len() >= MAX_TERMS {
            found.truncate(MAX_TERMS);
            break;
        }
        rest = behind;
    }
    found
}

fn cut_run(run: &[Folded], found: &mut Vec<Term>) {
    for pair in run.windows(2) {
        found.push(Term {
            text: pair.iter().map(|folded| folded.character).collect(),
            shape: Shape::Pair,
            start: pair[0].start,
            first_end: pair[0].end,
            end: pair[1].end,
        });
    }
    found.extend(run.last().map(|last| Term {
        text: last.character.into(),
        shape: Shape::Last,
        start: last.start,
        first_end: last.end,
        end: last.end,
    }));
}

/// The terms of a text by their places; `None` where one stands so often that it is not kept again.
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

/// Whether a text names a place in the web.
pub fn has_link(text: &str) -> bool {
    text.match_indices("://").any(|(at, mark)| {
        let scheme = text[..at].to_ascii_lowercase();
        let next = text[at + mark.len()..].chars().next();
        (scheme.ends_with("http") || scheme.ends_with("https")) && next.is_some_and(char::is_alphanumeric)
    })
}

/// What a character is for the cutting.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// Between words.
    Space,
    /// Of a script with spaces between words.
    Spaced,
    /// Of a script without.
    Unspaced,
}

fn sort_of(character: char) -> Sort {
    if !character.is_alphanumeric() {
        return Sort::Space;
    }
    match u32::from(character) {
        // Thai and Lao, Myanmar, Khmer.
        0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff
        // Hangul: it has spaces, but what is looked for often stands inside its words.
        | 0x1100..=0x11ff | 0x3130..=0x318f | 0xa960..=0xa97f | 0xac00..=0xd7ff
        // Hiragana, Katakana, Bopomofo, Han.
        | 0x3005..=0x3007 | 0x3021..=0x3029 | 0x3031..=0x312f | 0x31a0..=0x31bf | 0x31f0..=0x31ff | 0x3400..=0x4dbf
        | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3ffff => Sort::Unspaced,
        _ => Sort::Spaced,
    }
}

/// Folds case, accents and compatibility forms, as `text::fold` does for names, and remembers where each
/// character came from. Unlike there, what makes another letter of Kana and Hangul stays.
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
        // A mark belongs to what it stands on.
        if let Some(last) = folded.last_mut().filter(|last| last.end == at && last.character.is_alphanumeric()) {
            last.end = at + 1;
        }
        return;
    }
    for lower in part.to_lowercase() {
        // Lower-casing can itself give a combining mark (İ). A sigma at a word's end is a sigma.
        decompose_compatible(if lower == 'ς' { 'σ' } else { lower }, |character| {
            if !is_combining_mark(character) {
                folded.push(Folded { character, start: at, end: at + 1 });
            }
        });
    }
}

/// The voicing marks of Kana, and the vowels and finals of Hangul: parts of a letter, not accents.
fn joins(character: char) -> bool {
    matches!(character, '\u{3099}' | '\u{309a}' | '\u{1161}'..='\u{1175}' | '\u{11a8}'..='\u{11c2}')
}

/// The soft hyphen, joiners, and the mark of byte order: they do not part words.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{200c}' | '\u{200d}' | '\u{2060}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<String> {
        terms(text).into_iter().map(|term| term.text).collect()
    }

    #[test]
    fn words_are_folded_and_runs_are_paired() {
        assert_eq!(cut("Ångström, don't PANIC! x² ΟΔΟΣ οδός"), ["angstrom", "don", "t", "panic", "x2", "οδοσ", "οδοσ"]);
        assert_eq!(cut("東京都 tower5階"), ["東京", "京都", "都", "tower5", "階"]);
        assert_eq!(cut("한국어"), ["한국", "국어", "어"]);
        assert_eq!(cut("\u{1112}\u{1161}\u{11ab}"), ["한"]);
        assert_eq!(cut("が か\u{3099} ｶﾞ カ"), ["が", "が", "ガ", "カ"]);
        assert_eq!(cut("co\u{ad}operate e\u{301}te\u{301}"), ["cooperate", "ete"]);
        assert_eq!(cut("👍 -- \"'(*)"), Vec::<String>::new());
        assert_eq!(cut(&"a".repeat(100)), ["a".repeat(64)]);
    }

    #[test]
    fn places_are_those_of_the_text() {
        let found = terms("a e\u{301}te\u{301}! 東京");
        let places: Vec<_> = found.iter().map(|term| (term.start, term.first_end, term.end)).collect();
        assert_eq!(places, [(0, 1, 1), (2, 4, 7), (9, 10, 11), (10, 11, 11)]);
    }

    #[test]
    fn no_text_has_more_than_the_indexes_hold() {
        let places = places(&"a ".repeat(4_000));
        assert_eq!(places.len(), 4_000);
        assert_eq!(places.iter().flatten().count(), MAX_REPEATS);
        assert_eq!(terms(&"\u{fdfa}".repeat(8_000)).len(), MAX_TERMS);
    }

    #[test]
    fn links_are_told() {
        for text in ["see https://example.org", "HTTP://x", "(http://1.2.3.4)"] {
            assert!(has_link(text), "{text}");
        }
        for text in ["http:/x", "://x", "ftp://x", "https:// x", "https://", "example.org"] {
            assert!(!has_link(text), "{text}");
        }
    }
}
