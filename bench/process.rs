//! Child processes and scratch folders, none of which outlives the run.
//!
//! Invariant: every clean-up action is registered here and runs exactly once: by its guard at the end of the scope (also after
//! an error or a panic), or by the interrupt watcher on Ctrl-C and SIGTERM. Only processes that were started here receive
//! signals, by their id.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// An error is a sentence for the person at the terminal. No code depends on the kind of an error.
pub type Outcome<T> = Result<T, String>;

/// Adds to an error what the program was doing when it happened.
pub trait Context<T> {
    /// Turns the error into `doing: error`.
    fn context(self, doing: impl AsRef<str>) -> Outcome<T>;
}

impl<T, E: std::fmt::Display> Context<T> for Result<T, E> {
    fn context(self, doing: impl AsRef<str>) -> Outcome<T> {
        self.map_err(|error| format!("{}: {error}", doing.as_ref()))
    }
}

type Action = Box<dyn FnOnce() + Send>;

static CLEAN_UPS: Mutex<Vec<(u64, Action)>> = Mutex::new(Vec::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Runs its action when dropped, unless the interrupt watcher has already run it.
#[must_use]
struct CleanUp {
    id: u64,
}

impl CleanUp {
    fn later(action: impl FnOnce() + Send + 'static) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        locked(&CLEAN_UPS).push((id, Box::new(action)));
        Self { id }
    }
}

impl Drop for CleanUp {
    fn drop(&mut self) {
        // Holds the lock while the action runs, because the process must not end in the middle of the action.
        let mut to_undo = locked(&CLEAN_UPS);
        if let Some(place) = to_undo.iter().position(|(id, _)| *id == self.id) {
            let (_, action) = to_undo.remove(place);
            action();
        }
    }
}

/// Whether Ctrl-C or SIGTERM has ended the run. Later errors are consequences of that.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Starts the thread that runs all clean-up actions, newest first, on Ctrl-C or SIGTERM.
pub fn watch_for_interrupt() -> Outcome<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the interrupt watcher")?;
    thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let Ok(mut terminate) = signal(SignalKind::terminate()) else {
                return;
            };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        });
        INTERRUPTED.store(true, Ordering::Relaxed);
        let mut to_undo = locked(&CLEAN_UPS);
        while let Some((_, action)) = to_undo.pop() {
            action();
        }
        // The lock is still held, so nothing new can be registered between the clean-up and the end.
        std::process::exit(130);
    });
    Ok(())
}

/// A folder that is removed with its contents.
pub struct ScratchFolder {
    path: PathBuf,
    _undo: CleanUp,
}

impl ScratchFolder {
    /// Creates a new folder for this process. The bench measures durable writes, so the folder must lie on a disk: `/tmp` is
    /// often in memory, `/var/tmp` is not. `POSTHASTE_BENCH_FOLDER` names another place.
    pub fn create() -> Outcome<Self> {
        let parent = match std::env::var_os("POSTHASTE_BENCH_FOLDER") {
            Some(folder) => PathBuf::from(folder),
            None if Path::new("/var/tmp").is_dir() => PathBuf::from("/var/tmp"),
            None => std::env::temp_dir(),
        };
        let path = parent.join(format!("posthaste-bench-{}", std::process::id()));
        fs::create_dir_all(&path).context(format!("creating {}", path.display()))?;
        let doomed = path.clone();
        let undo = CleanUp::later(move || {
            let _ = fs::remove_dir_all(doomed);
        });
        Ok(Self { path, _undo: undo })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The signal that asks a child to end. It is killed after `GRACE`.
#[derive(Clone, Copy)]
pub enum Stop {
    /// SIGTERM, for servers that end gracefully on it.
    Terminate,
    /// SIGINT: PostgreSQL's fast shutdown (SIGTERM would wait for its clients).
    Interrupt,
}

const GRACE: Duration = Duration::from_secs(20);

/// A child process that ends when this guard is dropped.
pub struct Process {
    name: String,
    id: u32,
    child: Arc<Mutex<Child>>,
    log: PathBuf,
    _undo: CleanUp,
}

impl Process {
    /// Starts the command. Its standard error goes to `log`, and so does its standard output unless `output` pipes it to the
    /// caller.
    pub fn start(name: &str, command: &mut Command, log: PathBuf, stop: Stop, output: Output) -> Outcome<Self> {
        let file =
            File::options().create(true).append(true).open(&log).context(format!("opening {}", log.display()))?;
        let stdout = match output {
            Output::Piped => Stdio::piped(),
            Output::Logged => Stdio::from(file.try_clone().context("sharing the log file")?),
        };
        command.stdout(stdout).stderr(Stdio::from(file));
        let child = command.spawn().context(format!("starting {name} ({})", command.get_program().display()))?;
        let id = child.id();
        let child = Arc::new(Mutex::new(child));
        let doomed = Arc::clone(&child);
        let undo = CleanUp::later(move || end(&mut locked(&doomed), stop));
        Ok(Self { name: name.to_owned(), id, child, log, _undo: undo })
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// The piped standard output. It can be taken once.
    pub fn take_stdout(&self) -> Outcome<std::process::ChildStdout> {
        locked(&self.child).stdout.take().ok_or_else(|| format!("the output of {} is not piped", self.name))
    }

    /// Returns an error with the end of the log if the process is no longer running.
    pub fn check_running(&self) -> Outcome<()> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => {
                Err(format!("{} ended with {status}; the end of its log:\n{}", self.name, self.last_words()))
            }
        }
    }

    /// Waits until the process ends by itself with success.
    pub fn wait_for_success(&self, at_most: Duration) -> Outcome<()> {
        let deadline = Instant::now() + at_most;
        loop {
            match self.exit_status()? {
                Some(status) if status.success() => return Ok(()),
                Some(_) => return self.check_running(),
                None if Instant::now() >= deadline => {
                    return Err(format!("{} did not end within {} s", self.name, at_most.as_secs()));
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// The last lines of its log.
    pub fn last_words(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(&self.log) {
            let _ = file.read_to_string(&mut text);
        }
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    fn exit_status(&self) -> Outcome<Option<ExitStatus>> {
        locked(&self.child).try_wait().context(format!("checking {}", self.name))
    }
}

/// Where the standard output of a child goes.
#[derive(Clone, Copy)]
pub enum Output {
    /// To the log, with its standard error.
    Logged,
    /// To the caller. For small outputs only: nothing reads the pipe while the child runs.
    Piped,
}

fn end(child: &mut Child, stop: Stop) {
    let signal = match stop {
        Stop::Terminate => "TERM",
        Stop::Interrupt => "INT",
    };
    if matches!(child.try_wait(), Ok(None)) {
        // Uses the `kill` that is built into the shell, because the program may not be installed.
        let _ = Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status();
    }
    let deadline = Instant::now() + GRACE;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
