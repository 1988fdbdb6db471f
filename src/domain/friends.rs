//! Friends, and people whom one does not want to hear from.
//!
//! Invariants: two requests that cross make a friendship; a block does not reveal itself: to whom is blocked, everything
//! looks as if the other one took messages from friends alone and answered no request.

use super::auth::{Principal, UserName};
use super::lists::{self, Limit, Page};
use super::presence;
use super::users::{self, User};
use crate::app::App;
use crate::error::{Error, Result};
use crate::ids::UserId;
use crate::store;
use crate::store::db::Conn;
use crate::store::events::{self, Kind, NewEvent};
use crate::store::friends::NewBlock;
pub use crate::store::friends::State;
use crate::store::revocations::Revoked;
use crate::text::fold_ascii;
use crate::time::Timestamp;

/// People that someone may be friends with or have asked.
pub const MAX_FRIENDS: i64 = 5_000;

/// What a request became.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What the two are now.
    pub state: State,
    /// Whether this request made it so by asking.
    pub new: bool,
    /// The other one.
    pub user: User,
}

/// Which people are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Friends.
    Friends,
    /// Those who asked the caller.
    Incoming,
    /// Those whom the caller asked.
    Outgoing,
    /// Those whom the caller blocks.
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
    /// These people of somebody, by id, behind `after`.
    ///
    /// # Errors
    /// Of the database.
    pub async fn read(self, conn: &mut Conn, person: UserId, after: UserId, limit: i64) -> Result<Vec<User>> {
        match self {
            Self::Friends => store::friends::list(conn, person, after, limit).await,
            Self::Incoming => store::friends::incoming(conn, person, after, limit).await,
            Self::Outgoing => store::friends::outgoing(conn, person, after, limit).await,
            Self::Blocked => store::friends::blocked(conn, person, after, limit).await,
        }
    }
}

/// The caller and the other one, both locked.
struct Two {
    caller: UserId,
    other: User,
}

/// Asks somebody, or accepts what they asked.
///
/// # Errors
/// 403 `act_as_required`; 404 `user_not_found`; 422 for oneself; 409 `is_bot`, `blocked`, `too_many_friends`.
pub async fn ask(app: &App, principal: &Principal, user_name: &str) -> Result<Asked> {
    let (caller, key) = parties(principal, user_name)?;
    app.db
        .write((caller, key, app.clock.now()), |conn, (caller, key, now)| Box::pin(ask_now(conn, caller, key, *now)))
        .await
}

async fn ask_now(conn: &mut Conn, caller: &UserName, key: &str, now: Timestamp) -> Result<Asked> {
    let Two { caller, other } = lock_two(conn, caller, key).await?;
    if other.is_bot {
        return Err(Error::Conflict { code: "is_bot", detail: "a bot takes no friend requests".into() });
    }
    if store::friends::blocks(conn, caller, other.id).await? {
        return Err(Error::Conflict { code: "blocked", detail: "you block this user: end that first".into() });
    }
    let blocked = store::friends::blocks(conn, other.id, caller).await?;
    if let Some(state) = store::friends::state_of(conn, caller, other.id).await? {
        return Ok(Asked { state, new: false, user: other });
    }
    if store::friends::count(conn, caller).await? >= MAX_FRIENDS {
        return Err(Error::Conflict {
            code: "too_many_friends",
            detail: format!("one may have and ask {MAX_FRIENDS} friends").into(),
        });
    }
    let asked = store::friends::state_of(conn, other.id, caller).await?.is_some();
    let (state, kind) =
        if asked { (State::Friends, Kind::FriendAccepted) } else { (State::Asked, Kind::FriendRequested) };
    store::friends::put(conn, caller, other.id, state, now).await?;
    if asked {
        store::friends::put(conn, other.id, caller, state, now).await?;
    }
    if !blocked {
        log(conn, kind, caller, other.id, now).await?;
    }
    Ok(Asked { state, new: !asked, user: other })
}

async fn log(conn: &mut Conn, kind: Kind, actor_id: UserId, subject_id: UserId, at: Timestamp) -> Result<()> {
    events::append(conn, &[NewEvent::between(kind, actor_id, subject_id, at)]).await
}

