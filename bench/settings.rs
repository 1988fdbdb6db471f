//! What one run measures, the loads that it offers to the server, and what is reported to the terminal meanwhile.

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

/// Messages of a page.
pub const PAGE: usize = 50;
const WARM_UP: Duration = Duration::from_millis(1_500);
/// How often each takes its turn.
pub const ROUNDS: usize = 2;

/// Which databases take part.
pub struct Halves {
    /// SQLite.
    pub sqlite: bool,
    /// PostgreSQL.
    pub postgres: bool,
}

/// What is measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Reading and writing messages.
    Messages,
    /// The same with credentials.
    Callers,
    /// Lists, groups, reactions, receipts, search.
    Conversations,
    /// Events and their sockets.
    Events,
    /// Log-ins and starts.
    LogIn,
}

impl Part {
    /// All of them, in their order.
    pub const ALL: [Self; 5] = [Self::Messages, Self::Callers, Self::Conversations, Self::Events, Self::LogIn];

    /// As `POSTHASTE_BENCH_PARTS` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Callers => "callers",
            Self::Conversations => "conversations",
            Self::Events => "events",
            Self::LogIn => "log-in",
        }
    }
}

/// What one run is.
pub struct Settings {
    /// The server.
    pub binary: PathBuf,
    /// The databases.
    pub halves: Halves,
    /// Of what there is to measure.
    pub parts: Vec<Part>,
    /// Messages in each.
    pub message_count: u64,
    /// Time of one measurement.
    pub duration: Duration,
}

impl Settings {
    /// Whether a part is measured.
    pub fn takes(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// As [`Settings::reads_as`], without credentials.
    pub fn reads(&self, address: SocketAddr) -> Load {
        self.reads_as(address, &Caller::Nobody)
    }

    /// As [`Settings::posts_as`], without credentials.
    pub fn posts(&self, address: SocketAddr, idempotent: bool) -> Load {
        self.posts_as(address, &Caller::Nobody, idempotent)
    }

    /// Pages of all users, each asked for by that user.
    pub fn reads_as(&self, address: SocketAddr, caller: &Caller<'_>) -> Load {
        let requests = data::users().map(|user| caller.sign(user, Request::get(address, &page_path(user)))).collect();
        self.load(address, requests, 200..=200)
    }

    /// Messages into the busy conversations, each sent by its sender.
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

    /// What pgbench reaches with a script.
    pub fn pgbench(&self, cluster: &Cluster, script: &str, clients: usize) -> Outcome<Measured> {
        let rate = cluster.pgbench(script, clients, WARM_UP, self.duration)?;
        Ok(Measured { rate, ..Measured::default() })
    }

    /// Random ones of these requests, again and again.
    pub fn load(&self, address: SocketAddr, requests: Vec<Request>, expected_statuses: RangeInclusive<u16>) -> Load {
        let requests = Arc::new(requests);
        Load { address, requests, in_order: None, expected_statuses, warm_up: WARM_UP, duration: self.duration }
    }
}

/// The better of several measurements.
pub struct Best {
    name: &'static str,
    /// It.
    pub measured: Measured,
}

impl Best {
    /// None yet.
    pub fn of(name: &'static str) -> Self {
        Self { name, measured: Measured::default() }
    }

    /// Takes a measurement if it is better.
    pub fn offer(&mut self, measured: Measured) {
        say(&format!("  {}: {:.0}/s", self.name, measured.rate));
        if measured.rate > self.measured.rate {
            self.measured = measured;
        }
    }

    /// Its rate.
    pub fn rate(&self) -> f64 {
        self.measured.rate
    }
}

/// Where the newest messages of a user are.
pub fn page_path(user: u64) -> String {
    format!("/api/messages/{}?limit={PAGE}&order=desc", data::user_name(user))
}

/// Writes a line for the operator.
pub fn say(what: &str) {
    eprintln!("{what}");
}
