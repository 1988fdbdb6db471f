//! Progress of what takes longer than two seconds, on standard error.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::store::db::progress::Progress;

/// From when on progress is shown.
const SILENT: Duration = Duration::from_secs(2);
/// How often, on a terminal.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(200);
/// How often, in a log.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// One line that is written over on a terminal; a line now and then elsewhere.
pub struct ProgressLine {
    what: &'static str,
    started: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl ProgressLine {
    /// Of what is being done.
    pub fn new(what: &'static str) -> Self {
        Self { what, started: Instant::now(), shown: None, terminal: std::io::stderr().is_terminal() }
    }

    /// Shows it, if it is time to.
    pub fn show(&mut self, progress: Progress) {
        if self.is_due() {
            let Progress { step, done, total } = progress;
            let percent = done * 100 / total.max(1);
            self.write(&format!("{}, {step}: {percent} % ({done} of {total})", self.what));
        }
    }

    /// Shows how many rows were read, of a number that nobody knows.
    pub fn count(&mut self, rows: u64) {
        if self.is_due() {
            self.write(&format!("{}: {rows} read", self.what));
        }
    }

    /// Whether it is time to show something; then that is noted.
    fn is_due(&mut self) -> bool {
        let interval = if self.terminal { TERMINAL_INTERVAL } else { LOG_INTERVAL };
        let due = self.shown.map_or(self.started.elapsed() >= SILENT, |shown| shown.elapsed() >= interval);
        if due {
            self.shown = Some(Instant::now());
        }
        due
    }

    fn write(&self, text: &str) {
        if self.terminal {
            eprint!("\r{text}   ");
            // A terminal that cannot be written to loses a line of progress, nothing else.
            drop(std::io::stderr().flush());
        } else {
            eprintln!("{text}");
        }
    }

    /// Leaves the line.
    pub fn end(&self) {
        if self.terminal && self.shown.is_some() {
            eprintln!();
        }
    }
}
