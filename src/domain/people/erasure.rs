//! Erasing a person: the profile at once, then what is left of them in conversations.
//!
//! Invariants: an id and a name are never given again; who was erased cannot be told from who never was, but by the id that
//! their messages keep. What was begun is finished after a restart.

use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, MessageId, UserId};
use crate::base::text::fold_ascii;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::conversations::members;
use crate::domain::identity::audit::{self, Action, By};
use crate::domain::identity::users;
use crate::domain::messages::reactions;
use crate::domain::shared::idempotency::KEPT_DAYS;
use crate::store;
use crate::store::db::Conn;
use crate::store::events::events::{Kind, NewEvent};
use crate::store::identity::revocations::Revoked;
use crate::store::people::erasure::Erasure;

/// Messages seen to in one transaction.
const BITE: i64 = 500;
/// Conversations looked up at once.
const CONVERSATIONS_AT_ONCE: i64 = 200;

/// Erases a person; `me` is the caller. With `delete_messages` their messages become tombstones, else they stay.
///
/// # Errors
/// 404 `user_not_found`; 403 `not_your_account`.
pub async fn erase(app: &App, principal: &Principal, user_name: &str, delete_messages: bool) -> Result<()> {
    let key = fold_ascii(principal.resolve(user_name)?);
    principal.require_person_or_admin()?;
    let by = By::principal(principal, app.clock.now());
    let input = (key, principal.clone(), by, delete_messages);
    let user = app
        .db
        .write(input, |conn, (key, principal, by, delete_messages)| {
            Box::pin(async move {
                let account = store::identity::users::account_by_key(conn, key).await?.ok_or_else(users::not_found)?;
                let user = account.name.id;
                principal.require_self_or_admin(user)?;
                principal.require_power_over_account()?;
                if !store::people::friends::lock_with_blockers(conn, user).await? {
                    return Err(users::not_found());
                }
                let digest = users::name_digest(conn, key).await?;
                store::shared::idempotency::blank_of(conn, user).await?;
                store::identity::audit::blank(conn, user).await?;
                store::people::friends::forget(conn, user).await?;
                store::people::reports::forget(conn, user).await?;
                // Where an administrator was is theirs, and told as ever.
                let address = by.address.clone().filter(|_| by.actor != Some(user));
                audit::record(conn, &By { address, ..by.clone() }, Action::UserErased, Some(user), None).await?;
                store::people::erasure::forget_person(conn, user, &digest, *delete_messages, by.at).await?;
                store::identity::revocations::insert(conn, Revoked::User(user), by.at).await?;
                Ok(user)
            })
        })
        .await?;
    app.callers.revocations.look_again(&app.db).await?;
    finish(app, Erasure { user, delete_messages }).await
}

/// Finishes what was begun before a restart. An erasure that meets damaged data is logged, and the others go on.
///
/// # Errors
/// Of the database.
pub async fn finish_all(app: &App) -> Result<()> {
    let unfinished = app.db.read((), |conn, ()| Box::pin(store::people::erasure::unfinished(conn))).await?;
    for erasure in unfinished {
        match finish(app, erasure).await {
            Err(error @ (Error::UnknownValue { .. } | Error::Damaged { .. })) => {
                tracing::error!(%error, user_id = erasure.user.0, "an erasure could not be finished");
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
                Box::pin(store::conversations::conversations::of_user(conn, *user, *after, CONVERSATIONS_AT_ONCE))
            })
            .await?;
        let Some((last, _)) = conversations.last() else { break };
        after = *last;
        for (conversation, _) in conversations {
            clean(app, erasure, conversation).await?;
        }
    }
    while app.db.write(erasure.user, |conn, user| Box::pin(forget_elsewhere(conn, *user))).await? {}
    if erasure.delete_messages {
        rewrite_index(app).await?;
    }
    // What was overwritten in the database must not be left in its log. Where somebody is in the way for too long, it is
    // tried again later: until then the erasure is not finished.
    if let Err(error) = app.db.flush().await {
        tracing::warn!(%error, "what was erased is still in the database's free space, and will be seen to later");
        return Ok(());
    }
    app.db.write(erasure.user, |conn, user| Box::pin(store::people::erasure::finish(conn, *user))).await
}

