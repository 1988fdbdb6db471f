//! The queue of events that wait for one reader.
//!
//! Invariant: a queue holds at most [`LIMIT`] events. The next event empties it and marks it as overflowed. The subscription then
//! continues from the event log if it was still catching up; otherwise it ends as too slow.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Frame;
use crate::base::ids::ConversationId;
use crate::domain::access::viewer::Viewer;

/// Maximum number of events that wait for one reader.
pub const LIMIT: usize = 1_024;
/// When this many events wait, the reader is woken even if it was woken a moment ago.
const FULL_BATCH: usize = 64;

/// Where a queue starts: it gets the events after this position.
#[derive(Clone, Debug)]
pub struct Start {
    /// The epoch of the event log.
    pub epoch: Arc<str>,
    pub position: i64,
}

/// The result of [`Queue::pop`].
#[derive(Debug)]
pub enum Popped {
    /// The next event.
    Frame(Arc<Frame>),
    /// No event waits.
    Empty,
    /// The tailer has not started the queue.
    NotStarted,
    /// An event came while [`LIMIT`] events were waiting.
    Overflowed,
    /// The event log was replaced by another one.
    Reset,
}

#[derive(Default)]
struct QueueState {
    start: Option<Start>,
    frames: VecDeque<Arc<Frame>>,
    overflowed: bool,
    reset: bool,
}

/// A bounded queue of events, written by the tailer and read by one subscription.
pub struct Queue {
    /// The viewer with whose rights the reader reads.
    pub viewer: Viewer,
    state: Mutex<QueueState>,
    changed: Notify,
    batch_is_full: Notify,
    overflow: Notify,
    is_closed: AtomicBool,
    purges: AtomicU64,
}

impl Queue {
    /// A queue that the tailer has not started.
    pub fn new(viewer: Viewer) -> Self {
        Self {
            viewer,
            state: Mutex::default(),
            changed: Notify::new(),
            batch_is_full: Notify::new(),
            overflow: Notify::new(),
            is_closed: AtomicBool::new(false),
            purges: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the queue empty and not started.
    pub fn clear(&self) {
        *self.state() = QueueState::default();
    }

    /// Starts the queue.
    pub fn begin(&self, start: Start) {
        self.state().start = Some(start);
        self.changed.notify_one();
    }

    /// Where the queue started; `None` before that.
    pub fn start(&self) -> Option<Start> {
        self.state().start.clone()
    }

    /// Adds an event, unless the queue has overflowed.
    pub fn push(&self, frame: &Arc<Frame>) {
        let mut state = self.state();
        if state.overflowed {
            return;
        }
        if state.frames.len() >= LIMIT {
            state.frames = VecDeque::new();
            state.overflowed = true;
            drop(state);
            self.overflow.notify_one();
        } else {
            state.frames.push_back(Arc::clone(frame));
            let waiting = state.frames.len();
            drop(state);
            if waiting == FULL_BATCH {
                self.batch_is_full.notify_one();
            }
        }
        self.changed.notify_one();
    }

    /// Marks the queue as closed: its subscription has ended. Called, like [`is_closed`](Self::is_closed), only while the list of
    /// readers is locked.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    /// Whether the subscription has ended.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// The number of calls of [`purge`](Self::purge). Events that the subscription read from the log before the last call may
    /// no longer be visible to the reader, so the subscription reads them again.
    pub fn purges(&self) -> u64 {
        self.purges.load(Ordering::Acquire)
    }

    /// Removes all events of a conversation, because the reader may not see it any more.
    pub fn purge(&self, conversation: ConversationId) {
        self.purges.fetch_add(1, Ordering::AcqRel);
        self.state().frames.retain(|frame| frame.conversation != Some(conversation));
    }

    /// Empties the queue because the event log was replaced: the positions of the old log have no meaning in the new one.
    pub fn reset(&self) {
        *self.state() = QueueState { reset: true, ..QueueState::default() };
        self.changed.notify_one();
    }

    /// Removes and returns the next event.
    pub fn pop(&self) -> Popped {
        let mut state = self.state();
        if state.reset {
            return Popped::Reset;
        }
        if state.overflowed {
            return Popped::Overflowed;
        }
        if state.start.is_none() {
            return Popped::NotStarted;
        }
        match state.frames.pop_front() {
            Some(frame) => Popped::Frame(frame),
            None => {
                // Frees the memory: there can be thousands of queues that were full once.
                if state.frames.capacity() > 64 {
                    state.frames = VecDeque::new();
                }
                Popped::Empty
            }
        }
    }

    /// Waits for a change. Returns immediately if there was one since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until [`FULL_BATCH`] events wait.
    pub async fn batch_is_full(&self) {
        if self.state().frames.len() < FULL_BATCH {
            self.batch_is_full.notified().await;
        }
    }

    /// Waits until the queue has overflowed.
    pub async fn overflowed(&self) {
        if !self.state().overflowed {
            self.overflow.notified().await;
        }
    }
}
