//! Groups, reactions, receipts and search, compared with sends and with bare axum (a handler that only returns fixed bytes, see
//! `limits.rs`).
//!
//! Invariant: this runs after the loads of the parts `messages` and `callers`, because it changes the data that they measure.
//! Reactions and receipts are sent in order, each of them once: a repeated one would change nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{self, Load, Measured, Request};
use crate::credentials::Caller;
use crate::data::{self, BIG_GROUP, SMALL_GROUP};
use crate::limits::Limit;
use crate::process::Outcome;
use crate::report::{Figure, Target};
use crate::server::Server;
use crate::settings::{Best, ROUNDS, Settings, say};

/// Smallest allowed rate of `GET /api/conversations`, as a share of the rate of bare axum.
const LIST_RATIO: f64 = 0.1;
/// Smallest allowed rate of `GET /api/conversations/{id}/messages`, as a share of the rate of bare axum.
const HISTORY_RATIO: f64 = 0.25;
/// A reaction or a receipt costs no more than a send, and a send into a group of 10,000 no more than a send into a group of 10.
/// The target is 0.9 and not 1, because measurements on a shared machine differ.
const SEND_RATIO: f64 = 0.9;
const SEARCH_AT_MOST_MS: f64 = 100.0;
const ANSWER_AT_MOST: Duration = Duration::from_secs(10);
/// Messages in the group whose pages are read.
const GROUP_MESSAGES: u64 = 500;
/// The preparation of a load stops when it has more than this many requests. All rounds of a load together send fewer, with the
/// default of 8 s for each measurement.
const MAX_REQUESTS: usize = 700_000;
/// Ten emoji are enough: the measurements end before all distinct pairs of emoji and message have been used.
const EMOJI: [&str; 10] = [
    "%F0%9F%91%8D",
    "%E2%9D%A4",
    "%F0%9F%98%80",
    "%F0%9F%8E%89",
    "%F0%9F%98%82",
    "%F0%9F%98%8D",
    "%F0%9F%98%A2",
    "%F0%9F%91%8F",
    "%F0%9F%94%A5",
    "%F0%9F%9A%80",
];

/// Measures everything about conversations on one server. `settle` runs before each write load. It finishes the background work
/// of the load before: a sync of the file system, or VACUUM and a checkpoint.
pub fn measure(
    database: &'static str,
    settings: &Settings,
    folder: &Path,
    server: &Server,
    settle: impl Fn() -> Outcome<()>,
) -> Outcome<Vec<Figure>> {
    say(&format!("{database}: conversations"));
    let bench = ConversationBench { database, settings, server };
    bench.fill_group()?;
    let mut figures = bench.reading(folder)?;
    figures.extend(bench.writing(settle)?);
    figures.push(bench.searching()?);
    Ok(figures)
}

struct ConversationBench<'a> {
    database: &'static str,
    settings: &'a Settings,
    server: &'a Server,
}