/// Declines, takes back or ends what there is between the caller and somebody.
///
/// # Errors
/// 403 `act_as_required`; 404 `user_not_found`, `friend_not_found`; 422 for oneself.
pub async fn end(app: &App, principal: &Principal, user_name: &str) -> Result<()> {
    let (caller, key) = parties(principal, user_name)?;
    app.db
        .write((caller, key, app.clock.now()), |conn, (caller, key, now)| {
            Box::pin(async move {
                let Two { caller, other } = lock_two(conn, caller, key).await?;
                if !store::friends::delete(conn, caller, other.id).await? {
                    return Err(Error::NotFound {
                        code: "friend_not_found",
                        detail: "there is neither a friendship nor a request".into(),
                    });
                }
                log(conn, Kind::FriendRemoved, caller, other.id, *now).await
            })
        })
        .await
}

/// Blocks somebody, which ends a friendship.
///
/// # Errors
/// 403 `act_as_required`; 404 `user_not_found`; 422 for oneself; 409 `too_many_blocks`.
pub async fn block(app: &App, principal: &Principal, user_name: &str) -> Result<()> {
    let (caller, key) = parties(principal, user_name)?;
    app.db
        .write((caller, key, app.clock.now()), |conn, (caller, key, now)| {
            Box::pin(async move {
                let Two { caller, other } = lock_two(conn, caller, key).await?;
                if store::friends::blocks(conn, caller, other.id).await? {
                    return Ok(());
                }
                if store::friends::count_blocked(conn, caller).await? >= MAX_FRIENDS {
                    return Err(Error::Conflict {
                        code: "too_many_blocks",
                        detail: format!("one may block {MAX_FRIENDS} people").into(),
                    });
                }
                let block = NewBlock {
                    user: caller,
                    blocked: other.id,
                    at: *now,
                    user_seen_at: presence::last_seen_by(conn, other.id, caller, *now).await?,
                    blocked_seen_at: presence::last_seen_by(conn, caller, other.id, *now).await?,
                };
                store::friends::block(conn, &block).await?;
                let were_friends = store::friends::state_of(conn, other.id, caller).await? == Some(State::Friends);
                store::friends::delete(conn, caller, other.id).await?;
                if were_friends {
                    log(conn, Kind::FriendRemoved, caller, other.id, *now).await?;
                }
                // Servers remember whether somebody blocks anyone.
                store::revocations::insert(conn, Revoked::User(caller), *now).await
            })
        })
        .await?;
    app.callers.revocations.look_again(&app.db).await
}

/// Ends a block.
///
/// # Errors
/// 403 `act_as_required`; 404 `user_not_found`, `block_not_found`; 422 for oneself.
pub async fn unblock(app: &App, principal: &Principal, user_name: &str) -> Result<()> {
    let (caller, key) = parties(principal, user_name)?;
    app.db
        .write((caller, key), |conn, (caller, key)| {
            Box::pin(async move {
                let Two { caller, other } = lock_two(conn, caller, key).await?;
                if store::friends::unblock(conn, caller, other.id).await? {
                    return Ok(());
                }
                Err(Error::NotFound { code: "block_not_found", detail: "this user is not blocked".into() })
            })
        })
        .await
}

fn parties(principal: &Principal, user_name: &str) -> Result<(UserName, String)> {
    let caller = principal.require_person()?.clone();
    let key = fold_ascii(principal.resolve(user_name)?);
    if key == caller.user_name_key {
        return Err(Error::invalid("user_name", "yourself", "must be somebody else"));
    }
    Ok((caller, key))
}

async fn lock_two(conn: &mut Conn, caller: &UserName, key: &str) -> Result<Two> {
    let other = store::users::by_key(conn, key).await?.ok_or_else(users::not_found)?;
    for id in [caller.id.min(other.id), caller.id.max(other.id)] {
        if !store::users::lock(conn, id).await? {
            return Err(if id == caller.id { Error::Unauthenticated } else { users::not_found() });
        }
    }
    Ok(Two { caller: caller.id, other })
}

/// People who are something to the caller, by id.
///
/// # Errors
/// 403 `act_as_required`; 422 for a cursor that is none.
pub async fn list(
    app: &App,
    principal: &Principal,
    which: Which,
    limit: Limit,
    cursor: Option<&str>,
) -> Result<Page<Vec<User>>> {
    let person = principal.require_person()?.id;
    let after = UserId(lists::begin(which.list(), cursor, 0)?);
    let people = app
        .db
        .read((person, which, after, limit), |conn, (person, which, after, limit)| {
            Box::pin(which.read(conn, *person, *after, limit.to_read()))
        })
        .await?;
    Ok(Page::new(which.list(), people, limit, |last| [last.id.0]))
}
