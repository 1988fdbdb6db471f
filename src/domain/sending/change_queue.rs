//! Where small changes of conversations wait for each other: whatever is waiting goes into one transaction.
//!
//! Every change that is logged waits for the event log's counter, which is locked until a commit. Alone, a reaction would hold
//! it for a whole sync; together they hold it as long as one send.
//!
//! Invariants: a change is answered once, after its commit. A batch that fails for a reason not foreseen is run again one by
//! one, so that only its culprit fails; one that may have been committed is not. Changes that wait outlive the task that
//! empties the queue, and each batch runs in a task of its own, which answers its changes whatever happens to that task.

use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tracing::{Instrument as _, Span};

use super::change_batch::{Change, Changed, change_all};
use super::send_queue::repeat;
use crate::base::error::{Error, Result};
use crate::base::metrics::Metrics;
use crate::base::request_id;
use crate::base::tasks::{self, PanicPoint, RunFlag};
use crate::store::db::Db;

/// The name of the task that empties the queue.
pub const TASK: &str = "change-queue";
/// Changes that one transaction may carry.
const BATCH_LIMIT: usize = 128;
/// Batches under way at a time: one waits for its commit while the other is decided.
const LANES: usize = 2;
/// Changes that may wait.
const QUEUE_LIMIT: usize = 8_192;

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct ChangeQueue {
    db: Db,
    waiting: mpsc::Sender<Waiting>,
    metrics: Arc<Metrics>,
    running: Arc<RunFlag>,
    /// Locked by the task that empties the queue.
    queue: Arc<Mutex<mpsc::Receiver<Waiting>>>,
    lanes: Arc<Semaphore>,
}

struct Waiting {
    change: Change,
    reply: oneshot::Sender<Result<Changed>>,
}

impl ChangeQueue {
    /// An empty queue. Nothing leaves it before [`run`](Self::run).
    pub fn new(db: Db, metrics: Arc<Metrics>) -> Self {
        let (waiting, queue) = mpsc::channel(QUEUE_LIMIT);
        Self {
            db,
            waiting,
            metrics,
            running: Arc::default(),
            queue: Arc::new(Mutex::new(queue)),
            lanes: Arc::new(Semaphore::new(LANES)),
        }
    }

    /// Whether changes wait here: not where the database's driver gathers them by itself.
    pub fn is_used(&self) -> bool {
        !self.db.groups_commits()
    }

    /// Empties the queue for as long as it is polled.
    pub async fn run(&self) {
        let mut queue = self.queue.lock().await;
        let _running = self.running.raise();
        while let Ok(lane) = Arc::clone(&self.lanes).acquire_owned().await {
            let mut batch = Vec::new();
            if queue.recv_many(&mut batch, BATCH_LIMIT).await == 0 {
                return;
            }
            tasks::panic_point(PanicPoint::BatchTaken);
            let db = self.db.clone();
            let span = span_of(batch.iter().map(|waiting| &waiting.change));
            let running = async move {
                let _lane = lane;
                let (changes, replies): (Vec<_>, Vec<_>) =
                    batch.into_iter().map(|waiting| (waiting.change, waiting.reply)).unzip();
                let answers = make_all(&db, changes.into()).await;
                tasks::panic_point(PanicPoint::BatchCommitted);
                for (reply, answer) in replies.into_iter().zip(answers) {
                    // Whoever gave up waiting finds it done when they ask.
                    drop(reply.send(answer));
                }
            };
            span.in_scope(|| tasks::spawn("change-batch", running));
        }
    }

    /// Makes a change, together with whatever else is waiting.
    ///
    /// # Errors
    /// Of the change; [`Error::Unavailable`] when too many wait, or the task that empties the queue does not run.
    pub async fn make(&self, change: Change) -> Result<Changed> {
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
        match self.waiting.try_send(Waiting { change, reply }) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(no_answer())),
            Err(_) => Err(Error::unavailable("too many changes are waiting")),
        }
    }
}

async fn make_all(db: &Db, changes: Arc<[Change]>) -> Vec<Result<Changed>> {
    let error = match write(db, Arc::clone(&changes)).await {
        Ok(answers) => return answers,
        Err(error) => error,
    };
    if changes.len() == 1 {
        return vec![Err(error)];
    }
    if matches!(error, Error::Unavailable { .. } | Error::StorageFull) {
        tracing::warn!(%error, "a batch of changes failed: none is made again");
        return changes.iter().map(|_| Err(repeat(&error))).collect();
    }
    tracing::warn!(%error, "a batch of changes failed: each is made alone");
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

/// The span of a batch names the requests that it serves: it has none of them as its parent.
fn span_of<'a>(changes: impl Iterator<Item = &'a Change> + Clone) -> Span {
    let size = changes.clone().count();
    let request_ids = request_id::list(changes.filter_map(|change| change.request_id.as_ref()));
    // Of the highest level, so that the ids are in the lines of every level.
    tracing::error_span!(parent: None, "change_batch", size, %request_ids)
}

async fn write(db: &Db, changes: Arc<[Change]>) -> Result<Vec<Result<Changed>>> {
    db.write(changes, |conn, changes| Box::pin(change_all(conn, changes))).await
}

fn no_answer() -> Error {
    Error::internal("a change got no answer")
}
