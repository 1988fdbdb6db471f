//! Live events. Each server runs one tailer, which reads the event log in order and puts each event into the queues of the
//! readers that may see it.
//!
//! The tailer serialises an event once, and all queues share the result. A reader that catches up from the database, and each
//! delivery of a webhook, serialise the event again.
//!
//! Invariants:
//! - The event log is the truth. A wake-up is only a hint; without one, the tailer reads the log every [`POLL_INTERVAL`].
//! - A subscription gets every event after its start that its reader may see, once and in order. If the reader is too slow, the
//!   subscription ends with [`Next::TooSlow`]. A reader that returns with a cursor continues after that cursor.
//! - The audience of an event is determined after the event was read. A user who is removed from a conversation therefore gets
//!   no further event of that conversation, except the removal.
//! - Queues are bounded. An event that waits in several queues is in memory once.
//! - No reader misses an event when a task of this module fails and is restarted. The state that a restarted task needs is kept in
//!   [`Live`], not in the task: the position of the tailer, the queues of readers, and the names under which this server leases
//!   webhooks and writes presence.

pub mod bus;
mod presence;
mod queue;
mod subscription;
mod tailer;
pub mod webhooks;

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
use presence::Presence;
pub use presence::PresenceGuard;
use queue::Queue;
pub use subscription::{Next, Subscription};
use tailer::TailerState;
use webhooks::WebhookWorker;

/// How often the tailer reads the event log when nothing wakes it.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of subscriptions that one server holds open.
pub const SUBSCRIPTION_LIMIT: usize = 65_536;

/// Maximum number of users to whom one ephemeral event is delivered.
pub const EPHEMERAL_AUDIENCE_LIMIT: usize = 100;
/// Maximum number of ephemeral events that wait for the bus. A further event drops the oldest one.
const EPHEMERAL_QUEUE_LIMIT: usize = 256;

/// The JSON before and after an event in a frame of a WebSocket.
const FRAME_HEAD: &str = r#"{"type":"event","event":"#;
const FRAME_TAIL: &str = "}";

/// A serialised event, shared by all queues that hold it.
#[derive(Debug)]
pub struct Frame {
    /// The position in the event log; `None` for an ephemeral event.
    pub position: Option<i64>,
    /// The conversation of the event; `None` for an event about users, and for an ephemeral event.
    conversation: Option<ConversationId>,
    /// The frame of a WebSocket, UTF-8.
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

    /// The event as JSON.
    pub fn json(&self) -> &str {
        let json = &self.text[FRAME_HEAD.len()..self.text.len() - FRAME_TAIL.len()];
        // `new` creates the text from a string, so it is valid UTF-8.
        std::str::from_utf8(json).unwrap_or_default()
    }

    /// The event as a text frame of a WebSocket, UTF-8. Copies no bytes.
    pub fn text(&self) -> Bytes {
        self.text.clone()
    }
}

/// An ephemeral event with its audience: it is delivered to online users and not stored. Users who are offline miss it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EphemeralDelivery {
    /// The ids of the users who get it, at most [`EPHEMERAL_AUDIENCE_LIMIT`].
    pub to: Vec<i64>,
    /// The event as JSON.
    pub event: String,
}

/// The state of live events on one server: the readers, the tailer, presence and webhooks. Shared by `Arc`.
pub struct Live {
    app: Arc<App>,
    readers: Mutex<Readers>,
    /// Locked by the tailer while it runs.
    tailer: tokio::sync::Mutex<TailerState>,
    presence: Presence,
    /// Delivers to webhooks. `None` until the first webhook is enabled.
    webhook_worker: Mutex<Option<WebhookWorker>>,
    /// Wakes the tailer: a subscription waits to start, or another server says that the event log has grown.
    wake: Notify,
    ephemeral: broadcast::Sender<EphemeralDelivery>,
    stopping: watch::Sender<bool>,
    /// See [`is_busy`](Self::is_busy). Set by the tailer.
    is_busy: AtomicBool,
}

#[derive(Default)]
struct Readers {
    /// The queues of each user.
    users: HashMap<UserId, Vec<Arc<Queue>>>,
    /// The queues of viewers who see everything.
    unrestricted: Vec<Arc<Queue>>,
    /// Queues that the tailer has not started yet.
    unstarted: Vec<Arc<Queue>>,
    /// How many subscriptions are open.
    count: usize,
}

