//! Error answers as problem documents (RFC 9457). This is the only file that maps [`Error`] to HTTP statuses.
//!
//! Invariant: a problem document never contains stored data or the value of a field. Beside fixed text it has only the names of
//! fields, scopes, methods, tasks and allowed values, limits, waiting times and the request id. The cause of an error goes
//! to the log, once, with the request id. The edge renders the document, because it knows the request id.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::base::error::{Error, FieldError};

/// The media type of RFC 9457.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// An error answer before it is rendered.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after_s: Option<u32>,
    /// Written to the log, never to the caller.
    cause: Option<String>,
}

/// An error (RFC 9457 problem document).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument<'a> {
    /// Always `about:blank`. Use `code` to distinguish errors.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The reason phrase of the HTTP status.
    #[schema(example = "Unprocessable Entity")]
    title: &'a str,
    /// The HTTP status code.
    #[schema(minimum = 400, maximum = 599, example = 422)]
    status: u16,
    /// What is wrong and what to do, for people to read. The wording may change.
    #[schema(example = "body: must have at least one character")]
    detail: &'a str,
    /// A stable identifier of the error, in snake_case.
    #[schema(example = "invalid_fields", pattern = "^[a-z0-9_]+$")]
    code: &'a str,
    /// The id of the request. The server log contains the same id.
    #[schema(example = "8f14e45fceea167a00000001")]
    request_id: &'a str,
    /// Every invalid field. Absent if the error is not about fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ProblemField<'a>>,
}

/// An invalid field or parameter.
#[derive(Serialize, ToSchema)]
pub struct ProblemField<'a> {
    /// The name of the field. Nested fields are separated by dots, such as `member_user_names.0`.
    #[schema(example = "body")]
    field: &'a str,
    /// A stable identifier of the reason, in snake_case.
    #[schema(example = "required")]
    code: &'a str,
    /// What is wrong, for people to read. The wording may change.
    #[schema(example = "must have at least one character")]
    detail: &'a str,
}

