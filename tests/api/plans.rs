//! No query reads all rows of a table that grows. The test runs EXPLAIN for every statement of `src/store/` on both databases,
//! in the form in which the driver sends the statement. Allowed scans are listed below with their reasons.

mod postgres;
mod sqlite;
mod statements;

use std::path::Path;

use crate::both;
use crate::support::place::Kind;
use crate::support::{Place, Server};
use statements::Statement;

/// If the test finds fewer statements than this, it has missed some.
const MIN_STATEMENTS: usize = 180;

/// Files whose statements are not explained.
const FILES_LEFT_OUT: &[(&str, &str)] = &[
    (
        "db/copy.rs",
        "a backup and a restore read everything, in steps of the primary key; their texts are built at run time",
    ),
    ("db/migrations.rs", "runs once for each version, on the seed's tables and the system catalogue"),
    ("sqlite/file.rs", "copies whole files, for backup and restore"),
    ("sqlite/scrub.rs", "reads pages of the file by number"),
];

/// Parts of a text that show that a statement is for one database only, each with the reason.
const DIALECT: &[(Kind, &str, &str)] = &[
    (Kind::Postgres, "unnest(", "many rows in one statement, because a round trip costs as much as the rows"),
    (Kind::Postgres, "::", "a cast"),
    (Kind::Postgres, "nextval(", "message ids come from a sequence"),
    (Kind::Postgres, "pg_prepared_statements", "a view of PostgreSQL, used to find poolers that confuse statements"),
    (Kind::Postgres, "pg_notify(", "wake-ups between servers on one database"),
    (Kind::Postgres, "gin_clean_pending_list(", "the full-text index of SQLite has no pending list"),
    (Kind::Sqlite, "rowid", "the number of a row in a table without an id"),
    (Kind::Sqlite, "messaging.messaging_sequence ", "message ids come from a table, because SQLite has no sequences"),
];

/// Statements for one database that the test recognizes neither by the code around them nor by [`DIALECT`]: the file, a part of
/// the text, the databases on which they are explained, and the reason.
const ONE_DATABASE: &[(&str, &str, &[Kind], &str)] = &[
    (
        "messages/search.rs",
        "search_entries WHERE id ",
        &[Kind::Postgres],
        "in the full-text table of SQLite the column is rowid",
    ),
    ("messages/search.rs", "SELECT total_changes()", &[Kind::Sqlite], "a function of SQLite"),
    ("messages/search.rs", "(search_entries, rank)", &[Kind::Sqlite], "a command to the full-text table of SQLite"),
    (
        "messages/search.rs",
        " FROM search_order ",
        &[],
        "a temporary table that a migration creates and reads by its key",
    ),
];

/// Tables that stay small on every server, and why.
const SMALL_TABLES: &[(&str, &str)] = &[
    ("event_log", "one row"),
    ("server_state", "one row"),
    ("messaging_sequence", "one row, which replaces a sequence on SQLite"),
    ("schema_migrations", "a row for each version of the schema"),
    ("blobs_id_seq", "a sequence, which has one row"),
    ("custom_emoji", "at most 10,000 rows"),
    ("gifs", "at most 5,000 rows"),
    ("webhooks", "at most twenty rows"),
    ("erasures", "a row for each erasure in progress"),
    ("presence_servers", "a row for each server that ran in the last minutes"),
];

/// A scan that is allowed: the file, a part of the statement, the tables, and the databases.
struct AllowedScan {
    file: &'static str,
    piece: &'static str,
    tables: &'static [&'static str],
    on: &'static [Kind],
    reason: &'static str,
}

const BOTH: &[Kind] = &[Kind::Sqlite, Kind::Postgres];

