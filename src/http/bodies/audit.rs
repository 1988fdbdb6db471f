//! The JSON form of entries of the audit log.

use serde::Serialize;
use utoipa::ToSchema;

use crate::base::time::Timestamp;
use crate::domain::identity::audit::Entry;

/// An entry of the audit log: an action of an administrator, a user, a program or the command line.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct AuditBody<'a> {
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    at: Timestamp,
    /// A stable identifier of the action.
    #[schema(example = "session.created")]
    action: &'a str,
    /// The id of the user who did this. Null for an API key that acts as no user, and for the command line.
    #[schema(example = 1)]
    actor_id: Option<i64>,
    /// The id of the API key that was used. Null without one.
    api_key_id: Option<i64>,
    /// The id of the user whose account or data was affected. Null if there is none.
    #[schema(example = 1)]
    subject_id: Option<i64>,
    /// The address of the caller. Null for the command line, and after the user was erased.
    #[schema(example = "127.0.0.1")]
    address: Option<&'a str>,
    detail: Option<&'a str>,
}

impl<'a> AuditBody<'a> {
    /// The JSON form of an entry.
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
