//! Answers with the bytes of a file: entity tags, ranges (RFC 9110, section 14) and headers that keep a browser from running it.
//!
//! Invariant: the permission to read the file is checked again while the bytes are sent, so a revocation ends a download within
//! about a second while the database answers, and within `Timeouts::unconfirmed` if it does not.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::Instant;
use utoipa::openapi::{Content as MediaContent, HeaderBuilder, RefOr, ResponseBuilder, ResponsesBuilder};
use utoipa::{IntoResponses, PartialSchema};

use crate::base::error::Error;
use crate::base::ids::hex;
use crate::domain::access::principal::Principal;
use crate::domain::files::attachments::{self, BlobStream, Content};
use crate::http::access::admission::{CredentialCheck, ShownCredentials};
use crate::http::bodies::conditions::has_version;
use crate::http::bodies::disposition;
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// Maximum time of one check. If the database does not answer, the download continues until `Timeouts::unconfirmed` has passed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two checks of the permission.
const CHECK_INTERVAL: Duration = Duration::from_millis(400);
/// A file never changes, so the browser of a reader may keep it for a year.
const CACHE_CONTROL: &str = "private, max-age=31536000, immutable";
/// If a browser renders the file as a page, the page has no origin and runs no scripts.
const POLICY: &str = "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox";

/// The responses of a route that serves a file, for the OpenAPI document.
pub struct FileResponses;

impl IntoResponses for FileResponses {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let bytes = || MediaContent::new(Some(<Vec<u8> as PartialSchema>::schema()));
        let text = |description: &str| {
            HeaderBuilder::new().schema(Some(String::schema())).description(Some(description)).build()
        };
        let response = |description: &str| ResponseBuilder::new().description(description);
        let whole = response("The file.")
            .content("application/octet-stream", bytes())
            .header("ETag", text("The entity tag of the file."))
            .header(
                "Content-Disposition",
                text("`inline` for JPEG, PNG, GIF, WebP, AVIF, audio and video, else `attachment`; with the name of the file if it has one."),
            );
        let part = response("The part of the file that `Range` asks for.").content("application/octet-stream", bytes());
        ResponsesBuilder::new()
            .response("200", whole)
            .response("206", part)
            .response("304", response("Not modified: the file still has the entity tag in `If-None-Match`."))
            .response("410", response("`file_lost`: the bytes of the file are missing."))
            .response("416", response("`range_not_satisfiable`."))
            .build()
            .into()
    }
}

/// Whether the caller may still read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// The caller may.
    Confirmed,
    /// The database has not answered.
    Unknown,
    /// The caller may not.
    Refused,
}

impl Confirmation {
    /// Converts the outcome of reading the file's row: 404 means [`Self::Refused`], any other error [`Self::Unknown`].
    pub fn of<T>(outcome: &Result<T, Error>) -> Self {
        match outcome {
            Ok(_) => Self::Confirmed,
            Err(Error::NotFound { .. }) => Self::Refused,
            Err(_) => Self::Unknown,
        }
    }
}

/// Checks whether the caller may still read the file.
pub type Permission = Arc<dyn Fn() -> BoxFuture<'static, Confirmation> + Send + Sync>;

/// The permission of a caller with credentials. `visible` checks whether the caller may see the file.
///
/// # Errors
/// Those of [`ShownCredentials::new`].
pub fn permission<F>(
    state: &HttpState,
    headers: &HeaderMap,
    principal: &Principal,
    visible: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> Result<Permission, Problem>
where
    F: Future<Output = Confirmation> + Send,
{
    let shown = Arc::new(ShownCredentials::new(headers, principal)?);
    let state = state.clone();
    Ok(Arc::new(move || {
        let (state, shown, visible) = (state.clone(), Arc::clone(&shown), visible.clone());
        async move {
            match shown.check(&state).await {
                CredentialCheck::Valid(_) => visible().await,
                CredentialCheck::Unknown => Confirmation::Unknown,
                CredentialCheck::Invalid => Confirmation::Refused,
            }
        }
        .boxed()
    }))
}

/// The answer to a request for a file.
///
/// # Errors
/// 410 `file_lost`; 416 `range_not_satisfiable`; 503 if the store of bytes does not answer.
pub async fn answer(
    state: &HttpState,
    headers: &HeaderMap,
    content: &Content,
    permission: Permission,
) -> Result<Response, Problem> {
    let size_bytes = content.blob.size_bytes.unsigned_abs();
    let tag = format!("\"{}\"", hex(&content.blob.sha256[..16]));
    let mut response = if has_version(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let if_range = headers.get(header::IF_RANGE);
        let range = headers.get(header::RANGE).filter(|_| if_range.is_none_or(|known| known == tag.as_str()));
        match range.and_then(|range| requested(range, size_bytes)) {
            Some(Requested::Unsatisfiable) => return Ok(unsatisfiable(size_bytes)),
            Some(Requested::Range(range)) => {
                let shown = format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1);
                let mut response = send(state, content, range, permission).await?;
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                response.headers_mut().insert(header::CONTENT_RANGE, value(&shown));
                response
            }
            None => send(state, content, 0..size_bytes, permission).await?,
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, value(&tag));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE_CONTROL));
    keep_inert(headers);
    Ok(response)
}

