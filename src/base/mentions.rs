//! Finding mentions in the texts of messages: the names that follow an `@`.
//!
//! Invariant: an `@` inside code, a URL or an e-mail address begins no mention. A text is read once, whatever it contains.

use super::ids::UserId;
use super::links::{address_start, ends_url};
use super::text::fold_ascii;

/// The maximum number of users whom one message mentions. Further names are plain text.
pub const MAX_MENTIONS: usize = 50;
/// Maximum number of places in one message where name characters after an `@` are examined, whether or not a user has
/// that name.
pub const MAX_PLACES: usize = 500;
/// Longest user name, in characters.
const MAX_NAME_CHARACTERS: usize = 32;

/// The users that a text mentions, each once, in the order of their first mention. `find` looks up a folded name.
pub fn mentioned<T>(body: &str, find: impl Fn(&str) -> Option<(UserId, T)>) -> Vec<(UserId, T)> {
    let mut found: Vec<(UserId, T)> = Vec::new();
    for run in name_runs(body) {
        let key = fold_ascii(run);
        let longest = (1..=key.len()).rev().find_map(|length| find(&key[..length]));
        if let Some((user, more)) = longest
            && found.iter().all(|(known, _)| *known != user)
        {
            found.push((user, more));
            if found.len() == MAX_MENTIONS {
                break;
            }
        }
    }
    found
}

/// The characters after each `@` that may begin a mention, up to the first one that cannot belong to a name.
pub fn name_runs(body: &str) -> Vec<&str> {
    let mut runs = Vec::new();
    let words = outside_code(body).into_iter().flat_map(|text| text.split(ends_url));
    for word in words.filter(|word| word.contains('@')) {
        let text = &word[..address_start(word).unwrap_or(word.len())];
        for (index, _) in text.match_indices('@').filter(|(index, _)| !ends_with_local_part(&text[..*index])) {
            let rest = &word[index + 1..];
            let length = rest.bytes().take(MAX_NAME_CHARACTERS).take_while(|byte| is_name_byte(*byte)).count();
            if length > 0 {
                runs.push(&rest[..length]);
            }
            if runs.len() == MAX_PLACES {
                return runs;
            }
        }
    }
    runs
}

/// Whether a text ends like the part of an e-mail address before its `@`: with a letter or digit, or with a sign that ends
/// such a part and follows a letter or digit. A sign directly after a mention separates it from the next one.
pub(super) fn ends_with_local_part(text: &str) -> bool {
    let is_sign = |character| matches!(character, '_' | '-' | '+' | '%' | '=' | '~');
    let Some(last) = text.chars().next_back() else { return false };
    if last.is_alphanumeric() || !is_sign(last) {
        return last.is_alphanumeric();
    }
    let before =
        text.trim_end_matches(|character: char| character.is_alphanumeric() || is_sign(character) || character == '.');
    text[before.len()..].contains(char::is_alphanumeric) && !before.ends_with('@')
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// The parts of a text that are not code, by the rules of CommonMark. Code is between two runs of backticks of the same
/// length within a paragraph, or between fences of at least three backticks at the beginning of lines. A run of
/// backticks without a second run of its length is text.
fn outside_code(body: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    if !body.contains('`') {
        return vec![body];
    }
    // `paragraph` is where the paragraph begins; `fence` is the length of the open fence.
    let (mut paragraph, mut at) = (0, 0);
    let mut fence = None;
    for line in body.split_inclusive('\n') {
        let indented = line.trim_start_matches(' ');
        let backticks = indented.len() - indented.trim_start_matches('`').len();
        let may_be_fence = line.len() - indented.len() <= 3 && backticks >= 3;
        let rest = &indented[backticks..];
        match fence {
            Some(length) => {
                if may_be_fence && backticks >= length && rest.trim().is_empty() {
                    fence = None;
                }
                paragraph = at + line.len();
            }
            None if may_be_fence && !rest.contains('`') => {
                outside_spans(&body[paragraph..at], &mut parts);
                fence = Some(backticks);
                paragraph = at + line.len();
            }
            None if line.trim().is_empty() => {
                outside_spans(&body[paragraph..at], &mut parts);
                paragraph = at + line.len();
            }
            None => {}
        }
        at += line.len();
    }
    outside_spans(&body[paragraph..at], &mut parts);
    parts
}

fn outside_spans<'a>(paragraph: &'a str, parts: &mut Vec<&'a str>) {
    let (mut from, mut at) = (0, 0);
    while let Some(start) = paragraph[at..].find('`').map(|found| at + found) {
        let length = backticks_at(paragraph, start);
        at = start + length;
        if let Some(end) = end_of_closing_run(paragraph, at, length) {
            parts.push(&paragraph[from..start]);
            at = end;
            from = end;
        }
    }
    parts.push(&paragraph[from..]);
}

