//! A subscription: one reader's progress through the event log. It first reads the events that the reader has missed from the
//! database, and then takes events from the queue that the tailer fills.
//!
//! Invariant: only events after `position` are returned. An event up to `position` was returned before, or lies before the cursor
//! that the reader started with, or is not visible to the reader. If the queue holds such an event, it is skipped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::queue::{Popped, Queue, Start};
use super::{Frame, Live};
use crate::base::error::{Error, Result};
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::events::events::{self, Cursor, cursor_expired};

/// While the event log is busy, a reader waits this long after its last event before it is woken, or until a full batch of events
/// waits. It then gets all waiting events together, with one wake-up and one write.
const COALESCING_INTERVAL: Duration = Duration::from_millis(100);
/// How long a subscription waits for the tailer to start its queue. The tailer must first read the event log to its end.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of [`Subscription::next`].
#[derive(Debug)]
pub enum Next {
    /// The next event.
    Event(Arc<Frame>),
    /// The event log was replaced, or the next events are no longer stored. The reader must start again without a cursor.
    Reset,
    /// The reader was too slow, and its queue has overflowed.
    TooSlow,
}

/// The subscription of one reader. It ends when it is dropped.
pub struct Subscription {
    live: Arc<Live>,
    queue: Arc<Queue>,
    start: Start,
    /// The position of the reader's cursor.
    position: i64,
    /// The position up to which the log was read for `page`.
    scanned: i64,
    /// Events that were read from the database and not returned yet.
    page: VecDeque<Arc<Frame>>,
    /// [`Queue::purges`] when `page` was read.
    page_purges: u64,
    /// Whether the reader is catching up. This begins when the reader has not yet got all events up to the start of the queue, and
    /// ends when the reader has emptied the queue. If the queue overflows during this time, the reader continues from the event
    /// log. If it overflows at any other time, the reader is too slow.
    is_catching_up: bool,
    /// When [`next`](Self::next) returned last.
    last_returned: Option<Instant>,
}

impl Subscription {
    /// Starts after a cursor; without one, at the end of the event log.
    ///
    /// # Errors
    /// 422 `invalid_cursor`; 410 `cursor_expired`; 503 if too many subscriptions are open, if the event log cannot be read, or if
    /// the server is stopping.
    pub async fn open(live: &Arc<Live>, principal: &Principal, cursor: Option<&str>) -> Result<Self> {
        Self::open_for(live, principal.viewer(), cursor).await
    }

    /// Like [`open`](Self::open), for a viewer.
    pub(super) async fn open_for(live: &Arc<Live>, viewer: Viewer, cursor: Option<&str>) -> Result<Self> {
        let cursor = cursor.map(Cursor::read).transpose()?;
        let queue = live.add_queue(viewer)?;
        let start = Start { epoch: Arc::default(), position: 0 };
        let live = Arc::clone(live);
        let page = VecDeque::new();
        let mut subscription = Self {
            live,
            queue,
            start,
            position: 0,
            scanned: 0,
            page,
            page_purges: 0,
            is_catching_up: false,
            last_returned: None,
        };
        subscription.wait_for_start().await?;
        let Some(cursor) = cursor else {
            subscription.position = subscription.start.position;
            return Ok(subscription);
        };
        if cursor.epoch != *subscription.start.epoch {
            return Err(cursor_expired());
        }
        if cursor.position > subscription.start.position {
            // The cursor may come from another server, whose tailer is ahead of this one. No tailer is ahead of the log.
            let log = events::log(&subscription.live.app).await?;
            if cursor.position > log.last_position {
                return Err(cursor_expired());
            }
        }
        subscription.position = cursor.position;
        if subscription.position < subscription.start.position
            && matches!(subscription.read_page().await?, Some(Next::Reset))
        {
            return Err(cursor_expired());
        }
        Ok(subscription)
    }

    /// Waits until the tailer has started the queue.
    async fn wait_for_start(&mut self) -> Result<()> {
        let stopped = self.live.stopped();
        let timeout = tokio::time::sleep(START_TIMEOUT);
        tokio::pin!(stopped, timeout);
        loop {
            if let Some(start) = self.queue.start() {
                self.start = start;
                return Ok(());
            }
            tokio::select! {
                () = self.queue.changed() => {}
                () = &mut stopped => return Err(Error::unavailable("the server is stopping")),
                () = &mut timeout => return Err(Error::unavailable("the event log could not be read in time")),
            }
        }
    }

