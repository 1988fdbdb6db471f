//! After any sequence of sends, receipts, edits and deletions, the counts and times agree with those of a model. The model is
//! so simple that a reader can see that it is right: it stores for each message and user when the message reached the user.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use posthaste::base::time::{Clock, Timestamp};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};

use super::{as_person, group, say};
use crate::support::place::Kind;
use crate::support::{Options, Place, Server};

const CASES: u32 = 16;
const CALLS: usize = 80;
const PEOPLE: usize = 3;
/// Number of calls between two comparisons of the whole state with the model.
const CALLS_PER_LOOK: usize = 8;
const START: &str = "2026-11-22T08:30:00Z";
/// The members of each conversation: a direct one, notes to oneself, a group.
const CONVERSATIONS: [&[usize]; 3] = [&[0, 1], &[0], &[0, 1, 2]];
/// Bodies, each with the users that it mentions. In a body, `@0`, `@1` and `@2` stand for `@` and the name of the user with
/// this number.
const BODIES: &[(&str, &[usize])] = &[
    ("hey", &[]),
    ("@0 and @1.", &[0, 1]),
    ("@2, @1 and @1", &[2, 1]),
    ("`@0` @2", &[2]),
    ("x@0 or é@1", &[]),
    ("```\n@0\n```\n(@1)", &[1]),
    ("@nobody @", &[]),
];

#[derive(Clone, Debug)]
enum Call {
    Send {
        place: usize,
        sender: usize,
        body: usize,
    },
    Report {
        place: usize,
        person: usize,
        delivered: Option<i64>,
        read: Option<i64>,
        marker: Option<Option<i64>>,
    },
    Edit {
        place: usize,
        seq: i64,
        body: usize,
    },
    Delete {
        place: usize,
        seq: i64,
    },
    /// A user hides a direct conversation.
    Hide {
        place: usize,
        person: usize,
    },
    /// The owner of the group gives it another title, or deletes a system message.
    Rename,
    DeleteSystem(i64),
    /// The owner of the group adds this user. The owner never leaves.
    Join(usize),
    Leave(usize),
    MoveClock(i64),
}

fn call() -> impl Strategy<Value = Call> {
    let seq = || 1..14_i64;
    let send =
        (0..3_usize, 0..PEOPLE, 0..BODIES.len()).prop_map(|(place, sender, body)| Call::Send { place, sender, body });
    let marker = option::weighted(0.2, option::weighted(0.7, seq()));
    let report = (0..3_usize, 0..PEOPLE, option::weighted(0.4, seq()), option::weighted(0.7, seq()), marker)
        .prop_map(|(place, person, delivered, read, marker)| Call::Report { place, person, delivered, read, marker });
    let edit = (0..3_usize, seq(), 0..BODIES.len()).prop_map(|(place, seq, body)| Call::Edit { place, seq, body });
    let delete = (0..3_usize, seq()).prop_map(|(place, seq)| Call::Delete { place, seq });
    let clock = prop_oneof![4 => 1..1_000_000_i64, 1 => Just(-60_000_000_i64)];
    let (join, leave) = ((1..PEOPLE).prop_map(Call::Join), (1..PEOPLE).prop_map(Call::Leave));
    let hide = (0..2_usize, 0..PEOPLE).prop_map(|(place, person)| Call::Hide { place, person });
    let (rename, delete_system) = (Just(Call::Rename), seq().prop_map(Call::DeleteSystem));
    prop_oneof![12 => send, 12 => report, 4 => edit, 2 => delete, 6 => clock.prop_map(Call::MoveClock), 2 => join, 1 => leave,
                2 => hide, 2 => rename, 1 => delete_system]
}

#[test]
fn counts_and_times_are_those_of_the_model() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let start = Timestamp::parse(START).unwrap().micros();
    let micros = Arc::new(AtomicI64::new(start));
    let (places, servers) = runtime.block_on(async {
        let places = [Place::new(Kind::Sqlite).await, Place::new(Kind::Postgres).await];
        let options = Options { demo: false, clock: Clock::Manual(Arc::clone(&micros)), ..Options::default() };
        let servers =
            [Server::start_with(&places[0], options.clone()).await, Server::start_with(&places[1], options).await];
        (places, servers)
    });
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 100, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let runs = AtomicU32::new(0);
    let outcome = runner.run(&vec(call(), 1..=CALLS), |calls| {
        let run = runs.fetch_add(1, Ordering::Relaxed);
        for server in &servers {
            micros.store(start, Ordering::Relaxed);
            runtime.block_on(check(server, &micros, run, &calls));
        }
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, calls)) => {
            let calls: Vec<String> = calls.iter().map(|call| format!("{call:?}")).collect();
            panic!("{reason}\nafter:\n{}", calls.join("\n"));
        }
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
    runtime.block_on(async {
        for server in servers {
            server.stop().await;
        }
        for place in places {
            place.remove().await;
        }
    });
}

