//! The SQLite driver: one writer thread with group commit, several reader threads, and a checkpoint thread.
//!
//! Invariants: only this folder names `rusqlite`. Each connection belongs to one thread, and units of work reach the
//! threads through bounded queues. If a queue is full, the caller gets [`Error::Unavailable`] and does not wait. When the
//! driver opens the database's file itself, without SQLite, it closes that handle only after all SQLite connections to the
//! file are closed. A process that closes any handle of a file loses all its locks on the file (POSIX `fcntl`).

mod checkpoint;
pub(super) mod connection;
pub(super) mod driver;
pub(super) mod file;
mod guard;
mod job;
pub mod mounts;
mod scrub;
pub(super) mod start;
mod state;
mod wal;
mod writer;

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Sender, TrySendError, bounded};
use rusqlite::Connection;
use tokio::sync::oneshot;

use checkpoint::{
    Checkpointer, LogProgress, checkpoint_passively, copy_whole_log_alone, describe_failed_sync, empty_log,
};
use connection::{open_connection, open_reader, open_writer, resolved};
use driver::{error_from_sqlite, is_failed_sync};
use guard::FileGuard;
use job::{Job, closed, read_loop};
use state::StateFile;
use writer::{WAL_CHECKPOINT_PAGES, Writer};

use super::driver::environment::{Environment, WorkConn};
use super::driver::files::{folder_of, make_folder};
use super::driver::unit::Unit;
use crate::base::error::{Error, Result};

pub use driver::{Conn, DriverRow};

/// The maximum number of units of work that wait for the writer thread.
const WRITE_QUEUE_LIMIT: usize = 4_096;
/// The maximum number of units of work that wait for a reader thread.
const READ_QUEUE_LIMIT: usize = 4_096;

/// An open SQLite database. Its units of work get a connection of the type `C`.
pub struct Database<C> {
    inner: Arc<Inner<C>>,
}

impl<C> Clone for Database<C> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

/// The sender of a queue of units of work. Closing the database sets it to `None`, because a thread ends when its channel
/// has no sender.
type JobQueue<C> = Mutex<Option<Sender<Job<C>>>>;

struct Inner<C> {
    path: PathBuf,
    guard: Arc<FileGuard>,
    writes: JobQueue<C>,
    reads: JobQueue<C>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    environment: Environment,
}

impl<C: WorkConn<Conn>> Database<C> {
    /// Opens the file, creates it and its folder when they are missing, and starts the threads.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the file cannot be opened, [`Error::Internal`] when it is not a SQLite database.
    pub fn open(path: &Path, environment: Environment) -> Result<Self> {
        make_folder(folder_of(path))?;
        // SQLite keeps its other files beside the target of a symbolic link.
        let path = &resolved(path);
        refuse_network_file_system(path, &environment)?;
        let actions = start::check_files(path, environment.accept_lost_tail.then(|| environment.clock.now()))?;
        if actions.sync_failed {
            copy_whole_log_alone(path)?;
            StateFile::open(path).and_then(|state| state.set_all_copied()).map_err(Error::unavailable)?;
        }
        create_private(path)?;
        let mut writer = open_writer(path)?;
        // A symbolic link to a missing file could not be resolved above. Now the file exists.
        let path = &resolved(path);
        let file = Arc::new(File::open(path).map_err(Error::unavailable)?);
        let guard = Arc::new(FileGuard::new(path, environment.fatal.clone())?);
        make_log_durable(&writer, &guard, actions.must_empty_log)?;
        let reader_count = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        environment.metrics.pool_size.set(reader_count as i64 + 1);

        let (writes, waiting_writes) = bounded(WRITE_QUEUE_LIMIT);
        let (reads, waiting_reads) = bounded(READ_QUEUE_LIMIT);
        let (checkpoint, checkpoint_requests) = bounded(1);
        let mut threads = Vec::new();
        let log = Arc::new(LogProgress::default());
        let hooked = Arc::clone(&log);
        let hook = move |_: &mut rusqlite::hooks::Wal, pages: i32| {
            hooked.pages.store(i64::from(pages), Ordering::Relaxed);
            hooked.unmarked_pages.store(i64::from(pages), Ordering::Relaxed);
            Ok(())
        };
        writer.wal_hook(Some(hook)).map_err(error_from_sqlite)?;
        let writer = Writer {
            conn: C::from(Conn::new(writer)),
            environment: environment.clone(),
            guard: Arc::clone(&guard),
            checkpoint,
            log: Arc::clone(&log),
            checkpoint_at_pages: WAL_CHECKPOINT_PAGES,
        };
        let kept = Arc::clone(&file);
        threads.push(spawn("sqlite-writer", move || {
            writer.run(&waiting_writes);
            drop(kept);
        })?);
        for _ in 0..reader_count {
            let conn = C::from(Conn::new(open_reader(path)?));
            let jobs = waiting_reads.clone();
            let metrics = Arc::clone(&environment.metrics);
            let (kept, guard) = (Arc::clone(&file), Arc::clone(&guard));
            threads.push(spawn("sqlite-reader", move || {
                let mut conn = conn;
                read_loop(&mut conn, &jobs, &metrics);
                guard.prepare_close(&conn.as_mut().connection);
                drop((conn, kept));
            })?);
        }
        let checkpointer = Checkpointer { connection: open_connection(path)?, file, guard: Arc::clone(&guard), log };
        threads.push(spawn("sqlite-checkpoint", move || checkpointer.run(&checkpoint_requests))?);
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                guard,
                writes: Mutex::new(Some(writes)),
                reads: Mutex::new(Some(reads)),
                threads: Mutex::new(threads),
                environment,
            }),
        })
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.inner.environment
    }

    /// The path of the database's file, with symbolic links resolved.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// See [`super::db::Db::read`].
    pub async fn read(&self, unit: Box<dyn Unit<C>>) -> Result<Box<dyn Unit<C>>> {
        self.submit(&self.inner.reads, "read", unit).await
    }

    /// See [`super::db::Db::write`].
    pub async fn write(&self, unit: Box<dyn Unit<C>>) -> Result<Box<dyn Unit<C>>> {
        self.submit(&self.inner.writes, "write", unit).await
    }

    async fn submit(
        &self,
        queue: &JobQueue<C>,
        name: &'static str,
        unit: Box<dyn Unit<C>>,
    ) -> Result<Box<dyn Unit<C>>> {
        let (reply, answer) = oneshot::channel();
        let sender = queue.lock().map_err(|_| closed())?.clone().ok_or_else(closed)?;
        let _in_queue = self.inner.environment.metrics.enter_queue(name);
        let sent = sender.try_send(Job::new(unit, reply));
        drop(sender);
        match sent {
            Ok(()) => answer.await.map_err(|_| closed()),
            Err(TrySendError::Full(_)) => Err(Error::unavailable(format!("the {name} queue is full"))),
            Err(TrySendError::Disconnected(_)) => Err(closed()),
        }
    }

    /// Refuses new work, waits until the threads have finished the accepted work, and ends them.
    pub async fn close(&self) {
        let inner = Arc::clone(&self.inner);
        let ended = tokio::task::spawn_blocking(move || inner.close()).await;
        if let Err(error) = ended {
            tracing::error!(%error, "the database did not close");
        }
    }
}

