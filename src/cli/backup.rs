//! The command `posthaste backup`.
//!
//! Invariant: the folder with the files gets its name before the file of the database does. So a backup whose file exists has all its
//! files.

use std::path::Path;
use std::process::ExitCode;

use super::progress::ProgressLine;
use super::{block_on, environment, explain};
use crate::base::error::Result;
use crate::blobs::Blobs;
use crate::config::{self, DataConfig, DataOptions};
use crate::domain::files::copies::{self, BackedUp};
use crate::domain::files::files::blob_error;
use crate::domain::files::inventory::Totals;
use crate::store::db::Db;
use crate::store::db::copy::PartialBackup;
use crate::store::db::progress::Report;

/// What a backup leaves out.
#[derive(clap::Args)]
pub struct Options {
    /// Leave out uploaded files, for example because their bucket has copies of its own
    #[arg(long)]
    without_files: bool,
    /// Leave out uploaded files that are missing or damaged, instead of ending with an error
    #[arg(long)]
    skip_lost_files: bool,
}

/// The files of a backup.
enum Files {
    None,
    LeftOut(Totals),
    Copied(BackedUp),
}

/// Writes all data into a new file, and the uploaded files into a folder beside it.
pub fn run(file: &Path, options: &Options, data: &DataOptions) -> Result<ExitCode, String> {
    if file.as_os_str() == "-" {
        return Err("a backup cannot be written to standard output; name a file".into());
    }
    let data = config::data(data)?;
    let mut line = ProgressLine::new("backing up");
    let made = block_on(back_up(file, options, &data, &mut |progress| line.show(progress)))?;
    line.end();
    let files = made.map_err(|error| explain(&data.location.describe(), &error))?;
    eprintln!("Wrote a backup of {} to {}", data.location.describe(), file.display());
    match files {
        Files::None => {}
        Files::LeftOut(totals) => {
            eprintln!("{} files ({} bytes) are not in the backup", totals.stored, totals.stored_size_bytes);
        }
        Files::Copied(BackedUp { files, size_bytes, deleted_meanwhile, lost }) => {
            eprintln!("Copied {files} files ({size_bytes} bytes) to {}", copies::folder_of(file).display());
            if deleted_meanwhile > 0 {
                eprintln!("{deleted_meanwhile} files were deleted during the backup and are not in it");
            }
            if !lost.is_empty() {
                let (missing, damaged) = (lost.missing.len(), lost.damaged.len());
                eprintln!("{missing} missing and {damaged} damaged files are not in it: {}", lost.first_names());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn back_up(file: &Path, options: &Options, data: &DataConfig, report: Report<'_>) -> Result<Files> {
    // A backup only reads the data, and unsafe storage is a good reason to make one.
    let environment = environment(true);
    let backup = PartialBackup::copy(&data.location, file, environment.clone(), report).await?;
    let totals = {
        let mut rows = backup.open()?;
        copies::totals(&mut rows).await?
    };
    let files = if totals.stored == 0 {
        Files::None
    } else if options.without_files {
        Files::LeftOut(totals)
    } else {
        let source = Blobs::open_to_read(&data.blobs).await.map_err(blob_error)?;
        let live = Db::open(&data.location, environment).await?;
        let copied = copies::back_up(&backup, &live, &source, options.skip_lost_files, report).await;
        live.close().await;
        Files::Copied(copied?)
    };
    let published = backup.publish(report);
    if published.is_err() && matches!(files, Files::Copied(_)) && !file.exists() {
        copies::discard(file)?;
    }
    published.map(|()| files)
}
