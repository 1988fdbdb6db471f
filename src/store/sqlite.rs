//! The SQLite driver: one writer thread with group commit, a few reader threads, a thread for checkpoints.
//!
//! Invariants:
//! - The writer takes what is waiting, each unit of work in a savepoint of its own, commits once with `synchronous=FULL`,
//!   and only then answers. A unit that fails takes nobody with it; a COMMIT that fails fails everyone in it.
//! - A unit of work is polled once: all it awaits is statements, which are complete at once here.
//! - Checkpoints never run in the writer's way, until the log has grown past [`WAL_LIMIT_PAGES`].

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rusqlite::types::{ToSqlOutput, Value as Owned, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Statement};
use tokio::sync::oneshot;

use super::{Conn as AnyConn, Environment, Row, Value, Work};
use crate::error::{Error, Result};
use crate::time::Timestamp;

/// The row under SQLite's cursor.
pub type DriverRow<'a> = rusqlite::Row<'a>;

/// Units of work that one commit may carry.
const COMMIT_BATCH_LIMIT: usize = 256;
/// Units of work that may wait for the writer.
const WRITE_QUEUE_LIMIT: usize = 4_096;
/// Units of work that may wait for a reader.
const READ_QUEUE_LIMIT: usize = 4_096;
/// Bytes of a page; the file's own after the first start.
const PAGE_SIZE_BYTES: i64 = 4_096;
/// Pages of write-ahead log (16 MiB) after which the checkpoint thread copies them into the file once more.
const WAL_CHECKPOINT_PAGES: i64 = 4_096;
/// Pages of write-ahead log (256 MiB) at which the writer itself waits until it is empty.
const WAL_LIMIT_PAGES: i64 = 65_536;
/// How long a statement waits for a lock that another process holds (backup, restore, a command line).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Page cache of one connection, in KiB.
const PAGE_CACHE_KIB: i64 = 8_192;
/// How much of the file readers map instead of copying, in bytes. It counts as file memory, which the kernel takes back.
const READER_MAP_BYTES: i64 = 4 << 30;
const STATEMENT_CACHE: usize = 256;

/// An open SQLite database.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    // None once closed: a thread ends when its channel has no sender.
    writes: Mutex<Option<Sender<Box<dyn Job>>>>,
    reads: Mutex<Option<Sender<Box<dyn Job>>>>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    environment: Environment,
}

