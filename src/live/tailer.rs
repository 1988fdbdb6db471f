//! Reads the log in order and hands it out.
//!
//! Invariant: who is in a conversation is remembered only while every change of it in the log up to the place that was read
//! is known.

#[cfg(test)]
mod simulation;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::queue::{Queue, Start};
use super::{Frame, Live, POLL_INTERVAL, Readers};
use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::domain::access::viewer::Viewer;
use crate::domain::events::audience::{Audience, for_each_viewer};
use crate::domain::events::events::{self, Cursor, Kind, Logged};

/// Events that a look at the log finds, on an average of the last looks, from which on much happens at once: whoever sends then
/// waits for others who send as well.
const CROWD: f32 = 8.0;
/// What the latest look counts in that average.
const CROWD_WEIGHT: f32 = 0.125;

/// Members of conversations that are remembered.
const AUDIENCE_LIMIT: usize = 200_000;

/// How far the log was read.
#[derive(Default)]
pub(super) struct Tail {
    epoch: Option<Arc<str>>,
    /// Up to where everything was handed out; `None` while nobody listens.
    position: Option<i64>,
    audiences: HashMap<ConversationId, Audience>,
    remembered: usize,
    /// Events that a look finds, on average.
    found: f32,
}

/// Tails until the server stops.
pub async fn run(live: &Live) {
    let mut tail = live.tail.lock().await;
    tail.begin_again();
    let mut commits = live.app.commits.listen();
    let stopped = live.stopped();
    tokio::pin!(stopped);
    loop {
        let more = match tail.pass(live).await {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(%error, "the log of events could not be read");
                tokio::time::sleep(POLL_INTERVAL).await;
                false
            }
        };
        if live.is_stopping() {
            return;
        }
        if more {
            continue;
        }
        let idle = tail.position.is_none();
        tokio::select! {
            changed = commits.changed(), if !idle => if changed.is_err() { return },
            () = live.wake.notified() => {}
            () = tokio::time::sleep(POLL_INTERVAL), if !idle => {}
            () = &mut stopped => return,
        }
    }
}

impl Tail {
    /// After a tailer that was dropped in the middle of anything. Events that it handed out in part are handed out again,
    /// and subscriptions drop what they have. What it knew about members may be half changed, and is read again.
    fn begin_again(&mut self) {
        let Self { epoch, position, .. } = std::mem::take(self);
        *self = Self { epoch, position, ..Self::default() };
    }

    /// Hands out what is new, up to a chunk; whether there is more.
    async fn pass(&mut self, live: &Live) -> Result<bool> {
        let nobody = {
            let readers = live.readers();
            readers.is_empty()
        };
        live.app.fresh.want(!nobody);
        if nobody {
            *self = Self::default();
            return Ok(false);
        }
        // Taken before the log is read: they begin where this read ends.
        let waiting = WaitingQueues::take(live);
        let (more, start) = self.read_on(live).await?;
        if !more {
            waiting.begin(&start);
        }
        Ok(more)
    }

    async fn read_on(&mut self, live: &Live) -> Result<(bool, Start)> {
        let (log, stretch) = events::tail(&live.app, self.position).await?;
        let same = self.epoch.as_deref() == Some(log.epoch.as_str());
        let position = match self.position {
            Some(position) if same && position <= log.last_position => position,
            known => {
                if known.is_some() {
                    tracing::warn!("the log of events is another one: everybody begins anew");
                    reset_all(&mut live.readers());
                }
                *self = Self {
                    epoch: Some(log.epoch.as_str().into()),
                    position: Some(log.last_position),
                    ..Self::default()
                };
                log.last_position
            }
        };
        let epoch = self.epoch.clone().unwrap_or_default();
        if self.position != Some(position) || position == log.last_position {
            return Ok((false, Start { epoch, position: self.position.unwrap_or(position) }));
        }
        self.found += (stretch.events.len() as f32 - self.found) * CROWD_WEIGHT;
        live.crowded.store(self.found >= CROWD, Ordering::Relaxed);
        let up_to = stretch.up_to;
        let more = up_to < log.last_position;
        self.hand_out(live, &epoch, stretch.events, more).await?;
        self.position = Some(up_to);
        Ok((more, Start { epoch, position: up_to }))
    }

