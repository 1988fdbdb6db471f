//! `/readyz` reports whether writes work. It knows this from the outcome of the last writes, so it causes no load itself.
//! SQLite only: faults of PostgreSQL are tested in their own files.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use super::disk::Disk;
use crate::operations::durability::{Load, assert_kept};
use crate::support::Place;
use crate::support::place::Kind;
use crate::support::process::Process;
use crate::support::server::Answer;
use crate::support::wire::{Wire, get_request, send_request};

const PATIENCE: Duration = Duration::from_secs(15);

/// Reads from the state file how many frames of the write-ahead log hold acknowledged commits.
pub fn logged_frames(place: &Place) -> u64 {
    let state = std::fs::read_to_string(place.folder.path().join("posthaste.db-state")).unwrap();
    let mark = state.lines().nth(1).unwrap();
    mark.rsplit(' ').next().unwrap().parse().unwrap()
}

fn run(test: impl AsyncFnOnce(&Place)) {
    crate::support::run(Kind::Sqlite, test);
}

async fn get(address: SocketAddr, target: &str) -> Answer {
    Wire::connect(address).await.unwrap().exchange(&get_request(target)).await.unwrap()
}

/// Waits until `/readyz` has this status. Returns the time that it took.
async fn until_ready_is(address: SocketAddr, status: u16) -> Duration {
    let started = Instant::now();
    loop {
        let answer = get(address, "/readyz").await;
        if answer.status == status {
            if status == 503 {
                answer.problem(503, "unavailable");
                assert!(answer.header("retry-after").is_some());
            }
            return started.elapsed();
        }
        assert!(started.elapsed() < PATIENCE, "never {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn readyz_shows_failing_writes_with_and_without_load() {
    run(async |place| {
        let disk = Disk::new(place);
        let server = disk.start(place, &[]).await;
        let mut attempts = Vec::new();
        for (error, loaded) in [(30, true), (30, false), (28, true), (5, false)] {
            let load = loaded.then(|| Load::start(server.address, &format!("{error}")));
            if let Some(load) = &load {
                load.accepts_more(20).await;
            }
            // Errors of a read-only file system (EROFS), of a full one (ENOSPC), and of a failing one (EIO).
            disk.fail(&format!("write posthaste.db-wal {error} 0 -1 0"));
            let took = until_ready_is(server.address, 503).await;
            println!("errno {error}, load: {loaded}: 503 after {took:?}");
            // Reads still work.
            assert_eq!(get(server.address, "/api/messages/bugs").await.status, 200);
            assert_eq!(get(server.address, "/healthz").await.status, 200);
            disk.mend();
            until_ready_is(server.address, 200).await;
            if let Some(load) = load {
                load.accepts_more(20).await;
                attempts.extend(load.stop().await);
            }
        }
        assert_kept(place, &attempts).await;
        server.terminate().await;
    });
}

#[test]
fn readyz_shows_a_slow_sync_while_it_lasts() {
    run(async |place| {
        let disk = Disk::new(place);
        let server = disk.start(place, &[]).await;
        let load = Load::start(server.address, "slow");
        load.accepts_more(20).await;
        disk.fail("sync posthaste.db-wal 0 0 1 8000");
        let started = Instant::now();
        until_ready_is(server.address, 503).await;
        assert!(started.elapsed() < Duration::from_secs(7), "{:?}", started.elapsed());
        until_ready_is(server.address, 200).await;
        assert!(started.elapsed() > Duration::from_secs(7), "{:?}", started.elapsed());
        load.accepts_more(20).await;
        assert_kept(place, &load.stop().await).await;
        server.terminate().await;
    });
}

#[test]
fn readyz_causes_no_load() {
    run(async |place| {
        let server = Process::start(place).await;
        // Waits until the server has finished the writes that it does by itself after its start.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut wire = Wire::connect(server.address).await.unwrap();
        let (before, started) = (logged_frames(place), Instant::now());
        let mut asked = 0;
        // Long enough for the outcome of the last write to expire once.
        while started.elapsed() < Duration::from_secs(7) {
            assert_eq!(wire.exchange(&get_request("/readyz")).await.unwrap().status, 200);
            asked += 1;
        }
        let frames = logged_frames(place).saturating_sub(before);
        println!("{asked} questions, {frames} pages written");
        assert!(asked > 100 && (1..=40).contains(&frames), "{asked} questions, {frames} pages");
        server.terminate().await;
    });
}

#[test]
fn a_start_on_a_disk_that_refuses_writes_is_refused() {
    run(async |place| {
        Process::start(place).await.terminate().await;
        let disk = Disk::new(place);
        for rules in [
            "open posthaste.db 30 0 -1 0\nopen -wal 30 0 -1 0\nopen -shm 30 0 -1 0\nopen -state 30 0 -1 0",
            "write -wal 30 0 -1 0",
        ] {
            disk.fail(rules);
            let server = Process::spawn(place, disk.wrapping(&[]));
            let log = server.log_file();
            let status = server.ended(Duration::from_secs(20)).await;
            let said = std::fs::read_to_string(log).unwrap();
            assert!(!status.success() && !said.contains("listening"), "{said}");
        }
        disk.mend();
        disk.start(place, &[]).await.terminate().await;
    });
}

#[test]
fn a_failing_read_is_a_503_until_reads_work_again() {
    run(async |place| {
        let disk = Disk::new(place);
        let server = disk.start(place, &[]).await;
        let load = Load::start_padded(server.address, "before", 7_000);
        load.accepts_more(400).await;
        let attempts = load.stop().await;
        server.kill();
        // Starts a new process, which has no part of the file in memory and must read it from the disk.
        disk.fail("");
        let server = disk.start(place, &[]).await;
        for file in ["posthaste.db", "posthaste.db-wal"] {
            disk.fail(&format!("read {file} 5 0 -1 0"));
            let mut failed = 0;
            for round in 0..40 {
                let target =
                    ["/api/messages/bugs", "/api/messages/duck", "/api/users", "/api/messages/porky"][round % 4];
                let mut wire = Wire::connect(server.address).await.unwrap();
                let request = match round % 5 {
                    4 => send_request("bugs", "duck", &format!("{file} {round}"), None),
                    _ => get_request(target),
                };
                let answer = wire.exchange(&request).await.unwrap();
                if !answer.status.is_success() {
                    answer.problem(503, "unavailable");
                    assert!(answer.header("retry-after").is_some());
                    failed += 1;
                }
            }
            println!("{failed} of 40 requests failed with {file}");
            disk.mend();
            until_ready_is(server.address, 200).await;
            for target in ["/api/messages/bugs", "/api/messages/duck", "/api/users"] {
                assert_eq!(get(server.address, target).await.status, 200, "{target}");
            }
        }
        assert_kept_beside(place, &attempts).await;
        server.terminate().await;
    });
}

/// Asserts that each accepted message is stored once. The database may hold other messages, which the test itself has sent.
async fn assert_kept_beside(place: &Place, attempts: &[crate::operations::durability::Attempt]) {
    let there = crate::operations::durability::stored(place).await;
    for attempt in attempts.iter().filter(|attempt| attempt.accepted().is_some()) {
        assert_eq!(there.get(&attempt.body).map(Vec::len), Some(1));
    }
}

#[test]
fn a_network_file_system_is_refused_unless_it_is_allowed() {
    run(async |place| {
        let folder = place.folder.path().canonicalize().unwrap();
        let mounts =
            format!("1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {} rw - nfs4 server:/data rw\n", folder.display());
        let disk = Disk::new(place).with_mounts(&mounts);
        let server = Process::spawn(place, disk.wrapping(&[]));
        let log = server.log_file();
        let status = server.ended(Duration::from_secs(20)).await;
        let said = std::fs::read_to_string(log).unwrap();
        assert!(!status.success() && said.contains("network file system (nfs4)"), "{said}");
        assert!(said.contains("--allow-unsafe-storage"), "{said}");
        disk.start(place, &["--allow-unsafe-storage"]).await.terminate().await;
        let mut words = disk.wrapper();
        words.extend([env!("CARGO_BIN_EXE_posthaste"), "doctor", "--database-url", &place.url()].map(str::to_owned));
        let output = Command::new(&words[0]).args(&words[1..]).current_dir(&folder).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains("network file system (nfs4)"), "{said}");
    });
}
