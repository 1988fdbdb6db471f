//! A connection in use: its statements and its transaction.
//!
//! Invariants:
//! - Every transaction begins by setting its own time limits, which end with it. So if a process vanishes in the middle of
//!   a transaction, its locks are released at the latest `IDLE_TIMEOUT` after the end of its last statement
//!   (`MAINTENANCE_IDLE_TIMEOUT` for migrations and restores).
//! - The statements that number events and revocations lock the rows of counters, and other transactions that use the
//!   counters wait for these locks. So these statements are sent last, together with the COMMIT. See [`Conn::queue`].
//! - If a statement of a request gets no answer within `STATEMENT_LIMIT`, all connections of the pool that exist at that
//!   moment are replaced.

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Row, Statement};

use super::connect::PoolEntry;
use super::errors::{self, Affected};
use super::pool::PooledConnection;
use crate::base::error::{Error, Result};
use crate::store::driver::values::Value;

/// How long a transaction may wait for its next statement before PostgreSQL ends it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for migrations and restores, which compute between their statements.
const MAINTENANCE_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long one statement may run before PostgreSQL ends it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a statement may wait for a lock. Shorter than `STATEMENT_TIMEOUT`, so that the log names the lock as the reason.
const LOCK_TIMEOUT: Duration = Duration::from_secs(8);
/// How long the driver waits for the answer to a statement. Longer than `STATEMENT_TIMEOUT`, so it is reached only when
/// PostgreSQL did not end the statement in time.
const STATEMENT_LIMIT: Duration = Duration::from_secs(12);
/// How long the driver waits for a ROLLBACK before it abandons the connection.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(2);

/// Begins the transaction of a request. The isolation level is set, because a role can have another default. `READ WRITE`
/// is not set, because a database that an administrator made read-only must stay read-only.
static BEGIN: LazyLock<String> =
    LazyLock::new(|| begin(IDLE_TIMEOUT, &[("statement_timeout", STATEMENT_TIMEOUT), ("lock_timeout", LOCK_TIMEOUT)]));
/// Begins a migration or a restore. The time limits of the role are switched off for it.
static BEGIN_MAINTENANCE: LazyLock<String> = LazyLock::new(|| {
    begin(MAINTENANCE_IDLE_TIMEOUT, &[("statement_timeout", Duration::ZERO), ("lock_timeout", Duration::ZERO)])
});

fn begin(idle: Duration, limits: &[(&str, Duration)]) -> String {
    let mut sql = "BEGIN ISOLATION LEVEL READ COMMITTED".to_owned();
    for (name, limit) in [("idle_in_transaction_session_timeout", idle)].iter().chain(limits) {
        let written = write!(sql, "; SET LOCAL {name} = {}", limit.as_millis());
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
    }
    sql
}

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A request. Every statement has a time limit.
    Request,
    /// Migrations, restores and backups. Their statements have no time limit.
    Maintenance,
}

/// The counters, in the order in which a transaction locks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// The positions of events.
    Events,
    /// The positions of revocations.
    Revocations,
}

/// A statement that is sent together with the COMMIT.
struct Queued {
    counter: Counter,
    statement: Statement,
    parameters: Vec<Encoded>,
}

/// One connection of the pool.
pub struct Conn {
    pooled: PooledConnection,
    purpose: Purpose,
    begin_due: bool,
    /// Whether the COMMIT was already sent, together with the last statement, and got no error as its answer.
    committed: bool,
    /// Whether a statement of the transaction failed. If so, PostgreSQL rolls back at a COMMIT but reports success.
    failed: bool,
    queued: Vec<Queued>,
}

impl Conn {
    pub(super) fn new(pooled: PooledConnection, purpose: Purpose) -> Self {
        Self { pooled, purpose, begin_due: false, committed: false, failed: false, queued: Vec::new() }
    }

    /// Whether the connection broke before a COMMIT was sent. Then nothing of the transaction was committed.
    pub(super) fn broke_before_commit(&self) -> bool {
        self.pooled.is_broken() && !self.pooled.committing && !self.pooled.busy
    }

    pub(super) fn pool_entry(&self) -> &PoolEntry {
        self.pooled.entry()
    }

    /// Begins a transaction. The BEGIN is sent together with the first statement, which saves a round trip.
    pub(super) fn begin(&mut self) {
        self.pooled.in_transaction = true;
        self.begin_due = true;
        self.committed = false;
        self.failed = false;
        self.queued.clear();
    }

    pub(super) async fn commit(&mut self) -> Result<()> {
        if self.committed {
            return Ok(());
        }
        if self.failed {
            return Err(Error::internal("a unit of work continued after a failed statement"));
        }
        if self.begin_due && self.queued.is_empty() {
            self.begin_due = false;
            self.pooled.in_transaction = false;
            return Ok(());
        }
        self.finish(None).await.map(drop)
    }

