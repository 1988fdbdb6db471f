//! Errors as RFC 9457 problem documents, in the one file that knows statuses.
//!
//! Invariant: what a caller reads is fixed text and the names of their own fields; causes go to the log, once, with the
//! request's id. The document is finished at the edge, which knows the id.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::base::error::{Error, FieldError};

/// The media type of RFC 9457.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// An error on its way to the caller.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after_s: Option<u32>,
    /// For the log alone.
    cause: Option<String>,
}

/// What went wrong (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument<'a> {
    /// Always `about:blank`: the `code` tells problems apart.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The status in words.
    #[schema(example = "Unprocessable Entity")]
    title: &'a str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599, example = 422)]
    status: u16,
    /// What to do about it.
    #[schema(example = "1 field cannot be accepted: body must have at least one character")]
    detail: &'a str,
    /// A stable snake_case word.
    #[schema(example = "invalid_fields", pattern = "^[a-z0-9_]+$")]
    code: &'a str,
    /// The request's id, to be found in the log.
    #[schema(example = "8f14e45fceea167a00000001")]
    request_id: &'a str,
    /// The fields that are wrong, when it is about fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ProblemField<'a>>,
}

/// What is wrong with one field.
#[derive(Serialize, ToSchema)]
pub struct ProblemField<'a> {
    /// The field's name, dots between levels.
    #[schema(example = "body")]
    field: &'a str,
    /// A stable snake_case word.
    #[schema(example = "required")]
    code: &'a str,
    /// What to do about it.
    #[schema(example = "must have at least one character")]
    detail: &'a str,
}

impl Problem {
    /// A problem of HTTP itself.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, detail: detail.into(), errors: Vec::new(), retry_after_s: None, cause: None }
    }

    /// The problem that a bare status stands for: what axum answers by itself.
    pub fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => ("not_found", "there is nothing at this path"),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("method_not_allowed", "this path knows other methods: see the Allow header")
            }
            StatusCode::PAYLOAD_TOO_LARGE => ("body_too_large", "the body is larger than this path takes"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported_media_type", "send application/json"),
            StatusCode::REQUEST_TIMEOUT => ("request_timeout", "the request took too long to arrive"),
            status if status.is_server_error() => {
                ("internal", "something went wrong here: try again, and report the request id")
            }
            _ => ("bad_request", "the request cannot be understood"),
        };
        Self::new(status, code, detail)
    }

    /// Whether it says that the caller is not let in, and not that the request or the server has a fault.
    pub fn is_refusal(&self) -> bool {
        matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }

    /// With what the log is to know.
    pub fn caused_by(mut self, cause: String) -> Self {
        self.cause = Some(cause);
        self
    }

    /// With `Retry-After`.
    pub fn retry_after_s(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The document, and the log line where there is a cause.
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
                "send valid credentials in the Authorization header",
            ),
            Error::LogInFailed { code, detail } => Self::new(StatusCode::UNAUTHORIZED, code, detail),
            Error::RateLimited { code, retry_after_s } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, code, "too often: try again after Retry-After seconds")
                    .retry_after_s(retry_after_s)
            }
            Error::Conflict { code, detail } => Self::new(StatusCode::CONFLICT, code, detail),
            Error::Gone { code, detail } => Self::new(StatusCode::GONE, code, detail),
            Error::NotConfigured { code, detail } => Self::new(StatusCode::NOT_IMPLEMENTED, code, detail),
            Error::Forbidden { code, detail } => Self::new(StatusCode::FORBIDDEN, code, detail),
            Error::NotFound { code, detail } => Self::new(StatusCode::NOT_FOUND, code, detail),
            Error::Invalid(errors) => {
                let told: Vec<String> =
                    errors.iter().map(|error| format!("{} {}", error.field, error.detail)).collect();
                let fields = if errors.len() == 1 { "1 field".into() } else { format!("{} fields", errors.len()) };
                Self {
                    errors,
                    ..Self::new(
                        StatusCode::UNPROCESSABLE_ENTITY,
                        "invalid_fields",
                        format!("{fields} cannot be accepted: {}", told.join("; ")),
                    )
                }
            }
            Error::IdempotencyKeyReused => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "this Idempotency-Key came with another request before: use a new one",
            ),
            Error::Unavailable { retry_after_s, source } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "the server cannot do this now: try again, with the same Idempotency-Key if there was one",
            )
            .retry_after_s(retry_after_s)
            .caused_by(chain(&*source)),
            Error::StorageFull => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "storage_full",
                "the server's storage is full: nothing was stored",
            )
            .caused_by("the disk or the database's quota is full".into()),
            error @ Error::Damaged { .. } => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "damaged",
                "a stored message is damaged and is not shown: the operator finds it with posthaste doctor --deep",
            )
            .caused_by(error.to_string()),
            error @ Error::UnknownValue { .. } => {
                Self::of_status(StatusCode::INTERNAL_SERVER_ERROR).caused_by(error.to_string())
            }
            Error::Internal(source) | Error::Rerun(source) => {
                Self::of_status(StatusCode::INTERNAL_SERVER_ERROR).caused_by(chain(&*source))
            }
            Error::Duplicate { constraint } => Self::of_status(StatusCode::INTERNAL_SERVER_ERROR)
                .caused_by(format!("a duplicate nobody expected: {constraint}")),
        }
    }
}

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
        // The edge writes the body: it knows the request's id.
        response.extensions_mut().insert(self);
        response
    }
}
