//! Invites to groups. An invite is a code with which anybody who has it may join, until it expires or is used up.
//!
//! Invariants:
//! - Only the hash of a code is stored.
//! - A use is counted in the transaction that adds the member.
//! - A code that expired, was used up or was deleted gets the same answer as a code that never existed.
//! - An invite ends with the right of its creator to make it: when the creator is demoted, leaves, or is removed, banned or
//!   erased. The transaction that takes the right away deletes the invite, and each use checks the right again.

use super::conversations::{Conversation, get_without_membership_check};
use super::members::join;
use crate::app::App;
use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::{ConversationId, InviteId, UserId};
use crate::base::time::Timestamp;
use crate::domain::access::membership::{
    lock_without_membership_check, locked_membership, membership, require_group, require_role,
};
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::tokens::{self, MAX_TOKEN_CHARACTERS, SecretHash, Token, TokenKind};
use crate::domain::shared::idempotency::{KeyedAnswer, Once};
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::store;
use crate::store::batches::sends::{Note, note};
pub use crate::store::conversations::invites::Invite;
use crate::store::conversations::members::Role;
use crate::store::db::Conn;
use crate::store::events::events::{self, NewEvent};
use crate::store::messages::messages::Action;

/// One day in microseconds.
const DAY_MICROS: i64 = 24 * 3_600 * 1_000_000;
/// For how many days an invite is valid if its creator sets no end.
pub const DEFAULT_DAYS: i64 = 7;
/// Maximum number of days for which an invite can be valid.
pub const MAX_DAYS: i64 = 365;
/// Maximum number of uses of an invite.
pub const MAX_USES: i64 = 10_000;
/// Maximum number of valid invites of a group at a time.
pub const MAX_INVITES: i64 = 100;
const LIST: &str = "invites";

/// An invite to create, as the caller wrote it. Not validated yet.
#[derive(Clone, Copy, Debug)]
pub struct NewInvite {
    /// When it expires; `None` for [`DEFAULT_DAYS`] days from now.
    pub expires_at: Option<Timestamp>,
    /// Maximum number of uses. `None` for no limit.
    pub max_uses: Option<i64>,
}

/// An invite that was created, with the only copy of its code.
pub struct Made {
    /// The invite as it is stored.
    pub invite: Invite,
    /// The code, for the users who may join.
    pub code: String,
}

struct Input {
    invite: Invite,
    token: Token,
    caller: UserId,
    once: Once<Made>,
}

/// Creates an invite.
///
/// # Errors
/// 404 `conversation_not_found`; 403 `act_as_required`, `insufficient_role`; 409 `not_a_group`, `too_many_invites`; 422
/// with every field that is wrong.
pub async fn create(
    app: &App,
    principal: &Principal,
    conversation: i64,
    new: NewInvite,
    once: Once<Made>,
) -> Result<KeyedAnswer> {
    let caller = principal.require_person()?.id;
    let now = app.clock.now();
    let expires_at = new.expires_at.unwrap_or_else(|| now.plus_micros(DEFAULT_DAYS * DAY_MICROS));
    let mut errors = Vec::new();
    if expires_at <= now || expires_at > now.plus_micros(MAX_DAYS * DAY_MICROS) {
        let detail = format!("must be in the future, within {MAX_DAYS} days");
        errors.push(FieldError::new("expires_at", "out_of_range", detail));
    }
    if new.max_uses.is_some_and(|uses| !(1..=MAX_USES).contains(&uses)) {
        errors.push(FieldError::new("max_uses", "out_of_range", format!("must be between 1 and {MAX_USES}")));
    }
    if !errors.is_empty() {
        return Err(Error::Invalid(errors));
    }
    let invite = Invite {
        id: InviteId(0),
        conversation_id: ConversationId(conversation),
        created_by: Some(caller),
        created_at: now,
        expires_at,
        max_uses: new.max_uses,
        uses: 0,
    };
    let input = Input { invite, token: Token::new(&app.rng, TokenKind::Invite)?, caller, once };
    app.db.write(input, |conn, input| Box::pin(insert(conn, input))).await
}

async fn insert(conn: &mut Conn, input: &Input) -> Result<KeyedAnswer> {
    let Input { invite, token, caller, once } = input;
    if let Some(given) = once.given(conn, invite.created_at).await? {
        return Ok(given);
    }
    let own = locked_membership(conn, Viewer::Person(*caller), invite.conversation_id).await?;
    require_group(&own)?;
    require_role(&own, Role::Admin)?;
    if store::conversations::invites::count(conn, invite.conversation_id, invite.created_at).await? >= MAX_INVITES {
        return Err(Error::Conflict {
            code: "too_many_invites",
            detail: format!("A group has at most {MAX_INVITES} invites at a time; delete one first").into(),
        });
    }
    let id = store::conversations::invites::insert(conn, &token.hash, invite).await?;
    let made = Made { invite: Invite { id, ..invite.clone() }, code: token.text.clone() };
    once.give(conn, invite.created_at, &made, Some(*caller)).await
}

