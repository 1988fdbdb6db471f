//! Statements that undo a version of the schema, derived from the text of its migration: they drop what it created.
//!
//! Rows that a migration changed stay as they are. The versions up to 5 created the first schema and are never undone. The load
//! generator (`bench/data.rs`) contains this file too.

/// The first version that can be undone.
const FIRST: i64 = 6;

/// The statements that drop what a version created, in reverse order. `database` is `sqlite` or `postgres`.
pub fn undo(version: i64, database: &str) -> String {
    assert!(version >= FIRST, "version {version} is part of the first schema");
    let suffix = format!(".{database}.sql");
    let mut text = String::new();
    for path in std::fs::read_dir("migrations").unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_common = name.matches('.').count() == 1;
        if name.starts_with(&format!("{version:04}_")) && (is_common || name.ends_with(&suffix)) {
            // The file for both databases runs before the file for one of them.
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
        // Changes of rows and of the settings of an index are not undone.
        [] | ["INSERT" | "UPDATE" | "DELETE", ..] | ["ALTER", "INDEX", ..] => None,
        _ => panic!("add here how this is undone: {statement}"),
    }
}
