//! Units of work on their way through a queue to a thread and back.
//!
//! Invariant: a unit of work is polled once, for all it awaits is statements, which are complete at once here. A panic in it
//! is an error of it alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};

use crossbeam_channel::Receiver;
use tokio::sync::oneshot;
use tracing::Span;

use super::driver::Conn;
use crate::base::error::{Error, Result};
use crate::base::metrics::Metrics;
use crate::store::driver::environment::{Work, WorkConn};

/// A unit of work over connections `C`, whose other types the queue does not know.
pub trait Job<C>: Send {
    /// Runs it inside the transaction; whether it succeeded.
    fn run(&mut self, conn: &mut C) -> bool;
    /// Replaces its outcome by a failure.
    fn fail(&mut self, error: Error);
    /// Why it failed, if it did.
    fn error(&self) -> Option<&Error>;
    /// Whether the caller is still there.
    fn wanted(&self) -> bool;
    /// Answers the caller.
    fn answer(self: Box<Self>);
}

/// The unit of work of one caller.
pub struct Unit<C, I, T> {
    input: I,
    work: for<'a> fn(&'a mut C, &'a I) -> Work<'a, T>,
    reply: oneshot::Sender<Result<T>>,
    outcome: Option<Result<T>>,
    /// The span of the task that waits for it, so that what the thread logs names the request.
    span: Span,
}

impl<C, I, T> Unit<C, I, T> {
    /// A unit of work, and whoever waits for it.
    pub fn new(input: I, work: for<'a> fn(&'a mut C, &'a I) -> Work<'a, T>, reply: oneshot::Sender<Result<T>>) -> Self {
        Self { input, work, reply, outcome: None, span: Span::current() }
    }
}

impl<C, I: Send + Sync, T: Send> Job<C> for Unit<C, I, T> {
    fn run(&mut self, conn: &mut C) -> bool {
        let _entered = self.span.enter();
        // The thread serves everyone: a panic must not end it. The savepoint is rolled back like after any error.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let mut future = (self.work)(conn, &self.input);
            future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }));
        let outcome = match polled {
            Ok(Poll::Ready(outcome)) => outcome,
            Ok(Poll::Pending) => Err(Error::internal("a unit of work awaited more than its own statements")),
            Err(_) => Err(Error::internal("a unit of work panicked")),
        };
        let succeeded = outcome.is_ok();
        self.outcome = Some(outcome);
        succeeded
    }

    fn fail(&mut self, error: Error) {
        self.outcome = Some(Err(error));
    }

    fn error(&self) -> Option<&Error> {
        self.outcome.as_ref().and_then(|outcome| outcome.as_ref().err())
    }

    fn wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn answer(self: Box<Self>) {
        let outcome = self.outcome.unwrap_or_else(|| Err(closed()));
        // The caller may have gone away: then nobody is left to be told.
        drop(self.reply.send(outcome));
    }
}

/// Serves reads until every sender is gone.
pub fn read_loop<C: WorkConn<Conn>>(conn: &mut C, jobs: &Receiver<Box<dyn Job<C>>>, metrics: &Metrics) {
    while let Ok(mut job) = jobs.recv() {
        if !job.wanted() {
            continue;
        }
        metrics.pool_in_use.inc();
        // One snapshot for all statements of the job, and one lock on the log instead of one a statement.
        match conn.as_mut().execute("BEGIN", &[]) {
            Ok(_) => {
                job.run(conn);
                if let Err(error) = conn.as_mut().execute("COMMIT", &[]) {
                    job.fail(error);
                }
                conn.as_mut().leave_transaction();
            }
            Err(error) => job.fail(error),
        }
        metrics.pool_in_use.dec();
        job.answer();
    }
}

/// The answer to a unit of work that is submitted after the database was closed.
pub fn closed() -> Error {
    Error::unavailable("the database is closed")
}
