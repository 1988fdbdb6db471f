//! The progress of a long copy of data, for the command that runs it.

/// How much of a copy is done.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// A description of the current step, for the operator.
    pub step: &'static str,
    /// Pages, rows or bytes done.
    pub done: u64,
    /// Pages, rows or bytes in total.
    pub total: u64,
}

/// The function that is called with each report of progress.
pub type Report<'a> = &'a mut (dyn FnMut(Progress) + Send);

/// The description of the step in which a restore replaces the rows.
pub const RESTORING: &str = "replacing rows";
