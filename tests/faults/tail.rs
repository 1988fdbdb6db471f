//! A damaged write-ahead log. SQLite's own recovery drops everything after the damage without an error, so the server checks
//! the log before.

use std::path::PathBuf;
use std::process::Command;

use super::readiness::logged_frames;
use crate::operations::durability::{Attempt, Load, assert_kept, stored};
use crate::support::place::Kind;
use crate::support::process::{Process, Wrapping};
use crate::support::{Place, many, random, seeded};

const HEADER_BYTES: u64 = 32;
const FRAME_BYTES: u64 = 24 + 4_096;

fn run(test: impl AsyncFnOnce(&Place)) {
    crate::support::run(Kind::Sqlite, test);
}

fn log_file(place: &Place) -> PathBuf {
    place.folder.path().join("posthaste.db-wal")
}

/// Sends messages and kills the server, so that all acknowledged messages are in the write-ahead log.
async fn kill_under_load(place: &Place) -> Vec<Attempt> {
    let server = Process::start(place).await;
    let load = Load::start(server.address, "before");
    load.accepts_more(400).await;
    server.kill();
    load.stop().await
}

/// The output of a start that is refused.
async fn start_refused(place: &Place) -> String {
    let server = Process::spawn(place, Wrapping::default());
    let log = server.log_file();
    let status = server.ended(std::time::Duration::from_secs(20)).await;
    let said = std::fs::read_to_string(log).unwrap();
    assert!(!status.success() && !said.contains("listening"), "{said}");
    said
}

fn accepted_and_missing(
    attempts: &[Attempt],
    there: &std::collections::HashMap<String, Vec<(i64, i64, i64)>>,
) -> usize {
    attempts.iter().filter(|attempt| attempt.accepted().is_some() && !there.contains_key(&attempt.body)).count()
}

#[test]
fn damage_anywhere_in_the_log_is_refused_and_nothing_is_changed() {
    run(async |place| {
        let attempts = kill_under_load(place).await;
        let whole = std::fs::read(log_file(place)).unwrap();
        let (_, rng) = seeded();
        // Frames of an unfinished commit may follow the acknowledged ones, so the state file says where the acknowledged ones
        // end.
        let frames = logged_frames(place);
        assert!(frames > 100, "{frames}");
        let end = HEADER_BYTES + frames * FRAME_BYTES;
        // Positions in the header of the log, and in the header and the page of its last frame.
        let mut places = vec![17, end - FRAME_BYTES + 4, end - FRAME_BYTES + 9, end - 100];
        places.extend((0..many(8, 100)).map(|_| random(&rng, end)));
        for at in places {
            let mut damaged = whole.clone();
            damaged[at as usize] ^= 1 << random(&rng, 8);
            std::fs::write(log_file(place), &damaged).unwrap();
            let said = start_refused(place).await;
            assert!(said.contains("--accept-lost-tail") && said.contains(" frames "), "{at}: {said}");
            assert!(std::fs::read(log_file(place)).unwrap() == damaged, "{at}");
            // Other commands do not recover the log without the operator's decision.
            let output = Command::new(env!("CARGO_BIN_EXE_posthaste"))
                .args(["admin", "create-user", "--user-name", "late", "--database-url", &place.url()])
                .output()
                .unwrap();
            assert!(!output.status.success(), "{at}");
            assert!(std::fs::read(log_file(place)).unwrap() == damaged, "{at}");
        }
        std::fs::write(log_file(place), whole).unwrap();
        let server = Process::start(place).await;
        assert_kept(place, &attempts).await;
        server.terminate().await;
    });
}

