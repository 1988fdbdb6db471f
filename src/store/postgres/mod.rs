//! The PostgreSQL driver: a pool, prepared statements, transactions.
//!
//! Invariants:
//! - Nothing outlives its transaction on a connection (no SET, no session lock), so that a pooler in transaction mode may
//!   stand between.
//! - A write runs in a task of its own: a caller that goes away never leaves a transaction half done in the pool.
//! - A COMMIT whose answer was lost is [`Error::Unavailable`], never run again by itself: only an idempotency key can tell.

pub mod notify;
mod tls;

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, Timeouts};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::error::{Error, Result};
use crate::store::{Conn as AnyConn, Environment, Value, Work};
use crate::time::Timestamp;

/// A row of PostgreSQL.
pub type DriverRow = tokio_postgres::Row;

/// Connections of one server; also what a batch of sends, reads and the command line share.
const POOL_SIZE: usize = 16;
/// Requests that may wait for a connection.
const WAITING_LIMIT: usize = 4_096;
/// How long one waits for a connection.
const WAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a unit of work may take, its commit included.
const WORK_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a unit of work is tried that loses against another (serialisation failure, deadlock).
const RERUN_LIMIT: usize = 5;
/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
const EPOCH_OFFSET_MICROS: i64 = 946_684_800_000_000;

/// An open PostgreSQL database.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    environment: Environment,
}

impl Database {
    /// Reads the URL and makes the pool; connects once to see that it works.
    ///
    /// # Errors
    /// [`Error::Internal`] when the URL cannot be used, [`Error::Unavailable`] when the server cannot be reached.
    pub async fn open(url: &str, environment: Environment) -> Result<Self> {
        let (mut config, connector) = tls::configure(url)?;
        config.connect_timeout(CONNECT_TIMEOUT).keepalives_idle(Duration::from_secs(30));
        if config.get_application_name().is_none() {
            config.application_name("posthaste");
        }
        let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(config, connector, manager_config);
        let pool = Pool::builder(manager)
            .max_size(POOL_SIZE)
            .timeouts(Timeouts {
                wait: Some(WAIT_TIMEOUT),
                create: Some(CONNECT_TIMEOUT),
                recycle: Some(CONNECT_TIMEOUT),
            })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(Error::internal)?;
        environment.metrics.pool_size.set(POOL_SIZE as i64);
        let database = Self { pool, environment };
        drop(database.connection().await?);
        Ok(database)
    }

    /// See [`crate::store::Db::read`].
    pub async fn read<I, T>(&self, input: I, work: for<'a> fn(&'a mut AnyConn, &'a I) -> Work<'a, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        let mut attempt = 0;
        loop {
            let mut connection = AnyConn::Postgres(self.connection().await?);
            let outcome = match tokio::time::timeout(WORK_TIMEOUT, work(&mut connection, &input)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Error::unavailable("the database took too long to answer")),
            };
            attempt += 1;
            match outcome {
                // A connection that died while it lay in the pool: a read may simply be asked again.
                Err(Error::Unavailable { .. }) if attempt == 1 && connection.postgres().client.is_closed() => {}
                outcome => return outcome,
            }
        }
    }

    /// See [`crate::store::Db::write`].
    pub async fn write<I, T>(&self, input: I, work: for<'a> fn(&'a mut AnyConn, &'a I) -> Work<'a, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.in_own_task(input, work, WORK_TIMEOUT).await
    }

    /// See [`crate::store::Db::maintain`].
    pub async fn maintain<I, T>(&self, input: I, work: for<'a> fn(&'a mut AnyConn, &'a I) -> Work<'a, T>) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.in_own_task(input, work, Duration::MAX).await
    }

    async fn in_own_task<I, T>(
        &self,
        input: I,
        work: for<'a> fn(&'a mut AnyConn, &'a I) -> Work<'a, T>,
        timeout: Duration,
    ) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
    {
        let database = self.clone();
        let task = tokio::spawn(async move {
            let mut attempt = 1;
            loop {
                match database.transaction(&input, work, timeout).await {
                    Err(Error::Rerun(reason)) if attempt < RERUN_LIMIT => {
                        tracing::debug!(%reason, "a transaction is run again");
                    }
                    Err(Error::Rerun(reason)) => return Err(Error::unavailable(reason)),
                    outcome => return outcome,
                }
                attempt += 1;
            }
        });
        task.await.unwrap_or_else(|panicked| Err(Error::internal(panicked)))
    }

    async fn transaction<I, T>(
        &self,
        input: &I,
        work: for<'a> fn(&'a mut AnyConn, &'a I) -> Work<'a, T>,
        timeout: Duration,
    ) -> Result<T> {
        let mut connection = AnyConn::Postgres(self.connection().await?);
        let outcome = tokio::time::timeout(timeout, self.run(&mut connection, input, work)).await;
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                connection.postgres().rollback().await;
                Err(error)
            }
            Err(_) => Err(Error::unavailable("the database took too long to answer")),
        }
    }

    async fn run<I, T>(
        &self,
        connection: &mut AnyConn,
        input: &I,
        work: for<'a> fn(&'a mut AnyConn, &'a I) -> Work<'a, T>,
    ) -> Result<T> {
        connection.postgres().begin();
        let value = work(connection, input).await?;
        let started = Instant::now();
        connection.postgres().commit().await?;
        self.environment.metrics.commit_duration_seconds.observe(started.elapsed().as_secs_f64());
        self.environment.metrics.commit_batch_size.observe(1.0);
        self.environment.commits.note();
        Ok(value)
    }

    pub(in crate::store) async fn connection(&self) -> Result<Conn> {
        if self.pool.status().waiting > WAITING_LIMIT {
            return Err(Error::unavailable("too many requests wait for a database connection"));
        }
        let waiting = self.environment.metrics.queue("pool");
        waiting.inc();
        let client = self.pool.get().await;
        waiting.dec();
        let client = client.map_err(|error| match error {
            PoolError::Backend(error) => translate(error),
            error => Error::unavailable(error),
        })?;
        self.environment.metrics.pool_in_use.inc();
        let metrics = Arc::clone(&self.environment.metrics);
        let client = Lease { object: Some(client), in_transaction: false, metrics };
        Ok(Conn { client, begin_wanted: false, committed: false })
    }

    pub(in crate::store) async fn alone(&self, sql: &str, parameters: &[Value<'_>], limit: Duration) -> Result<()> {
        let work = async {
            let mut connection = self.connection().await?;
            // Cut off in its middle, the connection must not go back to the pool with an answer still to come.
            connection.client.in_transaction = true;
            connection.query(sql, parameters).await?;
            connection.client.in_transaction = false;
            Ok(())
        };
        tokio::time::timeout(limit, work).await.map_err(|_| Error::unavailable("a statement took too long"))?
    }

    /// Counts a read that found a damaged message.
    pub(in crate::store) fn count_damage(&self) {
        self.environment.metrics.damaged_messages.inc();
    }

    /// Ends the connections that nobody uses, and the others after their use.
    pub fn close(&self) {
        self.pool.close();
    }
}

