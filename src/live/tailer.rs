//! The tailer: reads the event log in order and puts each event into the queues of its readers.
//!
//! Invariant: the members of a conversation that are in memory include every change of membership in the event log up to the
//! position that was read. Members that may lack a change are dropped and read again.

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
use crate::domain::events::events::{self, Cursor, Kind, LoggedEvent};

/// The event log counts as busy while a read finds at least this many events on average. Reads that find no event are left out of
/// the average. In a busy log, many users send at the same time, and their events are committed together.
const BUSY_EVENTS: f32 = 8.0;
/// The weight of the latest read in that moving average.
const AVERAGE_WEIGHT: f32 = 0.125;

/// Maximum number of members, over all conversations, that are kept in memory.
const CACHED_MEMBERS_LIMIT: usize = 200_000;

/// The state of the tailer. It is kept in [`Live`], so that a restarted tailer continues with it.
#[derive(Default)]
pub(super) struct TailerState {
    epoch: Option<Arc<str>>,
    /// The position up to which every event was put into the queues; `None` while there are no readers.
    position: Option<i64>,
    audiences: HashMap<ConversationId, Audience>,
    /// How many members `audiences` holds in all.
    cached_members: usize,
    /// The moving average of the events that a read finds.
    events_per_read: f32,
}

/// Runs the tailer until the server stops.
pub async fn run(live: &Live) {
    let mut tailer = live.tailer.lock().await;
    tailer.prepare_restart();
    let mut commits = live.app.commits.listen();
    let stopped = live.stopped();
    tokio::pin!(stopped);
    loop {
        let more = match tailer.pass(live).await {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(%error, "the event log could not be read");
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
        let idle = tailer.position.is_none();
        tokio::select! {
            changed = commits.changed(), if !idle => if changed.is_err() { return },
            () = live.wake.notified() => {}
            () = tokio::time::sleep(POLL_INTERVAL), if !idle => {}
            () = &mut stopped => return,
        }
    }
}

impl TailerState {
    /// Keeps only the position of an earlier tailer, which may have been dropped at any await. Events that it put into some queues
    /// are delivered again, and subscriptions skip those that they have returned. The members in memory may be incomplete, so
    /// they are read again.
    fn prepare_restart(&mut self) {
        let Self { epoch, position, .. } = std::mem::take(self);
        *self = Self { epoch, position, ..Self::default() };
    }

    /// Delivers the next chunk of new events. Returns whether there are more.
    async fn pass(&mut self, live: &Live) -> Result<bool> {
        let no_readers = {
            let readers = live.readers();
            readers.is_empty()
        };
        live.app.recent_sends.want(!no_readers);
        if no_readers {
            *self = Self::default();
            return Ok(false);
        }
        // The queues are taken before the log is read, because they start where this read ends.
        let unstarted = UnstartedQueues::take(live);
        let (more, start) = self.read_next(live).await?;
        if !more {
            unstarted.start(&start);
        }
        Ok(more)
    }

    /// Reads and delivers the next chunk. Returns whether there are more events, and the start for queues that are started now.
    async fn read_next(&mut self, live: &Live) -> Result<(bool, Start)> {
        let (log, chunk) = events::tail(&live.app, self.position).await?;
        let same = self.epoch.as_deref() == Some(log.epoch.as_str());
        let position = match self.position {
            Some(position) if same && position <= log.last_position => position,
            known => {
                if known.is_some() {
                    tracing::warn!("the event log was replaced; every reader must start again without a cursor");
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
        self.events_per_read += (chunk.events.len() as f32 - self.events_per_read) * AVERAGE_WEIGHT;
        live.is_busy.store(self.events_per_read >= BUSY_EVENTS, Ordering::Relaxed);
        let up_to = chunk.up_to;
        let more = up_to < log.last_position;
        self.deliver(live, &epoch, chunk.events, more).await?;
        self.position = Some(up_to);
        Ok((more, Start { epoch, position: up_to }))
    }

    async fn deliver(&mut self, live: &Live, epoch: &str, rows: Vec<LoggedEvent>, more: bool) -> Result<()> {
        self.refresh_audiences(live, &rows, more).await?;
        let mut wanted = Vec::with_capacity(rows.len());
        let mut queues_of_wanted = Vec::with_capacity(rows.len());
        for row in rows {
            let last_members = match (row.kind, row.conversation_id) {
                (Kind::ConversationDeleted, Some(id)) => events::last_members(&live.app, id, row.at).await?,
                _ => BTreeSet::new(),
            };
            let queues = self.queues(&live.readers(), &row, &last_members);
            if !queues.is_empty() {
                wanted.push(row);
                queues_of_wanted.push(queues);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let loaded = events::load_all(&live.app, wanted.clone()).await?;
        // An event that could not be loaded is missing here.
        let mut loaded = loaded.into_iter().peekable();
        for (row, queues) in wanted.iter().zip(queues_of_wanted) {
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
                // A user who has just lost access to the conversation must not get its earlier events, which may still be in the
                // queue.
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

    /// Makes sure that the members of every conversation in `rows` are in memory. Where these events change the members or what
    /// they see, the members are read again.
    async fn refresh_audiences(&mut self, live: &Live, rows: &[LoggedEvent], more: bool) -> Result<()> {
        if more || self.cached_members > CACHED_MEMBERS_LIMIT {
            // Later chunks may hold changes of members that are committed already. Members that are read now include those
            // changes; the members in memory do not.
            self.audiences.clear();
            self.cached_members = 0;
        }
        for row in rows {
            let changes = matches!(
                row.kind,
                Kind::MemberAdded | Kind::MemberRemoved | Kind::ConversationUpdated | Kind::ConversationDeleted
            );
            if let Some(id) = row.conversation_id.filter(|_| changes)
                && let Some(audience) = self.audiences.remove(&id)
            {
                self.cached_members -= audience.len();
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
        let mut members_of: HashMap<ConversationId, Vec<(UserId, i64)>> =
            unknown.iter().map(|id| (ConversationId(*id), Vec::new())).collect();
        for (conversation, user, visible_after) in events::audiences(&live.app, unknown).await? {
            members_of.entry(conversation).or_default().push((user, visible_after));
        }
        for (conversation, members) in members_of {
            self.cached_members += members.len();
            self.audiences.insert(conversation, Audience::new(members));
        }
        Ok(())
    }

    /// The queues of the readers who may see an event.
    fn queues(&self, readers: &Readers, row: &LoggedEvent, last_members: &BTreeSet<UserId>) -> Vec<Arc<Queue>> {
        let mut queues = readers.unrestricted.clone();
        let no_members = Audience::default();
        let audience = row.conversation_id.and_then(|id| self.audiences.get(&id)).unwrap_or(&no_members);
        for_each_viewer(row, audience, last_members, &readers.users, |of_user| {
            queues.extend(of_user.iter().cloned());
        });
        queues
    }
}

/// Queues that are not started, taken out of the list of readers. Dropping this without [`start`](Self::start), for example after
/// an error, puts them back.
struct UnstartedQueues<'a> {
    live: &'a Live,
    queues: Vec<Arc<Queue>>,
}

impl<'a> UnstartedQueues<'a> {
    fn take(live: &'a Live) -> Self {
        let queues = std::mem::take(&mut live.readers().unstarted);
        Self { live, queues }
    }

    fn start(mut self, start: &Start) {
        let queues = std::mem::take(&mut self.queues);
        let mut readers = self.live.readers();
        for queue in queues {
            if !queue.is_closed() {
                queue.begin(start.clone());
                readers.list(queue.viewer).push(queue);
            }
        }
    }
}

impl Drop for UnstartedQueues<'_> {
    fn drop(&mut self) {
        if !self.queues.is_empty() {
            self.live.readers().unstarted.append(&mut self.queues);
        }
    }
}

fn reset_all(readers: &mut Readers) {
    let queues: Vec<Arc<Queue>> =
        readers.users.drain().flat_map(|(_, queues)| queues).chain(readers.unrestricted.drain(..)).collect();
    for queue in queues {
        queue.reset();
    }
}
