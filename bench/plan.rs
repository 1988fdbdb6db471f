//! What is measured, in which order, and what is asked of it.
//!
//! Invariant: limit and measured take turns, and the better of each counts, so that a disturbance from
//! outside does not fall on one side alone. Reading comes before writing: the pages stay the same.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{self, Load, Measured, Page, Request};
use crate::data::{self, Random};
use crate::limits::Limit;
use crate::postgres::{self, Cluster};
use crate::process::{Context, Outcome, ScratchFolder};
use crate::report::{Conditions, Figure, Target};
use crate::server::{Server, Setup};

const PAGE: usize = 50;
const WARM_UP: Duration = Duration::from_millis(1_500);
const ROUNDS: usize = 2;
const STARTS: usize = 5;
const MEMORY_AT_MOST_MIB: f64 = 120.0;
const START_AT_MOST_MS: f64 = 150.0;

/// Which databases take part.
pub struct Halves {
    /// SQLite.
    pub sqlite: bool,
    /// PostgreSQL.
    pub postgres: bool,
}

/// What one run is.
pub struct Settings {
    /// The server.
    pub binary: PathBuf,
    /// The databases.
    pub halves: Halves,
    /// Messages in each.
    pub message_count: u64,
    /// Time of one measurement.
    pub duration: Duration,
}

/// Runs everything.
pub fn run(settings: &Settings) -> Outcome<(Vec<Figure>, Conditions)> {
    let folder = ScratchFolder::create()?;
    let mut figures = Vec::new();
    let mut version = None;
    if settings.halves.sqlite {
        run_sqlite(settings, folder.path(), &mut figures)?;
    }
    if settings.halves.postgres {
        version = Some(run_postgres(settings, folder.path(), &mut figures)?);
    }
    let conditions = Conditions {
        message_count: settings.message_count,
        duration: settings.duration,
        postgres: version,
    };
    Ok((figures, conditions))
}

fn run_sqlite(settings: &Settings, folder: &Path, figures: &mut Vec<Figure>) -> Outcome<()> {
    let setup = Setup {
        binary: settings.binary.clone(),
        data_dir: folder.join("data"),
        database_url: None,
        log: folder.join("sqlite-server.log"),
    };
    fs::create_dir_all(&setup.data_dir).context("creating the data directory")?;
    drop(Server::start(&setup)?);
    say("SQLite: loading");
    let database = setup.data_dir.join("posthaste.db");
    data::fill_sqlite(&database, settings.message_count)?;
    let bare_writer = Limit::group_commit(folder, &database)?;
    let server = Server::start(&setup)?;

    say("SQLite: reading");
    let page = sample_page(server.address)?;
    let bare_reader = Limit::same_bytes(folder, &page)?;
    let (mut limit, mut reading) = (Best::default(), Best::default());
    for _ in 0..ROUNDS {
        limit.offer(settings.reads(bare_reader.address).run()?);
        reading.offer(settings.reads(server.address).run()?);
    }
    drop(bare_reader);
    let limit = (
        format!("bare axum, the same {} bytes", page.body.len()),
        limit.0.rate,
    );
    figures.push(Figure::rate(
        "GET 50 messages, SQLite",
        reading.0,
        (&limit.0, limit.1),
        Target::Ratio(0.25),
    ));

    say("SQLite: writing");
    let (mut limit, mut plain, mut keyed) = (Best::default(), Best::default(), Best::default());
    for _ in 0..ROUNDS {
        limit.offer(settings.posts(bare_writer.address, false).run()?);
        plain.offer(settings.posts(server.address, false).run()?);
        keyed.offer(settings.posts(server.address, true).run()?);
    }
    drop(bare_writer);
    let limit = ("bare axum + group commit", limit.0.rate);
    figures.push(Figure::rate(
        "POST a message, SQLite",
        plain.0,
        limit,
        Target::Ratio(0.5),
    ));
    figures.push(Figure::rate(
        "… with an Idempotency-Key",
        keyed.0,
        limit,
        Target::Ratio(0.4),
    ));
    figures.push(Figure::memory(
        "memory after the load, SQLite",
        server.anonymous_memory_bytes()?,
        MEMORY_AT_MOST_MIB,
    ));
    drop(server);
    figures.push(Figure::time(
        "start to first 200, SQLite",
        median_start(&setup)?,
        START_AT_MOST_MS,
    ));
    Ok(())
}