/// Headers that keep a browser from running a file.
fn keep_inert(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// The answer with a small image that this server does not store. The browser of the reader may keep it for an hour.
pub fn small(content_type: &'static str, bytes: Bytes) -> Response {
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_DISPOSITION, disposition::header_value(true, None));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=3600"));
    keep_inert(headers);
    response
}

async fn send(
    state: &HttpState,
    content: &Content,
    range: Range<u64>,
    permission: Permission,
) -> Result<Response, Problem> {
    let length = range.end - range.start;
    let bytes = attachments::read(&state.app, &content.blob, range).await?;
    let now = Instant::now();
    let unconfirmed = state.settings.timeouts.unconfirmed;
    let download = Download { bytes, permission, unconfirmed, checked_at: now, confirmed_at: now };
    let pieces = stream::try_unfold(download, |mut download| async move {
        Ok::<_, std::io::Error>(download.next().await?.map(|piece| (piece, download)))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CONTENT_TYPE, value(&content.content_type));
    let inline = is_shown_inline(&content.content_type);
    headers.insert(header::CONTENT_DISPOSITION, disposition::header_value(inline, content.file_name.as_deref()));
    Ok(response)
}

/// The bytes of a file that is being sent.
struct Download {
    bytes: BlobStream,
    permission: Permission,
    /// How long the download may go on while the permission is unknown.
    unconfirmed: Duration,
    checked_at: Instant,
    confirmed_at: Instant,
}

impl Download {
    /// The next piece. It ends with an error when the caller may no longer read the file. The error closes the connection, so that
    /// the caller does not take the part for the whole.
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        if self.checked_at.elapsed() >= CHECK_INTERVAL {
            let checking = tokio::time::timeout(CHECK_TIMEOUT, (self.permission)());
            self.checked_at = Instant::now();
            match checking.await.unwrap_or(Confirmation::Unknown) {
                Confirmation::Confirmed => self.confirmed_at = Instant::now(),
                Confirmation::Unknown if self.confirmed_at.elapsed() < self.unconfirmed => {}
                Confirmation::Unknown | Confirmation::Refused => {
                    return Err(std::io::Error::other("the caller may no longer read the file"));
                }
            }
        }
        self.bytes.next().await.transpose().map_err(|error| {
            tracing::error!(%error, "a file could not be read to its end");
            std::io::Error::other(error)
        })
    }
}

/// Whether a browser may show a file of this type. Types that can contain scripts are always downloads.
fn is_shown_inline(content_type: &str) -> bool {
    let is_picture = ["image/jpeg", "image/png", "image/gif", "image/webp", "image/avif"].contains(&content_type);
    is_picture || content_type.starts_with("audio/") || content_type.starts_with("video/")
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

#[derive(Debug, PartialEq, Eq)]
enum Requested {
    Range(Range<u64>),
    Unsatisfiable,
}

/// The range that a request asks for. `None` if the header has another unit, several ranges or a syntax error: then the whole file
/// is the answer, as RFC 9110, section 14.2 allows.
fn requested(header: &HeaderValue, size_bytes: u64) -> Option<Requested> {
    let (unit, range) = header.to_str().ok()?.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || last.contains(',') {
        return None;
    }
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let range = match (first.trim(), last.trim()) {
        ("", length) => size_bytes.saturating_sub(number(length)?)..size_bytes,
        (first, "") => number(first)?..size_bytes,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(size_bytes)
        }
    };
    Some(if range.start < range.end { Requested::Range(range) } else { Requested::Unsatisfiable })
}

fn unsatisfiable(size_bytes: u64) -> Response {
    let detail = format!("The file has {size_bytes} bytes");
    let mut response = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", detail).into_response();
    response.headers_mut().insert(header::CONTENT_RANGE, value(&format!("bytes */{size_bytes}")));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_rfc_9110() {
        let of = |text: &str| requested(&HeaderValue::try_from(text).unwrap(), 100);
        for (text, range) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-99", 0..100),
            ("bytes=10-", 10..100),
            ("bytes=-10", 90..100),
            ("bytes=-1000", 0..100),
            ("bytes=50-1000", 50..100),
            ("Bytes = 1-2", 1..3),
            ("bytes=1-99999999999999999999999", 1..100),
        ] {
            assert_eq!(of(text), Some(Requested::Range(range)), "{text}");
        }
        for text in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(of(text), Some(Requested::Unsatisfiable), "{text}");
        }
        for text in ["bytes=", "bytes=-", "bytes=a-b", "bytes=5-3", "bytes=0-1,3-4", "lines=0-1", "bytes=+1-2"] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