impl Database {
    /// Opens the file, makes it and its folder where they are missing, and starts the threads.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the file cannot be opened, [`Error::Internal`] when it is not a SQLite database.
    pub fn open(path: &Path, environment: Environment) -> Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(Error::unavailable)?;
        }
        let mut writer = open_writer(path)?;
        let reader_count = std::thread::available_parallelism()
            .map_or(2, usize::from)
            .clamp(2, 8);
        environment.metrics.pool_size.set(reader_count as i64 + 1);

        let (writes, waiting_writes) = bounded(WRITE_QUEUE_LIMIT);
        let (reads, waiting_reads) = bounded(READ_QUEUE_LIMIT);
        let (checkpoint, checkpoint_wanted) = bounded(1);
        let mut threads = Vec::new();
        let wal_pages = Arc::new(AtomicI64::new(0));
        let pages = Arc::clone(&wal_pages);
        let hook = move |_: &mut rusqlite::hooks::Wal, count: i32| {
            pages.store(i64::from(count), Ordering::Relaxed);
            Ok(())
        };
        writer.wal_hook(Some(hook)).map_err(translate)?;
        let writer = Writer {
            conn: AnyConn::Sqlite(Conn::new(writer)),
            environment: environment.clone(),
            checkpoint,
            wal_pages,
            checkpointed_pages: 0,
        };
        threads.push(spawn("sqlite-writer", move || writer.run(&waiting_writes))?);
        for _ in 0..reader_count {
            let conn = AnyConn::Sqlite(Conn::new(open_reader(path)?));
            let jobs = waiting_reads.clone();
            let metrics = Arc::clone(&environment.metrics);
            threads.push(spawn("sqlite-reader", move || read_loop(conn, &jobs, &metrics))?);
        }
        let checkpointer = open_connection(path)?;
        threads.push(spawn("sqlite-checkpoint", move || {
            while checkpoint_wanted.recv().is_ok() {
                if let Err(error) = checkpoint_passively(&checkpointer) {
                    tracing::warn!(%error, "a checkpoint of the write-ahead log failed");
                }
            }
        })?);
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                writes: Mutex::new(Some(writes)),
                reads: Mutex::new(Some(reads)),
                threads: Mutex::new(threads),
                environment,
            }),
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// See [`super::Db::read`].
    pub async fn read<I, T>(
        &self,
        input: I,
        work: for<'a> fn(&'a mut AnyConn, &'a I) -> Work<'a, T>,
    ) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.submit(&self.inner.reads, "read", input, work).await
    }

    /// See [`super::Db::write`].
    pub async fn write<I, T>(
        &self,
        input: I,
        work: for<'a> fn(&'a mut AnyConn, &'a I) -> Work<'a, T>,
    ) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.submit(&self.inner.writes, "write", input, work).await
    }

    async fn submit<I, T>(
        &self,
        queue: &Mutex<Option<Sender<Box<dyn Job>>>>,
        name: &'static str,
        input: I,
        work: for<'a> fn(&'a mut AnyConn, &'a I) -> Work<'a, T>,
    ) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Unit {
            input,
            work,
            reply,
            outcome: None,
        });
        let sender = queue.lock().map_err(|_| closed())?.clone().ok_or_else(closed)?;
        let length = self.inner.environment.metrics.queue(name);
        length.inc();
        let sent = sender.try_send(job);
        drop(sender);
        let outcome = match sent {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(closed())),
            Err(TrySendError::Full(_)) => Err(Error::unavailable(format!("the {name} queue is full"))),
            Err(TrySendError::Disconnected(_)) => Err(closed()),
        };
        length.dec();
        outcome
    }

    /// Lets the threads finish what was accepted, and ends them.
    pub async fn close(&self) {
        let inner = Arc::clone(&self.inner);
        let ended = tokio::task::spawn_blocking(move || inner.close()).await;
        if let Err(error) = ended {
            tracing::error!(%error, "the database did not close");
        }
    }
}

impl Inner {
    fn close(&self) {
        for queue in [&self.writes, &self.reads] {
            if let Ok(mut queue) = queue.lock() {
                queue.take();
            }
        }
        let threads = self
            .threads
            .lock()
            .map(|mut threads| std::mem::take(&mut *threads))
            .unwrap_or_default();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a database thread panicked");
            }
        }
    }
}

fn closed() -> Error {
    Error::unavailable("the database is closed")
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(Error::unavailable)
}

/// A connection with the settings that every one of ours has.
pub fn open_connection(path: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::default()).map_err(translate)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(translate)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    rusqlite::vtab::array::load_module(&connection).map_err(translate)?;
    for (name, value) in [
        ("synchronous", 2),
        ("cache_size", -PAGE_CACHE_KIB),
        ("foreign_keys", 0),
    ] {
        connection.pragma_update(None, name, value).map_err(translate)?;
    }
    Ok(connection)
}

fn open_writer(path: &Path) -> Result<Connection> {
    let connection = open_connection(path)?;
    connection
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0))
        .map_err(translate)?;
    connection
        .pragma_update(None, "wal_autocheckpoint", 0)
        .map_err(translate)?;
    connection
        .pragma_update(None, "journal_size_limit", WAL_CHECKPOINT_PAGES * PAGE_SIZE_BYTES)
        .map_err(translate)?;
    Ok(connection)
}

fn open_reader(path: &Path) -> Result<Connection> {
    let connection = open_connection(path)?;
    connection
        .pragma_update(None, "mmap_size", READER_MAP_BYTES)
        .map_err(translate)?;
    connection
        .pragma_update(None, "query_only", true)
        .map_err(translate)?;
    Ok(connection)
}

fn checkpoint_passively(connection: &Connection) -> Result<()> {
    connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        .map_err(translate)
}

