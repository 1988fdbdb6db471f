//! The pool: who gets a connection, and what becomes of one that is given up in the middle of something.
//!
//! Invariants:
//! - The server never has more of these connections than `POOL_SIZE`: the slot of a connection that is given up stays taken
//!   until the server has confirmed that nothing runs on it any more, or `SETTLE_TIMEOUT` has passed.
//! - A connection on which a cancel request was sent is closed: such a request may arrive late, and must not hit the next
//!   unit of work.
//! - What condemns one connection for a reason that holds for all of them empties the pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::managed::{self, Object, PoolError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::connect::{Manager, Refusal, Session, Target};
use crate::base::error::{Error, Result};
use crate::base::metrics::{InQueue, Metrics};

/// Connections of one server; also what a batch of sends, reads and the command line share.
pub const POOL_SIZE: usize = 16;
/// Requests that may wait for a connection.
const WAITING_LIMIT: usize = 4_096;
/// How long one waits for a connection.
const WAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long until the pool tries again to have a connection that the server had no room for.
const GROW_AFTER: Duration = Duration::from_secs(10);
/// How long until connecting is tried again while the server has room for none at all.
const FULL_PAUSE: Duration = Duration::from_millis(200);
/// How long the server may take to end by itself what was given up, before it is asked to cancel it.
const SETTLE_PATIENCE: Duration = Duration::from_millis(200);
/// How long sending a cancel request may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection that was given up keeps its place in the pool at most.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server may take to end the process of an idle connection that was closed.
const CLOSE_TIME: Duration = Duration::from_millis(100);

/// The connections.
#[derive(Clone)]
pub struct Pool {
    connections: managed::Pool<Manager>,
    /// Places for connections: those that exist and those that may be made.
    slots: Arc<Semaphore>,
    /// Places that are not given out, because the server has no room.
    withheld: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Pool {
    /// A pool without connections yet.
    ///
    /// # Errors
    /// [`Error::Internal`] when the pool cannot be built.
    pub fn new(target: Target, allow_unsafe_storage: bool, metrics: Arc<Metrics>) -> Result<Self> {
        let connections = managed::Pool::builder(Manager::new(target, allow_unsafe_storage))
            .max_size(POOL_SIZE)
            // The one that was used last has most likely not been forgotten by a firewall.
            .queue_mode(managed::QueueMode::Lifo)
            .build()
            .map_err(Error::internal)?;
        metrics.pool_size.set(POOL_SIZE as i64);
        Ok(Self {
            connections,
            slots: Arc::new(Semaphore::new(POOL_SIZE)),
            withheld: Arc::default(),
            waiting: Arc::default(),
            metrics,
        })
    }

    /// A connection, as soon as one is free.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when too many wait, one waited for too long, or the server cannot be reached.
    pub async fn get(&self) -> Result<Lease> {
        let _waiting = Waiting::begin(self)?;
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let slot = timeout_at(deadline, Arc::clone(&self.slots).acquire_owned()).await;
            let slot = slot
                .map_err(|_| Error::unavailable("no database connection became free in time"))?
                .map_err(|_| Error::unavailable("the database is closed"))?;
            match self.connections.get().await {
                Ok(object) => return Ok(Lease::new(self.clone(), object, slot)),
                Err(PoolError::Backend(refusal @ Refusal::Full(_))) if Instant::now() < deadline => {
                    if !self.withhold(slot) {
                        tokio::time::sleep(FULL_PAUSE).await;
                    }
                    tracing::debug!(error = %refusal.into_error(), "the database takes no further connection");
                }
                Err(PoolError::Backend(refusal)) => return Err(refusal.into_error()),
                Err(_) => return Err(Error::unavailable("the database is closed")),
            }
        }
    }

    /// Makes the pool smaller by a place for a while, but not smaller than one; whether it did.
    fn withhold(&self, slot: OwnedSemaphorePermit) -> bool {
        let fewer = |count: usize| (count + 1 < POOL_SIZE).then_some(count + 1);
        if self.withheld.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer).is_err() {
            return false;
        }
        slot.forget();
        self.metrics.pool_size.dec();
        let connections = POOL_SIZE - self.withheld.load(Ordering::Acquire);
        tracing::warn!(connections, "PostgreSQL refuses further connections: the pool is smaller for a while");
        let pool = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(GROW_AFTER).await;
            pool.withheld.fetch_sub(1, Ordering::AcqRel);
            pool.metrics.pool_size.inc();
            pool.slots.add_permits(1);
        });
        true
    }

    /// Condemns every connection of a generation: those at rest are closed now, the others after their use.
    fn condemn(&self, generation: u64, reason: &str) {
        if self.connections.manager().condemn(generation) {
            tracing::warn!(reason, "replacing all database connections");
            self.connections.retain(|session, _| session.generation != generation);
        }
    }

    /// Ends the connections that are at rest, and the others after their use.
    pub fn close(&self) {
        self.slots.close();
        self.connections.close();
    }
}

