//! Wrong clocks: of one node, and of the whole machine.
//!
//! Promise: on PostgreSQL every node takes the time from the clock of the database. A node whose own clock differs from it by
//! more than a minute logs an error, deletes nothing by time and sends no scheduled messages. When a clock is set back, a
//! repeated request with an idempotency key still has no second effect, and no user is locked out.

mod set_back;

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use posthaste::base::time::{Clock, Timestamp};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::events::webhooks::Receiver;
use crate::support::cluster::Cluster;
use crate::support::place::Kind;
use crate::support::process::{Process, Wrapping};
use crate::support::{Answer, Place, answer_of, run};

const DAY_S: i64 = 86_400;
const SECOND: i64 = 1_000_000;
/// A node must notice within this time that a clock changed. The time is long because the machine also runs other tests.
const NOTICED_WITHIN: Duration = Duration::from_secs(60);
const SKEWED: &str = "this machine's clock differs from the database's";

/// A wrong clock for the processes that are started with it. It is a library that these processes load with `LD_PRELOAD`. The
/// test can change the error of the clock while they run.
struct WrongClock {
    folder: TempDir,
}

impl WrongClock {
    fn new(shift_s: i64) -> Self {
        let folder = tempfile::Builder::new().prefix("posthaste-clock.").tempdir().unwrap();
        // PostgreSQL runs as another user and must be able to read the folder.
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), readable).unwrap();
        let clock = Self { folder };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/clock.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([clock.library(), PathBuf::from(source)])
            .output()
            .unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        clock.set(shift_s);
        clock
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("clock.so")
    }

    fn shift_file(&self) -> PathBuf {
        self.folder.path().join("shift")
    }

    /// Sets the clock ahead by `shift_s` seconds. A negative number sets it back.
    fn set(&self, shift_s: i64) {
        let file = std::fs::File::options().create(true).truncate(false).write(true).open(self.shift_file()).unwrap();
        file.write_all_at(&shift_s.to_ne_bytes(), 0).unwrap();
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", self.library().display().to_string()),
            ("POSTHASTE_CLOCK_SHIFT", self.shift_file().display().to_string()),
        ]
    }

    /// Starts a PostgreSQL cluster with this clock.
    async fn start_cluster(&self) -> Cluster {
        let variables = self.environment().into_iter().map(|(name, value)| format!("{name}={value}"));
        Cluster::start_wrapped(std::iter::once("env".to_owned()).chain(variables).collect()).await
    }

    async fn start(&self, place: &Place) -> Node {
        Node::start(place, Wrapping { environment: self.environment(), ..Wrapping::default() }).await
    }
}

/// A server process and a client for it.
struct Node {
    process: Process,
    client: reqwest::Client,
}

impl Node {
    async fn start(place: &Place, wrapping: Wrapping) -> Self {
        let process = Process::start_wrapped(place, wrapping).await;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
        Self { process, client }
    }

    fn request(&self, method: Method, target: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{target}", self.process.address))
    }

    /// Sends a message from bugs to duck. `more` holds further fields of the request body.
    async fn send(&self, body: &str, key: Option<&str>, more: Value) -> Answer {
        let mut message = json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": body});
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut request = self.request(Method::POST, "/api/messages").json(&message);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        answer_of(request).await
    }

    async fn sent(&self, body: &str, key: Option<&str>) -> Value {
        let answer = self.send(body, key, json!({})).await;
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
        answer.json()
    }

