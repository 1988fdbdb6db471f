//! Answers with the bytes of a file: entity tags, ranges (RFC 9110, section 14) and headers that keep a browser from running it.
//!
//! Invariant: the permission to read the file is checked again while the bytes are sent, so a revocation ends a download within
//! about a second.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::disposition;
use super::problem::Problem;
use crate::base::error::Error;
use crate::base::ids::hex;
use crate::blobs::{BlobError, BlobName, BlobStream};
use crate::domain::files::attachments::{Content, files};
use crate::domain::files::files::blob_error;
use crate::http::state::HttpState;

/// Time between two checks of the permission.
const CHECK_INTERVAL: Duration = Duration::from_millis(400);
/// A file never changes, so it can be cached for a year by the browser of whoever may see it.
const CACHE_CONTROL: &str = "private, max-age=31536000, immutable";
/// A page that a browser would make of the file has no origin and runs nothing.
const POLICY: &str = "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox";

/// Marks an answer that must not be compressed, because ranges refer to its bytes.
#[derive(Clone, Copy)]
pub struct Uncompressed;

/// Checks whether the caller may still read the file.
pub type Permission = Arc<dyn Fn() -> futures_util::future::BoxFuture<'static, bool> + Send + Sync>;

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
    let mut response = if matches(headers.get_all(header::IF_NONE_MATCH), &tag) {
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
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response.extensions_mut().insert(Uncompressed);
    Ok(response)
}

async fn send(
    state: &HttpState,
    content: &Content,
    range: Range<u64>,
    permission: Permission,
) -> Result<Response, Problem> {
    let length = range.end - range.start;
    let name = BlobName::new(content.blob.sha256, content.blob.id.0);
    let bytes = files(&state.app)?.blobs.read(&name, range).await.map_err(|error| match error {
        BlobError::NotFound => lost(content, &name),
        error => blob_error(error),
    })?;
    let mut response = Response::new(Body::from_stream(while_permitted(bytes, permission)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CONTENT_TYPE, value(&content.content_type));
    let inline = is_shown_inline(&content.content_type);
    headers.insert(header::CONTENT_DISPOSITION, disposition::header_value(inline, content.file_name.as_deref()));
    Ok(response)
}

/// The error for a file whose bytes are gone although its row exists, for example after a restore without files.
fn lost(content: &Content, name: &BlobName) -> Error {
    tracing::error!(attachment = content.attachment, %name, "the bytes of a file are missing; run posthaste doctor");
    Error::Gone { code: "file_lost", detail: "The server has lost the bytes of this file; ask for it to be sent again" }
}

/// Passes the bytes on, and ends with an error when the caller may no longer read them. The error closes the connection, so that
/// the caller does not take the part for the whole.
fn while_permitted(
    bytes: BlobStream,
    permission: Permission,
) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold((bytes, permission, Instant::now()), |(mut bytes, permission, mut checked_at)| async move {
        if checked_at.elapsed() >= CHECK_INTERVAL {
            if !permission().await {
                return Err(std::io::Error::other("the caller may no longer read the file"));
            }
            checked_at = Instant::now();
        }
        match bytes.next().await {
            None => Ok(None),
            Some(Ok(piece)) => Ok(Some((piece, (bytes, permission, checked_at)))),
            Some(Err(error)) => {
                tracing::error!(%error, "a file could not be read to its end");
                Err(std::io::Error::other(error))
            }
        }
    })
}

/// Whether a browser may show a file of this type. Types that can contain scripts are always downloads.
fn is_shown_inline(content_type: &str) -> bool {
    let is_picture = ["image/jpeg", "image/png", "image/gif", "image/webp", "image/avif"].contains(&content_type);
    is_picture || content_type.starts_with("audio/") || content_type.starts_with("video/")
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

/// Whether one of the header's entity tags is `tag` (RFC 9110, section 13.1.2).
fn matches<'a>(values: impl IntoIterator<Item = &'a HeaderValue>, tag: &str) -> bool {
    values
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .any(|list| list.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag))
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
