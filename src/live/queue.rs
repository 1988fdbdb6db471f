//! What waits for one reader.
//!
//! Invariant: a queue holds at most [`LIMIT`] events. One more empties it and marks it as overflowed: whoever reads it goes on
//! from the log, or is closed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Frame;
use crate::base::ids::ConversationId;
use crate::domain::access::viewer::Viewer;

/// Events that wait for one reader.
pub const LIMIT: usize = 1_024;
/// So many that wait are told, however soon after the last ones.
const GATHERED: usize = 64;

/// Where a queue begins: it gets what is behind.
#[derive(Clone, Debug)]
pub struct Start {
    /// Of which log.
    pub epoch: Arc<str>,
    /// The position.
    pub position: i64,
}

/// What a reader finds in its queue.
#[derive(Debug)]
pub enum Popped {
    /// The next event.
    Frame(Arc<Frame>),
    /// Nothing, for now.
    Empty,
    /// The queue has not begun.
    Waiting,
    /// Too much came.
    Overflowed,
    /// The log is another one.
    Reset,
}

#[derive(Default)]
struct State {
    start: Option<Start>,
    frames: VecDeque<Arc<Frame>>,
    overflowed: bool,
    reset: bool,
}

/// A bounded queue of events, written by the tailer and read by one subscription.
pub struct Queue {
    /// Who reads it.
    pub viewer: Viewer,
    state: Mutex<State>,
    changed: Notify,
    gathered: Notify,
    overflow: Notify,
    /// Its reader is gone.
    left: AtomicBool,
    purges: AtomicU64,
}

impl Queue {
    /// One that has not begun.
    pub fn new(viewer: Viewer) -> Self {
        Self {
            viewer,
            state: Mutex::default(),
            changed: Notify::new(),
            gathered: Notify::new(),
            overflow: Notify::new(),
            left: AtomicBool::new(false),
            purges: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As new.
    pub fn clear(&self) {
        *self.state() = State::default();
    }

    /// Begins.
    pub fn begin(&self, start: Start) {
        self.state().start = Some(start);
        self.changed.notify_one();
    }

    /// Where it began.
    pub fn start(&self) -> Option<Start> {
        self.state().start.clone()
    }

    /// Adds an event.
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
            if waiting == GATHERED {
                self.gathered.notify_one();
            }
        }
        self.changed.notify_one();
    }

    /// Its reader is gone. Said and asked while the list of readers is locked.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Whether its reader is gone.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// How often something was taken away. What was read from the log before the latest time is to be read again.
    pub fn purges(&self) -> u64 {
        self.purges.load(Ordering::Acquire)
    }

    /// Takes everything of a conversation away: its reader may not see it any more.
    pub fn purge(&self, conversation: ConversationId) {
        self.purges.fetch_add(1, Ordering::AcqRel);
        self.state().frames.retain(|frame| frame.conversation != Some(conversation));
    }

    /// The log is another one: nothing in here means anything.
    pub fn reset(&self) {
        *self.state() = State { reset: true, ..State::default() };
        self.changed.notify_one();
    }

    /// Takes the next event out.
    pub fn pop(&self) -> Popped {
        let mut state = self.state();
        if state.reset {
            return Popped::Reset;
        }
        if state.overflowed {
            return Popped::Overflowed;
        }
        if state.start.is_none() {
            return Popped::Waiting;
        }
        match state.frames.pop_front() {
            Some(frame) => Popped::Frame(frame),
            None => {
                // Thousands of queues that were full once must not keep their room.
                if state.frames.capacity() > 64 {
                    state.frames = VecDeque::new();
                }
                Popped::Empty
            }
        }
    }

    /// Waits for a change. One that came before counts.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until so many wait that they should be told.
    pub async fn gathered(&self) {
        if self.state().frames.len() < GATHERED {
            self.gathered.notified().await;
        }
    }

    /// Waits until too much has come.
    pub async fn overflowed(&self) {
        if !self.state().overflowed {
            self.overflow.notified().await;
        }
    }
}
