//! Readers and what may befall them, simulated: the tailers, queues and subscriptions of two servers on one SQLite file, and
//! one thread that takes from a seed what happens next. Nothing is woken: that somebody looks is one of the things that may
//! happen, too early, too late or twice, and what was begun stands still between two answers of the database while something
//! else happens.
//!
//! Invariants, of every reader: nothing missed, nothing twice, all in order; nothing that they could not see at any moment
//! since it was logged, they came, and their server has handed out what it has.
//!
//! `POSTHASTE_SEED=7` runs one seed alone, `POSTHASTE_SOAK=1` thousands that nobody has chosen.

mod model;
mod running;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Instant;

use super::Tail;
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
const SEEDS_OF_A_SOAK: u64 = 3_000;
/// What happens under one seed.
const STEPS: usize = 200;
/// 2026-01-01.
const NOW_US: i64 = 1_767_225_600_000_000;

const PEOPLE: [UserId; 4] = [UserId(1), UserId(2), UserId(3), UserId(4)];
/// Of the demo's data.
const CONVERSATIONS: [ConversationId; 2] = [ConversationId(1), ConversationId(2)];

/// Renders an event as the cursor behind it.
const RENDERER: Renderer = Renderer {
    message: |_, _| Ok(Vec::new()),
    event: |_, cursor| Ok(cursor.as_bytes().to_vec()),
    ephemeral_event: |_| Ok(String::new()),
};

#[test]
fn whatever_happens_readers_get_everything_once() {
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
            first..first + SEEDS_OF_A_SOAK
        }
        None => 0..SEEDS,
    };
    let (started, mut counts) = (Instant::now(), Counts::default());
    for seed in seeds.clone() {
        let simulated = catch_unwind(AssertUnwindSafe(|| World::new(&apps, seed).run(&mut counts)));
        if let Err(panic) = simulated {
            eprintln!("this was POSTHASTE_SEED={seed}");
            resume_unwind(panic);
        }
    }
    println!("{} seeds in {:?}: {counts:?}", seeds.end - seeds.start, started.elapsed());
    if seeds.end - seeds.start > 1 {
        // What never happened was not simulated.
        let Counts { told, returns, too_slow, resets, rolled_back } = counts;
        for count in [told, returns, too_slow, resets, rolled_back] {
            assert!(count > 0, "{counts:?}");
        }
    }
    for app in &apps {
        runtime.block_on(app.db.close());
    }
}

/// In memory where there is such a place: what is simulated are not disks.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    told: usize,
    returns: usize,
    too_slow: usize,
    resets: usize,
    rolled_back: usize,
}

enum State {
    Away,
    Opening(Running<Result<Subscription>>),
    Here(Subscription),
    Reading(Running<(Subscription, Result<Option<Next>>)>),
}

struct Reader {
    who: Viewer,
    server: usize,
    state: State,
    cursor: Option<String>,
    /// The end of the log when it came.
    came: i64,
    /// Everything behind is to be told.
    start: i64,
    /// What was told last.
    last: i64,
    told: BTreeSet<i64>,
}

enum Tailer {
    Idle(Tail),
    Passing(Running<(Tail, Result<bool>)>),
}