/// A unit of work whose types the queue does not know.
trait Job: Send {
    /// Runs it inside the transaction; whether it succeeded.
    fn run(&mut self, conn: &mut AnyConn) -> bool;
    /// Replaces its outcome by a failure.
    fn fail(&mut self, error: Error);
    /// Whether the caller is still there.
    fn wanted(&self) -> bool;
    /// Answers the caller.
    fn answer(self: Box<Self>);
}

struct Unit<I, T> {
    input: I,
    work: for<'a> fn(&'a mut AnyConn, &'a I) -> Work<'a, T>,
    reply: oneshot::Sender<Result<T>>,
    outcome: Option<Result<T>>,
}

impl<I: Send + Sync, T: Send> Job for Unit<I, T> {
    fn run(&mut self, conn: &mut AnyConn) -> bool {
        // The thread serves everyone: a panic must not end it. The savepoint is rolled back like after any error.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let mut future = (self.work)(conn, &self.input);
            future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }));
        let outcome = match polled {
            Ok(Poll::Ready(outcome)) => outcome,
            Ok(Poll::Pending) => Err(Error::internal(
                "a unit of work awaited more than its own statements",
            )),
            Err(_) => Err(Error::internal("a unit of work panicked")),
        };
        let succeeded = outcome.is_ok();
        self.outcome = Some(outcome);
        succeeded
    }

    fn fail(&mut self, error: Error) {
        self.outcome = Some(Err(error));
    }

    fn wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn answer(self: Box<Self>) {
        let outcome = self.outcome.unwrap_or_else(|| Err(closed()));
        // The caller may have gone away: then nobody is left to be told.
        drop(self.reply.send(outcome));
    }
}

fn read_loop(mut conn: AnyConn, jobs: &Receiver<Box<dyn Job>>, metrics: &crate::metrics::Metrics) {
    while let Ok(mut job) = jobs.recv() {
        if !job.wanted() {
            continue;
        }
        metrics.pool_in_use.inc();
        // One snapshot for all statements of the job, and one lock on the log instead of one a statement.
        match conn.sqlite().execute("BEGIN", &[]) {
            Ok(_) => {
                job.run(&mut conn);
                if let Err(error) = conn.sqlite().execute("COMMIT", &[]) {
                    job.fail(error);
                }
                conn.sqlite().leave_transaction();
            }
            Err(error) => job.fail(error),
        }
        metrics.pool_in_use.dec();
        job.answer();
    }
}

struct Writer {
    conn: AnyConn,
    environment: Environment,
    checkpoint: Sender<()>,
    wal_pages: Arc<AtomicI64>,
    checkpointed_pages: i64,
}

impl Writer {
    fn run(mut self, jobs: &Receiver<Box<dyn Job>>) {
        while let Ok(first) = jobs.recv() {
            let mut batch = vec![first];
            self.environment.metrics.pool_in_use.inc();
            self.commit(&mut batch, jobs);
            self.environment.metrics.pool_in_use.dec();
            for job in batch {
                job.answer();
            }
            self.look_at_log();
        }
        // The last connection to close empties the log; a checkpoint first keeps that short.
        if let Err(error) = checkpoint_passively(&self.conn.sqlite().connection) {
            tracing::warn!(%error, "the last checkpoint failed");
        }
    }

    /// One transaction over `batch` and whatever else is waiting by the time its turn comes.
    fn commit(&mut self, batch: &mut Vec<Box<dyn Job>>, jobs: &Receiver<Box<dyn Job>>) {
        if let Err(error) = self.conn.sqlite().execute("BEGIN IMMEDIATE", &[]) {
            return fail_all(batch, error);
        }
        let mut done = 0;
        let mut kept = false;
        loop {
            while done < batch.len() {
                match self.run_one(&mut *batch[done]) {
                    Ran::Kept => kept = true,
                    Ran::RolledBack => {}
                    Ran::TransactionLost => return self.rerun_others(batch, done),
                }
                done += 1;
            }
            if batch.len() >= COMMIT_BATCH_LIMIT {
                break;
            }
            batch.extend(jobs.try_iter().take(COMMIT_BATCH_LIMIT - batch.len()));
            if done == batch.len() {
                break;
            }
        }
        if !kept {
            self.conn.sqlite().leave_transaction();
            return;
        }
        let started = Instant::now();
        match self.conn.sqlite().execute("COMMIT", &[]) {
            Ok(_) => {
                self.environment
                    .metrics
                    .commit_duration_seconds
                    .observe(started.elapsed().as_secs_f64());
                self.environment
                    .metrics
                    .commit_batch_size
                    .observe(batch.len() as f64);
            }
            Err(error) => {
                self.conn.sqlite().leave_transaction();
                fail_all(batch, error);
            }
        }
    }

