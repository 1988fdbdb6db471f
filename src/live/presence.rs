//! The presence of the users who are connected to this server. A stream or socket that starts or ends changes a count in memory.
//! One task writes the changes to the database in batches and publishes them to the users who may see them.
//!
//! Invariants: no request waits for any of this. A change that could not be written is written later. Nothing is written while no
//! user is connected and none has left a moment ago.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{EPHEMERAL_QUEUE_LIMIT, EphemeralDelivery, Live};
use crate::base::error::{Error, Result};
use crate::base::ids::{UserId, hex};
use crate::base::tasks::{self, PanicPoint};
use crate::base::time::{MAX_CLOCK_SKEW_MICROS, Timestamp};
use crate::domain::access::viewer::Viewer;
use crate::domain::events::event_data::{EphemeralData, EphemeralEvent};
use crate::domain::people::presence::{self, BATCH, Batch, Change, Changed, State};

/// How often changes are written to the database.
const FLUSH_INTERVAL: Duration = Duration::from_millis(300);
/// How often a server with online users renews its own row.
const REFRESH_INTERVAL: Duration = Duration::from_secs(30);
/// How often this server looks for other servers that no longer renew their rows.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);
/// A user without a stream keeps their state for this time.
const GRACE_PERIOD: Duration = Duration::from_secs(2);
/// The pause after an error of the database.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Maximum number of batches of changes that wait to be published. Further ones are not published.
const PUBLISH_QUEUE_LIMIT: usize = 64;
/// Maximum number of users whose audiences are read in one query.
const AUDIENCES_BATCH: usize = 50;
/// How long publishing a batch waits at most for room in the queue of the bus.
const BUS_WAIT_LIMIT: Duration = Duration::from_millis(500);

/// The presence of the users of this server.
#[derive(Default)]
pub struct Presence {
    users: Mutex<Users>,
    /// `None` before the first run of the task. The task locks this while it runs. A restarted task keeps the name.
    server: tokio::sync::Mutex<Option<ServerRow>>,
}

#[derive(Default)]
struct Users {
    all: HashMap<UserId, UserPresence>,
    /// Users with a change that may have to be written.
    changed: HashSet<UserId>,
}

/// The presence of one user on this server.
struct UserPresence {
    /// The number of streams in the state `online`.
    online: usize,
    /// The number of streams in the state `away`.
    away: usize,
    /// The state over all streams; without a stream, the last one.
    state: State,
    /// When the last stream ended; `None` while there is a stream.
    left: Option<(Instant, Timestamp)>,
    /// The state in the database.
    written: Option<State>,
    /// Whether a write has started and its result is unknown: the database may or may not have the change.
    is_unconfirmed: bool,
}

impl Default for UserPresence {
    fn default() -> Self {
        Self { online: 0, away: 0, state: State::Online, left: None, written: None, is_unconfirmed: false }
    }
}

impl UserPresence {
    fn count(&mut self, state: State) -> &mut usize {
        if state == State::Away { &mut self.away } else { &mut self.online }
    }

    /// The state that the database should have: `None` once the user has no stream for [`GRACE_PERIOD`].
    fn wanted(&self) -> Option<State> {
        let is_present = self.left.is_none_or(|(left, _)| left.elapsed() < GRACE_PERIOD);
        is_present.then_some(self.state)
    }
}

impl Presence {
    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one stream: `None` for `from` is a new stream, `None` for `to` is one that ends.
    fn change(&self, user: UserId, from: Option<State>, to: Option<State>, at: Timestamp) {
        let mut users = self.users();
        let presence = users.all.entry(user).or_default();
        if let Some(from) = from {
            *presence.count(from) -= 1;
        }
        if let Some(to) = to {
            *presence.count(to) += 1;
        }
        if presence.online + presence.away == 0 {
            presence.left = Some((Instant::now(), at));
        } else {
            presence.left = None;
            presence.state = if presence.online > 0 { State::Online } else { State::Away };
        }
        users.changed.insert(user);
    }

    /// The next changes to write, for at most [`BATCH`] users.
    fn due(&self, now: Timestamp) -> Vec<Change> {
        let mut users = self.users();
        let Users { all, changed } = &mut *users;
        let mut due = Vec::new();
        changed.retain(|user| {
            let Some(presence) = all.get_mut(user) else { return false };
            let wanted = presence.wanted();
            if wanted != presence.written || presence.is_unconfirmed {
                if due.len() < BATCH {
                    presence.is_unconfirmed = true;
                    let at = presence.left.filter(|_| wanted.is_none()).map_or(now, |(_, at)| at);
                    due.push(Change { user: *user, state: wanted, at });
                }
                return true;
            }
            if wanted.is_none() {
                all.remove(user);
            }
            // A user who left a moment ago is checked again, until the grace period is over.
            wanted.is_some() && has_left(all, *user)
        });
        due
    }

