//! Damaged files: a single bit is flipped, or the end of the file is missing. A damaged backup is refused. From a damaged
//! database the server returns correct data or an error, never wrong data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use posthaste::base::ids::Rng;
use posthaste::base::time::Clock;
use posthaste::store::db::Db;
use posthaste::store::driver::environment::{Environment, Location};
use posthaste::store::messages::messages::{self, Range};

use crate::both;
use crate::operations::operations::{posthaste, text};
use crate::support::people::{group, patch, say};
use crate::support::place::Kind;
use crate::support::{Place, Server, many, random, seeded};

/// Number of messages in the damaged database, besides those of the demo.
const MESSAGES: usize = 300;
/// Number of damaged copies of a file. In each copy one bit is flipped.
const FLIPS: usize = 50;
const FLIPS_IN_SOAK: usize = 500;

/// Sends a few hundred messages in a few conversations.
async fn fill(server: &Server) {
    let room = group(server, "bugs", &["duck", "porky"], "all").await;
    for number in 0..MESSAGES {
        let body = format!("message {number}: {}", "what's up, doc? ".repeat(number % 7));
        match number % 3 {
            0 => drop(server.send("rdibari", "bugs", &body).await),
            1 => drop(server.send("porky", "duck", &body).await),
            _ => drop(say(server, "porky", room, &body, None).await),
        }
    }
    let edited =
        patch(server, "rdibari", "/api/conversations/1/messages/9", serde_json::json!({"body": "edited"})).await;
    assert_eq!(edited.status, 200, "{}", String::from_utf8_lossy(&edited.bytes));
}

/// Copies a file with one bit flipped. Returns a description of the bit.
fn flip(original: &[u8], copy: &Path, rng: &Rng) -> String {
    let (at, bit) = (random(rng, original.len() as u64) as usize, random(rng, 8) as u8);
    let mut bytes = original.to_vec();
    bytes[at] ^= 1 << bit;
    std::fs::write(copy, bytes).unwrap();
    format!("bit {bit} of byte {at} of {}", original.len())
}

fn restore(place: &Place, file: &Path) -> Output {
    posthaste(place, &["restore", "--yes", file.to_str().unwrap()])
}

fn check_backup(place: &Place, file: &Path) -> Output {
    posthaste(place, &["doctor", "--backup", file.to_str().unwrap()])
}

/// Asserts that a restore of the file fails and that a check of the file reports it.
#[track_caller]
fn assert_refused(place: &Place, file: &Path, which: &str) {
    for refused in [restore(place, file), check_backup(place, file)] {
        let said = text(&refused);
        assert!(!refused.status.success(), "{which}: {said}");
        assert!(said.contains("cannot be used as a backup") && !said.contains("panicked"), "{which}: {said}");
    }
}

both!(a_damaged_backup_is_refused, async |place| {
    let server = Server::start(place).await;
    fill(&server).await;
    let before = server.all("/api/messages/bugs").await;
    let file = place.folder.path().join("backup");
    let backed_up = posthaste(place, &["backup", file.to_str().unwrap()]);
    assert!(backed_up.status.success(), "{}", text(&backed_up));
    let well = check_backup(place, &file);
    assert!(well.status.success() && text(&well).contains("bytes matches"), "{}", text(&well));
    assert!(text(&well).contains("structure sound (quick_check)"), "{}", text(&well));

    let original = std::fs::read(&file).unwrap();
    let (_, rng) = seeded();
    let damaged = place.folder.path().join("damaged");
    for _ in 0..many(FLIPS, FLIPS_IN_SOAK) {
        let which = flip(&original, &damaged, &rng);
        assert_refused(place, &damaged, &which);
    }
    // Flips one bit in each byte of the digest at the end of the file, and in each byte of the mark in the header. The mark
    // says that there is a digest.
    for at in (68..72).chain(original.len() - 92..original.len()) {
        let mut bytes = original.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&damaged, bytes).unwrap();
        let refused = check_backup(place, &damaged);
        assert!(!refused.status.success(), "byte {at}: {}", text(&refused));
    }
    // Files that are too short: empty, shorter than a header, one page, half, without the digest, without the last byte. The
    // last file is too long.
    for length in [0, 1, 99, 4_096, original.len() / 2, original.len() - 91, original.len() - 1] {
        std::fs::write(&damaged, &original[..length]).unwrap();
        assert_refused(place, &damaged, &format!("{length} of {} bytes", original.len()));
    }
    std::fs::write(&damaged, [original.as_slice(), b"\n"].concat()).unwrap();
    assert_refused(place, &damaged, "one byte more");
    // The refused files changed no data. Restoring the undamaged backup succeeds, and the command prints that the digest
    // matches.
    assert_eq!(server.all("/api/messages/bugs").await, before);
    let restored = restore(place, &file);
    assert!(restored.status.success() && text(&restored).contains("matched its content"), "{}", text(&restored));
    assert_eq!(server.all("/api/messages/bugs").await, before);
    println!("{} flips and 7 cuts, all refused", many(FLIPS, FLIPS_IN_SOAK));
});

