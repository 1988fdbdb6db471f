//! The command `posthaste config check`, and the checks of the options that `posthaste doctor` makes too.
//!
//! Invariant: nothing is opened, created or called, except files with keys, which are read.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;

use super::block_on;
use super::doctor::{Finding, permissions, print};
use crate::base::ids::Rng;
use crate::base::metrics::Metrics;
use crate::base::time::Clock;
use crate::config::{self, DataOptions, ServeConfig, ServeOptions};
use crate::domain::access::principal::Access;
use crate::domain::identity::jwt::{JwtVerifier, KeySource};
use crate::mail::Mailer;

/// The subcommands.
#[derive(Subcommand)]
pub enum Action {
    /// Check the options, the variables and the configuration file as serve would, and report problems. Give it the options
    /// of the server
    Check {
        #[command(flatten)]
        data: DataOptions,
        #[command(flatten)]
        serve: Box<ServeOptions>,
    },
}

/// Runs the checks and prints the results. The exit status is 1 if `serve` would refuse to start.
pub fn run(action: Action) -> Result<ExitCode, String> {
    let Action::Check { data, serve } = action;
    print(findings(&data, *serve)?)
}

/// Checks the options of `serve`.
pub fn findings(data: &DataOptions, serve: ServeOptions) -> Result<Vec<Finding>, String> {
    let mut findings: Vec<Finding> = config::environment::unknown().into_iter().map(Finding::Warning).collect();
    if let Some(file) = config::file::path(data.config.as_deref()) {
        findings.extend(permissions::of_file(&file));
    }
    match config::serve(data, serve) {
        Ok((config, _)) => findings.extend(of_settings(&config)?),
        Err(sentence) => findings.push(Finding::Fault(sentence)),
    }
    Ok(findings)
}

fn of_settings(config: &ServeConfig) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    let settings = &config.settings;
    if let Some(jwt) = &settings.jwt {
        // Keys at a URL are fetched when the server runs. It starts without them.
        let file = match &jwt.keys {
            KeySource::Hs256File(file) => Some((file.as_path(), true)),
            KeySource::Jwks(place) if !place.contains("://") => Some((Path::new(place), false)),
            KeySource::Jwks(_) => None,
        };
        if let Some((file, is_secret)) = file {
            if let Err(sentence) = block_on(JwtVerifier::open(jwt.clone(), Clock::System.now()))? {
                findings.push(Finding::Fault(sentence));
            } else if is_secret {
                findings.extend(permissions::of_file(file));
            }
        }
    }
    if let Some(mail) = &settings.mail
        && let Err(sentence) = Mailer::new(mail, Clock::System, &Rng::System, Arc::new(Metrics::new()))
    {
        findings.push(Finding::Fault(sentence));
    }
    if !findings.iter().any(|finding| matches!(finding, Finding::Fault(_))) {
        let access = if settings.access == Access::Open { "open" } else { "secured" };
        let file = match &config.data.file {
            Some(file) => format!("configuration file {}", file.display()),
            None => "no configuration file".to_owned(),
        };
        findings.push(Finding::Sound(format!(
            "options are valid: listen on {}, {access} access, {}, files in {}, {file}",
            config.listen,
            config.data.location.describe(),
            config.data.blobs
        )));
    }
    Ok(findings)
}
