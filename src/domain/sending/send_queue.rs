//! The queue of drafts. Drafts that wait at the same time are sent together, up to `BATCH_LIMIT` in one transaction.
//!
//! Invariants:
//! - A draft gets one answer, after its batch is committed or has failed.
//! - Up to `MAX_BATCHES_RUNNING` batches run at a time. While one batch waits for its commit, the next one is collected
//!   and runs. It stops when it needs the counter of the event log, which the first batch has locked until its commit.
//! - Two running batches never contain the same idempotency key.
//! - Two running batches never contain drafts that name the same conversation in the same way: by the same two user
//!   names, or by the same id. So such drafts keep their order, and neither batch waits for a row that the other has
//!   locked. If one draft names a direct conversation by the recipient and another one by the id, the two drafts may be
//!   in different running batches. Then the lock on the conversation's row decides which message comes first.
//! - Two drafts with the same idempotency key are never in one batch. So a repeated request that arrives while the
//!   first one is sent waits for its answer.
//! - If a batch fails for an unforeseen reason, its drafts are sent again one by one, so that only the draft that
//!   causes the failure fails.
//!
//! If the task that empties the queue fails, the drafts in the queue and the claims of running batches remain. The
//! restarted task continues with them. Each batch runs in a task of its own, which answers its drafts and releases its
//! claims even if the task of the queue fails.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};
use tracing::{Instrument as _, Span};

use super::directory::Directory;
use super::drafts::{Answer, Draft, Recipient};
use super::recent_sends::RecentSends;
use super::send_batch::{Batch, send_all};
use crate::base::error::{Error, Result};
use crate::base::metrics::Metrics;
use crate::base::request_id;
use crate::base::tasks::{self, PanicPoint, RunFlag};
use crate::base::time::Clock;
use crate::domain::identity::revocations::Revocations;
use crate::domain::previews::queue::LinkPreviews;
use crate::store::db::Db;
use crate::store::identity::users::DirectMessagesFrom;

/// The name of the task that empties the queue.
pub const TASK: &str = "send-queue";

/// Maximum number of drafts in one transaction.
const BATCH_LIMIT: usize = 128;
/// Maximum number of batches that run at a time.
const MAX_BATCHES_RUNNING: usize = 2;
/// Maximum number of drafts that wait in the channel. The same number may wait in the dispatcher as well.
const QUEUE_LIMIT: usize = 8_192;

/// A handle to the queue. Cheap to clone.
#[derive(Clone)]
pub struct SendQueue {
    waiting: mpsc::Sender<QueuedDraft>,
    metrics: Arc<Metrics>,
    running: Arc<RunFlag>,
    /// The dispatcher, which the task that empties the queue keeps locked.
    dispatcher: Arc<Mutex<Dispatcher>>,
}

struct QueuedDraft {
    draft: Draft,
    reply: oneshot::Sender<Result<Answer>>,
    /// The conversation of the draft, and its idempotency key if it has one. The draft locks them in the database.
    claims: Claims,
}

/// Hashes of the conversation and the idempotency key, which two running batches must not share. If two different ones
/// have the same hash, the only effect is that a draft waits for a later batch.
#[derive(Clone, Copy)]
struct Claims {
    conversation: u64,
    key: Option<u64>,
}

impl Claims {
    fn of(draft: &Draft) -> Self {
        let conversation = match &draft.recipient {
            Recipient::Direct(name) => {
                let sender = draft.sender.key();
                hash((sender.min(name), sender.max(name)))
            }
            Recipient::Conversation(id) => hash(id.0),
        };
        Self { conversation, key: draft.once.request.as_ref().map(|request| hash(request.digest)) }
    }

