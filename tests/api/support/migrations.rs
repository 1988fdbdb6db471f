//! What takes a version of the schema back, derived from the text of its migration: what it made is dropped.
//!
//! Rows that a migration changed stay as they are. The versions up to 5 made the schema, and are never taken back.

use super::place::Kind;

/// The first version that can be taken back.
const FIRST: i64 = 6;

/// The statements that drop what a version made, the last one first.
pub fn undo(version: i64, kind: Kind) -> String {
    assert!(version >= FIRST, "version {version} is part of the first schema");
    let suffix = if kind == Kind::Sqlite { ".sqlite.sql" } else { ".postgres.sql" };
    let mut text = String::new();
    for path in std::fs::read_dir("migrations").unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_common = name.matches('.').count() == 1;
        if name.starts_with(&format!("{version:04}_")) && (is_common || name.ends_with(suffix)) {
            // The common text runs first.
            let part = std::fs::read_to_string(&path).unwrap();
            text = if is_common { part + &text } else { text + &part };
        }
    }
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    let drops: Vec<String> = code.join("\n").split(';').filter_map(undo_statement).collect();
    drops.into_iter().rev().collect()
}

fn undo_statement(statement: &str) -> Option<String> {
    let words: Vec<&str> = statement.split([' ', '\n', '(']).filter(|word| !word.is_empty()).collect();
    match words[..] {
        ["CREATE", "TABLE", table, ..] | ["CREATE", "VIRTUAL", "TABLE", table, ..] => {
            Some(format!("DROP TABLE {table};"))
        }
        ["CREATE", "INDEX", name, ..] | ["CREATE", "UNIQUE", "INDEX", name, ..] => {
            Some(format!("DROP INDEX messaging.{name};"))
        }
        ["ALTER", "TABLE", table, "ADD", "COLUMN", column, ..] => {
            Some(format!("ALTER TABLE {table} DROP COLUMN {column};"))
        }
        // Rows, and settings of an index.
        [] | ["INSERT" | "UPDATE", ..] | ["ALTER", "INDEX", ..] => None,
        _ => panic!("say here how this is taken back: {statement}"),
    }
}
