//! The connection pool: waiting for a connection, and ending the work on a connection that was abandoned.
//!
//! Invariants:
//! - PostgreSQL never has more connections of this pool than `POOL_SIZE`. An abandoned connection keeps its slot until
//!   PostgreSQL has confirmed that nothing runs on it, or until `ABANDONED_TIMEOUT` has passed.
//! - A connection for which a cancel request was sent is closed. Such a request can arrive late, and must not cancel the
//!   next unit of work.
//! - If one connection fails for a reason that affects all of them, all connections are replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::managed::{self, Object, PoolError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::connect::{Manager, PoolEntry, Refusal, Target};
use crate::base::error::{Error, Result};
use crate::base::metrics::{InQueue, Metrics};

/// The maximum number of connections of one node. Requests, batches of sends and commands share them.
pub const POOL_SIZE: usize = 16;
/// The maximum number of requests that wait for a connection.
const WAITING_LIMIT: usize = 4_096;
/// How long a request waits for a connection.
const WAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// After PostgreSQL has refused a further connection, the pool has one slot less for this time.
const GROW_AFTER: Duration = Duration::from_secs(10);
/// Pause before the next attempt when PostgreSQL accepts no connection at all.
const FULL_RETRY_AFTER: Duration = Duration::from_millis(200);
/// How long PostgreSQL may take to finish abandoned work by itself before it is sent a cancel request.
const CANCEL_AFTER: Duration = Duration::from_millis(200);
/// How long sending a cancel request may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an abandoned connection keeps its slot at most.
const ABANDONED_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between closing an idle connection that was abandoned and releasing its slot. PostgreSQL needs it to end the
/// process of the connection.
const CLOSE_TIME: Duration = Duration::from_millis(100);

/// The pool of connections. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    connections: managed::Pool<Manager>,
    /// One permit for each connection that exists or may be created.
    slots: Arc<Semaphore>,
    /// The number of slots that are removed for a while, because PostgreSQL accepts no more connections.
    removed_slots: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Pool {
    /// Creates a pool without connections.
    ///
    /// # Errors
    /// [`Error::Internal`] when the pool cannot be built.
    pub fn new(target: Target, allow_unsafe_storage: bool, metrics: Arc<Metrics>) -> Result<Self> {
        let connections = managed::Pool::builder(Manager::new(target, allow_unsafe_storage))
            .max_size(POOL_SIZE)
            // The pool reuses the connection that was used last. It is the least likely to have been dropped by a firewall.
            .queue_mode(managed::QueueMode::Lifo)
            .build()
            .map_err(Error::internal)?;
        metrics.pool_size.set(POOL_SIZE as i64);
        Ok(Self {
            connections,
            slots: Arc::new(Semaphore::new(POOL_SIZE)),
            removed_slots: Arc::default(),
            waiting: Arc::default(),
            metrics,
        })
    }

    /// Waits for a free connection.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when too many requests wait, when the wait was too long, or when PostgreSQL cannot be reached.
    pub async fn get(&self) -> Result<PooledConnection> {
        let _waiting = WaitingRequest::begin(self)?;
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let slot = timeout_at(deadline, Arc::clone(&self.slots).acquire_owned()).await;
            let slot = slot
                .map_err(|_| Error::unavailable("no database connection became free in time"))?
                .map_err(|_| Error::unavailable("the database is closed"))?;
            match self.connections.get().await {
                Ok(object) => return Ok(PooledConnection::new(self.clone(), object, slot)),
                Err(PoolError::Backend(failure @ Refusal::Full(_))) if Instant::now() < deadline => {
                    if !self.remove_slot(slot) {
                        tokio::time::sleep(FULL_RETRY_AFTER).await;
                    }
                    tracing::debug!(error = %failure.into_error(), "PostgreSQL accepts no further connection");
                }
                Err(PoolError::Backend(failure)) => return Err(failure.into_error()),
                Err(_) => return Err(Error::unavailable("the database is closed")),
            }
        }
    }

    /// Removes one slot from the pool for a while. At least one slot remains. Returns whether a slot was removed.
    fn remove_slot(&self, slot: OwnedSemaphorePermit) -> bool {
        let fewer = |count: usize| (count + 1 < POOL_SIZE).then_some(count + 1);
        if self.removed_slots.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer).is_err() {
            return false;
        }
        slot.forget();
        self.metrics.pool_size.dec();
        let connections = POOL_SIZE - self.removed_slots.load(Ordering::Acquire);
        tracing::warn!(connections, "PostgreSQL refuses further connections: the pool is smaller for a while");
        let pool = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(GROW_AFTER).await;
            pool.removed_slots.fetch_sub(1, Ordering::AcqRel);
            pool.metrics.pool_size.inc();
            pool.slots.add_permits(1);
        });
        true
    }

    /// Retires all connections of a generation: idle ones are closed now, the others after their use.
    fn retire_generation(&self, generation: u64, reason: &str) {
        if self.connections.manager().retire_generation(generation) {
            tracing::warn!(reason, "replacing all database connections");
            self.connections.retain(|entry, _| entry.generation != generation);
        }
    }

    /// Closes idle connections now, and the others after their use.
    pub fn close(&self) {
        self.slots.close();
        self.connections.close();
    }
}