    /// Schedules a message from bugs to duck.
    async fn schedule(&self, body: &str, at: Timestamp) {
        let answer = self.send(body, None, json!({"send_at": at.to_string()})).await;
        assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.bytes));
    }

    /// Messages between bugs and duck with this text.
    async fn messages(&self, body: &str) -> Vec<Value> {
        let found =
            answer_of(self.request(Method::GET, "/api/messages/duck?with=bugs&days=365&limit=200")).await.json();
        found.as_array().unwrap().iter().filter(|message| message["body"] == body).cloned().collect()
    }

    async fn wait_for_message(&self, body: &str, within: Duration) -> Value {
        let deadline = Instant::now() + within;
        loop {
            if let Some(message) = self.messages(body).await.pop() {
                return message;
            }
            assert!(Instant::now() < deadline, "{body} was not sent:\n{}", self.process.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn log_in(&self) -> String {
        let request = self.request(Method::POST, "/api/sessions").json(&json!({"user_name": "bugs"}));
        let answer = answer_of(request).await;
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    async fn who_am_i(&self, token: &str) -> u16 {
        answer_of(self.request(Method::GET, "/api/users/me").bearer_auth(token)).await.status.as_u16()
    }

    /// The node's metric of its clock skew: by how many seconds its machine's clock is ahead of the database's clock.
    async fn skew_s(&self) -> f64 {
        let metrics = answer_of(self.request(Method::GET, "/metrics")).await;
        let text = String::from_utf8(metrics.bytes).unwrap();
        let line = text.lines().find(|line| line.starts_with("posthaste_clock_skew_seconds "));
        line.expect("/metrics must contain the clock skew").rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    async fn wait_for_skew(&self, about_s: i64) {
        let deadline = Instant::now() + NOTICED_WITHIN;
        while (self.skew_s().await - about_s as f64).abs() > 5.0 {
            assert!(Instant::now() < deadline, "the skew is {}:\n{}", self.skew_s().await, self.process.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the node uses a clock that was set back by a day or more. A session expires 30 days after it was created, so
    /// the expiry of a new session shows the time that the node uses.
    async fn wait_until_yesterday(&self) {
        let deadline = Instant::now() + NOTICED_WITHIN;
        loop {
            let typical = in_s(29 * DAY_S + DAY_S / 2);
            let request = self.request(Method::POST, "/api/sessions").json(&json!({"user_name": "porky"}));
            let expires_at = answer_of(request).await.json()["expires_at"].as_str().unwrap().to_owned();
            if Timestamp::parse(&expires_at).unwrap() < typical {
                return;
            }
            assert!(Instant::now() < deadline, "the node does not use the earlier time:\n{}", self.process.log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn errors_about_the_clock(&self) -> usize {
        self.process.log().lines().filter(|line| line.contains("ERROR") && line.contains(SKEWED)).count()
    }
}

fn now() -> Timestamp {
    Clock::System.now()
}

fn in_s(seconds: i64) -> Timestamp {
    now().plus_micros(seconds * SECOND)
}

async fn count(place: &Place, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM messaging.{table}");
    place.numbers(&sql).await[0][0]
}

#[test]
fn a_node_200_days_ahead_deletes_nothing() {
    run(Kind::Postgres, async |place| {
        let healthy = Node::start(place, Wrapping::default()).await;
        let token = healthy.log_in().await;
        let first = healthy.sent("once", Some("key")).await;
        let tables = ["sessions", "idempotency_keys", "events"];
        let mut before = Vec::new();
        for table in tables {
            before.push(count(place, table).await);
        }
        let clock = WrongClock::new(200 * DAY_S);
        let wrong = clock.start(place).await;
        wrong.wait_for_skew(200 * DAY_S).await;
        // The first batch of housekeeping runs at the start.
        tokio::time::sleep(Duration::from_secs(2)).await;
        for (table, before) in tables.iter().zip(before) {
            assert_eq!(count(place, table).await, before, "{table}");
        }
        assert_eq!(wrong.sent("once", Some("key")).await, first);
        assert_eq!(healthy.sent("once", Some("key")).await, first);
        assert_eq!(healthy.messages("once").await.len(), 1);
        assert_eq!([wrong.who_am_i(&token).await, healthy.who_am_i(&token).await], [200, 200]);
        assert_eq!(
            [wrong.errors_about_the_clock(), healthy.errors_about_the_clock()],
            [1, 0],
            "at most one error a minute"
        );
        let doctor = |clock: &WrongClock| {
            let output = Command::new(env!("CARGO_BIN_EXE_posthaste"))
                .arg("doctor")
                .env("POSTHASTE_DATABASE_URL", place.url())
                .env("POSTHASTE_DATA_DIR", place.folder.path())
                .envs(clock.environment())
                .output()
                .unwrap();
            (output.status.success(), String::from_utf8(output.stdout).unwrap())
        };
        let (well, text) = doctor(&clock);
        assert!(!well && text.contains("wrong this machine's clock is 17280000 s ahead"), "{text}");
        clock.set(0);
        let (well, text) = doctor(&clock);
        assert!(well && text.contains("clock agrees with the database's"), "{text}");
        wrong.wait_for_skew(0).await;
        assert!(wrong.process.log().contains("this machine's clock agrees with the database's again"));
    });
}

#[test]
fn a_node_ten_minutes_ahead_sends_nothing_early() {
    run(Kind::Postgres, async |place| {
        let clock = WrongClock::new(0);
        let node = clock.start(place).await;
        // The clock becomes wrong while the server runs.
        clock.set(600);
        node.schedule("in five minutes", in_s(300)).await;
        let soon = in_s(4);
        node.schedule("in four seconds", soon).await;
        let before = now();
        let sent = node.sent("now", None).await;
        let sent_at = Timestamp::parse(sent["timestamp_sent"].as_str().unwrap()).unwrap();
        let earliest = before.plus_micros(-SECOND);
        assert!((earliest..in_s(1)).contains(&sent_at), "{sent_at} is not the database's time {before}");
        // Inserts the row of a node that has not renewed it for an hour.
        place.sql("INSERT INTO messaging.presence_servers VALUES ('gone', now() - interval '1 hour', FALSE)").await;
        node.wait_for_skew(600).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(count(place, "presence_servers").await, 1, "a node with a wrong clock removed another node's row");
        assert!(
            node.messages("in four seconds").await.is_empty(),
            "a node with a wrong clock sent a scheduled message"
        );
        assert!(node.messages("in five minutes").await.is_empty(), "sent early");
        assert_eq!(node.errors_about_the_clock(), 1);
        clock.set(0);
        let sent = node.wait_for_message("in four seconds", NOTICED_WITHIN).await;
        assert!(Timestamp::parse(sent["timestamp_sent"].as_str().unwrap()).unwrap() >= soon, "{sent}");
        assert!(node.messages("in five minutes").await.is_empty(), "sent early");
        let deadline = Instant::now() + NOTICED_WITHIN;
        while count(place, "presence_servers").await > 0 {
            assert!(
                Instant::now() < deadline,
                "the row of the node that has gone is not removed:\n{}",
                node.process.log()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

#[test]
fn a_node_with_a_wrong_clock_repeats_no_delivery_to_a_webhook() {
    run(Kind::Postgres, async |place| {
        let clock = WrongClock::new(600);
        let arguments = ["--webhook-allow-private", "true"].map(str::to_owned).to_vec();
        let wrapping = Wrapping { arguments, environment: clock.environment(), ..Wrapping::default() };
        let node = Node::start(place, wrapping).await;
        let receiver = Receiver::start(&[500], 204).await;
        let new = json!({"url": receiver.url, "event_types": ["message.created"]});
        assert_eq!(answer_of(node.request(Method::POST, "/api/webhooks").json(&new)).await.status, 201);
        node.sent("hey", None).await;
        // The first attempt to deliver an event does not depend on the clock. The second would follow after 5 s.
        receiver.wait(1).await;
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert_eq!(receiver.bodies().len(), 1);
        clock.set(0);
        receiver.wait(2).await;
        assert_eq!(receiver.bodies(), ["hey", "hey"]);
    });
}

#[test]
fn a_node_within_the_limit_uses_the_databases_clock() {
    run(Kind::Postgres, async |place| {
        let healthy = Node::start(place, Wrapping::default()).await;
        let stays = healthy.log_in().await;
        healthy.log_in().await;
        // The first session expires in 35 s. The clock of the second node's machine is 40 s ahead, so by that clock the session
        // has already expired. The second session expired an hour ago.
        let expiries = [("min", in_s(35)), ("max", in_s(-3_600))];
        for (which, at) in expiries {
            let row = format!("(SELECT {which}(id) FROM messaging.sessions)");
            place.sql(&format!("UPDATE messaging.sessions SET expires_at = '{at}' WHERE id = {row}")).await;
        }
        let clock = WrongClock::new(40);
        let node = clock.start(place).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while count(place, "sessions").await == 2 {
            assert!(Instant::now() < deadline, "expired sessions are not deleted:\n{}", node.process.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(node.who_am_i(&stays).await, 200);
        drop(healthy);
        let at = in_s(3);
        node.schedule("on time", at).await;
        let sent = node.wait_for_message("on time", NOTICED_WITHIN).await;
        assert!(now() >= at, "sent early");
        assert!(Timestamp::parse(sent["timestamp_sent"].as_str().unwrap()).unwrap() >= at, "{sent}");
        node.wait_for_skew(40).await;
        assert_eq!(node.errors_about_the_clock(), 0);
    });
}

/// Sends messages with idempotency keys before the clock is set back by two days, while it is wrong, and after it is right again.
/// Asserts that a repeated request gets the first answer, also after restarts, and that each message is sent once.
async fn keys_hold(place: &Place, clock: &WrongClock) {
    let node = clock.start(place).await;
    let before = node.sent("before", Some("before")).await;
    clock.set(-2 * DAY_S);
    node.wait_until_yesterday().await;
    assert_eq!(node.sent("before", Some("before")).await, before);
    let back = node.sent("back", Some("back")).await;
    assert_eq!(node.sent("back", Some("back")).await, back);
    // After a restart the node has an empty memory and knows only what the database holds.
    node.process.terminate().await;
    let node = clock.start(place).await;
    let again = node.sent("again", Some("again")).await;
    for (body, first) in [("before", &before), ("back", &back)] {
        assert_eq!(node.sent(body, Some(body)).await, *first);
    }
    clock.set(0);
    node.process.terminate().await;
    let node = clock.start(place).await;
    for (body, first) in [("before", &before), ("back", &back), ("again", &again)] {
        assert_eq!(node.sent(body, Some(body)).await, *first);
        assert_eq!(node.messages(body).await.len(), 1, "{body}");
    }
}

#[test]
fn a_clock_set_back_by_two_days_makes_no_key_valid_twice_on_sqlite() {
    run(Kind::Sqlite, async |place| keys_hold(place, &WrongClock::new(0)).await);
}

#[test]
fn a_clock_set_back_by_two_days_makes_no_key_valid_twice_on_postgres() {
    // `Kind::Sqlite`, because this test starts a PostgreSQL cluster of its own.
    run(Kind::Sqlite, async |_| {
        let clock = WrongClock::new(0);
        let cluster = clock.start_cluster().await;
        keys_hold(&Place::in_cluster(&cluster.url()).await, &clock).await;
    });
}

#[test]
fn a_database_with_a_wrong_clock_sends_nothing_early() {
    // `Kind::Sqlite`, because this test starts a PostgreSQL cluster of its own.
    run(Kind::Sqlite, async |_| {
        let clock = WrongClock::new(0);
        let cluster = clock.start_cluster().await;
        let place = Place::in_cluster(&cluster.url()).await;
        let node = Node::start(&place, Wrapping::default()).await;
        node.schedule("in five minutes", in_s(300)).await;
        clock.set(600);
        node.wait_for_skew(-600).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(node.messages("in five minutes").await.is_empty(), "sent early");
        assert_eq!(node.errors_about_the_clock(), 1);
        clock.set(0);
        node.wait_for_skew(0).await;
        assert!(node.messages("in five minutes").await.is_empty(), "sent early");
    });
}
