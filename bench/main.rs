//! The load generator: figures of the server, each beside its limit measured in the same run.
//!
//! `cargo bench --bench load` runs it. `POSTHASTE_BENCH_ONLY=sqlite|postgres` runs one half,
//! `POSTHASTE_BENCH_PARTS=messages,callers,conversations,events,log-in` some of it (all),
//! `POSTHASTE_BENCH_SECONDS` (8) is the time of one measurement, `POSTHASTE_BENCH_MESSAGES` (1000000)
//! the size of the history, `POSTHASTE_BENCH_FOLDER` the place of the databases (`/var/tmp`), and
//! `POSTHASTE_BIN` another server. A missed target is reported, not an error: an answer with a wrong
//! status is one.

#![allow(clippy::disallowed_methods, reason = "a load generator lives by the real clock")]

mod accounts;
mod client;
mod conversations;
mod credentials;
mod data;
mod limits;
mod live;
mod plan;
mod postgres;
mod process;
mod report;
mod server;
mod settings;
mod turns;

use std::process::ExitCode;
use std::time::Duration;

use process::Outcome;
use settings::{Halves, Part, Settings};

// The limits run in this executable, and the server allocates with mimalloc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Below this, some user has fewer than the 50 messages of a page.
const LEAST_MESSAGES: u64 = 100_000;
/// Below this, some conversation is shorter than what is reacted to and read, or the distinct reactions run out.
const LEAST_MESSAGES_FOR_CONVERSATIONS: u64 = 500_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((first, rest)) if first == limits::ROLE => limits::run(rest),
        // Whatever else there is comes from cargo (`--bench`).
        _ => bench(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if process::interrupted() => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Outcome<()> {
    process::watch_for_interrupt()?;
    let settings = read_settings()?;
    let (figures, conditions) = plan::run(&settings)?;
    report::publish(&figures, &conditions)
}

fn read_settings() -> Outcome<Settings> {
    let halves = match std::env::var("POSTHASTE_BENCH_ONLY").as_deref() {
        Err(_) | Ok("") => Halves { sqlite: true, postgres: true },
        Ok("sqlite") => Halves { sqlite: true, postgres: false },
        Ok("postgres") => Halves { sqlite: false, postgres: true },
        Ok(other) => {
            return Err(format!("POSTHASTE_BENCH_ONLY is sqlite or postgres, not {other:?}"));
        }
    };
    let parts = read_parts()?;
    let least = if parts.contains(&Part::Conversations) { LEAST_MESSAGES_FOR_CONVERSATIONS } else { LEAST_MESSAGES };
    Ok(Settings {
        binary: server::find_binary()?,
        halves,
        parts,
        message_count: read_number("POSTHASTE_BENCH_MESSAGES", 1_000_000, least)?,
        duration: Duration::from_secs(read_number("POSTHASTE_BENCH_SECONDS", 8, 1)?),
    })
}

fn read_parts() -> Outcome<Vec<Part>> {
    let text = std::env::var("POSTHASTE_BENCH_PARTS").unwrap_or_default();
    if text.is_empty() {
        return Ok(Part::ALL.to_vec());
    }
    let part = |name: &str| {
        let names = Part::ALL.map(Part::name);
        let found = Part::ALL.into_iter().find(|part| part.name() == name);
        found.ok_or_else(|| format!("POSTHASTE_BENCH_PARTS are of {}, not {name:?}", names.join(",")))
    };
    text.split(',').map(part).collect()
}

fn read_number(name: &str, default: u64, at_least: u64) -> Outcome<u64> {
    match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => match text.parse() {
            Ok(number) if number >= at_least => Ok(number),
            _ => Err(format!("{name} is a number from {at_least} on, not {text:?}")),
        },
    }
}
