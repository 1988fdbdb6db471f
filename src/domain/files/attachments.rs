//! Attachments: uploaded files, and who may see them.
//!
//! Invariant: a user sees the attachments that they uploaded, those of messages that they may see, the pictures of all users, and the
//! pictures of their groups. A caller that acts as no user sees every attachment ([`Viewer::Everything`]). For every other caller an
//! attachment does not exist.

use std::ops::Range;

use crate::app::App;
use crate::base::error::{Error, Result};
use crate::blobs::BlobError;
pub use crate::blobs::BlobStream;
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::files::files::{Files, blob_error, blob_name};
use crate::store;
use crate::store::db::Conn;
pub use crate::store::files::attachments::{Attachment, Description};
use crate::store::files::blobs::Blob;

/// The parts of an attachment that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The file.
    File,
    /// The thumbnail.
    Thumbnail,
}

/// The bytes of one part of an attachment.
#[derive(Clone, Debug)]
pub struct Content {
    /// The bytes.
    pub blob: Blob,
    /// Their media type.
    pub content_type: String,
    /// The name of the file. A thumbnail has none.
    pub file_name: Option<String>,
}

/// The store of files.
///
/// # Errors
/// 501 `files_not_configured`.
pub fn files(app: &App) -> Result<&Files> {
    app.files
        .as_ref()
        .ok_or(Error::NotConfigured { code: "files_not_configured", detail: "This server stores no files" })
}

/// Finds the bytes of a part of an attachment that the caller may see.
///
/// # Errors
/// 404 `attachment_not_found`, also if it has no such part.
pub async fn content(app: &App, principal: &Principal, id: i64, part: Part) -> Result<Content> {
    let attachment =
        app.db.read((principal.viewer(), id), |conn, (viewer, id)| Box::pin(visible(conn, *viewer, *id))).await?;
    part_of(attachment, part).ok_or_else(not_found)
}

/// The bytes of one part of an attachment. `None` if it has no such part.
pub fn part_of(attachment: Attachment, part: Part) -> Option<Content> {
    let Attachment { description, blob, thumbnail, .. } = attachment;
    match part {
        Part::File => Some(Content { blob, content_type: description.content_type, file_name: description.file_name }),
        Part::Thumbnail => {
            let (blob, content_type) = thumbnail?;
            Some(Content { blob, content_type, file_name: None })
        }
    }
}

/// Reads a range of the bytes of a blob.
///
/// # Errors
/// 410 `file_lost` if the bytes are gone although their row exists, for example after a restore without files; 503 if the store of
/// bytes does not answer.
pub async fn read(app: &App, blob: &Blob, range: Range<u64>) -> Result<BlobStream> {
    let name = blob_name(blob);
    files(app)?.blobs.read(&name, range).await.map_err(|error| match error {
        BlobError::NotFound => {
            tracing::error!(%name, "the bytes of a file are missing; run posthaste doctor");
            Error::Gone {
                code: "file_lost",
                detail: "The server has lost the bytes of this file; ask for it to be sent again",
            }
        }
        error => blob_error(error),
    })
}

/// Checks again whether a caller may see an attachment, during a long download.
///
/// # Errors
/// 404 `attachment_not_found`.
pub async fn check_visible(app: &App, viewer: Viewer, id: i64) -> Result<()> {
    app.db
        .read((viewer, id), |conn, (viewer, id)| {
            Box::pin(async move { if sees(conn, *viewer, *id).await? { Ok(()) } else { Err(not_found()) } })
        })
        .await
}

/// Reads an attachment that the viewer may see.
///
/// # Errors
/// 404 `attachment_not_found`.
pub async fn visible(conn: &mut Conn, viewer: Viewer, id: i64) -> Result<Attachment> {
    if !sees(conn, viewer, id).await? {
        return Err(not_found());
    }
    store::files::attachments::by_ids(conn, &[id]).await?.pop().ok_or_else(not_found)
}

async fn sees(conn: &mut Conn, viewer: Viewer, id: i64) -> Result<bool> {
    match viewer {
        Viewer::Everything => Ok(true),
        Viewer::Person(user) => Ok(!store::files::attachments::visible_among(conn, user, &[id]).await?.is_empty()),
    }
}

/// The error for an attachment that does not exist or that the caller may not see.
pub fn not_found() -> Error {
    Error::NotFound { code: "attachment_not_found", detail: "Attachment not found".into() }
}