    pub(super) async fn rollback(&mut self) {
        if std::mem::take(&mut self.begin_due) {
            self.pooled.in_transaction = false;
        }
        // If no ROLLBACK can be sent here, the pool ends the transaction when the connection is dropped.
        if self.pooled.in_transaction && !self.pooled.busy && !self.pooled.is_broken() {
            self.pooled.busy = true;
            let answer = timeout(ROLLBACK_LIMIT, self.pooled.entry().client.batch_execute("ROLLBACK")).await;
            self.pooled.busy = answer.is_err();
            self.pooled.in_transaction = !matches!(answer, Ok(Ok(())));
        }
    }

    /// Sends the statements of `work`, after a BEGIN if one is due. Statements that only read are sent together with the
    /// BEGIN. Statements that write wait until the BEGIN has succeeded. After a failed BEGIN, each of them would be
    /// committed as a transaction of its own.
    async fn send<T>(
        &mut self,
        writes: bool,
        work: impl AsyncFnOnce(&PoolEntry) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T> {
        if self.pooled.is_broken() {
            return Err(Error::unavailable("the connection to PostgreSQL was lost"));
        }
        let begin = std::mem::take(&mut self.begin_due).then(|| match self.purpose {
            Purpose::Request => BEGIN.as_str(),
            Purpose::Maintenance => BEGIN_MAINTENANCE.as_str(),
        });
        self.pooled.busy = true;
        let entry = self.pooled.entry();
        let answer = async {
            let Some(begin) = begin else { return work(entry).await };
            if writes {
                entry.client.batch_execute(begin).await?;
                return work(entry).await;
            }
            // The futures are polled in this order, so their statements are sent in this order.
            let (begun, outcome) = tokio::join!(biased; entry.client.batch_execute(begin), work(entry));
            begun?;
            outcome
        };
        let answer = match self.purpose {
            Purpose::Request => timeout(STATEMENT_LIMIT, answer).await,
            Purpose::Maintenance => Ok(answer.await),
        };
        let Ok(answer) = answer else {
            // The answer may still arrive, so the connection stays busy.
            self.pooled.mark_all_broken("a statement got no answer in time");
            return Err(Error::unavailable("PostgreSQL took too long to answer"));
        };
        self.pooled.busy = false;
        answer.map_err(|error| self.fail(error))
    }

    fn fail(&mut self, error: tokio_postgres::Error) -> Error {
        self.failed = true;
        let fault = errors::fault(error);
        match fault.affected {
            Affected::Statement => {}
            Affected::Connection => self.pooled.mark_broken(),
            Affected::Pool => self.pooled.mark_all_broken(&fault.error.to_string()),
        }
        fault.error
    }

    /// Keeps a statement until the end of the transaction, where it is sent together with the COMMIT. The statement locks a
    /// counter, and other transactions wait for this lock. So there must be no round trip between the lock and the commit.
    /// Statements of one counter keep their order. If the statement does not find its row, it must fail with an SQL error,
    /// because its result is not read.
    pub(in crate::store) async fn queue(
        &mut self,
        counter: Counter,
        sql: &str,
        parameters: &[Value<'_>],
    ) -> Result<()> {
        // Preparing a statement takes no lock and needs no transaction.
        let begin_due = std::mem::take(&mut self.begin_due);
        let prepared = self.send(false, async |entry| entry.client.prepare_cached(sql).await).await;
        self.begin_due = begin_due;
        let statement = prepared?;
        let parameters = parameters.iter().zip(statement.params()).map(|(value, kind)| Encoded::new(value, kind));
        let parameters = parameters.collect::<Result<_>>()?;
        self.queued.push(Queued { counter, statement, parameters });
        Ok(())
    }

    /// Runs the last statement of a transaction together with its COMMIT. If the statement fails, the COMMIT rolls back.
    pub(in crate::store) async fn query_and_commit(&mut self, sql: &str, parameters: &[Value<'_>]) -> Result<Vec<Row>> {
        self.finish(Some((sql, parameters))).await
    }

    /// Sends the queued statements, `last` and the COMMIT together.
    async fn finish(&mut self, last: Option<(&str, &[Value<'_>])>) -> Result<Vec<Row>> {
        let mut queued = std::mem::take(&mut self.queued);
        queued.sort_by_key(|queued| queued.counter);
        let parameters = as_parameters(last.map_or(&[], |(_, parameters)| parameters));
        let statement = match last {
            Some((sql, _)) => Some(self.prepare(sql).await?),
            None => None,
        };
        self.pooled.committing = true;
        let sent = self
            .send(true, async |entry| {
                let first = async {
                    let parameters = queued.iter().map(|queued| as_dynamic(&queued.parameters));
                    let parameters: Vec<_> = parameters.collect();
                    let sent = queued.iter().zip(&parameters);
                    in_order(sent.map(|(queued, parameters)| entry.client.execute(&queued.statement, parameters))).await
                };
                let last = async {
                    match &statement {
                        Some(statement) => entry.client.query(statement, &parameters).await,
                        None => Ok(Vec::new()),
                    }
                };
                // The futures are polled in this order, so their statements are sent in this order.
                Ok(tokio::join!(biased; first, last, entry.client.batch_execute("COMMIT")))
            })
            .await;
        let (first, last, ended) = sent?;
        self.pooled.committing = false;
        if ended.is_ok() {
            self.pooled.in_transaction = false;
            self.committed = true;
        }
        let outcome = first.into_iter().find_map(Result::err).map_or(last, Err);
        match (outcome, ended) {
            (Ok(rows), Ok(())) => Ok(rows),
            (Err(error), _) | (Ok(_), Err(error)) => {
                // If the connection was lost, PostgreSQL may have executed the COMMIT. `committing` is `true` in that case,
                // so that the unit of work is not run again.
                self.pooled.committing = !errors::proves_rollback(&error);
                Err(self.fail(error))
            }
        }
    }

    async fn prepare(&mut self, sql: &str) -> Result<Statement> {
        // The statement is prepared before the BEGIN, so that it can be sent directly after the BEGIN.
        let begin_due = std::mem::take(&mut self.begin_due);
        let prepared = self.send(false, async |entry| entry.client.prepare_cached(sql).await).await;
        self.begin_due = begin_due;
        prepared
    }

    pub(in crate::store) async fn query(&mut self, sql: &str, parameters: &[Value<'_>]) -> Result<Vec<Row>> {
        let parameters = as_parameters(parameters);
        self.send(writes(sql), async |entry| {
            entry.client.query(&entry.client.prepare_cached(sql).await?, &parameters).await
        })
        .await
    }

    pub(in crate::store) async fn execute(&mut self, sql: &str, parameters: &[Value<'_>]) -> Result<u64> {
        let parameters = as_parameters(parameters);
        self.send(writes(sql), async |entry| {
            entry.client.execute(&entry.client.prepare_cached(sql).await?, &parameters).await
        })
        .await
    }

    pub(in crate::store) async fn script(&mut self, sql: &str) -> Result<()> {
        self.send(true, async |entry| entry.client.batch_execute(sql).await).await
    }
}

/// Whether a statement changes rows. Locking rows is not a change.
fn writes(sql: &str) -> bool {
    let mut before = "";
    sql.split_whitespace().map(|word| word.trim_start_matches('(')).any(|word| {
        let locks = matches!(std::mem::replace(&mut before, word), "FOR" | "KEY");
        matches!(word, "INSERT" | "DELETE") || word == "UPDATE" && !locks
    })
}

/// Polls all futures, always in their order, until all are complete.
async fn in_order<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.map(|future| Box::pin(futures_util::future::maybe_done(future))).collect();
    std::future::poll_fn(|context| {
        let mut waiting = false;
        for future in &mut futures {
            waiting |= future.as_mut().poll(context).is_pending();
        }
        if waiting { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    futures.iter_mut().filter_map(|future| future.as_mut().take_output()).collect()
}

fn as_parameters<'a>(values: &'a [Value<'a>]) -> Vec<&'a (dyn ToSql + Sync)> {
    values.iter().map(|value| value as _).collect()
}

fn as_dynamic(values: &[Encoded]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as _).collect()
}

/// A parameter in PostgreSQL's binary format. `None` is NULL.
#[derive(Debug)]
struct Encoded(Option<Bytes>);

impl Encoded {
    fn new(value: &Value<'_>, kind: &Type) -> Result<Self> {
        let mut bytes = BytesMut::new();
        let is_null = value.to_sql_checked(kind, &mut bytes).map_err(Error::internal)?;
        Ok(Self(matches!(is_null, IsNull::No).then(|| bytes.freeze())))
    }
}

impl ToSql for Encoded {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let Some(bytes) = &self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(bytes);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_locks_are_not_writes() {
        for (sql, expected) in [
            ("SELECT id FROM messaging.users WHERE id = $1 FOR UPDATE", false),
            ("SELECT id FROM messaging.users FOR NO KEY UPDATE", false),
            ("WITH a AS (\n UPDATE messaging.users SET id = 1 RETURNING id) SELECT id FROM a", true),
            ("WITH a AS (DELETE FROM messaging.users RETURNING id) SELECT id FROM a", true),
            ("INSERT INTO messaging.users SELECT 1", true),
        ] {
            assert_eq!(writes(sql), expected, "{sql}");
        }
    }
}
