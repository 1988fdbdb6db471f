//! Settings of PostgreSQL with which an acknowledged commit can be lost in a power loss.
//!
//! Promise: a node refuses to start with them unless `--allow-unsafe-storage` is given, and `doctor` names them.

use std::process::Command;
use std::time::Duration;

use crate::support::Place;
use crate::support::cluster::Cluster;
use crate::support::process::{Process, Wrapping};

const END_TIMEOUT: Duration = Duration::from_secs(30);
const ALLOW: &str = "--allow-unsafe-storage";
/// Each setting, the statement that makes it unsafe, and the statement that resets it.
const UNSAFE: &[(&str, &str, &str)] = &[
    ("fsync", "ALTER SYSTEM SET fsync = off", "ALTER SYSTEM RESET fsync"),
    ("full_page_writes", "ALTER SYSTEM SET full_page_writes = off", "ALTER SYSTEM RESET full_page_writes"),
    ("synchronous_commit", "ALTER SYSTEM SET synchronous_commit = off", "ALTER SYSTEM RESET synchronous_commit"),
    (
        "synchronous_commit",
        "ALTER ROLE posthaste SET synchronous_commit = off",
        "ALTER ROLE posthaste RESET synchronous_commit",
    ),
];

#[test]
fn unsafe_settings_are_refused_unless_they_are_allowed() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start().await;
        let place = Place::in_cluster(&cluster.url()).await;
        for (name, off, on) in UNSAFE {
            set(&place, off).await;
            let (log, ended_well) = start_refused(&place).await;
            assert!(!ended_well, "{off}: {log}");
            assert!(log.contains(name) && log.contains(ALLOW), "{off}: {log}");
            let wrapping = Wrapping { arguments: vec![ALLOW.to_owned()], ..Wrapping::default() };
            Process::start_wrapped(&place, wrapping).await.terminate().await;
            let found = doctor(&place);
            assert!(found.contains(name), "{off}: {found}");
            set(&place, on).await;
        }
        Process::start(&place).await.terminate().await;
        let found = doctor(&place);
        assert!(UNSAFE.iter().all(|(name, _, _)| !found.contains(name)), "{found}");
    });
}

async fn set(place: &Place, sql: &str) {
    place.sql(sql).await;
    place.sql("SELECT pg_reload_conf()").await;
    // PostgreSQL reads its configuration again after a signal to the postmaster, which takes a moment.
    tokio::time::sleep(Duration::from_millis(300)).await;
}

/// Starts a server without `--allow-unsafe-storage`. Returns its output and whether it ended with success.
async fn start_refused(place: &Place) -> (String, bool) {
    let process = Process::spawn(place, Wrapping::default());
    let log = process.log_file();
    let status = process.ended(END_TIMEOUT).await;
    (std::fs::read_to_string(log).unwrap(), status.success())
}

fn doctor(place: &Place) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args(["doctor", "--database-url", &place.postgres_url(), "--data-dir"])
        .arg(place.folder.path())
        .current_dir(place.folder.path())
        .output()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
