//! `/api/attachments`: uploading a file, and reading it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::file_answer::{self, Confirmation, FileResponses};
use crate::base::error::{Error, Result as DomainResult};
use crate::domain::access::principal::Principal;
use crate::domain::files::attachments::{self, Attachment, Part};
use crate::domain::files::uploads::{self, Stated};
use crate::domain::shared::idempotency::{Once, StoredAnswer};
use crate::http::access::policy::{PersonWriting, Reader};
use crate::http::bodies::answers::given;
use crate::http::bodies::attachments::AttachmentBody;
use crate::http::bodies::extract::{Path, Query, idempotency_key};
use crate::http::bodies::file_body::receive;
use crate::http::bodies::parameters::{AttachmentPath, IdempotencyKeyHeader, StatedMediaHeaders};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// Upload a file
///
/// The body is the file, with its name in `Content-Disposition`, or a form (`multipart/form-data`) with one file. The server finds
/// the media type by reading the file, and removes metadata such as the place of a photo. A message holds the file when its
/// `attachment_ids` contain the id. A file that neither a message, a scheduled message nor a picture uses is deleted after 24 hours.
#[utoipa::path(
    post,
    path = "/api/attachments",
    tag = "files",
    params(IdempotencyKeyHeader, StatedMediaHeaders),
    request_body(content((Vec<u8> = "application/octet-stream"))),
    responses(
        (status = 201, description = "Stored.", body = AttachmentBody<'_>, headers(
            ("Location" = String, description = "The path of the file."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this is the stored answer to an earlier request with the same key."),
        )),
        (status = 413, description = "`file_too_large` or `file_quota_exceeded`."),
        (status = 501, description = "`files_not_configured`."),
        (status = 507, description = "`storage_full`."),
    ),
)]
pub async fn upload_attachment(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    uri: Uri,
    headers: HeaderMap,
    _query: Query<()>,
    body: Body,
) -> Result<Response, Problem> {
    let stated = stated_media(&headers)?;
    let file = receive(&state.app, &principal, &headers, body, state.settings.timeouts.body).await?;
    let stated = Stated { file_name: file.file_name, ..stated };
    // The key is bound to the bytes of the file, not to the form around them.
    let request = idempotency_key(&state.app, &headers, &principal, uri.path(), file.received.sha256())?;
    let once = Once { request, render: render_created, sealed: false };
    Ok(given(uploads::create(&state.app, &principal, file.received, stated, once).await?))
}

/// The answer to a request that has created an attachment.
pub(super) fn render_created(made: &Attachment) -> DomainResult<StoredAnswer> {
    Ok(StoredAnswer {
        status: StatusCode::CREATED.as_u16(),
        location: Some(format!("/api/attachments/{}", made.description.id)),
        body: serde_json::to_vec(&AttachmentBody::new(&made.description)).map_err(Error::internal)?,
    })
}

/// Duration and waveform as the uploader states them.
fn stated_media(headers: &HeaderMap) -> DomainResult<Stated> {
    let text = |name: &'static str| match headers.get(name) {
        None => Ok(None),
        Some(value) => value.to_str().map(Some).map_err(|_| Error::invalid(name, "wrong_type", "must be ASCII")),
    };
    let duration_ms = text("Posthaste-Duration-Ms")?
        .map(|text| text.parse().ok().filter(|duration| (0..=86_400_000_i64).contains(duration)))
        .map(|duration| {
            let detail = "must be a number of milliseconds, at most 86400000";
            duration.ok_or_else(|| Error::invalid("Posthaste-Duration-Ms", "out_of_range", detail))
        })
        .transpose()?;
    let waveform = text("Posthaste-Waveform")?
        .map(|text| BASE64_STANDARD.decode(text).ok().filter(|waveform| waveform.len() == 64))
        .map(|waveform| {
            let detail = "must be 64 bytes in base64";
            waveform.ok_or_else(|| Error::invalid("Posthaste-Waveform", "wrong_type", detail))
        })
        .transpose()?;
    Ok(Stated { file_name: None, duration_ms, waveform })
}

/// Get a file
///
/// A user can read the files that they uploaded, those of messages that they may see, the pictures of all users and the pictures of
/// their groups. A caller that is not a user can read every file. Only JPEG, PNG, GIF, WebP and AVIF images, audio and video are served
/// `inline`. Every other file is served as a download.
#[utoipa::path(get, path = "/api/attachments/{id}", tag = "files", params(AttachmentPath), responses(FileResponses))]
pub async fn get_attachment(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    Path(AttachmentPath { id }): Path<AttachmentPath>,
    _query: Query<()>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    answer(&state, &principal, id, Part::File, &headers).await
}

/// Get the thumbnail of a picture
///
/// At most 360 pixels wide and high. For the same callers as the picture.
#[utoipa::path(
    get,
    path = "/api/attachments/{id}/thumbnail",
    tag = "files",
    params(AttachmentPath),
    responses(FileResponses)
)]
pub async fn get_thumbnail(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    Path(AttachmentPath { id }): Path<AttachmentPath>,
    _query: Query<()>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    answer(&state, &principal, id, Part::Thumbnail, &headers).await
}

async fn answer(
    state: &HttpState,
    principal: &Principal,
    id: i64,
    part: Part,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let content = attachments::content(&state.app, principal, id, part).await?;
    let (app, viewer) = (Arc::clone(&state.app), principal.viewer());
    let permission = file_answer::permission(state, headers, principal, move || {
        let app = Arc::clone(&app);
        async move { Confirmation::of(&attachments::check_visible(&app, viewer, id).await) }
    })?;
    file_answer::answer(state, headers, &content, permission).await
}