struct Model {
    names: Vec<String>,
    places: [Conversation; 3],
}

#[derive(Default)]
struct Conversation {
    /// 0 until the first message has created the conversation.
    id: i64,
    messages: Vec<Message>,
    members: [Member; PEOPLE],
}

#[derive(Clone, Default)]
struct Member {
    gone: bool,
    joined: i64,
    delivered: i64,
    read: i64,
    marker: Option<i64>,
    /// The last message when the user hid the conversation.
    hidden: i64,
}

struct Message {
    sender: usize,
    system: bool,
    sent_at: Timestamp,
    mentions: Vec<usize>,
    deleted: bool,
    /// When the message reached each user.
    delivered: [Option<Timestamp>; PEOPLE],
    read: [Option<Timestamp>; PEOPLE],
}

impl Model {
    fn text(&self, body: usize) -> String {
        let mut text = BODIES[body].0.to_owned();
        for (number, name) in self.names.iter().enumerate() {
            text = text.replace(&format!("@{number}"), &format!("@{name}"));
        }
        text
    }
}

impl Conversation {
    fn last_seq(&self) -> i64 {
        self.messages.len() as i64
    }

    fn last_sent_at(&self) -> Timestamp {
        self.messages.last().map_or(Timestamp::MIN, |last| last.sent_at)
    }

    fn say(&mut self, sender: usize, sent_at: Timestamp, system: bool, mentions: Vec<usize>) {
        let (delivered, read) = ([None; PEOPLE], [None; PEOPLE]);
        self.messages.push(Message { sender, system, sent_at, mentions, deleted: false, delivered, read });
    }

    /// Adds a system message about an action of `actor`. The actor has read it if they had read all messages before it.
    fn note(&mut self, actor: usize, now: Timestamp) {
        let (read_all, at) = (self.members[actor].read == self.last_seq(), self.last_sent_at().max(now));
        self.say(actor, at, true, Vec::new());
        if read_all {
            let last_seq = self.last_seq();
            self.reach(actor, last_seq, last_seq, at);
        }
    }

    /// Those of the given users who are members now.
    fn present(&self, people: &[usize]) -> Vec<usize> {
        people.iter().copied().filter(|person| !self.members[*person].gone).collect()
    }

    /// Raises the watermarks of a user to at least these values.
    fn reach(&mut self, person: usize, delivered: i64, read: i64, at: Timestamp) {
        let member = &mut self.members[person];
        member.read = member.read.max(read);
        member.delivered = member.delivered.max(delivered).max(member.read);
        for (message, seq) in self.messages.iter_mut().zip(1..) {
            if seq <= member.delivered {
                message.delivered[person].get_or_insert(at);
            }
            if seq <= member.read {
                message.read[person].get_or_insert(at);
            }
        }
    }

    fn unread_count(&self, person: usize) -> i64 {
        let Member { read, marker, hidden, .. } = self.members[person];
        let unread = |seq: i64| seq > read.max(hidden) || marker.is_some_and(|marker| seq >= marker);
        self.messages.iter().zip(1..).filter(|(message, seq)| !message.system && unread(*seq)).count() as i64
    }

    fn mention_count(&self, person: usize) -> i64 {
        let Member { read, hidden, .. } = self.members[person];
        let unread = self.messages.iter().skip(read.max(hidden) as usize);
        let naming = unread.filter(|message| message.sender != person && message.mentions.contains(&person));
        naming.filter(|message| !message.deleted).count() as i64
    }

    fn expected_state(&self, person: usize) -> Value {
        let Member { delivered, read, marker, .. } = self.members[person];
        let (unread, mentions) = (self.unread_count(person), self.mention_count(person));
        json!({"delivered_seq": delivered, "read_seq": read, "unread_from": marker, "unread_count": unread,
               "mention_count": mentions})
    }
}

fn time(at: Option<Timestamp>) -> Value {
    at.map_or(Value::Null, |at| at.to_string().into())
}

async fn check(server: &Server, micros: &AtomicI64, run: u32, calls: &[Call]) {
    let names: Vec<String> = (0..PEOPLE).map(|person| format!("p{person}.{run}")).collect();
    for name in &names {
        server.add_user(name, "", "").await;
    }
    let people: Vec<&str> = names.iter().map(String::as_str).collect();
    let id = group(server, &people).await;
    let mut model = Model { names, places: Default::default() };
    model.places[2].id = id;
    model.places[2].note(0, Timestamp::from_micros(micros.load(Ordering::Relaxed)));
    for (number, call) in calls.iter().enumerate() {
        act(server, micros, &mut model, call).await;
        if number % CALLS_PER_LOOK == 0 {
            assert_agrees_with_model(server, &model).await;
        }
    }
    assert_agrees_with_model(server, &model).await;
}