/// Counts a request that waits, until it is dropped.
struct Waiting<'a> {
    pool: &'a Pool,
    _in_queue: InQueue,
}

impl<'a> Waiting<'a> {
    fn begin(pool: &'a Pool) -> Result<Self> {
        let before = pool.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Self { pool, _in_queue: pool.metrics.enter_queue("pool") };
        if before >= WAITING_LIMIT {
            return Err(Error::unavailable("too many requests wait for a database connection"));
        }
        Ok(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pool.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection while it is out of the pool.
pub struct Lease {
    pool: Pool,
    object: Option<Object<Manager>>,
    // Given back after the connection.
    slot: Option<OwnedSemaphorePermit>,
    /// Inside a transaction, as far as is known here.
    pub in_transaction: bool,
    /// Something was sent whose answer has not come yet.
    pub busy: bool,
    /// What was sent ends with a COMMIT. It is not cancelled: the server could then skip waiting for its standby.
    pub committing: bool,
    /// Whether the connection is not to be used again.
    condemned: bool,
}

impl Lease {
    fn new(pool: Pool, object: Object<Manager>, slot: OwnedSemaphorePermit) -> Self {
        pool.metrics.pool_in_use.inc();
        Self {
            pool,
            object: Some(object),
            slot: Some(slot),
            in_transaction: false,
            busy: false,
            committing: false,
            condemned: false,
        }
    }

    /// The connection is not used again after this.
    pub fn condemn(&mut self) {
        self.condemned = true;
    }

    /// Nor are those that were made with it or before.
    pub fn condemn_all(&mut self, reason: &str) {
        self.condemned = true;
        self.pool.condemn(self.session().generation, reason);
    }

    /// Whether the connection is not to be used any more.
    pub fn is_condemned(&self) -> bool {
        self.condemned
    }

    /// The connection.
    pub fn session(&self) -> &Session {
        self.object.as_ref().unwrap_or_else(|| unreachable!("the connection is taken out only when the lease ends"))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut object) = self.object.take() else { return };
        let (pool, slot) = (self.pool.clone(), self.slot.take());
        let idle = !self.busy && !self.in_transaction;
        if object.client.is_closed() || (self.condemned && idle) {
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
        let given_up = GivenUp { object, busy: self.busy, committing: self.committing, condemned: self.condemned };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                _ = runtime.spawn(async move {
                    given_up.settle(&pool).await;
                    pool.metrics.pool_in_use.dec();
                    drop(slot);
                })
            }
            // The process ends.
            Err(_) => drop(Object::take(given_up.object)),
        }
    }
}

/// A connection that was given up in the middle of something: a time-out, or a caller that went away.
struct GivenUp {
    object: Object<Manager>,
    busy: bool,
    committing: bool,
    condemned: bool,
}

impl GivenUp {
    /// Waits until the server runs nothing on it any more, and gives it back or closes it.
    async fn settle(self, pool: &Pool) {
        let Self { mut object, busy, committing, condemned } = self;
        let outcome = timeout(SETTLE_TIMEOUT, end(&object, pool, busy, committing, condemned)).await;
        if matches!(outcome, Ok(Ok(false))) && !condemned {
            object.returned_at = std::time::Instant::now();
            return;
        }
        let confirmed = matches!(outcome, Ok(Ok(_)));
        let generation = object.generation;
        drop(Object::take(object));
        if confirmed {
            tokio::time::sleep(CLOSE_TIME).await;
        } else {
            pool.condemn(generation, "a database connection did not confirm that its work had ended");
        }
    }
}

/// Ends what runs on a connection; whether a cancel request was sent.
async fn end(
    session: &Session,
    pool: &Pool,
    busy: bool,
    committing: bool,
    condemned: bool,
) -> Result<bool, tokio_postgres::Error> {
    // Answered after everything that was sent before it. A COMMIT has ended the transaction, whatever became of it.
    let last_word = if committing { "" } else { "ROLLBACK" };
    let answer = session.client.batch_execute(last_word);
    tokio::pin!(answer);
    // A statement that was condemned has had its time already.
    let patience = if condemned { Duration::ZERO } else { SETTLE_PATIENCE };
    if let Ok(answer) = timeout(patience, &mut answer).await {
        return answer.map(|()| false);
    }
    if !busy || committing {
        return answer.await.map(|()| false);
    }
    let cancel = session.client.cancel_token();
    let connector = pool.connections.manager().connector();
    if let Ok(Err(error)) = timeout(CANCEL_TIMEOUT, cancel.cancel_query(connector)).await {
        tracing::debug!(%error, "a cancel request could not be sent");
    }
    if answer.await.is_err() {
        // The request hit the ROLLBACK itself.
        session.client.batch_execute("ROLLBACK").await?;
    }
    Ok(true)
}
