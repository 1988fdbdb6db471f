//! Entries of the audit log as callers see them.

use serde::Serialize;
use utoipa::ToSchema;

use crate::base::time::Timestamp;
use crate::domain::identity::audit::Entry;

/// Something that happened to an account or a key.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct AuditBody<'a> {
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    at: Timestamp,
    /// What, as a stable word.
    #[schema(example = "session.created")]
    action: &'a str,
    /// The id of the user who did it.
    #[schema(example = 1)]
    actor_id: Option<i64>,
    /// The id of the API key that did it.
    api_key_id: Option<i64>,
    /// The id of the user whom it was done to.
    #[schema(example = 1)]
    subject_id: Option<i64>,
    /// From where; null for the command line, and for who was erased.
    #[schema(example = "127.0.0.1")]
    address: Option<&'a str>,
    detail: Option<&'a str>,
}

impl<'a> AuditBody<'a> {
    /// An entry.
    pub fn new(entry: &'a Entry) -> Self {
        Self {
            at: entry.at,
            action: &entry.action,
            actor_id: entry.actor_id.map(|id| id.0),
            api_key_id: entry.api_key_id.map(|id| id.0),
            subject_id: entry.subject_id.map(|id| id.0),
            address: entry.address.as_deref(),
            detail: entry.detail.as_deref(),
        }
    }
}
