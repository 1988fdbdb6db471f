//! Erasing a user: first the profile, then the traces of the user in conversations.
//!
//! Invariants:
//! - Ids and user names are never given to another user.
//! - An erased user looks like a user that never existed, except for the id that their messages keep.
//! - An erasure that was interrupted is completed after a restart.

use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{AttachmentId, ConversationId, MessageId, UserId};
use crate::base::text::fold_ascii;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::conversations::members;
use crate::domain::identity::audit::{self, Action, By};
use crate::domain::identity::users::{self, User};
use crate::domain::messages::reactions;
use crate::domain::shared::idempotency::KEPT_DAYS;
use crate::domain::shared::precondition::Precondition;
use crate::store;
use crate::store::db::Conn;
use crate::store::events::events::{Kind, NewEvent};
use crate::store::identity::revocations::Revoked;
use crate::store::people::erasure::Erasure;

/// Maximum number of messages that one transaction changes.
const BATCH_ROWS: i64 = 500;
/// Maximum number of conversations that one query returns.
const CONVERSATIONS_PER_QUERY: i64 = 200;

/// Erases a user; `me` stands for the caller. With `delete_messages`, their messages become tombstones; without it, the
/// messages stay.
///
/// # Errors
/// 404 `user_not_found`; 403 `act_as_required`, `not_your_account`, `insufficient_scope`; 412 if the user does not meet
/// `unchanged`.
pub async fn erase(
    app: &App,
    principal: &Principal,
    user_name: &str,
    delete_messages: bool,
    unchanged: Precondition<User>,
) -> Result<()> {
    let key = fold_ascii(principal.resolve(user_name)?);
    principal.require_person_or_admin()?;
    let by = By::principal(principal, app.clock.now());
    let input = (key, principal.clone(), by, delete_messages, unchanged);
    let user = app
        .db
        .write(input, |conn, (key, principal, by, delete_messages, unchanged)| {
            Box::pin(async move {
                let account = store::identity::users::account_by_key(conn, key).await?.ok_or_else(users::not_found)?;
                let user = account.name.id;
                principal.require_self_or_admin(user)?;
                principal.require_account_control()?;
                if !store::people::friends::lock_with_blockers(conn, user).await? {
                    return Err(users::not_found());
                }
                if unchanged.is_set() {
                    let shown = store::identity::users::by_id(conn, user).await?.ok_or_else(users::not_found)?;
                    unchanged.require(&shown)?;
                }
                let digest = users::name_digest(conn, key).await?;
                store::shared::idempotency::blank_of(conn, user).await?;
                store::identity::audit::blank(conn, user).await?;
                store::people::friends::forget(conn, user).await?;
                store::people::reports::forget(conn, user).await?;
                store::files::attachments::expire_of(conn, user, by.at).await?;
                store::files::resumable_uploads::forget(conn, user).await?;
                // The address belongs to the personal data of a user who erases their own account, so it is not logged.
                // The address of an administrator is logged as usual.
                let address = by.address.clone().filter(|_| by.actor != Some(user));
                audit::record(conn, &By { address, ..by.clone() }, Action::UserErased, Some(user), None).await?;
                store::people::erasure::forget_person(conn, user, &digest, *delete_messages, by.at).await?;
                store::identity::revocations::insert(conn, Revoked::User(user), by.at).await?;
                Ok(user)
            })
        })
        .await?;
    app.callers.revocations.refresh(&app.db).await?;
    finish(app, Erasure { user, delete_messages }).await
}

