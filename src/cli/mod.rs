//! The command line. Each command has its own file.

mod admin;
mod api_key;
mod backup;
mod check;
mod completions;
mod doctor;
mod man;
mod openapi;
mod output;
mod progress;
mod restore;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::{App, Settings};
use crate::base::error::{Error, FieldError};
use crate::base::ids::Rng;
use crate::base::time::Clock;
use crate::config::{self, DataConfig, DataOptions, ServeOptions};
use crate::http::state::RENDERER;
use crate::store;
use crate::store::db::{Db, migrations};
use crate::store::driver::environment::{Environment, Location};

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
///
/// Start with "posthaste serve --demo": a server with example data on http://127.0.0.1:8000.
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
        /// File to write; it must not exist. With - the backup is written to standard output
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
    /// Check the machine, the options and the data, or a backup, and report problems. Give it the options of the server
    Doctor {
        #[command(flatten)]
        options: doctor::Options,
        #[command(flatten)]
        data: DataOptions,
        #[command(flatten)]
        serve: Box<ServeOptions>,
    },
    /// Check the configuration without starting a server
    Config {
        #[command(subcommand)]
        action: check::Action,
    },
    /// Print the OpenAPI document
    Openapi,
    /// Print a script that completes the commands and options in a shell
    Completions {
        /// The shell
        #[arg(value_name = "bash|zsh|fish|elvish|powershell")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, for example into posthaste.1
    Man {
        #[command(flatten)]
        options: man::Options,
    },
}

/// Runs the command given by the arguments.
pub fn run() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => {
            // An empty variable is reported by its own name, and not as the invalid value of a flag that nobody gave.
            if error.use_stderr()
                && let Err(sentence) = config::environment::refuse_empty()
            {
                output::note(&format!("posthaste: {sentence}"));
                return ExitCode::FAILURE;
            }
            error.exit()
        }
    };
    let outcome = match line.command {
        Command::Serve { data, serve } => serve::run(&data, *serve),
        Command::Admin { action } => admin::run(action),
        Command::ApiKey { action } => api_key::run(action),
        Command::Backup { file, options, data } => backup::run(&file, &options, &data),
        Command::Restore { file, options, data } => restore::run(&file, &options, &data),
        Command::Doctor { options, data, serve } => doctor::run(&options, &data, *serve),
        Command::Config { action } => check::run(action),
        Command::Openapi => openapi::run(),
        Command::Completions { shell } => completions::run(shell),
        Command::Man { options } => man::run(&options),
    };
    match outcome {
        Ok(code) => code,
        Err(sentence) => {
            output::note(&format!("posthaste: {sentence}"));
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

/// What a command does if there is no database.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfMissing {
    /// It fails. A database that a mistyped option names must not come into being beside the one of the server.
    Fail,
    /// It creates the database, for the first account of a server that was not started yet.
    Create,
}

/// Opens the data and runs `work`. A server may be running on the same data. Standard error says which database it is.
fn with_app<T>(
    data: &DataOptions,
    if_missing: IfMissing,
    work: impl AsyncFnOnce(&App) -> Result<T, Error>,
) -> Result<T, String> {
    let data = config::data(data)?;
    let place = data.location.describe();
    block_on(async {
        let is_new = is_missing(&data).await?;
        if is_new && if_missing == IfMissing::Fail {
            return Err(format!(
                "{place} has no data of Posthaste, and this command does not create a database. Name the database of your \
                 server with --data-dir or --database-url. posthaste serve and posthaste admin create-user create a new one"
            ));
        }
        if is_new {
            refuse_foreign_folder(&data)?;
        }
        let settings = Settings { allow_unsafe_storage: data.allow_unsafe_storage, ..Settings::default() };
        let opened = App::open(&data.location, settings, Clock::System, Rng::System, RENDERER).await;
        let (app, _) = opened.map_err(|error| explain(&place, &error))?;
        output::note(&format!("{}: {place}", if is_new { "New database" } else { "Database" }));
        let outcome = work(&app).await;
        app.db.close().await;
        outcome.map_err(|error| match error {
            Error::Invalid(errors) => describe(&errors),
            Error::Conflict { detail, .. } | Error::Forbidden { detail, .. } | Error::NotFound { detail, .. } => {
                detail.into_owned()
            }
            error => explain(&place, &error),
        })
    })?
}

/// The errors of fields in one sentence.
fn describe(errors: &[FieldError]) -> String {
    errors.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; ")
}

/// Whether there is no database yet, or one without a schema. A schema of an earlier version is an error: only a server
/// upgrades it, because a server of that version may still be running.
async fn is_missing(data: &DataConfig) -> Result<bool, String> {
    if let Location::Sqlite(file) = &data.location
        && store::sqlite::is_absent(file)
    {
        return Ok(true);
    }
    let place = data.location.describe();
    let db = Db::open(&data.location, environment(data.allow_unsafe_storage)).await;
    let db = db.map_err(|error| explain(&place, &error))?;
    let version = db.read((), |conn, ()| Box::pin(migrations::version(conn))).await;
    db.close().await;
    match version.map_err(|error| explain(&place, &error))? {
        None => Ok(true),
        Some(version) if version < migrations::NEWEST => Err(format!(
            "{place} has the schema version {version}, and this program has {}. Stop the servers of the earlier version and \
             start posthaste serve of this version once: it upgrades the schema",
            migrations::NEWEST
        )),
        Some(_) => Ok(false),
    }
}

/// Refuses to create files as root in a folder of another user. A server of that user could not open them.
fn refuse_foreign_folder(data: &DataConfig) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    let Location::Sqlite(file) = &data.location else { return Ok(()) };
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    // A folder that does not exist yet is created in the nearest one that does.
    let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
    let owner = file.ancestors().skip(1).find_map(|folder| Some((folder, folder.metadata().ok()?.uid())));
    match owner {
        Some((folder, user)) if user != 0 => Err(format!(
            "{} belongs to the user with the number {user}, and a server of that user could not open what root creates there. Run \
             this command as that user: sudo -u '#{user}' posthaste …",
            folder.display()
        )),
        _ => Ok(()),
    }
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
