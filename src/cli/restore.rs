//! `posthaste restore`.

use std::path::Path;
use std::process::ExitCode;

use super::progress::ProgressLine;
use super::{block_on, environment, explain};
use crate::app;
use crate::base::ids::Rng;
use crate::config::{self, DataOptions};
use crate::store::db::backup_digest::Found;
use crate::store::db::copy::{self, Restored};

/// Puts a backup in the place of everything.
pub fn run(file: &Path, options: &DataOptions) -> Result<ExitCode, String> {
    let data = config::data(options)?;
    let environment = environment(data.allow_unsafe_storage);
    let context = app::migration_context(&environment.clock, &Rng::System).map_err(|error| error.to_string())?;
    let mut line = ProgressLine::new("restoring");
    let mut report = |progress| line.show(progress);
    let restored = block_on(copy::restore(file, &data.location, environment, context, &mut report))?;
    line.end();
    let Restored { kept, digest } = restored.map_err(|error| explain(&data.location.describe(), &error))?;
    eprintln!("{} holds what {} held", data.location.describe(), file.display());
    match digest {
        Found::Matches { .. } => eprintln!("the digest of {} matched its content", file.display()),
        Found::NoDigest => eprintln!(
            "note: {} has no digest, as an earlier version wrote it: only its structure was checked, and damage to a text in \
             it would not have been found",
            file.display()
        ),
    }
    if let Some(kept) = kept {
        eprintln!("what was there before is kept as {kept}: remove it when you no longer need it");
    }
    Ok(ExitCode::SUCCESS)
}
