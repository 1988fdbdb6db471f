//! Property test: a server on SQLite and a server on PostgreSQL give the same answers to any sequence of calls. The answers
//! also agree with a model, which is so simple that a reader can see that it is right.

mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use posthaste::base::time::{Clock, Timestamp};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::place::Kind;
use crate::support::server::Answer;
use crate::support::{Options, Place, Server, answer_of};
use model::{Model, PEOPLE, TEXTS};

const CASES: u32 = 24;
const CALLS: usize = 120;
const MINUTE: i64 = 60_000_000;
const DAY: i64 = 24 * 60 * MINUTE;
const START: &str = "2026-11-22T08:30:00Z";

/// One step of a sequence. Users are given by numbers. A number below [`PEOPLE`] stands for an existing user, and [`PEOPLE`]
/// for an unknown one. A higher number stands for an existing user whose name is sent in capital letters.
#[derive(Clone, Debug)]
enum Call {
    Send(Send),
    /// Repeats an earlier send that had a key.
    Repeat(u8),
    List(List),
    Read {
        acting: Option<u8>,
        conversation: u8,
        seq: u8,
    },
    MoveClock(i64),
    /// Moves the clock to this many microseconds after the nearest midnight, or before it if the number is negative.
    GoToMidnight(i64),
}

#[derive(Clone, Debug)]
struct Send {
    acting: Option<u8>,
    sender: Option<u8>,
    target: Target,
    body: u8,
    reply_to: Option<u8>,
    key: Option<u8>,
}

#[derive(Clone, Debug)]
enum Target {
    Person(u8),
    /// The number of a conversation of this case. If the case has no conversation with this number, the call names one that
    /// does not exist.
    Conversation(u8),
}

#[derive(Clone, Debug)]
struct List {
    acting: Option<u8>,
    person: u8,
    with: Option<u8>,
    window: Window,
    descending: Option<bool>,
    limit: Option<u8>,
    /// By how many microseconds the clock moves between two pages.
    drift: i64,
}

#[derive(Clone, Debug)]
enum Window {
    Default,
    Days(i64),
    Since(Moment),
    Until(Moment),
    Between(Moment, Moment),
}

/// The time of a message plus `beside_micros`. A time window is most likely to be wrong if it begins or ends near a message.
#[derive(Clone, Debug)]
struct Moment {
    message: u8,
    beside_micros: i64,
}

fn person() -> impl Strategy<Value = u8> {
    prop_oneof![14 => 0..PEOPLE, 3 => PEOPLE + 1..=PEOPLE * 2, 1 => Just(PEOPLE)]
}

fn acting() -> impl Strategy<Value = Option<u8>> {
    option::weighted(0.1, person())
}

fn send() -> impl Strategy<Value = Call> {
    // The user in `X-Act-As`, and the sender that the body names.
    let sender = prop_oneof![
        12 => person().prop_map(|sender| (None, Some(sender))),
        3 => person().prop_map(|acting| (Some(acting), None)),
        1 => (acting(), option::of(person())),
    ];
    let target = prop_oneof![3 => person().prop_map(Target::Person), 1 => (0..6_u8).prop_map(Target::Conversation)];
    let body = prop_oneof![1 => Just(0), 30 => 1..TEXTS];
    let (reply_to, key) = (option::weighted(0.2, 1..6_u8), option::weighted(0.4, 0..12_u8));
    (sender, target, body, reply_to, key).prop_map(|((acting, sender), target, body, reply_to, key)| {
        Call::Send(Send { acting, sender, target, body, reply_to, key })
    })
}

fn list() -> impl Strategy<Value = Call> {
    let moment = || {
        let beside = prop_oneof![4 => -1..=1_i64, 1 => -DAY..DAY];
        (0..32_u8, beside).prop_map(|(message, beside_micros)| Moment { message, beside_micros })
    };
    let window = prop_oneof![
        3 => Just(Window::Default),
        1 => (1..40_i64).prop_map(Window::Days),
        2 => moment().prop_map(Window::Since),
        2 => moment().prop_map(Window::Until),
        2 => (moment(), moment()).prop_map(|(since, until)| Window::Between(since, until)),
    ];
    let limit = option::weighted(0.8, prop_oneof![6 => 1..6_u8, 1 => 1..=200_u8]);
    let with = option::weighted(0.3, person());
    (acting(), person(), with, window, option::of(proptest::bool::ANY), limit, 0..2 * DAY).prop_map(
        |(acting, person, with, window, descending, limit, drift)| {
            Call::List(List { acting, person, with, window, descending, limit, drift })
        },
    )
}

