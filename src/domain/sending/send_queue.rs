//! Where sends wait for each other: whatever is waiting goes into one transaction.
//!
//! Invariants: a draft is answered once, after its commit. While a batch waits for its commit another one is put together and
//! run up to the event log's counter; no two under way share a conversation or an idempotency key, so that neither waits
//! for the other's rows, and what is sent into one conversation keeps its order. Two drafts with one idempotency key are
//! never in one batch, so a concurrent repeat waits for the first. A batch that fails for a reason not foreseen is run again
//! one by one, so that only its culprit fails.
//!
//! Drafts that wait, and the claims of batches under way, outlive the task that empties the queue: a task that is started
//! again goes on with them. Each batch runs in a task of its own, which answers its drafts and gives its claims back whatever
//! happens to the queue's task.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};
use tracing::{Instrument as _, Span};

use super::directory::Directory;
use super::drafts::{Answer, Draft, Recipient};
use super::recent_sends::Fresh;
use super::send_batch::{Batch, send_all};
use crate::base::error::{Error, Result};
use crate::base::metrics::Metrics;
use crate::base::request_id;
use crate::base::tasks::{self, PanicPoint, RunFlag};
use crate::base::time::Clock;
use crate::domain::identity::revocations::Revocations;
use crate::store::db::Db;
use crate::store::identity::users::DirectMessagesFrom;

/// The name of the task that empties the queue.
pub const TASK: &str = "send-queue";

/// Drafts that one transaction may carry.
const BATCH_LIMIT: usize = 128;
/// Batches under way at a time.
const LANES: usize = 2;
/// Drafts that may wait.
const QUEUE_LIMIT: usize = 8_192;

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct SendQueue {
    waiting: mpsc::Sender<Waiting>,
    metrics: Arc<Metrics>,
    running: Arc<RunFlag>,
    /// Locked by the task that empties the queue.
    dispatcher: Arc<Mutex<Dispatcher>>,
}

struct Waiting {
    draft: Draft,
    reply: oneshot::Sender<Result<Answer>>,
    /// What it would wait for in the database: its conversation, and its key if it has one.
    claims: Claims,
}

/// Hashes of what no two batches under way may share. A collision only makes a draft wait for the next batch.
#[derive(Clone, Copy)]
struct Claims {
    place: u64,
    key: Option<u64>,
}

impl Claims {
    fn of(draft: &Draft) -> Self {
        let place = match &draft.recipient {
            Recipient::Direct(name) => {
                let sender = draft.sender.key();
                hash((sender.min(name), sender.max(name)))
            }
            Recipient::Conversation(id) => hash(id.0),
        };
        Self { place, key: draft.once.request.as_ref().map(|request| hash(request.digest)) }
    }

    fn all(self) -> impl Iterator<Item = u64> {
        [Some(self.place), self.key].into_iter().flatten()
    }
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl SendQueue {
    /// An empty queue. Nothing leaves it before [`run`](Self::run).
    pub fn new(
        db: Db,
        clock: Clock,
        metrics: Arc<Metrics>,
        revocations: Arc<Revocations>,
        fresh: Arc<Fresh>,
        direct_messages_from: DirectMessagesFrom,
    ) -> Self {
        let (waiting, queue) = mpsc::channel(QUEUE_LIMIT);
        let (ended, batches_ended) = mpsc::channel(LANES);
        let sender = Sender { db, clock, revocations, directory: Directory::default(), fresh, direct_messages_from };
        let dispatcher = Dispatcher {
            sender: Arc::new(sender),
            metrics: Arc::clone(&metrics),
            queue,
            ready: VecDeque::new(),
            claimed: HashSet::new(),
            under_way: 0,
            ended,
            batches_ended,
        };
        Self { waiting, metrics, running: Arc::default(), dispatcher: Arc::new(Mutex::new(dispatcher)) }
    }

    /// Empties the queue for as long as it is polled.
    pub async fn run(&self) {
        let mut dispatcher = self.dispatcher.lock().await;
        let _running = self.running.raise();
        dispatcher.run().await;
    }

    /// Sends one draft, together with whatever else is waiting.
    ///
    /// # Errors
    /// Of the draft; [`Error::Unavailable`] when too many wait, or the task that empties the queue does not run.
    pub async fn send(&self, draft: Draft) -> Result<Answer> {
        if self.running.has_ended() {
            let reason = format!("sends are not being processed: the task {TASK} has failed and is restarted");
            return Err(Error::unavailable(reason));
        }
        let (reply, answer) = oneshot::channel();
        let _in_queue = self.metrics.enter_queue("send");
        let claims = Claims::of(&draft);
        match self.waiting.try_send(Waiting { draft, reply, claims }) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(Error::internal("a send was dropped"))),
            Err(_) => Err(Error::unavailable("too many sends are waiting")),
        }
    }
}

