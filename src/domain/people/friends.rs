//! Friends, friend requests, and blocks.
//!
//! Invariants:
//! - If two users request each other's friendship, they become friends.
//! - A block does not show. To the blocked user, the other one seems to accept messages from friends only, and seems to
//!   leave requests unanswered.

use super::presence;
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::UserId;
use crate::base::text::fold_ascii;
use crate::base::time::Timestamp;
use crate::domain::access::principal::{Principal, UserSummary};
use crate::domain::identity::users::{self, User};
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::store;
use crate::store::db::Conn;
use crate::store::events::events::{self, Kind, NewEvent};
use crate::store::identity::revocations::Revoked;
use crate::store::people::friends::NewBlock;
pub use crate::store::people::friends::State;

/// Maximum number of friends and sent requests of one user together. The same limit applies to blocks.
pub const MAX_FRIENDS: i64 = 5_000;

/// The result of a friend request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The relation of the two users now.
    pub state: State,
    /// Whether this call created a new request.
    pub new: bool,
    /// The other user.
    pub user: User,
}

/// Which users to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Friends.
    Friends,
    /// Users who have requested the caller's friendship.
    Incoming,
    /// Users whose friendship the caller has requested.
    Outgoing,
    /// Users whom the caller blocks.
    Blocked,
}

impl Which {
    const fn list(self) -> &'static str {
        match self {
            Self::Friends => "friends",
            Self::Incoming => "incoming",
            Self::Outgoing => "outgoing",
            Self::Blocked => "blocks",
        }
    }
}

impl Which {
    /// Reads the users who have this relation to `person`, by id, starting after `after`.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn read(self, conn: &mut Conn, person: UserId, after: UserId, limit: i64) -> Result<Vec<User>> {
        match self {
            Self::Friends => store::people::friends::list(conn, person, after, limit).await,
            Self::Incoming => store::people::friends::incoming(conn, person, after, limit).await,
            Self::Outgoing => store::people::friends::outgoing(conn, person, after, limit).await,
            Self::Blocked => store::people::friends::blocked(conn, person, after, limit).await,
        }
    }
}

/// The caller and the other user, both locked.
struct LockedPair {
    caller: UserId,
    other: User,
}

/// Requests the friendship of a user, or accepts their request.
///
/// # Errors
/// 403 `act_as_required`; 404 `user_not_found`; 422 if the user is the caller; 409 `is_bot`, `blocked`,
/// `too_many_friends`.
pub async fn ask(app: &App, principal: &Principal, user_name: &str) -> Result<Asked> {
    let (caller, key) = parties(principal, user_name)?;
    app.db
        .write((caller, key, app.clock.now()), |conn, (caller, key, now)| {
            Box::pin(ask_in_transaction(conn, caller, key, *now))
        })
        .await
}

async fn ask_in_transaction(conn: &mut Conn, caller: &UserSummary, key: &str, now: Timestamp) -> Result<Asked> {
    let LockedPair { caller, other } = lock_pair(conn, caller, key).await?;
    if other.is_bot {
        return Err(Error::Conflict { code: "is_bot", detail: "A bot cannot have friends".into() });
    }
    if store::people::friends::blocks(conn, caller, other.id).await? {
        return Err(Error::Conflict {
            code: "blocked",
            detail: "You have blocked this user; unblock them first".into(),
        });
    }
    let blocked = store::people::friends::blocks(conn, other.id, caller).await?;
    if let Some(state) = store::people::friends::state_of(conn, caller, other.id).await? {
        return Ok(Asked { state, new: false, user: other });
    }
    if store::people::friends::count(conn, caller).await? >= MAX_FRIENDS {
        return Err(Error::Conflict {
            code: "too_many_friends",
            detail: format!("A user has at most {MAX_FRIENDS} friends and friend requests").into(),
        });
    }
    let asked = store::people::friends::state_of(conn, other.id, caller).await?.is_some();
    let (state, kind) =
        if asked { (State::Friends, Kind::FriendAccepted) } else { (State::Asked, Kind::FriendRequested) };
    store::people::friends::put(conn, caller, other.id, state, now).await?;
    if asked {
        store::people::friends::put(conn, other.id, caller, state, now).await?;
    }
    if !blocked {
        log(conn, kind, caller, other.id, now).await?;
    }
    Ok(Asked { state, new: !asked, user: other })
}

async fn log(conn: &mut Conn, kind: Kind, actor_id: UserId, subject_id: UserId, at: Timestamp) -> Result<()> {
    events::append(conn, &[NewEvent::between(kind, actor_id, subject_id, at)]).await
}

