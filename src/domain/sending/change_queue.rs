//! The queue of changes (reactions and receipts). Changes that wait at the same time are written together, up to
//! `BATCH_LIMIT` in one transaction.
//!
//! A transaction that writes an event locks the counter of the event log until its commit, and the commit waits for a
//! sync of the disk. If each reaction had a transaction of its own, a send would wait for one sync for each reaction
//! before it. A batch of changes locks the counter for one sync only.
//!
//! Invariants:
//! - A change gets one answer, after its batch is committed or has failed.
//! - If a batch fails for an unforeseen reason, its changes are tried again one by one, so that only the change that
//!   causes the failure fails. A batch that may have been committed is not repeated.
//! - If the task that empties the queue fails, the changes in the queue remain, and the restarted task continues with
//!   them. Each batch runs in a task of its own, which answers its changes even if the task of the queue fails.

use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tracing::{Instrument as _, Span};

use super::change_batch::{Change, ChangeAnswer, change_all};
use super::send_queue::copy_of;
use crate::base::error::{Error, Result};
use crate::base::metrics::Metrics;
use crate::base::request_id;
use crate::base::tasks::{self, PanicPoint, RunFlag};
use crate::store::db::Db;

/// The name of the task that empties the queue.
pub const TASK: &str = "change-queue";
/// Maximum number of changes in one transaction.
const BATCH_LIMIT: usize = 128;
/// Maximum number of batches that run at a time: one waits for its commit while the other is checked.
const MAX_BATCHES_RUNNING: usize = 2;
/// Maximum number of changes that wait.
const QUEUE_LIMIT: usize = 8_192;

/// A handle to the queue. Cheap to clone.
#[derive(Clone)]
pub struct ChangeQueue {
    db: Db,
    waiting: mpsc::Sender<QueuedChange>,
    metrics: Arc<Metrics>,
    running: Arc<RunFlag>,
    /// The receiving end, which the task that empties the queue keeps locked.
    queue: Arc<Mutex<mpsc::Receiver<QueuedChange>>>,
    batch_permits: Arc<Semaphore>,
}

struct QueuedChange {
    change: Change,
    reply: oneshot::Sender<Result<ChangeAnswer>>,
}

impl ChangeQueue {
    /// Creates an empty queue. Changes are written while [`run`](Self::run) is running.
    pub fn new(db: Db, metrics: Arc<Metrics>) -> Self {
        let (waiting, queue) = mpsc::channel(QUEUE_LIMIT);
        Self {
            db,
            waiting,
            metrics,
            running: Arc::default(),
            queue: Arc::new(Mutex::new(queue)),
            batch_permits: Arc::new(Semaphore::new(MAX_BATCHES_RUNNING)),
        }
    }

    /// Whether changes go through this queue. On SQLite they do not, because its driver groups commits by itself.
    pub fn is_used(&self) -> bool {
        !self.db.groups_commits()
    }

    /// Writes the changes in the queue, until the returned future is dropped.
    pub async fn run(&self) {
        let mut queue = self.queue.lock().await;
        let _running = self.running.raise();
        while let Ok(permit) = Arc::clone(&self.batch_permits).acquire_owned().await {
            let mut batch = Vec::new();
            if queue.recv_many(&mut batch, BATCH_LIMIT).await == 0 {
                return;
            }
            tasks::panic_point(PanicPoint::BatchTaken);
            let db = self.db.clone();
            let span = span_of(batch.iter().map(|waiting| &waiting.change));
            let running = async move {
                let _permit = permit;
                let (changes, replies): (Vec<_>, Vec<_>) =
                    batch.into_iter().map(|waiting| (waiting.change, waiting.reply)).unzip();
                let answers = make_all(&db, changes.into()).await;
                tasks::panic_point(PanicPoint::BatchCommitted);
                for (reply, answer) in replies.into_iter().zip(answers) {
                    // If the caller no longer waits, the answer is dropped. The change is committed nevertheless.
                    drop(reply.send(answer));
                }
            };
            span.in_scope(|| tasks::spawn("change-batch", running));
        }
    }

    /// Writes a change, together with the other changes that wait.
    ///
    /// # Errors
    /// The errors of the change; [`Error::Unavailable`] if too many changes wait, or if the task that empties the queue
    /// does not run.
    pub async fn make(&self, change: Change) -> Result<ChangeAnswer> {
        if !self.is_used() {
            let answers = write(&self.db, Arc::new([change])).await?;
            return answers.into_iter().next().unwrap_or_else(|| Err(no_answer()));
        }
        if self.running.has_ended() {
            let reason = format!("changes are not being processed: the task {TASK} has failed and is restarted");
            return Err(Error::unavailable(reason));
        }
        let (reply, answer) = oneshot::channel();
        let _in_queue = self.metrics.enter_queue("change");
        match self.waiting.try_send(QueuedChange { change, reply }) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(no_answer())),
            Err(_) => Err(Error::unavailable("too many changes are waiting")),
        }
    }
}

async fn make_all(db: &Db, changes: Arc<[Change]>) -> Vec<Result<ChangeAnswer>> {
    let error = match write(db, Arc::clone(&changes)).await {
        Ok(answers) => return answers,
        Err(error) => error,
    };
    if changes.len() == 1 {
        return vec![Err(error)];
    }
    if matches!(error, Error::Unavailable { .. } | Error::StorageFull) {
        tracing::warn!(%error, "a batch of changes failed; no change is made again");
        return changes.iter().map(|_| Err(copy_of(&error))).collect();
    }
    tracing::warn!(%error, "a batch of changes failed; making each change alone");
    let mut answers = Vec::with_capacity(changes.len());
    for change in changes.iter() {
        let span = span_of([change].into_iter());
        match write(db, Arc::new([change.clone()])).instrument(span).await {
            Ok(answer) => answers.extend(answer),
            Err(error) => answers.push(Err(error)),
        }
    }
    answers
}

/// The tracing span of a batch. It lists the ids of all requests in the batch. It has no parent, because no request
/// alone caused it.
fn span_of<'a>(changes: impl Iterator<Item = &'a Change> + Clone) -> Span {
    let size = changes.clone().count();
    let request_ids = request_id::list(changes.filter_map(|change| change.request_id.as_ref()));
    // A span of level error is enabled at every log level, so all log lines show the ids.
    tracing::error_span!(parent: None, "change_batch", size, %request_ids)
}

async fn write(db: &Db, changes: Arc<[Change]>) -> Result<Vec<Result<ChangeAnswer>>> {
    db.write(changes, |conn, changes| Box::pin(change_all(conn, changes))).await
}

fn no_answer() -> Error {
    Error::internal("a change was dropped without an answer")
}