    async fn hand_out(&mut self, live: &Live, epoch: &str, rows: Vec<Logged>, more: bool) -> Result<()> {
        self.learn(live, &rows, more).await?;
        let mut wanted = Vec::with_capacity(rows.len());
        let mut readers_of = Vec::with_capacity(rows.len());
        for row in rows {
            let last_members = match (row.kind, row.conversation_id) {
                (Kind::ConversationDeleted, Some(id)) => events::last_members(&live.app, id, row.at).await?,
                _ => BTreeSet::new(),
            };
            let queues = self.queues(&live.readers(), &row, &last_members);
            if !queues.is_empty() {
                wanted.push(row);
                readers_of.push(queues);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let loaded = events::load_all(&live.app, wanted.clone()).await?;
        let mut loaded = loaded.into_iter().peekable();
        for (row, queues) in wanted.iter().zip(readers_of) {
            let event = loaded.next_if(|event| event.position == row.position);
            let ends = matches!(row.kind, Kind::MemberRemoved | Kind::ConversationDeleted);
            let frame = match event {
                Some(event) => {
                    let json = (live.app.renderer.event)(&event, &Cursor::write(epoch, event.position))?;
                    Some(Arc::new(Frame::new(Some(event.position), event.conversation_id, &json)?))
                }
                None => None,
            };
            for queue in queues {
                if let Some(conversation) = row.conversation_id.filter(|_| ends)
                    && (row.kind == Kind::ConversationDeleted
                        || row.subject_id.is_some_and(|subject| queue.viewer == Viewer::Person(subject)))
                {
                    queue.purge(conversation);
                }
                if let Some(frame) = &frame {
                    queue.push(frame);
                    live.app.metrics.events_delivered.inc();
                }
            }
        }
        Ok(())
    }

    /// Forgets who is in conversations that change, and asks who is in those that are not known.
    async fn learn(&mut self, live: &Live, rows: &[Logged], more: bool) -> Result<()> {
        if more || self.remembered > AUDIENCE_LIMIT {
            // What comes behind the chunk may change them as well.
            self.audiences.clear();
            self.remembered = 0;
        }
        for row in rows {
            let changes = matches!(
                row.kind,
                Kind::MemberAdded | Kind::MemberRemoved | Kind::ConversationUpdated | Kind::ConversationDeleted
            );
            if let Some(id) = row.conversation_id.filter(|_| changes)
                && let Some(known) = self.audiences.remove(&id)
            {
                self.remembered -= known.len();
            }
        }
        let mut unknown: Vec<i64> = rows
            .iter()
            .filter_map(|row| row.conversation_id)
            .filter(|id| !self.audiences.contains_key(id))
            .map(|id| id.0)
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        if unknown.is_empty() {
            return Ok(());
        }
        let mut found: HashMap<ConversationId, Vec<(UserId, i64)>> =
            unknown.iter().map(|id| (ConversationId(*id), Vec::new())).collect();
        for (conversation, user, behind) in events::audiences(&live.app, unknown).await? {
            found.entry(conversation).or_default().push((user, behind));
        }
        for (conversation, members) in found {
            self.remembered += members.len();
            self.audiences.insert(conversation, Audience::new(members));
        }
        Ok(())
    }

    /// The queues that an event goes to.
    fn queues(&self, readers: &Readers, row: &Logged, last_members: &BTreeSet<UserId>) -> Vec<Arc<Queue>> {
        let mut queues = readers.all_seeing.clone();
        let nobody = Audience::default();
        let audience = row.conversation_id.and_then(|id| self.audiences.get(&id)).unwrap_or(&nobody);
        for_each_viewer(row, audience, last_members, &readers.people, |of_person| {
            queues.extend(of_person.iter().cloned());
        });
        queues
    }
}

/// Queues that have not begun, taken out of the list of readers. Those that did not begin wait again afterwards, whatever
/// happened meanwhile.
struct WaitingQueues<'a> {
    live: &'a Live,
    queues: Vec<Arc<Queue>>,
}

impl<'a> WaitingQueues<'a> {
    fn take(live: &'a Live) -> Self {
        let queues = std::mem::take(&mut live.readers().waiting);
        Self { live, queues }
    }

    fn begin(mut self, start: &Start) {
        let queues = std::mem::take(&mut self.queues);
        let mut readers = self.live.readers();
        for queue in queues {
            if !queue.has_left() {
                queue.begin(start.clone());
                readers.list(queue.viewer).push(queue);
            }
        }
    }
}

impl Drop for WaitingQueues<'_> {
    fn drop(&mut self) {
        if !self.queues.is_empty() {
            self.live.readers().waiting.append(&mut self.queues);
        }
    }
}

fn reset_all(readers: &mut Readers) {
    let everyone: Vec<Arc<Queue>> =
        readers.people.drain().flat_map(|(_, queues)| queues).chain(readers.all_seeing.drain(..)).collect();
    for queue in everyone {
        queue.reset();
    }
}
