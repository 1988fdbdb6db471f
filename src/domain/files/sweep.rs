//! Deleting files that nothing uses: attachments that were never sent or whose messages are gone, resumable uploads that were not
//! completed, and bytes without an attachment.
//!
//! Invariant: bytes are deleted after the transaction that says that nothing refers to them, and their row after them. So a crash at
//! any moment leaves a row that says what is still to be done.

use std::sync::Arc;
use std::time::Duration;

use super::files::{Files, blob_error};
use crate::app::App;
use crate::base::error::Result;
use crate::blobs::BlobName;
use crate::store;

/// The name of the task.
pub const TASK: &str = "files";
/// The pause between two searches for unused files.
const INTERVAL: Duration = Duration::from_secs(2);
/// Maximum number of attachments, and of blobs, that one batch deletes.
const BATCH_LIMIT: i64 = 200;
/// After this time, an upload that has claimed its bytes has ended.
const CLAIM_MICROS: i64 = 2 * 3_600 * 1_000_000;

/// Deletes unused files, as long as the server runs.
pub async fn run(app: Arc<App>) {
    let Some(files) = &app.files else { return std::future::pending().await };
    loop {
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
    let mut ids = Vec::with_capacity(deleting.len());
    for blob in &deleting {
        let name = BlobName::new(blob.sha256, blob.id.0);
        files.blobs.delete(&name).await.map_err(blob_error)?;
        ids.push(blob.id.0);
    }
    app.db.write(ids, |conn, ids| Box::pin(store::files::blobs::delete(conn, ids))).await?;
    Ok(more || deleting.len() as i64 == BATCH_LIMIT)
}
