//! Tasks that fail: each is restarted, and no caller loses anything.
//!
//! The names of the tasks come from the supervisor, so a new task is tested without a change here.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use posthaste::base::tasks::PanicPoint;
use posthaste::base::time::{Clock, Timestamp};
use posthaste::domain::identity::credentials::{Credentials, authenticate};
use posthaste::domain::messages::messages;
use posthaste::domain::sending::drafts::NewMessage;
use posthaste::domain::shared::idempotency::Once;
use posthaste::live::bus::BusSettings;
use posthaste::mail::{Mail, MailSettings};
use posthaste::outbound::addresses::Reach;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::durability::{Load, assert_kept, last_message, stored};
use crate::both;
use crate::events::webhooks::Receiver;
use crate::support::mail::MailServer;
use crate::support::nats::NatsServer;
use crate::support::people::{delete, get, path_of, post, post_once, put};
use crate::support::place::Kind;
use crate::support::watch::{Follower, Socket};
use crate::support::{Answer, Options, Place, Server};

/// The longest wait for something that must happen.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// How long a task that kept failing must run before the server is ready again. It is so long that a test can cause several
/// panics within this time on a busy machine.
const RECOVERY_TIME: Duration = Duration::from_secs(10);
/// The longest time in which a queue must be restarted after many panics. Its pauses before restarts are far shorter than this.
/// Those of other tasks are longer.
const QUEUE_PAUSE_LIMIT: Duration = Duration::from_secs(6);
/// The pause between two messages of a sender.
const PAUSE: Duration = Duration::from_millis(20);
/// Senders with their recipients. Each pair has a conversation of its own.
const PAIRS: &[(&str, &str)] = &[("rdibari", "bugs"), ("duck", "porky"), ("porky", "rdibari"), ("duck", "duck")];

/// The value of a metric, by its name and labels.
pub(super) async fn metric(server: &Server, name: &str) -> u64 {
    let text = String::from_utf8(server.get("/metrics").await.bytes).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no metric {name}: {text}")).parse().unwrap()
}

/// How many times a task was restarted.
pub(super) async fn restarts(server: &Server, task: &str) -> u64 {
    metric(server, &format!("posthaste_task_restarts_total{{task=\"{task}\"}}")).await
}

