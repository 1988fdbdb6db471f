//! The checks of `posthaste doctor` on uploaded files.
//!
//! Invariant: nothing is written.

use std::path::Path;

use super::Finding;
use crate::base::error::{Error, Result};
use crate::base::time::Clock;
use crate::blobs::{Blobs, Location};
use crate::cli::explain;
use crate::cli::progress::ProgressLine;
use crate::domain::files::copies;
use crate::domain::files::files::blob_error;
use crate::domain::files::inventory::{self, Faults, Orphans, Rows, Totals};
use crate::store::db::{Db, copy};

/// Stored bytes without a row are counted after this time. Younger ones can belong to an upload that is running.
const RECENT_MICROS: i64 = 2 * 3_600 * 1_000_000;

/// Checks the files of a server.
pub async fn of_server(db: &Db, location: &Location, deep: bool) -> Vec<Finding> {
    let place = location.to_string();
    match server(db, location, &place, deep).await {
        Ok(findings) => findings,
        Err(error) => vec![Finding::Fault(explain(&place, &error))],
    }
}

async fn server(db: &Db, location: &Location, place: &str, deep: bool) -> Result<Vec<Finding>> {
    let totals = Rows::Db(db).totals().await?;
    let blobs = Blobs::open_to_read(location).await.map_err(blob_error)?;
    let mut line = ProgressLine::new("checking files");
    let faults = inventory::check(Rows::Db(db), &blobs, deep, &mut |progress| line.show(progress)).await?;
    line.end();
    let mut findings = of_files(place, totals, &faults, deep);
    let before = Clock::System.now().plus_micros(-RECENT_MICROS);
    let Orphans { count, size_bytes, .. } = inventory::find_orphans(db, &blobs, before, 0).await?;
    if count > 0 {
        findings.push(Finding::Warning(format!(
            "{count} files in {place} ({size_bytes} bytes) are not in the database; the server deletes them when they are a day old"
        )));
    }
    Ok(findings)
}

/// Checks the files beside a backup.
pub async fn of_backup(file: &Path, deep: bool) -> Vec<Finding> {
    match backup(file, deep).await {
        Ok(findings) => findings,
        Err(error) => vec![Finding::Fault(explain(&copies::folder_of(file).display().to_string(), &error))],
    }
}

async fn backup(file: &Path, deep: bool) -> Result<Vec<Finding>, Error> {
    let mut rows = copy::open_to_read(file)?;
    let totals = copies::totals(&mut rows).await?;
    if totals.stored == 0 {
        return Ok(of_lost(totals).into_iter().collect());
    }
    let folder = copies::folder_of(file).display().to_string();
    if !copies::has_folder(file) {
        return Ok(vec![Finding::Warning(format!(
            "{folder} does not exist, so the {} files of this backup can only be restored if they are still stored elsewhere",
            totals.stored
        ))]);
    }
    let blobs = copies::open_folder(file).await?;
    let mut line = ProgressLine::new("checking files");
    let faults = copies::check(&mut rows, &blobs, deep, &mut |progress| line.show(progress)).await?;
    line.end();
    Ok(of_files(&folder, totals, &faults, deep))
}

fn of_files(place: &str, totals: Totals, faults: &Faults, deep: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Totals { stored, stored_size_bytes, .. } = totals;
    let how = if deep { "SHA-256 compared" } else { "sizes compared, content not compared (use --deep)" };
    if faults.is_empty() {
        findings.push(Finding::Sound(format!("{place}: {stored} files, {stored_size_bytes} bytes, {how}")));
    } else {
        findings.push(Finding::Fault(format!(
            "{place}: {} of {stored} files are missing and {} are damaged ({}); check --blob-url, and restore a backup that has them",
            faults.missing.len(),
            faults.damaged.len(),
            faults.first_names()
        )));
    }
    findings.extend(of_lost(totals));
    findings
}

fn of_lost(totals: Totals) -> Option<Finding> {
    (totals.lost > 0).then(|| {
        Finding::Warning(format!(
            "{} files were not there when the data was backed up or restored; messages show them, and reading them is answered with \
             410",
            totals.lost
        ))
    })
}
