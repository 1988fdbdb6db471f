//! The JSON form of the frames of a WebSocket and of the items of a stream of server-sent events.
//!
//! The frames of a client have no type for parsing: a frame is parsed as a request. The types of client frames here are only for
//! the documents.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// The first frame of the server, and the frame after each `reset`.
#[derive(Serialize, ToSchema)]
pub struct HelloFrame<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The cursor at which the events begin.
    #[schema(example = "5f3a9c1e7b204d68-42")]
    cursor: &'a str,
    /// The longest time between two pings of the server, in milliseconds.
    #[schema(minimum = 1, example = 25000)]
    heartbeat_ms: u64,
    /// The user whose events are delivered. Null if the caller is not a user.
    #[schema(example = "bugs")]
    user_name: Option<&'a str>,
}

impl<'a> HelloFrame<'a> {
    /// The frame with the cursor at which the events begin.
    pub const fn new(cursor: &'a str, heartbeat_ms: u64, user_name: Option<&'a str>) -> Self {
        Self { kind: "hello", cursor, heartbeat_ms, user_name }
    }
}

/// The cursor has expired: load again what you show. A `hello` follows.
#[derive(Serialize, ToSchema)]
pub struct ResetFrame {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The code of the error.
    #[schema(example = "cursor_expired")]
    reason: &'static str,
}

impl ResetFrame {
    /// The frame for an expired cursor.
    pub const fn new(reason: &'static str) -> Self {
        Self { kind: "reset", reason }
    }
}

/// The answer to a frame of the client.
#[derive(Serialize, ToSchema)]
pub struct ReplyFrame<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The `ref` of the frame. Null if it had none.
    #[serde(rename = "ref")]
    #[schema(value_type = Option<Value>)]
    reference: Option<&'a Value>,
    /// The HTTP status that the corresponding request would have.
    #[schema(minimum = 200, maximum = 599, example = 201)]
    status: u16,
    /// The body that the answer to the corresponding request would have. Null if it would have none.
    #[schema(value_type = Option<Object>)]
    body: Option<&'a RawValue>,
}

impl<'a> ReplyFrame<'a> {
    /// The reply to a frame with this `ref`.
    pub const fn new(reference: Option<&'a Value>, status: u16, body: Option<&'a RawValue>) -> Self {
        Self { kind: "reply", reference, status, body }
    }
}

/// The answer to a `ping` of the client.
#[derive(Serialize, ToSchema)]
pub struct PongFrame {
    #[serde(rename = "type")]
    kind: &'static str,
}

impl PongFrame {
    /// The frame.
    pub const fn new() -> Self {
        Self { kind: "pong" }
    }
}

impl Default for PongFrame {
    fn default() -> Self {
        Self::new()
    }
}

/// The data of the event `hello`, which begins a stream of server-sent events. Only a `reset` comes before it.
#[derive(Serialize, ToSchema)]
pub struct StreamHello<'a> {
    /// The cursor at which the stream begins.
    #[schema(example = "5f3a9c1e7b204d68-42")]
    pub cursor: &'a str,
}

/// The data of the event `reset` of a stream: the cursor has expired, load again what you show. A `hello` follows.
#[derive(Serialize, ToSchema)]
pub struct StreamReset {
    /// The code of the error.
    #[schema(example = "cursor_expired")]
    pub reason: &'static str,
}

/// What every frame of a client may have.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only for the documents")]
pub struct FrameHead {
    /// Any JSON value. The reply repeats it.
    #[schema(rename = "ref", value_type = Option<Value>)]
    reference: Option<Value>,
    /// Used as the header `Idempotency-Key` of the corresponding request.
    #[schema(min_length = 1, max_length = 255, pattern = "^[ -~]+$")]
    idempotency_key: Option<String>,
}

/// Reports that messages were read or delivered, as `POST /api/conversations/{id}/receipts` does. Answered if it has a `ref` or is
/// refused.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only for the documents")]
pub struct ReceiptFrame {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    conversation_id: i64,
    /// The `seq` up to which messages were read or delivered.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 3)]
    seq: i64,
}

/// Reports that the caller is typing, as `POST /api/conversations/{id}/typing` does. Answered if it has a `ref` or is refused.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only for the documents")]
pub struct TypingFrame {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    conversation_id: i64,
}

/// Sets the presence of this device. A socket begins as `online`. Answered if it has a `ref` or is refused.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only for the documents")]
pub struct PresenceFrame {
    state: DevicePresence,
}

/// The presence of one device.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DevicePresence {
    /// Somebody is at the device.
    Online,
    /// Nobody is at the device.
    Away,
}

/// Answered with `pong`, immediately.
#[derive(ToSchema)]
pub struct PingFrame {}
