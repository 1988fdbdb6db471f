//! The JSON form of sessions.

use serde::Serialize;
use utoipa::ToSchema;

use crate::base::time::Timestamp;
use crate::domain::identity::sessions::Session;

/// A session: a log-in of a user on one device.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionBody<'a> {
    #[schema(minimum = 1, example = 1)]
    id: i64,
    /// Whether this is the session of the request.
    current: bool,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    /// The time of the last request, exact to one minute.
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    last_seen_at: Timestamp,
    /// The time at which the session ends, unless it is used before that time.
    #[schema(value_type = String, format = DateTime, example = "2026-12-22T08:30:00.123456Z")]
    expires_at: Timestamp,
    /// The `User-Agent` of the log-in.
    #[schema(example = "curl/8.5.0")]
    agent: &'a str,
    /// The address of the last request.
    #[schema(example = "127.0.0.1")]
    address: &'a str,
}

impl<'a> SessionBody<'a> {
    /// The JSON form of a session. `current` says whether it is the session of the request.
    pub fn new(session: &'a Session, current: bool) -> Self {
        Self {
            id: session.id.0,
            current,
            created_at: session.created_at,
            last_seen_at: session.last_seen_at,
            expires_at: session.expires_at,
            agent: &session.agent,
            address: &session.address,
        }
    }
}