    /// The cursor after the events that were returned.
    pub fn cursor(&self) -> String {
        Cursor::write(&self.start.epoch, self.position)
    }

    /// Waits until the queue has overflowed, because the reader takes no events from it. Never returns while the reader is catching
    /// up.
    pub async fn overflowed(&self) {
        if self.is_catching_up || !self.page.is_empty() || self.position < self.start.position {
            std::future::pending::<()>().await;
        }
        self.queue.overflowed().await;
    }

    /// Waits for the next event. If the future is dropped, no event is lost.
    ///
    /// # Errors
    /// Errors of the database; 503 if the queue is not started in time.
    pub async fn next(&mut self) -> Result<Next> {
        loop {
            if let Some(next) = self.try_next().await? {
                self.last_returned = Some(Instant::now());
                return Ok(next);
            }
            if let Some(last_returned) = self.last_returned.filter(|_| self.live.is_busy()) {
                tokio::select! {
                    () = tokio::time::sleep_until(last_returned + COALESCING_INTERVAL) => {}
                    () = self.queue.batch_is_full() => {}
                }
            }
            self.queue.changed().await;
        }
    }

    /// The next event, if there is one now.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn try_next(&mut self) -> Result<Option<Next>> {
        loop {
            if self.page_purges != self.queue.purges() {
                // The reader has lost access to a conversation since the page was read. The page is read again, because a read
                // returns only events that the reader may see.
                self.page.clear();
                self.scanned = self.position;
                self.page_purges = self.queue.purges();
            }
            if let Some(frame) = self.page.pop_front() {
                self.position = frame.position.unwrap_or(self.position);
                return Ok(Some(Next::Event(frame)));
            }
            self.position = self.position.max(self.scanned);
            if self.position < self.start.position {
                self.is_catching_up = true;
                if let Some(next) = self.read_page().await? {
                    return Ok(Some(next));
                }
                continue;
            }
            match self.queue.pop() {
                Popped::Frame(frame) => match frame.position {
                    Some(position) if position <= self.position => {}
                    position => {
                        self.position = position.unwrap_or(self.position);
                        return Ok(Some(Next::Event(frame)));
                    }
                },
                Popped::Empty => {
                    self.is_catching_up = false;
                    return Ok(None);
                }
                Popped::Reset => return Ok(Some(Next::Reset)),
                Popped::Overflowed if self.is_catching_up => self.live.restart_queue(&self.queue),
                Popped::NotStarted => {
                    self.is_catching_up = true;
                    self.wait_for_start().await?;
                }
                Popped::Overflowed => return Ok(Some(Next::TooSlow)),
            }
        }
    }

    /// The next event, if it is in memory. Neither waits nor reads the database. After `None`, [`next`](Self::next) may still find
    /// an event.
    pub fn next_in_memory(&mut self) -> Option<Arc<Frame>> {
        if self.page_purges != self.queue.purges() {
            return None;
        }
        loop {
            if let Some(frame) = self.page.pop_front() {
                self.position = frame.position.unwrap_or(self.position);
                return Some(frame);
            }
            self.position = self.position.max(self.scanned);
            if self.position < self.start.position {
                return None;
            }
            match self.queue.pop() {
                // The reader already got this event from the database.
                Popped::Frame(frame) if frame.position.is_some_and(|position| position <= self.position) => {}
                Popped::Frame(frame) => {
                    self.position = frame.position.unwrap_or(self.position);
                    return Some(frame);
                }
                _ => return None,
            }
        }
    }

    /// Reads the next page from the event log, at most up to the start of the queue.
    async fn read_page(&mut self) -> Result<Option<Next>> {
        self.page_purges = self.queue.purges();
        let read = match events::read(&self.live.app, self.queue.viewer, self.position, self.start.position).await {
            Ok(read) => read,
            Err(Error::Gone { .. }) => return Ok(Some(Next::Reset)),
            Err(error) => return Err(error),
        };
        if read.log.epoch != *self.start.epoch {
            return Ok(Some(Next::Reset));
        }
        for event in &read.events {
            let json = (self.live.app.renderer.event)(event, &Cursor::write(&self.start.epoch, event.position))?;
            self.page.push_back(Arc::new(Frame::new(Some(event.position), event.conversation_id, &json)?));
        }
        self.scanned = read.up_to.max(self.position);
        Ok(None)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.live.remove_queue(&self.queue);
    }
}
