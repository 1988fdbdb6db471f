//! Units of work in the queue of a thread, and their answers.
//!
//! Invariants: a unit of work is polled only once. It awaits only statements, and with SQLite these are complete on the
//! first poll. A panic in a unit of work is an error of this unit and does not affect others.

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

/// A unit of work on its way to a thread, and the caller who waits for it.
pub struct Job<C> {
    unit: Box<dyn Unit<C>>,
    reply: oneshot::Sender<Box<dyn Unit<C>>>,
    /// The span of the waiting task, so that the thread's log lines name the request.
    span: Span,
}

impl<C> Job<C> {
    /// A job of the current task. The unit of work is sent to `reply` when it has run.
    pub fn new(unit: Box<dyn Unit<C>>, reply: oneshot::Sender<Box<dyn Unit<C>>>) -> Self {
        Self { unit, reply, span: Span::current() }
    }

    /// Runs the unit of work inside the transaction. Returns whether the unit succeeded.
    pub fn run(&mut self, conn: &mut C) -> bool {
        let _entered = self.span.enter();
        let unit = &mut self.unit;
        // The thread serves all requests, so a panic must not end it. What the unit changed is rolled back as after any
        // error.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let mut future = unit.run(conn);
            future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }));
        match polled {
            Ok(Poll::Ready(())) => {}
            Ok(Poll::Pending) => {
                unit.fail(Error::internal("a unit of work awaited something other than its own statements"))
            }
            Err(_) => unit.fail(Error::internal("a unit of work panicked")),
        }
        unit.error().is_none()
    }

    /// Replaces the outcome of the unit of work by a failure.
    pub fn fail(&mut self, error: Error) {
        self.unit.fail(error);
    }

    /// The error of the unit of work, if it failed.
    pub fn error(&self) -> Option<&Error> {
        self.unit.error()
    }

    /// Whether the caller still waits.
    pub fn is_caller_waiting(&self) -> bool {
        !self.reply.is_closed()
    }

    /// Answers the caller. If the caller no longer waits, the answer is dropped.
    pub fn answer(self) {
        drop(self.reply.send(self.unit));
    }
}

/// Runs reads until every sender of the channel is dropped.
pub fn read_loop<C: WorkConn<Conn>>(conn: &mut C, jobs: &Receiver<Job<C>>, metrics: &Metrics) {
    while let Ok(mut job) = jobs.recv() {
        if !job.is_caller_waiting() {
            continue;
        }
        metrics.pool_in_use.inc();
        // One transaction, so that all statements of the unit see one snapshot and the write-ahead log is locked once.
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

/// The error for work that is submitted after the database was closed.
pub fn closed() -> Error {
    Error::unavailable("the database is closed")
}
