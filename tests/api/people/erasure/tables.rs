//! Rows about an erased user or a deleted message are deleted in every table of the schema, also in new tables.

use super::erase;
use crate::both;
use crate::operations::restore::{put_row, tables};
use crate::support::people::delete;
use crate::support::place::Kind;
use crate::support::{Place, Server};

/// Tables that keep rows with the `user_id` of an erased user.
const KEPT_OF_USERS: &[(&str, &str)] = &[
    ("erased_people", "the id, and a hash of the name: neither is given again"),
    ("members", "a direct conversation keeps both of its people"),
    ("revocations", "the erasure itself, for servers that remember the person's credentials"),
];

/// Tables that keep rows with the conversation and the seq of a deleted message.
const KEPT_OF_MESSAGES: &[(&str, &str)] = &[
    ("events", "the log, which holds no content"),
    ("messages", "the tombstone"),
    ("receipts", "how far a member has read, which is not about one message"),
    ("reports", "administrators decide about them all the same"),
    ("uncounted_messages", "a running count of system messages, without content"),
];

/// The tables that have all of some columns.
fn tables_with(schema: &rusqlite::Connection, columns: &[&str]) -> Vec<String> {
    let mut column = schema.prepare("SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2").unwrap();
    let mut has = |table: &str, name: &str| column.exists([table, name]).unwrap();
    tables().into_iter().filter(|table| columns.iter().all(|name| has(table, name))).collect()
}

/// Which of the tables have rows that fulfil a condition.
async fn with_rows(place: &Place, tables: &[String], condition: &str) -> Vec<String> {
    let mut found = Vec::new();
    for table in tables {
        let count = place.numbers(&format!("SELECT count(*) FROM messaging.{table} WHERE {condition}")).await;
        found.extend((count != [[0]]).then(|| table.clone()));
    }
    found
}

both!(no_table_keeps_rows_of_an_erased_user, async |place| {
    let described = Place::new(Kind::Sqlite).await;
    Server::start(&described).await.stop().await;
    let schema = rusqlite::Connection::open(described.sqlite_file()).unwrap();
    let server = Server::start(place).await;
    let mut tables = tables_with(&schema, &["user_id"]);
    let kept: Vec<String> = KEPT_OF_USERS.iter().map(|(table, _)| (*table).to_owned()).collect();
    for table in tables.iter().filter(|table| !kept.contains(table) && *table != "erasures") {
        if with_rows(place, std::slice::from_ref(table), "user_id = 2").await.is_empty() {
            put_row(place, &schema, table, &[("user_id", "2"), ("conversation_id", "1"), ("seq", "1")]).await;
        }
    }
    assert_eq!(erase(&server, "/api/users/bugs").await.status, 204);
    let left = with_rows(place, &tables, "user_id = 2").await;
    assert_eq!(left, kept, "tables with rows of the erased user");
    tables.retain(|table| !kept.contains(table));
    assert!(tables.len() > 10, "{tables:?}");
});

both!(no_table_keeps_rows_of_a_deleted_message, async |place| {
    let described = Place::new(Kind::Sqlite).await;
    Server::start(&described).await.stop().await;
    let schema = rusqlite::Connection::open(described.sqlite_file()).unwrap();
    let server = Server::start(place).await;
    let mut tables = tables_with(&schema, &["conversation_id", "seq"]);
    for (kept, _) in KEPT_OF_MESSAGES {
        assert!(tables.iter().any(|table| table == kept), "{kept}");
        tables.retain(|table| table != kept);
    }
    for table in &tables {
        put_row(place, &schema, table, &[("conversation_id", "1"), ("seq", "1")]).await;
    }
    let condition = "conversation_id = 1 AND seq = 1";
    assert_eq!(with_rows(place, &tables, condition).await, tables);
    assert!(tables.len() > 2, "{tables:?}");
    assert_eq!(delete(&server, "rdibari", "/api/conversations/1/messages/1").await.status, 204);
    assert_eq!(with_rows(place, &tables, condition).await, Vec::<String>::new());
});
