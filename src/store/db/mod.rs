//! One interface to both databases: [`Db`], [`Conn`] and [`Row`] dispatch to the driver.

pub mod backup_digest;
pub(in crate::store) mod columns;
pub mod copy;
mod earlier_mentions;
pub mod migrations;
pub mod progress;
pub(in crate::store) mod words;

use std::panic::Location as CodeLocation;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tracing::Instrument as _;

use super::driver::environment::{Environment, Location, Work};
use super::driver::fatal::FatalFault;
use super::driver::unit::{Unit, outcome, unit};
use super::driver::values::{OwnedValue, Value};
use super::driver::write_status::WriteHealth;
use super::postgres::{self, notify};
use super::sqlite;
use crate::base::error::{Error, Result};
use crate::base::time::Timestamp;

impl Location {
    /// The location as it is written in logs, without secrets. A path is absolute, because a log does not say in which folder the
    /// process runs.
    pub fn describe(&self) -> String {
        match self {
            Self::Sqlite(path) => {
                format!("SQLite {}", std::path::absolute(path).as_deref().unwrap_or(path).display())
            }
            Self::Postgres(url) => postgres::describe(url),
        }
    }
}

/// An open database. Cheap to clone.
#[derive(Clone)]
pub enum Db {
    /// The embedded database.
    Sqlite(sqlite::Database<Conn>),
    /// The database server.
    Postgres(postgres::Database),
}

/// One connection, inside or outside a transaction. Every query runs on one.
pub enum Conn {
    /// Belongs to one thread. Its futures complete on the first poll.
    Sqlite(sqlite::Conn),
    /// From the pool.
    Postgres(postgres::Conn),
}

/// A function that is one transaction: see [`Db::write`].
pub type UnitOfWork<I, T> = for<'a> fn(&'a mut Conn, &'a I) -> Work<'a, T>;

impl Db {
    /// Connects to the database. Does not change the schema.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database cannot be reached, [`Error::Internal`] when its settings are unusable.
    pub async fn open(location: &Location, environment: Environment) -> Result<Self> {
        Ok(match location {
            Location::Sqlite(path) => Self::Sqlite(sqlite::Database::open(path, environment)?),
            Location::Postgres(url) => Self::Postgres(postgres::Database::open(url, environment).await?),
        })
    }

