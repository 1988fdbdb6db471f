//! Extractors: the parameters of the path and of the query, and the JSON body.
//!
//! Invariant: unknown, repeated and oversized input and values of the wrong type are refused here, with the name of the field.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use percent_encoding::percent_decode;
use serde::de::DeserializeOwned;

use super::field_errors;
use super::parameter_reader::{read_path, read_query};
use super::problem::Problem;
use crate::app::App;
use crate::base::error::{Error, FieldError};
use crate::domain::access::principal::Principal;
use crate::domain::shared::idempotency::KeyedRequest;
use crate::http::state::HttpState;

/// The limit of a JSON body, in bytes: enough for 8,000 characters that are each escaped with twelve bytes, and the other fields.
pub const BODY_LIMIT_BYTES: usize = 256 * 1_024;
/// Up to this many bytes of a body that is too large are read and discarded, so that the caller can read the answer.
const DRAIN_LIMIT_BYTES: usize = 8 * 1_024 * 1_024;

/// The parameters of the path as the fields of `T`.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<HttpState> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, Problem> {
        // No object has a name that is not UTF-8 or contains U+0000.
        let not_found = || Problem::of_status(StatusCode::NOT_FOUND);
        let raw = RawPathParams::from_request_parts(parts, state).await.map_err(|_| not_found())?;
        let given: Vec<(&str, &str)> = raw.iter().collect();
        if given.iter().any(|(_, value)| value.contains('\0')) {
            return Err(not_found());
        }
        Ok(Self(read_path(&given)?))
    }
}

/// The parameters of the query as the fields of `T`, each at most once. `T` is `()` for a route without parameters. A route
/// with a body has no query parameters: [`JsonBody`] and [`JsonOrPayload`] refuse them.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<HttpState> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &HttpState) -> Result<Self, Problem> {
        Ok(Self(RawQuery::parse(&parts.uri)?.read()?))
    }
}

/// The parameters of a query before they are deserialized.
struct RawQuery {
    parameters: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

impl RawQuery {
    fn parse(uri: &Uri) -> Result<Self, Problem> {
        let mut given = Self { parameters: Vec::new(), errors: Vec::new() };
        let pairs = form_pairs(uri.query().unwrap_or_default().as_bytes())
            .ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "malformed_query", "The query is not UTF-8"))?;
        for (name, value) in pairs {
            if value.contains('\0') || name.contains('\0') {
                given.errors.push(FieldError::new(name.replace('\0', "?"), "nul_character", "must not contain U+0000"));
            } else if given.parameters.iter().any(|(known, _)| *known == name) {
                given.errors.push(FieldError::new(name, "duplicate", "must not be given more than once"));
            } else {
                given.parameters.push((name, value));
            }
        }
        Ok(given)
    }

    fn read<T: DeserializeOwned>(self) -> Result<T, Error> {
        read_query(self.parameters, self.errors)
    }
}

/// The names and values of a query or of a form (`application/x-www-form-urlencoded`), decoded. `None` if one of them is not
/// UTF-8: replacing the invalid bytes would store another text than the caller sent.
fn form_pairs(encoded: &[u8]) -> Option<Vec<(String, String)>> {
    let decode = |text: &[u8]| {
        let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
        String::from_utf8(percent_decode(&spaced).collect()).ok()
    };
    encoded
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
            Some((decode(name)?, decode(value)?))
        })
        .collect()
}

/// The version of the protocol tus for resumable uploads.
pub const TUS_VERSION: &str = "1.0.0";

/// A request with the supported version of tus. Other requests are answered with 412 and the supported version.
pub struct TusVersion;

impl FromRequestParts<HttpState> for TusVersion {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &HttpState) -> Result<Self, Response> {
        if parts.headers.get("tus-resumable").is_some_and(|version| version == TUS_VERSION) {
            return Ok(Self);
        }
        let detail = "Send the header Tus-Resumable: 1.0.0";
        let mut response =
            Problem::new(StatusCode::PRECONDITION_FAILED, "unsupported_tus_version", detail).into_response();
        response.headers_mut().insert("tus-version", HeaderValue::from_static(TUS_VERSION));
        Err(response)
    }
}

/// A JSON body and its bytes, for a route without query parameters.
pub struct JsonBody<T> {
    /// The value.
    pub value: T,
    /// The body as it was received. An idempotency key is bound to it.
    pub bytes: Bytes,
}

impl<T: DeserializeOwned> FromRequest<HttpState> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &HttpState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let query = RawQuery::parse(&parts.uri)?;
        let bytes = read_body(body, state.settings.timeouts.body).await?;
        let value = if bytes.is_empty() {
            parse_json(b"{}")?
        } else {
            check_content_type(&parts.headers)?;
            parse_json(&bytes)?
        };
        // An invalid body is reported before an unknown parameter.
        query.read::<()>()?;
        Ok(Self { value, bytes })
    }
}

/// A JSON body or a form with the JSON in its field `payload`, and the bytes of the body. For a route without query parameters.
pub struct JsonOrPayload<T> {
    /// The value.
    pub value: T,
    /// The body as it was received. An idempotency key is bound to it.
    pub bytes: Bytes,
}

