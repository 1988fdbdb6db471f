//! Frames of the WebSocket: parsing a frame of a client, building the request that it stands for, and rendering the reply.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, header};
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::base::error::FieldError;
use crate::domain::people::presence;
use crate::http::bodies::frames::ReplyFrame;

/// The limit of the body of a reply, in bytes.
const REPLY_LIMIT_BYTES: usize = 4 * 1_024 * 1_024;

/// A frame from a client.
#[derive(Deserialize)]
pub struct ClientFrame {
    /// The type of the frame, such as `send`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The `ref` of the frame, which the reply repeats.
    #[serde(rename = "ref", default)]
    pub reference: Option<Value>,
    /// Used as the header `Idempotency-Key` of the request.
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// All other fields: those of the request.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The presence state in a frame of the type `presence`.
///
/// # Errors
/// The fields that are invalid.
pub fn presence_of(frame: ClientFrame) -> Result<presence::State, Vec<FieldError>> {
    let mut rest = frame.rest;
    let state = rest.remove("state");
    let mut errors: Vec<FieldError> =
        rest.keys().map(|name| FieldError::new(name.clone(), "unknown_field", "unknown field")).collect();
    let state = state.as_ref().and_then(Value::as_str).and_then(presence::State::parse);
    match state.filter(|state| *state != presence::State::Offline) {
        Some(state) if errors.is_empty() => Ok(state),
        Some(_) => Err(errors),
        None => {
            errors.push(FieldError::new("state", "unknown_state", "must be online or away"));
            Err(errors)
        }
    }
}

/// Returns the request that a frame stands for, the `ref` of the frame, and a flag. If the flag is `false`, the frame gets a
/// reply only if it has a `ref` or if the request fails.
///
/// # Errors
/// The fields that are invalid.
pub fn request_of(frame: ClientFrame) -> Result<(Request, Option<Value>, bool), Vec<FieldError>> {
    let ClientFrame { kind, reference, idempotency_key, mut rest } = frame;
    let mut conversation_path = |resource: &str| -> Result<String, Vec<FieldError>> {
        let id = rest.remove("conversation_id").and_then(|id| id.as_i64()).filter(|id| *id > 0);
        let id =
            id.ok_or_else(|| vec![FieldError::new("conversation_id", "required", "must be the id of a conversation")])?;
        Ok(format!("/api/conversations/{id}/{resource}"))
    };
    let (path, body, always) = match kind.as_str() {
        "send" => ("/api/messages".to_owned(), Value::Object(rest), true),
        "read" | "delivered" => {
            let path = conversation_path("receipts")?;
            let Some(seq) = rest.remove("seq") else {
                return Err(vec![FieldError::new("seq", "required", "must be the seq of a message")]);
            };
            let field = if kind == "read" { "read_seq" } else { "delivered_seq" };
            rest.insert(field.to_owned(), seq);
            (path, Value::Object(rest), false)
        }
        "typing" => (conversation_path("typing")?, Value::Object(rest), false),
        _ => {
            let detail = "must be send, read, delivered, typing, presence or ping";
            return Err(vec![FieldError::new("type", "unknown_type", detail)]);
        }
    };
    let mut request =
        Request::builder().method(Method::POST).uri(path).header(header::CONTENT_TYPE, "application/json");
    if let Some(key) = &idempotency_key {
        request = request.header("idempotency-key", key);
    }
    let detail = "must have 1 to 255 printable ASCII characters";
    let request = request
        .body(Body::from(body.to_string()))
        .map_err(|_| vec![FieldError::new("idempotency_key", "invalid_idempotency_key", detail)])?;
    Ok((request, reference, always))
}

/// Renders the reply to a frame from the answer to its request. `None` if the answer cannot be read.
pub async fn reply(reference: Option<&Value>, response: Response) -> Option<String> {
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), REPLY_LIMIT_BYTES).await.ok()?;
    let body: Option<&RawValue> = serde_json::from_slice(&bytes).ok();
    serde_json::to_string(&ReplyFrame::new(reference, status, body)).ok()
}