async fn act(server: &Server, micros: &AtomicI64, model: &mut Model, call: &Call) {
    let now = Timestamp::from_micros(micros.load(Ordering::Relaxed));
    match *call {
        Call::Send { place, sender, body } => {
            let members = CONVERSATIONS[place];
            let sender = members[sender % members.len()];
            if model.places[place].members[sender].gone {
                return;
            }
            let sent_at = model.places[place].last_sent_at().max(now);
            let text = model.text(body);
            if place == 2 {
                say(server, model.places[2].id, &model.names[sender], &text).await;
            } else {
                let recipient = members.iter().find(|member| **member != sender).unwrap_or(&sender);
                let sent = server.send(&model.names[sender], &model.names[*recipient], &text).await;
                model.places[place].id = sent["conversation_id"].as_i64().unwrap();
            }
            let conversation = &mut model.places[place];
            let mentions = conversation.present(BODIES[body].1);
            let mentions = mentions.into_iter().filter(|person| members.contains(person)).collect();
            conversation.say(sender, sent_at, false, mentions);
            let last_seq = conversation.last_seq();
            conversation.reach(sender, last_seq, last_seq, sent_at);
            conversation.members[sender].marker = None;
        }
        Call::Report { place, person, delivered, read, marker } => {
            let members = CONVERSATIONS[place];
            let person = members[person % members.len()];
            let conversation = &mut model.places[place];
            let last = conversation.last_seq();
            if last == 0 || (delivered.is_none() && read.is_none() && marker.is_none()) {
                return;
            }
            let mut body = json!({});
            let mut wrong = Vec::new();
            for (field, seq) in [("delivered_seq", delivered), ("read_seq", read), ("unread_from", marker.flatten())] {
                if let Some(seq) = seq {
                    body[field] = seq.into();
                    wrong.extend((seq > last).then_some(field));
                }
            }
            if marker == Some(None) {
                body["unread_from"] = Value::Null;
            }
            let target = format!("/api/conversations/{}/receipts", conversation.id);
            let answer = as_person(server, &model.names[person], Method::POST, &target, Some(body)).await;
            if conversation.members[person].gone {
                answer.problem(404, "conversation_not_found");
                return;
            }
            if !wrong.is_empty() {
                answer.invalid(&wrong);
                return;
            }
            if read.is_some_and(|read| read > conversation.members[person].read || read == last) {
                conversation.members[person].marker = None;
            }
            let at = conversation.last_sent_at().max(now);
            conversation.reach(person, delivered.unwrap_or(0), read.unwrap_or(0), at);
            if let Some(marker) = marker {
                conversation.members[person].marker = marker;
            }
            assert_eq!(answer.json(), conversation.expected_state(person), "{call:?}");
        }
        Call::Edit { place, seq, body } => {
            let text = model.text(body);
            let conversation = &mut model.places[place];
            let named = conversation.present(BODIES[body].1);
            let present = conversation.present(CONVERSATIONS[place]);
            let message = conversation.messages.get_mut(seq as usize - 1);
            let message = message.filter(|one| !one.deleted && !one.system && present.contains(&one.sender));
            let Some(message) = message else { return };
            let target = format!("/api/conversations/{}/messages/{seq}", conversation.id);
            let sender = &model.names[message.sender];
            let answer = as_person(server, sender, Method::PATCH, &target, Some(json!({"body": text}))).await;
            assert_eq!(answer.status, 200);
            message.mentions = named.into_iter().filter(|person| CONVERSATIONS[place].contains(person)).collect();
        }
        Call::Delete { place, seq } => {
            let conversation = &mut model.places[place];
            let present = conversation.present(CONVERSATIONS[place]);
            let message = conversation.messages.get_mut(seq as usize - 1);
            let message = message.filter(|one| !one.system && present.contains(&one.sender));
            let Some(message) = message else { return };
            let target = format!("/api/conversations/{}/messages/{seq}", conversation.id);
            let answer = as_person(server, &model.names[message.sender], Method::DELETE, &target, None).await;
            assert_eq!(answer.status, 204);
            message.deleted = true;
            message.mentions.clear();
        }
        Call::Join(person) => {
            let conversation = &mut model.places[2];
            let target = format!("/api/conversations/{}/members/{}", conversation.id, model.names[person]);
            let answer = as_person(server, &model.names[0], Method::PUT, &target, Some(json!({}))).await;
            if !conversation.members[person].gone {
                assert_eq!(answer.status, 200);
                return;
            }
            assert_eq!(answer.status, 201);
            let last = conversation.last_seq();
            conversation.members[person] =
                Member { gone: false, joined: last, delivered: last, read: last, marker: None, hidden: 0 };
            conversation.note(0, now);
        }
        Call::Leave(person) => {
            let conversation = &mut model.places[2];
            let target = format!("/api/conversations/{}/members/me", conversation.id);
            let answer = as_person(server, &model.names[person], Method::DELETE, &target, None).await;
            if conversation.members[person].gone {
                answer.problem(404, "conversation_not_found");
                return;
            }
            assert_eq!(answer.status, 204);
            conversation.note(person, now);
            conversation.members[person].gone = true;
            for message in &mut conversation.messages {
                (message.delivered[person], message.read[person]) = (None, None);
            }
        }
        Call::Hide { place, person } => {
            let members = CONVERSATIONS[place];
            let person = members[person % members.len()];
            let conversation = &mut model.places[place];
            if conversation.id == 0 {
                return;
            }
            let target = format!("/api/conversations/{}", conversation.id);
            let answer = as_person(server, &model.names[person], Method::DELETE, &target, None).await;
            assert_eq!(answer.status, 204);
            let last = conversation.last_seq();
            let member = &mut conversation.members[person];
            (member.hidden, member.marker) = (last, None);
        }
        Call::Rename => {
            let conversation = &mut model.places[2];
            let target = format!("/api/conversations/{}", conversation.id);
            let title = format!("Title {}", conversation.last_seq());
            let answer =
                as_person(server, &model.names[0], Method::PATCH, &target, Some(json!({"title": title}))).await;
            assert_eq!(answer.status, 200);
            conversation.note(0, now);
        }
        Call::DeleteSystem(seq) => {
            let conversation = &mut model.places[2];
            let Some(message) = conversation.messages.get_mut(seq as usize - 1).filter(|one| one.system) else {
                return;
            };
            let target = format!("/api/conversations/{}/messages/{seq}", conversation.id);
            let answer = as_person(server, &model.names[0], Method::DELETE, &target, None).await;
            assert_eq!(answer.status, 204);
            message.deleted = true;
        }
        Call::MoveClock(by) => {
            micros.fetch_add(by, Ordering::Relaxed);
        }
    }
}

