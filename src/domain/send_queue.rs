//! Where sends wait for each other: whatever is waiting goes into one transaction.
//!
//! Invariants: a draft is answered once, after its commit. There is one batch under way at a time: a second one would wait
//! for the first one's locks, and both would be smaller. Two drafts with one idempotency key are never in one batch, so a
//! concurrent repeat waits for the first. A batch that fails for a reason not foreseen is run again one by one, so that only
//! its culprit fails.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::directory::Directory;
use super::messages::{Answer, Draft};
use super::revocations::Revocations;
use super::send_batch::{Batch, send_all};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::store::Db;
use crate::store::users::DirectMessagesFrom;
use crate::time::Clock;

/// Drafts that one transaction may carry.
const BATCH_LIMIT: usize = 128;
/// Drafts that may wait.
const QUEUE_LIMIT: usize = 8_192;

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct SendQueue {
    waiting: mpsc::Sender<Waiting>,
    metrics: Arc<Metrics>,
}

struct Waiting {
    draft: Draft,
    reply: oneshot::Sender<Result<Answer>>,
}

impl SendQueue {
    /// Starts the task that empties the queue. It ends when every clone of the queue is gone and all is answered.
    pub fn start(
        db: Db,
        clock: Clock,
        metrics: Arc<Metrics>,
        revocations: Arc<Revocations>,
        direct_messages_from: DirectMessagesFrom,
    ) -> Self {
        let (waiting, queue) = mpsc::channel(QUEUE_LIMIT);
        let dispatcher = Dispatcher {
            db,
            clock,
            metrics: Arc::clone(&metrics),
            revocations,
            directory: Directory::default(),
            direct_messages_from,
            ready: VecDeque::new(),
        };
        tokio::spawn(dispatcher.run(queue));
        Self { waiting, metrics }
    }

    /// Sends one draft, together with whatever else is waiting.
    ///
    /// # Errors
    /// Of the draft; [`Error::Unavailable`] when too many wait.
    pub async fn send(&self, draft: Draft) -> Result<Answer> {
        let (reply, answer) = oneshot::channel();
        let length = self.metrics.queue("send");
        length.inc();
        let outcome = match self.waiting.try_send(Waiting { draft, reply }) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(Error::internal("a send was dropped"))),
            Err(_) => Err(Error::unavailable("too many sends are waiting")),
        };
        length.dec();
        outcome
    }
}

struct Dispatcher {
    db: Db,
    clock: Clock,
    metrics: Arc<Metrics>,
    revocations: Arc<Revocations>,
    directory: Directory,
    direct_messages_from: DirectMessagesFrom,
    ready: VecDeque<Waiting>,
}

impl Dispatcher {
    async fn run(mut self, mut queue: mpsc::Receiver<Waiting>) {
        loop {
            if self.ready.is_empty() {
                match queue.recv().await {
                    Some(waiting) => self.ready.push_back(waiting),
                    None => return,
                }
            }
            while self.ready.len() < QUEUE_LIMIT
                && let Ok(waiting) = queue.try_recv()
            {
                self.ready.push_back(waiting);
            }
            let (drafts, replies) = self.take_batch();
            self.metrics.send_batch_size.observe(drafts.len() as f64);
            let answers = self.send(drafts).await;
            for (reply, answer) in replies.into_iter().zip(answers) {
                // Whoever gave up waiting finds the answer under its key.
                drop(reply.send(answer));
            }
        }
    }

    async fn send(&self, drafts: Vec<Draft>) -> Vec<Result<Answer>> {
        match self.directory.look_up(&self.db, &self.revocations, &drafts).await {
            Ok(known) => {
                let batch = Batch::new(self.clock.clone(), drafts, known, self.direct_messages_from);
                send_batch(&self.db, &Arc::new(batch)).await
            }
            Err(error) => drafts.iter().map(|_| Err(repeat(&error))).collect(),
        }
    }

    /// What goes together: the oldest ones, no idempotency key twice. At least one.
    fn take_batch(&mut self) -> (Vec<Draft>, Vec<oneshot::Sender<Result<Answer>>>) {
        let mut drafts = Vec::new();
        let mut replies = Vec::new();
        let mut digests = HashSet::new();
        let mut repeats = Vec::new();
        while drafts.len() < BATCH_LIMIT {
            let Some(waiting) = self.ready.pop_front() else { break };
            let digest = waiting.draft.keyed.as_ref().map(|keyed| keyed.request.digest);
            if digest.is_some_and(|digest| !digests.insert(digest)) {
                repeats.push(waiting);
                continue;
            }
            drafts.push(waiting.draft);
            replies.push(waiting.reply);
        }
        for waiting in repeats.into_iter().rev() {
            self.ready.push_front(waiting);
        }
        (drafts, replies)
    }
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
    let hopeless = matches!(error, Error::Unavailable { .. } | Error::StorageFull);
    if batch.len() == 1 {
        return vec![Err(error)];
    }
    if hopeless {
        // It may have been committed all the same (the answer to a COMMIT can be lost): never sent a second time from here.
        return (0..batch.len()).map(|_| Err(repeat(&error))).collect();
    }
    tracing::warn!(%error, size = batch.len(), "a batch of sends failed: each is sent alone");
    let mut answers = Vec::with_capacity(batch.len());
    for single in batch.one_by_one() {
        match write(db, Arc::new(single)).await {
            Ok(answer) => answers.extend(answer),
            Err(error) => answers.push(Err(error)),
        }
    }
    answers
}

async fn write(db: &Db, batch: Arc<Batch>) -> Result<Vec<Result<Answer>>> {
    db.write(batch, |conn, batch| Box::pin(send_all(conn, batch))).await
}

fn repeat(error: &Error) -> Error {
    match error {
        Error::StorageFull => Error::StorageFull,
        error => Error::unavailable(error.to_string()),
    }
}
