//! How far a long copy of data is, for the command that runs it.

/// How far a copy is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What is being done.
    pub step: &'static str,
    /// Pages, rows or bytes done.
    pub done: u64,
    /// Pages, rows or bytes there are.
    pub total: u64,
}

/// Who is told of progress.
pub type Report<'a> = &'a mut (dyn FnMut(Progress) + Send);

/// The step of a restore in which rows are exchanged.
pub const RESTORING: &str = "exchanging rows";