/// Takes away what the person put under messages, also of those that they do not see any more.
async fn forget_reactions(app: &App, erasure: Erasure) -> Result<()> {
    loop {
        let input = (erasure.user, app.clock.now());
        let more = app.db.write(input, |conn, (user, now)| Box::pin(reactions::forget(conn, *user, *now))).await?;
        if !more {
            return Ok(());
        }
    }
}

/// Leaves nothing of words in the search index that no message holds any more, a step at a time.
async fn rewrite_index(app: &App) -> Result<()> {
    app.db.write((), |conn, ()| Box::pin(store::messages::search::begin_rewrite(conn))).await?;
    let mut first = true;
    while app.db.write(first, |conn, first| Box::pin(store::messages::search::rewrite(conn, *first))).await? {
        first = false;
    }
    Ok(())
}

/// Takes the person out of their groups, one transaction each, and sees to what they left there and in groups that they had
/// left before.
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
                    CONVERSATIONS_AT_ONCE,
                ))
            })
            .await?;
        if groups.is_empty() {
            break;
        }
        for group in groups {
            app.db
                .write((group, erasure.user, now), |conn, (group, user, now)| {
                    Box::pin(members::forget(conn, *group, *user, *now))
                })
                .await?;
        }
    }
    let mut after = ConversationId(0);
    loop {
        let groups = app
            .db
            .read((erasure.user, after), |conn, (user, after)| {
                Box::pin(store::conversations::members::left_by(conn, *user, *after, CONVERSATIONS_AT_ONCE))
            })
            .await?;
        let Some(last) = groups.last() else { return Ok(()) };
        after = *last;
        for group in groups {
            clean(app, erasure, group).await?;
        }
    }
}

/// Sees to the messages of one conversation, a bite at a time.
async fn clean(app: &App, erasure: Erasure, conversation: ConversationId) -> Result<()> {
    let now = app.clock.now();
    // What they have read is theirs, and is not told any more. At least one bite, also where no message is looked at: names are
    // rendered into what is remembered of a conversation, and are looked up anew after it.
    while app.db.write((conversation, erasure.user), |conn, input| Box::pin(forget_receipts(conn, input))).await? {}
    let mut after = if erasure.delete_messages {
        0
    } else {
        // Only answers that are still kept have to be looked for.
        // After the clock was set back they are kept for longer, under the day at which it was.
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
                Box::pin(clean_bite(conn, *erasure, *conversation, *after, *now))
            })
            .await?;
        match next {
            Some(next) => after = next,
            None => return Ok(()),
        }
    }
}

/// Forgets a bite of when the person reached what; whether there may be more.
async fn forget_receipts(conn: &mut Conn, (conversation, user): &(ConversationId, UserId)) -> Result<bool> {
    store::conversations::conversations::lock_one(conn, *conversation).await?;
    store::conversations::conversations::mark_changed(conn, *conversation).await?;
    Ok(store::messages::receipts::forget(conn, *conversation, *user, BITE).await? == BITE.unsigned_abs())
}

/// Forgets a bite of what lies elsewhere about the person; whether there may be more.
async fn forget_elsewhere(conn: &mut Conn, user: UserId) -> Result<bool> {
    let receipts = store::messages::receipts::forget_rest(conn, user, BITE).await?;
    let mentions = store::messages::mentions::forget(conn, user, BITE).await?;
    Ok(receipts.max(mentions) == BITE.unsigned_abs())
}

async fn clean_bite(
    conn: &mut Conn,
    erasure: Erasure,
    conversation: ConversationId,
    after: i64,
    now: Timestamp,
) -> Result<Option<i64>> {
    let lock = store::conversations::conversations::lock_one(conn, conversation).await?;
    let traces = store::people::erasure::traces(conn, conversation, erasure.user, after, BITE).await?;
    let Some(last) = traces.last().filter(|_| lock) else { return Ok(None) };
    // The names of both stand in the answers to either's messages.
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
