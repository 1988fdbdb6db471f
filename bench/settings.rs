//! The settings of one run: what it measures and which loads it sends to the server. Also prints its progress.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::client::{Load, Measured, Request};
use crate::credentials::Caller;
use crate::data::{self, Random};
use crate::postgres::Cluster;
use crate::process::Outcome;

/// Messages in a page.
pub const PAGE: usize = 50;
const WARM_UP: Duration = Duration::from_millis(1_500);
/// How many times each measurement is repeated.
pub const ROUNDS: usize = 2;

/// The databases to measure.
pub struct Databases {
    pub sqlite: bool,
    pub postgres: bool,
}

/// A group of measurements that can be selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Reading and writing messages.
    Messages,
    /// Reading and writing messages with credentials.
    Callers,
    /// Lists, groups, reactions, receipts, search.
    Conversations,
    /// Events and their sockets.
    Events,
    /// Uploads, downloads, thumbnails, pages with attachments.
    Files,
    /// Log-ins and starts of the server.
    LogIn,
}

impl Part {
    /// All parts, in the order in which they are measured.
    pub const ALL: [Self; 6] =
        [Self::Messages, Self::Callers, Self::Conversations, Self::Events, Self::Files, Self::LogIn];

    /// The name in `POSTHASTE_BENCH_PARTS`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Callers => "callers",
            Self::Conversations => "conversations",
            Self::Events => "events",
            Self::Files => "files",
            Self::LogIn => "log-in",
        }
    }
}

/// The settings of one run.
pub struct Settings {
    /// The server's executable.
    pub binary: PathBuf,
    pub databases: Databases,
    /// The parts to measure.
    pub parts: Vec<Part>,
    /// Messages in each database.
    pub message_count: u64,
    /// Time of one measurement.
    pub duration: Duration,
}

impl Settings {
    /// Whether a part is measured.
    pub fn takes(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Like [`Settings::reads_as`], without credentials.
    pub fn reads(&self, address: SocketAddr) -> Load {
        self.reads_as(address, &Caller::Nobody)
    }

    /// Like [`Settings::posts_as`], without credentials.
    pub fn posts(&self, address: SocketAddr, idempotent: bool) -> Load {
        self.posts_as(address, &Caller::Nobody, idempotent)
    }

    /// A load that reads pages of messages. Each request asks for the page of one user, with the credentials of that user.
    pub fn reads_as(&self, address: SocketAddr, caller: &Caller<'_>) -> Load {
        let requests = data::users().map(|user| caller.sign(user, Request::get(address, &page_path(user)))).collect();
        self.load(address, requests, 200..=200)
    }

    /// A load that sends messages into the busy conversations. Each request has the credentials of the message's sender.
    pub fn posts_as(&self, address: SocketAddr, caller: &Caller<'_>, idempotent: bool) -> Load {
        let mut random = Random::fixed(7);
        let requests = data::busy_conversations()
            .map(|conversation_id| {
                let (sender, recipient) = data::members(conversation_id);
                let message = json!({
                    "sender_user_name": data::user_name(sender),
                    "recipient_user_name": data::user_name(recipient),
                    "body": data::body(&mut random),
                });
                caller.sign(sender, Request::post(address, "/api/messages", &message.to_string(), idempotent))
            })
            .collect();
        self.load(address, requests, 201..=201)
    }

    /// The rate that pgbench reaches with a script.
    pub fn pgbench(&self, cluster: &Cluster, script: &str, clients: usize) -> Outcome<Measured> {
        let rate = cluster.pgbench(script, clients, WARM_UP, self.duration)?;
        Ok(Measured { rate, ..Measured::default() })
    }

    /// A load that repeatedly picks one of these requests at random and sends it.
    pub fn load(&self, address: SocketAddr, requests: Vec<Request>, expected_statuses: RangeInclusive<u16>) -> Load {
        let requests = Arc::new(requests);
        Load { address, requests, in_order: None, expected_statuses, warm_up: WARM_UP, duration: self.duration }
    }
}

/// Of several measurements, the one with the highest rate.
pub struct Best {
    name: &'static str,
    pub measured: Measured,
}

impl Best {
    /// A name without a measurement yet.
    pub fn of(name: &'static str) -> Self {
        Self { name, measured: Measured::default() }
    }

    /// Prints a measurement and keeps it if it is the best so far.
    pub fn offer(&mut self, measured: Measured) {
        say(&format!("  {}: {:.0}/s", self.name, measured.rate));
        if measured.rate > self.measured.rate {
            self.measured = measured;
        }
    }

    pub fn rate(&self) -> f64 {
        self.measured.rate
    }
}

/// The path of the newest messages of a user.
pub fn page_path(user: u64) -> String {
    format!("/api/messages/{}?limit={PAGE}&order=desc", data::user_name(user))
}

/// Prints a line of progress to standard error.
pub fn say(what: &str) {
    eprintln!("{what}");
}