/// Completes erasures that were interrupted. If one of them finds damaged data, the error is logged, and the others
/// continue.
///
/// # Errors
/// Errors of the database.
pub async fn finish_all(app: &App) -> Result<()> {
    let unfinished = app.db.read((), |conn, ()| Box::pin(store::people::erasure::unfinished(conn))).await?;
    for erasure in unfinished {
        match finish(app, erasure).await {
            Err(error @ (Error::UnknownValue { .. } | Error::Damaged { .. })) => {
                tracing::error!(%error, user_id = erasure.user.0, "an erasure could not be completed");
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

async fn finish(app: &App, erasure: Erasure) -> Result<()> {
    forget_reactions(app, erasure).await?;
    leave_groups(app, erasure).await?;
    let mut after = ConversationId(0);
    loop {
        let conversations = app
            .db
            .read((erasure.user, after), |conn, (user, after)| {
                Box::pin(store::conversations::conversations::of_user(conn, *user, *after, CONVERSATIONS_PER_QUERY))
            })
            .await?;
        let Some((last, _)) = conversations.last() else { break };
        after = *last;
        for (conversation, _) in conversations {
            clean_conversation(app, erasure, conversation).await?;
        }
    }
    while app.db.write(erasure.user, |conn, user| Box::pin(forget_elsewhere(conn, *user))).await? {}
    forget_files(app, erasure.user).await?;
    if erasure.delete_messages {
        rewrite_index(app).await?;
    }
    // The overwritten data must not remain in the free space or in the write-ahead log. If readers block this for too
    // long, the erasure stays unfinished and is tried again later.
    if let Err(error) = app.db.flush().await {
        tracing::warn!(%error, "erased data is still in the free space of the database; trying again later");
        return Ok(());
    }
    app.db.write(erasure.user, |conn, user| Box::pin(store::people::erasure::finish(conn, *user))).await
}

/// Removes the user's reactions, also those to messages that the user may no longer see.
async fn forget_reactions(app: &App, erasure: Erasure) -> Result<()> {
    loop {
        let input = (erasure.user, app.clock.now());
        let more = app.db.write(input, |conn, (user, now)| Box::pin(reactions::forget(conn, *user, *now))).await?;
        if !more {
            return Ok(());
        }
    }
}

/// Deletes the rows of the user's files that no message holds, so that their names are gone before the database is flushed. The task
/// that deletes unused files deletes the bytes.
async fn forget_files(app: &App, user: UserId) -> Result<()> {
    let now = app.clock.now();
    let mut after = AttachmentId(0);
    loop {
        let expired = app
            .db
            .read((user, after, now), |conn, (user, after, now)| {
                Box::pin(store::files::attachments::expired_of(conn, *user, *after, *now, BATCH_ROWS))
            })
            .await?;
        let Some(last) = expired.last() else { return Ok(()) };
        after = AttachmentId(*last);
        app.db
            .write((expired, now), |conn, (expired, now)| {
                Box::pin(store::files::attachments::delete_unused(conn, expired, *now))
            })
            .await?;
    }
}

/// Rewrites the search index in steps, so that it keeps no words that no message contains.
async fn rewrite_index(app: &App) -> Result<()> {
    app.db.write((), |conn, ()| Box::pin(store::messages::search::begin_rewrite(conn))).await?;
    let mut first = true;
    while app.db.write(first, |conn, first| Box::pin(store::messages::search::rewrite(conn, *first))).await? {
        first = false;
    }
    Ok(())
}

/// Removes the user from their groups, in one transaction for each group. Then cleans the groups that the user has
/// left, now or earlier.
async fn leave_groups(app: &App, erasure: Erasure) -> Result<()> {
    let now = app.clock.now();
    loop {
        let groups = app
            .db
            .read(erasure.user, |conn, user| {
                Box::pin(store::conversations::members::groups_of(
                    conn,
                    *user,
                    ConversationId(0),
                    CONVERSATIONS_PER_QUERY,
                ))
            })
            .await?;
        if groups.is_empty() {
            break;
        }
        for group in groups {
            app.db
                .write((group, erasure.user, now), |conn, (group, user, now)| {
                    Box::pin(members::remove_erased(conn, *group, *user, *now))
                })
                .await?;
        }
    }
    let mut after = ConversationId(0);
    loop {
        let groups = app
            .db
            .read((erasure.user, after), |conn, (user, after)| {
                Box::pin(store::conversations::members::left_by(conn, *user, *after, CONVERSATIONS_PER_QUERY))
            })
            .await?;
        let Some(last) = groups.last() else { return Ok(()) };
        after = *last;
        for group in groups {
            clean_conversation(app, erasure, group).await?;
        }
    }
}

/// Removes the traces of the user in one conversation, in batches.
async fn clean_conversation(app: &App, erasure: Erasure, conversation: ConversationId) -> Result<()> {
    let now = app.clock.now();
    // Receipts are personal data and are no longer shown. The loop runs at least one batch. Each batch raises the
    // content version, because the cached messages contain names, which must be looked up again.
    while app.db.write((conversation, erasure.user), |conn, input| Box::pin(forget_receipts(conn, input))).await? {}
    let mut after = if erasure.delete_messages {
        0
    } else {
        // The messages stay, so only those whose stored answers still exist need to be visited. After the clock was set
        // back, answers are kept for longer, under the day that the clock showed before.
        let since = if app.key_days.are_late(now) { Timestamp::MIN } else { now.days_before(KEPT_DAYS + 2) };
        app.db
            .read((conversation, since), |conn, (conversation, since)| {
                Box::pin(async move {
                    let before =
                        store::messages::messages::count_before(conn, &[conversation.0], *since, MessageId(0)).await?;
                    Ok(before.first().map_or(0, |(_, before)| *before))
                })
            })
            .await?
    };
    loop {
        let next = app
            .db
            .write((erasure, conversation, after, now), |conn, (erasure, conversation, after, now)| {
                Box::pin(clean_batch(conn, *erasure, *conversation, *after, *now))
            })
            .await?;
        match next {
            Some(next) => after = next,
            None => return Ok(()),
        }
    }
}

/// Deletes a batch of the user's receipts in a conversation. Returns whether there may be more.
async fn forget_receipts(conn: &mut Conn, (conversation, user): &(ConversationId, UserId)) -> Result<bool> {
    store::conversations::conversations::lock_one(conn, *conversation).await?;
    store::conversations::conversations::mark_changed(conn, *conversation).await?;
    Ok(store::messages::receipts::forget(conn, *conversation, *user, BATCH_ROWS).await? == BATCH_ROWS.unsigned_abs())
}

/// Deletes a batch of the user's other receipts and mentions. Returns whether there may be more.
async fn forget_elsewhere(conn: &mut Conn, user: UserId) -> Result<bool> {
    let receipts = store::messages::receipts::forget_rest(conn, user, BATCH_ROWS).await?;
    let mentions = store::messages::mentions::forget(conn, user, BATCH_ROWS).await?;
    Ok(receipts.max(mentions) == BATCH_ROWS.unsigned_abs())
}

async fn clean_batch(
    conn: &mut Conn,
    erasure: Erasure,
    conversation: ConversationId,
    after: i64,
    now: Timestamp,
) -> Result<Option<i64>> {
    let lock = store::conversations::conversations::lock_one(conn, conversation).await?;
    let traces = store::people::erasure::traces(conn, conversation, erasure.user, after, BATCH_ROWS).await?;
    let Some(last) = traces.last().filter(|_| lock) else { return Ok(None) };
    // The stored answer to a message shows the names of its sender and of its recipient. So all stored answers of the
    // conversation are emptied, also the answers to messages of the other user.
    let keys: Vec<_> = traces.iter().filter_map(|trace| trace.key).collect();
    store::shared::idempotency::blank(conn, &keys).await?;
    let own: Vec<i64> =
        traces.iter().filter(|trace| trace.own && erasure.delete_messages).map(|trace| trace.seq).collect();
    if !own.is_empty() {
        store::messages::removals::make_tombstones(conn, conversation, &own, now).await?;
        store::conversations::conversations::mark_changed(conn, conversation).await?;
    }
    let deleted = NewEvent::of_conversation(Kind::MessageDeleted, conversation, erasure.user, now);
    let events: Vec<NewEvent<'_>> = own.iter().map(|seq| deleted.message(*seq)).collect();
    store::events::events::append(conn, &events).await?;
    Ok(Some(last.seq))
}