/// Lists the invites of a group that can still be used, by id.
///
/// # Errors
/// 404 `conversation_not_found`; 403 `act_as_required`, `insufficient_role`; 409 `not_a_group`; 422 if the cursor is
/// invalid.
pub async fn list(
    app: &App,
    principal: &Principal,
    conversation: i64,
    limit: Limit,
    cursor: Option<&str>,
) -> Result<Page<Vec<Invite>>> {
    let caller = principal.require_person()?.id;
    let after = InviteId(pagination::begin(LIST, cursor, 0)?);
    let input = (caller, ConversationId(conversation), after, app.clock.now(), limit);
    let found = app
        .db
        .read(input, |conn, (caller, conversation, after, now, limit)| {
            Box::pin(async move {
                let own = membership(conn, Viewer::Person(*caller), *conversation).await?;
                require_group(&own)?;
                require_role(&own, Role::Admin)?;
                store::conversations::invites::list(conn, *conversation, *after, *now, limit.to_read()).await
            })
        })
        .await?;
    Ok(Page::new(LIST, found, limit, |last| [last.id.0]))
}

/// Ends an invite.
///
/// # Errors
/// 404 `conversation_not_found`, `invite_not_found`; 403 `act_as_required`, `insufficient_role`; 409 `not_a_group`.
pub async fn end(app: &App, principal: &Principal, conversation: i64, id: i64) -> Result<()> {
    let caller = principal.require_person()?.id;
    app.db
        .write((caller, ConversationId(conversation), InviteId(id)), |conn, (caller, conversation, id)| {
            Box::pin(async move {
                let own = locked_membership(conn, Viewer::Person(*caller), *conversation).await?;
                require_group(&own)?;
                require_role(&own, Role::Admin)?;
                if store::conversations::invites::delete(conn, *conversation, *id).await? {
                    Ok(())
                } else {
                    Err(not_found())
                }
            })
        })
        .await
}

/// Reads an invite and its group.
///
/// # Errors
/// 404 `invite_not_found`.
pub async fn look(app: &App, code: &str) -> Result<(Invite, Conversation)> {
    app.db
        .read((hash(code)?, app.clock.now()), |conn, (hash, now)| {
            Box::pin(async move {
                let invite = usable(conn, hash, *now).await?;
                check_creator(conn, &invite).await?;
                match get_without_membership_check(conn, invite.conversation_id).await {
                    Ok(conversation) => Ok((invite, conversation)),
                    Err(Error::NotFound { .. }) => Err(not_found()),
                    Err(error) => Err(error),
                }
            })
        })
        .await
}

/// Uses an invite. Returns the conversation, and whether the caller is a new member.
///
/// # Errors
/// 404 `invite_not_found`; 403 `act_as_required`; 409 `too_many_members`.
pub async fn accept(app: &App, principal: &Principal, code: &str) -> Result<(ConversationId, bool)> {
    let caller = principal.require_person()?.id;
    app.db
        .write((caller, hash(code)?, app.clock.now()), |conn, (caller, hash, now)| {
            Box::pin(async move {
                let invite = usable(conn, hash, *now).await?;
                let conversation = invite.conversation_id;
                if !store::identity::users::lock_shared(conn, &[caller.0]).await?.contains(&caller.0) {
                    return Err(Error::Unauthenticated);
                }
                let group = match lock_without_membership_check(conn, conversation).await {
                    Err(Error::NotFound { .. }) => return Err(not_found()),
                    found => found?,
                };
                if store::conversations::members::role_of(conn, conversation, *caller).await?.is_some() {
                    return Ok((conversation, false));
                }
                check_creator(conn, &invite).await?;
                if !store::conversations::invites::use_once(conn, invite.id, *now).await? {
                    return Err(not_found());
                }
                join(conn, &group, *caller, Role::Member, *now).await?;
                let system_message =
                    Note { action: Action::MemberJoined, actor: *caller, subject: Some(*caller), detail: "", at: *now };
                let message = note(conn, conversation, &system_message).await?;
                let added = NewEvent::of_conversation(events::Kind::MemberAdded, conversation, *caller, *now);
                events::append(conn, &[added.about(*caller), message]).await?;
                Ok((conversation, true))
            })
        })
        .await
}

async fn usable(conn: &mut Conn, hash: &SecretHash, now: Timestamp) -> Result<Invite> {
    let invite = store::conversations::invites::by_code(conn, hash).await?;
    let good = |invite: &Invite| invite.expires_at > now && invite.max_uses.is_none_or(|most| invite.uses < most);
    invite.filter(good).ok_or_else(not_found)
}

/// Checks that the creator of an invite may still make one.
async fn check_creator(conn: &mut Conn, invite: &Invite) -> Result<()> {
    let creator = invite.created_by.ok_or_else(not_found)?;
    let role = store::conversations::members::role_of(conn, invite.conversation_id, creator).await?;
    let account = store::identity::users::account_by_id(conn, creator).await?;
    let may_invite = role.is_some_and(|role| role >= Role::Admin) && account.is_some_and(|account| account.may_call());
    if may_invite { Ok(()) } else { Err(not_found()) }
}

fn hash(code: &str) -> Result<SecretHash> {
    if code.len() > MAX_TOKEN_CHARACTERS { Err(not_found()) } else { Ok(tokens::hash(code)) }
}

fn not_found() -> Error {
    Error::NotFound { code: "invite_not_found", detail: "Invite not found or no longer valid".into() }
}
