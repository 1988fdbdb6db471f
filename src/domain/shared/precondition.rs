//! The condition under which a caller changes an object: that it still is as the caller has seen it.
//!
//! Invariant: the condition is checked in the transaction that makes the change, while the object is locked. So of two callers who
//! have seen the same version, only one changes it.

use std::sync::Arc;

use crate::base::error::{Error, Result};

/// Whether the current state of an object is the one that the caller expects.
type Check<T> = Arc<dyn Fn(&T) -> Result<bool> + Send + Sync>;

/// A condition on the current state of an object.
pub struct Precondition<T>(Option<Check<T>>);

impl<T> Precondition<T> {
    /// No condition.
    pub const fn none() -> Self {
        Self(None)
    }

    /// The condition that `check` returns true.
    pub fn new(check: Check<T>) -> Self {
        Self(Some(check))
    }

    /// Whether there is a condition. If there is none, the current state need not be read.
    pub const fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Checks the condition.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`]; an error of the check.
    pub fn require(&self, current: &T) -> Result<()> {
        match &self.0 {
            Some(check) if !check(current)? => Err(Error::PreconditionFailed),
            _ => Ok(()),
        }
    }
}
