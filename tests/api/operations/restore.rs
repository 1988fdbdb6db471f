//! Backup and restore while a server runs, and from one kind of database to the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::operations::{posthaste, text};
use crate::both;
use crate::messages::messages::assert_dense;
use crate::support::people::post;
use crate::support::place::Kind;
use crate::support::process::Process;
use crate::support::{Options, Place, Server, answer_of};

both!(a_backup_is_restored_with_everything, async |place| {
    let server = Server::start(place).await;
    for number in 0..50 {
        server.send("bugs", "duck", &format!("it's № {number}")).await;
    }
    let keyed = server.request(Method::POST, "/api/messages").header("idempotency-key", "kept");
    let hey = serde_json::json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": "keyed"});
    let first = answer_of(keyed.json(&hey)).await;
    let before = server.all("/api/messages/duck").await;
    let users = server.all("/api/users").await;
    let epoch = database_epoch(place).await;

    let file = place.folder.path().join("backup file");
    let file = file.to_str().unwrap();
    let backed_up = posthaste(place, &["backup", file]);
    assert!(backed_up.status.success(), "{}", text(&backed_up));
    let again = posthaste(place, &["backup", file]);
    assert!(!again.status.success() && text(&again).contains("exists already"), "{}", text(&again));

    // The server runs during the restore. After it the server shows the contents of the backup.
    server.send("bugs", "duck", "after the backup").await;
    server.send("porky", "rdibari", "a new conversation").await;
    let restored = posthaste(place, &["restore", "--yes", file]);
    assert!(restored.status.success(), "{}", text(&restored));
    assert!(text(&restored).contains("is kept as"), "{}", text(&restored));
    assert_eq!(server.all("/api/messages/duck").await, before);
    assert_eq!(server.all("/api/users").await, users);
    assert_eq!(server.all("/api/messages/rdibari?with=porky").await, Vec::<Value>::new());
    assert_ne!(database_epoch(place).await, epoch);
    let keyed = server.request(Method::POST, "/api/messages").header("idempotency-key", "kept");
    assert_eq!(answer_of(keyed.json(&hey)).await.bytes, first.bytes);
    let sent = server.send("bugs", "duck", "after the restore").await;
    assert_eq!(sent["seq"], 52);
    server.send("porky", "rdibari", "a new conversation again").await;
    server.add_user("newcomer", "", "").await;
    assert_dense(place).await;
});

