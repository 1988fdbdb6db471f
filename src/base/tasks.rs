//! Helpers for background tasks: logging of panics, and a flag that says whether the task of a queue has ended.
//!
//! Tasks that run as long as the server are not started here. The supervisor in `workers` starts them.
//!
//! Invariant: a task that is spawned here has the [`PanicSwitch`] of the supervised task that spawned it, if there is one.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

/// Spawns a task that ends by itself. If it panics, its name is logged.
pub fn spawn<T: Send + 'static>(name: &'static str, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(log_panic(name, work).in_current_span())
}

/// Runs `work`. If it panics, logs `name` and continues the panic.
pub fn log_panic<T>(name: &'static str, work: impl Future<Output = T>) -> impl Future<Output = T> {
    // The caller's switch is read here, because a spawned task has no task-local values.
    let switch = PANIC_SWITCH.try_with(Clone::clone).ok().flatten();
    PANIC_SWITCH.scope(switch, async move {
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(outcome) => outcome,
            Err(panic) => {
                // This line leaves out the message of the panic, which may contain text of a caller. The panic hook prints it.
                tracing::error!(task = name, "a task panicked");
                resume_unwind(panic)
            }
        }
    })
}

tokio::task_local! {
    static PANIC_SWITCH: Option<Arc<PanicSwitch>>;
}

/// A place in the middle of a task's work where a panic could lose something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicPoint {
    /// A batch of sends or changes has left its queue and has not been started.
    BatchTaken,
    /// A batch is committed and not answered.
    BatchCommitted,
    /// A scheduled message is sent and the others that are due are not.
    ScheduledSent,
    /// A mail has left its queue and has not been delivered.
    MailTaken,
    /// A webhook has received an event, and the delivery is not recorded.
    WebhookCalled,
    /// Presence is written and the result is not recorded.
    PresenceWritten,
}

/// Lets a test make a supervised task panic at a [`PanicPoint`]. A running server never sets it.
#[derive(Debug, Default)]
pub struct PanicSwitch(Mutex<Option<PanicPoint>>);

impl PanicSwitch {
    /// Makes the next task under this switch that reaches `point` panic, once.
    pub fn set(&self, point: PanicPoint) {
        *self.lock() = Some(point);
    }

    /// Whether a point is set and no task has reached it yet.
    pub fn is_set(&self) -> bool {
        self.lock().is_some()
    }

    /// Runs `work`, which may spawn tasks, under this switch.
    pub fn scope<F: Future>(self: Arc<Self>, work: F) -> impl Future<Output = F::Output> {
        PANIC_SWITCH.scope(Some(self), work)
    }

    fn lock(&self) -> MutexGuard<'_, Option<PanicPoint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Panics if a test has asked for a panic here.
pub fn panic_point(point: PanicPoint) {
    let is_wanted = PANIC_SWITCH.try_with(|switch| {
        switch.as_ref().is_some_and(|switch| switch.lock().take_if(|wanted| *wanted == point).is_some())
    });
    if is_wanted.unwrap_or(false) {
        panic!("a test made this task panic: {point:?}");
    }
}

/// Whether the task of a queue has ended and has not been started again.
#[derive(Debug, Default)]
pub struct RunFlag {
    ended: AtomicBool,
}

impl RunFlag {
    /// Marks the task as running until the guard is dropped. A panic drops the guard too.
    pub fn raise(&self) -> RunGuard<'_> {
        self.ended.store(false, Ordering::Release);
        RunGuard(self)
    }

    /// Whether the task has run and has ended. Before its first run this is `false`, because work in the queue waits for the
    /// first run.
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
