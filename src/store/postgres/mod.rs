//! The PostgreSQL driver: a pool, prepared statements and transactions.
//!
//! Invariants:
//! - No setting and no lock outlives its transaction on a connection (no SET, no session lock), so a pooler in transaction
//!   mode can be used.
//! - A write runs in its own task, so a caller that goes away never leaves an unfinished transaction in the pool.
//! - A process that vanishes holds its locks for a few seconds at most, and no request waits without limit: PostgreSQL
//!   limits every transaction of a request, and this driver limits every statement of one. Migrations and restores have
//!   longer limits or none.
//! - Events and revocations are numbered by statements that are sent together with the COMMIT, even if the unit of work
//!   added them earlier.
//! - If the answer to a COMMIT is lost, the error is [`Error::Unavailable`] and the driver does not run the unit of work
//!   again. Only a repeat with the same idempotency key shows whether it was committed.

mod conn;
mod connect;
mod errors;
pub mod notify;
mod pool;
mod tls;
mod url;
mod values;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Instrument as _;

use super::driver::environment::{Environment, WorkConn};
use super::driver::unit::Unit;
use super::driver::values::Value;
use crate::base::error::{Error, Result};

pub use conn::{Conn, Counter, Purpose};
pub use url::describe;
pub(in crate::store) use values::{
    DriverRow, bool, bytes, i64, option_bytes, option_i64, option_text, option_time, text, time,
};

use connect::{Target, jitter};
use pool::Pool;

/// How long a unit of work may take, including its commit.
const WORK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the start waits for a second connection.
const SECOND_CONNECTION_TIMEOUT: Duration = Duration::from_secs(4);
/// Maximum number of attempts for a unit of work that conflicts with another transaction (serialization failure, deadlock).
const RERUN_LIMIT: usize = 5;
/// The pause after attempt number n is a random time below this value times 2 to the power of n, in milliseconds.
const RERUN_PAUSE_MS: usize = 10;

/// An open PostgreSQL database.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    environment: Environment,
}

impl Database {
    /// Parses the URL, creates the pool, and connects once to check the PostgreSQL server.
    ///
    /// # Errors
    /// [`Error::Internal`] when the URL cannot be used; [`Error::Unavailable`] when PostgreSQL cannot be reached, or when
    /// its settings or a pooler make it unsafe to use.
    pub async fn open(url: &str, environment: Environment) -> Result<Self> {
        let target = Target::parse(url, "posthaste")?;
        let pool = Pool::new(target, environment.allow_unsafe_storage, environment.metrics.clone())?;
        let database = Self { pool, environment };
        database.check_statements_are_kept_apart().await?;
        Ok(database)
    }

    pub(in crate::store) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Detects a pooler that mixes up prepared statements of different connections. The second connection begins a
    /// transaction. A pooler that shares PostgreSQL's connections then gives it the connection to PostgreSQL that the first
    /// connection has just used.
    async fn check_statements_are_kept_apart(&self) -> Result<()> {
        const NAMED: &str = "SELECT 'the statement of one connection'";
        // A pooler that keeps statements apart gives them names of its own, which do not match this pattern.
        const STATEMENTS_OF_OTHERS: &str =
            "SELECT count(*) FROM pg_catalog.pg_prepared_statements WHERE statement = $1 AND name ~ '^s[0-9]+$'";
        let mut first = self.connection(Purpose::Request).await?;
        first.query(NAMED, &[]).await?;
        let second = tokio::time::timeout(SECOND_CONNECTION_TIMEOUT, self.connection(Purpose::Request)).await;
        // If PostgreSQL has room for only one connection, statements cannot be mixed up.
        let Ok(second) = second else { return Ok(()) };
        let mut second = second?;
        second.begin();
        let found = second.query(STATEMENTS_OF_OTHERS, &[Value::Text(NAMED)]).await?;
        let mixed = found.first().is_some_and(|row| i64(row, 0).is_ok_and(|count| count > 0));
        let again = first.query(NAMED, &[]).await;
        second.rollback().await;
        if mixed {
            return Err(Error::unavailable(errors::MIXED_STATEMENTS));
        }
        again.map(drop)
    }

    /// See [`crate::store::db::Db::read`].
    pub async fn read<C: WorkConn<Conn>>(&self, mut unit: Box<dyn Unit<C>>) -> Result<Box<dyn Unit<C>>> {
        let mut attempt = 1;
        loop {
            let mut connection = C::from(self.connection(Purpose::Request).await?);
            if tokio::time::timeout(WORK_TIMEOUT, unit.run(&mut connection)).await.is_err() {
                unit.fail(Error::unavailable("PostgreSQL took too long to answer"));
            }
            let again = should_run_again(unit.error(), attempt, connection.as_mut());
            drop(connection);
            if !again {
                rerun_as_unavailable(unit.as_mut());
                return Ok(unit);
            }
            pause(attempt).await;
            attempt += 1;
        }
    }

    /// See [`crate::store::db::Db::read_without_limit`].
    pub async fn read_without_limit<C: WorkConn<Conn>>(&self, mut unit: Box<dyn Unit<C>>) -> Result<Box<dyn Unit<C>>> {
        let mut connection = C::from(self.connection(Purpose::Maintenance).await?);
        unit.run(&mut connection).await;
        Ok(unit)
    }

