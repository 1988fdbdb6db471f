//! `/api/uploads`: resumable uploads with the protocol tus 1.0 (<https://tus.io/protocols/resumable-upload>).

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use crate::base::error::{Error, Result as DomainResult};
use crate::base::tasks;
use crate::base::time::Timestamp;
use crate::domain::files::resumable_uploads::{self, Part, ResumableUpload};
use crate::domain::shared::idempotency::{Once, StoredAnswer};
use crate::http::access::policy::{PersonReading, PersonWriting};
use crate::http::bodies::answers::{given, json, no_content};
use crate::http::bodies::attachments::AttachmentBody;
use crate::http::bodies::extract::{
    Path, Query, TUS_VERSION, TusVersion, body_too_slow, idempotency_key, media_type, unsupported,
};
use crate::http::bodies::file_body::Pieces;
use crate::http::bodies::parameters::{IdSchema, IdempotencyKeyHeader};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
/// How long one request may take to add bytes. Then it is answered with 408, and a client goes on with the next request.
const RECEIVE_TIME: Duration = Duration::from_secs(50 * 60);
const PART_TYPE: &str = "application/offset+octet-stream";

/// A file that arrives in several requests.
#[derive(Serialize, ToSchema)]
#[schema(as = ResumableUpload)]
pub struct ResumableUploadBody<'a> {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    /// The path of the upload.
    #[schema(example = "/api/uploads/1")]
    url: String,
    file_name: Option<&'a str>,
    /// The size of the whole file.
    #[schema(minimum = 1)]
    size_bytes: i64,
    /// How many bytes have arrived.
    #[schema(minimum = 0)]
    offset_bytes: i64,
    /// When the upload is deleted.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// The headers of a new upload.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only for the OpenAPI document")]
pub struct NewUploadHeaders {
    /// The version of the protocol.
    #[param(rename = "Tus-Resumable", pattern = "^1\\.0\\.0$", example = "1.0.0")]
    tus_resumable: String,
    /// The size of the whole file in bytes.
    #[param(rename = "Upload-Length", minimum = 1)]
    upload_length: i64,
    /// Pairs of a key and a value in base64, separated by commas. The value of `filename` is the name of the file.
    #[param(rename = "Upload-Metadata", example = "filename ZG90LnBuZw==")]
    upload_metadata: Option<String>,
}

/// The headers of a request that adds bytes.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only for the OpenAPI document")]
pub struct PartHeaders {
    /// The version of the protocol.
    #[param(rename = "Tus-Resumable", pattern = "^1\\.0\\.0$", example = "1.0.0")]
    tus_resumable: String,
    /// The number of bytes that have arrived so far.
    #[param(rename = "Upload-Offset", minimum = 0)]
    upload_offset: i64,
}

/// The header of the other requests.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only for the OpenAPI document")]
pub struct VersionHeader {
    /// The version of the protocol.
    #[param(rename = "Tus-Resumable", pattern = "^1\\.0\\.0$", example = "1.0.0")]
    tus_resumable: String,
}

/// Path parameter of a route about one upload.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct UploadPath {
    /// The id of the upload.
    #[param(value_type = IdSchema, inline, example = 1)]
    id: i64,
}

/// Begin a resumable upload
///
/// Creates an upload without bytes. The bytes follow with PATCH, in as many requests as the network needs.
#[utoipa::path(
    post,
    path = "/api/uploads",
    tag = "uploads",
    params(IdempotencyKeyHeader, NewUploadHeaders),
    responses(
        (status = 201, description = "Created.", body = ResumableUploadBody<'_>, headers(
            ("Location" = String, description = "The path of the upload."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this is the stored answer to an earlier request with the same key."),
        )),
        (status = 409, description = "`too_many_open_uploads`."),
        (status = 412, description = "`unsupported_tus_version`. The header `Tus-Version` has the supported one."),
        (status = 413, description = "`file_too_large` or `file_quota_exceeded`."),
    ),
)]
pub async fn create_upload(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    _version: TusVersion,
    uri: Uri,
    headers: HeaderMap,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let size_bytes = number(&headers, &UPLOAD_LENGTH, "Upload-Length")?;
    let metadata = headers.get(&UPLOAD_METADATA).map(HeaderValue::as_bytes).unwrap_or_default();
    let file_name = file_name(metadata)?;
    let described = [size_bytes.to_string().as_bytes(), b" ", metadata].concat();
    let request = idempotency_key(&state.app, &headers, &principal, uri.path(), &described)?;
    let once = Once { request, render: render_created, sealed: false };
    Ok(versioned(given(resumable_uploads::create(&state.app, &principal, size_bytes, file_name, once).await?)))
}

fn render_created(made: &ResumableUpload) -> DomainResult<StoredAnswer> {
    let url = format!("/api/uploads/{}", made.id.0);
    let body = ResumableUploadBody {
        id: made.id.0,
        url: url.clone(),
        file_name: made.file_name.as_deref(),
        size_bytes: made.size_bytes,
        offset_bytes: made.offset_bytes,
        expires_at: made.expires_at,
    };
    let body = serde_json::to_vec(&body).map_err(Error::internal)?;
    Ok(StoredAnswer { status: StatusCode::CREATED.as_u16(), location: Some(url), body })
}

