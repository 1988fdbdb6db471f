//! The members of a group: adding, removing, leaving, roles.
//!
//! Invariants:
//! - The table below shows what each role may do. Nobody can raise their own role.
//! - A group with members has at least one owner, and one who is not banned if any member is not banned.
//! - A member who loses the role of admin also loses the invites that they made, and the incoming webhooks if somebody else took
//!   the role away.
//! - If a user does not accept direct messages from the caller, the caller cannot add that user either. The error is
//!   the same if that user blocks the caller.
//!
//! | | member | admin | owner |
//! | --- | --- | --- | --- |
//! | read, send, react, edit and delete own messages, leave | yes | yes | yes |
//! | add members | if `members_can_add` | yes | yes |
//! | add members with a higher role, change roles | | | yes |
//! | remove members | | only those with the role member | yes |
//! | delete any message, pin, invite, change the title, the picture and the settings | | yes | yes |
//! | end the group | | | yes |

use std::collections::HashMap;

use crate::domain::access::principal::{Principal, UserSummary};

use super::incoming_webhooks;
use crate::app::App;
use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::{ConversationId, UserId};
use crate::base::text::fold_ascii;
use crate::base::time::Timestamp;
use crate::domain::access::membership::{Membership, locked_membership, membership, require_group, require_role};
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::audit::By;
use crate::domain::identity::users::{self, DirectMessagesFrom, User};
use crate::domain::people::reachability;
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::store;
use crate::store::batches::sends::{Note, note};
use crate::store::conversations::members::{Candidate, NewMember};
pub use crate::store::conversations::members::{Member, Role};
use crate::store::db::Conn;
use crate::store::events::events::{self, NewEvent};
use crate::store::messages::messages::Action;

/// The maximum number of members of a group.
pub const MAX_MEMBERS: i64 = 10_000;
/// The maximum number of users who can be added in one request.
pub const MAX_ADDED: usize = 1_000;
const LIST: &str = "members";

/// Finds the users with these names. Locks them and the caller, so that none of them is erased before the transaction
/// ends.
///
/// # Errors
/// 401 if the caller was erased; 422 for the first ten names that no user has; 403 `not_friends`.
pub async fn people_to_add(
    conn: &mut Conn,
    caller: &UserSummary,
    names: &[String],
    default: DirectMessagesFrom,
) -> Result<Vec<UserId>> {
    let keys: Vec<String> = names.iter().map(|name| fold_ascii(name)).collect();
    let mut wanted: Vec<&str> = keys.iter().map(String::as_str).filter(|key| !key.contains('\0')).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let found = store::identity::users::summaries_by_keys(conn, &wanted).await?;
    let mut ids: Vec<i64> = found.iter().map(|person| person.id.0).chain([caller.id.0]).collect();
    ids.sort_unstable();
    ids.dedup();
    let existing = store::identity::users::lock_shared(conn, &ids).await?;
    if !existing.contains(&caller.id.0) {
        return Err(Error::Unauthenticated);
    }
    let present: HashMap<&str, &UserSummary> = found
        .iter()
        .filter(|person| existing.contains(&person.id.0))
        .map(|person| (person.user_name_key.as_str(), person))
        .collect();
    let errors: Vec<FieldError> = keys
        .iter()
        .enumerate()
        .filter(|(_, key)| !present.contains_key(key.as_str()))
        .map(|(index, _)| {
            FieldError::new(format!("member_user_names.{index}"), "user_not_found", "no user has this name")
        })
        .take(10)
        .collect();
    if !errors.is_empty() {
        return Err(Error::Invalid(errors));
    }
    reachability::require(conn, caller, &found, default).await?;
    Ok(found.iter().map(|person| person.id).collect())
}

/// A member with their account.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Their role in the group.
    pub member: Member,
    /// Their account.
    pub user: User,
}

