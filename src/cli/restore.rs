//! The command `posthaste restore`.
//!
//! Invariant: all files of the backup are checked before anything is replaced, and their bytes are stored before the rows that refer
//! to them.

use std::path::Path;
use std::process::ExitCode;

use super::progress::ProgressLine;
use super::{block_on, environment, explain};
use crate::app;
use crate::base::error::Result;
use crate::base::ids::Rng;
use crate::blobs::Blobs;
use crate::config::{self, DataConfig, DataOptions};
use crate::domain::files::copies;
use crate::domain::files::files::{blob_error, open_blobs};
use crate::store::db::backup_digest::Found;
use crate::store::db::copy::{self, Restored};
use crate::store::db::progress::Report;

/// What a restore leaves out.
#[derive(clap::Args)]
pub struct Options {
    /// Restore the database alone. Files that the storage of files does not have are lost
    #[arg(long)]
    without_files: bool,
}

/// The result for the operator.
struct Outcome {
    restored: Restored,
    /// The number of files that were copied, and their bytes.
    copied: Option<(u64, u64)>,
    /// The number of files that are not there after a restore without files.
    lost: usize,
}

/// Replaces all data by a backup.
pub fn run(file: &Path, options: &Options, data: &DataOptions) -> Result<ExitCode, String> {
    let data = config::data(data)?;
    let mut line = ProgressLine::new("restoring");
    let outcome = block_on(restore(file, options, &data, &mut |progress| line.show(progress)))?;
    line.end();
    let Outcome { restored, copied, lost } = outcome.map_err(|error| explain(&data.location.describe(), &error))?;
    let Restored { kept, digest } = restored;
    eprintln!("Restored {} into {}", file.display(), data.location.describe());
    match digest {
        Found::Matches { .. } => eprintln!("The digest of {} matched its content", file.display()),
        Found::NoDigest => eprintln!(
            "Note: {} was written by an earlier version and has no digest, so only its structure was checked. Damage to a \
             text in it would not have been found",
            file.display()
        ),
    }
    if let Some((files, size_bytes)) = copied {
        eprintln!("Copied {files} files ({size_bytes} bytes) to {}", data.blobs);
    }
    if lost > 0 {
        eprintln!(
            "{lost} files are not in {}: their messages show them, and reading them is answered with 410",
            data.blobs
        );
    }
    if let Some(kept) = kept {
        eprintln!("The previous data is kept as {kept}: remove it when you no longer need it");
    }
    Ok(ExitCode::SUCCESS)
}

async fn restore(file: &Path, options: &Options, data: &DataConfig, report: Report<'_>) -> Result<Outcome> {
    let environment = environment(data.allow_unsafe_storage);
    let context = app::migration_context(&environment.clock, &Rng::System)?;
    copy::inspect(file, false, report)?;
    let mut rows = copy::open_to_read(file)?;
    if copies::totals(&mut rows).await?.stored == 0 {
        let restored = copy::restore(file, &data.location, environment, context, Vec::new(), report).await?;
        return Ok(Outcome { restored, copied: None, lost: 0 });
    }
    if options.without_files {
        let target = Blobs::open_to_read(&data.blobs).await.map_err(blob_error)?;
        let lost = copies::check(&mut rows, &target, false, report).await?.ids();
        let count = lost.len();
        let restored = copy::restore(file, &data.location, environment, context, lost, report).await?;
        return Ok(Outcome { restored, copied: None, lost: count });
    }
    let folder = copies::open_folder(file).await?;
    let faults = copies::check(&mut rows, &folder, true, report).await?;
    if !faults.is_empty() {
        return Err(copies::unusable(&faults));
    }
    let target = open_blobs(&data.blobs, &data.data_dir.join("uploads")).await?;
    let copied = copies::restore(&mut rows, &folder, &target, report).await?;
    let restored = copy::restore(file, &data.location, environment, context, Vec::new(), report).await?;
    copies::repair(&mut rows, &folder, &target, report).await?;
    Ok(Outcome { restored, copied: Some(copied), lost: 0 })
}
