//! What is measured, in which order, and the target of each figure.
//!
//! Invariant: the limit and the server are measured alternately, and the best result of each counts, so that a disturbance from
//! outside does not affect one side alone. Reads are measured before writes, so that the pages stay the same.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::accounts::{self, Callers};
use crate::client::{self, Page, Request};
use crate::credentials::Credentials;
use crate::limits::Limit;
use crate::postgres::{self, Cluster};
use crate::process::{Context, Outcome, ScratchFolder};
use crate::report::{Conditions, Figure, Target};
use crate::server::{Access, Server, Setup};
use crate::settings::{Best, PAGE, Part, ROUNDS, Settings, page_path, say};
use crate::{conversations, data, files, live};

const STARTS: usize = 5;
const MEMORY_AT_MOST_MIB: f64 = 120.0;
const START_AT_MOST_MS: f64 = 150.0;

/// Measures everything that the settings select.
pub fn run(settings: &Settings) -> Outcome<(Vec<Figure>, Conditions)> {
    let folder = ScratchFolder::create()?;
    let mut figures = Vec::new();
    let mut version = None;
    if settings.databases.sqlite {
        run_sqlite(settings, folder.path(), &mut figures)?;
    }
    if settings.databases.postgres {
        version = Some(run_postgres(settings, folder.path(), &mut figures)?);
    }
    let conditions =
        Conditions { message_count: settings.message_count, duration: settings.duration, postgres: version };
    Ok((figures, conditions))
}

fn run_sqlite(settings: &Settings, folder: &Path, figures: &mut Vec<Figure>) -> Outcome<()> {
    let setup = Setup {
        binary: settings.binary.clone(),
        data_dir: folder.join("data"),
        database_url: None,
        access: Access::Open,
        jwt_secret_file: folder.join("jwt-secret"),
        log: folder.join("sqlite-server.log"),
    };
    fs::create_dir_all(&setup.data_dir).context("creating the data directory")?;
    let credentials = Credentials::make()?;
    credentials.put_jwt_secret_into(&setup.jwt_secret_file)?;
    drop(Server::start(&setup)?);
    say("SQLite: loading");
    let database = setup.data_dir.join("posthaste.db");
    data::fill_sqlite(&database, settings.message_count)?;
    // The limit copies the database file, so it is started before the server.
    let bare_writer = Limit::group_commit(folder, &database)?;
    let settle = || sync_disk(folder);
    credentials.put_into_sqlite(&database)?;
    let server = Server::start(&setup)?;
    if settings.takes(Part::Messages) {
        figures.push(read_sqlite(settings, folder, &server)?);
    }
    let callers = settings.takes(Part::Callers).then(|| Callers::of("SQLite", &server, &credentials)).transpose()?;
    if let Some(callers) = &callers {
        figures.extend(callers.read(settings)?);
    }
    if settings.takes(Part::Messages) {
        figures.extend(write_sqlite(settings, &bare_writer, &server, settle)?);
        let memory_bytes = server.anonymous_memory_bytes()?;
        figures.push(Figure::memory("memory after the load, SQLite", memory_bytes, MEMORY_AT_MOST_MIB));
    }
    drop(bare_writer);
    if let Some(callers) = &callers {
        figures.extend(callers.write(settings, settle)?);
    }
    measure_the_rest("SQLite", settings, folder, server, &setup, figures, settle)?;
    Ok(())
}