/// Makes a task panic and waits until it runs again.
pub(super) async fn panic_once(server: &Server, task: &str) {
    let before = restarts(server, task).await;
    server.tasks.make_panic(task);
    let begun = Instant::now();
    while restarts(server, task).await == before {
        assert!(begun.elapsed() < LIMIT, "{task} is not restarted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Repeats a request until it is accepted. A refusal is allowed only while a task is not running.
async fn until_accepted(status: u16, request: impl AsyncFn() -> Answer) -> Answer {
    until_one_of(&[status], false, request).await
}

/// Repeats a request until its status is one of the expected ones. A refusal is allowed only while a task is not running or, if
/// `batches_panic` is set, because a batch panicked.
async fn until_one_of(expected: &[u16], batches_panic: bool, request: impl AsyncFn() -> Answer) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = request().await;
        if expected.contains(&answer.status.as_u16()) {
            return answer;
        }
        assert!(begun.elapsed() < LIMIT, "{}", String::from_utf8_lossy(&answer.bytes));
        if batches_panic && answer.status == StatusCode::INTERNAL_SERVER_ERROR {
            answer.problem(500, "internal");
        } else {
            answer.problem(503, "unavailable");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Scheduled messages and mails that wait while tasks panic.
struct Waiting<'a> {
    server: &'a Server,
    bodies: Vec<String>,
}

impl Waiting<'_> {
    async fn add(&mut self, name: &str) {
        let soon = Timestamp::from_micros(Clock::System.now().micros() + 300_000).to_string();
        let body = format!("scheduled during {name}");
        let new = json!({"recipient_user_name": "duck", "body": body, "send_at": soon});
        until_accepted(202, async || post(self.server, "bugs", "/api/messages", new.clone()).await).await;
        let mail = Mail { to: "bugs@example.org".into(), subject: "Hello".into(), text: name.into() };
        // No caller waits for a mail, so mails are accepted even while their task is being restarted.
        self.server.app.mailer.as_ref().unwrap().send(mail).unwrap();
        self.bodies.push(body);
    }
}

/// Requests that continue while tasks panic, at a rate that a webhook can follow.
#[derive(Default)]
struct Traffic {
    stopped: AtomicBool,
    /// Whether batches panic. Their requests are answered with 500 and may be committed or not.
    batches_panic: bool,
    /// The bodies of accepted messages.
    accepted: Mutex<Vec<String>>,
}

impl Traffic {
    /// Sends one message after the other. A refused one is repeated with its key.
    async fn keep_sending(&self, server: &Server, (sender, recipient): (&str, &str)) {
        for number in 0.. {
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            let body = format!("{sender} to {recipient}, {number}");
            let new = json!({"recipient_user_name": recipient, "body": body});
            let send = async || post_once(server, sender, "/api/messages", &body, new.clone()).await;
            until_one_of(&[201], self.batches_panic, send).await;
            self.accepted.lock().unwrap().push(body);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Adds and removes a reaction. On PostgreSQL such changes are queued.
    async fn keep_reacting(&self, server: &Server, message: &str) {
        let target = format!("{message}/reactions/%F0%9F%91%8D");
        // A change whose answer was an error may have been committed.
        let (added, removed): (&[u16], &[u16]) =
            if self.batches_panic { (&[201, 200], &[204, 404]) } else { (&[201], &[204]) };
        while !self.stopped.load(Ordering::Relaxed) {
            until_one_of(added, self.batches_panic, async || put(server, "duck", &target).await).await;
            until_one_of(removed, self.batches_panic, async || delete(server, "duck", &target).await).await;
        }
    }

    async fn accepts_more(&self, count: usize) {
        let target = self.count() + count;
        wait_until("no send is accepted", async || self.count() >= target).await;
    }

    fn count(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }
}

pub(super) async fn wait_until(what: &str, is_so: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < LIMIT, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The bus for a kind of database.
pub(super) fn bus_of(place: &Place, nats: &NatsServer) -> BusSettings {
    match place.kind {
        Kind::Sqlite => BusSettings::Nats { url: nats.url() },
        Kind::Postgres => BusSettings::Postgres { listen_url: place.postgres_url() },
    }
}

/// A server with every task that its database can have.
async fn with_every_task(place: &Place, nats: &NatsServer, mails: &MailServer) -> Server {
    let bus = bus_of(place, nats);
    let mail = Some(MailSettings { url: mails.url(), from: "posthaste@example.org".into() });
    let link_previews = Some(Reach::Anywhere);
    let options = Options { bus, mail, webhook_allow_private: true, link_previews, ..Options::default() };
    Server::start_with(place, options).await
}

/// Makes tasks panic under load, one after the other, and asserts that nothing is lost and nothing is done twice. `names`
/// returns the names of the panics, and `panic` causes the panic with a name.
async fn panic_under_load(
    place: &Place,
    batches_panic: bool,
    names: impl Fn(&Server) -> Vec<String>,
    panic: impl AsyncFn(&Server, &str),
) {
    let (nats, mut mails) = (NatsServer::start().await, MailServer::start().await);
    let receiver = Receiver::start(&[], 204).await;
    let server = with_every_task(place, &nats, &mails).await;
    let hook = json!({"url": receiver.url, "event_types": ["message.created"]});
    assert_eq!(server.post("/api/webhooks", &hook).await.status, 201);
    let message = path_of(&server.send("bugs", "duck", "before").await);
    receiver.wait(1).await;
    let mut names = names(&server);
    let before = last_message(place).await;
    let follower = Follower::start(server.address).await;
    let traffic = Traffic { batches_panic, ..Traffic::default() };
    let mut beside = Waiting { server: &server, bodies: Vec::new() };
    let panics = async {
        for name in &names {
            traffic.accepts_more(5).await;
            beside.add(name).await;
            panic(&server, name).await;
            traffic.accepts_more(5).await;
        }
        traffic.stopped.store(true, Ordering::Relaxed);
    };
    let sends = PAIRS.iter().map(|pair| traffic.keep_sending(&server, *pair));
    tokio::join!(panics, traffic.keep_reacting(&server, &message), futures_util::future::join_all(sends));

    // All scheduled messages are sent.
    wait_until("a scheduled message is not sent", async || {
        get(&server, "bugs", "/api/scheduled").await.json() == json!([])
    })
    .await;
    // Each accepted message is stored once, and no others are.
    let mut expected = traffic.accepted.into_inner().unwrap();
    expected.append(&mut beside.bodies);
    expected.sort_unstable();
    let mut found: Vec<String> = Vec::new();
    for (body, positions) in stored(place).await {
        found.extend(positions.iter().filter(|position| position.2 > before).map(|_| body.clone()));
    }
    found.sort_unstable();
    assert_eq!(found, expected);
    // One socket has received every message and was never closed.
    assert_eq!(follower.assert_delivered(place, before).await, 0);
    // The webhook gets each message at least once.
    wait_until("a webhook misses a message", async || {
        let delivered: HashSet<String> = receiver.bodies().into_iter().collect();
        expected.iter().all(|body| delivered.contains(body))
    })
    .await;
    // Each mail arrives once.
    let mut texts = Vec::new();
    for _ in &names {
        texts.push(mails.next_mail().await.text);
    }
    texts.sort_unstable();
    names.sort_unstable();
    assert_eq!(texts, names);
    assert!(!mails.has_mail());
    // Presence still works.
    let _socket = Socket::of(&server, "rdibari").await;
    wait_until("rdibari is not online", async || {
        get(&server, "bugs", "/api/users/rdibari/presence").await.json()["state"] == "online"
    })
    .await;
    assert_eq!(server.get("/readyz").await.status, 200);
    server.stop().await;
}

both!(every_task_panics_once_under_load_and_nothing_is_lost, async |place| {
    let names = |server: &Server| {
        let tasks = server.tasks.names();
        assert!(tasks.len() >= if place.kind == Kind::Sqlite { 10 } else { 12 }, "{tasks:?}");
        tasks.into_iter().map(str::to_owned).collect()
    };
    let panic = async |server: &Server, task: &str| {
        panic_once(server, task).await;
        assert_eq!(restarts(server, task).await, 1, "{task}");
    };
    panic_under_load(place, false, names, panic).await;
});

/// Points at which a panic could lose something, each with its task. Some points are in work that the task starts as a task of
/// its own.
const PANIC_POINTS: &[(&str, PanicPoint)] = &[
    ("send-queue", PanicPoint::BatchTaken),
    ("send-queue", PanicPoint::BatchCommitted),
    ("change-queue", PanicPoint::BatchTaken),
    ("change-queue", PanicPoint::BatchCommitted),
    ("scheduled-sends", PanicPoint::ScheduledSent),
    ("mail", PanicPoint::MailTaken),
    ("webhooks", PanicPoint::WebhookCalled),
];

fn name_of((task, point): &(&str, PanicPoint)) -> String {
    format!("{task} {point:?}")
}

both!(a_panic_in_the_middle_of_work_loses_nothing, async |place| {
    let names = |server: &Server| {
        let tasks = server.tasks.names();
        PANIC_POINTS.iter().filter(|(task, _)| tasks.contains(task)).map(name_of).collect::<Vec<_>>()
    };
    let panic = async |server: &Server, name: &str| {
        let (task, point) = PANIC_POINTS.iter().find(|middle| name_of(middle) == name).unwrap();
        server.tasks.make_panic_at(task, *point);
        wait_until(&format!("{name} is not reached"), async || server.tasks.has_panicked(task)).await;
    };
    panic_under_load(place, true, names, panic).await;
});

both!(a_task_that_keeps_failing_makes_the_server_not_ready, async |place| {
    let options = Options { recovery_time: RECOVERY_TIME, ..Options::default() };
    let server = Server::start_with(place, options).await;
    for _ in 0..2 {
        panic_once(&server, "housekeeping").await;
        assert_eq!(server.get("/readyz").await.json(), json!({"status": "ready"}));
    }
    panic_once(&server, "housekeeping").await;
    let runs_since = Instant::now();
    let answer = server.get("/readyz").await;
    let document = answer.problem(503, "task_failing");
    assert_eq!(document["detail"], "The task housekeeping of this server fails repeatedly");
    assert!(answer.header("retry-after").is_some());
    wait_until("the server does not become ready", async || server.get("/readyz").await.status == 200).await;
    // The task has run for the recovery time. Part of that time passed before the test noticed that the task runs.
    assert!(runs_since.elapsed() > RECOVERY_TIME / 2, "{:?}", runs_since.elapsed());
    assert_eq!(restarts(&server, "housekeeping").await, 3);
    assert_eq!(restarts(&server, "clock").await, 0);
});

both!(a_queue_is_restarted_soon_after_any_number_of_failures, async |place| {
    let server = Server::start(place).await;
    for _ in 0..7 {
        panic_once(&server, "send-queue").await;
    }
    let begun = Instant::now();
    panic_once(&server, "send-queue").await;
    assert!(begun.elapsed() < QUEUE_PAUSE_LIMIT, "{:?}", begun.elapsed());
    server.send("bugs", "duck", "afterwards").await;
});

/// Makes the task of the send queue panic until `send` is refused in a pause before a restart.
async fn until_refused<T>(server: &Server, send: impl AsyncFn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < LIMIT, "the task does not fail");
        server.tasks.make_panic("send-queue");
        if let Some(refused) = send().await {
            return refused;
        }
    }
}

both!(a_queue_whose_task_does_not_run_refuses_sends, async |place| {
    let server = Server::start(place).await;
    let load = Load::start(server.address, "load");
    for _ in 0..3 {
        load.accepts_more(50).await;
        panic_once(&server, "send-queue").await;
    }
    load.accepts_more(50).await;
    let attempts = load.stop().await;
    // The panic loses no send: each one is accepted or gets a 503.
    for attempt in &attempts {
        if let Some(answer) = attempt.refused() {
            answer.problem(503, "unavailable");
        }
        assert!(attempt.accepted().is_some() || attempt.refused().is_some(), "{} is lost", attempt.body);
    }
    assert_kept(place, &attempts).await;

    let caller = Credentials { token: None, act_as: Some("bugs".into()), address: IpAddr::V4(Ipv4Addr::LOCALHOST) };
    let principal = authenticate(&server.app, caller).await.unwrap();
    let new = |body: &str| NewMessage {
        recipient_user_name: Some("duck".into()),
        body: body.into(),
        ..NewMessage::default()
    };
    messages::send(&server.app, &principal, new("before"), Once::without_key()).await.unwrap();
    // A send that was queued before the panic is not refused but waits for the restart. The timeout ends it, so that the next
    // attempt can be refused.
    let error = until_refused(&server, async || {
        let sending = messages::send(&server.app, &principal, new("meanwhile"), Once::without_key());
        tokio::time::timeout(Duration::from_millis(20), sending).await.ok()?.err()
    })
    .await;
    assert_eq!(
        error.to_string(),
        "unavailable: sends are not being processed: the task send-queue has failed and is restarted"
    );
    let request = json!({"recipient_user_name": "duck", "body": "meanwhile"});
    let answer = until_refused(&server, async || {
        let answer = post(&server, "bugs", "/api/messages", request.clone()).await;
        (answer.status != StatusCode::CREATED).then_some(answer)
    })
    .await;
    let document: Value = answer.problem(503, "unavailable");
    assert_eq!((answer.header("retry-after"), &document["status"]), (Some("1"), &json!(503)));
    until_accepted(201, async || post(&server, "bugs", "/api/messages", request.clone()).await).await;
});
