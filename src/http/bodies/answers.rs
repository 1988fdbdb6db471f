//! Helpers that build answers: JSON, lists with links, entity tags.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::conditions::entity_tag;
use super::problem::Problem;
use crate::base::error::Error;
use crate::base::time::Timestamp;
use crate::domain::shared::idempotency::{KeyedAnswer, StoredAnswer};
use crate::domain::shared::pagination::Limit;

/// The usual size of a resource in JSON, in bytes.
pub(in crate::http) const RESOURCE_BYTES: usize = 1_024;
/// The characters that are not percent-encoded in a query.
const QUERY_SAFE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b':').remove(b'~');

/// An answer with JSON that is already rendered.
pub(in crate::http) fn json_bytes(status: StatusCode, bytes: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(bytes.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Renders a value as JSON. `capacity_bytes` is the expected size.
pub(in crate::http) fn to_json(value: &impl Serialize, capacity_bytes: usize) -> crate::base::error::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(capacity_bytes);
    serde_json::to_writer(&mut bytes, value).map_err(Error::internal)?;
    Ok(bytes)
}

/// An answer with one resource and its ETag. The server turns it into 304 or 412 if the conditions of the request ask for it.
pub(in crate::http) fn resource(value: &impl Serialize) -> Result<Response, Problem> {
    let bytes = to_json(value, RESOURCE_BYTES)?;
    let tag = HeaderValue::try_from(entity_tag(&bytes)).map_err(Error::internal)?;
    let mut response = json_bytes(StatusCode::OK, bytes);
    response.headers_mut().insert(header::ETAG, tag);
    Ok(response)
}

/// The query parameters of the link to the next page of a list. `more` has the other parameters of the request.
pub(in crate::http) fn next_page<'a>(
    cursor: Option<String>,
    limit: Limit,
    more: impl IntoIterator<Item = (&'a str, String)>,
) -> Option<Vec<(&'a str, String)>> {
    let mut parameters = vec![("limit", limit.get().to_string()), ("cursor", cursor?)];
    parameters.extend(more);
    Some(parameters)
}

/// An answer with one page of a list and the `Link` to the next page (RFC 8288).
pub(in crate::http) fn list(bytes: Vec<u8>, path: &str, next: Option<Vec<(&str, String)>>) -> Response {
    let mut response = json_bytes(StatusCode::OK, bytes);
    let Some(parameters) = next else { return response };
    let query: Vec<String> = parameters
        .into_iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(&value, QUERY_SAFE)))
        .collect();
    if let Ok(link) = HeaderValue::try_from(format!("<{path}?{}>; rel=\"next\"", query.join("&"))) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

/// The answer to a POST that creates something. It may be the stored answer to an earlier request with the same idempotency
/// key.
pub(in crate::http) fn given(given: KeyedAnswer) -> Response {
    let StoredAnswer { status, location, body } = given.answer;
    let mut response = json_bytes(StatusCode::from_u16(status).unwrap_or(StatusCode::CREATED), body);
    if let Some(location) = location.and_then(|location| HeaderValue::try_from(location).ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if given.replayed {
        response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    response
}

/// An answer with a value as JSON.
pub(in crate::http) fn json(status: StatusCode, value: &impl Serialize) -> Result<Response, Problem> {
    Ok(json_bytes(status, to_json(value, 512)?))
}

/// An answer with the status 204.
pub(in crate::http) fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Parses a time or a date in a body.
///
/// # Errors
/// 422 on `field`.
pub(in crate::http) fn time_field(field: &'static str, text: &str) -> crate::base::error::Result<Timestamp> {
    let rule = "must be a date such as 2026-11-22, or an RFC 3339 time such as 2026-11-22T08:30:00Z";
    Timestamp::parse(text).ok_or_else(|| Error::invalid(field, "wrong_type", rule))
}

/// Deserializes a field that may be absent but not null.
pub(in crate::http) fn not_null<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: serde::Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Deserializes a field and distinguishes null (`Some(None)`) from absent (`None`). In a change, an absent field keeps its
/// value.
pub(in crate::http) fn present<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: serde::Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    serde::Deserialize::deserialize(deserializer).map(Some)
}