/// Lists the members of a conversation, by id.
///
/// # Errors
/// 404 `conversation_not_found`; 422 if the cursor is invalid.
pub async fn list(
    app: &App,
    principal: &Principal,
    conversation: i64,
    limit: Limit,
    cursor: Option<&str>,
) -> Result<Page<Vec<Shown>>> {
    let after = UserId(pagination::begin(LIST, cursor, 0)?);
    let input = (principal.viewer(), ConversationId(conversation), after, limit);
    let (found, people) = app
        .db
        .read(input, |conn, (viewer, conversation, after, limit)| {
            Box::pin(async move {
                membership(conn, *viewer, *conversation).await?;
                let found = store::conversations::members::list(conn, *conversation, *after, limit.to_read()).await?;
                let ids: Vec<i64> = found.iter().map(|member| member.user.0).collect();
                Ok((found, store::identity::users::by_ids(conn, &ids).await?))
            })
        })
        .await?;
    let Page { entries: found, next } = Page::new(LIST, found, limit, |last| [last.user.0]);
    let mut people: HashMap<UserId, User> = people.into_iter().map(|user| (user.id, user)).collect();
    let entries =
        found.into_iter().filter_map(|member| Some(Shown { user: people.remove(&member.user)?, member })).collect();
    Ok(Page { entries, next })
}

/// A request to change the membership of one user in a group.
struct Change {
    conversation: ConversationId,
    caller: UserSummary,
    key: String,
    role: Option<Role>,
    direct_messages_from: DirectMessagesFrom,
    by: By,
    now: Timestamp,
}

impl Change {
    fn new(app: &App, principal: &Principal, conversation: i64, user_name: &str, role: Option<Role>) -> Result<Self> {
        let now = app.clock.now();
        Ok(Self {
            conversation: ConversationId(conversation),
            caller: principal.require_person()?.clone(),
            key: fold_ascii(principal.resolve(user_name)?),
            role,
            direct_messages_from: app.settings.direct_messages_from,
            by: By::principal(principal, now),
            now,
        })
    }

    fn event(&self, kind: events::Kind, subject: UserId) -> NewEvent<'static> {
        NewEvent::of_conversation(kind, self.conversation, self.caller.id, self.now).about(subject)
    }

    /// Ends what a user made with the rights of an admin.
    async fn end_grants_of(&self, conn: &mut Conn, user: UserId) -> Result<()> {
        store::conversations::invites::delete_made_by(conn, self.conversation, user).await?;
        if user == self.caller.id {
            return Ok(());
        }
        incoming_webhooks::end_made_by(conn, self.conversation, user, &self.by).await
    }

    async fn note(&self, conn: &mut Conn, action: Action, subject: UserId, detail: &str) -> Result<NewEvent<'static>> {
        let subject = Some(subject);
        note(conn, self.conversation, &Note { action, actor: self.caller.id, subject, detail, at: self.now }).await
    }
}

/// Adds a user to a group, or changes the role of a member. Returns the member, and whether they are new.
///
/// # Errors
/// 404 `conversation_not_found`, `user_not_found`; 403 `act_as_required`, `insufficient_role`, `not_friends`; 409
/// `not_a_group`, `last_owner`, `too_many_members`.
pub async fn put(
    app: &App,
    principal: &Principal,
    conversation: i64,
    user_name: &str,
    role: Option<Role>,
) -> Result<(Shown, bool)> {
    let change = Change::new(app, principal, conversation, user_name, role)?;
    app.db.write(change, |conn, change| Box::pin(put_in_transaction(conn, change))).await
}

async fn put_in_transaction(conn: &mut Conn, change: &Change) -> Result<(Shown, bool)> {
    // First checks that the caller is a member. Any other caller gets 404 `conversation_not_found`, and no error that
    // shows whether the user exists. The users are locked before the conversation, because locks are always taken in
    // this order.
    membership(conn, Viewer::Person(change.caller.id), change.conversation).await?;
    let other = users::by_name(conn, &change.key).await?;
    let mut ids = [change.caller.id.0, other.id.0];
    ids.sort_unstable();
    if !store::identity::users::lock_shared(conn, &ids).await?.contains(&other.id.0) {
        return Err(crate::domain::identity::users::not_found());
    }
    let own = locked_membership(conn, Viewer::Person(change.caller.id), change.conversation).await?;
    require_group(&own)?;
    let before = store::conversations::members::role_of(conn, change.conversation, other.id).await?;
    let log = match before {
        Some(before) => change_role(conn, change, &own, other.id, before).await?,
        None => add(conn, change, &own, &other).await?,
    };
    let nobody = || Error::internal("a member disappeared during the transaction");
    let member = store::conversations::members::one(conn, change.conversation, other.id).await?.ok_or_else(nobody)?;
    let user = store::identity::users::by_id(conn, other.id).await?.ok_or_else(nobody)?;
    events::append(conn, &log).await?;
    Ok((Shown { member, user }, before.is_none()))
}

