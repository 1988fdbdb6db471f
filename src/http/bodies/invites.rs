//! Invites as callers see them.

use serde::Serialize;
use utoipa::ToSchema;

use crate::base::time::Timestamp;
use crate::domain::conversations::invites::Invite;

/// An invite into a group.
#[derive(Serialize, ToSchema)]
#[schema(as = Invite)]
pub struct InviteBody<'a> {
    #[schema(minimum = 1, example = 1)]
    id: i64,
    #[schema(minimum = 1, example = 1)]
    conversation_id: i64,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    /// Null for any number.
    max_uses: Option<i64>,
    uses: i64,
    /// The code, once, in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "phi_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG")]
    code: Option<&'a str>,
}

impl<'a> InviteBody<'a> {
    /// An invite, with its code where it is made.
    pub const fn new(invite: &Invite, code: Option<&'a str>) -> Self {
        Self {
            id: invite.id.0,
            conversation_id: invite.conversation_id.0,
            created_at: invite.created_at,
            expires_at: invite.expires_at,
            max_uses: invite.max_uses,
            uses: invite.uses,
            code,
        }
    }
}
