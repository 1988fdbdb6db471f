//! Parameters of paths and queries that several routes share: each struct parses its parameters and documents them.
//!
//! Invariant: what is documented of a parameter stands beside the field that it is read into.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Unexpected};
use utoipa::openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use crate::base::time::Timestamp;
use crate::domain::shared::pagination::{Limit, MAX_LIMIT};

/// How long a poll for events may wait.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// The largest integer that JavaScript holds exactly. Ids and seqs do not go beyond it.
const MAX_EXACT_INTEGER: i64 = 9_007_199_254_740_991;

/// A page of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Entries of the page; 50 when it is absent.
    #[serde(default, deserialize_with = "limit")]
    #[param(value_type = Option<LimitSchema>, inline)]
    pub limit: Limit,
    /// Where the page begins: taken from a Link header as it is.
    pub cursor: Option<String>,
}

/// Where a stream of events begins.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StreamStart {
    /// The cursor to go on behind.
    #[param(max_length = 64)]
    pub after: Option<String>,
}

/// A user.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct UserPath {
    /// The user's name; `me` is the caller.
    #[param(example = "rdibari")]
    pub user_name: String,
}

/// The caller as a user.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct OwnUserPath {
    /// `me`, or the caller's own name.
    #[param(example = "me")]
    pub user_name: String,
}

/// A conversation.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ConversationPath {
    /// The conversation.
    #[param(value_type = IdSchema, inline, example = 1)]
    pub id: i64,
}

/// A group.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct GroupPath {
    /// The group.
    #[param(value_type = IdSchema, inline, example = 1)]
    pub id: i64,
}

/// A message of a conversation.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct MessagePath {
    /// The conversation.
    #[param(value_type = IdSchema, inline, example = 1)]
    pub id: i64,
    /// The message's place in it.
    #[param(value_type = IdSchema, inline, example = 1)]
    pub seq: i64,
}

/// The header that `idempotency_key` reads.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "for the document alone")]
pub struct IdempotencyKeyHeader {
    /// A repeat with the same key and body is answered with the first answer, for 7 days.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255, pattern = "^[ -~]+$")]
    idempotency_key: Option<String>,
}

/// The schema of an id or a seq.
pub struct IdSchema;

impl PartialSchema for IdSchema {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(Some(1))
            .maximum(Some(MAX_EXACT_INTEGER));
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

/// A date, or a time.
pub struct Date {
    /// As the caller wrote it.
    pub text: String,
    /// The time, or the first moment of the date in UTC.
    pub begins_at: Timestamp,
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let begins_at = Timestamp::parse(&text)
            .or_else(|| Timestamp::parse(&format!("{text}T00:00:00Z")))
            .ok_or_else(|| D::Error::custom("must be a date such as 2026-11-22, or an RFC 3339 time"))?;
        Ok(Self { text, begins_at })
    }
}

/// Reads the `limit` of a list.
///
/// # Errors
/// For what is no number, and for one that is out of bounds.
pub fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Limit, D::Error> {
    let entries = i64::deserialize(deserializer)?;
    let bounds = format!("must be between 1 and {MAX_LIMIT}");
    Limit::new(entries).ok_or_else(|| D::Error::invalid_value(Unexpected::Signed(entries), &&*bounds))
}

/// Reads an RFC 3339 time that may be absent.
///
/// # Errors
/// For what is no such time.
pub fn optional_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time = Timestamp::parse(&text).ok_or_else(|| {
        D::Error::custom("must be an RFC 3339 time such as 2026-11-22T08:30:00Z (a + in it is written %2B)")
    })?;
    Ok(Some(time))
}
