//! Deleting files that nothing uses: attachments that were never sent or whose messages are gone, resumable uploads that were not
//! completed, and bytes without an attachment.
//!
//! Invariant: a transaction first records that nothing refers to a blob (`deleting`), then its bytes are deleted, and then its row. So
//! after a crash at any moment a row shows which bytes must still be deleted. Bytes without a row are left over from a restore, or from
//! a power loss that undid their deletion. They get a row before they are deleted, unless their id belongs to another blob.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::files::{Files, blob_error, blob_name};
use super::inventory::{self, Orphans, Rows};
use crate::app::App;
use crate::base::error::Result;
use crate::base::ids::EmojiId;
use crate::blobs::BlobError;
use crate::store;

/// The name of the task.
pub const TASK: &str = "files";
/// The pause between two searches for unused files.
const INTERVAL: Duration = Duration::from_secs(2);
/// Maximum number of attachments, and of blobs, that one batch deletes.
const BATCH_LIMIT: i64 = 200;
/// Age after which a claim is taken for abandoned. Longer than the time limit of an upload request (`UPLOAD_TIME` in the edge).
const CLAIM_MICROS: i64 = 2 * 3_600 * 1_000_000;
/// The pause between two counts of all files. Unfinished files of earlier processes are deleted in the same interval.
const COUNT_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Time between the start of the server and the first search for orphans: stored bytes without a row.
const FIRST_ORPHAN_SEARCH: Duration = Duration::from_secs(3_600);
/// The pause between two searches for orphans.
const ORPHAN_INTERVAL: Duration = Duration::from_secs(24 * 3_600);
/// The pause after a search that failed or that did not delete all orphans.
const NEXT_ORPHAN_SEARCH: Duration = Duration::from_secs(10 * 60);
/// Minimum age of an orphan that is deleted. Newer bytes may belong to a restore that has not written their rows yet.
pub const ORPHAN_MICROS: i64 = 24 * 3_600 * 1_000_000;
/// Maximum number of orphans that one search deletes.
const ORPHAN_LIMIT: usize = 10_000;
/// If there are more orphans than this, and they are more than half of the stored objects, nothing is deleted: the location probably
/// belongs to another server.
const SUSPICIOUS_ORPHANS: u64 = 1_000;

/// Deletes unused files, as long as the server runs.
pub async fn run(app: Arc<App>) {
    let Some(files) = &app.files else { return std::future::pending().await };
    let mut next_count = Instant::now();
    let mut next_orphan_search = Instant::now() + FIRST_ORPHAN_SEARCH;
    loop {
        if next_count <= Instant::now() {
            next_count = Instant::now() + COUNT_INTERVAL;
            if let Err(error) = count(&app, files).await {
                tracing::warn!(%error, "the files could not be counted");
            }
        }
        if next_orphan_search <= Instant::now() {
            let pause = match delete_orphans(&app, files).await {
                Ok(true) => ORPHAN_INTERVAL,
                Ok(false) => NEXT_ORPHAN_SEARCH,
                Err(error) => {
                    tracing::warn!(%error, "files without a row could not be searched; trying again later");
                    NEXT_ORPHAN_SEARCH
                }
            };
            next_orphan_search = Instant::now() + pause;
        }
        match batch(&app, files).await {
            Ok(true) => {}
            Ok(false) => tokio::time::sleep(INTERVAL).await,
            Err(error) => {
                tracing::warn!(%error, "unused files could not be deleted; trying again");
                tokio::time::sleep(INTERVAL).await;
            }
        }
    }
}

