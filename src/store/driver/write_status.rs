//! Whether writes succeed, known from the outcome of recent writes.
//!
//! Invariant: the status reports only what was observed. If writes are in progress for longer than [`STUCK_AFTER`] and none
//! succeeds, the status is a failure until one succeeds or all have ended. A sync that hangs returns no error, so there is
//! no other sign of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::error::Error;

/// How long writes may be in progress without a success before the status is a failure.
pub const STUCK_AFTER: Duration = Duration::from_secs(2);
/// For this time after a successful write, the status is [`WriteHealth::Works`].
pub const SIGNIFICANT_FOR: Duration = Duration::from_secs(5);
/// For this time after a failure, the status is a failure. After that it is unknown, so that another write is attempted.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The status of writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteHealth {
    /// The last write succeeded, less than [`SIGNIFICANT_FOR`] ago.
    Works,
    /// The last write failed, less than [`RETRY_AFTER`] ago, or a write is stuck. Holds the reason.
    Fails(String),
    /// No write has ended recently, or the last failure is no longer recent.
    Unknown,
}

/// Records the outcomes of writes.
#[derive(Debug, Default)]
pub struct WriteStatus(Mutex<Outcomes>);

#[derive(Debug, Default)]
struct Outcomes {
    in_progress: u32,
    /// The start of the current period in which writes are in progress and none has succeeded. `None` when no write is in
    /// progress.
    waiting_since: Option<Instant>,
    succeeded_at: Option<Instant>,
    failed: Option<(Instant, String)>,
}

/// A write in progress. If it is dropped without an outcome, it does not change the status.
pub struct WriteAttempt<'a>(&'a WriteStatus);

impl WriteStatus {
    /// Records that a write begins.
    pub fn begin(&self) -> WriteAttempt<'_> {
        let mut outcomes = self.outcomes();
        outcomes.in_progress += 1;
        outcomes.waiting_since.get_or_insert_with(Instant::now);
        WriteAttempt(self)
    }

    /// The current status.
    pub fn now(&self) -> WriteHealth {
        let outcomes = self.outcomes();
        if outcomes.waiting_since.is_some_and(|since| since.elapsed() >= STUCK_AFTER) {
            return WriteHealth::Fails("a write takes too long".into());
        }
        match (&outcomes.failed, outcomes.succeeded_at) {
            (Some((at, reason)), _) if at.elapsed() < RETRY_AFTER => WriteHealth::Fails(reason.clone()),
            (None, Some(at)) if at.elapsed() < SIGNIFICANT_FOR => WriteHealth::Works,
            _ => WriteHealth::Unknown,
        }
    }

    fn outcomes(&self) -> MutexGuard<'_, Outcomes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WriteAttempt<'_> {
    /// Records that the write is on disk.
    pub fn succeeded(self) {
        let now = Instant::now();
        let mut outcomes = self.0.outcomes();
        outcomes.succeeded_at = Some(now);
        outcomes.failed = None;
        outcomes.waiting_since = Some(now);
    }

    /// Records that the write failed. Only failures of storage count. Another error of a unit of work does not mean that
    /// the storage fails.
    pub fn failed(self, error: &Error) {
        if matches!(error, Error::Unavailable { .. } | Error::StorageFull) {
            self.0.outcomes().failed = Some((Instant::now(), error.to_string()));
        }
    }

    /// Records how a unit of work ended: with an error, or without one.
    pub fn record(self, error: Option<&Error>) {
        match error {
            None => self.succeeded(),
            Some(error) => self.failed(error),
        }
    }
}

impl Drop for WriteAttempt<'_> {
    fn drop(&mut self) {
        let mut outcomes = self.0.outcomes();
        outcomes.in_progress = outcomes.in_progress.saturating_sub(1);
        if outcomes.in_progress == 0 {
            outcomes.waiting_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_outcome_decides() {
        let status = WriteStatus::default();
        assert_eq!(status.now(), WriteHealth::Unknown);
        status.begin().succeeded();
        assert_eq!(status.now(), WriteHealth::Works);
        status.begin().failed(&Error::StorageFull);
        assert_eq!(status.now(), WriteHealth::Fails("storage full".into()));
        status.begin().failed(&Error::Unauthenticated);
        assert_eq!(status.now(), WriteHealth::Fails("storage full".into()));
        drop(status.begin());
        status.begin().succeeded();
        assert_eq!(status.now(), WriteHealth::Works);
    }

    #[test]
    fn a_write_that_hangs_is_a_failure_while_it_lasts() {
        let status = WriteStatus::default();
        status.begin().succeeded();
        let hanging = status.begin();
        status.outcomes().waiting_since = Instant::now().checked_sub(STUCK_AFTER);
        assert!(matches!(status.now(), WriteHealth::Fails(_)));
        // Another write succeeds meanwhile, which shows that writing works and that only one unit of work is slow.
        status.begin().succeeded();
        assert_eq!(status.now(), WriteHealth::Works);
        drop(hanging);
        assert_eq!(status.now(), WriteHealth::Works);
    }
}