impl<T: DeserializeOwned> FromRequest<HttpState> for JsonOrPayload<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &HttpState) -> Result<Self, Problem> {
        if !is_form(request.headers()) {
            let JsonBody { value, bytes } = JsonBody::from_request(request, state).await?;
            return Ok(Self { value, bytes });
        }
        let query = RawQuery::parse(request.uri())?;
        if !is_utf8_declared(request.headers()) {
            return Err(unsupported("Send the form in UTF-8"));
        }
        let bytes = read_body(request.into_body(), state.settings.timeouts.body).await?;
        let pairs = form_pairs(&bytes).ok_or_else(|| {
            let detail = "The form is not UTF-8; encode its text as UTF-8";
            Problem::new(StatusCode::BAD_REQUEST, "malformed_form", detail)
        })?;
        let mut payloads = pairs.into_iter().filter(|(name, _)| name == "payload");
        let wrong = |code, detail| Error::invalid("payload", code, detail);
        let (_, payload) = payloads.next().ok_or_else(|| wrong("required", "required in a form"))?;
        if payloads.next().is_some() {
            return Err(wrong("duplicate", "must not be given more than once").into());
        }
        // The form is well-formed, so the error names its field `payload`.
        let payload = without_bom(payload.as_bytes());
        if serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_err() {
            return Err(wrong("malformed_json", "must be a JSON object with a field text").into());
        }
        let value = parse_json(payload)?;
        query.read::<()>()?;
        Ok(Self { value, bytes })
    }
}

/// The media type in `Content-Type`, and its parameters. Both are empty without the header.
pub fn media_type(headers: &HeaderMap) -> (&str, &str) {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (media_type, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    (media_type.trim(), parameters)
}

fn is_form(headers: &HeaderMap) -> bool {
    media_type(headers).0.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        && headers.get(header::CONTENT_ENCODING).is_none_or(|encoding| encoding == "identity")
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    refuse_encoding(headers)?;
    match media_type(headers).0 {
        "" => Err(unsupported("Send the header Content-Type: application/json")),
        essence if essence.eq_ignore_ascii_case("application/json") && is_utf8_declared(headers) => Ok(()),
        _ => Err(unsupported("Send the body as application/json in UTF-8")),
    }
}

/// Whether `Content-Type` has no `charset`, or that of UTF-8. Some programs leave out the hyphen.
fn is_utf8_declared(headers: &HeaderMap) -> bool {
    media_type(headers).1.split(';').all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            let charset = value.trim().trim_matches('"');
            charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("utf8")
        }
        _ => true,
    })
}

/// The text after a byte order mark. RFC 8259, section 8.1 forbids to send one before JSON, and allows to ignore it.
fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)
}

async fn read_body(mut body: Body, timeout: Duration) -> Result<Bytes, Problem> {
    let reading = async {
        let mut first = Bytes::new();
        let mut rest: Vec<u8> = Vec::new();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| body_cut_off())?;
            let Ok(data) = frame.into_data() else { continue };
            length += data.len();
            if length > DRAIN_LIMIT_BYTES {
                break;
            }
            if length > BODY_LIMIT_BYTES {
                rest = Vec::new();
            } else if first.is_empty() && rest.is_empty() {
                first = data;
            } else {
                rest.extend_from_slice(&std::mem::take(&mut first));
                rest.extend_from_slice(&data);
            }
        }
        if length > BODY_LIMIT_BYTES {
            let detail = format!("The body must have at most {BODY_LIMIT_BYTES} bytes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail));
        }
        Ok(if rest.is_empty() { first } else { rest.into() })
    };
    match tokio::time::timeout(timeout, reading).await {
        Ok(outcome) => outcome,
        Err(_) => Err(body_too_slow()),
    }
}

/// The problem for a body that ends too early.
pub(super) fn body_cut_off() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed_body", "The body ended before its Content-Length")
}

/// The problem for a body that does not arrive in time.
pub fn body_too_slow() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "The body took too long to arrive")
}

/// Refuses an encoded body, because the server does not decode bodies.
///
/// # Errors
/// 415 `unsupported_media_type`.
pub(super) fn refuse_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(unsupported("Send the body without Content-Encoding"));
    }
    Ok(())
}

/// The problem for a body of a type that the route does not take. `detail` says which type it takes.
pub fn unsupported(detail: &'static str) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let bytes = without_bom(bytes);
    // serde would accept an array with the values of the fields in order. Here only an object is valid.
    let is_object = bytes.trim_ascii_start().first() == Some(&b'{');
    if is_object && let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    // serde may report a wrong type before a later syntax error, and it reports some wrong types as syntax errors (such as `true`
    // in place of a variant). So the syntax is checked separately.
    // A number like 1e400 is valid JSON, and an error of its field.
    if let Err(error) = serde_json::from_slice::<serde_json::Value>(bytes)
        && !field_errors::is_number_too_large(&error.to_string())
    {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "malformed_json",
            format!("The body is not valid JSON in UTF-8: line {}, column {}", error.line(), error.column()),
        ));
    }
    if !is_object {
        return Err(Error::invalid("body", "wrong_type", "must be a JSON object").into());
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let outcome: Result<T, _> = serde_path_to_error::deserialize(&mut reader);
    let Err(error) = outcome else {
        return Err(Problem::of_status(StatusCode::BAD_REQUEST));
    };
    let path = error.path().clone();
    Err(Error::Invalid(vec![field_errors::of_body::<T>(bytes, &path, &error.into_inner().to_string())]).into())
}

/// The idempotency key of a request, bound to its caller, path and body. `None` without the header.
///
/// # Errors
/// 422 `invalid_idempotency_key` if the header is not a valid key.
pub fn idempotency_key(
    app: &App,
    headers: &HeaderMap,
    principal: &Principal,
    path: &str,
    body: &[u8],
) -> Result<Option<KeyedRequest>, Problem> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    Ok(Some(KeyedRequest::new(&app.key_days, &principal.idempotency_scope(), key.as_bytes(), "POST", path, body)?))
}
