//! What somebody may do in a conversation.
//!
//! Invariant: a [`Membership`] comes from the database alone, read in the transaction that rests on it (a write locks the
//! conversation first). Who has none learns nothing: for them the conversation does not exist.

use super::auth::Principal;
use crate::error::{Error, Result};
use crate::ids::{ConversationId, UserId};
use crate::store;
pub use crate::store::conversation_kinds::{History, Kind};
use crate::store::db::Conn;
pub use crate::store::members::Role;

/// Members up to whom it is said of each message whether all have it.
pub const RECEIPTS_MEMBER_LIMIT: i64 = 100;

/// Somebody who sees a conversation: a member, or a caller that stands for nobody and sees everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Which conversation.
    pub conversation: ConversationId,
    /// Direct or group.
    pub kind: Kind,
    /// The member; `None` for a caller that stands for nobody.
    pub person: Option<UserId>,
    /// As what; `None` likewise.
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
    /// Whether they see a message: it is there, and not from before their time.
    pub const fn sees(&self, seq: i64) -> bool {
        self.first_seq <= seq && seq <= self.last_seq
    }

    /// Whether they have a role, or a higher one.
    pub fn is_at_least(&self, role: Role) -> bool {
        self.role.is_some_and(|own| own >= role)
    }
}

/// How a caller sees a conversation.
///
/// # Errors
/// 404 `conversation_not_found`, also for those who are not in it.
pub async fn membership(conn: &mut Conn, caller: Option<UserId>, conversation: ConversationId) -> Result<Membership> {
    let standing = store::members::standing_of(conn, conversation, caller).await?.ok_or_else(conversation_not_found)?;
    let (role, joined_seq) = match (caller, standing.member) {
        (Some(_), None) => return Err(conversation_not_found()),
        (_, Some((role, joined_seq))) => (Some(role), joined_seq),
        (None, None) => (None, 0),
    };
    Ok(Membership {
        conversation,
        kind: standing.kind,
        person: caller,
        role,
        first_seq: standing.history.first_seq(joined_seq),
        last_seq: standing.last_seq,
        member_count: standing.member_count,
        members_can_add: standing.members_can_add,
    })
}

/// [`membership`] with the conversation locked until the transaction ends.
///
/// # Errors
/// As [`membership`].
pub async fn locked_membership(
    conn: &mut Conn,
    caller: Option<UserId>,
    conversation: ConversationId,
) -> Result<Membership> {
    store::conversations::lock_one(conn, conversation).await?;
    membership(conn, caller, conversation).await
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

/// The person of a caller, where they have one.
pub fn caller_of(principal: &Principal) -> Option<UserId> {
    principal.person().map(|person| person.id)
}

/// There is no such conversation for this caller.
pub fn conversation_not_found() -> Error {
    Error::NotFound { code: "conversation_not_found", detail: "there is no such conversation".into() }
}
