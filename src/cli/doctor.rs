//! The command `posthaste doctor`: checks of the machine, the configuration and the data.
//!
//! Invariant: the command changes nothing, except for a small file that it writes into the data folder and removes again.

mod contents;
pub(super) mod permissions;
mod stored_files;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{block_on, check, output};
use crate::config::{self, DataOptions, ServeOptions};
use crate::store::db::migrations;
use crate::store::driver::environment::Location;
use crate::store::driver::files::folder_of;
use crate::store::sqlite::mounts;

/// With fewer free bytes on the disk, the result is a fault.
const FREE_BYTES_WANTED: u64 = 1 << 30;
/// With a lower limit of open files, the result is a warning. Each connection needs one.
const FILES_WANTED: u64 = 4_096;
/// If a sync takes longer, the result is a warning. Every commit waits for a sync.
const SLOW_SYNC: Duration = Duration::from_millis(20);
const SYNC_ROUNDS: u32 = 16;

/// The result of one check.
pub enum Finding {
    /// Nothing is wrong.
    Sound(String),
    /// Does not change the exit status.
    Warning(String),
    /// Makes the exit status 1.
    Fault(String),
}

/// Additional checks.
#[derive(clap::Args)]
pub struct Options {
    /// Also read every message and compare it with its digest, compare every uploaded file with its SHA-256 and, on SQLite,
    /// check every index. Reads all data
    #[arg(long)]
    deep: bool,
    /// Check this backup instead of the data: its digest, its structure and its schema version
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,
}

/// Runs the checks and prints the results. The exit status is 1 if a check has found a fault.
pub fn run(options: &Options, data: &DataOptions, serve: ServeOptions) -> Result<ExitCode, String> {
    if let Some(file) = &options.backup {
        let mut findings = block_on(contents::of_backup(file, options.deep))?;
        findings.extend(permissions::of_file(file));
        return print(findings);
    }
    let of_options = check::findings(data, serve)?;
    let data = config::data(data)?;
    let mut findings = vec![Finding::Sound(format!("posthaste {}, schema {}", super::VERSION, migrations::NEWEST))];
    findings.extend(of_options);
    findings.push(open_files());
    if let Location::Sqlite(file) = &data.location {
        let folder = folder_of(file);
        findings.extend(mounts::network_type(folder).map(|kind| {
            Finding::Fault(format!(
                "{} is on a network file system ({kind}), where acknowledged data can be lost; move it to a local disk or use \
                 PostgreSQL",
                file.display()
            ))
        }));
        findings.push(free_space(folder));
        findings.push(sync_time(folder));
    }
    findings.extend(permissions::of_data(&data));
    findings.extend(block_on(contents::of_database(&data, options.deep))?);
    print(findings)
}

/// Prints a line for each result. The exit status is 1 if one of them is a fault.
pub fn print(findings: Vec<Finding>) -> Result<ExitCode, String> {
    let mut healthy = true;
    let mut lines = String::new();
    for finding in findings {
        let (word, text) = match finding {
            Finding::Sound(text) => ("ok   ", text),
            Finding::Warning(text) => ("note ", text),
            Finding::Fault(text) => {
                healthy = false;
                ("wrong", text)
            }
        };
        lines += &format!("{word} {text}\n");
    }
    output::print(&lines)?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn open_files() -> Finding {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    match soft {
        Some(count) if count >= FILES_WANTED => Finding::Sound(format!("{count} open files allowed")),
        Some(count) => Finding::Warning(format!(
            "{count} open files allowed, and each connection needs one; raise the limit (LimitNOFILE in systemd, ulimit -n in a \
             shell)"
        )),
        None => Finding::Warning("the limit of open files cannot be read on this system".into()),
    }
}

fn free_space(folder: &Path) -> Finding {
    // This runs df, because the standard library has no statvfs.
    let output = std::process::Command::new("df").arg("-Pk").arg(folder).output();
    let free = output.ok().and_then(|output| {
        let text = String::from_utf8(output.stdout).ok()?;
        text.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()
    });
    match free.map(|kib| kib * 1_024) {
        Some(bytes) if bytes >= FREE_BYTES_WANTED => {
            Finding::Sound(format!("{} GiB free in {}", bytes >> 30, folder.display()))
        }
        Some(bytes) => {
            Finding::Fault(format!("only {} MiB free in {}; free some space", bytes >> 20, folder.display()))
        }
        None => Finding::Warning(format!(
            "free space in {} cannot be read; start the server once or create the folder",
            folder.display()
        )),
    }
}

fn sync_time(folder: &Path) -> Finding {
    let file = folder.join(".posthaste-doctor");
    let measured = (|| {
        let handle = std::fs::File::create(&file)?;
        let started = Instant::now();
        for round in 0..SYNC_ROUNDS {
            std::os::unix::fs::FileExt::write_all_at(&handle, &[1; 4_096], u64::from(round) * 4_096)?;
            handle.sync_data()?;
        }
        Ok::<_, std::io::Error>(started.elapsed() / SYNC_ROUNDS)
    })();
    // If the file could not be created, there is nothing to remove.
    drop(std::fs::remove_file(&file));
    match measured {
        Ok(time) if time <= SLOW_SYNC => Finding::Sound(format!("a write reaches the disk in {} µs", time.as_micros())),
        Ok(time) => Finding::Warning(format!(
            "a write takes {} ms to reach the disk, and every send waits for a write",
            time.as_millis()
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Finding::Warning(format!(
            "{} does not exist yet; the server creates it at its first start",
            folder.display()
        )),
        Err(error) => Finding::Fault(format!("{} cannot be written: {error}", folder.display())),
    }
}
