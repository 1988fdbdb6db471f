//! The file beneath is replaced, removed or emptied: the server must not acknowledge what the next start will not find.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::operations::durability::{Load, assert_kept};
use crate::support::Place;
use crate::support::place::Kind;
use crate::support::process::{Process, Wrapping};

const END_TIMEOUT: Duration = Duration::from_secs(20);

fn run(test: impl AsyncFnOnce(&Place)) {
    crate::support::run(Kind::Sqlite, test);
}

fn file(place: &Place, suffix: &str) -> PathBuf {
    place.folder.path().join(format!("posthaste.db{suffix}"))
}

/// Waits for the server's end, which must be an orderly refusal; what it said.
async fn ends(server: Process) -> String {
    let log = server.log_file();
    let status = server.ended(END_TIMEOUT).await;
    let said = std::fs::read_to_string(log).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

/// A start that must be refused; what it said.
async fn refused(place: &Place) -> String {
    let said = ends(Process::spawn(place, Wrapping::default())).await;
    assert!(!said.contains("listening"), "{said}");
    said
}

/// What `posthaste doctor` says, and whether it finds everything in order.
fn doctor(place: &Place) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args(["doctor", "--database-url", &place.url(), "--data-dir"])
        .arg(place.folder.path())
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Does something to a file under load: the server ends, and what it acknowledged is there once the files are back.
fn while_it_runs(change: impl Fn(&Place), back: impl Fn(&Place)) {
    run(async |place| {
        let server = Process::start(place).await;
        let load = Load::start(server.address, "before");
        load.accepts_more(100).await;
        change(place);
        let said = ends(server).await;
        assert!(said.lines().last().unwrap().contains("removed or replaced"), "{said}");
        let attempts = load.stop().await;
        back(place);
        let server = Process::start(place).await;
        assert_kept(place, &attempts).await;
        server.terminate().await;
    });
}

fn set_aside(place: &Place, suffix: &str) {
    std::fs::rename(file(place, suffix), file(place, &format!("{suffix}.aside"))).unwrap();
}

fn put_back(place: &Place, suffix: &str) {
    std::fs::rename(file(place, &format!("{suffix}.aside")), file(place, suffix)).unwrap();
}

#[test]
fn a_database_that_is_moved_away_ends_the_server() {
    while_it_runs(|place| set_aside(place, ""), |place| put_back(place, ""));
}

#[test]
fn a_database_that_is_replaced_ends_the_server() {
    while_it_runs(
        |place| {
            std::fs::copy(file(place, ""), file(place, ".copy")).unwrap();
            set_aside(place, "");
            std::fs::rename(file(place, ".copy"), file(place, "")).unwrap();
        },
        |place| put_back(place, ""),
    );
}

#[test]
fn a_log_that_is_moved_away_ends_the_server() {
    while_it_runs(|place| set_aside(place, "-wal"), |place| put_back(place, "-wal"));
}

#[test]
fn an_index_of_the_log_that_is_moved_away_ends_the_server() {
    while_it_runs(|place| set_aside(place, "-shm"), |place| drop(std::fs::remove_file(file(place, "-shm.aside"))));
}

#[test]
fn a_foreign_database_beside_the_log_of_the_old_one_is_refused_and_stays_whole() {
    run(async |place| {
        // Another database: of a server that ended cleanly, so that all of it is in one file.
        let other = Place::new(Kind::Sqlite).await;
        Process::start(&other).await.terminate().await;
        let server = Process::start(place).await;
        let load = Load::start(server.address, "before");
        load.accepts_more(100).await;
        set_aside(place, "");
        std::fs::copy(file(&other, ""), file(place, "")).unwrap();
        let foreign = std::fs::read(file(place, "")).unwrap();
        assert!(ends(server).await.contains("removed or replaced"));
        let attempts = load.stop().await;
        // What starts it again by itself must not copy the log into it.
        for _ in 0..2 {
            let said = refused(place).await;
            assert!(said.contains("is another file than the one"), "{said}");
        }
        assert!(std::fs::read(file(place, "")).unwrap() == foreign);
        put_back(place, "");
        let server = Process::start(place).await;
        assert_kept(place, &attempts).await;
        server.terminate().await;
        other.remove().await;
    });
}

#[test]
fn a_folder_that_is_copied_as_a_whole_is_as_good_as_the_first() {
    run(async |place| {
        let server = Process::start(place).await;
        let load = Load::start(server.address, "before");
        load.accepts_more(50).await;
        server.kill();
        let attempts = load.stop().await;
        let copy = Place::new(Kind::Sqlite).await;
        for suffix in ["", "-wal", "-state"] {
            std::fs::copy(file(place, suffix), file(&copy, suffix)).unwrap();
        }
        let server = Process::start(&copy).await;
        assert_kept(&copy, &attempts).await;
        server.terminate().await;
        copy.remove().await;
    });
}

#[test]
fn the_database_may_be_a_link() {
    run(async |place| {
        let elsewhere = tempfile::tempdir().unwrap();
        let target = elsewhere.path().join("real.db");
        // A link that leads to nothing yet, and one that leads to the database.
        std::os::unix::fs::symlink(&target, file(place, "")).unwrap();
        let mut attempts = Vec::new();
        for round in 0..2 {
            let server = Process::start(place).await;
            let load = Load::start(server.address, &format!("round {round}"));
            load.accepts_more(50).await;
            server.kill();
            attempts.extend(load.stop().await);
        }
        let server = Process::start(place).await;
        assert_kept(place, &attempts).await;
        server.terminate().await;
        assert!(elsewhere.path().join("real.db-state").exists());
    });
}

#[test]
fn without_any_load_it_is_noticed_too() {
    run(async |place| {
        let server = Process::start(place).await;
        set_aside(place, "");
        assert!(ends(server).await.contains("removed or replaced"));
    });
}

#[test]
fn where_data_was_an_empty_or_missing_file_is_refused() {
    run(async |place| {
        let server = Process::start(place).await;
        let load = Load::start(server.address, "before");
        load.accepts_more(20).await;
        let attempts = load.stop().await;
        server.terminate().await;
        set_aside(place, "");
        for missing in [true, false] {
            if !missing {
                std::fs::write(file(place, ""), "").unwrap();
            }
            let said = refused(place).await;
            assert!(said.contains("there was data") && said.contains("posthaste.db-state"), "{said}");
            let (good, said) = doctor(place);
            assert!(!good && said.contains("wrong") && said.contains("there was data"), "{said}");
        }
        put_back(place, "");
        let server = Process::start(place).await;
        assert_kept(place, &attempts).await;
        server.terminate().await;
        // To begin anew, an operator removes all of the files; a clean end may have removed some.
        for suffix in ["", "-wal", "-shm", "-state"] {
            drop(std::fs::remove_file(file(place, suffix)));
        }
        Process::start(place).await.terminate().await;
    });
}

#[test]
fn an_empty_file_beside_a_log_is_refused() {
    run(async |place| {
        let server = Process::start(place).await;
        let load = Load::start(server.address, "before");
        load.accepts_more(20).await;
        server.kill();
        let attempts = load.stop().await;
        std::fs::copy(file(place, ""), file(place, ".aside")).unwrap();
        std::fs::write(file(place, ""), "").unwrap();
        // Also where only the log shows that there was data.
        for file_of_state in [true, false] {
            if !file_of_state {
                std::fs::remove_file(file(place, "-state")).unwrap();
            }
            let said = refused(place).await;
            assert!(said.contains("is empty") && said.contains("posthaste.db-wal"), "{said}");
        }
        put_back(place, "");
        let server = Process::start(place).await;
        assert_kept(place, &attempts).await;
        server.terminate().await;
    });
}