impl ConversationBench<'_> {
    fn request(&self, user: u64, request: Request) -> Request {
        request.with(&format!("X-Act-As: {}", data::user_name(user)))
    }

    fn get(&self, user: u64, path: &str) -> Request {
        self.request(user, Request::get(self.server.address, path))
    }

    fn post(&self, user: u64, path: &str, body: &Value) -> Request {
        self.request(user, Request::post(self.server.address, path, &body.to_string(), false))
    }

    fn fill_group(&self) -> Outcome<()> {
        for number in 0..GROUP_MESSAGES {
            let user = number % data::SMALL_GROUP_MEMBERS + 1;
            let body = json!({ "conversation_id": SMALL_GROUP, "body": format!("message {number} of the group") });
            let answer = client::fetch(self.server.address, &self.post(user, "/api/messages", &body), ANSWER_AT_MOST)?;
            if answer.status != 201 {
                return Err(format!("writing into a group: {}", String::from_utf8_lossy(&answer.body)));
            }
        }
        Ok(())
    }

    /// A load that repeatedly picks one of these requests at random and sends it.
    fn load(&self, requests: Vec<Request>, statuses: std::ops::RangeInclusive<u16>) -> Load {
        self.settings.load(self.server.address, requests, statuses)
    }

    /// A load that sends these requests in order, each of them once.
    fn load_in_order(&self, requests: Vec<Request>) -> Load {
        Load { in_order: Some(Arc::new(AtomicUsize::new(0))), ..self.load(requests, 200..=204) }
    }

    fn reading(&self, folder: &Path) -> Outcome<Vec<Figure>> {
        let mut figures = Vec::new();
        let list = |user: u64| self.get(user, "/api/conversations?limit=50");
        let page = |user: u64| self.get(user, &format!("/api/conversations/{SMALL_GROUP}/messages?limit=50"));
        let lists: (&str, Vec<u64>, &dyn Fn(u64) -> Request, f64) =
            ("GET the list of conversations", data::users().collect(), &list, LIST_RATIO);
        let pages: (&str, Vec<u64>, &dyn Fn(u64) -> Request, f64) =
            ("GET a page of a group", (1..=data::SMALL_GROUP_MEMBERS).collect(), &page, HISTORY_RATIO);
        for (what, users, request, ratio) in [lists, pages] {
            let sample = client::fetch(self.server.address, &request(1), ANSWER_AT_MOST)?;
            let entries = serde_json::from_slice::<Value>(&sample.body).ok();
            let count = entries.as_ref().and_then(Value::as_array).map_or(0, Vec::len);
            if sample.status != 200 || count < 20 {
                return Err(format!("{what}: {} {}", sample.status, String::from_utf8_lossy(&sample.body)));
            }
            let bare = Limit::same_bytes(folder, &sample)?;
            let (mut limit, mut measured) = (Best::of("limit"), Best::of(what));
            for _ in 0..ROUNDS {
                limit.offer(self.settings.load(bare.address, vec![request(1)], 200..=200).run()?);
                measured.offer(self.load(users.iter().map(|user| request(*user)).collect(), 200..=200).run()?);
            }
            let name = format!("bare axum, the same {} bytes", sample.body.len());
            let what = format!("{what} ({count}), {}", self.database);
            figures.push(Figure::rate(&what, measured.measured, (&name, limit.rate()), Target::Ratio(ratio)));
        }
        Ok(figures)
    }

    fn sends(&self) -> Load {
        self.settings.posts_as(self.server.address, &Caller::Nobody, false)
    }

    fn writing(&self, settle: impl Fn() -> Outcome<()>) -> Outcome<Vec<Figure>> {
        let into = |group: u64, members: u64| {
            let body = json!({ "conversation_id": group, "body": "hey are you coming to the meeting later today" });
            self.load((1..=members).map(|user| self.post(user, "/api/messages", &body)).collect(), 201..=201)
        };
        let (reactions, receipts) = (self.load_in_order(self.reactions()), self.load_in_order(self.receipts()));
        let (small, big) = (into(SMALL_GROUP, data::SMALL_GROUP_MEMBERS), into(BIG_GROUP, data::SMALL_GROUP_MEMBERS));
        let sends = self.sends();
        let mut best =
            ["sends", "reactions", "receipts", "sends to a group of 10", "sends to a group of 10,000"].map(Best::of);
        for _ in 0..ROUNDS {
            for (best, load) in best.iter_mut().zip([&sends, &reactions, &receipts, &small, &big]) {
                settle()?;
                best.offer(load.run()?);
            }
        }
        let [sends, reactions, receipts, small, big] = best.map(|best| best.measured);
        let figure = |what: &str, measured: Measured, limit: (&str, Measured)| {
            let what = format!("{what}, {}", self.database);
            Figure::rate(&what, measured, (limit.0, limit.1.rate), Target::Ratio(SEND_RATIO))
        };
        Ok(vec![
            figure("PUT a reaction", reactions, ("POST a message", sends)),
            figure("POST a receipt", receipts, ("POST a message", sends)),
            figure("POST into a group of 10,000", big, ("into a group of 10", small)),
        ])
    }

    /// Distinct reactions, in every third direct conversation.
    fn reactions(&self) -> Vec<Request> {
        let mut requests = Vec::new();
        for seq in 1..=self.settings.message_count / data::CONVERSATIONS / 4 {
            for emoji in EMOJI {
                for conversation in (1..=data::CONVERSATIONS).step_by(3) {
                    let (one, _) = data::members(conversation);
                    let path = format!("/api/conversations/{conversation}/messages/{seq}/reactions/{emoji}");
                    requests.push(self.request(one, Request::put(self.server.address, &path)));
                }
            }
            if requests.len() > MAX_REQUESTS {
                break;
            }
        }
        requests
    }

    /// Receipts. Each one raises the read watermark of its user in its conversation.
    fn receipts(&self) -> Vec<Request> {
        let path = |conversation: u64| format!("/api/conversations/{conversation}/receipts");
        let mut requests = Vec::new();
        for seq in 1..=self.settings.message_count / data::CONVERSATIONS / 3 {
            for conversation in (1..=data::CONVERSATIONS).filter(|id| id % 10 != 1) {
                let (one, other) = data::members(conversation);
                for user in [one, other] {
                    requests.push(self.post(user, &path(conversation), &json!({ "read_seq": seq })));
                }
            }
            if requests.len() > MAX_REQUESTS {
                break;
            }
        }
        requests
    }

    fn searching(&self) -> Outcome<Figure> {
        let search = |user: u64| self.get(user, "/api/search/messages?q=meeting");
        let sample = client::fetch(self.server.address, &search(1), ANSWER_AT_MOST)?;
        let found = serde_json::from_slice::<Value>(&sample.body).ok();
        if found.as_ref().and_then(Value::as_array).is_none_or(Vec::is_empty) {
            return Err(format!("searching: {} {}", sample.status, String::from_utf8_lossy(&sample.body)));
        }
        let measured = self.load(data::users().map(search).collect(), 200..=200).run()?;
        let what = format!("search for a common word, {}, 99th percentile", self.database);
        Ok(Figure::time(&what, Duration::from_micros(measured.p99_us.into()), SEARCH_AT_MOST_MS))
    }
}