/// Runs the measurements that are the same on both databases: conversations, events, files, log-ins and starts. Ends the server before
/// the last two. `settle` runs before each write load. It finishes the background work of the load before.
fn measure_the_rest(
    database: &'static str,
    settings: &Settings,
    folder: &Path,
    server: Server,
    setup: &Setup,
    figures: &mut Vec<Figure>,
    settle: impl Fn() -> Outcome<()>,
) -> Outcome<()> {
    if settings.takes(Part::Conversations) {
        figures.extend(conversations::measure(database, settings, folder, &server, &settle)?);
    }
    if settings.takes(Part::Events) {
        figures.extend(live::measure(database, settings, folder, &server, &settle)?);
    }
    if settings.takes(Part::Files) {
        figures.extend(files::measure(database, settings, folder, &server, &settle)?);
    }
    drop(server);
    if settings.takes(Part::LogIn) {
        figures.extend(accounts::log_in(database, setup)?);
        let start = median_start(setup)?;
        figures.push(Figure::time(&format!("start to first 200, {database}"), start, START_AT_MOST_MS));
    }
    Ok(())
}

fn read_sqlite(settings: &Settings, folder: &Path, server: &Server) -> Outcome<Figure> {
    say("SQLite: reading");
    let page = sample_page(server.address)?;
    let bare = Limit::same_bytes(folder, &page)?;
    let (mut limit, mut reading) = (Best::of("limit"), Best::of("server"));
    for _ in 0..ROUNDS {
        limit.offer(settings.reads(bare.address).run()?);
        reading.offer(settings.reads(server.address).run()?);
    }
    let name = format!("bare axum, the same {} bytes", page.body.len());
    let target = Target::Ratio(0.25);
    Ok(Figure::rate("GET 50 messages, SQLite", reading.measured, (&name, limit.rate()), target))
}

/// Syncs the file system, so that no data of one measurement is written to disk during the next one.
fn sync_disk(folder: &Path) -> Outcome<()> {
    let synced = Command::new("sync").arg("--file-system").arg(folder).status().context("running sync")?;
    if synced.success() { Ok(()) } else { Err(format!("sync ended with {synced}")) }
}

fn write_sqlite(
    settings: &Settings,
    bare: &Limit,
    server: &Server,
    settle: impl Fn() -> Outcome<()>,
) -> Outcome<[Figure; 2]> {
    say("SQLite: writing");
    let (mut limit, mut plain, mut keyed) = (Best::of("limit"), Best::of("server"), Best::of("with keys"));
    for _ in 0..ROUNDS {
        settle()?;
        limit.offer(settings.posts(bare.address, false).run()?);
        settle()?;
        plain.offer(settings.posts(server.address, false).run()?);
        settle()?;
        keyed.offer(settings.posts(server.address, true).run()?);
    }
    let limit = ("bare axum + group commit", limit.rate());
    Ok([
        Figure::rate("POST a message, SQLite", plain.measured, limit, Target::Ratio(0.5)),
        Figure::rate("… with an Idempotency-Key", keyed.measured, limit, Target::Ratio(0.4)),
    ])
}

/// Measures PostgreSQL and returns its version.
fn run_postgres(settings: &Settings, folder: &Path, figures: &mut Vec<Figure>) -> Outcome<String> {
    say("PostgreSQL: making a cluster");
    let cluster = Cluster::start(folder)?;
    let setup = Setup {
        binary: settings.binary.clone(),
        data_dir: folder.join("data-beside-postgres"),
        database_url: Some(cluster.url()),
        access: Access::Open,
        jwt_secret_file: folder.join("jwt-secret"),
        log: folder.join("postgres-server.log"),
    };
    fs::create_dir_all(&setup.data_dir).context("creating the data directory")?;
    let credentials = Credentials::make()?;
    credentials.put_jwt_secret_into(&setup.jwt_secret_file)?;
    drop(Server::start(&setup)?);
    say("PostgreSQL: loading");
    cluster.fill(settings.message_count)?;
    // Collects statistics twice: first for the statements that create the scratch tables, and then for the scratch tables
    // themselves.
    cluster.vacuum()?;
    cluster.execute(postgres::SCRATCH_TABLES)?;
    cluster.vacuum()?;
    cluster.with_client(async |client| credentials.put_into_postgres(client).await)?;
    let server = Server::start(&setup)?;
    if settings.takes(Part::Messages) {
        figures.extend(read_postgres(settings, &cluster, &server)?);
    }
    let callers =
        settings.takes(Part::Callers).then(|| Callers::of("PostgreSQL", &server, &credentials)).transpose()?;
    if let Some(callers) = &callers {
        figures.extend(callers.read(settings)?);
    }
    if settings.takes(Part::Messages) {
        figures.extend(write_postgres(settings, &cluster, &server)?);
    }
    // Before each measurement, ANALYZE lets PostgreSQL plan for the present size of the tables, and a checkpoint lets every
    // measurement start with an empty log since the last checkpoint.
    let settle = || cluster.vacuum();
    if let Some(callers) = &callers {
        figures.extend(callers.write(settings, settle)?);
    }
    measure_the_rest("PostgreSQL", settings, folder, server, &setup, figures, settle)?;
    cluster.version()
}

