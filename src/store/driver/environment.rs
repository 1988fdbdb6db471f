//! What the drivers are written against: where the data is, what they get from outside, and what a unit of work is.
//!
//! Invariant: nothing here names a driver, so that drivers import this file and not each other's enums.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use super::fatal::FatalFault;
use super::write_status::WriteStatus;
use crate::base::error::Result;
use crate::base::metrics::Metrics;
use crate::base::time::Clock;

/// What a unit of work returns: a future over its connection.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// The connection that units of work get. It is made from a driver's own connection `D`, and lends it to the driver.
pub trait WorkConn<D>: From<D> + AsMut<D> + Send + 'static {}

impl<C, D> WorkConn<D> for C where C: From<D> + AsMut<D> + Send + 'static {}

/// Where the data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// One file, and its write-ahead log beside it.
    Sqlite(PathBuf),
    /// A `postgres://` URL. Holds a password: never printed.
    Postgres(String),
}

impl Location {
    /// Reads `sqlite:PATH` or `postgres://…`.
    ///
    /// # Errors
    /// A sentence for the operator, without the URL's secrets.
    pub fn parse(url: &str) -> Result<Self, String> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err("the database URL names no file: write sqlite:PATH".into());
            }
            return Ok(Self::Sqlite(path.into()));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(url.to_owned()));
        }
        Err("the database URL must begin with sqlite: or postgres://".into())
    }
}

/// What the drivers need from outside.
#[derive(Clone)]
pub struct Environment {
    /// The time.
    pub clock: Clock,
    /// Where the drivers count.
    pub metrics: Arc<Metrics>,
    /// Where the drivers say that something was committed.
    pub commits: Commits,
    /// Where the drivers note how writes end.
    pub writing: Arc<WriteStatus>,
    /// Where a driver declares that nothing may be acknowledged any more.
    pub fatal: FatalFault,
    /// Whether SQLite goes on without what cannot be read of its write-ahead log.
    pub accept_lost_tail: bool,
    /// Whether to work on storage that can lose what it acknowledged: PostgreSQL with `fsync`, `full_page_writes` or
    /// `synchronous_commit` off, SQLite on a network file system.
    pub allow_unsafe_storage: bool,
}

impl Environment {
    /// An environment of its own, for a command that is no server.
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

/// Says that something was committed here, to whoever listens for it. A hint: what was committed is in the database.
#[derive(Clone, Debug)]
pub struct Commits(Arc<tokio::sync::watch::Sender<()>>);

impl Default for Commits {
    fn default() -> Self {
        Self(Arc::new(tokio::sync::watch::Sender::new(())))
    }
}

impl Commits {
    /// Notes a commit.
    pub(in crate::store) fn note(&self) {
        self.0.send_replace(());
    }

    /// Commits from now on; those that come while one is looked at count once.
    pub fn listen(&self) -> tokio::sync::watch::Receiver<()> {
        self.0.subscribe()
    }
}
