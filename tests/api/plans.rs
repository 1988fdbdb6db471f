//! No query reads a table that grows from end to end. Every statement of `src/store/` is explained on both databases, the
//! way its driver says it; what may scan after all is named below, with its reason.

mod postgres;
mod sqlite;
mod statements;

use std::path::Path;

use crate::both;
use crate::support::place::Kind;
use crate::support::{Place, Server};
use statements::Statement;

/// Fewer than this were not found, but overlooked.
const FEWEST_STATEMENTS: usize = 180;

/// Files whose statements are not explained.
const FILES_LEFT_OUT: &[(&str, &str)] = &[
    (
        "db/copy.rs",
        "a backup and a restore read everything, in steps along the primary key; their texts are made at run time",
    ),
    ("db/migrations.rs", "runs once for each version, over the seed's tables and the catalogue"),
    ("sqlite/file.rs", "copies whole files, for backup and restore"),
    ("sqlite/scrub.rs", "reads pages of the file by number"),
];

/// What stands in statements that one database alone runs.
const DIALECT: &[(Kind, &str, &str)] = &[
    (Kind::Postgres, "unnest(", "many rows in one statement, where a round trip costs as much as they do"),
    (Kind::Postgres, "::", "a cast, in statements beside those"),
    (Kind::Postgres, "nextval(", "message ids come from a sequence"),
    (Kind::Postgres, "pg_prepared_statements", "a view of PostgreSQL, for finding poolers that mix statements up"),
    (Kind::Postgres, "pg_notify(", "servers on one database tell each other"),
    (Kind::Postgres, "gin_clean_pending_list(", "the full-text index of SQLite has no list to be sorted in"),
    (Kind::Sqlite, "rowid", "the number of a row where it is no column"),
    (Kind::Sqlite, "messaging.messaging_sequence ", "message ids come from a table where there are no sequences"),
];

/// Statements that neither their place nor their text gives away as one database's: by the file and a piece, with where they
/// are explained, and why nowhere else.
const NAMED: &[(&str, &str, &[Kind], &str)] = &[
    (
        "messages/search.rs",
        "search_entries WHERE id ",
        &[Kind::Postgres],
        "the full-text table of SQLite calls it rowid",
    ),
    ("messages/search.rs", "SELECT total_changes()", &[Kind::Sqlite], "a function of SQLite"),
    ("messages/search.rs", "(search_entries, rank)", &[Kind::Sqlite], "a command to the full-text table of SQLite"),
    (
        "messages/search.rs",
        " FROM search_order ",
        &[],
        "a temporary table, which a migration makes and reads by its key",
    ),
];

/// Tables of a few rows, whatever happens on the server.
const SMALL_TABLES: &[(&str, &str)] = &[
    ("event_log", "one row"),
    ("server_state", "one row"),
    ("messaging_sequence", "one row, SQLite's stand-in for a sequence"),
    ("schema_migrations", "a row for each version of the schema"),
    ("webhooks", "twenty at most"),
    ("erasures", "a row while an erasure is under way"),
    ("presence_servers", "a row for each server that ran lately"),
];

/// A scan that is meant: by the file, a piece of the statement, the table, and where.
struct Meant {
    file: &'static str,
    piece: &'static str,
    tables: &'static [&'static str],
    on: &'static [Kind],
    reason: &'static str,
}

const BOTH: &[Kind] = &[Kind::Sqlite, Kind::Postgres];

const MEANT: &[Meant] = &[
    Meant {
        file: "operations/stats.rs",
        piece: "sum(last_seq)",
        tables: &["users", "api_keys", "conversations"],
        on: BOTH,
        reason: "an administrator's page. It counts people, devices and conversations, never messages or events",
    },
    Meant {
        file: "operations/health.rs",
        piece: "c.last_seq <> coalesce(",
        tables: &["conversations"],
        on: BOTH,
        reason: "doctor, by hand: looks at every conversation, and at one message of each by the primary key",
    },
    Meant {
        file: "operations/health.rs",
        piece: "SELECT count(*) FROM messaging.conversations",
        tables: &["conversations"],
        on: BOTH,
        reason: "doctor, by hand; --deep counts the messages of each by the primary key, too",
    },
    Meant {
        file: "operations/health.rs",
        piece: "WHERE NOT EXISTS (SELECT 1 FROM messaging.conversations",
        tables: &["messages"],
        on: BOTH,
        reason: "doctor --deep, by hand: looks for the conversation of every message",
    },
    Meant {
        file: "operations/health.rs",
        piece: "HAVING m.reaction_counts IS NULL",
        tables: &["reactions"],
        on: BOTH,
        reason: "doctor, by hand: counts every reaction, and looks at its message by the primary key",
    },
    Meant {
        file: "operations/health.rs",
        piece: "m.reaction_counts IS NOT NULL",
        tables: &["messages"],
        on: BOTH,
        reason: "doctor, by hand: looks for counts at every message",
    },
    Meant {
        file: "identity/users.rs",
        piece: "SELECT count(*) FROM messaging.users",
        tables: &["users"],
        on: BOTH,
        reason: "doctor, by hand",
    },
    Meant {
        file: "identity/users.rs",
        piece: "SELECT id FROM messaging.users LIMIT 1",
        tables: &["users"],
        on: BOTH,
        reason: "ends at the first row",
    },
    Meant {
        file: "messages/search.rs",
        piece: "search_entries_content ORDER BY id DESC LIMIT 1",
        tables: &["search_entries_content"],
        on: &[Kind::Sqlite],
        reason: "ends at the first row of the primary key",
    },
    Meant {
        file: "messages/search.rs",
        piece: "search_entries ORDER BY id DESC LIMIT 1",
        tables: &["search_entries"],
        on: &[Kind::Postgres],
        reason: "ends at the first row of the primary key",
    },
    Meant {
        file: "conversations/conversations.rs",
        piece: "WHERE deleted_at IS NOT NULL ORDER BY deleted_at, id LIMIT $1",
        tables: &["conversations"],
        on: &[Kind::Postgres],
        reason: "along a partial index that holds nothing but groups that are about to be removed, and up to a limit",
    },
];

