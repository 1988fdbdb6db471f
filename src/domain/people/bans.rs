//! Banning users, and lifting bans.
//!
//! Invariants:
//! - No credentials of a banned user work, and what they granted to others ends: their invites, and the incoming webhooks that they
//!   made, whose addresses they know.
//! - Every group with a member who is not banned has an owner who is not banned. Ownership passes as at an erasure; the banned
//!   owner keeps the role, and has its rights again when the ban is lifted.

use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, UserId};
use crate::base::text::fold_ascii;
use crate::domain::conversations::{incoming_webhooks, members};
use crate::domain::identity::audit::{self, Action, By};
use crate::domain::identity::users;
use crate::store;
use crate::store::db::Conn;
use crate::store::events::events;
use crate::store::identity::revocations::Revoked;

/// Maximum number of groups that one transaction changes.
const GROUPS_PER_TRANSACTION: i64 = 200;

/// Bans a user, or lifts the ban. A ban ends every session, and no credentials of the user work while it lasts. If the server stops
/// before the last groups have a new owner, another call completes the ban.
///
/// # Errors
/// 404 `user_not_found`; 409 `not_yourself`.
pub async fn set_banned(app: &App, user_name: &str, banned: bool, by: By) -> Result<()> {
    let (user, mut rest) = app
        .db
        .write((fold_ascii(user_name), banned, by.clone()), |conn, (key, banned, by)| {
            Box::pin(begin(conn, key, *banned, by))
        })
        .await?;
    app.callers.revocations.refresh(&app.db).await?;
    while let Some(after) = rest {
        rest = app
            .db
            .write((user, banned, by.clone(), after), |conn, (user, banned, by, after)| {
                Box::pin(settle_groups(conn, *user, *banned, by, *after))
            })
            .await?;
    }
    Ok(())
}

/// Bans a user and settles the first groups. Returns the user and the last of these groups, if there may be more.
async fn begin(conn: &mut Conn, key: &str, banned: bool, by: &By) -> Result<(UserId, Option<ConversationId>)> {
    let account = store::identity::users::account_by_key(conn, key).await?.ok_or_else(users::not_found)?;
    let user = account.name.id;
    if banned && by.actor == Some(user) {
        return Err(Error::Conflict { code: "not_yourself", detail: "You cannot ban yourself".into() });
    }
    let is_new = account.banned_at.is_some() != banned;
    if is_new {
        store::identity::users::set_banned(conn, user, banned.then_some(by.at)).await?;
    }
    if banned {
        store::identity::sessions::delete_of(conn, user, None).await?;
        store::conversations::invites::delete_all_made_by(conn, user).await?;
    }
    let rest = settle_groups(conn, user, banned, by, ConversationId(0)).await?;
    if is_new {
        let action = if banned { Action::UserBanned } else { Action::UserUnbanned };
        audit::record(conn, by, action, Some(user), None).await?;
        store::identity::revocations::insert(conn, Revoked::User(user), by.at).await?;
    }
    Ok((user, rest))
}

/// Gives the next groups after `after` an owner who is not banned, and ends the incoming webhooks of a banned user there. Returns
/// the last of these groups, if there may be more.
async fn settle_groups(
    conn: &mut Conn,
    user: UserId,
    banned: bool,
    by: &By,
    after: ConversationId,
) -> Result<Option<ConversationId>> {
    let limit = GROUPS_PER_TRANSACTION;
    let mut groups = if banned {
        // All of the user's groups, because whether another owner is banned is known only under the lock of the group.
        let mut groups = store::conversations::members::owned_by(conn, user, after, limit).await?;
        groups.extend(store::conversations::incoming_webhooks::conversations_of(conn, user, after, limit).await?);
        groups
    } else {
        store::conversations::members::without_active_owner(conn, user, after, limit).await?
    };
    groups.sort_unstable();
    groups.dedup();
    groups.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let mut log = Vec::new();
    for group in &groups {
        store::conversations::conversations::lock_one(conn, *group).await?;
        if banned {
            incoming_webhooks::end_made_by(conn, *group, user, by).await?;
        }
        log.extend(members::pass_ownership(conn, *group, user, None, by.at).await?);
    }
    events::append(conn, &log).await?;
    Ok(groups.last().copied().filter(|_| groups.len() as i64 == limit))
}
