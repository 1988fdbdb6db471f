//! Progress of long commands, on standard error. Nothing is shown in the first two seconds.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::output::note;
use crate::store::db::progress::Progress;

/// Time before the first output.
const SILENT: Duration = Duration::from_secs(2);
/// Time between two outputs on a terminal.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two outputs elsewhere, such as in a log.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The progress of one activity: on a terminal one line that is overwritten, elsewhere a new line each time.
pub struct ProgressLine {
    activity: &'static str,
    started: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl ProgressLine {
    /// The progress of `activity`, such as "backing up".
    pub fn new(activity: &'static str) -> Self {
        Self { activity, started: Instant::now(), shown: None, terminal: std::io::stderr().is_terminal() }
    }

    /// Shows the progress, unless it was shown a moment ago.
    pub fn show(&mut self, progress: Progress) {
        if self.is_due() {
            let Progress { step, done, total } = progress;
            let percent = done * 100 / total.max(1);
            self.write(&format!("{}, {step}: {percent} % ({done} of {total})", self.activity));
        }
    }

    /// Shows the number of rows read so far. For activities whose total is unknown.
    pub fn count(&mut self, rows: u64) {
        if self.is_due() {
            self.write(&format!("{}: {rows} read", self.activity));
        }
    }

    /// Whether an output is due. If it is due, stores the current time as the time of the last output.
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
            // If the write fails, only a line of progress is lost.
            let mut stderr = std::io::stderr().lock();
            drop(write!(stderr, "\r{text}   ").and_then(|()| stderr.flush()));
        } else {
            note(text);
        }
    }

    /// Ends the line on a terminal.
    pub fn end(&self) {
        if self.terminal && self.shown.is_some() {
            note("");
        }
    }
}
