//! A simulation of live events: the tailers, queues and subscriptions of two servers on one SQLite file. One thread chooses the
//! next step from a seed. There are no wake-ups. A tailer or a reader runs only when its step is chosen, which may be too early,
//! too late or twice in a row. A step runs until it needs an answer of the database; then other steps may come before it continues.
//!
//! Invariants, for every reader: it misses no event, gets none twice, and gets all in order. It gets an event only if it was
//! allowed to see the event at the latest of three moments or at some time after that. The moments are: the event was logged; the
//! reader opened its subscription; the log ended at the position up to which the server of the reader has delivered.
//!
//! `POSTHASTE_SEED=7` runs one seed. `POSTHASTE_SOAK=1` runs thousands of random seeds.

mod model;
mod running;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Instant;

use super::TailerState;
use crate::app::{App, Settings};
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, Rng, UserId};
use crate::base::time::{Clock, Timestamp};
use crate::domain::access::viewer::Viewer;
use crate::domain::events::events::Cursor;
use crate::domain::operations::demo;
use crate::domain::shared::rendering::Renderer;
use crate::live::queue::LIMIT;
use crate::live::{Live, Next, Subscription};
use crate::store;
use crate::store::driver::environment::Location;
use crate::store::events::events::NewEvent;
use model::{Change, Model};
use running::Running;

const SEEDS: u64 = 200;
const SOAK_SEEDS: u64 = 3_000;
/// The number of steps for one seed.
const STEPS: usize = 200;
/// 2026-01-01.
const NOW_US: i64 = 1_767_225_600_000_000;

const USERS: [UserId; 4] = [UserId(1), UserId(2), UserId(3), UserId(4)];
/// Conversations of the demo data.
const CONVERSATIONS: [ConversationId; 2] = [ConversationId(1), ConversationId(2)];

/// Renders an event as the cursor after it.
const RENDERER: Renderer = Renderer {
    message: |_, _| Ok(Vec::new()),
    event: |_, cursor| Ok(cursor.as_bytes().to_vec()),
    ephemeral_event: |_| Ok(String::new()),
};

#[test]
fn every_reader_gets_each_event_once_and_in_order() {
    let folder = folder();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _entered = runtime.enter();
    let apps: [Arc<App>; 2] = std::array::from_fn(|_| {
        let location = Location::Sqlite(folder.path().join("posthaste.db"));
        let clock = Clock::Manual(Arc::new(AtomicI64::new(NOW_US)));
        let opening = App::open(&location, Settings::default(), clock, Rng::Seeded(1.into()), RENDERER);
        Arc::new(runtime.block_on(opening).unwrap().0)
    });
    assert!(runtime.block_on(demo::fill(&apps[0])).unwrap());
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    let seeds = match number("POSTHASTE_SEED") {
        Some(seed) => seed..seed + 1,
        None if number("POSTHASTE_SOAK").is_some() => {
            let first = u64::from(u32::from_le_bytes(Rng::System.bytes().unwrap()));
            first..first + SOAK_SEEDS
        }
        None => 0..SEEDS,
    };
    let (started, mut counts) = (Instant::now(), Counts::default());
    for seed in seeds.clone() {
        let simulated = catch_unwind(AssertUnwindSafe(|| World::new(&apps, seed).run(&mut counts)));
        if let Err(panic) = simulated {
            eprintln!("to run this again: POSTHASTE_SEED={seed}");
            resume_unwind(panic);
        }
    }
    println!("{} seeds in {:?}: {counts:?}", seeds.end - seeds.start, started.elapsed());
    if seeds.end - seeds.start > 1 {
        // Each of these must have happened at least once, or the simulation does not cover it.
        let Counts { delivered, returns, too_slow, resets, rolled_back } = counts;
        for count in [delivered, returns, too_slow, resets, rolled_back] {
            assert!(count > 0, "{counts:?}");
        }
    }
    for app in &apps {
        runtime.block_on(app.db.close());
    }
}

/// A folder in memory where possible, because the simulation does not test disks.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    delivered: usize,
    returns: usize,
    too_slow: usize,
    resets: usize,
    rolled_back: usize,
}

enum ReaderState {
    Closed,
    Opening(Running<Result<Subscription>>),
    Open(Subscription),
    Reading(Running<(Subscription, Result<Option<Next>>)>),
}

struct Reader {
    viewer: Viewer,
    server: usize,
    state: ReaderState,
    cursor: Option<String>,
    /// The end of the log when the reader opened its subscription.
    opened_at: i64,
    /// The reader must get all visible events after this position.
    start: i64,
    /// The position of the last event that the reader got.
    last: i64,
    delivered: BTreeSet<i64>,
}