/// A pooled connection while it is out. One that is left inside a transaction (a time-out, a panic) is closed, never given
/// back.
struct Lease {
    object: Option<Object>,
    in_transaction: bool,
    metrics: Arc<crate::metrics::Metrics>,
}

impl std::ops::Deref for Lease {
    type Target = Object;

    fn deref(&self) -> &Object {
        self.object.as_ref().unwrap_or_else(|| unreachable!("the connection is taken out only when the lease ends"))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.metrics.pool_in_use.dec();
        if self.in_transaction
            && let Some(object) = self.object.take()
        {
            drop(Object::take(object));
        }
    }
}

/// One connection of the pool.
pub struct Conn {
    client: Lease,
    begin_wanted: bool,
    /// The COMMIT went with the last statement.
    committed: bool,
}

impl AnyConn {
    fn postgres(&mut self) -> &mut Conn {
        match self {
            Self::Postgres(connection) => connection,
            Self::Sqlite(_) => unreachable!("the pool gives PostgreSQL connections"),
        }
    }
}

impl Conn {
    /// Says BEGIN together with the first statement, which spares a round trip.
    fn begin(&mut self) {
        self.client.in_transaction = true;
        self.begin_wanted = true;
        self.committed = false;
    }

    async fn commit(&mut self) -> Result<()> {
        if !self.begin_wanted && !self.committed {
            self.client.batch_execute("COMMIT").await.map_err(translate)?;
        }
        self.client.in_transaction = false;
        Ok(())
    }

    async fn rollback(&mut self) {
        let begun = !std::mem::take(&mut self.begin_wanted) && self.client.in_transaction;
        self.client.in_transaction = begun && self.client.batch_execute("ROLLBACK").await.is_err();
    }

    /// Sends what `statement` sends, right behind a BEGIN if one is wanted.
    async fn send<T>(&mut self, statement: impl AsyncFnOnce(&Object) -> Result<T, tokio_postgres::Error>) -> Result<T> {
        if !std::mem::take(&mut self.begin_wanted) {
            return statement(&self.client).await.map_err(translate);
        }
        // Polled in this order, and so sent in this order.
        let (begun, outcome) = tokio::join!(biased; self.client.batch_execute("BEGIN"), statement(&self.client));
        begun.map_err(translate)?;
        outcome.map_err(translate)
    }

