//! The interface between the drivers and the rest of the program: the location of the data, the environment of a driver,
//! and the future that a unit of work returns.
//!
//! Invariant: nothing here names the types of a driver. Each driver imports this file, and no driver imports the types of
//! the other one.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use super::fatal::FatalFault;
use super::write_status::WriteStatus;
use crate::base::error::Result;
use crate::base::metrics::Metrics;
use crate::base::time::Clock;

/// The return type of a unit of work: a future that borrows its connection.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// The connection that a unit of work gets. It is created from the driver's own connection `D`, and the driver borrows `D`
/// from it.
pub trait WorkConn<D>: From<D> + AsMut<D> + Send + 'static {}

impl<C, D> WorkConn<D> for C where C: From<D> + AsMut<D> + Send + 'static {}

/// The location of the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A file, with its write-ahead log beside it.
    Sqlite(PathBuf),
    /// A `postgres://` URL. It can hold a password, so it is never printed.
    Postgres(String),
}

impl Location {
    /// Reads `sqlite:PATH` or `postgres://…`.
    ///
    /// # Errors
    /// A sentence for the operator. It contains no secrets of the URL.
    pub fn parse(url: &str) -> Result<Self, String> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err("The database URL has no file; write sqlite:PATH".into());
            }
            return Ok(Self::Sqlite(path.into()));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(url.to_owned()));
        }
        Err("The database URL must begin with sqlite: or postgres://, as in sqlite:data/posthaste.db or \
             postgres://user:password@host/name"
            .into())
    }
}

/// Everything that a driver gets from the rest of the program.
#[derive(Clone)]
pub struct Environment {
    /// The clock.
    pub clock: Clock,
    /// The metrics that the drivers update.
    pub metrics: Arc<Metrics>,
    /// Notified by the drivers after each commit.
    pub commits: Commits,
    /// Records how writes end.
    pub writing: Arc<WriteStatus>,
    /// Where a driver declares a fatal fault.
    pub fatal: FatalFault,
    /// Whether SQLite continues without the part of its write-ahead log that cannot be read (`--accept-lost-tail`).
    pub accept_lost_tail: bool,
    /// Whether to use storage that can lose acknowledged data: PostgreSQL with `fsync`, `full_page_writes` or
    /// `synchronous_commit` off, SQLite on a network file system.
    pub allow_unsafe_storage: bool,
}

impl Environment {
    /// A separate environment for a command that is not a server.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            metrics: Arc::new(Metrics::new()),
            commits: Commits::default(),
            writing: Arc::default(),
            fatal: FatalFault::default(),
            accept_lost_tail: false,
            allow_unsafe_storage: false,
        }
    }
}

/// Notifies listeners that this process has committed something. It is only a hint: the data itself is in the database.
#[derive(Clone, Debug)]
pub struct Commits(Arc<tokio::sync::watch::Sender<()>>);

impl Default for Commits {
    fn default() -> Self {
        Self(Arc::new(tokio::sync::watch::Sender::new(())))
    }
}

impl Commits {
    /// Notifies the listeners of a commit.
    pub(in crate::store) fn note(&self) {
        self.0.send_replace(());
    }

    /// A receiver that reports commits from now on. Several commits between two reads of the receiver count as one change.
    pub fn listen(&self) -> tokio::sync::watch::Receiver<()> {
        self.0.subscribe()
    }
}