    /// See [`crate::store::db::Db::write`] and [`crate::store::db::Db::maintain`], which differ in their purpose.
    pub async fn write<C: WorkConn<Conn>>(
        &self,
        mut unit: Box<dyn Unit<C>>,
        purpose: Purpose,
    ) -> Result<Box<dyn Unit<C>>> {
        let database = self.clone();
        let running = async move {
            let status = Arc::clone(&database.environment.writing);
            // Maintenance may take long without a fault of the storage, so its outcome is not recorded.
            let write = (purpose == Purpose::Request).then(|| status.begin());
            let record = database.run_until_decided(&mut unit, purpose).await;
            if let Err(error) = record {
                unit.fail(error);
            }
            if let Some(write) = write {
                write.record(unit.error());
            }
            unit
        };
        tokio::spawn(running.in_current_span()).await.map_err(Error::internal)
    }

    /// Runs a unit in a transaction, and runs it again when [`should_run_again`] says so. The returned error means that no
    /// connection was available. An error of the unit is stored in the unit.
    async fn run_until_decided<C: WorkConn<Conn>>(&self, unit: &mut Box<dyn Unit<C>>, purpose: Purpose) -> Result<()> {
        let mut attempt = 1;
        loop {
            let mut connection = C::from(self.connection(purpose).await?);
            self.transaction(&mut connection, unit.as_mut(), purpose).await;
            if !should_run_again(unit.error(), attempt, connection.as_mut()) {
                rerun_as_unavailable(unit.as_mut());
                return Ok(());
            }
            drop(connection);
            pause(attempt).await;
            attempt += 1;
        }
    }

    async fn transaction<C: WorkConn<Conn>>(&self, connection: &mut C, unit: &mut dyn Unit<C>, purpose: Purpose) {
        let limit = match purpose {
            Purpose::Request => WORK_TIMEOUT,
            Purpose::Maintenance => Duration::MAX,
        };
        if tokio::time::timeout(limit, self.run(connection, unit)).await.is_err() {
            // A statement that is still running is ended after the connection was abandoned.
            unit.fail(Error::unavailable("PostgreSQL took too long to answer"));
        }
        if unit.error().is_some() {
            connection.as_mut().rollback().await;
        }
    }

    async fn run<C: WorkConn<Conn>>(&self, connection: &mut C, unit: &mut dyn Unit<C>) {
        connection.as_mut().begin();
        unit.run(connection).await;
        if unit.error().is_some() {
            return;
        }
        let started = Instant::now();
        if let Err(error) = connection.as_mut().commit().await {
            return unit.fail(error);
        }
        self.environment.metrics.commit_duration_seconds.observe(started.elapsed().as_secs_f64());
        self.environment.metrics.commit_batch_size.observe(1.0);
        self.environment.commits.note();
    }

    pub(in crate::store) async fn connection(&self, purpose: Purpose) -> Result<Conn> {
        Ok(Conn::new(self.pool.get().await?, purpose))
    }

    pub(in crate::store) async fn execute_outside_transaction(
        &self,
        sql: &str,
        parameters: &[Value<'_>],
        limit: Duration,
    ) -> Result<()> {
        let work = async {
            let mut connection = self.connection(Purpose::Maintenance).await?;
            connection.query(sql, parameters).await.map(drop)
        };
        tokio::time::timeout(limit, work).await.map_err(|_| Error::unavailable("a statement took too long"))?
    }

    /// See [`crate::store::db::Db::unsafe_settings`].
    pub(in crate::store) async fn unsafe_settings(&self) -> Result<Vec<String>> {
        let connection = self.connection(Purpose::Request).await?;
        let found = connect::unsafe_settings(&connection.pool_entry().client).await;
        found.map_err(|error| errors::fault(error).error)
    }

    /// Closes idle connections now, and the others after their use.
    pub fn close(&self) {
        self.pool.close();
    }
}

/// Whether a unit of work should run again: it conflicted with another transaction, or its connection broke before a COMMIT
/// was sent.
fn should_run_again(error: Option<&Error>, attempt: usize, connection: &Conn) -> bool {
    match error {
        Some(Error::Rerun(reason)) => {
            tracing::debug!(%reason, attempt, "a unit of work conflicted with another transaction");
            attempt < RERUN_LIMIT
        }
        Some(Error::Unavailable { .. }) => attempt == 1 && connection.broke_before_commit(),
        _ => false,
    }
}

fn rerun_as_unavailable<C>(unit: &mut dyn Unit<C>) {
    if let Some(Error::Rerun(reason)) = unit.error() {
        let error = Error::unavailable(reason.to_string());
        unit.fail(error);
    }
}

/// Waits for a random time, so that two units of work that conflicted do not run at the same moment again.
async fn pause(attempt: usize) {
    let limit_ms = RERUN_PAUSE_MS << attempt;
    tokio::time::sleep(Duration::from_millis(jitter(limit_ms) as u64)).await;
}
