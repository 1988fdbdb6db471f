//! The command `posthaste backup`.

use std::path::Path;
use std::process::ExitCode;

use super::progress::ProgressLine;
use super::{block_on, environment, explain};
use crate::config::{self, DataOptions};
use crate::store::db::copy;

/// Writes all data into a new file.
pub fn run(file: &Path, options: &DataOptions) -> Result<ExitCode, String> {
    let data = config::data(options)?;
    let mut line = ProgressLine::new("backing up");
    // A backup only reads the data, and unsafe storage is a good reason to make one.
    let environment = environment(true);
    let copied = block_on(copy::backup(&data.location, file, environment, &mut |progress| line.show(progress)))?;
    line.end();
    copied.map_err(|error| explain(&data.location.describe(), &error))?;
    eprintln!("Wrote a backup of {} to {}", data.location.describe(), file.display());
    Ok(ExitCode::SUCCESS)
}