    fn all(self) -> impl Iterator<Item = u64> {
        [Some(self.conversation), self.key].into_iter().flatten()
    }
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl SendQueue {
    /// Creates an empty queue. Drafts are sent while [`run`](Self::run) is running.
    pub fn new(
        db: Db,
        clock: Clock,
        metrics: Arc<Metrics>,
        revocations: Arc<Revocations>,
        recent_sends: Arc<RecentSends>,
        link_previews: Option<Arc<LinkPreviews>>,
        direct_messages_from: DirectMessagesFrom,
    ) -> Self {
        let (waiting, queue) = mpsc::channel(QUEUE_LIMIT);
        let (ended, batches_ended) = mpsc::channel(MAX_BATCHES_RUNNING);
        let directory = Directory::default();
        let sender =
            BatchSender { db, clock, revocations, directory, recent_sends, link_previews, direct_messages_from };
        let dispatcher = Dispatcher {
            sender: Arc::new(sender),
            metrics: Arc::clone(&metrics),
            queue,
            ready: VecDeque::new(),
            claimed: HashSet::new(),
            batches_running: 0,
            ended,
            batches_ended,
        };
        Self { waiting, metrics, running: Arc::default(), dispatcher: Arc::new(Mutex::new(dispatcher)) }
    }

    /// Sends the drafts in the queue, until the returned future is dropped.
    pub async fn run(&self) {
        let mut dispatcher = self.dispatcher.lock().await;
        let _running = self.running.raise();
        dispatcher.run().await;
    }

    /// Sends a draft, together with the other drafts that wait.
    ///
    /// # Errors
    /// The errors of the draft; [`Error::Unavailable`] if too many drafts wait, or if the task that empties the queue
    /// does not run.
    pub async fn send(&self, draft: Draft) -> Result<Answer> {
        if self.running.has_ended() {
            let reason = format!("sends are not being processed: the task {TASK} has failed and is restarted");
            return Err(Error::unavailable(reason));
        }
        let (reply, answer) = oneshot::channel();
        let _in_queue = self.metrics.enter_queue("send");
        let claims = Claims::of(&draft);
        match self.waiting.try_send(QueuedDraft { draft, reply, claims }) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(Error::internal("a send was dropped without an answer"))),
            Err(_) => Err(Error::unavailable("too many sends are waiting")),
        }
    }
}

struct Dispatcher {
    sender: Arc<BatchSender>,
    metrics: Arc<Metrics>,
    queue: mpsc::Receiver<QueuedDraft>,
    ready: VecDeque<QueuedDraft>,
    /// Claims of the running batches.
    claimed: HashSet<u64>,
    /// Number of running batches.
    batches_running: usize,
    ended: mpsc::Sender<Vec<u64>>,
    /// Receives the claims of each batch that has ended.
    batches_ended: mpsc::Receiver<Vec<u64>>,
}

impl Dispatcher {
    async fn run(&mut self) {
        loop {
            while self.batches_running < MAX_BATCHES_RUNNING {
                let batch = self.take_batch();
                if batch.is_empty() {
                    break;
                }
                self.start(batch);
            }
            // Neither channel closes. This struct holds a sender of one, and every handle to the queue holds a sender
            // of the other.
            tokio::select! {
                Some(waiting) = self.queue.recv(), if self.ready.len() < QUEUE_LIMIT => self.ready.push_back(waiting),
                Some(claims) = self.batches_ended.recv() => {
                    self.batches_running -= 1;
                    claims.iter().for_each(|claim| {
                        self.claimed.remove(claim);
                    });
                }
            }
            while self.ready.len() < QUEUE_LIMIT
                && let Ok(waiting) = self.queue.try_recv()
            {
                self.ready.push_back(waiting);
            }
        }
    }

    /// Runs a batch in a task of its own.
    fn start(&mut self, batch: Vec<QueuedDraft>) {
        self.batches_running += 1;
        let claims = batch.iter().flat_map(|waiting| waiting.claims.all()).collect();
        // The guard exists before anything that may panic, so a panic releases the claims.
        let claimed = ClaimsGuard { claims, ended: self.ended.clone() };
        tasks::panic_point(PanicPoint::BatchTaken);
        self.metrics.send_batch_size.observe(batch.len() as f64);
        let span = span_of(batch.iter().map(|waiting| &waiting.draft));
        let sender = Arc::clone(&self.sender);
        let running = async move {
            let _claimed = claimed;
            sender.run(batch).await;
        };
        span.in_scope(|| tasks::spawn("send-batch", running));
    }

    /// Takes the oldest drafts for the next batch. Leaves out a draft if a running batch has one of its claims, or if the
    /// new batch already has its idempotency key.
    fn take_batch(&mut self) -> Vec<QueuedDraft> {
        let mut batch = Vec::new();
        let mut keys = HashSet::new();
        let mut left = VecDeque::new();
        while batch.len() < BATCH_LIMIT {
            let Some(waiting) = self.ready.pop_front() else { break };
            let key = waiting.claims.key;
            let claimed = waiting.claims.all().any(|claim| self.claimed.contains(&claim));
            if claimed || key.is_some_and(|key| !keys.insert(key)) {
                left.push_back(waiting);
            } else {
                batch.push(waiting);
            }
        }
        left.append(&mut self.ready);
        self.ready = left;
        self.claimed.extend(batch.iter().flat_map(|waiting| waiting.claims.all()));
        batch
    }
}

/// Releases the claims of a batch when its task ends, even by a panic.
struct ClaimsGuard {
    claims: Vec<u64>,
    ended: mpsc::Sender<Vec<u64>>,
}

impl Drop for ClaimsGuard {
    fn drop(&mut self) {
        // The channel has room for the claims of every running batch.
        drop(self.ended.try_send(std::mem::take(&mut self.claims)));
    }
}

