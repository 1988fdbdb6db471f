//! The system calls of processes in order, read from the log of strace.
//!
//! strace stops a process before and after each call. So a call begins after strace has logged its start, and ends before
//! strace logs its end. If call A ends in the log before call B starts, A has really ended before B started. This is also true
//! for two logs, because both have times of the machine's clock.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// How many bytes of each argument are logged. They are enough for a whole page, and for a whole write to PostgreSQL's
/// write-ahead log.
const LOGGED_BYTES: usize = 1 << 20;

/// A system call of a process.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    /// The arguments. A file descriptor is logged with its path: `7</tmp/posthaste.db-wal>`.
    pub arguments: String,
    /// Microseconds since 1970.
    pub began: u64,
    pub ended: u64,
    /// The result; `None` if the process ended inside the call.
    pub result: Option<i64>,
}

impl Call {
    /// The first argument of a call on a descriptor.
    pub fn descriptor(&self) -> &str {
        self.arguments.split([',', ')']).next().unwrap_or_default()
    }

    pub fn is_receive(&self) -> bool {
        ["read", "readv", "recvfrom", "recvmsg"].contains(&self.name.as_str())
    }

    /// Whether the call sends data to a peer or to a file.
    pub fn is_write(&self) -> bool {
        ["write", "writev", "pwrite64", "pwritev", "pwritev2", "sendto", "sendmsg"].contains(&self.name.as_str())
    }

    pub fn is_sync(&self) -> bool {
        ["fsync", "fdatasync"].contains(&self.name.as_str())
    }
}

/// The words before a command that run it under strace. strace follows every thread and child process, and writes only `calls`
/// to `log`.
pub fn tracer(log: &Path, calls: &str, more: &[&str]) -> Vec<String> {
    let version = Command::new("strace").arg("--version").output();
    assert!(
        version.is_ok_and(|output| output.status.success()),
        "this test reads system calls and needs strace: run scripts/setup test, or install the package strace"
    );
    let mut words: Vec<String> = ["strace", "-f", "--seccomp-bpf", "-ttt", "-T", "-y", "-o"].map(str::to_owned).into();
    words.push(log.display().to_string());
    words.extend(["-s".to_owned(), LOGGED_BYTES.to_string()]);
    words.extend(["-e".to_owned(), format!("trace={calls}")]);
    words.extend(more.iter().map(|word| (*word).to_owned()));
    words
}

/// Every call in a finished log, in the order of their ends.
pub fn calls(log: &Path) -> Vec<Call> {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
    let mut begun: HashMap<&str, (u64, &str)> = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((process, time, event)) = split(line) else { continue };
        if let Some(start) = event.strip_suffix(" <unfinished ...>") {
            begun.insert(process, (time, start));
        } else if let Some(rest) = event.strip_prefix("<... ") {
            let Some((began, start)) = begun.remove(process) else { continue };
            let Some((_, end)) = rest.split_once(" resumed>") else { continue };
            calls.extend(call(&format!("{start}{end}"), began, Some(time)));
        } else {
            calls.extend(call(event, time, None));
        }
    }
    calls
}

/// Splits a line of the form `PID SECONDS.MICROSECONDS event`. Returns `None` for lines about signals and exits.
fn split(line: &str) -> Option<(&str, u64, &str)> {
    let (process, rest) = line.split_once(' ')?;
    let (time, event) = rest.trim_start().split_once(' ')?;
    if event.starts_with("---") || event.starts_with("+++") {
        return None;
    }
    Some((process, micros(time)?, event))
}

fn micros(seconds: &str) -> Option<u64> {
    let (whole, fraction) = seconds.split_once('.')?;
    format!("{whole}{fraction}").parse().ok()
}

/// Parses `name(arguments) = result [error] <duration>`.
fn call(text: &str, began: u64, ended: Option<u64>) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (rest, duration) = rest.rsplit_once(" <")?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let duration = micros(duration.strip_suffix('>')?)?;
    Some(Call {
        name: name.to_owned(),
        arguments: arguments.trim_end().strip_suffix(')')?.to_owned(),
        began,
        ended: ended.unwrap_or(began + duration),
        result: result.split(' ').next()?.parse().ok(),
    })
}
