//! The encoding of an answer, and the headers that describe which representation it is.
//!
//! Invariants:
//! - HEAD has the headers of GET. Only `Content-Length` may be absent, where GET does not know it either.
//! - An answer that depends on `Accept-Encoding` says so in `Vary`, whether it is encoded or not, and so does 304.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};

use crate::base::error::Error;
use crate::http::bodies::conditions::{Conditions, Outcome, tag_in_encoding};
use crate::http::bodies::problem::Problem;

/// The size in bytes from which an answer is compressed.
const COMPRESS_FROM_BYTES: u64 = 1_024;
/// Headers of 200 that describe the content, which 304 does not have.
const CONTENT_HEADERS: [HeaderName; 3] = [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::CONTENT_ENCODING];

/// A router that compresses the answers of another one. The layer is inside of what removes the body of an answer to HEAD, so the
/// headers of HEAD are those of GET.
pub fn compressing(router: axum::Router) -> axum::Router {
    let predicate = SizeAbove::new(COMPRESS_FROM_BYTES)
        .and(NotForContentType::new("text/event-stream"))
        .and(NotForContentType::IMAGES)
        // Ranges refer to the bytes of the file.
        .and(|_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions| {
            !headers.contains_key(header::ACCEPT_RANGES)
        });
    router.layer(CompressionLayer::new().compress_when(predicate))
}

/// Whether an answer may be compressed. Removes the refusal of answers without an encoding: the compression layer would do the work
/// of the request and then answer 406.
pub fn accepts_encodings(headers: &mut HeaderMap) -> bool {
    if !headers.contains_key(header::ACCEPT_ENCODING) {
        return false;
    }
    let lines: Vec<&str> =
        headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok()).collect();
    let all: Vec<&str> = lines.iter().flat_map(|line| line.split(',')).map(str::trim).collect();
    let kept: Vec<&str> = all.iter().copied().filter(|element| !refuses_identity(element)).collect();
    if kept.len() < all.len()
        && let Ok(kept) = HeaderValue::try_from(kept.join(", "))
    {
        headers.insert(header::ACCEPT_ENCODING, kept);
    }
    true
}

fn refuses_identity(element: &str) -> bool {
    let Some((name, weight)) = element.split_once(';') else { return false };
    let (name, weight) = (name.trim(), weight.trim().to_ascii_lowercase());
    let is_zero = weight.strip_prefix("q=").is_some_and(|weight| weight.parse() == Ok(0.0_f32));
    is_zero && (name == "*" || name.eq_ignore_ascii_case("identity"))
}

/// Routes a request, and completes the headers of its answer. Checks the conditions of a request that reads.
pub async fn answer(router: axum::Router, request: Request) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let conditions = if reads { Conditions::of(request.headers()) } else { Conditions::default() };
    let Ok(mut response) = router.oneshot(request).await;
    if reads && response.status().is_success() && is_compressible(response.headers()) {
        add_vary(response.headers_mut());
    }
    let Some(tag) = response.headers().get(header::ETAG).cloned() else { return response };
    let encoding = response.headers().get(header::CONTENT_ENCODING);
    if let Some(encoded) = encoding.and_then(|encoding| tag_in_encoding(&tag, encoding)) {
        response.headers_mut().insert(header::ETAG, encoded);
    }
    if !reads || !response.status().is_success() {
        return response;
    }
    match conditions.outcome(tag.to_str().unwrap_or_default()) {
        Outcome::Proceed => response,
        Outcome::NotModified => not_modified(response),
        Outcome::Failed => Problem::from(Error::PreconditionFailed).into_response(),
    }
}

/// Whether the compression layer would compress an answer of this kind, if it is long enough.
fn is_compressible(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let never = content_type.starts_with("image/") && !content_type.starts_with("image/svg+xml")
        || content_type.starts_with("text/event-stream");
    !never && !headers.contains_key(header::ACCEPT_RANGES) && !content_type.is_empty()
}

fn add_vary(headers: &mut HeaderMap) {
    let has = headers.get_all(header::VARY).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|name| name.trim_ascii().eq_ignore_ascii_case(b"accept-encoding"))
    });
    if !has {
        headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
}

fn not_modified(mut response: Response) -> Response {
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    for name in CONTENT_HEADERS {
        response.headers_mut().remove(name);
    }
    *response.body_mut() = Body::empty();
    response
}
