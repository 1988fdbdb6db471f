//! The storage floor: one SQL text, two drivers, units of work.
//!
//! Invariants:
//! - A unit of work is one transaction. When [`Db::write`] answers, it is on disk or it never happened.
//! - Work is `Fn` over its input, for it may be run again, and awaits nothing but its own statements.
//! - Parameters are written `$1`, tables `messaging.name`, lists `= ANY($1)`; a driver translates what its database says
//!   differently, nobody else does.
//! - Only `sqlite/` names rusqlite and only `postgres/` names tokio_postgres.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::time::{Clock, Timestamp};

pub mod account_codes;
pub mod api_keys;
pub mod audit;
pub mod backup_digest;
pub mod changes;
pub mod conversations;
pub mod copy;
pub mod digests;
mod durable;
pub mod edits;
pub mod erasure;
pub mod events;
pub mod friends;
pub mod health;
pub mod idempotency;
pub mod incoming_webhooks;
pub mod invites;
pub mod login_attempts;
pub mod members;
pub mod mentions;
pub mod messages;
pub mod mfa;
pub mod migrations;
pub mod passwords;
pub mod pins;
pub mod postgres;
pub mod presence;
pub mod reactions;
pub mod receipts;
pub mod reports;
pub mod revocations;
pub mod scheduled;
pub mod search;
pub mod sends;
pub mod sessions;
pub mod sqlite;
pub mod stats;
pub mod threads;
pub mod users;
pub mod webhooks;

/// What a unit of work returns: a future over its connection.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Where the data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// One file, and its write-ahead log beside it.
    Sqlite(std::path::PathBuf),
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

    /// How the place is called in a log: no secrets.
    pub fn describe(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("SQLite {}", path.display()),
            Self::Postgres(url) => match url::Url::parse(url) {
                Ok(url) => format!(
                    "PostgreSQL {}:{}{}",
                    url.host_str().unwrap_or("localhost"),
                    url.port().unwrap_or(5432),
                    url.path()
                ),
                Err(_) => "PostgreSQL".into(),
            },
        }
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
    fn note(&self) {
        self.0.send_replace(());
    }

    /// Commits from now on; those that come while one is looked at count once.
    pub fn listen(&self) -> tokio::sync::watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// A database, ready for work. Cheap to clone.
#[derive(Clone)]
pub enum Db {
    /// Embedded.
    Sqlite(sqlite::Database),
    /// Over the network.
    Postgres(postgres::Database),
}

/// One connection, inside or outside a transaction: what every query is run on.
pub enum Conn {
    /// Lives on its own thread; its futures are ready at once.
    Sqlite(sqlite::Conn),
    /// From the pool.
    Postgres(postgres::Conn),
}

impl Db {
    /// Connects, without touching the schema.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database cannot be reached, [`Error::Internal`] when its settings are unusable.
    pub async fn open(location: &Location, environment: Environment) -> Result<Self> {
        Ok(match location {
            Location::Sqlite(path) => Self::Sqlite(sqlite::Database::open(path, environment)?),
            Location::Postgres(url) => Self::Postgres(postgres::Database::open(url, environment).await?),
        })
    }

    /// Runs `work` for reading.
    ///
    /// # Errors
    /// What the work says, and [`Error::Unavailable`] when the database is gone or its queue is full.
    pub async fn read<I, T>(&self, input: I, work: for<'a> fn(&'a mut Conn, &'a I) -> Work<'a, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.counted(match self {
            Self::Sqlite(database) => database.read(input, work).await,
            Self::Postgres(database) => database.read(input, work).await,
        })
    }

    /// Runs `work` as one transaction. Its success means that it is on disk.
    ///
    /// # Errors
    /// What the work says (then nothing of it happened), and [`Error::Unavailable`] or [`Error::StorageFull`] when it could
    /// not be made durable.
    pub async fn write<I, T>(&self, input: I, work: for<'a> fn(&'a mut Conn, &'a I) -> Work<'a, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.counted(match self {
            Self::Sqlite(database) => database.write(input, work).await,
            Self::Postgres(database) => database.write(input, work).await,
        })
    }