    fn run_one(&mut self, job: &mut dyn Job) -> Ran {
        if let Err(error) = self.conn.sqlite().execute("SAVEPOINT unit", &[]) {
            job.fail(error);
            return self.lost_or_rolled_back();
        }
        if job.run(&mut self.conn) {
            return match self.conn.sqlite().execute("RELEASE unit", &[]) {
                Ok(_) => Ran::Kept,
                Err(error) => {
                    job.fail(error);
                    self.conn.sqlite().leave_transaction();
                    Ran::TransactionLost
                }
            };
        }
        let connection = self.conn.sqlite();
        if connection.connection.is_autocommit() {
            return Ran::TransactionLost;
        }
        let undone = connection
            .execute("ROLLBACK TO unit", &[])
            .and_then(|_| connection.execute("RELEASE unit", &[]));
        match undone {
            Ok(_) => Ran::RolledBack,
            Err(_) => {
                connection.leave_transaction();
                Ran::TransactionLost
            }
        }
    }

    fn lost_or_rolled_back(&mut self) -> Ran {
        if self.conn.sqlite().connection.is_autocommit() {
            Ran::TransactionLost
        } else {
            Ran::RolledBack
        }
    }

    /// An error such as SQLITE_FULL took the whole transaction: everyone but its culprit is run again, each alone.
    fn rerun_others(&mut self, batch: &mut [Box<dyn Job>], culprit: usize) {
        for (index, job) in batch.iter_mut().enumerate() {
            if index == culprit {
                continue;
            }
            if let Err(error) = self.conn.sqlite().execute("BEGIN IMMEDIATE", &[]) {
                job.fail(error);
                continue;
            }
            if job.run(&mut self.conn)
                && let Err(error) = self.conn.sqlite().execute("COMMIT", &[])
            {
                job.fail(error);
            }
            self.conn.sqlite().leave_transaction();
        }
    }

    fn look_at_log(&mut self) {
        let pages = self.wal_pages.load(Ordering::Relaxed);
        self.environment
            .metrics
            .wal_size_bytes
            .set(pages * PAGE_SIZE_BYTES);
        if pages < self.checkpointed_pages {
            // The log started over.
            self.checkpointed_pages = 0;
        }
        if pages >= WAL_LIMIT_PAGES {
            // Writers that never pause keep the log from starting over: here, for once, they do.
            let done = self
                .conn
                .sqlite()
                .connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            if let Err(error) = done {
                tracing::warn!(%error, "the write-ahead log could not be emptied");
            }
            self.checkpointed_pages = 0;
            self.wal_pages.store(0, Ordering::Relaxed);
        } else if pages - self.checkpointed_pages >= WAL_CHECKPOINT_PAGES {
            self.checkpointed_pages = pages;
            // Full means that one is wanted already.
            let _already_wanted = self.checkpoint.try_send(());
        }
    }
}

enum Ran {
    Kept,
    RolledBack,
    TransactionLost,
}

fn fail_all(batch: &mut [Box<dyn Job>], error: Error) {
    let full = matches!(error, Error::StorageFull);
    let reason = error.to_string();
    for job in batch {
        job.fail(if full {
            Error::StorageFull
        } else {
            Error::unavailable(reason.clone())
        });
    }
}

impl AnyConn {
    fn sqlite(&mut self) -> &mut Conn {
        match self {
            Self::Sqlite(connection) => connection,
            Self::Postgres(_) => unreachable!("the SQLite threads are given SQLite connections"),
        }
    }
}

