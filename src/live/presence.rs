//! Who is at this server: counted as streams begin and end, written down together, told to those who may see it.
//!
//! Invariants: nothing that serves a request waits for any of this; what could not be written is written later; where nobody
//! is and nobody was, nothing is written.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Live, WHISPERS_WAITING, Whisper};
use crate::base::error::{Error, Result};
use crate::base::ids::{UserId, hex};
use crate::base::tasks::{self, PanicPoint};
use crate::base::time::{MAX_CLOCK_SKEW_MICROS, Timestamp};
use crate::domain::access::viewer::Viewer;
use crate::domain::events::event_data::{EphemeralData, EphemeralEvent};
use crate::domain::people::presence::{self, BATCH, Batch, Change, Changed, State};

/// How often what changed is written down.
const FLUSH_INTERVAL: Duration = Duration::from_millis(300);
/// How often a server at which somebody is says that it is still there.
const REFRESH_INTERVAL: Duration = Duration::from_secs(30);
/// How often it is looked for servers that are not there any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);
/// How long somebody may be away without having gone.
const ABSENCE: Duration = Duration::from_secs(2);
/// How long to wait after the database did not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// Batches that wait to be told of; beyond it they are not told.
const BATCHES_WAITING: usize = 64;
/// People whose audiences are read at once.
const AUDIENCES_AT_ONCE: usize = 50;
/// How long what is told at once waits at most for what waits for the bus before it.
const PATIENCE: Duration = Duration::from_millis(500);

/// The people at this server.
#[derive(Default)]
pub struct Presence {
    people: Mutex<People>,
    /// `None` before the first run of the task, which locks it. A task that is started again keeps the name.
    server: tokio::sync::Mutex<Option<Server>>,
}

#[derive(Default)]
struct People {
    all: HashMap<UserId, Person>,
    /// Of whom there may be something to be written.
    changed: HashSet<UserId>,
}

struct Person {
    online: usize,
    away: usize,
    /// As what they are here, or were last.
    state: State,
    /// When the last of their streams ended.
    left: Option<(Instant, Timestamp)>,
    /// What is written down of them.
    written: Option<State>,
    /// A write has begun and no result of it is known: the database may or may not have it.
    is_unconfirmed: bool,
}

impl Default for Person {
    fn default() -> Self {
        Self { online: 0, away: 0, state: State::Online, left: None, written: None, is_unconfirmed: false }
    }
}

impl Person {
    fn count(&mut self, state: State) -> &mut usize {
        if state == State::Away { &mut self.away } else { &mut self.online }
    }

    /// As what they are to be written down: a short absence is none.
    fn wanted(&self) -> Option<State> {
        let here = self.left.is_none_or(|(left, _)| left.elapsed() < ABSENCE);
        here.then_some(self.state)
    }
}

impl Presence {
    fn people(&self) -> MutexGuard<'_, People> {
        self.people.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, user: UserId, from: Option<State>, to: Option<State>, at: Timestamp) {
        let mut people = self.people();
        let person = people.all.entry(user).or_default();
        if let Some(from) = from {
            *person.count(from) -= 1;
        }
        if let Some(to) = to {
            *person.count(to) += 1;
        }
        if person.online + person.away == 0 {
            person.left = Some((Instant::now(), at));
        } else {
            person.left = None;
            person.state = if person.online > 0 { State::Online } else { State::Away };
        }
        people.changed.insert(user);
    }

    /// What is to be written down next, at most [`BATCH`] people.
    fn due(&self, now: Timestamp) -> Vec<Change> {
        let mut people = self.people();
        let People { all, changed } = &mut *people;
        let mut due = Vec::new();
        changed.retain(|user| {
            let Some(person) = all.get_mut(user) else { return false };
            let wanted = person.wanted();
            if wanted != person.written || person.is_unconfirmed {
                if due.len() < BATCH {
                    person.is_unconfirmed = true;
                    let at = person.left.filter(|_| wanted.is_none()).map_or(now, |(_, at)| at);
                    due.push(Change { user: *user, state: wanted, at });
                }
                return true;
            }
            if wanted.is_none() {
                all.remove(user);
            }
            // Whoever left a moment ago is looked at again.
            wanted.is_some() && person_left(all, *user)
        });
        due
    }

    fn written(&self, changes: &[Change]) {
        let mut people = self.people();
        for change in changes {
            if let Some(person) = people.all.get_mut(&change.user) {
                (person.written, person.is_unconfirmed) = (change.state, false);
            }
        }
    }

    /// Nothing is written down any more of anybody.
    fn forget_written(&self) {
        let mut people = self.people();
        let People { all, changed } = &mut *people;
        for (user, person) in all {
            (person.written, person.is_unconfirmed) = (None, false);
            changed.insert(*user);
        }
    }

    fn is_empty(&self) -> bool {
        self.people().all.is_empty()
    }
}

