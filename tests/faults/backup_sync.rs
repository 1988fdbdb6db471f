//! Syncs that fail during a backup or a restore: the command does not report success if its data may not be on disk. In each
//! run strace makes one sync fail, until every sync of the command has failed once.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::both;
use crate::operations::operations::text;
use crate::support::place::Kind;
use crate::support::{Place, Server, trace};

/// The system calls that sync: SQLite uses the first one, Posthaste itself the second one.
const CALLS: [&str; 2] = ["fdatasync", "fsync"];
/// More syncs than any of these commands makes.
const SYNCS_LIMIT: usize = 200;

/// A sync that failed.
#[derive(Debug)]
struct Failed {
    /// The last part of the file's path.
    name: String,
    by_sqlite: bool,
}

/// Runs a command and makes the call with this number fail, counted from 1. Returns the output and the failed sync, or `None`
/// if the command makes fewer calls.
fn run_failing(place: &Place, arguments: &[&str], call: &str, number: usize) -> (Output, Option<Failed>) {
    let log = place.folder.path().join("syncs");
    drop(std::fs::remove_file(&log));
    let fault = format!("inject={call}:error=EIO:when={number}");
    let words = trace::tracer(&log, call, &["-e", &fault]);
    let output = Command::new(&words[0])
        .args(&words[1..])
        .arg(env!("CARGO_BIN_EXE_posthaste"))
        .args(arguments)
        .env("POSTHASTE_DATABASE_URL", place.url())
        .env("POSTHASTE_DATA_DIR", place.folder.path())
        .output()
        .unwrap();
    let failed = trace::calls(&log).into_iter().find(|call| call.result == Some(-1));
    // strace logs a descriptor as `7</tmp/x/name>`. Returns `name`.
    let name = |descriptor: &str| descriptor.rsplit('/').next().unwrap().trim_end_matches('>').to_owned();
    let failed = failed.map(|call| Failed { name: name(call.descriptor()), by_sqlite: call.name == "fdatasync" });
    (output, failed)
}

fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Whether the backup is complete although this sync of SQLite failed.
fn is_harmless(place: &Place, failed: &Failed, folder: &Path) -> bool {
    // SQLite ignores a failed sync of a folder.
    failed.name == name_of(folder)
        // A sync of the source does not concern the backup.
        || failed.name.starts_with("posthaste.db")
        // Rows from PostgreSQL stay in the write-ahead log of `backup.partial` until they are copied and synced.
        || (place.kind == Kind::Postgres && failed.name.starts_with("backup.partial"))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

both!(a_backup_whose_sync_fails_is_not_reported_as_made, async |place| {
    let server = Server::start(place).await;
    server.send("bugs", "duck", "kept").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup");
    let mut failed_on = Vec::new();
    for call in CALLS {
        for number in 1.. {
            assert!(number < SYNCS_LIMIT, "more syncs than expected");
            let (output, failed) = run_failing(place, &["backup", file.to_str().unwrap()], call, number);
            let Some(failed) = failed else {
                assert!(output.status.success(), "{}", text(&output));
                assert_eq!(names(folder.path()), ["backup"]);
                std::fs::remove_file(&file).unwrap();
                break;
            };
            if output.status.success() {
                assert!(
                    failed.by_sqlite && is_harmless(place, &failed, folder.path()),
                    "{failed:?}: {}",
                    text(&output)
                );
                std::fs::remove_file(&file).unwrap();
                continue;
            }
            assert_eq!(names(folder.path()), [""; 0], "{failed:?}");
            failed_on.push((failed, text(&output)));
        }
    }
    // Posthaste itself syncs the content of the backup and the folder that holds its name. If such a sync
    // fails, the error says that the file or the folder could not be synced.
    for wanted in ["backup.partial", &name_of(folder.path())] {
        let ours = failed_on.iter().filter(|(failed, _)| failed.name == wanted && !failed.by_sqlite);
        let said: Vec<&str> = ours.map(|(_, said)| said.as_str()).collect();
        assert!(!said.is_empty(), "{wanted}: {failed_on:?}");
        assert!(said.iter().all(|said| said.contains("could not be synced to disk")), "{wanted}: {said:?}");
    }
    println!("{} failed syncs made the backup fail", failed_on.len());
});

fn backup_of(place: &Place) -> PathBuf {
    let file = place.folder.path().join("a-backup");
    let output = crate::operations::operations::posthaste(place, &["backup", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
    file
}

both!(a_restore_whose_sync_fails_is_an_error, async |place| {
    let server = Server::start(place).await;
    server.send("bugs", "duck", "in the backup").await;
    let file = backup_of(place);
    server.send("bugs", "duck", "after the backup").await;
    server.stop().await;
    let staged = if place.kind == Kind::Sqlite { "posthaste.db.restoring" } else { "a-backup.restoring" };
    let mut failed_on = Vec::new();
    for call in CALLS {
        for number in 1.. {
            assert!(number < SYNCS_LIMIT, "more syncs than expected");
            let (output, failed) = run_failing(place, &["restore", "--yes", file.to_str().unwrap()], call, number);
            let Some(failed) = failed else {
                assert!(output.status.success(), "{}", text(&output));
                break;
            };
            // SQLite ignores a failed sync of a folder. A failed sync of a checkpoint of the database loses nothing: the
            // data is still in the write-ahead log. The staged copy of the backup is deleted after the restore, so its data
            // need not be on disk.
            let folder = name_of(place.folder.path());
            let beside = ["-journal", "-wal"].map(|suffix| format!("{staged}{suffix}"));
            let harmless = ["posthaste.db", "posthaste.db-wal", &folder, staged, &beside[0], &beside[1]];
            let harmless = failed.by_sqlite && harmless.contains(&failed.name.as_str());
            assert!(harmless || !output.status.success(), "{failed:?} was not reported as an error: {}", text(&output));
            // Six messages before the restore (four of the demo data and two sends), five in the backup.
            let messages = place.numbers("SELECT count(*) FROM messaging.messages").await[0][0];
            assert!([5, 6].contains(&messages), "{failed:?}: {messages}");
            if output.status.success() {
                assert_eq!(messages, 5, "{failed:?}");
                // The name under which the old database is kept contains the time in seconds, and the next restore needs
                // another name.
                tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
            }
            failed_on.push((failed, output.status.success(), text(&output)));
        }
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    }
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.messages").await, [[5]]);
    let mut wanted = vec![(staged.to_owned(), false)];
    if place.kind == Kind::Sqlite {
        wanted.extend([(name_of(place.folder.path()), false), ("posthaste.db-wal".into(), true)]);
        assert!(failed_on.iter().any(|(failed, done, _)| failed.name.contains("before-restore") && !done));
    }
    for (name, by_sqlite) in &wanted {
        let errors = failed_on.iter().filter(|(failed, ..)| failed.name == *name && failed.by_sqlite == *by_sqlite);
        let said: Vec<&str> = errors.map(|(.., said)| said.as_str()).collect();
        assert!(!said.is_empty(), "{name}: {failed_on:?}");
        assert!(said.iter().any(|said| said.contains("could not be synced to disk")), "{name}: {failed_on:?}");
    }
    let errors = failed_on.iter().filter(|(_, done, _)| !done).count();
    println!("{} syncs failed during a restore; the command reported {errors} of them as errors", failed_on.len());
});

#[test]
fn the_parent_of_a_new_folder_is_synced() {
    crate::support::run(Kind::Sqlite, async |place| {
        let server = Server::start(place).await;
        let file = backup_of(place);
        server.stop().await;
        let outer = place.folder.path().join("made");
        let database = outer.join("for the data").join("posthaste.db");
        let url = format!("sqlite:{}", database.display());
        let arguments = ["restore", "--yes", file.to_str().unwrap(), "--database-url", &url];
        // The first two syncs are those of the folders that contain the two new folders.
        for number in 1..=2 {
            let (output, failed) = run_failing(place, &arguments, "fsync", number);
            assert!(!output.status.success(), "{}", text(&output));
            assert!(text(&output).contains("could not be synced to disk"), "{}", text(&output));
            let folder = [place.folder.path(), outer.as_path()][number - 1];
            assert_eq!(failed.unwrap().name, name_of(folder));
            assert!(!database.exists());
            drop(std::fs::remove_dir_all(&outer));
        }
        let (output, failed) = run_failing(place, &arguments, "fsync", SYNCS_LIMIT);
        assert!(output.status.success() && failed.is_none(), "{}", text(&output));
        assert!(database.exists());
    });
}