async fn add(
    conn: &mut Conn,
    change: &Change,
    own: &Membership,
    other: &UserSummary,
) -> Result<Vec<NewEvent<'static>>> {
    let role = change.role.unwrap_or(Role::Member);
    if !own.members_can_add {
        require_role(own, Role::Admin)?;
    }
    if role > Role::Member {
        require_role(own, Role::Owner)?;
    }
    reachability::require(conn, &change.caller, std::slice::from_ref(other), change.direct_messages_from).await?;
    join(conn, own, other.id, role, change.now).await?;
    let message = change.note(conn, Action::MemberAdded, other.id, "").await?;
    Ok(vec![change.event(events::Kind::MemberAdded, other.id), message])
}

/// Adds a user to a locked group.
///
/// # Errors
/// 409 `too_many_members`.
pub async fn join(conn: &mut Conn, group: &Membership, user: UserId, role: Role, now: Timestamp) -> Result<()> {
    if group.member_count >= MAX_MEMBERS {
        return Err(Error::Conflict {
            code: "too_many_members",
            detail: format!("A group has at most {MAX_MEMBERS} members").into(),
        });
    }
    store::conversations::members::insert(conn, group.conversation, &[NewMember { user, role }], group.last_seq, now)
        .await?;
    Ok(())
}

async fn change_role(
    conn: &mut Conn,
    change: &Change,
    own: &Membership,
    other: UserId,
    before: Role,
) -> Result<Vec<NewEvent<'static>>> {
    let Some(role) = change.role.filter(|role| *role != before) else { return Ok(Vec::new()) };
    // Every member may lower their own role.
    if other != change.caller.id || role > before {
        require_role(own, Role::Owner)?;
    }
    if before == Role::Owner {
        require_other_owner(conn, change.conversation, other).await?;
    }
    store::conversations::members::set_role(conn, change.conversation, other, role).await?;
    if role == Role::Member {
        change.end_grants_of(conn, other).await?;
    }
    let message = change.note(conn, Action::RoleChanged, other, role.as_str()).await?;
    Ok(vec![change.event(events::Kind::MemberUpdated, other), message])
}

/// Checks that a group keeps an owner without `user`. An owner who is banned counts only if all other members are banned.
async fn require_other_owner(conn: &mut Conn, conversation: ConversationId, user: UserId) -> Result<()> {
    let owner = store::conversations::members::other_owner(conn, conversation, user).await?;
    let is_managed = match owner {
        None => false,
        Some(Candidate { is_banned: false, .. }) => true,
        Some(_) => {
            let best = store::conversations::members::successor(conn, conversation, user).await?;
            best.is_none_or(|best| best.is_banned)
        }
    };
    if is_managed {
        return Ok(());
    }
    Err(Error::Conflict {
        code: "last_owner",
        detail:
            "The last owner cannot leave or step down while others remain; make another member, who is not banned, an \
                 owner first"
                .into(),
    })
}

/// Removes a user from a group. Members may remove themselves.
///
/// # Errors
/// 404 `conversation_not_found`, `member_not_found`; 403 `act_as_required`, `insufficient_role`; 409 `not_a_group`,
/// `last_owner`.
pub async fn remove(app: &App, principal: &Principal, conversation: i64, user_name: &str) -> Result<()> {
    let change = Change::new(app, principal, conversation, user_name, None)?;
    app.db.write(change, |conn, change| Box::pin(remove_in_transaction(conn, change))).await
}

