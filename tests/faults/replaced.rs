//! The database file is replaced, removed or emptied: the server must not acknowledge writes that are missing after the next
//! start.

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

/// Waits until the server ends with exit status 1. Returns its output.
async fn wait_for_refusal(server: Process) -> String {
    let log = server.log_file();
    let status = server.ended(END_TIMEOUT).await;
    let said = std::fs::read_to_string(log).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

/// Starts a server that must refuse to start. Returns its output.
async fn start_refused(place: &Place) -> String {
    let said = wait_for_refusal(Process::spawn(place, Wrapping::default())).await;
    assert!(!said.contains("listening"), "{said}");
    said
}

/// The output of `posthaste doctor`, and whether it found no problem.
fn doctor(place: &Place) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args(["doctor", "--database-url", &place.url(), "--data-dir"])
        .arg(place.folder.path())
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `change` on the files under load, and asserts that the server ends. After `back` has restored the files, everything
/// that the server acknowledged must be there.
fn change_file_under_load(change: impl Fn(&Place), back: impl Fn(&Place)) {
    run(async |place| {
        let server = Process::start(place).await;
        let load = Load::start(server.address, "before");
        load.accepts_more(100).await;
        change(place);
        let said = wait_for_refusal(server).await;
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
    change_file_under_load(|place| set_aside(place, ""), |place| put_back(place, ""));
}

#[test]
fn a_database_that_is_replaced_ends_the_server() {
    change_file_under_load(
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
    change_file_under_load(|place| set_aside(place, "-wal"), |place| put_back(place, "-wal"));
}

#[test]
fn an_index_of_the_log_that_is_moved_away_ends_the_server() {
    change_file_under_load(
        |place| set_aside(place, "-shm"),
        |place| drop(std::fs::remove_file(file(place, "-shm.aside"))),
    );
}

#[test]
fn a_foreign_database_beside_an_old_log_is_refused_and_not_changed() {
    run(async |place| {
        // Creates another database. Its server ends cleanly, so that all of its data is in one file.
        let other = Place::new(Kind::Sqlite).await;
        Process::start(&other).await.terminate().await;
        let server = Process::start(place).await;
        let load = Load::start(server.address, "before");
        load.accepts_more(100).await;
        set_aside(place, "");
        std::fs::copy(file(&other, ""), file(place, "")).unwrap();
        let foreign = std::fs::read(file(place, "")).unwrap();
        assert!(wait_for_refusal(server).await.contains("removed or replaced"));
        let attempts = load.stop().await;
        // An automatic restart must not copy the log into the foreign database.
        for _ in 0..2 {
            let said = start_refused(place).await;
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
fn a_copy_of_the_whole_folder_works_like_the_original() {
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
fn the_database_may_be_a_symbolic_link() {
    run(async |place| {
        let elsewhere = tempfile::tempdir().unwrap();
        let target = elsewhere.path().join("real.db");
        // In the first round the link points to a file that does not exist yet. After that it points to the database.
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
fn a_replaced_database_is_noticed_without_load() {
    run(async |place| {
        let server = Process::start(place).await;
        set_aside(place, "");
        assert!(wait_for_refusal(server).await.contains("removed or replaced"));
    });
}

#[test]
fn an_empty_or_missing_file_is_refused_if_there_was_data() {
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
            let said = start_refused(place).await;
            assert!(said.contains("there was data") && said.contains("posthaste.db-state"), "{said}");
            let (good, said) = doctor(place);
            assert!(!good && said.contains("wrong") && said.contains("there was data"), "{said}");
        }
        put_back(place, "");
        let server = Process::start(place).await;
        assert_kept(place, &attempts).await;
        server.terminate().await;
        // An operator who wants an empty database removes all of the files. A clean end of the server may already have removed
        // some of them.
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
        // The second start is refused although the state file is gone: the write-ahead log alone shows that there was data.
        for file_of_state in [true, false] {
            if !file_of_state {
                std::fs::remove_file(file(place, "-state")).unwrap();
            }
            let said = start_refused(place).await;
            assert!(said.contains("is empty") && said.contains("posthaste.db-wal"), "{said}");
        }
        put_back(place, "");
        let server = Process::start(place).await;
        assert_kept(place, &attempts).await;
        server.terminate().await;
    });
}