fn person_left(all: &HashMap<UserId, Person>, user: UserId) -> bool {
    all.get(&user).is_some_and(|person| person.left.is_some())
}

/// Somebody is here through one stream, until this is dropped.
pub struct Here {
    live: Arc<Live>,
    user: UserId,
    state: State,
}

impl Here {
    /// Whether they are at the device.
    pub fn say(&mut self, state: State) {
        self.live.presence.change(self.user, Some(self.state), Some(state), self.live.app.clock.now());
        self.state = state;
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.live.presence.change(self.user, Some(self.state), None, self.live.app.clock.now());
    }
}

/// This server, as others know it.
struct Server {
    name: String,
    /// Whether it is written down.
    known: bool,
}

impl Server {
    fn new(live: &Live) -> Result<Self> {
        Ok(Self { name: hex(&live.app.rng.bytes::<8>().map_err(Error::internal)?), known: false })
    }

    /// Another one: nothing is written down under its name.
    fn renew(&mut self, live: &Live) -> Result<()> {
        *self = Self::new(live)?;
        live.presence.forget_written();
        Ok(())
    }

    async fn flush(&mut self, live: &Live, tell: &mpsc::Sender<Vec<Changed>>) -> Result<()> {
        while !live.is_stopping() {
            let changes = live.presence.due(live.app.clock.now());
            if changes.is_empty() {
                return Ok(());
            }
            let batch = Batch { server: self.name.clone(), first: !self.known, changes: changes.clone() };
            match presence::write(&live.app, batch).await {
                Ok(Some(changed)) => {
                    tasks::panic_point(PanicPoint::PresenceWritten);
                    self.known = true;
                    live.presence.written(&changes);
                    pass_on(tell, changed);
                    // Who came meanwhile waits for others: a batch each for a few would be many.
                    if changes.len() < BATCH {
                        return Ok(());
                    }
                }
                Ok(None) => self.renew(live)?,
                Err(error) => {
                    // It may be written down after all: then others give the name up in time, and what stands under it.
                    self.renew(live)?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn refresh(&mut self, live: &Live) -> Result<()> {
        if self.known && !live.presence.is_empty() && !presence::refresh(&live.app, &self.name).await? {
            self.renew(live)?;
        }
        Ok(())
    }

    async fn sweep(&self, live: &Live, tell: &mpsc::Sender<Vec<Changed>>) -> Result<()> {
        while !live.is_stopping() {
            match presence::sweep(&live.app, &self.name).await? {
                Some(changed) => pass_on(tell, changed),
                None => return Ok(()),
            }
        }
        Ok(())
    }
}

fn pass_on(tell: &mpsc::Sender<Vec<Changed>>, changed: Vec<Changed>) {
    if !changed.is_empty() && tell.try_send(changed).is_err() {
        tracing::debug!("more people come and go than can be told");
    }
}

impl Live {
    /// Counts somebody as here until what is returned is dropped; `None` for a viewer of everything.
    pub fn arrive(self: &Arc<Self>, viewer: Viewer) -> Option<Here> {
        let user = viewer.person()?;
        self.presence.change(user, None, Some(State::Online), self.app.clock.now());
        Some(Here { live: Arc::clone(self), user, state: State::Online })
    }

    /// Writes down who is here, and tells of it, until the server stops.
    pub async fn keep_presence(self: Arc<Self>) {
        let (tell, told) = mpsc::channel(BATCHES_WAITING);
        tokio::select! {
            outcome = self.write_presence(tell) => if let Err(error) = outcome {
                tracing::error!(%error, "who is here is not written down");
            },
            () = self.tell_presence(told) => {}
        }
    }

    async fn write_presence(&self, tell: mpsc::Sender<Vec<Changed>>) -> Result<()> {
        let mut server = self.presence.server.lock().await;
        let server = match &mut *server {
            Some(server) => server,
            none => none.insert(Server::new(self)?),
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
            // Rows of the future do not count: the one of this server must not stay one.
            let set_back = now.micros() < last.micros() - MAX_CLOCK_SKEW_MICROS;
            last = now;
            let work = async {
                if set_back || refreshed.elapsed() >= REFRESH_INTERVAL {
                    server.refresh(self).await?;
                    refreshed = Instant::now();
                }
                server.flush(self, &tell).await?;
                if swept.elapsed() >= SWEEP_INTERVAL {
                    server.sweep(self, &tell).await?;
                    swept = Instant::now();
                }
                Ok::<(), Error>(())
            };
            pause = match work.await {
                Ok(()) => FLUSH_INTERVAL,
                Err(error) => {
                    tracing::warn!(%error, "who is here could not be written down for now");
                    PAUSE
                }
            };
        }
        if server.known { presence::stop(&self.app, &server.name).await } else { Ok(()) }
    }

    async fn tell_presence(&self, mut told: mpsc::Receiver<Vec<Changed>>) {
        while let Some(changed) = told.recv().await {
            for some in changed.chunks(AUDIENCES_AT_ONCE) {
                let people = some.iter().map(|one| one.user).collect();
                match presence::audiences(&self.app, people).await {
                    Ok(audiences) => {
                        let audiences: HashMap<UserId, Vec<i64>> = audiences.into_iter().collect();
                        let whispers = some.iter().filter_map(|one| self.whisper_of(one, &audiences)).collect();
                        self.tell_all(whispers).await;
                    }
                    Err(error) => tracing::debug!(%error, "who came and went is not told"),
                }
            }
        }
    }

    fn whisper_of(&self, changed: &Changed, audiences: &HashMap<UserId, Vec<i64>>) -> Option<Whisper> {
        let to = audiences.get(&changed.user).filter(|to| !to.is_empty())?.clone();
        let event = EphemeralEvent {
            at: changed.at,
            conversation_id: None,
            actor_user_name: &changed.user_name,
            data: EphemeralData::Presence { state: changed.state, last_seen_at: changed.last_seen_at },
        };
        match (self.app.renderer.ephemeral_event)(&event) {
            Ok(event) => Some(Whisper { to, event }),
            Err(error) => {
                tracing::warn!(%error, "who came and went cannot be told");
                None
            }
        }
    }

    /// Tells here at once, and on other servers as the bus takes it: thousands who come at once must not push out what else
    /// waits for it, and a bus that is slow must not make anybody here wait.
    async fn tell_all(&self, whispers: Vec<Whisper>) {
        for whisper in &whispers {
            self.hear(whisper);
        }
        let since = Instant::now();
        for whisper in whispers {
            while self.whispers.len() > WHISPERS_WAITING / 2 && since.elapsed() < PATIENCE {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // Nobody listens where there is one server.
            let _ = self.whispers.send(whisper);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_departure_is_written_after_a_write_without_a_result() {
        let (presence, user, now) = (Presence::default(), UserId(1), Timestamp::from_micros(0));
        presence.change(user, None, Some(State::Online), now);
        let states = || presence.due(now).iter().map(|change| change.state).collect::<Vec<_>>();
        assert_eq!(states(), [Some(State::Online)]);
        // The task that wrote it has failed. The person leaves before another one writes.
        presence.change(user, Some(State::Online), None, now);
        presence.people().all.get_mut(&user).unwrap().left = Some((Instant::now() - ABSENCE, now));
        assert_eq!(states(), [None]);
        presence.written(&[Change { user, state: None, at: now }]);
        assert_eq!(states(), []);
        assert!(presence.is_empty());
    }
}