enum Tailer {
    Idle(TailerState),
    Passing(Running<(TailerState, Result<bool>)>),
}

struct Server {
    live: Arc<Live>,
    tailer: Option<Tailer>,
    /// The position up to which the tailer has certainly put every event into the queues.
    delivered_to: Option<i64>,
}

struct World<'a> {
    apps: &'a [Arc<App>; 2],
    rng: Rng,
    servers: [Server; 2],
    readers: Vec<Reader>,
    model: Model,
}

impl<'a> World<'a> {
    fn new(apps: &'a [Arc<App>; 2], seed: u64) -> Self {
        let servers = std::array::from_fn(|index| Server {
            live: Live::new(Arc::clone(&apps[index])),
            tailer: Some(Tailer::Idle(TailerState::default())),
            delivered_to: None,
        });
        let readers = USERS.map(Viewer::Person).into_iter().chain([Viewer::Everything]).map(|viewer| Reader {
            viewer,
            server: 0,
            state: ReaderState::Closed,
            cursor: None,
            opened_at: 0,
            start: 0,
            last: 0,
            delivered: BTreeSet::new(),
        });
        let readers = readers.collect();
        // Without the multiplication, the random numbers of consecutive seeds would overlap.
        let rng = Rng::Seeded(seed.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(1).into());
        let mut world = Self { apps, rng, servers, readers, model: Model::default() };
        world.reset_data();
        world
    }

    /// Makes the data the same for each seed: every user is in every conversation, and the event log is empty.
    fn reset_data(&mut self) {
        let app = Arc::clone(&self.apps[0]);
        let outcome = Running::new(async move {
            app.db
                .write((), |conn, ()| {
                    Box::pin(async move {
                        let at = Timestamp::from_micros(NOW_US);
                        for conversation in CONVERSATIONS {
                            for user in USERS {
                                store::conversations::members::delete(conn, conversation, user, at).await?;
                                Change::Add(conversation, user).apply(conn, at).await?;
                            }
                        }
                        store::events::events::trim(conn, Timestamp::from_micros(i64::MAX), i64::from(i32::MAX))
                            .await?;
                        store::events::events::last_position(conn).await
                    })
                })
                .await
        });
        let base = outcome.finish().unwrap();
        self.model = Model { base, trimmed: base, ..Model::default() };
        for conversation in CONVERSATIONS {
            for user in USERS {
                self.model.membership_changes.insert((conversation, user), vec![base]);
            }
        }
    }

    fn below(&self, limit: u64) -> u64 {
        u64::from_le_bytes(self.rng.bytes().unwrap()) % limit
    }

