//! Whether writing works, as the last writes showed.
//!
//! Invariant: what is reported was seen. A write that is under way for longer than [`STUCK_AFTER`] counts as a failure while it
//! lasts, because a sync that hangs answers nobody.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::error::Error;

/// How long writes may be under way without one that succeeds.
pub const STUCK_AFTER: Duration = Duration::from_secs(2);
/// How long the outcome of a write says something about the next one.
pub const SIGNIFICANT_FOR: Duration = Duration::from_secs(5);
/// How long after a failure another try is made to find out whether writing works again.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What is known about writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writing {
    /// A write succeeded a moment ago.
    Works,
    /// The last write failed a moment ago, or one is stuck.
    Fails(String),
    /// No write ended lately.
    Unknown,
}

/// Counts the outcomes of writes.
#[derive(Debug, Default)]
pub struct WriteStatus(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    under_way: u32,
    /// Since when writes are under way without one that succeeded.
    waiting_since: Option<Instant>,
    succeeded_at: Option<Instant>,
    failed: Option<(Instant, String)>,
}

/// A write under way. Dropped without an outcome, it says nothing.
pub struct Write<'a>(&'a WriteStatus);

impl WriteStatus {
    /// A write begins.
    pub fn begin(&self) -> Write<'_> {
        let mut seen = self.seen();
        seen.under_way += 1;
        seen.waiting_since.get_or_insert_with(Instant::now);
        Write(self)
    }

    /// What is known at the moment.
    pub fn now(&self) -> Writing {
        let seen = self.seen();
        if seen.waiting_since.is_some_and(|since| since.elapsed() >= STUCK_AFTER) {
            return Writing::Fails("a write takes too long".into());
        }
        match (&seen.failed, seen.succeeded_at) {
            (Some((at, reason)), _) if at.elapsed() < RETRY_AFTER => Writing::Fails(reason.clone()),
            (None, Some(at)) if at.elapsed() < SIGNIFICANT_FOR => Writing::Works,
            _ => Writing::Unknown,
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write<'_> {
    /// The write was made durable.
    pub fn succeeded(self) {
        let now = Instant::now();
        let mut seen = self.0.seen();
        seen.succeeded_at = Some(now);
        seen.failed = None;
        seen.waiting_since = Some(now);
    }

    /// The write ended otherwise. Only a failure of the storage counts: a unit of work that refuses says nothing about it.
    pub fn failed(self, error: &Error) {
        if matches!(error, Error::Unavailable { .. } | Error::StorageFull) {
            self.0.seen().failed = Some((Instant::now(), error.to_string()));
        }
    }

    /// Notes how a unit of work ended: with an error, or without one.
    pub fn ended(self, error: Option<&Error>) {
        match error {
            None => self.succeeded(),
            Some(error) => self.failed(error),
        }
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        let mut seen = self.0.seen();
        seen.under_way = seen.under_way.saturating_sub(1);
        if seen.under_way == 0 {
            seen.waiting_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_outcome_counts() {
        let status = WriteStatus::default();
        assert_eq!(status.now(), Writing::Unknown);
        status.begin().succeeded();
        assert_eq!(status.now(), Writing::Works);
        status.begin().failed(&Error::StorageFull);
        assert_eq!(status.now(), Writing::Fails("storage full".into()));
        status.begin().failed(&Error::Unauthenticated);
        assert_eq!(status.now(), Writing::Fails("storage full".into()));
        drop(status.begin());
        status.begin().succeeded();
        assert_eq!(status.now(), Writing::Works);
    }

    #[test]
    fn a_write_that_hangs_is_a_failure_while_it_lasts() {
        let status = WriteStatus::default();
        status.begin().succeeded();
        let hanging = status.begin();
        status.seen().waiting_since = Instant::now().checked_sub(STUCK_AFTER);
        assert!(matches!(status.now(), Writing::Fails(_)));
        // Others succeed beside it: then it is one slow unit of work, and writing works.
        status.begin().succeeded();
        assert_eq!(status.now(), Writing::Works);
        drop(hanging);
        assert_eq!(status.now(), Writing::Works);
    }
}
