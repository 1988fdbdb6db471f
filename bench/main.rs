//! The load generator: figures of the server, each compared with a limit that is measured in the same run.
//!
//! `cargo bench --bench load` runs it. Environment variables: `POSTHASTE_BENCH_ONLY=sqlite|postgres` runs one database only,
//! `POSTHASTE_BENCH_PARTS=messages,callers,conversations,events,files,log-in` selects parts (default: all), `POSTHASTE_BENCH_SECONDS`
//! is the time of one measurement (default: 8), `POSTHASTE_BENCH_MESSAGES` is the number of messages in the database (default:
//! 1000000), `POSTHASTE_BENCH_FOLDER` is the folder of the databases (default: `/var/tmp`), and `POSTHASTE_BIN` is another
//! server executable. A missed target is reported and is not an error. An answer with an unexpected status is an error.

#![allow(clippy::disallowed_methods, reason = "a load generator lives by the real clock")]

mod accounts;
mod client;
mod conversations;
mod credentials;
mod data;
mod files;
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
use settings::{Databases, Part, Settings};

// The server allocates with mimalloc, and so must the limits, which run in this executable.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// With fewer messages, some users have fewer than the 50 messages of a page.
const MIN_MESSAGES: u64 = 100_000;
/// With fewer messages, some conversations are too short for the loads, or the load of reactions has too few distinct pairs of
/// emoji and message.
const MIN_MESSAGES_FOR_CONVERSATIONS: u64 = 500_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((first, rest)) if first == limits::ROLE => limits::run(rest),
        // Cargo passes further arguments (`--bench`).
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
    let databases = match std::env::var("POSTHASTE_BENCH_ONLY").as_deref() {
        Err(_) | Ok("") => Databases { sqlite: true, postgres: true },
        Ok("sqlite") => Databases { sqlite: true, postgres: false },
        Ok("postgres") => Databases { sqlite: false, postgres: true },
        Ok(other) => {
            return Err(format!("POSTHASTE_BENCH_ONLY must be sqlite or postgres, not {other:?}"));
        }
    };
    let parts = read_parts()?;
    let least = if parts.contains(&Part::Conversations) { MIN_MESSAGES_FOR_CONVERSATIONS } else { MIN_MESSAGES };
    Ok(Settings {
        binary: server::find_binary()?,
        databases,
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
        found.ok_or_else(|| {
            format!("POSTHASTE_BENCH_PARTS must be a list of {}; {name:?} is none of them", names.join(","))
        })
    };
    text.split(',').map(part).collect()
}

fn read_number(name: &str, default: u64, at_least: u64) -> Outcome<u64> {
    match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => match text.parse() {
            Ok(number) if number >= at_least => Ok(number),
            _ => Err(format!("{name} must be a number of at least {at_least}, not {text:?}")),
        },
    }
}