fn run_postgres(settings: &Settings, folder: &Path, figures: &mut Vec<Figure>) -> Outcome<String> {
    say("PostgreSQL: making a cluster");
    let cluster = Cluster::start(folder)?;
    let setup = Setup {
        binary: settings.binary.clone(),
        data_dir: folder.join("data-beside-postgres"),
        database_url: Some(cluster.url()),
        log: folder.join("postgres-server.log"),
    };
    fs::create_dir_all(&setup.data_dir).context("creating the data directory")?;
    drop(Server::start(&setup)?);
    say("PostgreSQL: loading");
    cluster.fill(settings.message_count)?;
    cluster.execute(postgres::SCRATCH_TABLES)?;
    let server = Server::start(&setup)?;

    say("PostgreSQL: reading");
    sample_page(server.address)?;
    let (mut limit, mut plain_query, mut reading) = (0f64, 0f64, Best::default());
    for _ in 0..ROUNDS {
        for clients in [16, 64] {
            limit = limit.max(cluster.pgbench(postgres::READ_PAGE, clients, WARM_UP, settings.duration)?);
        }
        plain_query =
            plain_query.max(cluster.pgbench(postgres::FIND_PAGE, 16, WARM_UP, settings.duration)?);
        reading.offer(settings.reads(server.address).run()?);
    }
    let limit = ("pgbench, the same rows by key", limit);
    figures.push(Figure::rate(
        "GET 50 messages, PostgreSQL",
        reading.0,
        limit,
        Target::Ratio(0.5),
    ));
    let limit = ("pgbench, one query that finds them", plain_query);
    figures.push(Figure::rate(
        "… against a plain query",
        reading.0,
        limit,
        Target::Nothing,
    ));

    say("PostgreSQL: writing");
    let (mut limit, mut plain, mut keyed) = (0f64, Best::default(), Best::default());
    for _ in 0..ROUNDS {
        // Each starts with an empty log since the last checkpoint, whoever went before.
        cluster.execute("CHECKPOINT")?;
        limit = limit.max(cluster.pgbench(
            postgres::INSERT_ONE,
            client::CONNECTIONS,
            WARM_UP,
            settings.duration,
        )?);
        cluster.execute("CHECKPOINT")?;
        plain.offer(settings.posts(server.address, false).run()?);
        cluster.execute("CHECKPOINT")?;
        keyed.offer(settings.posts(server.address, true).run()?);
    }
    let limit = ("pgbench, an insert a transaction", limit);
    figures.push(Figure::rate(
        "POST a message, PostgreSQL",
        plain.0,
        limit,
        Target::Ratio(1.0),
    ));
    figures.push(Figure::rate(
        "… with an Idempotency-Key",
        keyed.0,
        limit,
        Target::Nothing,
    ));
    drop(server);
    figures.push(Figure::time(
        "start to first 200, PostgreSQL",
        median_start(&setup)?,
        START_AT_MOST_MS,
    ));
    cluster.version()
}

impl Settings {
    fn reads(&self, address: SocketAddr) -> Load {
        let requests = (1..=data::USERS)
            .map(|user| Request::get(address, &page_path(user)))
            .collect();
        self.load(address, requests, 200)
    }

    fn posts(&self, address: SocketAddr, idempotent: bool) -> Load {
        let mut random = Random::fixed(7);
        let requests = data::busy_conversations()
            .map(|conversation_id| {
                let (sender, recipient) = data::members(conversation_id);
                let message = json!({
                    "sender_user_name": data::user_name(sender),
                    "recipient_user_name": data::user_name(recipient),
                    "body": data::body(&mut random),
                });
                Request::post(address, "/api/messages", &message.to_string(), idempotent)
            })
            .collect();
        self.load(address, requests, 201)
    }

    fn load(&self, address: SocketAddr, requests: Vec<Request>, expected_status: u16) -> Load {
        let requests = Arc::new(requests);
        Load {
            address,
            requests,
            expected_status,
            warm_up: WARM_UP,
            duration: self.duration,
        }
    }
}

#[derive(Default)]
struct Best(Measured);

impl Best {
    fn offer(&mut self, measured: Measured) {
        say(&format!("  {:.0}/s", measured.rate));
        if measured.rate > self.0.rate {
            self.0 = measured;
        }
    }
}

fn page_path(user: u64) -> String {
    format!("/api/messages/{}?limit={PAGE}&order=desc", data::user_name(user))
}

/// One answer of the server, after looking at whether it is what the load takes it for.
fn sample_page(address: SocketAddr) -> Outcome<Page> {
    let page = client::fetch(
        address,
        &Request::get(address, &page_path(1)),
        Duration::from_secs(10),
    )?;
    let text = String::from_utf8_lossy(&page.body);
    let wrong = |what: &str| {
        let start: String = text.chars().take(500).collect();
        format!("a page of messages {what}: {} {start}", page.status)
    };
    if page.status != 200 {
        return Err(wrong("was not answered"));
    }
    let Ok(Value::Array(messages)) = serde_json::from_str(&text) else {
        return Err(wrong("is not an array"));
    };
    if messages.len() != PAGE {
        return Err(wrong(&format!(
            "has {} messages instead of {PAGE}",
            messages.len()
        )));
    }
    let times: Vec<&str> = messages
        .iter()
        .filter_map(|message| message["timestamp_sent"].as_str())
        .collect();
    if times.len() != PAGE || !times.is_sorted_by(|newer, older| newer >= older) {
        return Err(wrong("is not newest first"));
    }
    Ok(page)
}

/// The median of several starts on the database as the load has left it.
fn median_start(setup: &Setup) -> Outcome<Duration> {
    say("starting");
    let mut times = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        times.push(Server::start(setup)?.start_time);
    }
    times.sort();
    Ok(times[STARTS / 2])
}

fn say(what: &str) {
    eprintln!("{what}");
}