/// One SQLite connection and the texts it has translated.
pub struct Conn {
    pub(super) connection: Connection,
    texts: HashMap<(usize, usize), Box<str>>,
}

impl Conn {
    /// Wraps an open connection.
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            texts: HashMap::new(),
        }
    }

    /// Runs a query; `each` sees every row while the cursor stands on it.
    pub(super) fn for_each(
        &mut self,
        sql: &'static str,
        parameters: &[Value<'_>],
        mut each: impl FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let text = translated(&mut self.texts, sql);
        let mut statement = self.connection.prepare_cached(text).map_err(translate)?;
        bind(&mut statement, parameters)?;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(translate)? {
            each(&Row::Sqlite(row))?;
        }
        Ok(())
    }

    pub(super) fn execute(&mut self, sql: &'static str, parameters: &[Value<'_>]) -> Result<u64> {
        let text = translated(&mut self.texts, sql);
        let mut statement = self.connection.prepare_cached(text).map_err(translate)?;
        bind(&mut statement, parameters)?;
        statement
            .raw_execute()
            .map(|count| count as u64)
            .map_err(translate)
    }

    pub(super) fn script(&mut self, sql: &str) -> Result<()> {
        self.connection.execute_batch(&rewrite(sql)).map_err(translate)
    }

    pub(super) fn leave_transaction(&mut self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
    }
}

fn translated<'a>(texts: &'a mut HashMap<(usize, usize), Box<str>>, sql: &'static str) -> &'a str {
    // A 'static text is known by its address: looking it up needs no hashing of the text.
    texts
        .entry((sql.as_ptr().addr(), sql.len()))
        .or_insert_with(|| rewrite(sql).into_boxed_str())
}

/// PostgreSQL's way of writing into SQLite's: `$1` would be a *named* parameter there, bound by first appearance.
fn rewrite(sql: &str) -> String {
    let mut text = sql.replace("messaging.", "");
    for suffix in [" FOR UPDATE", " COLLATE \"C\""] {
        text = text.replace(suffix, "");
    }
    let mut rewritten = String::with_capacity(text.len() + 16);
    let mut rest = text.as_str();
    while let Some(at) = rest.find("= ANY($") {
        let digits = rest[at + 7..].find(')').unwrap_or(0);
        rewritten.push_str(&rest[..at]);
        rewritten.push_str("IN (SELECT value FROM rarray(?");
        rewritten.push_str(&rest[at + 7..at + 7 + digits]);
        rewritten.push_str("))");
        rest = &rest[at + 8 + digits..];
    }
    rewritten.push_str(rest);
    rewritten.replace('$', "?")
}

fn bind(statement: &mut Statement<'_>, parameters: &[Value<'_>]) -> Result<()> {
    for (index, parameter) in parameters.iter().enumerate() {
        statement
            .raw_bind_parameter(index + 1, parameter)
            .map_err(translate)?;
    }
    Ok(())
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let borrowed = |value| Ok(ToSqlOutput::Borrowed(value));
        match *self {
            Value::I64(number) => borrowed(ValueRef::Integer(number)),
            Value::OptionI64(number) => borrowed(number.map_or(ValueRef::Null, ValueRef::Integer)),
            Value::Text(text) => borrowed(ValueRef::Text(text.as_bytes())),
            Value::OptionText(text) => {
                borrowed(text.map_or(ValueRef::Null, |text| ValueRef::Text(text.as_bytes())))
            }
            Value::Bytes(bytes) => borrowed(ValueRef::Blob(bytes)),
            Value::Bool(truth) => borrowed(ValueRef::Integer(i64::from(truth))),
            Value::Time(at) => borrowed(ValueRef::Integer(at.micros())),
            Value::OptionTime(at) => borrowed(at.map_or(ValueRef::Null, |at| ValueRef::Integer(at.micros()))),
            Value::I64s(numbers) => list(numbers.iter().map(|number| Owned::Integer(*number))),
            Value::Texts(texts) => list(texts.iter().map(|text| Owned::Text((*text).to_owned()))),
            Value::ByteSlices(slices) => list(slices.iter().map(|bytes| Owned::Blob(bytes.to_vec()))),
            Value::OptionI64s(_) | Value::OptionTexts(_) | Value::Times(_) => Err(
                rusqlite::Error::ToSqlConversionFailure("a list that only PostgreSQL takes".into()),
            ),
        }
    }
}

