//! The command line, one file a command.

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
use crate::base::error::Error;
use crate::base::ids::Rng;
use crate::base::time::Clock;
use crate::config::{self, DataOptions, ServeOptions};
use crate::http::state::RENDERER;
use crate::store::driver::environment::Environment;

/// A messaging API that people run themselves: one binary, on SQLite by default and on PostgreSQL when it grows.
#[derive(Parser)]
#[command(name = "posthaste", version, max_term_width = 110)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API until SIGTERM or Ctrl-C
    Serve {
        #[command(flatten)]
        data: DataOptions,
        #[command(flatten)]
        serve: Box<ServeOptions>,
    },
    /// Make accounts and see to them, beside a running server
    Admin {
        #[command(subcommand)]
        action: admin::Action,
    },
    /// Make, list and revoke API keys, beside a running server
    ApiKey {
        #[command(subcommand)]
        action: api_key::Action,
    },
    /// Write everything into one new file, beside a running server. The file is a SQLite database, whichever database it
    /// comes from, and can be restored into either
    Backup {
        /// The file to write; must not exist
        file: std::path::PathBuf,
        #[command(flatten)]
        data: DataOptions,
    },
    /// Put a backup in the place of everything. What was there before is kept beside it
    Restore {
        /// A file that backup wrote
        file: std::path::PathBuf,
        #[command(flatten)]
        data: DataOptions,
    },
    /// Look at the machine, the configuration and the data, or at a backup, and say what is wrong
    Doctor {
        #[command(flatten)]
        options: doctor::Options,
        #[command(flatten)]
        data: DataOptions,
    },
    /// Print the OpenAPI document
    Openapi,
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let outcome = match CommandLine::parse().command {
        Command::Serve { data, serve } => serve::run(&data, *serve),
        Command::Admin { action } => admin::run(action),
        Command::ApiKey { action } => api_key::run(action),
        Command::Backup { file, data } => backup::run(&file, &data),
        Command::Restore { file, data } => restore::run(&file, &data),
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

/// A runtime for a command that is no server.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    Ok(runtime.block_on(work))
}

/// Opens the data for a command that works beside a running server, and runs it.
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
            Error::Invalid(errors) => {
                let told: Vec<String> =
                    errors.iter().map(|error| format!("{} {}", error.field, error.detail)).collect();
                told.join("; ")
            }
            Error::Conflict { detail, .. } | Error::NotFound { detail, .. } => detail.into_owned(),
            error => explain(&place, &error),
        })
    })?
}

/// What the store needs, for a command that is no server.
fn environment(allow_unsafe_storage: bool) -> Environment {
    Environment { allow_unsafe_storage, ..Environment::new(Clock::System) }
}

/// What the operator is told: the causes too, since they own the machine.
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
