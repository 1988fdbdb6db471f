//! The command `posthaste restore`.

use std::path::Path;
use std::process::ExitCode;

use super::progress::ProgressLine;
use super::{block_on, environment, explain};
use crate::app;
use crate::base::ids::Rng;
use crate::config::{self, DataOptions};
use crate::store::db::backup_digest::Found;
use crate::store::db::copy::{self, Restored};

/// Replaces all data by a backup.
pub fn run(file: &Path, options: &DataOptions) -> Result<ExitCode, String> {
    let data = config::data(options)?;
    let environment = environment(data.allow_unsafe_storage);
    let context = app::migration_context(&environment.clock, &Rng::System).map_err(|error| error.to_string())?;
    let mut line = ProgressLine::new("restoring");
    let mut report = |progress| line.show(progress);
    let restored = block_on(copy::restore(file, &data.location, environment, context, &mut report))?;
    line.end();
    let Restored { kept, digest } = restored.map_err(|error| explain(&data.location.describe(), &error))?;
    eprintln!("Restored {} into {}", file.display(), data.location.describe());
    match digest {
        Found::Matches { .. } => eprintln!("The digest of {} matched its content", file.display()),
        Found::NoDigest => eprintln!(
            "Note: {} was written by an earlier version and has no digest, so only its structure was checked. Damage to a \
             text in it would not have been found",
            file.display()
        ),
    }
    if let Some(kept) = kept {
        eprintln!("The previous data is kept as {kept}: remove it when you no longer need it");
    }
    Ok(ExitCode::SUCCESS)
}
