//! The error responses of the OpenAPI document, and the codes of errors.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use crate::base::codes::{FIELD_CODES, PROBLEM_CODES};
use crate::http::bodies::live_schemas::reference;
use crate::http::bodies::problem::PROBLEM_JSON;

/// An error that many operations can answer.
struct SharedError {
    status: StatusCode,
    code: &'static str,
    description: &'static str,
}

const fn shared_error(status: StatusCode, code: &'static str, description: &'static str) -> SharedError {
    SharedError { status, code, description }
}

/// The errors of every operation.
const OF_ALL: &[SharedError] = &[
    shared_error(StatusCode::BAD_REQUEST, "malformed_query", "The query, the body or the request is malformed."),
    shared_error(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "The path does not support this method. The header `Allow` lists the supported ones.",
    ),
    shared_error(StatusCode::REQUEST_TIMEOUT, "request_timeout", "The request took too long to arrive."),
    shared_error(StatusCode::URI_TOO_LONG, "uri_too_long", "The request target is longer than 16 KiB."),
    shared_error(
        StatusCode::TOO_MANY_REQUESTS,
        "rate_limited",
        "Too many requests. The header `Retry-After` has the seconds to wait.",
    ),
    shared_error(
        StatusCode::MISDIRECTED_REQUEST,
        "foreign_host",
        "Under open access, the host name is not one of the server.",
    ),
    shared_error(
        StatusCode::UNPROCESSABLE_ENTITY,
        "invalid_fields",
        "A parameter or a field is invalid. `errors` has an entry for each.",
    ),
    shared_error(
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "headers_too_large",
        "The header fields are larger than 32 KiB.",
    ),
    shared_error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "An internal error of the server."),
    shared_error(
        StatusCode::SERVICE_UNAVAILABLE,
        "unavailable",
        "The server cannot do this now. The header `Retry-After` has the seconds to wait.",
    ),
];

/// The errors of operations that need credentials.
const OF_SECURED: &[SharedError] = &[
    shared_error(StatusCode::UNAUTHORIZED, "unauthenticated", "The credentials are missing or invalid."),
    shared_error(StatusCode::FORBIDDEN, "insufficient_scope", "The caller may not do this."),
];

/// The errors of operations about one object.
const OF_OBJECTS: &[SharedError] =
    &[shared_error(StatusCode::NOT_FOUND, "not_found", "The object does not exist, or the caller may not see it.")];

/// The errors of operations whose answer has an entity tag.
const OF_TAGGED: &[SharedError] = &[shared_error(
    StatusCode::PRECONDITION_FAILED,
    "precondition_failed",
    "The object has another version than `If-Match` or `If-None-Match` allows.",
)];

/// The errors of operations with a body.
const OF_BODIES: &[SharedError] = &[
    shared_error(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The body is larger than 256 KiB."),
    shared_error(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "The body is not `application/json` in UTF-8.",
    ),
    shared_error(StatusCode::INSUFFICIENT_STORAGE, "storage_full", "The server's storage is full."),
];

impl SharedError {
    /// The name of the response in the document: the reason phrase of the status without spaces.
    fn name(&self) -> String {
        reason_phrase(self.status).replace(' ', "")
    }
}

fn reason_phrase(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}

/// The responses that many operations share.
pub fn shared() -> Value {
    let errors = [OF_ALL, OF_SECURED, OF_OBJECTS, OF_TAGGED, OF_BODIES].into_iter().flatten();
    errors
        .map(|error| {
            let content = content(error.status, error.code, error.description);
            (error.name(), json!({"description": error.description, "content": content}))
        })
        .collect::<Map<_, _>>()
        .into()
}

/// Adds the schemas of the codes, and the codes to the schema of a problem.
pub fn add_codes(components: &mut Value) {
    let schemas = &mut components["schemas"];
    let of_problems: Vec<&str> = PROBLEM_CODES.iter().flat_map(|(_, codes)| *codes).copied().collect();
    schemas["ProblemCode"] = json!({
        "type": "string",
        "description": "A stable identifier of an error. New versions may add codes.",
        "enum": of_problems,
    });
    schemas["FieldCode"] = json!({
        "type": "string",
        "description": "A stable identifier of the reason why a field is invalid. New versions may add codes.",
        "enum": FIELD_CODES,
    });
    for (schema, codes) in [("Problem", "ProblemCode"), ("ProblemField", "FieldCode")] {
        let code = &mut schemas[schema]["properties"]["code"];
        let (description, example) = (code["description"].take(), code["example"].take());
        *code = reference(codes);
        code["description"] = description;
        code["example"] = example;
    }
}

/// Adds the errors that an operation can answer and that its attribute does not describe, and an example to those that it
/// describes.
pub fn add_errors(operation: &mut Value, path: &str, method: &str, public: bool) {
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for (status, response) in responses.iter_mut() {
        let status = status.parse().ok().and_then(|status| StatusCode::from_u16(status).ok());
        if let Some(status) = status.filter(|status| status.is_client_error() || status.is_server_error()) {
            let description = response["description"].as_str().unwrap_or_default().to_owned();
            response["content"] = content(status, named_code(status, &description), &description);
        }
    }
    let mut errors = vec![OF_ALL];
    errors.extend(responses.contains_key(StatusCode::NOT_MODIFIED.as_str()).then_some(OF_TAGGED));
    errors.extend((!public).then_some(OF_SECURED));
    errors.extend((path.contains('{') || method == "post").then_some(OF_OBJECTS));
    errors.extend(matches!(method, "post" | "put" | "patch").then_some(OF_BODIES));
    for error in errors.into_iter().flatten() {
        responses
            .entry(error.status.as_str())
            .or_insert_with(|| json!({"$ref": format!("#/components/responses/{}", error.name())}));
    }
}

/// The first code of this status that the description names between backticks, or the first code of the status.
fn named_code(status: StatusCode, description: &str) -> &'static str {
    let of_status = PROBLEM_CODES.iter().filter(|(of, _)| *of == status.as_u16()).flat_map(|(_, codes)| *codes);
    let codes: Vec<&'static str> = of_status.copied().collect();
    let named = description.split('`').skip(1).step_by(2).find_map(|word| codes.iter().find(|code| **code == word));
    named.or(codes.first()).copied().unwrap_or("internal")
}

/// The content of an error response, with an example.
fn content(status: StatusCode, code: &str, description: &str) -> Value {
    let mut example = json!({
        "type": "about:blank",
        "title": reason_phrase(status),
        "status": status.as_u16(),
        "detail": description.trim_end_matches('.').replace('`', ""),
        "code": code,
        "request_id": "8f14e45fceea167a00000001",
    });
    if code == "invalid_fields" {
        example["errors"] =
            json!([{"field": "body", "code": "required", "detail": "must have at least one character"}]);
    }
    json!({PROBLEM_JSON: {"schema": reference("Problem"), "example": example}})
}
