//! What processes asked of the kernel, in order: strace's log, read.
//!
//! A call that strace logs as begun runs after that moment, and one that it logs as ended was over before: the tracer stops
//! the process on either side. So "ended before the other began" in the log is true of the calls themselves, also across two
//! logs, which share the machine's clock.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// Bytes of each argument that are logged: a whole page, or a whole write of PostgreSQL's log.
const LOGGED_BYTES: usize = 1 << 20;

/// One call of a process.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    /// The arguments; a file descriptor comes with its path: `7</tmp/posthaste.db-wal>`.
    pub arguments: String,
    /// Microseconds since 1970.
    pub began: u64,
    pub ended: u64,
    /// What the kernel answered; `None` where the process ended inside the call.
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

    /// Data that goes out to a peer, or to a file.
    pub fn is_write(&self) -> bool {
        ["write", "writev", "pwrite64", "pwritev", "pwritev2", "sendto", "sendmsg"].contains(&self.name.as_str())
    }

    pub fn is_sync(&self) -> bool {
        ["fsync", "fdatasync"].contains(&self.name.as_str())
    }
}

/// The words that put strace before a command: every thread and every child, to `log`, only `calls`.
pub fn tracer(log: &Path, calls: &str, more: &[&str]) -> Vec<String> {
    let version = Command::new("strace").arg("--version").output();
    assert!(
        version.is_ok_and(|output| output.status.success()),
        "this test watches system calls and needs strace: run scripts/setup test, or install the package strace"
    );
    let mut words: Vec<String> = ["strace", "-f", "--seccomp-bpf", "-ttt", "-T", "-y", "-o"].map(str::to_owned).into();
    words.push(log.display().to_string());
    words.extend(["-s".to_owned(), LOGGED_BYTES.to_string()]);
    words.extend(["-e".to_owned(), format!("trace={calls}")]);
    words.extend(more.iter().map(|word| (*word).to_owned()));
    words
}

/// Every call of a finished log, in the order in which they ended.
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

/// `PID SECONDS.MICROSECONDS event`; signals and exits are none of ours.
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

/// `name(arguments) = result [error] <duration>`.
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