fn call() -> impl Strategy<Value = Call> {
    let read =
        (acting(), 0..8_u8, 0..8_u8).prop_map(|(acting, conversation, seq)| Call::Read { acting, conversation, seq });
    // One step moves the clock back by at most 20 minutes, so that a whole sequence does not move it back by a day.
    let step = prop_oneof![4 => 1..1_000_000_i64, 3 => -20 * MINUTE..0, 2 => 0..40 * MINUTE, 1 => 0..12 * DAY];
    let repeat = (0..16_u8).prop_map(Call::Repeat);
    prop_oneof![8 => send(), 2 => repeat, 3 => list(), 1 => read, 4 => step.prop_map(Call::MoveClock),
        1 => (-1..=1_i64).prop_map(Call::GoToMidnight)]
}

#[test]
fn both_databases_answer_any_sequence_of_calls_as_the_model_does() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let start = Timestamp::parse(START).unwrap().micros();
    let micros = Arc::new(AtomicI64::new(start));
    let (places, servers) = runtime.block_on(async {
        let places = [Place::new(Kind::Sqlite).await, Place::new(Kind::Postgres).await];
        let options = Options { demo: false, clock: Clock::Manual(Arc::clone(&micros)), ..Options::default() };
        let sqlite = Server::start_with(&places[0], options.clone()).await;
        let postgres = Server::start_with(&places[1], options).await;
        (places, Servers { sqlite, postgres, micros })
    });
    // The cases are the same in every run, and failures are not stored in a file.
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let runs = AtomicU32::new(0);
    let outcome = runner.run(&vec(call(), 1..=CALLS), |calls| {
        // Each case has users of its own, so it begins without messages.
        let run = runs.fetch_add(1, Ordering::Relaxed);
        // Each case starts 30 days after the end of the one before. If it started at `START` again, the clock would go back by
        // days, and the servers would keep idempotency keys longer than the model expects.
        servers.micros.fetch_add(30 * DAY, Ordering::Relaxed);
        runtime.block_on(check(&servers, run, &calls));
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
        for place in &places {
            crate::messages::messages::assert_dense(place).await;
        }
        servers.sqlite.stop().await;
        servers.postgres.stop().await;
        for place in places {
            place.remove().await;
        }
    });
}

async fn check(servers: &Servers, run: u32, calls: &[Call]) {
    let mut model = Model::new(run);
    for name in model.names() {
        for server in [&servers.sqlite, &servers.postgres] {
            server.add_user(&name, "", "").await;
        }
    }
    for call in calls {
        match call {
            Call::Send(send) => check_send(servers, &mut model, send).await,
            Call::Repeat(number) => {
                if let Some(send) = model.send_with_key(*number) {
                    check_send(servers, &mut model, &send).await;
                }
            }
            Call::List(list) => check_list(servers, &model, list).await,
            Call::Read { acting, conversation, seq } => {
                let (conversation, seq) = (model.conversation_id(*conversation), i64::from(*seq));
                let target = format!("/api/conversations/{conversation}/messages/{seq}");
                let answer = servers.ask(Method::GET, &target, &Request::acting(&model, *acting)).await;
                model.expect_one(*acting, conversation, seq).assert_is(&answer);
            }
            Call::MoveClock(by) => {
                servers.micros.fetch_add(*by, Ordering::Relaxed);
            }
            Call::GoToMidnight(beside) => {
                let midnight = (servers.now().micros() + DAY / 2).div_euclid(DAY) * DAY;
                servers.micros.store(midnight + beside, Ordering::Relaxed);
            }
        }
    }
}

async fn check_send(servers: &Servers, model: &mut Model, send: &Send) {
    let mut message = json!({"body": model::text(send.body)});
    if let Some(sender) = send.sender {
        message["sender_user_name"] = model.name(sender).into();
    }
    match send.target {
        Target::Person(person) => message["recipient_user_name"] = model.name(person).into(),
        Target::Conversation(number) => message["conversation_id"] = model.conversation_id(number).into(),
    }
    if let Some(seq) = send.reply_to {
        message["reply_to"] = seq.into();
    }
    let request = Request {
        body: Some(message.to_string()),
        key: send.key.map(|key| model.key(key)),
        ..Request::acting(model, send.acting)
    };
    let now = servers.now();
    let Some(expected) = model.expect_send(send, &request, now) else { return };
    let answer = servers.ask(Method::POST, "/api/messages", &request).await;
    expected.assert_is(&answer);
    if answer.status == 201 && answer.header("idempotency-replayed").is_none() {
        model.sent(send, &request, now, &answer);
    }
}

