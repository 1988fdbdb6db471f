//! Compares the codes of errors in the source code with the lists in `src/base/codes.rs`.

use std::collections::BTreeSet;
use std::path::Path;

use posthaste::base::codes::{FIELD_CODES, PROBLEM_CODES};

use super::{code, sources};

/// The file with the lists.
const LISTS: &str = "src/base/codes.rs";

/// Functions with a code among their arguments, and the index of that argument.
const FUNCTIONS: &[(&str, usize)] = &[
    ("FieldError::new(", 1),
    ("Error::invalid(", 1),
    ("Problem::new(", 1),
    ("Self::new(StatusCode", 1),
    ("too_many(", 0),
    ("canned(", 2),
];

/// The source code without comments and unit tests, in one line.
fn text(file: &Path) -> String {
    let lines: Vec<String> = code(file).into_iter().map(|(_, line)| line.trim().to_owned()).collect();
    let text = lines.join(" ");
    text.split("#[cfg(test)] mod tests {").next().unwrap().to_owned()
}

/// The text literal with which an argument begins, if it can be a code.
fn literal(argument: &str) -> Option<&str> {
    let (word, _) = argument.trim_start().strip_prefix('"')?.split_once('"')?;
    let is_code = !word.is_empty() && word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    is_code.then_some(word)
}

/// The arguments of a call, from the text after its opening parenthesis.
fn arguments(rest: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found, mut quoted) = (0, 0, Vec::new(), false);
    let mut before = ' ';
    for (index, character) in rest.char_indices() {
        if character == '"' && before != '\\' {
            quoted = !quoted;
        }
        before = character;
        if quoted {
            continue;
        }
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => {
                found.push(&rest[start..index]);
                break;
            }
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&rest[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    found
}

#[test]
fn every_code_is_in_the_lists() {
    let problems: BTreeSet<&str> = PROBLEM_CODES.iter().flat_map(|(_, codes)| *codes).copied().collect();
    let known: BTreeSet<&str> = problems.iter().chain(FIELD_CODES).copied().collect();
    let mut wrong = Vec::new();
    let mut words = BTreeSet::new();
    for file in sources("src").into_iter().filter(|file| file != Path::new(LISTS)) {
        let text = text(&file);
        let fields = text.split("code: ").skip(1).filter_map(literal);
        let calls = FUNCTIONS.iter().flat_map(|(function, index)| {
            // `Self::new(StatusCode` has the beginning of the first argument.
            text.split(function).skip(1).filter_map(|rest| literal(arguments(rest).get(*index)?))
        });
        for code in fields.chain(calls).filter(|code| !known.contains(code)) {
            wrong.push(format!("{}: {code} is not in {LISTS}", file.display()));
        }
        words.extend(text.split('"').map(str::to_owned));
    }
    wrong.extend(
        known.iter().filter(|code| !words.contains(**code)).map(|code| format!("nothing uses the code {code}")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
