//! `posthaste restore`.

use std::path::Path;
use std::process::ExitCode;

use super::progress::ProgressLine;
use super::{block_on, environment, explain};
use crate::app;
use crate::config::{self, DataOptions};
use crate::ids::Rng;
use crate::store::copy;

/// Puts a backup in the place of everything.
pub fn run(file: &Path, options: &DataOptions) -> Result<ExitCode, String> {
    let data = config::data(options)?;
    let environment = environment(data.allow_unsafe_storage);
    let context = app::migration_context(&environment.clock, &Rng::System).map_err(|error| error.to_string())?;
    let mut line = ProgressLine::new("restoring");
    let mut report = |progress| line.show(progress);
    let restored = block_on(copy::restore(file, &data.location, environment, context, &mut report))?;
    line.end();
    let kept = restored.map_err(|error| explain(&data.location.describe(), &error))?;
    eprintln!("{} holds what {} held", data.location.describe(), file.display());
    if let Some(kept) = kept {
        eprintln!("what was there before is kept as {kept}: remove it when you no longer need it");
    }
    Ok(ExitCode::SUCCESS)
}