    /// Runs `work` as a read. On SQLite all its statements see one snapshot. On PostgreSQL each statement sees its own one.
    ///
    /// # Errors
    /// The errors of `work`, and [`Error::Unavailable`] when the database cannot be reached or its queue is full.
    #[track_caller]
    pub fn read<I, T>(&self, input: I, work: UnitOfWork<I, T>) -> impl Future<Output = Result<T>> + Send
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.run::<I, T>(Purpose::Read, CodeLocation::caller(), unit(input, work))
    }

    /// Like [`Db::read`], but without a time limit. For work that reads the whole database.
    ///
    /// # Errors
    /// As [`Db::read`].
    #[track_caller]
    pub fn read_without_limit<I, T>(&self, input: I, work: UnitOfWork<I, T>) -> impl Future<Output = Result<T>> + Send
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.run::<I, T>(Purpose::ReadAtLength, CodeLocation::caller(), unit(input, work))
    }

    /// Runs `work` as one transaction. When it returns success, the transaction is on disk.
    ///
    /// # Errors
    /// The errors of `work`, in which case nothing was committed; [`Error::Unavailable`] or [`Error::StorageFull`] when the
    /// transaction could not be made durable.
    #[track_caller]
    pub fn write<I, T>(&self, input: I, work: UnitOfWork<I, T>) -> impl Future<Output = Result<T>> + Send
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.run::<I, T>(Purpose::Write, CodeLocation::caller(), unit(input, work))
    }

    /// Like [`Db::write`], but without a time limit. For migrations and restores.
    ///
    /// # Errors
    /// As [`Db::write`].
    #[track_caller]
    pub fn maintain<I, T>(&self, input: I, work: UnitOfWork<I, T>) -> impl Future<Output = Result<T>> + Send
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.run::<I, T>(Purpose::Maintenance, CodeLocation::caller(), unit(input, work))
    }

    fn run<I, T>(
        &self,
        purpose: Purpose,
        caller: &'static CodeLocation<'static>,
        unit: Box<dyn Unit<Conn>>,
    ) -> impl Future<Output = Result<T>> + Send
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        let running = self.run_untyped(purpose, caller, unit);
        async move { outcome::<Conn, I, T>(running.await?) }
    }

    /// Runs a unit of work in a span, and logs how long it took, including its time in a queue. The span identifies the
    /// unit of work by the file and line of its caller, so every unit of work has a name of its own.
    ///
    /// The future is boxed, so that the futures of the callers stay small and the compiler does not analyze this future
    /// again for each of them.
    fn run_untyped(
        &self,
        purpose: Purpose,
        caller: &'static CodeLocation<'static>,
        unit: Box<dyn Unit<Conn>>,
    ) -> BoxFuture<'_, Result<Box<dyn Unit<Conn>>>> {
        let source = std::fmt::from_fn(|formatter| write!(formatter, "{}:{}", caller.file(), caller.line()));
        let span = tracing::debug_span!("unit_of_work", kind = purpose.name(), %source);
        let started = (!span.is_disabled()).then(Instant::now);
        let running = async move {
            let ended = self.run_on_driver(purpose, unit).await;
            let error = match &ended {
                Ok(unit) => unit.error(),
                Err(error) => Some(error),
            };
            if matches!(purpose, Purpose::Read | Purpose::Write) && matches!(error, Some(Error::Damaged { .. })) {
                self.environment().metrics.damaged_messages.inc();
            }
            if let Some(started) = started {
                let duration_ms = started.elapsed().as_secs_f64() * 1_000.0;
                // The error itself is not logged, because it may quote text of a caller.
                tracing::debug!(duration_ms, succeeded = error.is_none(), "a unit of work ended");
            }
            ended
        };
        Box::pin(running.instrument(span))
    }

    async fn run_on_driver(&self, purpose: Purpose, unit: Box<dyn Unit<Conn>>) -> Result<Box<dyn Unit<Conn>>> {
        match (self, purpose) {
            (Self::Sqlite(database), Purpose::Read | Purpose::ReadAtLength) => database.read(unit).await,
            (Self::Sqlite(database), Purpose::Write | Purpose::Maintenance) => database.write(unit).await,
            (Self::Postgres(database), Purpose::Read) => database.read(unit).await,
            (Self::Postgres(database), Purpose::ReadAtLength) => database.read_without_limit(unit).await,
            (Self::Postgres(database), Purpose::Write) => database.write(unit, postgres::Purpose::Request).await,
            (Self::Postgres(database), Purpose::Maintenance) => {
                database.write(unit, postgres::Purpose::Maintenance).await
            }
        }
    }

    /// Whether writes succeed, known from the outcome of recent writes.
    pub fn writing(&self) -> WriteHealth {
        self.environment().writing.now()
    }

    /// Holds the fatal fault, if one was declared.
    pub fn fatal_fault(&self) -> &FatalFault {
        &self.environment().fatal
    }

    fn environment(&self) -> &Environment {
        match self {
            Self::Sqlite(database) => database.environment(),
            Self::Postgres(database) => database.environment(),
        }
    }

    /// Whether the driver combines waiting units of work into one commit (group commit). SQLite's writer thread does.
    pub fn groups_commits(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    /// Removes the remains of deleted and changed data from SQLite's files: overwrites free space in the database file,
    /// copies the write-ahead log into it and truncates the log. Does nothing on PostgreSQL.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when readers or another process kept the write-ahead log in use for too long.
    pub async fn flush(&self) -> Result<()> {
        match self {
            Self::Sqlite(database) => database.flush().await,
            Self::Postgres(_) => Ok(()),
        }
    }

    /// A connection outside any transaction, for a command that begins its own transactions. Only on PostgreSQL.
    pub(crate) async fn connection(&self) -> Result<Conn> {
        match self {
            Self::Sqlite(_) => Err(Error::internal("a SQLite connection cannot leave its thread")),
            Self::Postgres(database) => Ok(Conn::Postgres(database.connection(postgres::Purpose::Maintenance).await?)),
        }
    }

    /// Runs one PostgreSQL statement outside a transaction. If it takes longer than `limit`, its connection is abandoned.
    pub(crate) async fn execute_outside_transaction(
        &self,
        sql: &'static str,
        parameters: &[Value<'_>],
        limit: Duration,
    ) -> Result<()> {
        match self {
            Self::Sqlite(_) => Err(Error::internal("a SQLite connection cannot leave its thread")),
            Self::Postgres(database) => database.execute_outside_transaction(sql, parameters, limit).await,
        }
    }

    /// Sends a text to every node that listens on the same PostgreSQL database, including this one.
    ///
    /// # Errors
    /// When the text is longer than [`notify::MAX_BYTES`], when the database is not PostgreSQL, or when it cannot be
    /// reached.
    pub async fn notify(&self, text: &str) -> Result<()> {
        match self {
            Self::Sqlite(_) => Err(Error::internal("SQLite has no NOTIFY")),
            Self::Postgres(database) => notify::notify(database, text).await,
        }
    }

    /// Returns one sentence for each setting of PostgreSQL with which a crash can lose acknowledged data. Empty on SQLite.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database cannot be reached.
    pub async fn unsafe_settings(&self) -> Result<Vec<String>> {
        match self {
            Self::Sqlite(_) => Ok(Vec::new()),
            Self::Postgres(database) => database.unsafe_settings().await,
        }
    }

    /// Refuses new work, and closes each connection after its current work. On SQLite this function waits until all
    /// accepted work is done.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(database) => database.close().await,
            Self::Postgres(database) => database.close(),
        }
    }
}

