//! A failed sync: its data may be lost, even if a later sync succeeds. SQLite only, where the server itself syncs.

use std::time::Duration;

use super::disk::Disk;
use crate::messages::messages::assert_dense;
use crate::operations::durability::{Attempt, Load, assert_kept};
use crate::support::place::Kind;
use crate::support::process::Process;
use crate::support::{Place, many};

/// How long a server may take to end after a fatal fault.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// Characters of a message body. Bodies are long, so that few messages fill the write-ahead log.
const BODY_CHARACTERS: usize = 7_900;

/// Makes a sync fail by `rule` under load, which ends the server. Then the power is lost. Asserts that no accepted message is
/// lost.
async fn checkpoint_fails(place: &Place, rule: &str) {
    let disk = Disk::new(place);
    let server = disk.start(place, &[]).await;
    let load = Load::start_padded(server.address, "before", BODY_CHARACTERS);
    load.accepts_more(200).await;
    disk.fail(rule);
    let log = server.log_file();
    let status = server.ended(Duration::from_secs(120)).await;
    let attempts = load.stop().await;
    let said = std::fs::read_to_string(log).unwrap();
    assert!(!status.success(), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains("ERROR") && last.contains("sync"), "{said}");
    println!("{} accepted before the end: {last}", accepted(&attempts));
    disk.lose_power();
    disk.mend();
    let server = disk.start(place, &[]).await;
    assert_kept(place, &attempts).await;
    assert_dense(place).await;
    // The last start copied the whole log into the database file and synced it, so the messages survive another power loss.
    let load = Load::start(server.address, "after");
    load.accepts_more(50).await;
    let attempts: Vec<Attempt> = attempts.into_iter().chain(load.stop().await).collect();
    server.kill();
    disk.lose_power();
    let server = disk.start(place, &[]).await;
    assert_kept(place, &attempts).await;
    server.terminate().await;
}

fn accepted(attempts: &[Attempt]) -> usize {
    attempts.iter().filter(|attempt| attempt.accepted().is_some()).count()
}

fn run(test: impl AsyncFnOnce(&Place)) {
    crate::support::run(Kind::Sqlite, test);
}

#[test]
fn a_failed_sync_of_the_database_during_a_checkpoint_loses_nothing() {
    for skip in 0..many(2, 4) {
        run(async |place| checkpoint_fails(place, &format!("sync posthaste.db 5 {skip} 1 0")).await);
    }
}

#[test]
fn after_a_failed_sync_no_other_process_may_have_the_database_open() {
    run(async |place| {
        let disk = Disk::new(place);
        let server = disk.start(place, &[]).await;
        let load = Load::start_padded(server.address, "before", BODY_CHARACTERS);
        load.accepts_more(200).await;
        // The process of the test keeps the index of the write-ahead log in use. According to that index, the whole log has
        // been copied into the database file.
        let other = rusqlite::Connection::open(place.sqlite_file()).unwrap();
        other.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        let count = |connection: &rusqlite::Connection| -> i64 {
            connection.query_row("SELECT count(*) FROM messages", [], |row| row.get(0)).unwrap()
        };
        assert!(count(&other) > 0);
        disk.fail("sync posthaste.db 5 0 1 0");
        server.ended(Duration::from_secs(120)).await;
        let attempts = load.stop().await;
        disk.mend();
        let server = Process::spawn(place, disk.wrapping(&[]));
        let log = server.log_file();
        let status = server.ended(END_TIMEOUT).await;
        let said = std::fs::read_to_string(log).unwrap();
        assert!(!status.success() && said.contains("no other process"), "{said}");
        other.close().unwrap();
        let server = disk.start(place, &[]).await;
        server.kill();
        disk.lose_power();
        let server = disk.start(place, &[]).await;
        assert_kept(place, &attempts).await;
        server.terminate().await;
    });
}

#[test]
fn a_failed_sync_of_the_log_ends_the_server_and_loses_nothing() {
    for skip in [0, 3, 40] {
        run(async |place| checkpoint_fails(place, &format!("sync posthaste.db-wal 5 {skip} 1 0")).await);
    }
}

#[test]
fn without_a_fault_a_power_loss_loses_no_acknowledged_message() {
    run(async |place| {
        let disk = Disk::new(place);
        let mut attempts = Vec::new();
        for round in 0..many(2, 8) {
            let server = disk.start(place, &[]).await;
            let load = Load::start(server.address, &format!("round {round}"));
            load.accepts_more(200).await;
            server.kill();
            attempts.extend(load.stop().await);
            disk.lose_power();
        }
        let server = Process::start(place).await;
        assert_kept(place, &attempts).await;
        assert_dense(place).await;
        server.terminate().await;
    });
}

#[test]
fn a_start_whose_syncs_fail_ends_with_a_reason() {
    run(async |place| {
        let disk = Disk::new(place);
        let server = disk.start(place, &[]).await;
        let load = Load::start(server.address, "before");
        load.accepts_more(50).await;
        server.kill();
        let attempts = load.stop().await;
        // The log, the file into which it is copied, and the folder that contains them.
        for file in ["posthaste.db-wal", "posthaste.db", place.folder.path().file_name().unwrap().to_str().unwrap()] {
            disk.fail(&format!("sync {file} 5 0 -1 0"));
            let server = Process::spawn(place, disk.wrapping(&[]));
            let log = server.log_file();
            let status = server.ended(END_TIMEOUT).await;
            let said = std::fs::read_to_string(log).unwrap();
            assert!(!status.success() && said.contains("sync") && !said.contains("listening"), "{file}: {said}");
        }
        disk.lose_power();
        disk.mend();
        let server = disk.start(place, &[]).await;
        assert_kept(place, &attempts).await;
        server.terminate().await;
    });
}
