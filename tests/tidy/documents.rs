//! Everything to which Markdown files refer must exist: files and headings in links, and paths of the repository in the text.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders at the root of the repository. A word in code quotes that begins with one of them counts as a path.
const ROOTS: &[&str] = &[
    "src/",
    "tests/",
    "bench/",
    "docs/",
    "scripts/",
    "migrations/",
    "packaging/",
    ".ci/",
    "clients/",
    "web/",
    "examples/",
];

/// Parts of paths that the reader replaces by a name.
const PLACEHOLDERS: &[&str] = &["AREA", "NNNN", "NAME"];

fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in [".", "docs", "docs/decisions"] {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        found.extend(files.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    found.sort();
    assert!(found.len() > 20, "the documents were not found");
    found
}

/// The text without its fenced blocks, with numbers of lines.
fn prose(document: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(document).unwrap();
    let mut fenced = false;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((index + 1, line.to_owned()));
        }
    }
    lines
}

/// The anchors of a document's headings, as web sites that show Markdown generate them.
fn anchors(document: &Path) -> HashSet<String> {
    let headings = prose(document).into_iter().filter(|(_, line)| line.starts_with('#'));
    headings.map(|(_, line)| anchor(line.trim_start_matches('#').trim())).collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The targets of the links in a line: the text in parentheses after a closing bracket.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

/// Words in code quotes.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for document in documents() {
        let folder = document.parent().unwrap();
        for (number, line) in prose(&document) {
            for target in links(&line).filter(|target| !target.contains("://") && !target.starts_with("mailto:")) {
                let (file, heading) = target.split_once('#').map_or((target, None), |(file, name)| (file, Some(name)));
                let path = if file.is_empty() { document.clone() } else { folder.join(file) };
                let leads = path.exists() && heading.is_none_or(|heading| anchors(&path).contains(heading));
                if !leads {
                    wrong.push(format!("{}:{number} links to {target}", document.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn paths_in_documents_exist() {
    let mut wrong = Vec::new();
    for document in documents() {
        for (number, line) in prose(&document) {
            for word in quoted(&line).filter(|word| ROOTS.iter().any(|root| word.starts_with(root))) {
                // `src/a.rs::name` names an item in a file. A word with a list of alternatives, or a command, names several
                // things.
                let path = word.split("::").next().unwrap_or(word).split(' ').next().unwrap_or(word);
                let is_pattern =
                    path.contains(['{', '*', '<', '…']) || PLACEHOLDERS.iter().any(|word| path.contains(word));
                let is_written_later = path.starts_with("bench/results/");
                if !is_pattern && !is_written_later && !Path::new(path).exists() {
                    wrong.push(format!("{}:{number} names {word}", document.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn anchors_are_made_as_on_the_web() {
    assert_eq!(anchor("`GET /api/users`"), "get-apiusers");
    assert_eq!(anchor("Files, emoji, GIFs"), "files-emoji-gifs");
}