/// The end of the next run of exactly `length` backticks.
fn end_of_closing_run(text: &str, mut at: usize, length: usize) -> Option<usize> {
    while let Some(start) = text[at..].find('`').map(|found| at + found) {
        let found = backticks_at(text, start);
        at = start + found;
        if found == length {
            return Some(at);
        }
    }
    None
}

fn backticks_at(text: &str, at: usize) -> usize {
    text.as_bytes()[at..].iter().take_while(|byte| **byte == b'`').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEOPLE: &[&str] = &["bugs", "bugs.bunny", "duck", "porky-", "a_b"];

    fn names(body: &str) -> Vec<&'static str> {
        let find = |key: &str| {
            let place = PEOPLE.iter().position(|name| *name == key)?;
            Some((UserId(place as i64), PEOPLE[place]))
        };
        mentioned(body, find).into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn the_longest_name_that_fits_is_mentioned() {
        for (body, wanted) in [
            ("@bugs", &["bugs"][..]),
            ("hey @BUGS!", &["bugs"]),
            ("@bugs.bunny.", &["bugs.bunny"]),
            ("@bugs.bun", &["bugs"]),
            ("@bugs.", &["bugs"]),
            ("(@duck)@bugs", &["duck", "bugs"]),
            ("@duck @bugs @Duck", &["duck", "bugs"]),
            ("@porky-, @porky", &["porky-"]),
            ("@@duck", &["duck"]),
            ("_@a_b_", &["a_b"]),
            ("@bugsさん", &["bugs"]),
            ("daffy@duck.org é@duck 1@duck さ@duck", &[]),
            ("@ duck @nobody @", &[]),
            ("", &[]),
            // Addresses of pages and of mail.
            ("https://x/@bugs http://x.example/?to=@bugs#@bugs @duck", &["duck"]),
            ("HTTPS://x/@bugs, ftp://x/@bugs matrix://x/@bugs", &[]),
            ("(https://x/@bugs) [@duck](https://x/@bugs)", &["duck"]),
            ("www.x.example/@bugs x.example/@bugs x.example:80/@bugs www.@bugs", &[]),
            ("see:https://x/@bugs @duck:https://x/@bugs", &["duck"]),
            ("<https://x/a>@bugs https://x/a\n@duck", &["bugs", "duck"]),
            ("a@bugs a.b@bugs a_@bugs a-b+@bugs git@x.example/@bugs", &[]),
            ("@duck/@bugs @duck,@bugs @duck+@a_b", &["duck", "bugs", "a_b"]),
            ("and/@bugs 1.5/@duck -@a_b", &["bugs", "duck", "a_b"]),
            ("Done.@bugs", &["bugs"]),
            ("@bugs.bunny/@duck", &["bugs.bunny", "duck"]),
        ] {
            assert_eq!(names(body), wanted, "{body}");
        }
    }

    #[test]
    fn names_in_code_are_not_mentions() {
        for (body, wanted) in [
            ("`@bugs` @duck", &["duck"][..]),
            ("``@bugs ` @duck`` @a_b", &["a_b"]),
            ("` @bugs", &["bugs"]),
            ("`` @bugs `", &["bugs"]),
            ("```\n@bugs\n```\n@duck", &["duck"]),
            ("```rust\n@bugs\n", &[]),
            ("````\n```\n@bugs\n````\n@duck", &["duck"]),
            ("   ```\n@bugs\n  ```  \n@duck", &["duck"]),
            ("    ```\n@bugs", &["bugs"]),
            ("```@bugs``` @duck", &["duck"]),
            ("`@bugs\n@duck` @a_b", &["a_b"]),
            ("`@bugs\n\n@duck`", &["bugs", "duck"]),
            ("`@bugs\n```\n@duck`\n```\n", &["bugs"]),
            ("```\n@bugs\n``` x\n@duck", &[]),
        ] {
            assert_eq!(names(body), wanted, "{body:?}");
        }
    }

    #[test]
    fn the_work_for_one_message_is_limited() {
        let many: String = (0..2_000).map(|_| "@x ").collect();
        assert_eq!(name_runs(&many).len(), MAX_PLACES);
        let everyone = |key: &str| Some((UserId(key.parse().ok()?), ()));
        let numbers: String = (1..=60).map(|number| format!("@{number} ")).collect();
        assert_eq!(mentioned(&numbers, everyone).len(), MAX_MENTIONS);
        // Runs of every length, but no two of the same length. The search for a second run must stay fast.
        let unpaired: String = (1..126).map(|length| "`".repeat(length) + "x").collect();
        assert_eq!(outside_code(&unpaired), [unpaired.as_str()]);
    }
}
