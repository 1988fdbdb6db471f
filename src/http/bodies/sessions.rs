//! Sessions as callers see them.

use serde::Serialize;
use utoipa::ToSchema;

use crate::base::time::Timestamp;
use crate::domain::identity::sessions::Session;

/// A device that is logged in.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionBody<'a> {
    #[schema(minimum = 1, example = 1)]
    id: i64,
    /// Whether it is the one that asks.
    current: bool,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    /// To within a minute.
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    last_seen_at: Timestamp,
    /// When it ends unless it is used before.
    #[schema(value_type = String, format = DateTime, example = "2026-12-22T08:30:00.123456Z")]
    expires_at: Timestamp,
    /// The program's own name for itself.
    #[schema(example = "curl/8.5.0")]
    agent: &'a str,
    /// Where it was used from last.
    #[schema(example = "127.0.0.1")]
    address: &'a str,
}

impl<'a> SessionBody<'a> {
    /// A session, and whether it is the one that asks.
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
