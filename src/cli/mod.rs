//! The command line. Each command has its own file.

mod admin;
mod api_key;
mod backup;
mod doctor;
mod openapi;
mod progress;
mod restore;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::{App, Settings};
use crate::base::error::{Error, FieldError};
use crate::base::ids::Rng;
use crate::base::time::Clock;
use crate::config::{self, DataOptions, ServeOptions};
use crate::http::state::RENDERER;
use crate::store::driver::environment::Environment;

/// What `--version` prints. The build script sets the commit and the date.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("POSTHASTE_BUILD_COMMIT"),
    ", built ",
    env!("POSTHASTE_BUILD_DATE"),
    ")"
);

/// A self-hosted messaging server: one binary, with SQLite by default and PostgreSQL for larger installations.
#[derive(Parser)]
#[command(name = "posthaste", version = VERSION, max_term_width = 110)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server until SIGTERM or Ctrl-C
    Serve {
        #[command(flatten)]
        data: DataOptions,
        #[command(flatten)]
        serve: Box<ServeOptions>,
    },
    /// Create and manage accounts. The server may be running
    Admin {
        #[command(subcommand)]
        action: admin::Action,
    },
    /// Create, list and revoke API keys. The server may be running
    ApiKey {
        #[command(subcommand)]
        action: api_key::Action,
    },
    /// Write all data into one new file, and the uploaded files into the folder FILE.files beside it. The server may be
    /// running. The file is a SQLite database, also for data from PostgreSQL, and can be restored into either database
    Backup {
        /// File to write; it must not exist
        file: std::path::PathBuf,
        #[command(flatten)]
        options: backup::Options,
        #[command(flatten)]
        data: DataOptions,
    },
    /// Replace all data by a backup. The server may be running. The previous data is kept
    Restore {
        /// File that the command backup wrote
        file: std::path::PathBuf,
        #[command(flatten)]
        options: restore::Options,
        #[command(flatten)]
        data: DataOptions,
    },
    /// Check the machine, the configuration and the data, or a backup, and report problems
    Doctor {
        #[command(flatten)]
        options: doctor::Options,
        #[command(flatten)]
        data: DataOptions,
    },
    /// Print the OpenAPI document
    Openapi,
}

/// Runs the command given by the arguments.
pub fn run() -> ExitCode {
    let outcome = match CommandLine::parse().command {
        Command::Serve { data, serve } => serve::run(&data, *serve),
        Command::Admin { action } => admin::run(action),
        Command::ApiKey { action } => api_key::run(action),
        Command::Backup { file, options, data } => backup::run(&file, &options, &data),
        Command::Restore { file, options, data } => restore::run(&file, &options, &data),
        Command::Doctor { options, data } => doctor::run(&options, &data),
        Command::Openapi => openapi::run(),
    };
    match outcome {
        Ok(code) => code,
        Err(sentence) => {
            eprintln!("posthaste: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `work` on a single-threaded runtime, for a command other than `serve`.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the async runtime: {error}"))?;
    Ok(runtime.block_on(work))
}

/// Opens the data and runs `work`. A server may be running on the same data.
fn with_app<T>(data: &DataOptions, work: impl AsyncFnOnce(&App) -> Result<T, Error>) -> Result<T, String> {
    let data = config::data(data)?;
    let place = data.location.describe();
    block_on(async {
        let settings = Settings { allow_unsafe_storage: data.allow_unsafe_storage, ..Settings::default() };
        let opened = App::open(&data.location, settings, Clock::System, Rng::System, RENDERER).await;
        let (app, _) = opened.map_err(|error| explain(&place, &error))?;
        let outcome = work(&app).await;
        app.db.close().await;
        outcome.map_err(|error| match error {
            Error::Invalid(errors) => errors.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; "),
            Error::Conflict { detail, .. } | Error::Forbidden { detail, .. } | Error::NotFound { detail, .. } => {
                detail.into_owned()
            }
            error => explain(&place, &error),
        })
    })?
}

/// The environment of the store, for a command other than `serve`.
fn environment(allow_unsafe_storage: bool) -> Environment {
    Environment { allow_unsafe_storage, ..Environment::new(Clock::System) }
}

/// Describes an error for the operator: first `place` (the database or file that the error is about), then the error and its
/// causes.
fn explain(place: &str, error: &Error) -> String {
    match error {
        Error::Internal(source) | Error::Unavailable { source, .. } => {
            let mut text = format!("{place}: {source}");
            let mut cause = source.source();
            while let Some(error) = cause {
                text.push_str(&format!(": {error}"));
                cause = error.source();
            }
            text
        }
        error => format!("{place}: {error}"),
    }
}