fn read_postgres(settings: &Settings, cluster: &Cluster, server: &Server) -> Outcome<[Figure; 2]> {
    say("PostgreSQL: reading");
    sample_page(server.address)?;
    let (mut limit, mut query) = (Best::of("limit"), Best::of("plain query"));
    let mut reading = Best::of("server");
    for _ in 0..ROUNDS {
        for clients in [16, client::CONNECTIONS] {
            limit.offer(settings.pgbench(cluster, postgres::READ_PAGE, clients)?);
        }
        query.offer(settings.pgbench(cluster, postgres::FIND_PAGE, 16)?);
        reading.offer(settings.reads(server.address).run()?);
    }
    let limit = ("pgbench, the same rows by key", limit.rate());
    let query = ("pgbench, one query that finds them", query.rate());
    Ok([
        Figure::rate("GET 50 messages, PostgreSQL", reading.measured, limit, Target::Ratio(0.5)),
        Figure::rate("… against a plain query", reading.measured, query, Target::Nothing),
    ])
}

fn write_postgres(settings: &Settings, cluster: &Cluster, server: &Server) -> Outcome<[Figure; 2]> {
    say("PostgreSQL: writing");
    let (mut limit, mut plain, mut keyed) = (Best::of("limit"), Best::of("server"), Best::of("with keys"));
    for _ in 0..ROUNDS {
        // Runs a checkpoint before each measurement, so that every measurement starts with an empty log since the last
        // checkpoint.
        cluster.execute("CHECKPOINT")?;
        limit.offer(settings.pgbench(cluster, postgres::INSERT_ONE, client::CONNECTIONS)?);
        cluster.execute("CHECKPOINT")?;
        plain.offer(settings.posts(server.address, false).run()?);
        cluster.execute("CHECKPOINT")?;
        keyed.offer(settings.posts(server.address, true).run()?);
    }
    let limit = ("pgbench, an insert a transaction", limit.rate());
    Ok([
        Figure::rate("POST a message, PostgreSQL", plain.measured, limit, Target::Ratio(1.0)),
        Figure::rate("… with an Idempotency-Key", keyed.measured, limit, Target::Nothing),
    ])
}

/// Reads one page of messages from the server, and checks that it is what the load expects.
fn sample_page(address: SocketAddr) -> Outcome<Page> {
    let page = client::fetch(address, &Request::get(address, &page_path(1)), Duration::from_secs(10))?;
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
        return Err(wrong(&format!("has {} messages instead of {PAGE}", messages.len())));
    }
    let times: Vec<&str> = messages.iter().filter_map(|message| message["timestamp_sent"].as_str()).collect();
    if times.len() != PAGE || !times.is_sorted_by(|newer, older| newer >= older) {
        return Err(wrong("is not newest first"));
    }
    Ok(page)
}

/// The median time of several starts, on the database as it is after the loads.
fn median_start(setup: &Setup) -> Outcome<Duration> {
    say("starting");
    let mut times = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        times.push(Server::start(setup)?.start_time);
    }
    times.sort();
    Ok(times[STARTS / 2])
}