both!(a_restore_asks_before_it_replaces_data, async |place| {
    let process = Process::start(place).await;
    let file = place.folder.path().join("backup");
    assert!(posthaste(place, &["backup", file.to_str().unwrap()]).status.success());
    let messages = "SELECT count(*) FROM messaging.messages";
    let before = place.numbers(messages).await;
    // Nobody is there to answer a question, so nothing is replaced.
    let refused = posthaste(place, &["restore", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused);
    assert!(said.contains("4 users and 2 conversations") && said.contains("Add --yes"), "{said}");
    assert_eq!(place.numbers(messages).await, before);
    let epoch = database_epoch(place).await;

    let restored = posthaste(place, &["restore", file.to_str().unwrap(), "--yes"]);
    assert!(restored.status.success(), "{}", text(&restored));
    assert_ne!(database_epoch(place).await, epoch);
    // The server beside it says so in its log.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !process.log().contains("all data of this server was replaced by a restore") {
        assert!(Instant::now() < deadline, "{}", process.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    process.terminate().await;

    // A database without users has nothing to lose.
    let other = Place::new(place.kind).await;
    Server::start_with(&other, Options { demo: false, ..Options::default() }).await.stop().await;
    let restored = posthaste(&other, &["restore", file.to_str().unwrap()]);
    assert!(restored.status.success(), "{}", text(&restored));
    let refused = posthaste(&other, &["restore", file.to_str().unwrap()]);
    assert!(text(&refused).contains("Add --yes"), "{}", text(&refused));
    other.remove().await;
});

async fn database_epoch(place: &Place) -> i64 {
    let digits = match place.kind {
        Kind::Sqlite => {
            "SELECT unicode(epoch) * 1000000 + unicode(substr(epoch, 2)) * 1000 + unicode(substr(epoch, 3)) FROM event_log"
        }
        Kind::Postgres => "SELECT hashtext(epoch)::bigint FROM messaging.event_log",
    };
    place.numbers(digits).await[0][0]
}

both!(a_backup_goes_into_the_other_database, async |place| {
    let server = Server::start(place).await;
    server.send("bugs", "duck", "it's 'quoted' 👍").await;
    let messages = server.all("/api/messages/duck").await;
    let users = server.all("/api/users").await;
    let file = place.folder.path().join("backup");
    assert!(posthaste(place, &["backup", file.to_str().unwrap()]).status.success());

    let other = Place::new(if place.kind == Kind::Sqlite { Kind::Postgres } else { Kind::Sqlite }).await;
    let restored = posthaste(&other, &["restore", "--yes", file.to_str().unwrap()]);
    assert!(restored.status.success(), "{}", text(&restored));
    let server = Server::start(&other).await;
    assert_eq!(server.all("/api/messages/duck").await, messages);
    assert_eq!(server.all("/api/users").await, users);
    // The next ids are far away from those that the first database may have assigned after the backup.
    assert!(server.send("bugs", "duck", "on").await["id"].as_i64().unwrap() > 1_000_000_000);
    server.send("bugs", "rdibari", "on").await;
    server.send("bugs", "porky", "on").await;
    assert_dense(&other).await;
    other.remove().await;
});

both!(files_that_are_no_backups_are_not_restored, async |place| {
    let server = Server::start(place).await;
    let before = server.all("/api/messages/bugs").await;
    let file = place.folder.path().join("not a backup");
    let restore = || posthaste(place, &["restore", "--yes", file.to_str().unwrap()]);
    assert!(text(&restore()).contains("does not exist"));
    std::fs::write(&file, "SQLite format 3\0 and then nothing of it").unwrap();
    let refused = restore();
    assert!(!refused.status.success() && text(&refused).contains("cannot be used as a backup"), "{}", text(&refused));
    std::fs::remove_file(&file).unwrap();
    rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(text(&restore()).contains("no schema version"));
    assert_eq!(server.all("/api/messages/bugs").await, before);
});

both!(nothing_that_was_acknowledged_during_a_restore_is_lost, async |place| {
    let server = Server::start(place).await;
    let file = place.folder.path().join("backup");
    assert!(posthaste(place, &["backup", file.to_str().unwrap()]).status.success());
    let (begun, ended) = (Notify::new(), AtomicBool::new(false));
    let sending = async {
        let mut acknowledged = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            let body = format!("during {}", acknowledged.len());
            let message = serde_json::json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": body});
            let answer = server.post("/api/messages", &message).await;
            if answer.status == 201 {
                acknowledged.push(body);
            }
            // Lets the restore begin after three sends. How many sends are accepted during the restore depends on the machine.
            if acknowledged.len() == 3 {
                begun.notify_one();
            }
        }
        acknowledged
    };
    let restoring = async {
        begun.notified().await;
        let (url, folder, file) = (place.url(), place.folder.path().to_owned(), file.clone());
        let restored = tokio::task::spawn_blocking(move || {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_posthaste"));
            command
                .args(["restore", "--yes"])
                .arg(file)
                .env("POSTHASTE_DATABASE_URL", url)
                .env("POSTHASTE_DATA_DIR", folder);
            command.output().unwrap()
        });
        let restored = restored.await.unwrap();
        ended.store(true, Ordering::Relaxed);
        assert!(restored.status.success(), "{}", text(&restored));
        text(&restored)
    };
    let (acknowledged, output) = tokio::join!(sending, restoring);
    let kept = output.split("is kept as ").nth(1).unwrap().split(": remove").next().unwrap();
    let mut found =
        server.all("/api/messages/duck").await.iter().map(|message| message["body"].clone()).collect::<Vec<_>>();
    match place.kind {
        Kind::Sqlite => {
            let connection = rusqlite::Connection::open(kept).unwrap();
            let mut statement = connection.prepare("SELECT body FROM messages").unwrap();
            let bodies = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
            found.extend(bodies.map(|body| Value::from(body.unwrap())));
        }
        Kind::Postgres => {
            let schema = kept.strip_prefix("schema ").unwrap();
            let rows = place.postgres().await.query(&format!("SELECT body FROM {schema}.messages"), &[]).await.unwrap();
            found.extend(rows.iter().map(|row| Value::from(row.get::<_, String>(0))));
        }
    }
    for body in acknowledged {
        assert!(found.contains(&Value::from(body.as_str())), "{body} is lost");
    }
    assert_dense(place).await;
});

both!(a_backup_is_one_file_that_only_its_owner_can_read, async |place| {
    use std::os::unix::fs::PermissionsExt;
    drop(Server::start(place).await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup");
    assert!(posthaste(place, &["backup", file.to_str().unwrap()]).status.success());
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["backup"]);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
});

/// Creates one of each thing whose id clients keep. Returns the ids, with names.
async fn create_one_of_each(server: &Server, name: &str) -> Vec<(&'static str, i64)> {
    let id = |value: &Value| value["id"].as_i64().unwrap_or_else(|| panic!("{value}"));
    let user = server.post("/api/users", &json!({"user_name": name})).await.json();
    let message = server.send("bugs", name, "hey").await;
    let group = json!({"kind": "group", "title": name});
    let group = post(server, "bugs", "/api/conversations", group).await.json();
    let path = format!("/api/conversations/{}", group["id"]);
    let invite = post(server, "bugs", &format!("{path}/invites"), json!({})).await.json();
    let hook = post(server, "bugs", &format!("{path}/incoming-webhooks"), json!({"name": "CI"})).await.json();
    let key = server.post("/api/api-keys", &json!({"name": name, "scopes": ["read"]})).await.json();
    let webhook = json!({"url": "https://example.com/hook", "enabled": false});
    let webhook = server.post("/api/webhooks", &webhook).await.json();
    vec![
        ("user", id(&user)),
        ("message", id(&message)),
        ("direct conversation", message["conversation_id"].as_i64().unwrap()),
        ("group", id(&group)),
        ("invite", id(&invite)),
        ("incoming webhook", id(&hook)),
        ("API key", id(&key)),
        ("webhook", id(&webhook)),
    ]
}

both!(ids_of_the_lost_time_are_not_given_again, async |place| {
    let server = Server::start(place).await;
    let file = place.folder.path().join("backup");
    let file = file.to_str().unwrap();
    assert!(posthaste(place, &["backup", file]).status.success());
    let mut known: Vec<Vec<(&str, i64)>> = Vec::new();
    let mut server = server;
    for round in 0..3 {
        let name = format!("newcomer{round}");
        let made = create_one_of_each(&server, &name).await;
        for earlier in &known {
            for ((what, id), (_, other)) in made.iter().zip(earlier) {
                assert_ne!(id, other, "{what} in round {round}");
                assert!(*id < 1 << 53, "{what}: {id}");
            }
        }
        known.push(made);
        server.stop().await;
        // The name under which the replaced data are kept has the second of the restore.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let restored = posthaste(place, &["restore", "--yes", file]);
        assert!(restored.status.success(), "{}", text(&restored));
        server = Server::start(place).await;
    }
    // The backup itself has not changed.
    let other = Place::new(Kind::Sqlite).await;
    assert!(posthaste(&other, &["restore", "--yes", file]).status.success());
    assert_eq!(
        other.numbers("SELECT max(id) FROM messages").await,
        place.numbers("SELECT max(id) FROM messaging.messages").await
    );
    other.remove().await;
});

both!(a_place_in_the_lost_time_has_a_clear_answer, async |place| {
    let server = Server::start(place).await;
    let first = server.send("bugs", "duck", "before the backup").await;
    let file = place.folder.path().join("backup");
    let file = file.to_str().unwrap();
    assert!(posthaste(place, &["backup", file]).status.success());
    let lost = server.send("bugs", "duck", "lost").await;
    let cursor = server.get("/api/events").await.json()["cursor"].as_str().unwrap().to_owned();
    let restored = posthaste(place, &["restore", "--yes", file]);
    assert!(restored.status.success(), "{}", text(&restored));
    server.get(&format!("/api/events?after={cursor}")).await.problem(410, "cursor_expired");
    let history = format!("/api/conversations/{}/messages", first["conversation_id"]);
    server.get(&format!("{history}?after={}", lost["seq"])).await.problem(410, "cursor_expired");
    assert_eq!(server.get(&format!("{history}?after={}", first["seq"])).await.json(), Value::Array(Vec::new()));
    // The next message has the seq of the lost one, and another id.
    let next = server.send("bugs", "duck", "after the restore").await;
    assert_eq!(next["seq"], lost["seq"]);
    assert_ne!(next["id"], lost["id"]);
    server.get(&format!("/api/events?after={cursor}")).await.problem(410, "cursor_expired");
});

/// Tables whose rows are not copied, because they are built again or copied in another form.
const NOT_COPIED: &[&str] = &["search_entries", "messaging_sequence"];

/// All tables that the migrations create.
pub fn tables() -> Vec<String> {
    let mut tables = Vec::new();
    for migration in std::fs::read_dir("migrations").unwrap().map(|entry| entry.unwrap().path()) {
        let text = std::fs::read_to_string(&migration).unwrap();
        let names = text.split("CREATE TABLE messaging.").skip(1).map(|rest| rest.split([' ', '(']).next().unwrap());
        tables.extend(names.filter(|name| !NOT_COPIED.contains(name)).map(str::to_owned));
    }
    tables.sort();
    assert!(tables.len() >= 36, "{tables:?}");
    tables
}

/// Inserts a row with a value in each required column. `given` holds the values of some columns.
pub async fn put_row(place: &Place, schema: &rusqlite::Connection, table: &str, given: &[(&str, &str)]) {
    let mut columns =
        schema.prepare("SELECT name, type FROM pragma_table_info(?1) WHERE \"notnull\" OR pk > 0").unwrap();
    let columns = columns.query_map([table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
    let (names, values): (Vec<String>, Vec<&str>) = columns
        .map(Result::unwrap)
        .map(|(name, kind)| {
            if let Some((_, value)) = given.iter().find(|(column, _)| *column == name) {
                return (name, *value);
            }
            let value = match (&*kind, place.kind) {
                ("BIGINT" | "INTEGER", _) => "9001",
                ("TEXT", _) => "'word'",
                ("BOOLEAN", _) => "TRUE",
                ("BYTEA", Kind::Sqlite) => "x'0102'",
                ("BYTEA", Kind::Postgres) => "'\\x0102'",
                ("TIMESTAMPTZ", Kind::Sqlite) => "1790000000000000",
                ("TIMESTAMPTZ", Kind::Postgres) => "'2026-09-21T00:00:00Z'",
                _ => panic!("{table}.{name} has the type {kind}"),
            };
            (name, value)
        })
        .unzip();
    place.sql(&format!("INSERT INTO messaging.{table} ({}) VALUES ({})", names.join(", "), values.join(", "))).await;
}

async fn counts(place: &Place) -> Vec<(String, i64)> {
    let mut counts = Vec::new();
    for table in tables() {
        let count = place.numbers(&format!("SELECT count(*) FROM messaging.{table}")).await[0][0];
        counts.push((table, count));
    }
    counts
}

both!(a_backup_holds_the_rows_of_every_table, async |place| {
    Server::start(place).await.stop().await;
    let described = Place::new(Kind::Sqlite).await;
    Server::start(&described).await.stop().await;
    let schema = rusqlite::Connection::open(described.sqlite_file()).unwrap();
    for (table, _) in counts(place).await.into_iter().filter(|(_, count)| *count == 0) {
        put_row(place, &schema, &table, &[]).await;
    }
    let rows = counts(place).await;
    assert!(rows.iter().all(|(_, count)| *count > 0), "{rows:?}");
    let file = place.folder.path().join("backup");
    let backed_up = posthaste(place, &["backup", file.to_str().unwrap()]);
    assert!(backed_up.status.success(), "{}", text(&backed_up));
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let other = Place::new(kind).await;
        let restored = posthaste(&other, &["restore", "--yes", file.to_str().unwrap()]);
        assert!(restored.status.success(), "{}", text(&restored));
        assert_eq!(counts(&other).await, rows, "{kind:?}");
        other.remove().await;
    }
});

both!(tables_of_other_programs_in_a_backup_are_left_alone, async |place| {
    let source = Place::new(Kind::Sqlite).await;
    let server = Server::start(&source).await;
    server.send("bugs", "duck", "kept").await;
    let messages = server.all("/api/messages/duck").await;
    source.sql("CREATE TABLE _theirs (x)").await;
    source.sql("INSERT INTO _theirs VALUES (1)").await;
    let file = source.folder.path().join("backup");
    let backed_up = posthaste(&source, &["backup", file.to_str().unwrap()]);
    assert!(backed_up.status.success(), "{}", text(&backed_up));

    let server = Server::start(place).await;
    let restored = posthaste(place, &["restore", "--yes", file.to_str().unwrap()]);
    assert!(restored.status.success(), "{}", text(&restored));
    assert_eq!(server.all("/api/messages/duck").await, messages);
    source.remove().await;
});