/// Get the offset of a resumable upload
///
/// The header `Upload-Offset` of the answer says how many bytes have arrived.
#[utoipa::path(
    head,
    path = "/api/uploads/{id}",
    tag = "uploads",
    params(UploadPath, VersionHeader),
    responses((status = 200, description = "The upload exists.", headers(
        ("Upload-Offset" = i64, description = "The number of bytes that have arrived."),
        ("Upload-Length" = i64, description = "The size of the whole file."),
    ))),
)]
pub async fn get_upload_offset(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    _version: TusVersion,
    Path(UploadPath { id }): Path<UploadPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let upload = resumable_uploads::get(&state.app, &principal, id).await?;
    Ok(with_offset(StatusCode::OK.into_response(), &upload))
}

/// Add bytes to a resumable upload
///
/// The answer to the request with the last bytes is the Attachment. If the connection breaks, the bytes that arrived count, and HEAD
/// says how many they are. A request without a body after the last byte gets the Attachment again.
#[utoipa::path(
    patch,
    path = "/api/uploads/{id}",
    tag = "uploads",
    params(UploadPath, PartHeaders),
    request_body(content((Vec<u8> = "application/offset+octet-stream"))),
    responses(
        (status = 200, description = "The file is complete.", body = AttachmentBody<'_>, headers(
            ("Upload-Offset" = i64, description = "The number of bytes that have arrived."),
        )),
        (status = 204, description = "The bytes are stored, and more are missing.", headers(
            ("Upload-Offset" = i64, description = "The number of bytes that have arrived."),
        )),
        (status = 409, description = "`upload_offset_mismatch` or `too_many_parts`."),
        (status = 413, description = "`file_too_large` if more arrives than `Upload-Length`, or `file_quota_exceeded`."),
        (status = 507, description = "`storage_full`."),
        (status = 412, description = "`unsupported_tus_version`. The header `Tus-Version` has the supported one."),
    ),
)]
pub async fn add_upload_part(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    _version: TusVersion,
    Path(UploadPath { id }): Path<UploadPath>,
    headers: HeaderMap,
    _query: Query<()>,
    body: Body,
) -> Result<Response, Problem> {
    if media_type(&headers).0 != PART_TYPE {
        return Err(unsupported("Send the body as application/offset+octet-stream"));
    }
    let offset_bytes = number(&headers, &UPLOAD_OFFSET, "Upload-Offset")?;
    let pieces = Pieces::new(&headers, body, state.settings.timeouts.body)?;
    let (upload, part) = resumable_uploads::begin_part(&state.app, &principal, id, offset_bytes).await?;
    // A task of its own, because the request ends with its connection, and the bytes that arrived count also then.
    let adding = tasks::spawn("upload", async move {
        let upload = match part {
            Some(part) => store_part(&state, part, pieces).await?,
            None => upload,
        };
        if upload.offset_bytes < upload.size_bytes {
            return Ok(with_offset(no_content(), &upload));
        }
        let attachment = resumable_uploads::finish(&state.app, &principal, &upload).await?;
        Ok(with_offset(json(StatusCode::OK, &AttachmentBody::new(&attachment.description))?, &upload))
    });
    adding.await.map_err(Error::internal)?
}

/// Stores the pieces that arrive until [`RECEIVE_TIME`] has passed.
///
/// # Errors
/// The problem that ended the body, after what had arrived before was stored.
async fn store_part(state: &HttpState, mut part: Part, mut pieces: Pieces) -> Result<ResumableUpload, Problem> {
    let end = Instant::now() + RECEIVE_TIME;
    let cut_off = loop {
        match tokio::time::timeout_at(end, pieces.next()).await {
            Ok(Ok(Some(piece))) => part.write(piece).await?,
            Ok(Ok(None)) => break None,
            Ok(Err(problem)) => break Some(problem),
            Err(_) => break Some(body_too_slow()),
        }
    };
    let upload = part.store(&state.app).await?;
    cut_off.map_or(Ok(upload), Err)
}

/// Cancel a resumable upload
///
/// Deletes the bytes that have arrived. The attachment of a complete upload stays.
#[utoipa::path(
    delete,
    path = "/api/uploads/{id}",
    tag = "uploads",
    params(UploadPath, VersionHeader),
    responses((status = 204, description = "Deleted.")),
)]
pub async fn delete_upload(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    _version: TusVersion,
    Path(UploadPath { id }): Path<UploadPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    resumable_uploads::delete(&state.app, &principal, id).await?;
    Ok(versioned(no_content()))
}

fn versioned(mut response: Response) -> Response {
    response.headers_mut().insert("tus-resumable", HeaderValue::from_static(TUS_VERSION));
    response
}

fn with_offset(mut response: Response, upload: &ResumableUpload) -> Response {
    let headers = response.headers_mut();
    headers.insert(UPLOAD_OFFSET, HeaderValue::from(upload.offset_bytes));
    headers.insert(UPLOAD_LENGTH, HeaderValue::from(upload.size_bytes));
    versioned(response)
}

fn number(headers: &HeaderMap, name: &HeaderName, shown: &'static str) -> DomainResult<i64> {
    let Some(value) = headers.get(name) else { return Err(Error::invalid(shown, "required", "required")) };
    let digits = value.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::invalid(shown, "wrong_type", "must be a whole number of bytes"))
}

/// The value of `filename` in `Upload-Metadata`.
fn file_name(metadata: &[u8]) -> DomainResult<Option<String>> {
    let wrong = || Error::invalid("Upload-Metadata", "wrong_type", "must be pairs of a key and a value in base64");
    let metadata = std::str::from_utf8(metadata).map_err(|_| wrong())?;
    for pair in metadata.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        let value = BASE64_STANDARD.decode(value.trim()).map_err(|_| wrong())?;
        if key == "filename" {
            return String::from_utf8(value).map(Some).map_err(|_| wrong());
        }
    }
    Ok(None)
}