struct Server {
    live: Arc<Live>,
    tailer: Option<Tailer>,
    /// Up to where it had certainly handed everything out.
    handed_out: Option<i64>,
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
            tailer: Some(Tailer::Idle(Tail::default())),
            handed_out: None,
        });
        let readers = PEOPLE.map(Viewer::Person).into_iter().chain([Viewer::Everything]).map(|who| Reader {
            who,
            server: 0,
            state: State::Away,
            cursor: None,
            came: 0,
            start: 0,
            last: 0,
            told: BTreeSet::new(),
        });
        let readers = readers.collect();
        // Streams of seeds that follow each other would overlap.
        let rng = Rng::Seeded(seed.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(1).into());
        let mut world = Self { apps, rng, servers, readers, model: Model::default() };
        world.begin();
        world
    }

    /// As under every seed: everybody is in everything, and nothing is left of what was before.
    fn begin(&mut self) {
        let app = Arc::clone(&self.apps[0]);
        let outcome = Running::new(async move {
            app.db
                .write((), |conn, ()| {
                    Box::pin(async move {
                        let at = Timestamp::from_micros(NOW_US);
                        for conversation in CONVERSATIONS {
                            for user in PEOPLE {
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
            for user in PEOPLE {
                self.model.turns.insert((conversation, user), vec![base]);
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
                // Rarely, for it takes its time: more than a read of the log, or a queue, takes.
                82..83 if self.below(4) == 0 => {
                    let conversation = self.one_of(&CONVERSATIONS);
                    let changes = vec![Change::Message(conversation); 900 + self.below(1_500) as usize];
                    self.commit(changes, counts);
                }
                82..88 => self.go_away(reader),
                88..90 => self.trim(),
                90..92 => self.settle(reader, counts),
                92..96 => self.pass_on(server),
                _ => {
                    for _ in 0..self.below(50) {
                        self.read(reader, counts);
                    }
                }
            }
        }
        for reader in 0..self.readers.len() {
            self.settle(reader, counts);
        }
    }

    fn change(&self) -> Change {
        let (conversation, user) = (self.one_of(&CONVERSATIONS), self.one_of(&PEOPLE));
        match self.below(10) {
            0..5 => Change::Message(conversation),
            5 => Change::Conversation(conversation),
            6 => Change::Person(user),
            _ if self.model.is_member(conversation, user, self.model.last()) => Change::Remove(conversation, user),
            _ => Change::Add(conversation, user),
        }
    }

    /// A transaction that takes its positions last, as all do, and may be rolled back even then.
    fn commit(&mut self, mut changes: Vec<Change>, counts: &mut Counts) {
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

    /// Forgets some of the oldest events; none that a tailer has still to hand out, which would be a month late.
    fn trim(&mut self) {
        let end = self.servers.iter().filter_map(|server| server.handed_out).fold(self.model.last(), i64::min);
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

    /// A tailer goes on to where it asks the database; `Some` at the end of a pass: whether there is more.
    fn pass(&mut self, server: usize) -> Option<bool> {
        let server = &mut self.servers[server];
        let mut passing = match server.tailer.take().unwrap() {
            Tailer::Passing(passing) => passing,
            Tailer::Idle(mut tail) => {
                // One that begins does so at the end of the log.
                server.handed_out = tail.position.or(Some(self.model.last()));
                let live = Arc::clone(&server.live);
                Running::new(async move {
                    let more = tail.pass(&live).await;
                    (tail, more)
                })
            }
        };
        match passing.poll() {
            Some((tail, more)) => {
                server.handed_out = tail.position;
                server.tailer = Some(Tailer::Idle(tail));
                Some(more.unwrap())
            }
            None => {
                passing.wait();
                server.tailer = Some(Tailer::Passing(passing));
                None
            }
        }
    }

    fn pass_on(&mut self, server: usize) {
        // What is under way may have read the log before its end.
        if let Some(Tailer::Passing(_)) = self.servers[server].tailer {
            while self.pass(server).is_none() {}
        }
        while self.pass(server) != Some(false) {}
    }

    fn go_away(&mut self, reader: usize) {
        let server = self.below(2) as usize;
        let reader = &mut self.readers[reader];
        reader.state = State::Away;
        reader.server = server;
    }

    /// A reader goes on to where it asks the database or waits for the tailer; whether it is at the end of what there is.
    fn read(&mut self, reader: usize, counts: &mut Counts) -> bool {
        let keeps_cursor = self.below(2) == 0;
        let reader = &mut self.readers[reader];
        let Server { live, handed_out, .. } = &self.servers[reader.server];
        let (live, handed_out) = (Arc::clone(live), *handed_out);
        match std::mem::replace(&mut reader.state, State::Away) {
            State::Away => {
                let (who, cursor) = (reader.who, reader.cursor.clone());
                reader.came = self.model.last();
                reader.state =
                    State::Opening(Running::new(
                        async move { Subscription::open_for(&live, who, cursor.as_deref()).await },
                    ));
            }
            State::Opening(mut opening) => match opening.poll() {
                Some(Ok(subscription)) => {
                    let position = Cursor::read(&subscription.cursor()).unwrap().position;
                    if reader.cursor.is_some() {
                        counts.returns += 1;
                        assert!(position >= reader.last, "it begins before its cursor");
                    } else {
                        assert!((reader.came..=self.model.last()).contains(&position), "it begins elsewhere");
                        (reader.start, reader.last) = (position, position);
                        reader.told.clear();
                        reader.cursor = Some(subscription.cursor());
                    }
                    reader.state = State::Here(subscription);
                }
                Some(Err(Error::Gone { .. })) => {
                    let position = Cursor::read(reader.cursor.as_deref().unwrap()).unwrap().position;
                    assert!(position < self.model.trimmed, "nothing behind its cursor is forgotten");
                    counts.resets += 1;
                    reader.cursor = None;
                }
                Some(Err(error)) => panic!("{error}"),
                None => {
                    wait_for_database(&live, reader.who, &opening);
                    reader.state = State::Opening(opening);
                }
            },
            State::Here(mut subscription) => {
                reader.state = State::Reading(Running::new(async move {
                    let next = subscription.try_next().await;
                    (subscription, next)
                }));
            }
            State::Reading(mut reading) => match reading.poll() {
                Some((subscription, next)) => {
                    let since = reader.came.max(handed_out.unwrap_or_default());
                    return hear(reader, &self.model, since, subscription, next.unwrap(), keeps_cursor, counts);
                }
                None => {
                    wait_for_database(&live, reader.who, &reading);
                    reader.state = State::Reading(reading);
                }
            },
        }
        false
    }

    /// Lets a reader come to the end of the log: it was told everything then.
    fn settle(&mut self, reader: usize, counts: &mut Counts) {
        // Twice: the first answer may be one to what was asked before.
        let mut ends = 0;
        while ends < 2 {
            self.pass_on(self.readers[reader].server);
            ends += usize::from(self.read(reader, counts));
        }
        let (reader, model) = (&mut self.readers[reader], &self.model);
        for position in reader.start + 1..=model.last() {
            if model.must_be_told(reader.who, position) {
                assert!(reader.told.contains(&position), "{:?} missed {position}", reader.who);
            }
        }
        reader.start = model.last();
        reader.told.clear();
    }
}

/// Waits unless what is under way waits for the tailer: nobody is among its readers then.
fn wait_for_database<T>(live: &Live, who: Viewer, running: &Running<T>) {
    let waits_for_tailer = live.readers().list(who).is_empty();
    if !waits_for_tailer {
        running.wait();
    }
}

fn hear(
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
            assert!(position > reader.last, "{:?} is told of {position} behind {}", reader.who, reader.last);
            assert!(position <= model.last(), "{position} was never committed");
            assert!(
                model.may_be_told(reader.who, position, since),
                "{:?} must not see {position}: {:?}",
                reader.who,
                model.at(position)
            );
            assert_eq!(frame.json(), subscription.cursor());
            counts.told += 1;
            reader.last = position;
            reader.told.insert(position);
            reader.cursor = Some(subscription.cursor());
            reader.state = State::Here(subscription);
        }
        None => {
            // It may be further than the event that came last.
            if !keeps_cursor {
                reader.cursor = Some(subscription.cursor());
            }
            reader.state = State::Here(subscription);
        }
        Some(Next::Reset) => {
            let position = Cursor::read(&subscription.cursor()).unwrap().position;
            assert!(position < model.trimmed, "nothing behind {position} is forgotten");
            counts.resets += 1;
            reader.cursor = None;
        }
        Some(Next::TooSlow) => {
            assert!(model.last() - reader.last > LIMIT as i64, "it was not too slow");
            counts.too_slow += 1;
            reader.cursor = Some(subscription.cursor());
        }
    }
    at_end
}
