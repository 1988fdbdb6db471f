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
use crate::base::error::Error;
use crate::base::metrics::Metrics;
use crate::store::driver::environment::WorkConn;
use crate::store::driver::unit::Unit;

/// A unit of work on its way, and the caller who waits for it.
pub struct Job<C> {
    unit: Box<dyn Unit<C>>,
    reply: oneshot::Sender<Box<dyn Unit<C>>>,
    /// The span of the task that waits for it, so that what the thread logs names the request.
    span: Span,
}

impl<C> Job<C> {
    /// A job of the current task.
    pub fn new(unit: Box<dyn Unit<C>>, reply: oneshot::Sender<Box<dyn Unit<C>>>) -> Self {
        Self { unit, reply, span: Span::current() }
    }

    /// Runs it inside the transaction. Returns whether it succeeded.
    pub fn run(&mut self, conn: &mut C) -> bool {
        let _entered = self.span.enter();
        let unit = &mut self.unit;
        // The thread serves everyone: a panic must not end it. The savepoint is rolled back like after any error.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let mut future = unit.run(conn);
            future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }));
        match polled {
            Ok(Poll::Ready(())) => {}
            Ok(Poll::Pending) => unit.fail(Error::internal("a unit of work awaited more than its own statements")),
            Err(_) => unit.fail(Error::internal("a unit of work panicked")),
        }
        unit.error().is_none()
    }

    /// Replaces its outcome by a failure.
    pub fn fail(&mut self, error: Error) {
        self.unit.fail(error);
    }

    /// The error with which it failed.
    pub fn error(&self) -> Option<&Error> {
        self.unit.error()
    }

    /// Whether the caller still waits.
    pub fn wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    /// Answers the caller, who may have gone away.
    pub fn answer(self) {
        drop(self.reply.send(self.unit));
    }
}

/// Serves reads until every sender is gone.
pub fn read_loop<C: WorkConn<Conn>>(conn: &mut C, jobs: &Receiver<Job<C>>, metrics: &Metrics) {
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
