//! The real server binary as a process, which tests can kill, end, trace and limit.
//!
//! Invariant: signals go only to processes that were started here, by their id, and no process outlives its guard.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::Place;
use super::wire::{Wire, get_request};

/// The longest wait for the start of a server. A debug build under a tracer is slow, and the machine also runs other tests.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

static STARTS: AtomicU32 = AtomicU32::new(0);

/// `posthaste serve --demo` on a free port of 127.0.0.1.
pub struct Process {
    /// The address of the server once it is ready.
    pub address: SocketAddr,
    /// The server, or a wrapper that ends when the server ends.
    child: Child,
    /// The file with the server's own process id.
    id_file: PathBuf,
    log: PathBuf,
}

/// Additions to the usual command of a server.
#[derive(Default)]
pub struct Wrapping {
    /// Words of a command that runs the server, for example a tracer.
    pub command: Vec<String>,
    /// Lines that the shell runs before it becomes the server.
    pub preamble: &'static str,
    /// Further arguments of `serve`.
    pub arguments: Vec<String>,
    /// Environment variables of the server only, not of its wrapper.
    pub environment: Vec<(&'static str, String)>,
    /// The URL of the database if it is not the place's own, for example to go through a proxy.
    pub database_url: Option<String>,
}

impl Process {
    /// Starts the server on the place's database and waits until it is ready.
    pub async fn start(place: &Place) -> Self {
        Self::start_wrapped(place, Wrapping::default()).await
    }

    pub async fn start_wrapped(place: &Place, wrapping: Wrapping) -> Self {
        let mut process = Self::spawn(place, wrapping);
        process.wait_until_ready().await;
        process
    }

    /// Starts the server without waiting.
    pub fn spawn(place: &Place, wrapping: Wrapping) -> Self {
        let number = STARTS.fetch_add(1, Ordering::Relaxed);
        let log = place.folder.path().join(format!("serve-{number}.log"));
        let id_file = place.folder.path().join(format!("serve-{number}.pid"));
        // The shell writes its process id and then becomes the server. So the id is known also if a wrapper starts the shell.
        let script = format!("{}\necho $$ >\"$0\"\nexec \"$@\"", wrapping.preamble);
        let mut words = wrapping.command;
        words.extend(["sh", "-c", &script].map(str::to_owned));
        words.push(id_file.display().to_string());
        if !wrapping.environment.is_empty() {
            words.push("env".to_owned());
            words.extend(wrapping.environment.iter().map(|(name, value)| format!("{name}={value}")));
        }
        // Tests that measure times can set this variable to a release build.
        let binary = std::env::var("POSTHASTE_TEST_BIN");
        words.push(binary.unwrap_or_else(|_| env!("CARGO_BIN_EXE_posthaste").to_owned()));
        // Some tests add users before, with a server in the process of the test.
        let options = ["--demo", "--allow-open-existing", "--rate-limits", "off", "--listen", "127.0.0.1:0"];
        words.push("serve".to_owned());
        words.extend(options.map(str::to_owned));
        words.extend(["--data-dir".to_owned(), place.folder.path().display().to_string()]);
        words.extend(["--database-url".to_owned(), wrapping.database_url.unwrap_or_else(|| place.url())]);
        words.extend(wrapping.arguments);
        let child = start(&words, &log);
        Self { address: SocketAddr::from(([127, 0, 0, 1], 0)), child, id_file, log }
    }

    pub async fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(address) = listening_on(&self.log()) {
                self.address = address;
                if is_ready(address).await {
                    return;
                }
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the server ended with {status} instead of starting:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "the server did not become ready:\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the server is ready. Returns `false` if it ends instead.
    pub async fn starts(&mut self) -> bool {
        loop {
            if let Some(address) = listening_on(&self.log()) {
                self.address = address;
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The server's own process id, also inside a wrapper. `None` while only the wrapper runs.
    pub fn id(&self) -> Option<u32> {
        std::fs::read_to_string(&self.id_file).ok()?.trim().parse().ok()
    }

    /// The server's standard output and standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The file with the server's output, which can be read after the server has ended.
    pub fn log_file(&self) -> PathBuf {
        self.log.clone()
    }

    /// Sends SIGKILL.
    pub fn kill(mut self) {
        self.end_now();
    }

    /// Sends SIGSTOP: the server does nothing until it is resumed.
    pub fn pause(&self) {
        signal("STOP", self.id().expect("the server has no process id yet"));
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        signal("CONT", self.id().expect("the server has no process id yet"));
    }

    /// Sends SIGTERM.
    pub fn send_sigterm(&self) {
        signal("TERM", self.id().expect("the server has no process id yet"));
    }

    /// Waits for the end of the server. Returns its exit status.
    pub async fn ended(mut self, within: Duration) -> ExitStatus {
        wait(&mut self.child, within).await.unwrap_or_else(|| panic!("the server did not end:\n{}", self.log()))
    }

    /// Sends SIGTERM and waits for a successful end.
    pub async fn terminate(self) {
        self.send_sigterm();
        let log = self.log.clone();
        let status = self.ended(Duration::from_secs(20)).await;
        assert!(status.success(), "{status}:\n{}", std::fs::read_to_string(log).unwrap_or_default());
    }

    fn end_now(&mut self) {
        // Once the child has been reaped, its process id may belong to another process.
        if matches!(self.child.try_wait(), Ok(None)) {
            match self.id() {
                // The wrapper ends when the server does.
                Some(id) if id != self.child.id() => drop(try_signal("KILL", id)),
                _ => drop(self.child.kill()),
            }
            drop(self.child.wait());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_now();
    }
}

/// Starts a command whose output goes to `log`, in the folder of the log.
pub fn start(words: &[String], log: &Path) -> Child {
    let file = File::options().create(true).append(true).open(log).unwrap();
    Command::new(&words[0])
        .args(&words[1..])
        .current_dir(log.parent().unwrap())
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", words[0]))
}

/// Sends a signal to a process that was started here and was not reaped yet.
pub fn signal(name: &str, id: u32) {
    let status = try_signal(name, id).unwrap();
    assert!(status.success(), "process {id} cannot be signalled");
}

fn try_signal(name: &str, id: u32) -> std::io::Result<ExitStatus> {
    // Uses the `kill` that is built into the shell, because the program may not be installed.
    Command::new("sh").args(["-c", &format!("kill -{name} {id}")]).status()
}

/// Waits for the exit status. Returns `None` if the process still runs after `within`.
pub async fn wait(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return Some(status),
            None if Instant::now() >= deadline => return None,
            None => tokio::time::sleep(POLL).await,
        }
    }
}

/// The address in the line that the server logs when it listens. Reads both log formats.
pub fn listening_on(log: &str) -> Option<SocketAddr> {
    if let Some(line) = log.lines().find(|line| line.contains(r#""message":"listening""#)) {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        return line["address"].as_str()?.parse().ok();
    }
    let line = log.lines().find(|line| line.contains(" listening "))?;
    line.split_once("address=")?.1.split(' ').next()?.parse().ok()
}

async fn is_ready(address: SocketAddr) -> bool {
    let Ok(mut wire) = Wire::connect(address).await else { return false };
    matches!(wire.exchange(&get_request("/readyz")).await, Ok(answer) if answer.status == 200)
}
