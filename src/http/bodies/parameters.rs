//! Parameters that several routes share.
//!
//! Invariant: a struct for a path or a query parses its parameters, and the comment of each field is the documentation of that
//! parameter. [`IdempotencyKeyHeader`], [`PreconditionHeaders`], [`IdSchema`] and [`LimitSchema`] parse nothing: they are only for the
//! OpenAPI document.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Unexpected};
use utoipa::openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use crate::base::time::Timestamp;
use crate::domain::shared::pagination::{Limit, MAX_LIMIT};

/// The longest wait of a long poll.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// `Number.MAX_SAFE_INTEGER` of JavaScript. Ids and seqs are not larger.
const MAX_SAFE_INTEGER: i64 = 9_007_199_254_740_991;

/// Query parameters that select a page of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// The maximum number of entries on the page. 50 if absent.
    #[serde(default, deserialize_with = "limit")]
    #[param(value_type = Option<LimitSchema>, inline)]
    pub limit: Limit,
    /// Where the page begins. If absent, at the start of the list. The `Link` header of a page has the path of the next
    /// page, with this parameter: request that path unchanged.
    pub cursor: Option<String>,
}

/// The query parameter that says after which event a stream begins.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StreamStart {
    /// Delivers the events after this cursor. If absent, only events that happen from now on.
    #[param(max_length = 64)]
    pub after: Option<String>,
}

/// Path parameter of a route about one user.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct UserPath {
    /// The name of the user, or `me` for the caller.
    #[param(example = "me")]
    pub user_name: String,
}

/// Path parameter of a route about the caller's own user.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct OwnUserPath {
    /// `me`, or the caller's own user name.
    #[param(example = "me")]
    pub user_name: String,
}

/// Path parameter of a route about one attachment.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct AttachmentPath {
    /// The id of the attachment.
    #[param(value_type = IdSchema, inline, example = 1)]
    pub id: i64,
}

/// Path parameter of a link to a file.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct LinkPath {
    /// The token of the link.
    #[param(max_length = 128)]
    pub token: String,
}

/// Path parameter of a route about one conversation.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ConversationPath {
    /// The id of the conversation.
    #[param(value_type = IdSchema, inline, example = 1)]
    pub id: i64,
}

/// Path parameter of a route about one group.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct GroupPath {
    /// The id of the group.
    #[param(value_type = IdSchema, inline, example = 1)]
    pub id: i64,
}

/// Path parameters of a route about one message of a conversation.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct MessagePath {
    /// The id of the conversation.
    #[param(value_type = IdSchema, inline, example = 1)]
    pub id: i64,
    /// The `seq` of the message in the conversation.
    #[param(value_type = IdSchema, inline, example = 1)]
    pub seq: i64,
}

/// The headers with which an uploader states what the server cannot measure.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct StatedMediaHeaders {
    /// The duration of audio or video in milliseconds. Used if the server cannot measure it.
    #[param(rename = "Posthaste-Duration-Ms", minimum = 0, maximum = 86_400_000)]
    _duration_ms: Option<i64>,
    /// The loudness of 64 equal parts of an audio file, one byte each, in base64. Used if the server cannot measure it.
    #[param(rename = "Posthaste-Waveform", min_length = 88, max_length = 88)]
    _waveform: Option<String>,
}

/// The header that [`idempotency_key`](super::extract::idempotency_key) reads.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only for the OpenAPI document")]
pub struct IdempotencyKeyHeader {
    /// A text of the caller's choice. A repeated request with the same key and body has no second effect and gets the first
    /// answer again, for 7 days.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255, pattern = "^[ -~]+$")]
    idempotency_key: Option<String>,
}

/// The headers that [`precondition`](super::conditions::precondition) reads.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only for the OpenAPI document")]
pub struct PreconditionHeaders {
    /// Entity tags of the object, separated by commas, or `*`. If its answer to GET has none of these tags now, the request changes
    /// nothing and the answer is 412.
    #[param(rename = "If-Match", example = "\"5f3a9c1e7b204d685f3a9c1e7b204d68\"")]
    if_match: Option<String>,
}

/// The schema of an id or a seq.
pub struct IdSchema;

impl PartialSchema for IdSchema {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(Some(1))
            .maximum(Some(MAX_SAFE_INTEGER));
        number.into()
    }
}

impl ToSchema for IdSchema {}

/// The schema of the `limit` of a list.
pub struct LimitSchema;

impl PartialSchema for LimitSchema {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int32)))
            .minimum(Some(1))
            .maximum(Some(MAX_LIMIT));
        number.into()
    }
}

impl ToSchema for LimitSchema {}

/// The rule for a date or a time in a query.
const TIME_RULE: &str =
    "must be a date such as 2026-11-22, or an RFC 3339 time such as 2026-11-22T08:30:00Z (write + as %2B)";

/// A date or a time.
pub struct Date {
    /// The text as the caller wrote it.
    pub text: String,
    /// The time, or the beginning of the date in UTC.
    pub begins_at: Timestamp,
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let begins_at = Timestamp::parse(&text).ok_or_else(|| D::Error::custom(TIME_RULE))?;
        Ok(Self { text, begins_at })
    }
}

/// Deserializes the `limit` of a list.
///
/// # Errors
/// It is not a number, or it is out of range.
pub fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Limit, D::Error> {
    let entries = i64::deserialize(deserializer)?;
    let bounds = format!("must be between 1 and {MAX_LIMIT}");
    Limit::new(entries).ok_or_else(|| D::Error::invalid_value(Unexpected::Signed(entries), &&*bounds))
}

/// Deserializes a date or an RFC 3339 time that may be absent.
///
/// # Errors
/// It is not such a time.
pub fn optional_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let date = Date::deserialize(deserializer)?;
    Ok(Some(date.begins_at))
}
