//! Child processes and scratch folders, and the promise that none of them outlives the run.
//!
//! Invariant: whatever has to be undone is registered here, and is undone exactly once: by its guard
//! at the end of the scope (also on an error or a panic), or by the interrupt watcher on Ctrl-C and
//! SIGTERM. Only processes that were started here are ever signalled, by their id.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Outcomes carry a sentence for the person at the terminal; nobody branches on the kind of error.
pub type Outcome<T> = Result<T, String>;

/// Says what was being done when something failed.
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

static TO_UNDO: Mutex<Vec<(u64, Action)>> = Mutex::new(Vec::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Runs its action when dropped, unless the interrupt watcher was faster.
#[must_use]
struct Undo {
    id: u64,
}

impl Undo {
    fn later(action: impl FnOnce() + Send + 'static) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        locked(&TO_UNDO).push((id, Box::new(action)));
        Self { id }
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        // The lock is held while the action runs: the process must not end in the middle of it.
        let mut to_undo = locked(&TO_UNDO);
        if let Some(place) = to_undo.iter().position(|(id, _)| *id == self.id) {
            let (_, action) = to_undo.remove(place);
            action();
        }
    }
}

/// Whether the run was ended from outside; errors after that are its consequences.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Starts the thread that undoes everything, newest first, on Ctrl-C or SIGTERM.
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
        let mut to_undo = locked(&TO_UNDO);
        while let Some((_, action)) = to_undo.pop() {
            action();
        }
        // Still under the lock: nothing new can be registered between the clean-up and the end.
        std::process::exit(130);
    });
    Ok(())
}

/// A folder that is removed with everything in it.
pub struct ScratchFolder {
    path: PathBuf,
    _undo: Undo,
}

impl ScratchFolder {
    /// A fresh folder for this process. Durable writes are to be measured, so it must lie on a disk:
    /// `/tmp` is often memory, `/var/tmp` is not. `POSTHASTE_BENCH_FOLDER` names another place.
    pub fn create() -> Outcome<Self> {
        let parent = match std::env::var_os("POSTHASTE_BENCH_FOLDER") {
            Some(folder) => PathBuf::from(folder),
            None if Path::new("/var/tmp").is_dir() => PathBuf::from("/var/tmp"),
            None => std::env::temp_dir(),
        };
        let path = parent.join(format!("posthaste-bench-{}", std::process::id()));
        fs::create_dir_all(&path).context(format!("creating {}", path.display()))?;
        let doomed = path.clone();
        let undo = Undo::later(move || {
            let _ = fs::remove_dir_all(doomed);
        });
        Ok(Self { path, _undo: undo })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// How a child is asked to end; `GRACE` later it is killed.
#[derive(Clone, Copy)]
pub enum Stop {
    /// SIGTERM: for servers that end gracefully by it.
    Terminate,
    /// SIGINT: PostgreSQL's fast shutdown (SIGTERM would wait for its clients).
    Interrupt,
}

const GRACE: Duration = Duration::from_secs(20);

/// A child process that ends with its guard.
pub struct Process {
    name: String,
    id: u32,
    child: Arc<Mutex<Child>>,
    log: PathBuf,
    _undo: Undo,
}

impl Process {
    /// Starts the command with its standard error going to `log`, and its output as well unless the
    /// caller has piped it.
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
        let undo = Undo::later(move || end(&mut locked(&doomed), stop));
        Ok(Self { name: name.to_owned(), id, child, log, _undo: undo })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The piped output, once.
    pub fn take_stdout(&self) -> Outcome<std::process::ChildStdout> {
        locked(&self.child).stdout.take().ok_or_else(|| format!("the output of {} is not piped", self.name))
    }

    /// An error with the end of its log if the process is no longer running.
    pub fn check_running(&self) -> Outcome<()> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => Err(format!("{} ended with {status}; its last words:\n{}", self.name, self.last_words())),
        }
    }

    /// Waits for the process to end by itself, successfully.
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
        locked(&self.child).try_wait().context(format!("asking after {}", self.name))
    }
}

/// Where the standard output of a child goes.
#[derive(Clone, Copy)]
pub enum Output {
    /// To the log, with its standard error.
    Logged,
    /// To the caller; small outputs only, nobody drains the pipe meanwhile.
    Piped,
}

fn end(child: &mut Child, stop: Stop) {
    let signal = match stop {
        Stop::Terminate => "TERM",
        Stop::Interrupt => "INT",
    };
    if matches!(child.try_wait(), Ok(None)) {
        // The shell's own `kill` is there even where no such program is installed.
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