struct Dispatcher {
    sender: Arc<Sender>,
    metrics: Arc<Metrics>,
    queue: mpsc::Receiver<Waiting>,
    ready: VecDeque<Waiting>,
    /// Claims of the batches under way.
    claimed: HashSet<u64>,
    /// Batches under way.
    under_way: usize,
    ended: mpsc::Sender<Vec<u64>>,
    /// The claims of each batch that has ended.
    batches_ended: mpsc::Receiver<Vec<u64>>,
}

impl Dispatcher {
    async fn run(&mut self) {
        loop {
            while self.under_way < LANES {
                let batch = self.take_batch();
                if batch.is_empty() {
                    break;
                }
                self.start(batch);
            }
            // Neither channel closes: this holds a sender of the one, and the queue one of the other.
            tokio::select! {
                Some(waiting) = self.queue.recv(), if self.ready.len() < QUEUE_LIMIT => self.ready.push_back(waiting),
                Some(claims) = self.batches_ended.recv() => {
                    self.under_way -= 1;
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
    fn start(&mut self, batch: Vec<Waiting>) {
        self.under_way += 1;
        let claims = batch.iter().flat_map(|waiting| waiting.claims.all()).collect();
        // Made first: a panic from here on gives the claims back.
        let claimed = Claimed { claims, ended: self.ended.clone() };
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

    /// What goes together: the oldest ones that nobody under way is in the way of, no idempotency key twice.
    fn take_batch(&mut self) -> Vec<Waiting> {
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

/// The claims of a batch under way, given back when its task ends, by a panic too.
struct Claimed {
    claims: Vec<u64>,
    ended: mpsc::Sender<Vec<u64>>,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        // There is room for every batch under way.
        drop(self.ended.try_send(std::mem::take(&mut self.claims)));
    }
}

/// What a batch is sent with.
struct Sender {
    db: Db,
    clock: Clock,
    revocations: Arc<Revocations>,
    directory: Directory,
    fresh: Arc<Fresh>,
    direct_messages_from: DirectMessagesFrom,
}

impl Sender {
    /// Sends a batch and answers its drafts.
    async fn run(&self, batch: Vec<Waiting>) {
        let (mut drafts, mut replies) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for waiting in batch {
            drafts.push(waiting.draft);
            replies.push(waiting.reply);
        }
        let answers = self.send(drafts).await;
        tasks::panic_point(PanicPoint::BatchCommitted);
        self.fresh.keep(&answers);
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Whoever gave up waiting finds the answer under its key.
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
            Err(error) if is_for_all(&error) => {
                tracing::warn!(%error, "the people of a batch of sends cannot be read: none is sent");
                drafts.iter().map(|_| Err(repeat(&error))).collect()
            }
            Err(error) => {
                tracing::warn!(%error, "the people of a batch of sends cannot be read: each is sent alone");
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

/// The span of a batch names the requests that it serves: it has none of them as its parent.
fn span_of<'a>(drafts: impl Iterator<Item = &'a Draft> + Clone) -> Span {
    let size = drafts.clone().count();
    let request_ids = request_id::list(drafts.filter_map(|draft| draft.request_id.as_ref()));
    // Of the highest level, so that the ids are in the lines of every level.
    tracing::error_span!(parent: None, "send_batch", size, %request_ids)
}

/// Whether every draft of the batch would meet this error alone as well.
const fn is_for_all(error: &Error) -> bool {
    matches!(error, Error::Unavailable { .. } | Error::StorageFull)
}

async fn send_batch(db: &Db, batch: &Arc<Batch>) -> Vec<Result<Answer>> {
    let error = match write(db, Arc::clone(batch)).await {
        Ok(answers) => return answers,
        // The batch knows now what to ask: PostgreSQL's driver has run it again already, SQLite's leaves that to us.
        Err(Error::Rerun(_)) => match write(db, Arc::clone(batch)).await {
            Ok(answers) => return answers,
            Err(error) => error,
        },
        Err(error) => error,
    };
    if batch.len() == 1 {
        return vec![Err(error)];
    }
    if is_for_all(&error) {
        // It may have been committed all the same (the answer to a COMMIT can be lost): never sent a second time from here.
        tracing::warn!(%error, "a batch of sends failed: none is sent again");
        return (0..batch.len()).map(|_| Err(repeat(&error))).collect();
    }
    tracing::warn!(%error, "a batch of sends failed: each is sent alone");
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

/// An error once more, for another one whom it met.
pub(in crate::domain) fn repeat(error: &Error) -> Error {
    match error {
        Error::StorageFull => Error::StorageFull,
        error => Error::unavailable(error.to_string()),
    }
}