/// The services that sending a batch uses.
struct BatchSender {
    db: Db,
    clock: Clock,
    revocations: Arc<Revocations>,
    directory: Directory,
    recent_sends: Arc<RecentSends>,
    link_previews: Option<Arc<LinkPreviews>>,
    direct_messages_from: DirectMessagesFrom,
}

impl BatchSender {
    /// Sends a batch and answers its drafts.
    async fn run(&self, batch: Vec<QueuedDraft>) {
        let (mut drafts, mut replies) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for waiting in batch {
            drafts.push(waiting.draft);
            replies.push(waiting.reply);
        }
        let answers = self.send(drafts).await;
        tasks::panic_point(PanicPoint::BatchCommitted);
        self.recent_sends.keep(&answers);
        if let Some(previews) = &self.link_previews {
            answers.iter().flatten().filter_map(Answer::message).for_each(|message| previews.offer(message));
        }
        for (reply, answer) in replies.into_iter().zip(answers) {
            // If the caller no longer waits, the answer is dropped. The caller can repeat the request and gets the
            // answer that is stored under its idempotency key.
            drop(reply.send(answer));
        }
    }

    async fn send(&self, drafts: Vec<Draft>) -> Vec<Result<Answer>> {
        match self.directory.look_up(&self.db, &self.revocations, &drafts).await {
            Ok(known) => {
                let batch = Batch::new(self.clock.clone(), drafts, known, self.direct_messages_from);
                send_batch(&self.db, &Arc::new(batch)).await
            }
            Err(error) if drafts.len() == 1 => vec![Err(error)],
            Err(error) if affects_whole_batch(&error) => {
                tracing::warn!(%error, "the users of a batch of sends cannot be read; no draft is sent");
                drafts.iter().map(|_| Err(copy_of(&error))).collect()
            }
            Err(error) => {
                tracing::warn!(%error, "the users of a batch of sends cannot be read; sending each draft alone");
                let mut answers = Vec::with_capacity(drafts.len());
                for draft in drafts {
                    let span = span_of([&draft].into_iter());
                    answers.extend(Box::pin(self.send(vec![draft])).instrument(span).await);
                }
                answers
            }
        }
    }
}

/// The tracing span of a batch. It lists the ids of all requests in the batch. It has no parent, because no request
/// alone caused it.
fn span_of<'a>(drafts: impl Iterator<Item = &'a Draft> + Clone) -> Span {
    let size = drafts.clone().count();
    let request_ids = request_id::list(drafts.filter_map(|draft| draft.request_id.as_ref()));
    // A span of level error is enabled at every log level, so all log lines show the ids.
    tracing::error_span!(parent: None, "send_batch", size, %request_ids)
}

/// Whether an error concerns the whole batch and not one of its drafts: the database is unavailable or has no space
/// left.
const fn affects_whole_batch(error: &Error) -> bool {
    matches!(error, Error::Unavailable { .. } | Error::StorageFull)
}

async fn send_batch(db: &Db, batch: &Arc<Batch>) -> Vec<Result<Answer>> {
    let error = match write(db, Arc::clone(batch)).await {
        Ok(answers) => return answers,
        // Only SQLite returns this error, because the PostgreSQL driver runs a batch again by itself. The first run has
        // set `recheck_users`, so the second run reads the users again.
        Err(Error::Rerun(_)) => match write(db, Arc::clone(batch)).await {
            Ok(answers) => return answers,
            Err(error) => error,
        },
        Err(error) => error,
    };
    if batch.len() == 1 {
        return vec![Err(error)];
    }
    if affects_whole_batch(&error) {
        // The answer to a COMMIT can be lost, so the batch may have been committed. Sending it again could store a
        // message twice.
        tracing::warn!(%error, "a batch of sends failed; no draft is sent again");
        return (0..batch.len()).map(|_| Err(copy_of(&error))).collect();
    }
    tracing::warn!(%error, "a batch of sends failed; sending each draft alone");
    let mut answers = Vec::with_capacity(batch.len());
    for single in batch.one_by_one() {
        let span = span_of(single.drafts().iter());
        match write(db, Arc::new(single)).instrument(span).await {
            Ok(answer) => answers.extend(answer),
            Err(error) => answers.push(Err(error)),
        }
    }
    answers
}

async fn write(db: &Db, batch: Arc<Batch>) -> Result<Vec<Result<Answer>>> {
    db.write(batch, |conn, batch| Box::pin(send_all(conn, batch))).await
}

/// A copy of an error, for another draft of the same batch.
pub(in crate::domain) fn copy_of(error: &Error) -> Error {
    match error {
        Error::StorageFull => Error::StorageFull,
        error => Error::unavailable(error.to_string()),
    }
}