const ALLOWED_SCANS: &[AllowedScan] = &[
    AllowedScan {
        file: "operations/stats.rs",
        piece: "sum(last_seq)",
        tables: &["users", "api_keys", "conversations", "blobs"],
        on: BOTH,
        reason: "a page for administrators. It counts users, keys, conversations and files, never messages or events",
    },
    AllowedScan {
        file: "operations/health.rs",
        piece: "c.last_seq <> coalesce(",
        tables: &["conversations"],
        on: BOTH,
        reason: "only doctor runs it: every conversation, and one message of each by the primary key",
    },
    AllowedScan {
        file: "operations/health.rs",
        piece: "SELECT count(*) FROM messaging.conversations",
        tables: &["conversations"],
        on: BOTH,
        reason: "only doctor runs it; --deep also counts the messages of each by the primary key",
    },
    AllowedScan {
        file: "operations/health.rs",
        piece: "WHERE NOT EXISTS (SELECT 1 FROM messaging.conversations",
        tables: &["messages"],
        on: BOTH,
        reason: "only doctor --deep runs it: the conversation of every message",
    },
    AllowedScan {
        file: "operations/health.rs",
        piece: "HAVING m.reaction_counts IS NULL",
        tables: &["reactions"],
        on: BOTH,
        reason: "only doctor runs it: counts every reaction and reads its message by the primary key",
    },
    AllowedScan {
        file: "operations/health.rs",
        piece: "m.reaction_counts IS NOT NULL",
        tables: &["messages"],
        on: BOTH,
        reason: "only doctor runs it: the counts of every message",
    },
    AllowedScan {
        file: "files/blobs.rs",
        piece: "b.state = 'lost' THEN 1",
        tables: &["blobs"],
        on: BOTH,
        reason: "only doctor, a backup, and once in ten minutes the task that deletes files run it",
    },
    AllowedScan {
        file: "identity/users.rs",
        piece: "SELECT count(*) FROM messaging.users",
        tables: &["users"],
        on: BOTH,
        reason: "only doctor runs it",
    },
    AllowedScan {
        file: "identity/users.rs",
        piece: "SELECT id FROM messaging.users LIMIT 1",
        tables: &["users"],
        on: BOTH,
        reason: "ends at the first row",
    },
    AllowedScan {
        file: "messages/search.rs",
        piece: "search_entries_content ORDER BY id DESC LIMIT 1",
        tables: &["search_entries_content"],
        on: &[Kind::Sqlite],
        reason: "ends at the first row of the primary key",
    },
    AllowedScan {
        file: "messages/search.rs",
        piece: "search_entries ORDER BY id DESC LIMIT 1",
        tables: &["search_entries"],
        on: &[Kind::Postgres],
        reason: "ends at the first row of the primary key",
    },
    AllowedScan {
        file: "conversations/conversations.rs",
        piece: "WHERE deleted_at IS NOT NULL ORDER BY deleted_at, id LIMIT $1",
        tables: &["conversations"],
        on: &[Kind::Postgres],
        reason: "a partial index that only holds groups to be removed, with a limit",
    },
];

/// A table that a plan reads completely, and the step of the plan that does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    pub table: String,
    pub how: String,
}

/// The scans of one statement on one database, or the error of its EXPLAIN.
pub type Explained = Result<Vec<Scan>, String>;

/// Whether a statement is explained on this database.
fn is_explained(statement: &Statement, kind: Kind) -> bool {
    if let Some((_, _, kinds, _)) =
        ONE_DATABASE.iter().find(|(file, piece, ..)| statement.file == *file && statement.text.contains(piece))
    {
        return kinds.contains(&kind);
    }
    let dialect = DIALECT.iter().find(|(_, piece, _)| statement.text.contains(piece)).map(|(kind, ..)| *kind);
    statement.only.or(dialect).is_none_or(|only| only == kind)
}

fn every_statement() -> Vec<Statement> {
    let found = statements::of_folder(Path::new("src/store"));
    let left_out = |file: &str| FILES_LEFT_OUT.iter().any(|(name, _)| *name == file);
    for (name, _) in FILES_LEFT_OUT {
        assert!(
            found.iter().any(|statement| statement.file == *name),
            "{name} has no statements that could be left out"
        );
    }
    let kept: Vec<Statement> = found.into_iter().filter(|statement| !left_out(&statement.file)).collect();
    assert!(kept.len() >= MIN_STATEMENTS, "{} statements were found", kept.len());
    for (file, piece, ..) in ONE_DATABASE {
        let known = kept.iter().any(|one| one.file == *file && one.text.contains(piece));
        assert!(known, "ONE_DATABASE lists a statement that no longer exists: {file}: {piece}");
    }
    kept
}

fn is_small(table: &str) -> bool {
    SMALL_TABLES.iter().any(|(name, _)| *name == table)
}

async fn explain(place: &Place, server: &Server, statements: &[Statement]) -> Vec<Explained> {
    match place.kind {
        Kind::Sqlite => sqlite::explain(server, statements).await,
        Kind::Postgres => postgres::explain(place, statements).await,
    }
}