/// Counts a waiting request until it is dropped.
struct WaitingRequest<'a> {
    pool: &'a Pool,
    _in_queue: InQueue,
}

impl<'a> WaitingRequest<'a> {
    fn begin(pool: &'a Pool) -> Result<Self> {
        let before = pool.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Self { pool, _in_queue: pool.metrics.enter_queue("pool") };
        if before >= WAITING_LIMIT {
            return Err(Error::unavailable("too many requests wait for a database connection"));
        }
        Ok(waiting)
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        self.pool.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that was taken from the pool and is in use.
pub struct PooledConnection {
    pool: Pool,
    object: Option<Object<Manager>>,
    /// Released after the connection.
    slot: Option<OwnedSemaphorePermit>,
    /// Whether a transaction is open, as far as this process knows.
    pub in_transaction: bool,
    /// Whether a statement was sent and its answer has not arrived yet.
    pub busy: bool,
    /// Whether the statements that were sent end with a COMMIT. They are not cancelled, because a cancel request could end
    /// PostgreSQL's wait for a synchronous standby.
    pub committing: bool,
    /// Whether the connection must not be used again.
    broken: bool,
}

impl PooledConnection {
    fn new(pool: Pool, object: Object<Manager>, slot: OwnedSemaphorePermit) -> Self {
        pool.metrics.pool_in_use.inc();
        Self {
            pool,
            object: Some(object),
            slot: Some(slot),
            in_transaction: false,
            busy: false,
            committing: false,
            broken: false,
        }
    }

    /// Marks the connection as not to be used again.
    pub fn mark_broken(&mut self) {
        self.broken = true;
    }

    /// Marks this connection and all others of its generation as not to be used again.
    pub fn mark_all_broken(&mut self, reason: &str) {
        self.broken = true;
        self.pool.retire_generation(self.entry().generation, reason);
    }

    /// Whether the connection must not be used again.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// The connection.
    pub fn entry(&self) -> &PoolEntry {
        self.object.as_ref().unwrap_or_else(|| unreachable!("the entry is removed only on drop"))
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        let Some(mut object) = self.object.take() else { return };
        let (pool, slot) = (self.pool.clone(), self.slot.take());
        let idle = !self.busy && !self.in_transaction;
        if object.client.is_closed() || (self.broken && idle) {
            drop(Object::take(object));
            pool.metrics.pool_in_use.dec();
            return;
        }
        if idle {
            object.returned_at = std::time::Instant::now();
            drop(object);
            pool.metrics.pool_in_use.dec();
            return;
        }
        let abandoned = Abandoned { object, busy: self.busy, committing: self.committing, broken: self.broken };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                _ = runtime.spawn(async move {
                    abandoned.wait_until_idle(&pool).await;
                    pool.metrics.pool_in_use.dec();
                    drop(slot);
                })
            }
            // There is no runtime, so the process is ending.
            Err(_) => drop(Object::take(abandoned.object)),
        }
    }
}

/// A connection that was abandoned during its work, because a time limit was reached or its caller no longer waits.
struct Abandoned {
    object: Object<Manager>,
    busy: bool,
    committing: bool,
    broken: bool,
}

impl Abandoned {
    /// Waits until PostgreSQL runs nothing on the connection, then returns it to the pool or closes it.
    async fn wait_until_idle(self, pool: &Pool) {
        let Self { mut object, busy, committing, broken } = self;
        let outcome = timeout(ABANDONED_TIMEOUT, end_work(&object, pool, busy, committing, broken)).await;
        if matches!(outcome, Ok(Ok(false))) && !broken {
            object.returned_at = std::time::Instant::now();
            return;
        }
        let confirmed = matches!(outcome, Ok(Ok(_)));
        let generation = object.generation;
        drop(Object::take(object));
        if confirmed {
            tokio::time::sleep(CLOSE_TIME).await;
        } else {
            pool.retire_generation(generation, "a database connection did not confirm that its work had ended");
        }
    }
}

/// Ends the work on a connection. Returns whether a cancel request was sent.
async fn end_work(
    entry: &PoolEntry,
    pool: &Pool,
    busy: bool,
    committing: bool,
    broken: bool,
) -> Result<bool, tokio_postgres::Error> {
    // This statement is answered after everything that was sent before it. After a COMMIT no ROLLBACK is needed, because the
    // COMMIT has ended the transaction, whatever its outcome.
    let last_statement = if committing { "" } else { "ROLLBACK" };
    let answer = entry.client.batch_execute(last_statement);
    tokio::pin!(answer);
    // A broken connection is not returned to the pool, so its work is cancelled without waiting.
    let cancel_after = if broken { Duration::ZERO } else { CANCEL_AFTER };
    if let Ok(answer) = timeout(cancel_after, &mut answer).await {
        return answer.map(|()| false);
    }
    if !busy || committing {
        return answer.await.map(|()| false);
    }
    let cancel = entry.client.cancel_token();
    let connector = pool.connections.manager().connector();
    if let Ok(Err(error)) = timeout(CANCEL_TIMEOUT, cancel.cancel_query(connector)).await {
        tracing::debug!(%error, "a cancel request could not be sent");
    }
    if answer.await.is_err() {
        // The cancel request ended the ROLLBACK itself.
        entry.client.batch_execute("ROLLBACK").await?;
    }
    Ok(true)
}
