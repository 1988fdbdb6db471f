//! One connection at work: statements, and the transaction they stand in.
//!
//! Invariants:
//! - Every transaction begins with its own limits, which end with it: a process that vanishes in the middle holds its locks for
//!   `IDLE_TIMEOUT` at most.
//! - What numbers events and revocations, and so takes the locks that everybody waits for, is sent in one flight with the
//!   COMMIT, behind everything else. See [`Conn::queue`].
//! - A statement without an answer within `STATEMENT_LIMIT` condemns its connection and everything in the pool.

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Row, Statement};

use super::connect::Session;
use super::errors::{self, Scope};
use super::pool::Lease;
use crate::base::error::{Error, Result};
use crate::store::driver::values::Value;

/// How long a transaction may wait for its next statement before the server ends it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Likewise for migrations and restores, which compute between their statements.
const MAINTENANCE_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long one statement may run before the server ends it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a statement may wait for a lock; below `STATEMENT_TIMEOUT`, so that the log names the reason.
const LOCK_TIMEOUT: Duration = Duration::from_secs(8);
/// How long the answer to a statement is waited for here; above `STATEMENT_TIMEOUT`, which then has failed to end it.
const STATEMENT_LIMIT: Duration = Duration::from_secs(12);
/// How long a ROLLBACK is waited for before the connection is given up.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(2);

/// Begins a transaction of a request. A role's default may be another isolation level. `READ WRITE` is left to the server: a
/// database that was made read-only is not to be overridden.
static BEGIN: LazyLock<String> =
    LazyLock::new(|| begin(IDLE_TIMEOUT, &[("statement_timeout", STATEMENT_TIMEOUT), ("lock_timeout", LOCK_TIMEOUT)]));
/// Begins a migration or a restore, for which a role's limits do not count either.
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

/// What a connection is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A request: every statement has its limit.
    Request,
    /// Migrations, restores and backups: nothing has.
    Maintenance,
}

/// The order in which a transaction takes the locks of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// The positions of events.
    Events,
    /// The positions of revocations.
    Revocations,
}

/// A statement that waits for the commit.
struct Queued {
    counter: Counter,
    statement: Statement,
    parameters: Vec<Encoded>,
}

/// One connection of the pool.
pub struct Conn {
    lease: Lease,
    purpose: Purpose,
    begin_wanted: bool,
    /// The COMMIT went with the last statement.
    committed: bool,
    /// A statement of the transaction failed: a COMMIT would roll back, and succeed.
    failed: bool,
    queued: Vec<Queued>,
}

impl Conn {
    pub(super) fn new(lease: Lease, purpose: Purpose) -> Self {
        Self { lease, purpose, begin_wanted: false, committed: false, failed: false, queued: Vec::new() }
    }

    /// Whether the connection broke before a COMMIT was sent: then nothing of the transaction has happened.
    pub(super) fn broke_before_commit(&self) -> bool {
        self.lease.is_condemned() && !self.lease.committing && !self.lease.busy
    }

    pub(super) fn session(&self) -> &Session {
        self.lease.session()
    }

    /// Sends BEGIN together with the first statement, which spares a round trip.
    pub(super) fn begin(&mut self) {
        self.lease.in_transaction = true;
        self.begin_wanted = true;
        self.committed = false;
        self.failed = false;
        self.queued.clear();
    }

    pub(super) async fn commit(&mut self) -> Result<()> {
        if self.committed {
            return Ok(());
        }
        if self.failed {
            return Err(Error::internal("a unit of work went on after a statement that failed"));
        }
        if self.begin_wanted && self.queued.is_empty() {
            self.begin_wanted = false;
            self.lease.in_transaction = false;
            return Ok(());
        }
        self.finish(None).await.map(drop)
    }

    pub(super) async fn rollback(&mut self) {
        if std::mem::take(&mut self.begin_wanted) {
            self.lease.in_transaction = false;
        }
        // One that cannot be rolled back here is settled when the lease ends.
        if self.lease.in_transaction && !self.lease.busy && !self.lease.is_condemned() {
            self.lease.busy = true;
            let answer = timeout(ROLLBACK_LIMIT, self.lease.session().client.batch_execute("ROLLBACK")).await;
            self.lease.busy = answer.is_err();
            self.lease.in_transaction = !matches!(answer, Ok(Ok(())));
        }
    }