both!(no_query_reads_a_whole_table, async |place| {
    let server = Server::start(place).await;
    let statements: Vec<Statement> =
        every_statement().into_iter().filter(|one| is_explained(one, place.kind)).collect();
    let mut wrong = Vec::new();
    let mut used = vec![Vec::new(); ALLOWED_SCANS.len()];
    for (statement, explained) in statements.iter().zip(explain(place, &server, &statements).await) {
        let at = format!("src/store/{}:{}", statement.file, statement.line);
        let scans = match explained {
            Ok(scans) => scans,
            Err(reason) => {
                wrong.push(format!(
                    "{at} cannot be explained on {:?}: {reason}\n    {}\n    If it runs on the other database alone, \
                     put it into a match or an if let on Conn, or name it in DIALECT or ONE_DATABASE.",
                    place.kind, statement.text
                ));
                continue;
            }
        };
        for Scan { table, how } in scans.into_iter().filter(|scan| !is_small(&scan.table)) {
            let meant = ALLOWED_SCANS.iter().position(|meant| {
                meant.file == statement.file
                    && statement.text.contains(meant.piece)
                    && meant.tables.contains(&table.as_str())
                    && meant.on.contains(&place.kind)
            });
            match meant {
                Some(number) => used[number].push(table),
                None => wrong.push(format!("{at} reads all of {table}: {how}\n    {}", statement.text)),
            }
        }
    }
    for (meant, used) in ALLOWED_SCANS.iter().zip(used).filter(|(meant, _)| meant.on.contains(&place.kind)) {
        for table in meant.tables.iter().filter(|table| !used.iter().any(|used| used == *table)) {
            let AllowedScan { file, piece, reason, .. } = meant;
            wrong.push(format!("ALLOWED_SCANS has an entry without a scan: {file} ({piece}), {table} ({reason})"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} statements:\n\n{}", wrong.len(), statements.len(), wrong.join("\n\n"));
    server.stop().await;
});

/// Statements that test this test, each with the tables that must be reported. Good statements have none.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("SELECT * FROM messaging.messages WHERE body = $1", &["messages"]),
    ("SELECT count(*) FROM messaging.users", &["users"]),
    ("SELECT id FROM messaging.conversations ORDER BY last_sent_at LIMIT $1", &["conversations"]),
    ("UPDATE messaging.users SET mfa = TRUE WHERE first_name = $1", &["users"]),
    ("DELETE FROM messaging.sessions WHERE agent = $1", &["sessions"]),
    // An index cannot be used with a condition on its second column alone.
    ("SELECT body FROM messaging.messages AS m WHERE m.seq = $1", &["messages"]),
    ("SELECT at FROM messaging.message_edits e WHERE e.edition > $1 ORDER BY conversation_id", &["message_edits"]),
    // With OR, a condition on an indexed column does not restrict the rows that are read.
    ("SELECT id FROM messaging.audit_log WHERE actor_id = $1 OR detail = $2", &["audit_log"]),
    (
        "WITH named AS (SELECT id FROM messaging.users WHERE last_name = $1)
         SELECT m.conversation_id FROM named n JOIN messaging.members m ON m.user_id = n.id",
        &["users"],
    ),
    (
        "SELECT u.id FROM messaging.users u WHERE EXISTS (SELECT 1 FROM messaging.events e WHERE e.actor_id = $1)",
        &["events", "users"],
    ),
    ("SELECT body FROM messaging.messages WHERE conversation_id = $1 AND seq = ANY($2)", &[]),
    ("SELECT id FROM messaging.users WHERE id > $1 ORDER BY id LIMIT $2", &[]),
    ("UPDATE messaging.event_log SET last_position = last_position + $1 RETURNING last_position", &[]),
    (
        "WITH known AS (SELECT user_id FROM messaging.members WHERE conversation_id = $1)
         SELECT u.user_name FROM known k JOIN messaging.users u ON u.id = k.user_id",
        &[],
    ),
];

both!(scans_of_bad_statements_are_reported, async |place| {
    let server = Server::start(place).await;
    let statement = |(text, _): &(&str, _)| Statement {
        file: "tried".into(),
        line: 0,
        text: statements::one_line(text),
        only: None,
    };
    let tried: Vec<Statement> = EXAMPLES.iter().map(statement).collect();
    for ((text, wanted), explained) in EXAMPLES.iter().zip(explain(place, &server, &tried).await) {
        let scans = explained.unwrap_or_else(|reason| panic!("{text}: {reason}"));
        let mut tables: Vec<&str> =
            scans.iter().map(|scan| scan.table.as_str()).filter(|name| !is_small(name)).collect();
        tables.sort_unstable();
        tables.dedup();
        assert_eq!(tables, *wanted, "{text}: {scans:?}");
    }
    let broken = [("SELECT nothing FROM messaging.users", ())].map(|(text, ())| statement(&(text, &[])));
    assert!(explain(place, &server, &broken).await[0].is_err());
    server.stop().await;
});