async fn remove_in_transaction(conn: &mut Conn, change: &Change) -> Result<()> {
    let own = locked_membership(conn, Viewer::Person(change.caller.id), change.conversation).await?;
    require_group(&own)?;
    let not_found =
        || Error::NotFound { code: "member_not_found", detail: "This user is not a member of the group".into() };
    let found = store::identity::users::summaries_by_keys(conn, &[change.key.as_str()]).await?;
    let other = found.first().ok_or_else(not_found)?.id;
    let role = store::conversations::members::role_of(conn, change.conversation, other).await?.ok_or_else(not_found)?;
    let leaves = other == change.caller.id;
    if !leaves {
        require_role(&own, if role == Role::Member { Role::Admin } else { Role::Owner })?;
    }
    if own.member_count == 1 {
        return end_group(conn, change.conversation, change.caller.id, change.now).await;
    }
    if role == Role::Owner {
        require_other_owner(conn, change.conversation, other).await?;
    }
    store::conversations::members::delete(conn, change.conversation, other, change.now).await?;
    change.end_grants_of(conn, other).await?;
    let action = if leaves { Action::MemberLeft } else { Action::MemberRemoved };
    let message = change.note(conn, action, other, "").await?;
    events::append(conn, &[change.event(events::Kind::MemberRemoved, other), message]).await
}

/// Removes an erased user from one of their groups. If they were the only owner, another member becomes owner. If they
/// were the only member, the group ends.
///
/// # Errors
/// Errors of the database.
pub async fn remove_erased(conn: &mut Conn, conversation: ConversationId, user: UserId, now: Timestamp) -> Result<()> {
    store::conversations::conversations::lock_one(conn, conversation).await?;
    store::conversations::invites::delete_made_by(conn, conversation, user).await?;
    let was_owner = match store::conversations::members::role_of(conn, conversation, user).await {
        Ok(None) => return Ok(()),
        Ok(Some(role)) => role == Role::Owner,
        // An erasure continues even if the row is damaged. Then the user counts as an owner, because they may have been
        // the only one.
        Err(Error::UnknownValue { .. }) => true,
        Err(error) => return Err(error),
    };
    let successor = store::conversations::members::successor(conn, conversation, user).await?;
    if successor.is_none() {
        return end_group(conn, conversation, user, now).await;
    }
    let event = |kind, about| NewEvent::of_conversation(kind, conversation, user, now).about(about);
    let mut log = Vec::new();
    if was_owner {
        log.extend(pass_ownership(conn, conversation, user, Some(user), now).await?);
    }
    store::conversations::members::delete(conn, conversation, user, now).await?;
    log.push(event(events::Kind::MemberRemoved, user));
    let message = Note { action: Action::MemberLeft, actor: user, subject: Some(user), detail: "", at: now };
    log.push(note(conn, conversation, &message).await?);
    events::append(conn, &log).await
}

/// Makes a member of a locked group its owner if no owner can manage it, because each of them is banned or is `leaver`. Returns
/// the event of the change, which names `actor`.
///
/// # Errors
/// Errors of the database.
pub async fn pass_ownership(
    conn: &mut Conn,
    conversation: ConversationId,
    actor: UserId,
    leaver: Option<UserId>,
    now: Timestamp,
) -> Result<Option<NewEvent<'static>>> {
    // No user has the id 0.
    let leaver = leaver.unwrap_or(UserId(0));
    let owner = store::conversations::members::other_owner(conn, conversation, leaver).await?;
    if owner.is_some_and(|owner| !owner.is_banned) {
        return Ok(None);
    }
    let successor = store::conversations::members::successor(conn, conversation, leaver).await?;
    // If all members are banned, the owner stays.
    let Some(successor) = successor.filter(|successor| owner.is_none() || !successor.is_banned) else {
        return Ok(None);
    };
    store::conversations::members::set_role(conn, conversation, successor.user, Role::Owner).await?;
    let event = NewEvent::of_conversation(events::Kind::MemberUpdated, conversation, actor, now);
    Ok(Some(event.about(successor.user)))
}

/// Ends a locked group. From then on nobody sees it. Call this at the end of a transaction.
///
/// # Errors
/// Errors of the database.
pub async fn end_group(conn: &mut Conn, id: ConversationId, actor: UserId, now: Timestamp) -> Result<()> {
    store::conversations::invites::delete_of(conn, id).await?;
    store::conversations::incoming_webhooks::delete_of(conn, id, now).await?;
    store::conversations::members::delete_all(conn, id, now).await?;
    store::files::avatars::release_of_group(conn, id).await?;
    store::conversations::conversations::end(conn, id, now).await?;
    events::append(conn, &[NewEvent::of_conversation(events::Kind::ConversationDeleted, id, actor, now)]).await
}
