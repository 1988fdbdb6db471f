//! The command `posthaste backup`.
//!
//! Invariant: the folder with the files gets its name before the file of the database does. So a backup whose file exists has all its
//! files. Standard output holds nothing but a backup, and only if it was asked for.

use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::output::{failed, note};
use super::progress::ProgressLine;
use super::{block_on, environment, explain};
use crate::base::error::{Error, Result};
use crate::base::ids::{Rng, hex};
use crate::blobs::Blobs;
use crate::config::{self, DataConfig, DataOptions};
use crate::domain::files::copies::{self, BackedUp};
use crate::domain::files::files::blob_error;
use crate::domain::files::inventory::Totals;
use crate::store::db::Db;
use crate::store::db::copy::PartialBackup;
use crate::store::db::progress::Report;
use crate::store::driver::files::folder_of;

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

/// Writes all data into a new file, and the uploaded files into a folder beside it. With the file name `-` writes it to standard
/// output.
pub fn run(file: &Path, options: &Options, data: &DataOptions) -> Result<ExitCode, String> {
    let data = config::data(data)?;
    if file.as_os_str() == "-" {
        return to_standard_output(options, &data);
    }
    let files = make(file, options, &data, false)?;
    note(&format!("Wrote a backup of {} to {}", data.location.describe(), file.display()));
    note_files(file, files);
    Ok(ExitCode::SUCCESS)
}

/// Makes a backup. If it must be a single file, uploaded files are an error.
fn make(file: &Path, options: &Options, data: &DataConfig, single: bool) -> Result<Files, String> {
    let mut line = ProgressLine::new("backing up");
    let made = block_on(back_up(file, options, data, single, &mut |progress| line.show(progress)))?;
    line.end();
    made.map_err(|error| explain(&data.location.describe(), &error))
}

/// A backup is made in a private folder for temporary files, because SQLite writes its pages in no order, and then copied.
fn to_standard_output(options: &Options, data: &DataConfig) -> Result<ExitCode, String> {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        return Err(
            "standard output is a terminal, and a backup is no text; name a file, or write it into a pipe".into()
        );
    }
    let folder = TemporaryFolder::make()?;
    let file = folder.0.join("backup.db");
    let files = make(&file, options, data, true)?;
    let copied = std::fs::File::open(&file).and_then(|mut file| std::io::copy(&mut file, &mut out));
    copied.and_then(|_| out.flush()).map_err(|error| failed(&error))?;
    note(&format!("Wrote a backup of {} to standard output", data.location.describe()));
    note_files(&file, files);
    Ok(ExitCode::SUCCESS)
}

/// A folder that only its owner can use. It is removed when this value is dropped.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn make() -> Result<Self, String> {
        use std::os::unix::fs::DirBuilderExt;
        let random: [u8; 8] = Rng::System.bytes().map_err(|error| format!("cannot read random bytes: {error}"))?;
        let path = std::env::temp_dir().join(format!("posthaste-backup-{}", hex(&random)));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| format!("{} cannot be created: {error}; set TMPDIR to another folder", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            note(&format!("{} could not be removed: {error}", self.0.display()));
        }
    }
}

fn note_files(file: &Path, files: Files) {
    match files {
        Files::None => {}
        Files::LeftOut(totals) => {
            note(&format!("{} files ({} bytes) are not in the backup", totals.stored, totals.stored_size_bytes));
        }
        Files::Copied(BackedUp { files, size_bytes, deleted_meanwhile, lost }) => {
            note(&format!("Copied {files} files ({size_bytes} bytes) to {}", copies::folder_of(file).display()));
            if deleted_meanwhile > 0 {
                note(&format!("{deleted_meanwhile} files were deleted during the backup and are not in it"));
            }
            if !lost.is_empty() {
                let (missing, damaged) = (lost.missing.len(), lost.damaged.len());
                note(&format!("{missing} missing and {damaged} damaged files are not in it: {}", lost.first_names()));
            }
        }
    }
}

async fn back_up(file: &Path, options: &Options, data: &DataConfig, single: bool, report: Report<'_>) -> Result<Files> {
    if !folder_of(file).is_dir() {
        let folder = folder_of(file).display();
        return Err(Error::internal(format!("the folder {folder} does not exist; create it, or name another file")));
    }
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
    } else if single {
        return Err(Error::internal(format!(
            "the {} uploaded files cannot be written to standard output; name a file, or add --without-files",
            totals.stored
        )));
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