    /// The last statement of a transaction with its COMMIT. Where the statement fails, the COMMIT behind it rolls back.
    pub(in crate::store) async fn query_and_commit(
        &mut self,
        sql: &str,
        parameters: &[Value<'_>],
    ) -> Result<Vec<DriverRow>> {
        let parameters = as_parameters(parameters);
        let (outcome, ended) = self
            .send(async |client| {
                let statement = client.prepare_cached(sql).await?;
                // Polled in this order, and so sent in this order.
                Ok(tokio::join!(biased; client.query(&statement, &parameters), client.batch_execute("COMMIT")))
            })
            .await?;
        if ended.is_ok() {
            self.client.in_transaction = false;
            self.committed = true;
        }
        let rows = outcome.map_err(translate)?;
        ended.map_err(translate)?;
        Ok(rows)
    }

    pub(in crate::store) async fn query(&mut self, sql: &str, parameters: &[Value<'_>]) -> Result<Vec<DriverRow>> {
        let parameters = as_parameters(parameters);
        self.send(async |client| client.query(&client.prepare_cached(sql).await?, &parameters).await).await
    }

    pub(in crate::store) async fn execute(&mut self, sql: &str, parameters: &[Value<'_>]) -> Result<u64> {
        let parameters = as_parameters(parameters);
        self.send(async |client| client.execute(&client.prepare_cached(sql).await?, &parameters).await).await
    }

    pub(in crate::store) async fn script(&mut self, sql: &str) -> Result<()> {
        self.send(async |client| client.batch_execute(sql).await).await
    }
}

fn as_parameters<'a>(values: &'a [Value<'a>]) -> Vec<&'a (dyn ToSql + Sync)> {
    values.iter().map(|value| value as _).collect()
}

/// PostgreSQL's errors in our words, in the one place that knows its codes.
fn translate(error: tokio_postgres::Error) -> Error {
    // The error's own text has a DETAIL that repeats the row, which may hold what somebody wrote: the log gets none of it.
    let told = match error.as_db_error() {
        Some(told) => format!("{} ({})", told.message(), told.code().code()),
        None => error.to_string(),
    };
    let Some(state) = error.code().cloned() else {
        // No SQLSTATE: the connection itself failed, or a value could not be converted.
        let conversion = error.source().is_some_and(|source| source.is::<tokio_postgres::types::WrongType>());
        return if conversion { Error::internal(error) } else { Error::unavailable(error) };
    };
    match state {
        SqlState::UNIQUE_VIOLATION => Error::Duplicate {
            constraint: error.as_db_error().and_then(|error| error.constraint()).unwrap_or_default().to_owned(),
        },
        // A division by zero is a statement that found its premise gone (`store::sends::append`).
        SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED | SqlState::DIVISION_BY_ZERO => {
            Error::Rerun(told.into())
        }
        SqlState::DISK_FULL => Error::StorageFull,
        // Class 08: connection, 53: resources, 57: operator intervention, 58: system; 25006: a standby.
        state
            if ["08", "53", "57", "58"].iter().any(|class| state.code().starts_with(class))
                || state == SqlState::READ_ONLY_SQL_TRANSACTION
                || state == SqlState::INVALID_CATALOG_NAME =>
        {
            Error::unavailable(told)
        }
        _ => Error::internal(told),
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::I64(number) => number.to_sql_checked(kind, out),
            Self::OptionI64(number) => number.to_sql_checked(kind, out),
            Self::Text(text) => text.to_sql_checked(kind, out),
            Self::OptionText(text) => text.to_sql_checked(kind, out),
            Self::Bytes(bytes) => bytes.to_sql_checked(kind, out),
            Self::OptionBytes(bytes) => bytes.to_sql_checked(kind, out),
            Self::OptionByteSlices(slices) => slices.to_sql_checked(kind, out),
            Self::Bool(truth) => truth.to_sql_checked(kind, out),
            Self::Time(at) => at.to_sql_checked(kind, out),
            Self::OptionTime(at) => at.to_sql_checked(kind, out),
            Self::I64s(numbers) => numbers.to_sql_checked(kind, out),
            Self::OptionI64s(numbers) => numbers.to_sql_checked(kind, out),
            Self::Texts(texts) => texts.to_sql_checked(kind, out),
            Self::OptionTexts(texts) => texts.to_sql_checked(kind, out),
            Self::ByteSlices(slices) => slices.to_sql_checked(kind, out),
            Self::Times(times) => times.to_sql_checked(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        // Each variant asks its own type, in to_sql_checked.
        true
    }

    to_sql_checked!();
}

impl ToSql for Timestamp {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_i64(self.micros() - EPOCH_OFFSET_MICROS);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Timestamp {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        // 'infinity' is i64::MAX there; it becomes the last moment that can be written.
        let micros = i64::from_be_bytes(raw.try_into()?);
        Ok(Self::from_micros(micros.saturating_add(EPOCH_OFFSET_MICROS)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}

fn get<'a, T: FromSql<'a>>(row: &'a DriverRow, index: usize) -> Result<T> {
    row.try_get(index).map_err(Error::internal)
}

macro_rules! getters {
    ($($name:ident -> $type:ty;)*) => {
        $(pub(in crate::store) fn $name(row: &DriverRow, index: usize) -> Result<$type> {
            get(row, index)
        })*
    };
}

getters! {
    i64 -> i64;
    option_i64 -> Option<i64>;
    text -> &str;
    option_text -> Option<&str>;
    bytes -> &[u8];
    option_bytes -> Option<&[u8]>;
    bool -> bool;
    time -> Timestamp;
    option_time -> Option<Timestamp>;
}
