//! The disk refuses writes: it is full, or a file may not grow. These tests run on SQLite only, because there the server
//! itself writes the files of the database.

use std::process::Command;

use super::{Attempt, Load, assert_kept, repeat_lost, stored};
use crate::messages::messages::assert_dense;
use crate::support::place::{Kind, Place};
use crate::support::process::{Process, Wrapping};
use crate::support::trace;
use crate::support::wire::{Wire, get_request};

const REFUSALS: usize = 64;
const WAL_CALLS: &str = "write,pwrite64,fsync,fdatasync";

#[test]
fn sends_are_refused_while_a_file_may_not_grow() {
    run(async |place| {
        // The shell that starts the server ignores SIGXFSZ, and the server inherits this. So a write beyond the limit fails
        // with EFBIG and does not end the server.
        let wrapping = Wrapping { preamble: "trap '' XFSZ", ..Wrapping::default() };
        let server = Process::start_wrapped(place, wrapping).await;
        let load = Load::start(server.address, "limited");
        load.accepts_more(200).await;
        let wal = place.folder.path().join("posthaste.db-wal");
        limit_file_size(&server, &(wal.metadata().unwrap().len() + 10_000).to_string());
        load.wait_for("sends are refused", |load| load.refused() >= REFUSALS).await;
        // Reads still work, and `/readyz` reports that writes do not.
        let mut wire = Wire::connect(server.address).await.unwrap();
        assert_eq!(wire.exchange(&get_request("/api/messages/bugs")).await.unwrap().status, 200);
        wire.exchange(&get_request("/readyz")).await.unwrap().problem(503, "unavailable");
        limit_file_size(&server, "unlimited");
        load.accepts_more(200).await;
        check(place, server, load.stop().await, &[(503, "unavailable"), (507, "storage_full")]).await;
    });
}

#[test]
fn sends_are_refused_while_the_disk_is_full() {
    // The 1,500th to the 1,560th write to the write-ahead log fail. By then the server has started and the senders are sending.
    // These 61 failing writes make several commits fail.
    run_with_fault("inject=write,pwrite64:error=ENOSPC:when=1500..1560", &[(507, "storage_full")]);
}

/// Sends messages to a server under strace, which makes some system calls on the write-ahead log fail.
fn run_with_fault(fault: &'static str, refusals: &'static [(u16, &'static str)]) {
    run(async |place| {
        let wal = place.folder.path().join("posthaste.db-wal").display().to_string();
        let log = place.folder.path().join("system-calls");
        let command = trace::tracer(&log, WAL_CALLS, &["-P", &wal, "-e", fault]);
        let server = Process::start_wrapped(place, Wrapping { command, ..Wrapping::default() }).await;
        let load = Load::start(server.address, "faulty");
        load.wait_for("sends are refused", |load| load.refused() > 0).await;
        load.accepts_more(500).await;
        check(place, server, load.stop().await, refusals).await;
    });
}

fn run(test: impl AsyncFnOnce(&Place)) {
    crate::support::run(Kind::Sqlite, test);
}

/// Asserts that every refused send got a status and code from `refusals` and is not stored. Asserts that accepted messages are
/// stored, also after the server is killed.
async fn check(place: &Place, server: Process, mut attempts: Vec<Attempt>, refusals: &[(u16, &str)]) {
    let refused: Vec<&Attempt> = attempts.iter().filter(|attempt| attempt.refused().is_some()).collect();
    let there = stored(place).await;
    for attempt in &refused {
        let answer = attempt.refused().unwrap();
        let (status, code) =
            refusals.iter().find(|(status, _)| answer.status == *status).copied().unwrap_or(refusals[0]);
        answer.problem(status, code);
        assert!(!there.contains_key(&attempt.body), "{} was refused, but is stored", attempt.body);
    }
    println!("{} of {} sends refused", refused.len(), attempts.len());
    assert_kept(place, &attempts).await;
    assert_dense(place).await;
    server.kill();
    let server = Process::start(place).await;
    assert_kept(place, &attempts).await;
    repeat_lost(server.address, &mut attempts).await;
    assert_kept(place, &attempts).await;
    assert_dense(place).await;
    server.terminate().await;
}

/// Sets the maximum size of a file that the running server may write: a number of bytes, or `unlimited`.
fn limit_file_size(server: &Process, bytes: &str) {
    let id = server.id().unwrap();
    let status = Command::new("prlimit").args(["--pid", &id.to_string(), &format!("--fsize={bytes}:")]).status();
    assert!(status.is_ok_and(|status| status.success()), "prlimit (of util-linux) is needed for this test");
}