both!(other_tools_can_read_a_backup_as_a_database, async |place| {
    drop(Server::start(place).await);
    let file = place.folder.path().join("backup");
    assert!(posthaste(place, &["backup", file.to_str().unwrap()]).status.success());
    let original = std::fs::read(&file).unwrap();
    let connection = rusqlite::Connection::open(&file).unwrap();
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    let count: i64 = connection.query_row("SELECT count(*) FROM messages", [], |row| row.get(0)).unwrap();
    assert_eq!((verdict.as_str(), count), ("ok", 4));
    drop(connection);
    let script = "import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(db.execute('PRAGMA quick_check').fetchone()[0], db.execute('SELECT count(*) FROM messages').fetchone()[0])";
    let read = Command::new("python3").args(["-c", script]).arg(&file).output().unwrap();
    assert_eq!(text(&read), "ok 4\n");
    assert_eq!(std::fs::read(&file).unwrap(), original, "reading the backup changes its file");
    assert!(check_backup(place, &file).status.success());
    // After another tool has written into the backup, its digest does not match.
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.execute_batch("UPDATE users SET first_name = 'Somebody else'").unwrap();
    drop(connection);
    assert_refused(place, &file, "changed");
});

both!(a_backup_of_an_earlier_version_is_restored_with_a_note, async |place| {
    let server = Server::start(place).await;
    server.send("bugs", "duck", "of before").await;
    let file = place.folder.path().join("backup");
    assert!(posthaste(place, &["backup", file.to_str().unwrap()]).status.success());
    // A backup of an earlier version: without the mark, and without bytes after the last page.
    let bytes = std::fs::read(&file).unwrap();
    let pages = bytes.len() / 4_096 * 4_096;
    std::fs::write(&file, &bytes[..pages]).unwrap();
    rusqlite::Connection::open(&file).unwrap().pragma_update(None, "application_id", 0).unwrap();
    let looked = check_backup(place, &file);
    assert!(looked.status.success() && text(&looked).contains("has no digest"), "{}", text(&looked));
    let restored = restore(place, &file);
    assert!(restored.status.success(), "{}", text(&restored));
    assert!(
        text(&restored).contains("has no digest") && text(&restored).contains("only its structure"),
        "{}",
        text(&restored)
    );
    assert_eq!(server.all("/api/messages/duck").await.last().unwrap()["body"], "of before");
});

both!(a_restored_database_is_an_ordinary_database, async |place| {
    let server = Server::start(place).await;
    let file = place.folder.path().join("backup");
    assert!(posthaste(place, &["backup", file.to_str().unwrap()]).status.success());
    let restored = restore(place, &file);
    assert!(restored.status.success(), "{}", text(&restored));
    server.send("bugs", "duck", "after it").await;
    server.stop().await;
    for arguments in [&["doctor"][..], &["doctor", "--deep"]] {
        let looked = posthaste(place, arguments);
        assert!(looked.status.success(), "{}", text(&looked));
    }
    if place.kind == Kind::Postgres {
        return;
    }
    let mark = "PRAGMA application_id";
    assert_eq!(place.numbers(mark).await, [[0]]);
    // A database that a restore has kept is a valid backup.
    let kept = text(&restored).split("is kept as ").nth(1).unwrap().split(": remove").next().unwrap().to_owned();
    let looked = check_backup(place, Path::new(&kept));
    assert!(looked.status.success() && text(&looked).contains("bytes matches"), "{}", text(&looked));
    // A backup that is copied to the path of the database works as a database. After a restore the database does not carry the
    // mark of a backup.
    std::fs::copy(&file, place.sqlite_file()).unwrap();
    let server = Server::start(place).await;
    server.send("bugs", "duck", "written into what was a backup").await;
    let again = place.folder.path().join("again");
    assert!(posthaste(place, &["backup", again.to_str().unwrap()]).status.success());
    assert!(check_backup(place, &again).status.success());
    assert!(restore(place, &again).status.success());
    assert_eq!(place.numbers(mark).await, [[0]]);
    assert_eq!(server.all("/api/messages/duck").await.last().unwrap()["body"], "written into what was a backup");
});