    /// Records that the database has these changes.
    fn mark_written(&self, changes: &[Change]) {
        let mut users = self.users();
        for change in changes {
            if let Some(presence) = users.all.get_mut(&change.user) {
                (presence.written, presence.is_unconfirmed) = (change.state, false);
            }
        }
    }

    /// Records that the database has no presence of any user under the name of this server.
    fn forget_written(&self) {
        let mut users = self.users();
        let Users { all, changed } = &mut *users;
        for (user, presence) in all {
            (presence.written, presence.is_unconfirmed) = (None, false);
            changed.insert(*user);
        }
    }

    fn is_empty(&self) -> bool {
        self.users().all.is_empty()
    }
}

fn has_left(all: &HashMap<UserId, UserPresence>, user: UserId) -> bool {
    all.get(&user).is_some_and(|presence| presence.left.is_some())
}

/// Counts one stream of a user until it is dropped.
pub struct PresenceGuard {
    live: Arc<Live>,
    user: UserId,
    state: State,
}

impl PresenceGuard {
    /// Sets the state of the stream: whether the user is at the device.
    pub fn say(&mut self, state: State) {
        self.live.presence.change(self.user, Some(self.state), Some(state), self.live.app.clock.now());
        self.state = state;
    }
}

impl Drop for PresenceGuard {
    fn drop(&mut self) {
        self.live.presence.change(self.user, Some(self.state), None, self.live.app.clock.now());
    }
}

/// The row of this server in the database. The presence that this server writes is valid only while the server renews this row.
struct ServerRow {
    name: String,
    /// Whether the row is written.
    is_written: bool,
}

impl ServerRow {
    fn new(live: &Live) -> Result<Self> {
        Ok(Self { name: hex(&live.app.rng.bytes::<8>().map_err(Error::internal)?), is_written: false })
    }

    /// Takes a new name, under which nothing is written yet.
    fn renew(&mut self, live: &Live) -> Result<()> {
        *self = Self::new(live)?;
        live.presence.forget_written();
        Ok(())
    }