#[test]
fn a_log_that_is_cut_short_or_gone_is_refused() {
    run(async |place| {
        let attempts = kill_under_load(place).await;
        let whole = std::fs::read(log_file(place)).unwrap();
        for kept in [whole.len() / 2, whole.len() / 10, 20, 0] {
            std::fs::write(log_file(place), &whole[..kept]).unwrap();
            let said = start_refused(place).await;
            assert!(said.contains("--accept-lost-tail"), "{kept}: {said}");
        }
        std::fs::remove_file(log_file(place)).unwrap();
        assert!(start_refused(place).await.contains("is missing"));
        std::fs::write(log_file(place), whole).unwrap();
        let server = Process::start(place).await;
        assert_kept(place, &attempts).await;
        server.terminate().await;
    });
}

#[test]
fn accept_lost_tail_keeps_the_readable_part_and_a_copy_of_the_log() {
    run(async |place| {
        let attempts = kill_under_load(place).await;
        let mut damaged = std::fs::read(log_file(place)).unwrap();
        let at = damaged.len() / 2;
        damaged[at] ^= 1;
        std::fs::write(log_file(place), &damaged).unwrap();
        start_refused(place).await;
        let accepting = || Wrapping { arguments: vec!["--accept-lost-tail".into()], ..Wrapping::default() };
        let server = Process::start_wrapped(place, accepting()).await;
        let there = stored(place).await;
        let missing = accepted_and_missing(&attempts, &there);
        assert!(missing > 0 && !there.is_empty(), "{missing}");
        println!("{missing} of {} sends were after the damage", attempts.len());
        let copies: Vec<PathBuf> = std::fs::read_dir(place.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.display().to_string().contains("posthaste.db-wal.lost-"))
            .collect();
        assert_eq!(copies.len(), 1);
        assert!(std::fs::read(&copies[0]).unwrap() == damaged);
        server.kill();
        // `--accept-lost-tail` is needed once. The next starts work without it.
        let server = Process::start(place).await;
        let load = Load::start(server.address, "after");
        load.accepts_more(50).await;
        server.kill();
        let later = load.stop().await;
        let server = Process::start(place).await;
        let there = stored(place).await;
        assert_eq!(accepted_and_missing(&later, &there), 0);
        server.terminate().await;
    });
}

#[test]
fn data_that_another_program_copied_from_the_log_is_not_lost() {
    run(async |place| {
        let attempts = kill_under_load(place).await;
        // Opens and closes the database, as the sqlite3 shell does: opening recovers the log, and closing removes it.
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop(stored(place).await);
        assert!(!log_file(place).exists());
        let server = Process::start(place).await;
        assert_kept(place, &attempts).await;
        server.terminate().await;
    });
}

#[test]
fn data_of_a_restore_is_not_lost() {
    run(async |place| {
        let server = Process::start(place).await;
        let load = Load::start(server.address, "before");
        load.accepts_more(50).await;
        let attempts = load.stop().await;
        let backup = place.folder.path().join("backup");
        assert!(
            crate::operations::operations::posthaste(place, &["backup", backup.to_str().unwrap()]).status.success()
        );
        server.terminate().await;
        for suffix in ["", "-wal", "-shm", "-state"] {
            drop(std::fs::remove_file(place.folder.path().join(format!("posthaste.db{suffix}"))));
        }
        // Starts on a new and nearly empty database. A restore writes the messages of the backup into it while the server runs.
        let server = Process::start(place).await;
        assert!(
            crate::operations::operations::posthaste(place, &["restore", "--yes", backup.to_str().unwrap()])
                .status
                .success()
        );
        server.kill();
        let mut damaged = std::fs::read(log_file(place)).unwrap();
        let at = damaged.len() / 2;
        damaged[at] ^= 1;
        std::fs::write(log_file(place), &damaged).unwrap();
        // If the server starts, the damaged log was no longer needed. Otherwise the start is refused.
        let mut server = Process::spawn(place, Wrapping::default());
        if server.starts().await {
            assert_kept(place, &attempts).await;
            server.terminate().await;
        } else {
            assert!(server.log().contains("--accept-lost-tail"), "{}", server.log());
        }
    });
}
