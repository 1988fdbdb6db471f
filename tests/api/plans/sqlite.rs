//! `EXPLAIN QUERY PLAN` over the server's own connection. So its driver rewrites the statements, as it does all statements.

use std::collections::{BTreeMap, BTreeSet};

use posthaste::store::db::Conn;

use super::statements::Statement;
use super::{Explained, Scan};
use crate::support::Server;

/// Words that may follow the name of a table and are not its alias.
const NO_ALIAS: &[&str] = &[
    "cross",
    "default",
    "do",
    "group",
    "inner",
    "join",
    "left",
    "limit",
    "natural",
    "not",
    "on",
    "order",
    "outer",
    "returning",
    "right",
    "select",
    "set",
    "union",
    "using",
    "values",
    "where",
];

pub async fn explain(server: &Server, statements: &[Statement]) -> Vec<Explained> {
    // The driver accepts only texts that live as long as the process, so the texts are leaked.
    let texts: Vec<&'static str> =
        statements.iter().map(|one| &*String::leak(format!("EXPLAIN QUERY PLAN {}", one.text))).collect();
    let (tables, plans) = server
        .app
        .db
        .read(texts, |conn, texts| Box::pin(async move { Ok((tables(conn).await?, plans(conn, texts).await)) }))
        .await
        .unwrap();
    let scans = |(statement, plan): (&Statement, Result<Vec<String>, String>)| {
        let names = names(&statement.text, &tables);
        plan.map(|steps| steps.iter().flat_map(|step| scans(step, &names)).collect())
    };
    statements.iter().zip(plans).map(scans).collect()
}

async fn tables(conn: &mut Conn) -> posthaste::base::error::Result<BTreeSet<String>> {
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table'";
    Ok(conn.rows(sql, &[], |row| row.text(0).map(str::to_owned)).await?.into_iter().collect())
}

async fn plans(conn: &mut Conn, texts: &[&'static str]) -> Vec<Result<Vec<String>, String>> {
    let mut plans = Vec::new();
    for text in texts {
        let steps = conn.rows(text, &[], |row| row.text(3).map(str::to_owned)).await;
        plans.push(steps.map_err(|error| format!("{error:?}")));
    }
    plans
}

/// The tables that a statement names, by name and by alias, because a plan shows only the alias. If several subqueries use the
/// same alias for different tables, the alias stands for all of these tables.
fn names(text: &str, tables: &BTreeSet<String>) -> BTreeMap<String, BTreeSet<String>> {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut words = Vec::new();
    let mut word = String::new();
    for letter in text.replace("messaging.", "").chars().chain([' ']) {
        if letter.is_alphanumeric() || letter == '_' {
            word.push(letter);
            continue;
        }
        if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if !letter.is_whitespace() {
            words.push(letter.to_string());
        }
    }
    for (at, table) in words.iter().enumerate().filter(|(_, word)| tables.contains(*word)) {
        names.entry(table.clone()).or_default().insert(table.clone());
        let mut next = words[at + 1..].iter().skip_while(|word| word.eq_ignore_ascii_case("as"));
        let alias = next.next().filter(|word| word.starts_with(|letter: char| letter.is_alphabetic()));
        if let Some(alias) = alias.filter(|word| !NO_ALIAS.contains(&word.to_ascii_lowercase().as_str())) {
            names.entry(alias.clone()).or_default().insert(table.clone());
        }
    }
    names
}

/// The tables that a step of a plan reads completely. A scan of an index counts as a scan of the table. Only a LIMIT could end
/// it early, and not if a filter lets hardly any row pass.
fn scans(step: &str, names: &BTreeMap<String, BTreeSet<String>>) -> Vec<Scan> {
    let mut words = step.split_whitespace();
    let (Some(verb @ ("SCAN" | "SEARCH")), Some(name)) = (words.next(), words.next()) else {
        return Vec::new();
    };
    let bounded = match step.split_once(" VIRTUAL TABLE INDEX ") {
        // A full-text search is bounded if it looks up terms (M) or a row number (=).
        Some((_, plan)) => plan.split_once(':').is_some_and(|(_, plan)| plan.contains(['M', '='])),
        // SQLite builds an AUTOMATIC index for one statement by reading the whole table. With `ANY` it tries every value of the
        // first column.
        None => verb == "SEARCH" && !step.contains(" AUTOMATIC ") && !step.contains("(ANY("),
    };
    if bounded {
        return Vec::new();
    }
    let tables = names.get(name).into_iter().flatten();
    tables.map(|table| Scan { table: table.clone(), how: step.to_owned() }).collect()
}