    /// Like [`Db::write`], for as long as it takes: migrations and restores.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub async fn maintain<I, T>(&self, input: I, work: for<'a> fn(&'a mut Conn, &'a I) -> Work<'a, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        match self {
            Self::Sqlite(database) => database.write(input, work).await,
            Self::Postgres(database) => database.maintain(input, work).await,
        }
    }

    /// Counts an outcome that says that a message is damaged.
    fn counted<T>(&self, outcome: Result<T>) -> Result<T> {
        if let Err(Error::Damaged { .. }) = outcome {
            match self {
                Self::Sqlite(database) => database.count_damage(),
                Self::Postgres(database) => database.count_damage(),
            }
        }
        outcome
    }

    /// Whether units of work that wait share a commit by themselves: SQLite's writer sees to that.
    pub fn groups_commits(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    /// Leaves nothing behind of what was overwritten: the free space in SQLite's file is too, and its log is cut off.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when readers or another process were in the way for too long.
    pub async fn flush(&self) -> Result<()> {
        match self {
            Self::Sqlite(database) => database.flush().await,
            Self::Postgres(_) => Ok(()),
        }
    }

    /// A connection outside any transaction, for a command that holds its own: PostgreSQL alone.
    pub(crate) async fn connection(&self) -> Result<Conn> {
        match self {
            Self::Sqlite(_) => Err(Error::internal("SQLite's connections stay on their threads")),
            Self::Postgres(database) => Ok(Conn::Postgres(database.connection().await?)),
        }
    }

    /// One statement of PostgreSQL, outside any transaction of ours. The connection of one that takes longer is given up.
    pub(crate) async fn alone(&self, sql: &'static str, parameters: &[Value<'_>], limit: Duration) -> Result<()> {
        match self {
            Self::Sqlite(_) => Err(Error::internal("SQLite's connections stay on their threads")),
            Self::Postgres(database) => database.alone(sql, parameters, limit).await,
        }
    }

    /// Ends the connections after the work that was accepted.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(database) => database.close().await,
            Self::Postgres(database) => database.close(),
        }
    }
}