/// Ends a friendship, withdraws a request of the caller, or declines a request of the other user.
///
/// # Errors
/// 403 `act_as_required`; 404 `user_not_found`, `friend_not_found`; 422 if the user is the caller.
pub async fn end(app: &App, principal: &Principal, user_name: &str) -> Result<()> {
    let (caller, key) = parties(principal, user_name)?;
    app.db
        .write((caller, key, app.clock.now()), |conn, (caller, key, now)| {
            Box::pin(async move {
                let LockedPair { caller, other } = lock_pair(conn, caller, key).await?;
                if !store::people::friends::delete(conn, caller, other.id).await? {
                    return Err(Error::NotFound {
                        code: "friend_not_found",
                        detail: "There is no friendship and no friend request with this user".into(),
                    });
                }
                log(conn, Kind::FriendRemoved, caller, other.id, *now).await
            })
        })
        .await
}

/// Blocks a user. This ends a friendship or a request between the two.
///
/// # Errors
/// 403 `act_as_required`; 404 `user_not_found`; 422 if the user is the caller; 409 `too_many_blocks`.
pub async fn block(app: &App, principal: &Principal, user_name: &str) -> Result<()> {
    let (caller, key) = parties(principal, user_name)?;
    app.db
        .write((caller, key, app.clock.now()), |conn, (caller, key, now)| {
            Box::pin(async move {
                let LockedPair { caller, other } = lock_pair(conn, caller, key).await?;
                if store::people::friends::blocks(conn, caller, other.id).await? {
                    return Ok(());
                }
                if store::people::friends::count_blocked(conn, caller).await? >= MAX_FRIENDS {
                    return Err(Error::Conflict {
                        code: "too_many_blocks",
                        detail: format!("A user can block at most {MAX_FRIENDS} users").into(),
                    });
                }
                let block = NewBlock {
                    user: caller,
                    blocked: other.id,
                    at: *now,
                    user_seen_at: presence::last_seen_by(conn, other.id, caller, *now).await?,
                    blocked_seen_at: presence::last_seen_by(conn, caller, other.id, *now).await?,
                };
                store::people::friends::block(conn, &block).await?;
                let were_friends =
                    store::people::friends::state_of(conn, other.id, caller).await? == Some(State::Friends);
                store::people::friends::delete(conn, caller, other.id).await?;
                if were_friends {
                    log(conn, Kind::FriendRemoved, caller, other.id, *now).await?;
                }
                // Servers cache whether a user blocks anybody. The revocation makes them read it again.
                store::identity::revocations::insert(conn, Revoked::User(caller), *now).await
            })
        })
        .await?;
    app.callers.revocations.refresh(&app.db).await
}

/// Ends a block.
///
/// # Errors
/// 403 `act_as_required`; 404 `user_not_found`, `block_not_found`; 422 if the user is the caller.
pub async fn unblock(app: &App, principal: &Principal, user_name: &str) -> Result<()> {
    let (caller, key) = parties(principal, user_name)?;
    app.db
        .write((caller, key), |conn, (caller, key)| {
            Box::pin(async move {
                let LockedPair { caller, other } = lock_pair(conn, caller, key).await?;
                if store::people::friends::unblock(conn, caller, other.id).await? {
                    return Ok(());
                }
                Err(Error::NotFound { code: "block_not_found", detail: "This user is not blocked".into() })
            })
        })
        .await
}

fn parties(principal: &Principal, user_name: &str) -> Result<(UserSummary, String)> {
    let caller = principal.require_person()?.clone();
    let key = fold_ascii(principal.resolve(user_name)?);
    if key == caller.user_name_key {
        return Err(Error::invalid("user_name", "yourself", "must be another user"));
    }
    Ok((caller, key))
}

async fn lock_pair(conn: &mut Conn, caller: &UserSummary, key: &str) -> Result<LockedPair> {
    let other = store::identity::users::by_key(conn, key).await?.ok_or_else(users::not_found)?;
    for id in [caller.id.min(other.id), caller.id.max(other.id)] {
        if !store::identity::users::lock(conn, id).await? {
            return Err(if id == caller.id { Error::Unauthenticated } else { users::not_found() });
        }
    }
    Ok(LockedPair { caller: caller.id, other })
}

/// Lists the users with a certain relation to the caller, by id.
///
/// # Errors
/// 403 `act_as_required`; 422 if the cursor is invalid.
pub async fn list(
    app: &App,
    principal: &Principal,
    which: Which,
    limit: Limit,
    cursor: Option<&str>,
) -> Result<Page<Vec<User>>> {
    let person = principal.require_person()?.id;
    let after = UserId(pagination::begin(which.list(), cursor, 0)?);
    let people = app
        .db
        .read((person, which, after, limit), |conn, (person, which, after, limit)| {
            Box::pin(which.read(conn, *person, *after, limit.to_read()))
        })
        .await?;
    Ok(Page::new(which.list(), people, limit, |last| [last.id.0]))
}