/// A table, and how it is read where that is too much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    pub table: String,
    pub how: String,
}

/// What a database said of one statement.
pub type Explained = Result<Vec<Scan>, String>;

/// Whether a statement is explained on this database.
fn is_explained(statement: &Statement, kind: Kind) -> bool {
    if let Some((_, _, kinds, _)) =
        NAMED.iter().find(|(file, piece, ..)| statement.file == *file && statement.text.contains(piece))
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
        assert!(found.iter().any(|statement| statement.file == *name), "{name} has no statements to leave out");
    }
    let kept: Vec<Statement> = found.into_iter().filter(|statement| !left_out(&statement.file)).collect();
    assert!(kept.len() >= FEWEST_STATEMENTS, "{} statements were found", kept.len());
    for (file, piece, ..) in NAMED {
        let known = kept.iter().any(|one| one.file == *file && one.text.contains(piece));
        assert!(known, "NAMED has a statement that is gone: {file}: {piece}");
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

both!(no_query_scans, async |place| {
    let server = Server::start(place).await;
    let statements: Vec<Statement> =
        every_statement().into_iter().filter(|one| is_explained(one, place.kind)).collect();
    let mut wrong = Vec::new();
    let mut used = vec![Vec::new(); MEANT.len()];
    for (statement, explained) in statements.iter().zip(explain(place, &server, &statements).await) {
        let at = format!("src/store/{}:{}", statement.file, statement.line);
        let scans = match explained {
            Ok(scans) => scans,
            Err(reason) => {
                wrong.push(format!(
                    "{at} cannot be explained on {:?}: {reason}\n    {}\n    If it runs on the other database alone, \
                     put it into a match or an if let on Conn, or name it in DIALECT or NAMED.",
                    place.kind, statement.text
                ));
                continue;
            }
        };
        for Scan { table, how } in scans.into_iter().filter(|scan| !is_small(&scan.table)) {
            let meant = MEANT.iter().position(|meant| {
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
    for (meant, used) in MEANT.iter().zip(used).filter(|(meant, _)| meant.on.contains(&place.kind)) {
        for table in meant.tables.iter().filter(|table| !used.iter().any(|used| used == *table)) {
            let Meant { file, piece, reason, .. } = meant;
            wrong.push(format!("MEANT lets {file} ({piece}) scan {table} ({reason}), which it does not"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} statements:\n\n{}", wrong.len(), statements.len(), wrong.join("\n\n"));
    server.stop().await;
});

/// Statements as nobody should write them, each with the tables that are told; and some that are as they should be.
const TRIED: &[(&str, &[&str])] = &[
    ("SELECT * FROM messaging.messages WHERE body = $1", &["messages"]),
    ("SELECT count(*) FROM messaging.users", &["users"]),
    ("SELECT id FROM messaging.conversations ORDER BY last_sent_at LIMIT $1", &["conversations"]),
    ("UPDATE messaging.users SET mfa = TRUE WHERE first_name = $1", &["users"]),
    ("DELETE FROM messaging.sessions WHERE agent = $1", &["sessions"]),
    // The second column of a key alone does not lead anywhere.
    ("SELECT body FROM messaging.messages AS m WHERE m.seq = $1", &["messages"]),
    ("SELECT at FROM messaging.message_edits e WHERE e.edition > $1 ORDER BY conversation_id", &["message_edits"]),
    // A filter that may be left out is none.
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

both!(scans_are_told, async |place| {
    let server = Server::start(place).await;
    let statement = |(text, _): &(&str, _)| Statement {
        file: "tried".into(),
        line: 0,
        text: statements::one_line(text),
        only: None,
    };
    let tried: Vec<Statement> = TRIED.iter().map(statement).collect();
    for ((text, wanted), explained) in TRIED.iter().zip(explain(place, &server, &tried).await) {
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
