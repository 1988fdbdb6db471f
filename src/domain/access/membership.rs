//! What somebody may do in a conversation.
//!
//! Invariant: a [`Membership`] comes from the database alone, read in the transaction that rests on it (a write locks the
//! conversation first). Who has none learns nothing: for them the conversation does not exist.

use super::viewer::Viewer;
use crate::base::error::{Error, Result};
use crate::base::ids::ConversationId;
use crate::store;
pub use crate::store::conversations::conversation_kinds::{History, Kind};
pub use crate::store::conversations::members::Role;
use crate::store::conversations::members::Standing;
use crate::store::db::Conn;

/// Members up to whom it is said of each message whether all have it.
pub const RECEIPTS_MEMBER_LIMIT: i64 = 100;

/// How somebody sees a conversation: as a member, or as a viewer of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Which conversation.
    pub conversation: ConversationId,
    /// Direct or group.
    pub kind: Kind,
    /// As what; `None` for who is no member.
    pub role: Option<Role>,
    /// The first message that they see.
    pub first_seq: i64,
    /// The last message that there is.
    pub last_seq: i64,
    /// How many members there are.
    pub member_count: i64,
    /// Whether members may add others.
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

    /// Whether they see a message: it is there, and not from before their time.
    pub const fn sees(&self, seq: i64) -> bool {
        self.first_seq <= seq && seq <= self.last_seq
    }

    /// Whether they have a role, or a higher one.
    pub fn is_at_least(&self, role: Role) -> bool {
        self.role.is_some_and(|own| own >= role)
    }
}

/// How a viewer sees a conversation.
///
/// # Errors
/// 404 `conversation_not_found`, also for a person who is no member.
pub async fn membership(conn: &mut Conn, viewer: Viewer, conversation: ConversationId) -> Result<Membership> {
    let standing = store::conversations::members::standing_of(conn, conversation, viewer.person()).await?;
    match (viewer, standing) {
        (_, None) => Err(conversation_not_found()),
        (Viewer::Person(_), Some(Standing { member: None, .. })) => Err(conversation_not_found()),
        (Viewer::Person(_) | Viewer::Everything, Some(standing)) => Ok(Membership::new(conversation, standing)),
    }
}

/// [`membership`] with the conversation locked until the transaction ends.
///
/// # Errors
/// As [`membership`].
pub async fn locked_membership(conn: &mut Conn, viewer: Viewer, conversation: ConversationId) -> Result<Membership> {
    store::conversations::conversations::lock_one(conn, conversation).await?;
    membership(conn, viewer, conversation).await
}

/// That somebody has a role, or a higher one.
///
/// # Errors
/// 403 `insufficient_role`.
pub fn require_role(membership: &Membership, role: Role) -> Result<()> {
    if membership.is_at_least(role) { Ok(()) } else { Err(insufficient_role(role)) }
}

fn insufficient_role(role: Role) -> Error {
    let detail = match role {
        Role::Owner => "only an owner of the group may do this",
        Role::Admin | Role::Member => "only an admin or owner of the group may do this",
    };
    Error::Forbidden { code: "insufficient_role", detail: detail.into() }
}

/// That a conversation is a group.
///
/// # Errors
/// 409 `not_a_group`.
pub fn require_group(membership: &Membership) -> Result<()> {
    match membership.kind {
        Kind::Group => Ok(()),
        Kind::Direct => Err(Error::Conflict {
            code: "not_a_group",
            detail: "a direct conversation has its two people, and nothing to change about them".into(),
        }),
    }
}

/// A conversation, locked until the transaction ends, for somebody who may be no member of it: the caller has checked another
/// right, such as an invite.
///
/// # Errors
/// 404 `conversation_not_found`.
pub async fn lock_without_membership_check(conn: &mut Conn, conversation: ConversationId) -> Result<Membership> {
    locked_membership(conn, Viewer::Everything, conversation).await
}

/// There is no such conversation for this caller.
pub fn conversation_not_found() -> Error {
    Error::NotFound { code: "conversation_not_found", detail: "there is no such conversation".into() }
}