    /// Runs `work`, which sends statements, behind a BEGIN if one is wanted. It is sent in one flight with statements that
    /// only read. What `writes` waits for its success: behind a BEGIN that failed it would be a transaction of its own.
    async fn send<T>(
        &mut self,
        writes: bool,
        work: impl AsyncFnOnce(&Session) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T> {
        if self.lease.is_condemned() {
            return Err(Error::unavailable("the database connection was lost"));
        }
        let begin = std::mem::take(&mut self.begin_wanted).then(|| match self.purpose {
            Purpose::Request => BEGIN.as_str(),
            Purpose::Maintenance => BEGIN_MAINTENANCE.as_str(),
        });
        self.lease.busy = true;
        let session = self.lease.session();
        let answer = async {
            let Some(begin) = begin else { return work(session).await };
            if writes {
                session.client.batch_execute(begin).await?;
                return work(session).await;
            }
            // Polled in this order, and so sent in this order.
            let (begun, outcome) = tokio::join!(biased; session.client.batch_execute(begin), work(session));
            begun?;
            outcome
        };
        let answer = match self.purpose {
            Purpose::Request => timeout(STATEMENT_LIMIT, answer).await,
            Purpose::Maintenance => Ok(answer.await),
        };
        let Ok(answer) = answer else {
            // The answer may still come: the connection stays busy.
            self.lease.condemn_all("a statement got no answer in time");
            return Err(Error::unavailable("the database took too long to answer"));
        };
        self.lease.busy = false;
        answer.map_err(|error| self.fail(error))
    }

    fn fail(&mut self, error: tokio_postgres::Error) -> Error {
        self.failed = true;
        let fault = errors::fault(error);
        match fault.scope {
            Scope::Statement => {}
            Scope::Connection => self.lease.condemn(),
            Scope::Pool => self.lease.condemn_all(&fault.error.to_string()),
        }
        fault.error
    }

    /// Keeps a statement for the end of the transaction, where it is sent in one flight with the COMMIT: it locks a counter
    /// for which every other transaction waits, so no round trip may lie between the lock and the commit. Statements of one
    /// counter keep their order. A row that one of them does not find has to be an error of SQL.
    pub(in crate::store) async fn queue(
        &mut self,
        counter: Counter,
        sql: &str,
        parameters: &[Value<'_>],
    ) -> Result<()> {
        // Preparing takes no lock, and needs no transaction.
        let begin_wanted = std::mem::take(&mut self.begin_wanted);
        let prepared = self.send(false, async |session| session.client.prepare_cached(sql).await).await;
        self.begin_wanted = begin_wanted;
        let statement = prepared?;
        let parameters = parameters.iter().zip(statement.params()).map(|(value, kind)| Encoded::new(value, kind));
        let parameters = parameters.collect::<Result<_>>()?;
        self.queued.push(Queued { counter, statement, parameters });
        Ok(())
    }

    /// The last statement of a transaction with its COMMIT. Where the statement fails, the COMMIT behind it rolls back.
    pub(in crate::store) async fn query_and_commit(&mut self, sql: &str, parameters: &[Value<'_>]) -> Result<Vec<Row>> {
        self.finish(Some((sql, parameters))).await
    }

    /// Sends the statements that wait, `last` and the COMMIT in one flight.
    async fn finish(&mut self, last: Option<(&str, &[Value<'_>])>) -> Result<Vec<Row>> {
        let mut queued = std::mem::take(&mut self.queued);
        queued.sort_by_key(|queued| queued.counter);
        let parameters = as_parameters(last.map_or(&[], |(_, parameters)| parameters));
        let statement = match last {
            Some((sql, _)) => Some(self.prepare(sql).await?),
            None => None,
        };
        self.lease.committing = true;
        let sent = self
            .send(true, async |session| {
                let first = async {
                    let parameters = queued.iter().map(|queued| as_dynamic(&queued.parameters));
                    let parameters: Vec<_> = parameters.collect();
                    let sent = queued.iter().zip(&parameters);
                    in_order(sent.map(|(queued, parameters)| session.client.execute(&queued.statement, parameters)))
                        .await
                };
                let last = async {
                    match &statement {
                        Some(statement) => session.client.query(statement, &parameters).await,
                        None => Ok(Vec::new()),
                    }
                };
                // Polled in this order, and so sent in this order.
                Ok(tokio::join!(biased; first, last, session.client.batch_execute("COMMIT")))
            })
            .await;
        let (first, last, ended) = sent?;
        self.lease.committing = false;
        if ended.is_ok() {
            self.lease.in_transaction = false;
            self.committed = true;
        }
        let outcome = first.into_iter().find_map(Result::err).map_or(last, Err);
        match (outcome, ended) {
            (Ok(rows), Ok(())) => Ok(rows),
            (Err(error), _) | (Ok(_), Err(error)) => {
                // A connection that was lost here may have taken the COMMIT along: nothing is run again by itself.
                self.lease.committing = !errors::proves_rollback(&error);
                Err(self.fail(error))
            }
        }
    }

    async fn prepare(&mut self, sql: &str) -> Result<Statement> {
        // Known statements are sent right behind the BEGIN.
        let begin_wanted = std::mem::take(&mut self.begin_wanted);
        let prepared = self.send(false, async |session| session.client.prepare_cached(sql).await).await;
        self.begin_wanted = begin_wanted;
        prepared
    }

    pub(in crate::store) async fn query(&mut self, sql: &str, parameters: &[Value<'_>]) -> Result<Vec<Row>> {
        let parameters = as_parameters(parameters);
        self.send(writes(sql), async |session| {
            session.client.query(&session.client.prepare_cached(sql).await?, &parameters).await
        })
        .await
    }

    pub(in crate::store) async fn execute(&mut self, sql: &str, parameters: &[Value<'_>]) -> Result<u64> {
        let parameters = as_parameters(parameters);
        self.send(writes(sql), async |session| {
            session.client.execute(&session.client.prepare_cached(sql).await?, &parameters).await
        })
        .await
    }

    pub(in crate::store) async fn script(&mut self, sql: &str) -> Result<()> {
        self.send(true, async |session| session.client.batch_execute(sql).await).await
    }
}

/// Whether a statement changes rows, and does not only lock them.
fn writes(sql: &str) -> bool {
    let mut before = "";
    sql.split_whitespace().map(|word| word.trim_start_matches('(')).any(|word| {
        let locks = matches!(std::mem::replace(&mut before, word), "FOR" | "KEY");
        matches!(word, "INSERT" | "DELETE") || word == "UPDATE" && !locks
    })
}

/// Polls futures in their order until all are done.
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

/// A parameter as it is sent; `None` is NULL.
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
    fn what_only_locks_does_not_write() {
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