#[test]
fn a_damaged_database_is_replaced_by_a_backup() {
    crate::support::run(Kind::Sqlite, async |place| {
        let server = Server::start(place).await;
        fill(&server).await;
        let before = server.all("/api/messages/bugs").await;
        let file = place.folder.path().join("backup");
        assert!(posthaste(place, &["backup", file.to_str().unwrap()]).status.success());
        server.stop().await;
        // Damages the number of unused bytes between the rows of a page. SQLite only compares this number and does not use it
        // to read rows.
        let mut bytes = std::fs::read(place.sqlite_file()).unwrap();
        let text_of_a_row = b"message 7: ";
        let at = bytes.windows(text_of_a_row.len()).position(|window| window == text_of_a_row).unwrap();
        bytes[at / 4_096 * 4_096 + 7] ^= 1;
        std::fs::write(place.sqlite_file(), bytes).unwrap();
        let ill = posthaste(place, &["doctor"]);
        assert!(!ill.status.success() && text(&ill).contains("is damaged"), "{}", text(&ill));
        let refused = posthaste(place, &["backup", place.folder.path().join("another").to_str().unwrap()]);
        assert!(!refused.status.success(), "{}", text(&refused));
        let restored = restore(place, &file);
        assert!(restored.status.success(), "{}", text(&restored));
        let well = posthaste(place, &["doctor", "--deep"]);
        assert!(well.status.success(), "{}", text(&well));
        assert_eq!(Server::start(place).await.all("/api/messages/bugs").await, before);
    });
}

/// The texts of the messages in a database, by conversation id and seq.
type Texts = BTreeMap<(i64, i64), String>;

/// Reads every message of the filled conversations in the way the server reads them. The result lacks messages that the server
/// refuses to return.
async fn read_texts(file: &Path, known: &Texts) -> Texts {
    let environment = Environment::new(Clock::System);
    let mut texts = Texts::new();
    let Ok(db) = Db::open(&Location::Sqlite(file.to_owned()), environment).await else { return texts };
    let mut ranges: BTreeMap<i64, i64> = BTreeMap::new();
    for (conversation, seq) in known.keys() {
        ranges.insert(*conversation, *seq);
    }
    for (conversation, last_seq) in ranges {
        for seq in 1..=last_seq {
            let range = Range {
                conversation_id: posthaste::base::ids::ConversationId(conversation),
                first_seq: seq,
                last_seq: seq,
            };
            let read =
                db.read(range, |conn, range| Box::pin(messages::in_ranges(conn, std::slice::from_ref(range)))).await;
            for message in read.unwrap_or_default() {
                texts.insert((message.conversation_id.0, message.seq), message.body);
            }
        }
    }
    db.close().await;
    texts
}

fn doctor(folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    command.args(["doctor", "--deep"]).env("POSTHASTE_DATA_DIR", folder).output().unwrap()
}

#[test]
fn a_damaged_database_serves_no_wrong_text() {
    crate::support::run(Kind::Sqlite, async |place| {
        let server = Server::start(place).await;
        fill(&server).await;
        server.stop().await;
        let original = std::fs::read(place.sqlite_file()).unwrap();
        assert!(!place.folder.path().join("posthaste.db-wal").exists(), "the write-ahead log still exists");
        let folder = tempfile::tempdir().unwrap();
        let file: PathBuf = folder.path().join("posthaste.db");
        std::fs::write(&file, &original).unwrap();
        let known = stored_texts(&file);
        assert_eq!(read_texts(&file, &known).await, known);
        assert!(doctor(folder.path()).status.success(), "{}", text(&doctor(folder.path())));

        let (_, rng) = seeded();
        let (mut reported, mut harmless) = (0, 0);
        for _ in 0..many(FLIPS, FLIPS_IN_SOAK) {
            for name in ["posthaste.db-wal", "posthaste.db-shm"] {
                drop(std::fs::remove_file(folder.path().join(name)));
            }
            let which = flip(&original, &file, &rng);
            let looked = doctor(folder.path());
            let read = read_texts(&file, &known).await;
            for (place, body) in &read {
                assert_eq!(known.get(place), Some(body), "after {which} a wrong text is served for {place:?}");
            }
            if looked.status.success() {
                assert_eq!(read, known, "{which} lost messages, and the doctor reported\n{}", text(&looked));
                harmless += 1;
            } else {
                reported += 1;
            }
        }
        println!("of {} flips the doctor reported {reported}, and {harmless} changed nothing", reported + harmless);
    });
}

/// The texts of an intact database, read directly from the file.
fn stored_texts(file: &Path) -> Texts {
    let connection = rusqlite::Connection::open(file).unwrap();
    let mut statement = connection.prepare("SELECT conversation_id, seq, body FROM messages").unwrap();
    let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?))).unwrap();
    let texts: Texts = rows.map(Result::unwrap).collect();
    assert!(texts.len() > MESSAGES);
    texts
}
