//! The JSON form of invites.

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
    /// Maximum number of uses. Null for no limit.
    max_uses: Option<i64>,
    uses: i64,
    /// The code. It is shown only once, in the answer to its creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "phi_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG")]
    code: Option<&'a str>,
}

impl<'a> InviteBody<'a> {
    /// The JSON form of an invite. `code` is given only when it is created.
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
