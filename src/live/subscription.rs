//! One reader's way through the log: what was missed from the database, then what comes from the tailer.
//!
//! Invariant: `position` is behind the last event that was given, or behind one that the reader may not see; what comes from
//! the queue and is not behind it was given already.

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

/// While many things happen at once, a reader is told of them at most so often: what came meanwhile comes together, with one
/// waking up and one write for all of it.
const GATHER_TIME: Duration = Duration::from_millis(100);
/// How long a subscription may wait for the tailer to read the end of the log.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// An event.
    Event(Arc<Frame>),
    /// The log is another one, or what comes next is forgotten: begin anew.
    Reset,
    /// Too much came while it was not read.
    TooSlow,
}

/// A reader of events. Ends when it is dropped.
pub struct Subscription {
    live: Arc<Live>,
    queue: Arc<Queue>,
    start: Start,
    /// The cursor that the reader has now.
    position: i64,
    /// Up to where the log was read for `page`.
    scanned: i64,
    page: VecDeque<Arc<Frame>>,
    page_purges: u64,
    /// Not everything before the start of the queue was given yet, or not all that came meanwhile.
    behind: bool,
    /// When the reader was told something last.
    told: Option<Instant>,
}

impl Subscription {
    /// Begins behind a cursor, or now.
    ///
    /// # Errors
    /// 422 for a cursor that is none, 410 `cursor_expired`; 503 when there are too many, or the log cannot be read.
    pub async fn open(live: &Arc<Live>, principal: &Principal, cursor: Option<&str>) -> Result<Self> {
        Self::open_for(live, principal.viewer(), cursor).await
    }

    /// [`open`](Self::open) for a viewer.
    pub(super) async fn open_for(live: &Arc<Live>, viewer: Viewer, cursor: Option<&str>) -> Result<Self> {
        let cursor = cursor.map(Cursor::read).transpose()?;
        let queue = live.enter(viewer)?;
        let start = Start { epoch: Arc::default(), position: 0 };
        let live = Arc::clone(live);
        let page = VecDeque::new();
        let mut subscription =
            Self { live, queue, start, position: 0, scanned: 0, page, page_purges: 0, behind: false, told: None };
        subscription.begin().await?;
        let Some(cursor) = cursor else {
            subscription.position = subscription.start.position;
            return Ok(subscription);
        };
        if cursor.epoch != *subscription.start.epoch {
            return Err(cursor_expired());
        }
        if cursor.position > subscription.start.position {
            // Another server may be further, but no server is further than the log.
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

    async fn begin(&mut self) -> Result<()> {
        let stopped = self.live.stopped();
        let timeout = tokio::time::sleep(BEGIN_TIMEOUT);
        tokio::pin!(stopped, timeout);
        loop {
            if let Some(start) = self.queue.start() {
                self.start = start;
                return Ok(());
            }
            tokio::select! {
                () = self.queue.changed() => {}
                () = &mut stopped => return Err(Error::unavailable("the server is stopping")),
                () = &mut timeout => return Err(Error::unavailable("the log of events could not be read in time")),
            }
        }
    }

    /// The cursor behind what was given.
    pub fn cursor(&self) -> String {
        Cursor::write(&self.start.epoch, self.position)
    }

    /// Waits until too much has come for a reader that does not read.
    pub async fn overflowed(&self) {
        if self.behind || !self.page.is_empty() || self.position < self.start.position {
            std::future::pending::<()>().await;
        }
        self.queue.overflowed().await;
    }

    /// The next event. Can be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// Of the database.
    pub async fn next(&mut self) -> Result<Next> {
        loop {
            if let Some(next) = self.try_next().await? {
                self.told = Some(Instant::now());
                return Ok(next);
            }
            if let Some(told) = self.told.filter(|_| self.live.is_crowded()) {
                tokio::select! {
                    () = tokio::time::sleep_until(told + GATHER_TIME) => {}
                    () = self.queue.gathered() => {}
                }
            }
            self.queue.changed().await;
        }
    }

    /// The next event, if there is one already.
    ///
    /// # Errors
    /// Of the database.
    pub async fn try_next(&mut self) -> Result<Option<Next>> {
        loop {
            if self.page_purges != self.queue.purges() {
                // Something was taken from the reader since: what they may see is asked again.
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
                self.behind = true;
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
                    self.behind = false;
                    return Ok(None);
                }
                Popped::Reset => return Ok(Some(Next::Reset)),
                Popped::Overflowed if self.behind => self.live.enter_again(&self.queue),
                Popped::Waiting => {
                    self.behind = true;
                    self.begin().await?;
                }
                Popped::Overflowed => return Ok(Some(Next::TooSlow)),
            }
        }
    }

    /// The next event that is in memory already. Neither waits nor asks the database; `None` says nothing about what
    /// [`next`](Self::next) would find.
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
                // The log contained it, and the reader has it.
                Popped::Frame(frame) if frame.position.is_some_and(|position| position <= self.position) => {}
                Popped::Frame(frame) => {
                    self.position = frame.position.unwrap_or(self.position);
                    return Some(frame);
                }
                _ => return None,
            }
        }
    }

    /// Reads on in the log, up to where the queue begins.
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
        self.live.leave(&self.queue);
    }
}