    fn one_of<T: Copy>(&self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn run(mut self, counts: &mut Counts) {
        for _ in 0..STEPS {
            let server = self.below(2) as usize;
            let reader = self.below(self.readers.len() as u64) as usize;
            match self.below(100) {
                0..25 => drop(self.pass(server)),
                25..65 => drop(self.read(reader, counts)),
                65..82 => {
                    let changes: Vec<Change> = (0..=self.below(3)).map(|_| self.change()).collect();
                    self.commit(changes, counts);
                }
                // Usually more events than one read of the log, or a queue, can hold. Rarely, because this is slow.
                82..83 if self.below(4) == 0 => {
                    let conversation = self.one_of(&CONVERSATIONS);
                    let changes = vec![Change::Message(conversation); 900 + self.below(1_500) as usize];
                    self.commit(changes, counts);
                }
                82..88 => self.disconnect(reader),
                88..90 => self.trim(),
                90..92 => self.catch_up(reader, counts),
                92..96 => self.pass_to_end(server),
                _ => {
                    for _ in 0..self.below(50) {
                        self.read(reader, counts);
                    }
                }
            }
        }
        for reader in 0..self.readers.len() {
            self.catch_up(reader, counts);
        }
    }

    fn change(&self) -> Change {
        let (conversation, user) = (self.one_of(&CONVERSATIONS), self.one_of(&USERS));
        match self.below(10) {
            0..5 => Change::Message(conversation),
            5 => Change::Conversation(conversation),
            6 => Change::User(user),
            _ if self.model.is_member(conversation, user, self.model.last()) => Change::Remove(conversation, user),
            _ => Change::Add(conversation, user),
        }
    }

    /// Runs a transaction. Like every transaction, it takes its positions in the event log last. It may be rolled back after that.
    fn commit(&mut self, mut changes: Vec<Change>, counts: &mut Counts) {
        // Keeps at most one change of each membership.
        let mut moved = BTreeSet::new();
        changes.retain(|change| match change {
            Change::Add(conversation, user) | Change::Remove(conversation, user) => {
                moved.insert((*conversation, *user))
            }
            _ => true,
        });
        let rolls_back = self.below(5) == 0;
        let app = Arc::clone(&self.apps[self.below(2) as usize]);
        let input = (changes.clone(), rolls_back);
        let writing = Running::new(async move {
            app.db
                .write(input, |conn, (changes, rolls_back)| {
                    Box::pin(async move {
                        let at = Timestamp::from_micros(NOW_US);
                        for change in changes {
                            change.apply(conn, at).await?;
                        }
                        let events: Vec<NewEvent<'_>> = changes.iter().map(|change| change.event(at)).collect();
                        store::events::events::append(conn, &events).await?;
                        if *rolls_back { Err(Error::internal("rolled back")) } else { Ok(()) }
                    })
                })
                .await
        });
        let outcome = writing.finish();
        assert_eq!(outcome.is_err(), rolls_back, "{outcome:?}");
        if rolls_back {
            counts.rolled_back += 1;
        } else {
            self.model.commit(&changes);
        }
    }

    /// Deletes some of the oldest events. Keeps those that a tailer has not yet delivered: a real server keeps events for a month,
    /// and no tailer is that late.
    fn trim(&mut self) {
        let end = self.servers.iter().filter_map(|server| server.delivered_to).fold(self.model.last(), i64::min);
        let room = end - self.model.trimmed;
        if room <= 0 {
            return;
        }
        let count = 1 + self.below(room as u64) as i64;
        let app = Arc::clone(&self.apps[0]);
        let trimming = Running::new(async move {
            app.db
                .write(count, |conn, count| {
                    Box::pin(store::events::events::trim(conn, Timestamp::from_micros(i64::MAX), *count))
                })
                .await
        });
        assert_eq!(trimming.finish().unwrap(), count as u64);
        self.model.trimmed += count;
    }

    /// Runs a tailer until it waits for the database. At the end of a pass, returns whether there are more events.
    fn pass(&mut self, server: usize) -> Option<bool> {
        let server = &mut self.servers[server];
        let mut passing = match server.tailer.take().unwrap() {
            Tailer::Passing(passing) => passing,
            Tailer::Idle(mut tailer) => {
                // A tailer without a position starts at the end of the log.
                server.delivered_to = tailer.position.or(Some(self.model.last()));
                let live = Arc::clone(&server.live);
                Running::new(async move {
                    let more = tailer.pass(&live).await;
                    (tailer, more)
                })
            }
        };
        match passing.poll() {
            Some((tailer, more)) => {
                server.delivered_to = tailer.position;
                server.tailer = Some(Tailer::Idle(tailer));
                Some(more.unwrap())
            }
            None => {
                passing.wait();
                server.tailer = Some(Tailer::Passing(passing));
                None
            }
        }
    }

    /// Runs passes until the tailer is at the end of the log.
    fn pass_to_end(&mut self, server: usize) {
        // A pass that is already running may have read the log before the latest commit.
        if let Some(Tailer::Passing(_)) = self.servers[server].tailer {
            while self.pass(server).is_none() {}
        }
        while self.pass(server) != Some(false) {}
    }

    /// Closes the subscription of a reader. The reader returns to a server that is chosen at random.
    fn disconnect(&mut self, reader: usize) {
        let server = self.below(2) as usize;
        let reader = &mut self.readers[reader];
        reader.state = ReaderState::Closed;
        reader.server = server;
    }

    /// Runs a reader until it waits for the database or the tailer. Returns whether the reader has found no further event.
    fn read(&mut self, reader: usize, counts: &mut Counts) -> bool {
        let keeps_cursor = self.below(2) == 0;
        let reader = &mut self.readers[reader];
        let Server { live, delivered_to, .. } = &self.servers[reader.server];
        let (live, delivered_to) = (Arc::clone(live), *delivered_to);
        match std::mem::replace(&mut reader.state, ReaderState::Closed) {
            ReaderState::Closed => {
                let (viewer, cursor) = (reader.viewer, reader.cursor.clone());
                reader.opened_at = self.model.last();
                reader.state = ReaderState::Opening(Running::new(async move {
                    Subscription::open_for(&live, viewer, cursor.as_deref()).await
                }));
            }
            ReaderState::Opening(mut opening) => match opening.poll() {
                Some(Ok(subscription)) => {
                    let position = Cursor::read(&subscription.cursor()).unwrap().position;
                    if reader.cursor.is_some() {
                        counts.returns += 1;
                        assert!(position >= reader.last, "the subscription starts before its cursor");
                    } else {
                        assert!(
                            (reader.opened_at..=self.model.last()).contains(&position),
                            "the subscription starts at a wrong position"
                        );
                        (reader.start, reader.last) = (position, position);
                        reader.delivered.clear();
                        reader.cursor = Some(subscription.cursor());
                    }
                    reader.state = ReaderState::Open(subscription);
                }
                Some(Err(Error::Gone { .. })) => {
                    let position = Cursor::read(reader.cursor.as_deref().unwrap()).unwrap().position;
                    assert!(position < self.model.trimmed, "no event after the cursor was deleted");
                    counts.resets += 1;
                    reader.cursor = None;
                }
                Some(Err(error)) => panic!("{error}"),
                None => {
                    wait_for_database(&live, reader.viewer, &opening);
                    reader.state = ReaderState::Opening(opening);
                }
            },
            ReaderState::Open(mut subscription) => {
                reader.state = ReaderState::Reading(Running::new(async move {
                    let next = subscription.try_next().await;
                    (subscription, next)
                }));
            }
            ReaderState::Reading(mut reading) => match reading.poll() {
                Some((subscription, next)) => {
                    let since = reader.opened_at.max(delivered_to.unwrap_or_default());
                    return check_next(reader, &self.model, since, subscription, next.unwrap(), keeps_cursor, counts);
                }
                None => {
                    wait_for_database(&live, reader.viewer, &reading);
                    reader.state = ReaderState::Reading(reading);
                }
            },
        }
        false
    }

    /// Lets a reader reach the end of the log, and checks that it has got every event that it must get.
    fn catch_up(&mut self, reader: usize, counts: &mut Counts) {
        // Twice, because the first answer may belong to a read that started before the last pass.
        let mut ends = 0;
        while ends < 2 {
            self.pass_to_end(self.readers[reader].server);
            ends += usize::from(self.read(reader, counts));
        }
        let (reader, model) = (&mut self.readers[reader], &self.model);
        for position in reader.start + 1..=model.last() {
            if model.must_be_delivered(reader.viewer, position) {
                assert!(reader.delivered.contains(&position), "{:?} missed {position}", reader.viewer);
            }
        }
        reader.start = model.last();
        reader.delivered.clear();
    }
}

/// Waits for the database, unless `running` waits for the tailer. In that case the viewer has no started queue.
fn wait_for_database<T>(live: &Live, viewer: Viewer, running: &Running<T>) {
    let waits_for_tailer = live.readers().list(viewer).is_empty();
    if !waits_for_tailer {
        running.wait();
    }
}

/// Checks what a subscription has returned. Returns whether there was no event.
fn check_next(
    reader: &mut Reader,
    model: &Model,
    since: i64,
    subscription: Subscription,
    next: Option<Next>,
    keeps_cursor: bool,
    counts: &mut Counts,
) -> bool {
    let at_end = next.is_none();
    match next {
        Some(Next::Event(frame)) => {
            let position = frame.position.unwrap();
            assert!(position > reader.last, "{:?} gets {position} after {}", reader.viewer, reader.last);
            assert!(position <= model.last(), "{position} was never committed");
            assert!(
                model.may_be_delivered(reader.viewer, position, since),
                "{:?} must not see {position}: {:?}",
                reader.viewer,
                model.at(position)
            );
            assert_eq!(frame.json(), subscription.cursor());
            counts.delivered += 1;
            reader.last = position;
            reader.delivered.insert(position);
            reader.cursor = Some(subscription.cursor());
            reader.state = ReaderState::Open(subscription);
        }
        None => {
            // The cursor may be after the last event that the reader got. A reader may store either.
            if !keeps_cursor {
                reader.cursor = Some(subscription.cursor());
            }
            reader.state = ReaderState::Open(subscription);
        }
        Some(Next::Reset) => {
            let position = Cursor::read(&subscription.cursor()).unwrap().position;
            assert!(position < model.trimmed, "no event after {position} was deleted");
            counts.resets += 1;
            reader.cursor = None;
        }
        Some(Next::TooSlow) => {
            assert!(model.last() - reader.last > LIMIT as i64, "the reader was not too slow");
            counts.too_slow += 1;
            reader.cursor = Some(subscription.cursor());
        }
    }
    at_end
}