/// Asserts that everything that can be seen agrees with the model.
async fn assert_agrees_with_model(server: &Server, model: &Model) {
    for (conversation, members) in model.places.iter().zip(CONVERSATIONS) {
        if conversation.messages.is_empty() {
            continue;
        }
        let target = format!("/api/conversations/{}", conversation.id);
        let page = server.get(&format!("{target}/messages?after=0&limit=200")).await.json();
        assert_eq!(page.as_array().unwrap().len(), conversation.messages.len());
        for ((seen, message), seq) in page.as_array().unwrap().iter().zip(&conversation.messages).zip(1..) {
            // The time at which a message was read is the latest time of all users who must read it. In notes to oneself that
            // user is the sender.
            let mut asked = conversation.present(members);
            asked.retain(|person| {
                members.len() == 1 || (*person != message.sender && conversation.members[*person].joined < seq)
            });
            let latest = |times: &[Option<Timestamp>; PEOPLE]| {
                asked
                    .iter()
                    .map(|person| times[*person])
                    .min()
                    .flatten()
                    .and(asked.iter().filter_map(|one| times[*one]).max())
            };
            assert_eq!(seen["timestamp_delivered"], time(latest(&message.delivered)), "{seen}");
            // Nobody has read a message before it was delivered to them, even if the clock was set back.
            let mut read = message.read;
            for (read, delivered) in read.iter_mut().zip(message.delivered) {
                *read = read.map(|at| at.max(delivered.unwrap_or(at)));
            }
            assert_eq!(seen["timestamp_read"], time(latest(&read)), "{seen}");
            let names: Vec<&str> = message.mentions.iter().map(|person| model.names[*person].as_str()).collect();
            assert_eq!(seen["mentions"], json!(names), "{seen}");
            let who = server.get(&format!("{target}/messages/{}/receipts", seen["seq"])).await.json();
            let reached = asked.iter().filter(|person| message.delivered[**person].is_some());
            let wanted: Vec<Value> = reached
                .map(|person| {
                    let (delivered, read) = (time(message.delivered[*person]), time(read[*person]));
                    json!({"user_name": model.names[*person], "delivered_at": delivered, "read_at": read})
                })
                .collect();
            assert_eq!(who, json!(wanted), "{seen}");
        }
        for person in conversation.present(members) {
            let shown = as_person(server, &model.names[person], Method::GET, &target, None).await.json();
            let state = conversation.expected_state(person);
            for field in ["delivered_seq", "read_seq", "unread_count", "mention_count"] {
                assert_eq!(shown["me"][field], state[field], "{shown}");
            }
            let marker = json!({"unread_from": conversation.members[person].marker});
            let path = format!("{target}/receipts");
            let answer = as_person(server, &model.names[person], Method::POST, &path, Some(marker)).await;
            assert_eq!(answer.json(), state);
        }
    }
}