impl Conn {
    /// Every row of a query, each read by `read` as it comes.
    ///
    /// # Errors
    /// Of the database, translated; of `read`.
    pub async fn rows<T>(
        &mut self,
        sql: &'static str,
        parameters: &[Value<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T> + Send,
    ) -> Result<Vec<T>> {
        let mut rows = Vec::new();
        match self {
            Self::Sqlite(connection) => {
                connection.for_each(sql, parameters, |row| {
                    rows.push(read(row)?);
                    Ok(())
                })?;
            }
            Self::Postgres(connection) => {
                let found = connection.query(sql, parameters).await?;
                rows.reserve_exact(found.len());
                for row in &found {
                    rows.push(read(&Row::Postgres(row))?);
                }
            }
        }
        Ok(rows)
    }

    /// The first row of a query.
    ///
    /// # Errors
    /// As [`Conn::rows`].
    pub async fn first<T>(
        &mut self,
        sql: &'static str,
        parameters: &[Value<'_>],
        read: impl FnMut(&Row<'_>) -> Result<T> + Send,
    ) -> Result<Option<T>>
    where
        T: Send,
    {
        Ok(self.rows(sql, parameters, read).await?.into_iter().next())
    }

    /// The one row of a query that always has one.
    ///
    /// # Errors
    /// As [`Conn::rows`], and [`Error::Internal`] when there is none.
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
            .ok_or_else(|| Error::internal(format!("no row where one must be: {sql}")))
    }

    /// Like [`Conn::one`], for the last statement of a transaction: PostgreSQL gets the COMMIT right behind it, which spares
    /// a round trip while locks are held. What fails leaves nothing behind. No statement may come after it.
    ///
    /// # Errors
    /// As [`Conn::one`], and of the commit.
    pub async fn one_and_commit<T>(
        &mut self,
        sql: &'static str,
        parameters: &[Value<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T> + Send,
    ) -> Result<T>
    where
        T: Send,
    {
        match self {
            Self::Sqlite(_) => self.one(sql, parameters, read).await,
            Self::Postgres(connection) => {
                let found = connection.query_and_commit(sql, parameters).await?;
                let row = found.first().ok_or_else(|| Error::internal(format!("no row where one must be: {sql}")))?;
                read(&Row::Postgres(row))
            }
        }
    }

    /// Runs a statement that answers no rows; the number of rows it touched.
    ///
    /// # Errors
    /// Of the database, translated.
    pub async fn execute(&mut self, sql: &'static str, parameters: &[Value<'_>]) -> Result<u64> {
        match self {
            Self::Sqlite(connection) => connection.execute(sql, parameters),
            Self::Postgres(connection) => connection.execute(sql, parameters).await,
        }
    }

    /// Runs statements without parameters, as they stand apart from the schema prefix. For migrations.
    ///
    /// # Errors
    /// Of the database, translated.
    pub async fn script(&mut self, sql: &str) -> Result<()> {
        match self {
            Self::Sqlite(connection) => connection.script(sql),
            Self::Postgres(connection) => connection.script(sql).await,
        }
    }
}

/// A parameter of a statement.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// BIGINT.
    I64(i64),
    /// BIGINT or NULL.
    OptionI64(Option<i64>),
    /// TEXT.
    Text(&'a str),
    /// TEXT or NULL.
    OptionText(Option<&'a str>),
    /// BYTEA.
    Bytes(&'a [u8]),
    /// BYTEA or NULL.
    OptionBytes(Option<&'a [u8]>),
    /// BOOLEAN.
    Bool(bool),
    /// TIMESTAMPTZ.
    Time(Timestamp),
    /// TIMESTAMPTZ or NULL.
    OptionTime(Option<Timestamp>),
    /// BIGINT[]; `= ANY($1)` on both databases, anything else on PostgreSQL alone.
    I64s(&'a [i64]),
    /// BIGINT[] with NULLs; PostgreSQL alone.
    OptionI64s(&'a [Option<i64>]),
    /// TEXT[].
    Texts(&'a [&'a str]),
    /// TEXT[] with NULLs; PostgreSQL alone.
    OptionTexts(&'a [Option<&'a str>]),
    /// BYTEA[].
    ByteSlices(&'a [&'a [u8]]),
    /// BYTEA[] with NULLs; PostgreSQL alone.
    OptionByteSlices(&'a [Option<&'a [u8]>]),
    /// TIMESTAMPTZ[]; PostgreSQL alone.
    Times(&'a [Timestamp]),
}

/// A value that was read without knowing its column beforehand: what copies between databases carry.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnedValue {
    /// BIGINT or NULL.
    I64(Option<i64>),
    /// TEXT or NULL.
    Text(Option<String>),
    /// BYTEA or NULL.
    Bytes(Option<Vec<u8>>),
    /// BOOLEAN.
    Bool(bool),
    /// TIMESTAMPTZ or NULL.
    Time(Option<Timestamp>),
}

impl OwnedValue {
    /// As a parameter.
    pub fn as_value(&self) -> Value<'_> {
        match self {
            Self::I64(number) => Value::OptionI64(*number),
            Self::Text(text) => Value::OptionText(text.as_deref()),
            Self::Bytes(bytes) => Value::OptionBytes(bytes.as_deref()),
            Self::Bool(truth) => Value::Bool(*truth),
            Self::Time(at) => Value::OptionTime(*at),
        }
    }
}

/// A row under the driver's cursor; columns count from 0. A getter fails when the column has another type.
pub enum Row<'a> {
    /// Of SQLite.
    Sqlite(&'a sqlite::DriverRow<'a>),
    /// Of PostgreSQL.
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

    /// A column whose type the schema names.
    ///
    /// # Errors
    /// [`Error::Internal`] when the type is not one of ours.
    pub fn owned(&self, column: usize, kind: &str) -> Result<OwnedValue> {
        Ok(match kind {
            "BIGINT" | "INTEGER" => OwnedValue::I64(self.option_i64(column)?),
            "TEXT" => OwnedValue::Text(self.option_text(column)?.map(str::to_owned)),
            "BYTEA" => OwnedValue::Bytes(self.option_bytes(column)?.map(<[u8]>::to_vec)),
            "BOOLEAN" => OwnedValue::Bool(self.bool(column)?),
            "TIMESTAMPTZ" => OwnedValue::Time(self.option_time(column)?),
            other => {
                return Err(Error::internal(format!("a column has the type {other}, which no copy knows")));
            }
        })
    }
}