async fn check_list(servers: &Servers, model: &Model, list: &List) {
    let (since, until) = model.window(&list.window, servers.now());
    let mut query =
        vec![("order", list.descending.map(|descending| if descending { "desc" } else { "asc" }.to_owned()))];
    query.push(("limit", list.limit.map(|limit| limit.to_string())));
    query.push(("with", list.with.map(|person| model.name(person))));
    match list.window {
        Window::Default => {}
        Window::Days(days) => query.push(("days", Some(days.to_string()))),
        Window::Since(_) => query.push(("since", Some(since.to_string()))),
        Window::Until(_) => query.push(("until", until.map(|until| until.to_string()))),
        Window::Between(..) => {
            query.push(("since", Some(since.to_string())));
            query.push(("until", until.map(|until| until.to_string())));
        }
    }
    let query: Vec<String> =
        query.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name}={value}"))).collect();
    let mut target = format!("/api/messages/{}?{}", model.name(list.person), query.join("&"));
    let expected = match model.expect_list(list, since, until) {
        Err(refusal) => {
            let answer = servers.ask(Method::GET, &target, &Request::acting(model, list.acting)).await;
            return refusal.assert_is(&answer);
        }
        Ok(messages) => messages,
    };
    let limit = list.limit.map_or(50, usize::from);
    let mut pages = expected.chunks(limit);
    loop {
        let page = pages.next().unwrap_or_default();
        let answer = servers.ask(Method::GET, &target, &Request::acting(model, list.acting)).await;
        assert_eq!(answer.status, 200, "{target}: {}", String::from_utf8_lossy(&answer.bytes));
        assert_eq!(answer.json(), Value::from(page.to_vec()), "{target}");
        let Some(next) = answer.next() else { break };
        target = next;
        servers.micros.fetch_add(list.drift, Ordering::Relaxed);
    }
    assert!(pages.next().is_none(), "the list has fewer messages than expected: {target}");
}

/// Two servers, one for each database, with one clock.
struct Servers {
    sqlite: Server,
    postgres: Server,
    micros: Arc<AtomicI64>,
}

#[derive(Clone, Debug, Default)]
struct Request {
    acting: Option<String>,
    key: Option<String>,
    body: Option<String>,
}

impl Request {
    fn acting(model: &Model, acting: Option<u8>) -> Self {
        Self { acting: acting.map(|person| model.name(person)), ..Self::default() }
    }
}

impl Servers {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.micros.load(Ordering::Relaxed))
    }

    /// Sends the request to both servers, asserts that their answers are equal, and returns the answer.
    async fn ask(&self, method: Method, target: &str, request: &Request) -> Answer {
        let ask = async |server: &Server| {
            let mut asked = server.request(method.clone(), target);
            for (name, value) in [("x-act-as", &request.acting), ("idempotency-key", &request.key)] {
                if let Some(value) = value {
                    asked = asked.header(name, value);
                }
            }
            if let Some(body) = &request.body {
                asked = asked.header("content-type", "application/json").body(body.clone());
            }
            answer_of(asked).await
        };
        let (sqlite, postgres) = (ask(&self.sqlite).await, ask(&self.postgres).await);
        assert_eq!(comparable(&sqlite), comparable(&postgres), "{method} {target} {request:?}");
        sqlite
    }
}

/// The parts of an answer that must be equal: everything except the request id, and the headers `Date` and `Content-Length`.
fn comparable(answer: &Answer) -> (u16, Value, Vec<(String, String)>) {
    let mut body = answer.json();
    if let Some(document) = body.as_object_mut() {
        document.remove("request_id");
    }
    let headers =
        answer.headers.iter().filter(|(name, _)| !["x-request-id", "date", "content-length"].contains(&name.as_str()));
    let mut headers: Vec<_> =
        headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    headers.sort();
    (answer.status.as_u16(), body, headers)
}
