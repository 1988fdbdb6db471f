//! What the compiler does not check of the house rules: import directions, names that belong to one place, file lengths.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a source file.
const MAX_LINES: usize = 600;

/// Each floor with the floors that it must not name.
const FORBIDDEN_IMPORTS: &[(&str, &[&str])] = &[
    ("src/store", &["crate::domain", "crate::http", "crate::cli", "crate::config", "crate::app", "crate::mail"]),
    ("src/mail.rs", &["crate::domain", "crate::http", "crate::cli", "crate::config", "crate::app", "crate::store"]),
    ("src/domain", &["crate::http", "crate::cli", "crate::config", "axum", "hyper", "http::"]),
    ("src/http", &["crate::cli", "crate::config", "crate::store", "crate::mail"]),
    ("src/app.rs", &["crate::http", "crate::cli", "crate::config"]),
    ("src/ids.rs", &["crate::"]),
    ("src/time.rs", &["crate::"]),
    ("src/text.rs", &["crate::"]),
    ("src/error.rs", &["crate::"]),
    ("src/metrics.rs", &["crate::"]),
];

/// Names that stand in one place alone.
const HOMES: &[(&str, &str)] =
    &[("rusqlite", "src/store/sqlite/"), ("tokio_postgres", "src/store/postgres/"), ("lettre", "src/mail.rs")];

fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from(folder)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The file's code lines with their numbers: comments may name anything.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.to_owned()));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//")).collect()
}

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (floor, forbidden) in FORBIDDEN_IMPORTS {
        let files = sources(floor);
        assert!(!files.is_empty(), "{floor} is gone");
        for file in files {
            for (number, line) in code(&file) {
                if let Some(name) = forbidden.iter().find(|name| line.contains(**name)) {
                    wrong.push(format!("{}:{number} names {name}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn drivers_are_named_at_home_alone() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        for (name, home) in HOMES.iter().filter(|(_, home)| !file.starts_with(home)) {
            let named = code(&file).into_iter().filter(|(_, line)| line.contains(name));
            wrong.extend(
                named.map(|(number, _)| format!("{}:{number} names {name}, which belongs into {home}", file.display())),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_stay_short() {
    let long: Vec<String> = ["src", "tests", "bench"]
        .into_iter()
        .flat_map(sources)
        .filter_map(|file| {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            (lines > MAX_LINES).then(|| format!("{} has {lines} lines", file.display()))
        })
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<String> = ["src", "tests", "bench"]
        .into_iter()
        .flat_map(sources)
        .filter(|file| !fs::read_to_string(file).unwrap().starts_with("//!"))
        .map(|file| file.display().to_string())
        .collect();
    assert!(silent.is_empty(), "no module header: {}", silent.join(", "));
}

#[test]
fn a_noun_has_the_same_file_name_on_every_floor() {
    for noun in ["users", "messages"] {
        for floor in ["src/store", "src/domain", "src/http/routes", "tests/api"] {
            assert!(Path::new(floor).join(format!("{noun}.rs")).is_file(), "{floor}/{noun}.rs");
        }
    }
}

#[test]
fn a_copy_knows_every_table() {
    let copy = fs::read_to_string("src/store/copy.rs").unwrap();
    let mut tables = 0;
    for migration in fs::read_dir("migrations").unwrap().map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&migration).unwrap();
        for name in text.split("CREATE TABLE messaging.").skip(1).map(|rest| rest.split([' ', '(']).next().unwrap()) {
            tables += 1;
            assert!(copy.contains(&format!("\"{name}\"")), "{}: {name} is left out of backups", migration.display());
        }
    }
    assert!(tables >= 8, "{tables}");
}