/// Deletes one batch. Returns whether there may be more to delete.
///
/// # Errors
/// Errors of the database and of the store of bytes.
pub async fn batch(app: &App, files: &Files) -> Result<bool> {
    let mut more = false;
    if app.clock.is_trusted() {
        let now = app.clock.now();
        let expired =
            app.db.read(now, |conn, now| Box::pin(store::files::attachments::expired(conn, *now, BATCH_LIMIT))).await?;
        if !expired.is_empty() {
            more = expired.len() as i64 == BATCH_LIMIT;
            app.db
                .write((expired, now), |conn, (expired, now)| {
                    Box::pin(store::files::attachments::delete_unused(conn, expired, *now))
                })
                .await?;
        }
        let uploads = app
            .db
            .read(now, |conn, now| Box::pin(store::files::resumable_uploads::expired(conn, *now, BATCH_LIMIT)))
            .await?;
        if !uploads.is_empty() {
            app.db
                .write(uploads, |conn, uploads| Box::pin(store::files::resumable_uploads::delete(conn, uploads)))
                .await?;
        }
        let before = now.plus_micros(-CLAIM_MICROS);
        if app.db.read(before, |conn, before| Box::pin(store::files::blobs::has_old_claims(conn, *before))).await? {
            app.db.write(before, |conn, before| Box::pin(store::files::blobs::give_up_claims(conn, *before))).await?;
        }
    }
    let deleting = app.db.read((), |conn, ()| Box::pin(store::files::blobs::deleting(conn, BATCH_LIMIT))).await?;
    if deleting.is_empty() {
        return Ok(more);
    }
    let (mut deleted, mut failed, mut failure) = (Vec::new(), Vec::new(), None);
    for blob in &deleting {
        match files.blobs.delete(&blob_name(blob)).await {
            Ok(()) => deleted.push(blob.id.0),
            Err(error @ BlobError::Unavailable(_)) => {
                failure = Some(error);
                break;
            }
            Err(error) => {
                failed.push(blob.id.0);
                failure = Some(error);
            }
        }
    }
    app.db
        .write((deleted, failed, app.clock.now()), |conn, (deleted, failed, now)| {
            Box::pin(async move {
                store::files::blobs::delete(conn, deleted).await?;
                // They come last in the next batch, so that they do not stop the others.
                store::files::blobs::postpone(conn, failed, *now).await
            })
        })
        .await?;
    match failure {
        Some(error) => Err(blob_error(error)),
        None => Ok(more || deleting.len() as i64 == BATCH_LIMIT),
    }
}

/// Counts the files for the metrics, and deletes unused emoji and unfinished files of processes that were killed.
async fn count(app: &App, files: &Files) -> Result<()> {
    let totals = Rows::Db(&app.db).totals().await?;
    app.metrics.files.set(totals.stored);
    app.metrics.files_size_bytes.set(totals.stored_size_bytes);
    delete_unused_emoji(app).await?;
    files.blobs.delete_unfinished().await.map_err(blob_error)
}

/// Removes the rows and pictures of custom emoji that are marked as deleted and that no reaction shows any more.
///
/// # Errors
/// Errors of the database.
pub async fn delete_unused_emoji(app: &App) -> Result<()> {
    let mut after = EmojiId(0);
    loop {
        let input = (after, BATCH_LIMIT, app.clock.now());
        let deleted = app
            .db
            .write(input, |conn, (after, limit, now)| {
                Box::pin(async move {
                    let deleted = store::files::custom_emoji::deleted_after(conn, *after, *limit).await?;
                    for id in &deleted {
                        store::files::custom_emoji::delete(conn, *id, *now).await?;
                    }
                    Ok(deleted)
                })
            })
            .await?;
        let Some(last) = deleted.last() else { return Ok(()) };
        after = *last;
    }
}

/// Deletes stored bytes that have no row and are older than a day. [`batch`] deletes those that get a row here. Returns whether
/// the search is complete: if not, another search finds the rest.
///
/// # Errors
/// Errors of the database and of the store of bytes.
pub async fn delete_orphans(app: &App, files: &Files) -> Result<bool> {
    if !app.clock.is_trusted() {
        return Ok(false);
    }
    let now = app.clock.now();
    let before = now.plus_micros(-ORPHAN_MICROS);
    let Orphans { listed, count, size_bytes, first } =
        inventory::find_orphans(&app.db, &files.blobs, before, ORPHAN_LIMIT).await?;
    if count == 0 {
        return Ok(true);
    }
    if count > SUSPICIOUS_ORPHANS && count > listed / 2 {
        tracing::error!(
            count,
            listed,
            "most of the stored files have no row in this database, so none of them is deleted; check --blob-url, which may name \
             the files of another server"
        );
        return Ok(true);
    }
    let is_complete = first.len() as u64 == count;
    for orphans in first.chunks(usize::try_from(BATCH_LIMIT).unwrap_or(1)) {
        let orphans = orphans.to_vec();
        app.db
            .write((orphans.clone(), now), |conn, (orphans, now)| {
                Box::pin(store::files::blobs::adopt_orphans(conn, orphans, *now))
            })
            .await?;
        // These objects got no row, because their ids belong to other blobs. No upload can ever use their names.
        for orphan in inventory::without_row(&app.db, orphans).await? {
            files.blobs.delete(&blob_name(&orphan)).await.map_err(blob_error)?;
        }
    }
    tracing::info!(count, size_bytes, "deleting stored files that have no row");
    Ok(is_complete)
}