    /// Writes the changes that are due.
    async fn flush(&mut self, live: &Live, publish: &mpsc::Sender<Vec<Changed>>) -> Result<()> {
        while !live.is_stopping() {
            let changes = live.presence.due(live.app.clock.now());
            if changes.is_empty() {
                return Ok(());
            }
            let batch = Batch { server: self.name.clone(), first: !self.is_written, changes: changes.clone() };
            match presence::write(&live.app, batch).await {
                Ok(Some(changed)) => {
                    tasks::panic_point(PanicPoint::PresenceWritten);
                    self.is_written = true;
                    live.presence.mark_written(&changes);
                    queue_for_publishing(publish, changed);
                    // Changes that came meanwhile wait for the next interval. Otherwise there would be many small batches.
                    if changes.len() < BATCH {
                        return Ok(());
                    }
                }
                Ok(None) => self.renew(live)?,
                Err(error) => {
                    // The write may have succeeded despite the error. Other servers then remove the presence under the old name,
                    // because nobody renews the row of that name.
                    self.renew(live)?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Renews the row. Takes a new name if another server has found the row out of date and declared this server stopped.
    async fn refresh(&mut self, live: &Live) -> Result<()> {
        if self.is_written && !live.presence.is_empty() && !presence::refresh(&live.app, &self.name).await? {
            self.renew(live)?;
        }
        Ok(())
    }

    /// Removes the presence on servers that no longer renew their rows.
    async fn sweep(&self, live: &Live, publish: &mpsc::Sender<Vec<Changed>>) -> Result<()> {
        while !live.is_stopping() {
            match presence::sweep(&live.app, &self.name).await? {
                Some(changed) => queue_for_publishing(publish, changed),
                None => return Ok(()),
            }
        }
        Ok(())
    }
}

fn queue_for_publishing(publish: &mpsc::Sender<Vec<Changed>>, changed: Vec<Changed>) {
    if !changed.is_empty() && publish.try_send(changed).is_err() {
        tracing::debug!("too many changes of presence wait; some are written but not published");
    }
}

impl Live {
    /// Counts a new stream of the viewer until the returned value is dropped. Returns `None` for a viewer that is not a user.
    pub fn arrive(self: &Arc<Self>, viewer: Viewer) -> Option<PresenceGuard> {
        let user = viewer.person()?;
        self.presence.change(user, None, Some(State::Online), self.app.clock.now());
        Some(PresenceGuard { live: Arc::clone(self), user, state: State::Online })
    }

    /// Writes and publishes changes of presence until the server stops.
    pub async fn run_presence(self: Arc<Self>) {
        let (publish, changes) = mpsc::channel(PUBLISH_QUEUE_LIMIT);
        tokio::select! {
            outcome = self.write_presence(publish) => if let Err(error) = outcome {
                tracing::error!(%error, "presence is not written");
            },
            () = self.publish_presence(changes) => {}
        }
    }

    async fn write_presence(&self, publish: mpsc::Sender<Vec<Changed>>) -> Result<()> {
        let mut server = self.presence.server.lock().await;
        let server = match &mut *server {
            Some(server) => server,
            none => none.insert(ServerRow::new(self)?),
        };
        let stopped = self.stopped();
        tokio::pin!(stopped);
        let (mut refreshed, mut swept) = (Instant::now(), Instant::now());
        let mut last = self.app.clock.now();
        let mut pause = FLUSH_INTERVAL;
        loop {
            tokio::select! {
                biased;
                () = &mut stopped => break,
                () = tokio::time::sleep(pause) => {}
            }
            let now = self.app.clock.now();
            // A row with a time in the future does not count. After the clock was set back, this server's row has one, so it is
            // renewed immediately.
            let set_back = now.micros() < last.micros() - MAX_CLOCK_SKEW_MICROS;
            last = now;
            let work = async {
                if set_back || refreshed.elapsed() >= REFRESH_INTERVAL {
                    server.refresh(self).await?;
                    refreshed = Instant::now();
                }
                server.flush(self, &publish).await?;
                if swept.elapsed() >= SWEEP_INTERVAL {
                    server.sweep(self, &publish).await?;
                    swept = Instant::now();
                }
                Ok::<(), Error>(())
            };
            pause = match work.await {
                Ok(()) => FLUSH_INTERVAL,
                Err(error) => {
                    tracing::warn!(%error, "presence could not be written; trying again");
                    RETRY_PAUSE
                }
            };
        }
        if server.is_written { presence::stop(&self.app, &server.name).await } else { Ok(()) }
    }

    async fn publish_presence(&self, mut changes: mpsc::Receiver<Vec<Changed>>) {
        while let Some(changed) = changes.recv().await {
            for some in changed.chunks(AUDIENCES_BATCH) {
                let users = some.iter().map(|one| one.user).collect();
                match presence::audiences(&self.app, users).await {
                    Ok(audiences) => {
                        let audiences: HashMap<UserId, Vec<i64>> = audiences.into_iter().collect();
                        let events = some.iter().filter_map(|one| self.presence_event(one, &audiences)).collect();
                        self.publish_all(events).await;
                    }
                    Err(error) => tracing::debug!(%error, "changes of presence are not published"),
                }
            }
        }
    }

    fn presence_event(&self, changed: &Changed, audiences: &HashMap<UserId, Vec<i64>>) -> Option<EphemeralDelivery> {
        let to = audiences.get(&changed.user).filter(|to| !to.is_empty())?.clone();
        let event = EphemeralEvent {
            at: changed.at,
            conversation_id: None,
            actor_user_name: &changed.user_name,
            data: EphemeralData::Presence { state: changed.state, last_seen_at: changed.last_seen_at },
        };
        match (self.app.renderer.ephemeral_event)(&event) {
            Ok(event) => Some(EphemeralDelivery { to, event }),
            Err(error) => {
                tracing::warn!(%error, "a change of presence cannot be rendered");
                None
            }
        }
    }

    /// Delivers events to the readers on this server first, and then queues them for the bus. While the queue of the bus is more
    /// than half full, this waits: if thousands of users come online together, their events must not push other events out of
    /// the queue. It waits for [`BUS_WAIT_LIMIT`] at most, so that a slow bus does not hold up the next batch.
    async fn publish_all(&self, events: Vec<EphemeralDelivery>) {
        for event in &events {
            self.deliver_ephemeral(event);
        }
        let since = Instant::now();
        for event in events {
            while self.ephemeral.len() > EPHEMERAL_QUEUE_LIMIT / 2 && since.elapsed() < BUS_WAIT_LIMIT {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // Without a bus the channel has no receiver. That is not an error.
            let _ = self.ephemeral.send(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_departure_is_written_even_if_the_result_of_the_last_write_is_unknown() {
        let (presence, user, now) = (Presence::default(), UserId(1), Timestamp::from_micros(0));
        presence.change(user, None, Some(State::Online), now);
        let states = || presence.due(now).iter().map(|change| change.state).collect::<Vec<_>>();
        assert_eq!(states(), [Some(State::Online)]);
        // The task that wrote it has failed. The user leaves before the restarted task writes.
        presence.change(user, Some(State::Online), None, now);
        presence.users().all.get_mut(&user).unwrap().left = Some((Instant::now() - GRACE_PERIOD, now));
        assert_eq!(states(), [None]);
        presence.mark_written(&[Change { user, state: None, at: now }]);
        assert_eq!(states(), []);
        assert!(presence.is_empty());
    }
}