impl<C> Inner<C> {
    fn close(&self) {
        for queue in [&self.writes, &self.reads] {
            if let Ok(mut queue) = queue.lock() {
                queue.take();
            }
        }
        let threads = self.threads.lock().map(|mut threads| std::mem::take(&mut *threads)).unwrap_or_default();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a database thread panicked");
            }
        }
    }
}

impl<C: Send + 'static> Database<C> {
    /// Overwrites the remains of old rows in the database file, copies the whole write-ahead log into the file and
    /// truncates the log.
    pub async fn flush(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let flushing = tokio::task::spawn_blocking(move || {
            inner.guard.refuse_after_fault()?;
            let mut connection = open_connection(&inner.path)?;
            let flushed = scrub::scrub(&mut connection).and_then(|()| {
                inner.guard.refuse_after_fault()?;
                empty_log(&connection)
            });
            inner.guard.declare_if_sync_failed(&flushed);
            flushed?;
            inner.guard.mark_copied()
        });
        flushing.await.map_err(Error::internal)?
    }
}

/// Whether there is no database at this path, and there was none: no file, or an empty one.
pub fn is_absent(path: &Path) -> bool {
    let is_empty = path.metadata().map_or_else(|error| error.kind() == ErrorKind::NotFound, |found| found.len() == 0);
    is_empty && !had_data(path)
}

/// Whether a database has existed at this path. If it has, a missing file means lost data, and not a new database.
pub fn had_data(path: &Path) -> bool {
    state::path_of(&resolved(path)).exists()
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(Error::unavailable)
}

/// Creates the file of a new database, so that only its owner can use it. SQLite creates its other files with the permissions of
/// this one. An existing file keeps its permissions.
fn create_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    if path.exists() {
        return Ok(());
    }
    let opened = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    opened.map(drop).map_err(|error| Error::unavailable(format!("{} cannot be created: {error}", path.display())))
}

/// Refuses a network file system, where SQLite's locks and syncs are not reliable.
fn refuse_network_file_system(path: &Path, environment: &Environment) -> Result<()> {
    match mounts::network_type(folder_of(path)) {
        Some(kind) if !environment.allow_unsafe_storage => Err(Error::internal(format!(
            "{} is on a network file system ({kind}), where acknowledged data can be lost. Move it to a local disk, or use \
             PostgreSQL. --allow-unsafe-storage starts anyway",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// Makes everything in the write-ahead log durable before any request is served. A killed process may have written frames
/// without a sync. They can be read, but may not be on disk. The same holds for the frames of a log whose sync failed. If a
/// repeated send were answered from such frames, it would be acknowledged too early. `empty` also truncates the log, for a
/// start that continues without the end of the log.
fn make_log_durable(writer: &Connection, guard: &FileGuard, empty: bool) -> Result<()> {
    let copied = if empty { empty_log(writer).map(|()| true) } else { checkpoint_passively(writer) };
    match copied {
        Ok(true) => guard.mark_copied(),
        // Another process reads or copies the write-ahead log. The log can hold frames of a killed process that were never
        // synced.
        Ok(false) => guard.sync_log(),
        Err(error) => {
            if is_failed_sync(&error) {
                guard.declare_failed_sync(&error);
                guard.prepare_close(writer);
            }
            Err(describe_failed_sync(error))
        }
    }
}
