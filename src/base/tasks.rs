//! Tasks that run beside the requests: logging their panics, and knowing whether the task of a queue runs.
//!
//! A task that runs as long as the server does not start here: the supervisor in `workers` owns it.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

/// Spawns a task that ends by itself. If it panics, the log names it.
pub fn spawn<T: Send + 'static>(name: &'static str, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(log_panic(name, work).in_current_span())
}

/// Runs `work`. If it panics, logs `name` and lets the panic go on.
pub async fn log_panic<T>(name: &'static str, work: impl Future<Output = T>) -> T {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => {
            // Not its message, which may contain what a caller wrote: the panic hook prints that.
            tracing::error!(task = name, "a task panicked");
            resume_unwind(panic)
        }
    }
}

/// Whether the task that empties a queue has ended and does not run again yet.
#[derive(Debug, Default)]
pub struct RunFlag {
    ended: AtomicBool,
}

impl RunFlag {
    /// Marks the task as running until the guard is dropped, by a panic too.
    pub fn raise(&self) -> RunGuard<'_> {
        self.ended.store(false, Ordering::Release);
        RunGuard(self)
    }

    /// Whether the task has run and has ended. Before its first run this is `false`: what comes waits for it.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Held by a running task.
#[derive(Debug)]
pub struct RunGuard<'a>(&'a RunFlag);

impl Drop for RunGuard<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}