impl Problem {
    /// Creates a problem without a cause.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, detail: detail.into(), errors: Vec::new(), retry_after_s: None, cause: None }
    }

    /// The problem for an answer that has only a status, for example axum's own answer for an unknown path.
    pub fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => ("not_found", "Nothing exists at this path"),
            StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "Method not allowed"),
            StatusCode::PAYLOAD_TOO_LARGE => ("body_too_large", "The body is larger than this path allows"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported_media_type", "Send the body as application/json"),
            StatusCode::REQUEST_TIMEOUT => ("request_timeout", "The request took too long to arrive"),
            status if status.is_server_error() => {
                ("internal", "Internal error; try again, and report the request id to the operator")
            }
            _ => ("bad_request", "The request cannot be understood"),
        };
        Self::new(status, code, detail)
    }

    /// The problem for a method that a path does not support. `allowed` is the value of the header `Allow`.
    pub fn method_not_allowed(allowed: &str) -> Self {
        let methods: Vec<&str> = allowed.split(',').map(str::trim).filter(|method| !method.is_empty()).collect();
        let detail = format!("Method not allowed; allowed: {}", methods.join(", "));
        Self { detail: detail.into(), ..Self::of_status(StatusCode::METHOD_NOT_ALLOWED) }
    }

    /// A problem for a caller who has sent too many requests or attempts. `what` names them.
    pub fn too_many(code: &'static str, what: &'static str, retry_after_s: u32) -> Self {
        let unit = if retry_after_s == 1 { "second" } else { "seconds" };
        let detail = format!("Too many {what}; try again in {retry_after_s} {unit}");
        Self::new(StatusCode::TOO_MANY_REQUESTS, code, detail).retry_after_s(retry_after_s)
    }

    /// Whether the caller was refused: the status is 401 or 403. A public route is then answered as without credentials.
    pub fn refuses_caller(&self) -> bool {
        matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }

    /// Adds the cause, for the log.
    pub fn caused_by(mut self, cause: String) -> Self {
        self.cause = Some(cause);
        self
    }

    /// Adds the header `Retry-After`.
    pub fn retry_after_s(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Renders the document. Writes a log line if there is a cause.
    pub fn render(&self, request_id: &str) -> Vec<u8> {
        if let Some(cause) = &self.cause {
            tracing::error!(status = self.status.as_u16(), code = self.code, cause, "a request failed");
        }
        let document = ProblemDocument {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            request_id,
            errors: self
                .errors
                .iter()
                .map(|error| ProblemField { field: &error.field, code: error.code, detail: &error.detail })
                .collect(),
        };
        serde_json::to_vec(&document).unwrap_or_default()
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Unauthenticated => Self::new(
                StatusCode::UNAUTHORIZED,
                "unauthenticated",
                "Send valid credentials in the Authorization header",
            ),
            Error::LogInFailed { code, detail } => Self::new(StatusCode::UNAUTHORIZED, code, detail),
            Error::RateLimited { code, retry_after_s } => {
                let what = if code == "too_many_uploads" { "uploads at the same time" } else { "attempts" };
                Self::too_many(code, what, retry_after_s)
            }
            Error::Conflict { code, detail } => Self::new(StatusCode::CONFLICT, code, detail),
            Error::Gone { code, detail } => Self::new(StatusCode::GONE, code, detail),
            Error::NotConfigured { code, detail } => Self::new(StatusCode::NOT_IMPLEMENTED, code, detail),
            Error::Forbidden { code, detail } => Self::new(StatusCode::FORBIDDEN, code, detail),
            Error::NotFound { code, detail } => Self::new(StatusCode::NOT_FOUND, code, detail),
            Error::TooLarge { code, detail } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, detail),
            Error::Unusable { code, detail } => Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail),
            Error::Invalid(errors) => {
                let detail = errors.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; ");
                Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields", detail) }
            }
            Error::IdempotencyKeyReused => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "This Idempotency-Key was used with another request; use a new key",
            ),
            Error::PreconditionFailed => Self::new(
                StatusCode::PRECONDITION_FAILED,
                "precondition_failed",
                "The object has another version than If-Match or If-None-Match allows; read it again",
            ),
            Error::Upstream { code, detail, retry_after_s, source } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
                    .retry_after_s(retry_after_s)
                    .caused_by(chain(&*source))
            }
            Error::Unavailable { retry_after_s, source } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "The server cannot do this now; try again, with the same Idempotency-Key if you sent one",
            )
            .retry_after_s(retry_after_s)
            .caused_by(chain(&*source)),
            Error::StorageFull => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "storage_full",
                "The server's storage is full; nothing was stored",
            )
            .caused_by("the disk or the database's quota is full".into()),
            error @ Error::Damaged { .. } => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "damaged",
                "A stored message is damaged and is not shown; the operator can find it with posthaste doctor --deep",
            )
            .caused_by(error.to_string()),
            error @ Error::UnknownValue { .. } => {
                Self::of_status(StatusCode::INTERNAL_SERVER_ERROR).caused_by(error.to_string())
            }
            Error::Internal(source) | Error::Rerun(source) => {
                Self::of_status(StatusCode::INTERNAL_SERVER_ERROR).caused_by(chain(&*source))
            }
            Error::Duplicate { constraint } => Self::of_status(StatusCode::INTERNAL_SERVER_ERROR)
                .caused_by(format!("unexpected duplicate: {constraint}")),
        }
    }
}

/// The error and its sources, separated by colons.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // The edge renders the body, because it knows the request id.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_name_the_numbers_and_fields() {
        let detail = |problem: Problem| problem.detail;
        assert_eq!(
            detail(Problem::too_many("rate_limited", "requests", 1)),
            "Too many requests; try again in 1 second"
        );
        let limited = Error::RateLimited { code: "too_many_attempts", retry_after_s: 30 };
        assert_eq!(detail(limited.into()), "Too many attempts; try again in 30 seconds");
        assert_eq!(detail(Problem::method_not_allowed("GET,HEAD")), "Method not allowed; allowed: GET, HEAD");
        let errors = vec![
            FieldError::new("X-Act-As", "user_not_found", "no user has this name"),
            FieldError::new("password", "common_password", "This password is too common"),
        ];
        let expected = "X-Act-As: no user has this name; This password is too common";
        assert_eq!(detail(Error::Invalid(errors).into()), expected);
    }
}