fn list<'a>(values: impl Iterator<Item = Owned>) -> rusqlite::Result<ToSqlOutput<'a>> {
    // The name under which the rarray module finds its pointer.
    Ok(ToSqlOutput::from_rc(
        Rc::new(values.collect::<Vec<_>>()),
        c"rarray",
    ))
}

/// SQLite's errors in our words, in the one place that knows its codes.
pub(super) fn translate(error: rusqlite::Error) -> Error {
    let rusqlite::Error::SqliteFailure(failure, ref message) = error else {
        return Error::internal(error);
    };
    match failure.code {
        ErrorCode::ConstraintViolation
            if [
                rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE,
                rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY,
            ]
            .contains(&failure.extended_code) =>
        {
            // "UNIQUE constraint failed: users.user_name_key"
            let constraint = message
                .as_deref()
                .and_then(|message| message.split(": ").nth(1))
                .unwrap_or_default();
            Error::Duplicate {
                constraint: constraint.replace('.', "_"),
            }
        }
        ErrorCode::DiskFull => Error::StorageFull,
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::SystemIoFailure
        | ErrorCode::CannotOpen
        | ErrorCode::ReadOnly
        | ErrorCode::PermissionDenied => Error::unavailable(error),
        _ => Error::internal(error),
    }
}

fn column<'a>(row: &'a DriverRow<'_>, column: usize) -> Result<ValueRef<'a>> {
    row.get_ref(column).map_err(translate)
}

fn mismatch(value: ValueRef<'_>, column: usize, wanted: &str) -> Error {
    Error::internal(format!(
        "column {column} holds {}, not {wanted}",
        value.data_type()
    ))
}

pub(super) fn i64(row: &DriverRow<'_>, index: usize) -> Result<i64> {
    match column(row, index)? {
        ValueRef::Integer(number) => Ok(number),
        other => Err(mismatch(other, index, "BIGINT")),
    }
}

pub(super) fn option_i64(row: &DriverRow<'_>, index: usize) -> Result<Option<i64>> {
    match column(row, index)? {
        ValueRef::Null => Ok(None),
        ValueRef::Integer(number) => Ok(Some(number)),
        other => Err(mismatch(other, index, "BIGINT")),
    }
}

pub(super) fn text<'a>(row: &'a DriverRow<'_>, index: usize) -> Result<&'a str> {
    option_text(row, index)?.ok_or_else(|| mismatch(ValueRef::Null, index, "TEXT"))
}

pub(super) fn option_text<'a>(row: &'a DriverRow<'_>, index: usize) -> Result<Option<&'a str>> {
    match column(row, index)? {
        ValueRef::Null => Ok(None),
        ValueRef::Text(text) => std::str::from_utf8(text).map(Some).map_err(Error::internal),
        other => Err(mismatch(other, index, "TEXT")),
    }
}

pub(super) fn bytes<'a>(row: &'a DriverRow<'_>, index: usize) -> Result<&'a [u8]> {
    match column(row, index)? {
        ValueRef::Blob(bytes) => Ok(bytes),
        other => Err(mismatch(other, index, "BYTEA")),
    }
}

pub(super) fn bool(row: &DriverRow<'_>, index: usize) -> Result<bool> {
    Ok(i64(row, index)? != 0)
}

pub(super) fn time(row: &DriverRow<'_>, index: usize) -> Result<Timestamp> {
    i64(row, index).map(Timestamp::from_micros)
}

pub(super) fn option_time(row: &DriverRow<'_>, index: usize) -> Result<Option<Timestamp>> {
    Ok(option_i64(row, index)?.map(Timestamp::from_micros))
}
