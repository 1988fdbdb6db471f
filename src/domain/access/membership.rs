//! What a caller may do in a conversation.
//!
//! Invariant: a [`Membership`] is read from the database in the transaction that relies on it. A write locks the
//! conversation first. A user who is not a member gets the same answer as for a conversation that does not exist.

use super::viewer::Viewer;
use crate::base::error::{Error, Result};
use crate::base::ids::ConversationId;
use crate::store;
pub use crate::store::conversations::conversation_kinds::{History, Kind};
pub use crate::store::conversations::members::Role;
use crate::store::conversations::members::Standing;
use crate::store::db::Conn;

/// The maximum number of members of a conversation in which each message shows whether all members have received and read
/// it.
pub const RECEIPTS_MEMBER_LIMIT: i64 = 100;

/// The access of a viewer to a conversation. The viewer is a member, or may see everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The conversation.
    pub conversation: ConversationId,
    /// Direct or group.
    pub kind: Kind,
    /// The role of the member; `None` if the viewer is not a member.
    pub role: Option<Role>,
    /// The `seq` of the first message that the viewer may see.
    pub first_seq: i64,
    /// The `seq` of the newest message.
    pub last_seq: i64,
    /// Number of members.
    pub member_count: i64,
    /// Whether ordinary members may add other users.
    pub members_can_add: bool,
}

impl Membership {
    const fn new(conversation: ConversationId, standing: Standing) -> Self {
        let (role, joined_seq) = match standing.member {
            Some((role, joined_seq)) => (Some(role), joined_seq),
            None => (None, 0),
        };
        Self {
            conversation,
            kind: standing.kind,
            role,
            first_seq: standing.history.first_seq(joined_seq),
            last_seq: standing.last_seq,
            member_count: standing.member_count,
            members_can_add: standing.members_can_add,
        }
    }

    /// Whether the viewer may see this message: it exists, and it is not older than the history that they may see.
    pub const fn sees(&self, seq: i64) -> bool {
        self.first_seq <= seq && seq <= self.last_seq
    }

    /// Whether the member has this role or a higher one.
    pub fn is_at_least(&self, role: Role) -> bool {
        self.role.is_some_and(|own| own >= role)
    }
}

/// Reads the access of a viewer to a conversation.
///
/// # Errors
/// 404 `conversation_not_found`, also if the viewer is a user who is not a member.
pub async fn membership(conn: &mut Conn, viewer: Viewer, conversation: ConversationId) -> Result<Membership> {
    let standing = store::conversations::members::standing_of(conn, conversation, viewer.person()).await?;
    match (viewer, standing) {
        (_, None) => Err(conversation_not_found()),
        (Viewer::Person(_), Some(Standing { member: None, .. })) => Err(conversation_not_found()),
        (Viewer::Person(_) | Viewer::Everything, Some(standing)) => Ok(Membership::new(conversation, standing)),
    }
}

/// Locks the conversation until the transaction ends, then reads the [`membership`].
///
/// # Errors
/// As [`membership`].
pub async fn locked_membership(conn: &mut Conn, viewer: Viewer, conversation: ConversationId) -> Result<Membership> {
    store::conversations::conversations::lock_one(conn, conversation).await?;
    membership(conn, viewer, conversation).await
}

/// Checks that the member has this role or a higher one.
///
/// # Errors
/// 403 `insufficient_role`.
pub fn require_role(membership: &Membership, role: Role) -> Result<()> {
    if membership.is_at_least(role) { Ok(()) } else { Err(insufficient_role(role)) }
}

fn insufficient_role(role: Role) -> Error {
    let detail = match role {
        Role::Owner => "Only an owner of the group may do this",
        Role::Admin | Role::Member => "Only an admin or an owner of the group may do this",
    };
    Error::Forbidden { code: "insufficient_role", detail: detail.into() }
}

/// Checks that the conversation is a group.
///
/// # Errors
/// 409 `not_a_group`.
pub fn require_group(membership: &Membership) -> Result<()> {
    match membership.kind {
        Kind::Group => Ok(()),
        Kind::Direct => Err(Error::Conflict {
            code: "not_a_group",
            detail: "The members and settings of a direct conversation cannot be changed".into(),
        }),
    }
}

/// Locks a conversation until the transaction ends, without checking that the caller is a member. The function that
/// calls this one has checked another right, such as an invite.
///
/// # Errors
/// 404 `conversation_not_found`.
pub async fn lock_without_membership_check(conn: &mut Conn, conversation: ConversationId) -> Result<Membership> {
    locked_membership(conn, Viewer::Everything, conversation).await
}

/// The error for a conversation that does not exist or that the caller may not see.
pub fn conversation_not_found() -> Error {
    Error::NotFound { code: "conversation_not_found", detail: "Conversation not found".into() }
}