impl Readers {
    fn list(&mut self, viewer: Viewer) -> &mut Vec<Arc<Queue>> {
        match viewer {
            Viewer::Person(user) => self.users.entry(user).or_default(),
            Viewer::Everything => &mut self.unrestricted,
        }
    }

    const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl Live {
    /// Creates the state without readers. No event is delivered before [`run`](Self::run).
    pub fn new(app: Arc<App>) -> Arc<Self> {
        Arc::new(Self {
            app,
            readers: Mutex::default(),
            tailer: tokio::sync::Mutex::default(),
            presence: Presence::default(),
            webhook_worker: Mutex::default(),
            wake: Notify::new(),
            ephemeral: broadcast::Sender::new(EPHEMERAL_QUEUE_LIMIT),
            stopping: watch::Sender::new(false),
            is_busy: AtomicBool::new(false),
        })
    }

    /// Runs the tailer until the server stops. If an earlier call was dropped, this call continues at the position of that one.
    pub async fn run(self: Arc<Self>) {
        tailer::run(&self).await;
    }

    /// Ends every subscription.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Whether the server is stopping.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// A receiver whose value becomes true when the server stops.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Waits until the server stops.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopping = self.stopping.subscribe();
        async move {
            // `self` owns the sender. If it is dropped, the server has stopped too.
            drop(stopping.wait_for(|stopping| *stopping).await);
        }
    }

    /// Whether the event log is busy: the tailer finds many events at each read. Readers are then woken less often, and get several
    /// events together.
    fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Relaxed)
    }

    /// Wakes the tailer: the event log may have grown.
    pub fn look(&self) {
        self.wake.notify_one();
    }

    /// Delivers an ephemeral event to its audience on every server.
    pub fn publish_ephemeral(&self, event: EphemeralDelivery) {
        self.deliver_ephemeral(&event);
        // Without a bus the channel has no receiver. That is not an error.
        let _ = self.ephemeral.send(event);
    }

    /// The ephemeral events of this server, for the bus.
    pub fn ephemeral_events(&self) -> broadcast::Receiver<EphemeralDelivery> {
        self.ephemeral.subscribe()
    }

    /// Delivers an ephemeral event, from this server or another one, to the readers on this server.
    pub fn deliver_ephemeral(&self, event: &EphemeralDelivery) {
        let Ok(frame) = Frame::new(None, None, event.event.as_bytes()).map(Arc::new) else { return };
        let readers = self.readers();
        for user in event.to.iter().take(EPHEMERAL_AUDIENCE_LIMIT) {
            for queue in readers.users.get(&UserId(*user)).into_iter().flatten() {
                queue.push(&frame);
            }
        }
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a queue, which the tailer starts.
    fn add_queue(&self, viewer: Viewer) -> Result<Arc<Queue>> {
        let queue = Arc::new(Queue::new(viewer));
        let mut readers = self.readers();
        if readers.count >= SUBSCRIPTION_LIMIT {
            return Err(Error::unavailable("too many subscriptions are open"));
        }
        readers.count += 1;
        readers.unstarted.push(Arc::clone(&queue));
        drop(readers);
        self.app.metrics.subscriptions.inc();
        self.wake.notify_one();
        Ok(queue)
    }

    /// Empties a queue and lets the tailer start it again, at a later position.
    fn restart_queue(&self, queue: &Arc<Queue>) {
        let mut readers = self.readers();
        let list = readers.list(queue.viewer);
        if let Some(at) = list.iter().position(|known| Arc::ptr_eq(known, queue)) {
            list.swap_remove(at);
        }
        queue.clear();
        readers.unstarted.push(Arc::clone(queue));
        drop(readers);
        self.wake.notify_one();
    }

    fn remove_queue(&self, queue: &Arc<Queue>) {
        let mut readers = self.readers();
        queue.close();
        readers.unstarted.retain(|known| !Arc::ptr_eq(known, queue));
        let list = readers.list(queue.viewer);
        list.retain(|known| !Arc::ptr_eq(known, queue));
        if let (true, Viewer::Person(user)) = (list.is_empty(), queue.viewer) {
            readers.users.remove(&user);
        }
        readers.count -= 1;
        self.app.metrics.subscriptions.dec();
    }
}