/// The kind of a unit of work. It decides on which connection the unit runs, and with which time limits.
#[derive(Clone, Copy)]
enum Purpose {
    Read,
    ReadAtLength,
    Write,
    Maintenance,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::ReadAtLength => "read at length",
            Self::Write => "write",
            Self::Maintenance => "maintenance",
        }
    }
}

impl Conn {
    /// Runs a query and returns what `read` returns for each row.
    ///
    /// # Errors
    /// Errors of the database, and errors of `read`.
    pub async fn rows<T>(
        &mut self,
        sql: &'static str,
        parameters: &[Value<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T> + Send,
    ) -> Result<Vec<T>>
    where
        T: Send,
    {
        let mut rows = Vec::new();
        self.for_each(sql, parameters, &mut |row| {
            rows.push(read(row)?);
            Ok(())
        })
        .await?;
        Ok(rows)
    }

    /// Calls `each` with every row of a query. The function is not generic, so that it is compiled once.
    async fn for_each(
        &mut self,
        sql: &'static str,
        parameters: &[Value<'_>],
        each: &mut (dyn FnMut(&Row<'_>) -> Result<()> + Send),
    ) -> Result<()> {
        match self {
            Self::Sqlite(connection) => {
                connection.for_each(sql, parameters, |row| read_row(&Row::Sqlite(row), parameters, &mut *each))
            }
            Self::Postgres(connection) => {
                for row in &connection.query(sql, parameters).await? {
                    read_row(&Row::Postgres(row), parameters, &mut *each)?;
                }
                Ok(())
            }
        }
    }

    /// Runs a query and returns its first row. `None` when there is no row.
    ///
    /// # Errors
    /// As [`Conn::rows`].
    pub async fn first<T>(
        &mut self,
        sql: &'static str,
        parameters: &[Value<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T> + Send,
    ) -> Result<Option<T>>
    where
        T: Send,
    {
        let mut first = None;
        self.for_each(sql, parameters, &mut |row| {
            if first.is_none() {
                first = Some(read(row)?);
            }
            Ok(())
        })
        .await?;
        Ok(first)
    }

    /// Runs a query that always returns a row, and returns the first one.
    ///
    /// # Errors
    /// As [`Conn::rows`], and [`Error::Internal`] when there is no row.
    pub async fn one<T>(
        &mut self,
        sql: &'static str,
        parameters: &[Value<'_>],
        read: impl FnMut(&Row<'_>) -> Result<T> + Send,
    ) -> Result<T>
    where
        T: Send,
    {
        self.first(sql, parameters, read)
            .await?
            .ok_or_else(|| Error::internal(format!("the statement returned no row: {sql}")))
    }

    /// Like [`Conn::one`], for the last statement of a transaction. On PostgreSQL the COMMIT is sent together with it, which
    /// saves a round trip while locks are held. If the statement fails, nothing is committed. No statement may follow.
    ///
    /// # Errors
    /// As [`Conn::one`], and the errors of the commit.
    pub async fn one_and_commit<T>(
        &mut self,
        sql: &'static str,
        parameters: &[Value<'_>],
        read: impl FnMut(&Row<'_>) -> Result<T> + Send,
    ) -> Result<T>
    where
        T: Send,
    {
        match self {
            Self::Sqlite(_) => self.one(sql, parameters, read).await,
            Self::Postgres(connection) => {
                let found = connection.query_and_commit(sql, parameters).await?;
                let row =
                    found.first().ok_or_else(|| Error::internal(format!("the statement returned no row: {sql}")))?;
                read_row(&Row::Postgres(row), parameters, read)
            }
        }
    }

    /// Runs a statement that returns no rows, and returns the number of rows that it changed.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn execute(&mut self, sql: &'static str, parameters: &[Value<'_>]) -> Result<u64> {
        match self {
            Self::Sqlite(connection) => connection.execute(sql, parameters),
            Self::Postgres(connection) => connection.execute(sql, parameters).await,
        }
    }

    /// Runs a script of several statements without parameters. For migrations and copies.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn script(&mut self, sql: &str) -> Result<()> {
        match self {
            Self::Sqlite(connection) => connection.script(sql),
            Self::Postgres(connection) => connection.script(sql).await,
        }
    }
}

/// Reads a row. [`Error::UnknownValue`] is extended with a description of the row.
fn read_row<T>(row: &Row<'_>, parameters: &[Value<'_>], read: impl FnOnce(&Row<'_>) -> Result<T>) -> Result<T> {
    read(row).map_err(|error| error.in_row(|| row.describe(parameters)))
}

impl From<sqlite::Conn> for Conn {
    fn from(connection: sqlite::Conn) -> Self {
        Self::Sqlite(connection)
    }
}

impl AsMut<sqlite::Conn> for Conn {
    fn as_mut(&mut self) -> &mut sqlite::Conn {
        match self {
            Self::Sqlite(connection) => connection,
            Self::Postgres(_) => unreachable!("the SQLite driver makes SQLite connections only"),
        }
    }
}

impl From<postgres::Conn> for Conn {
    fn from(connection: postgres::Conn) -> Self {
        Self::Postgres(connection)
    }
}

impl AsMut<postgres::Conn> for Conn {
    fn as_mut(&mut self) -> &mut postgres::Conn {
        match self {
            Self::Postgres(connection) => connection,
            Self::Sqlite(_) => unreachable!("the PostgreSQL driver makes PostgreSQL connections only"),
        }
    }
}

/// One row of a result. Columns count from 0. A getter fails when the column has another type.
pub enum Row<'a> {
    /// A row of SQLite.
    Sqlite(&'a sqlite::DriverRow<'a>),
    /// A row of PostgreSQL.
    Postgres(&'a postgres::DriverRow),
}

macro_rules! getter {
    ($(#[$doc:meta])* $name:ident -> $type:ty) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// [`Error::Internal`] when the column is absent or has another type.
        pub fn $name(&self, column: usize) -> Result<$type> {
            match self {
                Self::Sqlite(row) => sqlite::driver::$name(row, column),
                Self::Postgres(row) => postgres::$name(row, column),
            }
        }
    };
}

impl Row<'_> {
    getter!(
        /// BIGINT.
        i64 -> i64
    );
    getter!(
        /// BIGINT or NULL.
        option_i64 -> Option<i64>
    );
    getter!(
        /// TEXT, borrowed from the row.
        text -> &str
    );
    getter!(
        /// TEXT or NULL, borrowed from the row.
        option_text -> Option<&str>
    );
    getter!(
        /// BYTEA, borrowed from the row.
        bytes -> &[u8]
    );
    getter!(
        /// BYTEA or NULL, borrowed from the row.
        option_bytes -> Option<&[u8]>
    );
    getter!(
        /// BOOLEAN.
        bool -> bool
    );
    getter!(
        /// TIMESTAMPTZ.
        time -> Timestamp
    );
    getter!(
        /// TIMESTAMPTZ or NULL.
        option_time -> Option<Timestamp>
    );

    /// Describes the row for an operator: its ids, and the numbers among the parameters of the query. Texts are left out,
    /// because they may come from a caller.
    pub(in crate::store) fn describe(&self, parameters: &[Value<'_>]) -> String {
        let names: Vec<&str> = match self {
            Self::Sqlite(row) => row.as_ref().column_names().collect(),
            Self::Postgres(row) => row.columns().iter().map(|column| column.name()).collect(),
        };
        let is_id = |name: &str| matches!(name, "id" | "seq" | "position") || name.ends_with("_id");
        let ids = names.into_iter().enumerate().filter(|(_, name)| is_id(name));
        let ids = ids.filter_map(|(column, name)| Some(format!("{name} {}", self.i64(column).ok()?)));
        let numbers = parameters.iter().zip(1..).filter_map(|(value, number)| match value {
            Value::I64(value) | Value::OptionI64(Some(value)) => Some(format!("${number} = {value}")),
            _ => None,
        });
        ids.chain(numbers).collect::<Vec<_>>().join(", ")
    }

    /// Reads a column as an owned value. `kind` is the type of the column in the schema.
    ///
    /// # Errors
    /// [`Error::Internal`] when copies do not support the type.
    pub fn owned(&self, column: usize, kind: &str) -> Result<OwnedValue> {
        Ok(match kind {
            "BIGINT" | "INTEGER" => OwnedValue::I64(self.option_i64(column)?),
            "TEXT" => OwnedValue::Text(self.option_text(column)?.map(str::to_owned)),
            "BYTEA" => OwnedValue::Bytes(self.option_bytes(column)?.map(<[u8]>::to_vec)),
            "BOOLEAN" => OwnedValue::Bool(self.bool(column)?),
            "TIMESTAMPTZ" => OwnedValue::Time(self.option_time(column)?),
            other => {
                return Err(Error::internal(format!("a column has the type {other}, which a backup cannot copy")));
            }
        })
    }
}
