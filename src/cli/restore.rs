//! The command `posthaste restore`.
//!
//! Invariant: all files of the backup are checked before anything is replaced, and their bytes are stored before the rows that refer
//! to them. Existing data is replaced only after a confirmation.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use super::output::note;
use super::progress::ProgressLine;
use super::{block_on, environment, explain, refuse_foreign_folder};
use crate::app;
use crate::base::error::Result;
use crate::base::ids::Rng;
use crate::blobs::Blobs;
use crate::config::{self, DataConfig, DataOptions};
use crate::domain::files::copies;
use crate::domain::files::files::{blob_error, open_blobs};
use crate::store;
use crate::store::db::backup_digest::Found;
use crate::store::db::copy::{self, Restored};
use crate::store::db::progress::Report;
use crate::store::db::{Conn, Db, migrations};
use crate::store::driver::environment::Location;

/// What a restore leaves out, and whether it asks.
#[derive(clap::Args)]
pub struct Options {
    /// Restore the database alone. Files that the storage of files does not have are lost
    #[arg(long)]
    without_files: bool,
    /// Replace existing data without asking
    #[arg(long)]
    yes: bool,
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
    if file.as_os_str() == "-" {
        return Err("a restore cannot read standard input; write the backup into a file and name it".into());
    }
    if !file.exists() {
        return Err(format!("{} does not exist", file.display()));
    }
    refuse_foreign_folder(&data)?;
    if !options.yes && !is_confirmed(file, &data)? {
        note("Nothing was changed");
        return Ok(ExitCode::FAILURE);
    }
    let mut line = ProgressLine::new("restoring");
    let outcome = block_on(restore(file, options, &data, &mut |progress| line.show(progress)))?;
    line.end();
    let Outcome { restored, copied, lost } = outcome.map_err(|error| explain(&data.location.describe(), &error))?;
    let Restored { kept, digest } = restored;
    note(&format!("Restored {} into {}", file.display(), data.location.describe()));
    match digest {
        Found::Matches { .. } => note(&format!("The digest of {} matched its content", file.display())),
        Found::NoDigest => note(&format!(
            "Note: {} was written by an earlier version and has no digest, so only its structure was checked. Damage to a \
             text in it would not have been found",
            file.display()
        )),
    }
    if let Some((files, size_bytes)) = copied {
        note(&format!("Copied {files} files ({size_bytes} bytes) to {}", data.blobs));
    }
    if lost > 0 {
        note(&format!(
            "{lost} files are not in {}: their messages show them, and reading them is answered with 410",
            data.blobs
        ));
    }
    if let Some(kept) = kept {
        note(&format!("The previous data is kept as {kept}: remove it when you no longer need it"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the operator wants the present data to be replaced. True if there is none.
fn is_confirmed(file: &Path, data: &DataConfig) -> Result<bool, String> {
    let place = data.location.describe();
    let present = block_on(present_data(data))?.map_err(|error| explain(&place, &error))?;
    let Some(present) = present else { return Ok(true) };
    let (question, answer) = (std::io::stderr().lock(), std::io::stdin());
    if !question.is_terminal() || !answer.is_terminal() {
        return Err(format!(
            "{place} has {present}, which a restore replaces. Add --yes to replace it: it is kept beside the restored data. Or \
             name another database with --data-dir or --database-url"
        ));
    }
    drop(question);
    note(&format!(
        "{place} has {present}. Replace it by {}? It is kept beside the restored data. [yes/no]",
        file.display()
    ));
    let mut line = String::new();
    answer.read_line(&mut line).map_err(|error| format!("the answer cannot be read: {error}"))?;
    Ok(["y", "yes"].iter().any(|word| line.trim().eq_ignore_ascii_case(word)))
}

/// What a restore would replace, in words. `None` if there is no database, or one without users and conversations.
async fn present_data(data: &DataConfig) -> Result<Option<String>> {
    if let Location::Sqlite(path) = &data.location
        && !path.metadata().is_ok_and(|found| found.len() > 0)
    {
        return Ok(None);
    }
    let counted = async {
        let db = Db::open(&data.location, environment(true)).await?;
        let counted = db.read((), |conn, ()| Box::pin(count(conn))).await;
        db.close().await;
        counted
    };
    match (counted.await, &data.location) {
        (Ok(Some((0, 0))), _) | (Ok(None), Location::Postgres(_)) => Ok(None),
        (Ok(Some((users, conversations))), _) => Ok(Some(format!("{users} users and {conversations} conversations"))),
        (Err(error), Location::Postgres(_)) => Err(error),
        // A file that is damaged, or that is not Posthaste's, is replaced too.
        (Ok(None) | Err(_), Location::Sqlite(_)) => Ok(Some("data that cannot be read".to_owned())),
    }
}

/// The numbers of users and conversations. `None` without a schema.
async fn count(conn: &mut Conn) -> Result<Option<(i64, i64)>> {
    if migrations::version(conn).await?.is_none() {
        return Ok(None);
    }
    let users = store::identity::users::count(conn).await?;
    Ok(Some((users, store::operations::health::count_conversations(conn).await?)))
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
