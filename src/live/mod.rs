//! Events as they happen: one tailer a server reads the log in order and hands each event, serialised once, to those who may
//! see it now.
//!
//! Invariants:
//! - The log is the truth. What wakes the tailer is a hint; without any it looks every [`POLL_INTERVAL`].
//! - A subscription gets every event behind its start that its reader may see, once and in order, or is told that it was too
//!   slow; whoever comes back with a cursor goes on behind it.
//! - Who may see an event is asked after it was read: whoever is removed from a conversation gets nothing of it any more but
//!   the removal.
//! - Queues are bounded. What waits in them is shared by all of them.
//! - No reader misses an event when a task here fails and is started again: the position of the tailer, the queues of readers
//!   and the names under which this server leases webhooks and writes presence are kept in [`Live`], not in a task.

pub mod bus;
mod presence;
mod queue;
mod subscription;
mod tailer;
mod webhooks;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, broadcast, watch};

use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, UserId};
use crate::domain::access::viewer::Viewer;
pub use presence::Here;
use presence::Presence;
use queue::Queue;
pub use subscription::{Next, Subscription};
use tailer::Tail;
use webhooks::Worker;

/// How often the log is looked at when nothing wakes the tailer.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Subscriptions at once on one server.
pub const SUBSCRIPTION_LIMIT: usize = 65_536;

/// People to whom something that is not logged is told.
pub const WHISPER_LIMIT: usize = 100;
/// Whispers that wait for the bus; beyond it the oldest are lost.
const WHISPERS_WAITING: usize = 256;

/// What comes around an event in a frame of a WebSocket.
const FRAME_HEAD: &str = r#"{"type":"event","event":"#;
const FRAME_TAIL: &str = "}";

/// An event that was serialised, for everyone who gets it.
#[derive(Debug)]
pub struct Frame {
    /// Its place in the log; `None` for what is not logged.
    pub position: Option<i64>,
    /// Where it happened.
    conversation: Option<ConversationId>,
    /// UTF-8. Shared by everyone who gets it.
    text: Bytes,
}

impl Frame {
    fn new(position: Option<i64>, conversation: Option<ConversationId>, json: &[u8]) -> Result<Self> {
        let json = std::str::from_utf8(json).map_err(Error::internal)?;
        let mut text = String::with_capacity(FRAME_HEAD.len() + json.len() + FRAME_TAIL.len());
        for part in [FRAME_HEAD, json, FRAME_TAIL] {
            text.push_str(part);
        }
        Ok(Self { position, conversation, text: text.into() })
    }

    /// The event.
    pub fn json(&self) -> &str {
        let json = &self.text[FRAME_HEAD.len()..self.text.len() - FRAME_TAIL.len()];
        // It was made of a string.
        std::str::from_utf8(json).unwrap_or_default()
    }

    /// The event as a text frame of a WebSocket, UTF-8. Its bytes are shared.
    pub fn text(&self) -> Bytes {
        self.text.clone()
    }
}

/// Something that is told and not logged, on its way to those who may see it. Whoever is not there misses it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Whisper {
    /// To whom: at most [`WHISPER_LIMIT`] people.
    pub to: Vec<i64>,
    /// The event in JSON.
    pub event: String,
}

/// The live part of a server. Shared by `Arc`.
pub struct Live {
    app: Arc<App>,
    readers: Mutex<Readers>,
    /// Up to where readers have everything. Locked by the tailer while it runs.
    tail: tokio::sync::Mutex<Tail>,
    presence: Presence,
    /// What delivers to webhooks, once there is one.
    webhook_worker: Mutex<Option<Worker>>,
    /// Rung when a subscription waits to begin, or another server says that there is something.
    wake: Notify,
    whispers: broadcast::Sender<Whisper>,
    stopping: watch::Sender<bool>,
    /// Many things happen at once.
    crowded: AtomicBool,
}

#[derive(Default)]
struct Readers {
    people: HashMap<UserId, Vec<Arc<Queue>>>,
    /// Of viewers of everything.
    all_seeing: Vec<Arc<Queue>>,
    /// Not begun yet.
    waiting: Vec<Arc<Queue>>,
    count: usize,
}

impl Readers {
    fn list(&mut self, viewer: Viewer) -> &mut Vec<Arc<Queue>> {
        match viewer {
            Viewer::Person(user) => self.people.entry(user).or_default(),
            Viewer::Everything => &mut self.all_seeing,
        }
    }

    const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl Live {
    /// The live part; nothing happens in it before [`run`](Self::run).
    pub fn new(app: Arc<App>) -> Arc<Self> {
        Arc::new(Self {
            app,
            readers: Mutex::default(),
            tail: tokio::sync::Mutex::default(),
            presence: Presence::default(),
            webhook_worker: Mutex::default(),
            wake: Notify::new(),
            whispers: broadcast::Sender::new(WHISPERS_WAITING),
            stopping: watch::Sender::new(false),
            crowded: AtomicBool::new(false),
        })
    }

    /// Tails the log until the server stops. A call behind one that was dropped goes on where that one was.
    pub async fn run(self: Arc<Self>) {
        tailer::run(&self).await;
    }

    /// Ends every subscription.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Whether the server stops.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// True once the server stops.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Waits until the server stops.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopping = self.stopping.subscribe();
        async move {
            // The sender is ours: it does not go first.
            drop(stopping.wait_for(|stopping| *stopping).await);
        }
    }

    /// Whether many things happen at once: then they are told together.
    fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    /// There may be something new in the log.
    pub fn look(&self) {
        self.wake.notify_one();
    }

    /// Tells something on every server.
    pub fn whisper(&self, whisper: Whisper) {
        self.hear(&whisper);
        // Nobody listens where there is one server.
        let _ = self.whispers.send(whisper);
    }

    /// What is told here, for other servers.
    pub fn whispers(&self) -> broadcast::Receiver<Whisper> {
        self.whispers.subscribe()
    }

    /// Tells something to those who listen here: this server's own, or from another one.
    pub fn hear(&self, whisper: &Whisper) {
        let Ok(frame) = Frame::new(None, None, whisper.event.as_bytes()).map(Arc::new) else { return };
        let readers = self.readers();
        for user in whisper.to.iter().take(WHISPER_LIMIT) {
            for queue in readers.people.get(&UserId(*user)).into_iter().flatten() {
                queue.push(&frame);
            }
        }
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, viewer: Viewer) -> Result<Arc<Queue>> {
        let queue = Arc::new(Queue::new(viewer));
        let mut readers = self.readers();
        if readers.count >= SUBSCRIPTION_LIMIT {
            return Err(Error::unavailable("too many subscriptions are open"));
        }
        readers.count += 1;
        readers.waiting.push(Arc::clone(&queue));
        drop(readers);
        self.app.metrics.subscriptions.inc();
        self.wake.notify_one();
        Ok(queue)
    }

    /// Lets a queue begin anew, further on.
    fn enter_again(&self, queue: &Arc<Queue>) {
        let mut readers = self.readers();
        let list = readers.list(queue.viewer);
        if let Some(at) = list.iter().position(|known| Arc::ptr_eq(known, queue)) {
            list.swap_remove(at);
        }
        queue.clear();
        readers.waiting.push(Arc::clone(queue));
        drop(readers);
        self.wake.notify_one();
    }

    fn leave(&self, queue: &Arc<Queue>) {
        let mut readers = self.readers();
        queue.leave();
        readers.waiting.retain(|known| !Arc::ptr_eq(known, queue));
        let list = readers.list(queue.viewer);
        list.retain(|known| !Arc::ptr_eq(known, queue));
        if let (true, Viewer::Person(user)) = (list.is_empty(), queue.viewer) {
            readers.people.remove(&user);
        }
        readers.count -= 1;
        self.app.metrics.subscriptions.dec();
    }
}
