//! Scheduled messages: accepted now and sent later.
//!
//! Invariants:
//! - A scheduled message is sent once, by the node that takes it first. The transaction that sends it also removes it
//!   from the table.
//! - The server checks whether the sender may send the message when it is accepted, and again when it is due. A message
//!   that the second check refuses stays in the table with the reason.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::directory::DirectoryEntries;
use super::draft_attachments::LockedAttachments;
use super::draft_people;
use super::drafts::{Draft, NewMessage, Recipient, Sender};
use super::send_batch::{Batch, reply_to_not_found, send_all};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{ScheduledId, UserId};
use crate::base::tasks::{self, PanicPoint};
use crate::base::time::Timestamp;
use crate::domain::access::membership::membership;
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::names::Names;
use crate::domain::identity::users::DirectMessagesFrom;
use crate::domain::people::reachability;
use crate::domain::shared::idempotency::{KeyedAnswer, Once};
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::domain::shared::precondition::Precondition;
use crate::store;
use crate::store::db::Conn;
use crate::store::identity::users::UserSummary;
use crate::store::messages::messages::Message;
pub use crate::store::messages::scheduled::{AttachmentIds, Scheduled};

/// The longest time for which a message can be scheduled in advance, in days.
pub const MAX_DAYS: i64 = 365;
/// Maximum number of scheduled messages of one user.
pub const MAX_SCHEDULED: i64 = 500;
/// The time between two searches for due messages.
const INTERVAL: Duration = Duration::from_millis(500);
/// Maximum number of messages that are sent after one search for due messages.
const BATCH_LIMIT: i64 = 200;
const LIST: &str = "scheduled";

/// A scheduled message with the names of its sender and recipient.
pub struct Shown {
    /// The message.
    pub scheduled: Scheduled,
    /// User names by id. Erased users are missing.
    pub names: Names,
}

struct Input {
    draft: Draft,
    send_at: Timestamp,
    now: Timestamp,
    direct_messages_from: DirectMessagesFrom,
    once: Once<Shown>,
}

/// Accepts a message to be sent later.
///
/// # Errors
/// The errors of sending a message, as far as they can be found now; 422 for `send_at`; 409 `too_many_scheduled`.
pub async fn schedule(
    app: &App,
    principal: &Principal,
    new: NewMessage,
    send_at: Timestamp,
    once: Once<Shown>,
) -> Result<KeyedAnswer> {
    let now = app.clock.now();
    let draft = Draft::new(principal, new, Once::without_key())?;
    if send_at <= now || send_at > now.plus_micros(MAX_DAYS * 24 * 3_600 * 1_000_000) {
        let detail = format!("must be in the future, within {MAX_DAYS} days; leave it out to send immediately");
        return Err(Error::invalid("send_at", "out_of_range", detail));
    }
    let input = Input { draft, send_at, now, direct_messages_from: app.settings.direct_messages_from, once };
    app.db.write(input, |conn, input| Box::pin(insert(conn, input))).await
}

async fn insert(conn: &mut Conn, input: &Input) -> Result<KeyedAnswer> {
    let Input { draft, send_at, now, direct_messages_from, once } = input;
    if let Some(given) = once.given(conn, *now).await? {
        return Ok(given);
    }
    let (sender, recipient) = find_people(conn, draft).await?;
    // Locks the users, so that no row is written for a user who is erased meanwhile.
    let mut ids: Vec<i64> = [Some(sender.id), recipient.as_ref().map(|recipient| recipient.id)]
        .into_iter()
        .flatten()
        .map(|id| id.0)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    if store::identity::users::lock_shared(conn, &ids).await?.len() != ids.len() {
        return Err(Error::Unauthenticated);
    }
    if store::messages::scheduled::count(conn, sender.id).await? >= MAX_SCHEDULED {
        return Err(Error::Conflict {
            code: "too_many_scheduled",
            detail: format!("A user has at most {MAX_SCHEDULED} scheduled messages; cancel one first").into(),
        });
    }
    if let Some(recipient) = &recipient {
        reachability::require(conn, &sender, std::slice::from_ref(recipient), *direct_messages_from).await?;
    }
    let conversation_id = match draft.recipient {
        Recipient::Conversation(id) => {
            let own = membership(conn, Viewer::Person(sender.id), id).await?;
            if draft.reply_to.is_some_and(|seq| !own.sees(seq)) {
                return Err(reply_to_not_found());
            }
            Some(id)
        }
        Recipient::Direct(_) => None,
    };
    // Checked now, and again when the message is due.
    LockedAttachments::lock(conn, std::iter::once((sender.id, draft.attachment_ids.as_slice())))
        .await?
        .list(sender.id, &draft.attachment_ids)?;
    let mut scheduled = Scheduled {
        id: ScheduledId(0),
        sender_id: sender.id,
        recipient_id: recipient.as_ref().map(|recipient| recipient.id),
        conversation_id,
        body: draft.body.clone(),
        reply_to: draft.reply_to,
        attachment_ids: AttachmentIds(draft.attachment_ids.clone()),
        link_preview_declined: draft.link_preview_declined,
        created_at: *now,
        send_at: *send_at,
        failed_at: None,
        failure: None,
    };
    scheduled.id = store::messages::scheduled::insert(conn, &scheduled).await?;
    let names = [Some(sender.clone()), recipient].into_iter().flatten().map(|user| (user.id, user.user_name)).collect();
    once.give(conn, *now, &Shown { scheduled, names }, Some(sender.id)).await
}

async fn find_people(conn: &mut Conn, draft: &Draft) -> Result<(UserSummary, Option<UserSummary>)> {
    let keys: Vec<&str> = draft_people::keys(draft).collect();
    let found: HashMap<String, UserSummary> = store::identity::users::summaries_by_keys(conn, &keys)
        .await?
        .into_iter()
        .map(|user| (user.user_name_key.clone(), user))
        .collect();
    draft_people::resolve(draft, |key| found.get(key).cloned())
}

/// Lists the caller's scheduled messages, by id: those that wait, and those that were refused when they were due.
///
/// # Errors
/// 403 `act_as_required`; 422 if the cursor is invalid.
pub async fn list(app: &App, principal: &Principal, limit: Limit, cursor: Option<&str>) -> Result<Page<Vec<Shown>>> {
    let person = principal.require_person()?.id;
    let after = ScheduledId(pagination::begin(LIST, cursor, 0)?);
    let found = app
        .db
        .read((person, after, limit), |conn, (person, after, limit)| {
            Box::pin(async move {
                let found = store::messages::scheduled::list(conn, *person, *after, limit.to_read()).await?;
                show(conn, found).await
            })
        })
        .await?;
    Ok(Page::new(LIST, found, limit, |last| [last.scheduled.id.0]))
}

/// One of the caller's scheduled messages.
///
/// # Errors
/// 403 `act_as_required`; 404 `scheduled_not_found`.
pub async fn get(app: &App, principal: &Principal, id: i64) -> Result<Shown> {
    let person = principal.require_person()?.id;
    app.db
        .read((person, ScheduledId(id)), |conn, (person, id)| {
            Box::pin(async move {
                let found = store::messages::scheduled::one(conn, *person, *id).await?;
                show(conn, found.into_iter().collect()).await?.pop().ok_or_else(not_found)
            })
        })
        .await
}

/// Cancels one of the caller's scheduled messages.
///
/// # Errors
/// 403 `act_as_required`; 404 `scheduled_not_found`, also if it has been sent; 412 if it does not meet `unchanged`.
pub async fn cancel(app: &App, principal: &Principal, id: i64, unchanged: Precondition<Shown>) -> Result<()> {
    let person = principal.require_person()?.id;
    app.db
        .write((person, ScheduledId(id), app.clock.now(), unchanged), |conn, (person, id, now, unchanged)| {
            Box::pin(async move {
                let found = store::messages::scheduled::one(conn, *person, *id).await?.ok_or_else(not_found)?;
                if unchanged.is_set() {
                    let shown = show(conn, vec![found.clone()]).await?.pop().ok_or_else(not_found)?;
                    unchanged.require(&shown)?;
                }
                if !store::messages::scheduled::delete(conn, *person, *id).await? {
                    return Err(not_found());
                }
                let expires_at = now.plus_micros(store::files::attachments::UNSENT_MICROS);
                store::files::attachments::set_expiry(conn, &found.attachment_ids.0, expires_at).await
            })
        })
        .await
}

fn not_found() -> Error {
    let detail = "Scheduled message not found; it may have been sent or cancelled";
    Error::NotFound { code: "scheduled_not_found", detail: detail.into() }
}

async fn show(conn: &mut Conn, found: Vec<Scheduled>) -> Result<Vec<Shown>> {
    let mut ids: Vec<i64> = found.iter().flat_map(user_ids).map(|id| id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    let names: Names = store::identity::users::names_by_ids(conn, &ids).await?.into_iter().collect();
    let of = |scheduled: &Scheduled| {
        user_ids(scheduled).filter_map(|id| Some((id, names.get(&id)?.clone()))).collect::<Names>()
    };
    Ok(found.into_iter().map(|scheduled| Shown { names: of(&scheduled), scheduled }).collect())
}

fn user_ids(scheduled: &Scheduled) -> impl Iterator<Item = UserId> + use<> {
    [Some(scheduled.sender_id), scheduled.recipient_id].into_iter().flatten()
}

/// Sends due messages, as long as the server runs.
pub async fn run(app: Arc<App>) {
    loop {
        match send_due(&app).await {
            // More messages may be due.
            Ok(sent) if sent as i64 >= BATCH_LIMIT => {}
            Ok(_) => tokio::time::sleep(INTERVAL).await,
            Err(error) => {
                tracing::warn!(%error, "due scheduled messages could not be sent; trying again");
                tokio::time::sleep(INTERVAL).await;
            }
        }
    }
}

/// Sends the messages that are due. Returns how many were sent or refused. None are sent while the clocks of the node
/// and of the database disagree.
///
/// # Errors
/// Errors of the database.
pub async fn send_due(app: &App) -> Result<usize> {
    if !app.clock.is_trusted() {
        return Ok(0);
    }
    let now = app.clock.now();
    let due = app.db.read(now, |conn, now| Box::pin(store::messages::scheduled::due(conn, *now, BATCH_LIMIT))).await?;
    let mut skipped = 0;
    for id in &due {
        let outcome = match send_one(app, *id).await {
            // A revocation was written during the attempt, so the attempt is repeated.
            Err(Error::Rerun(_)) => send_one(app, *id).await,
            outcome => outcome,
        };
        let failure = match outcome {
            Ok(sent) => {
                if let (Some(previews), Some(message)) = (&app.link_previews, sent.as_deref()) {
                    previews.offer(message);
                }
                tasks::panic_point(PanicPoint::ScheduledSent);
                continue;
            }
            Err(Error::Forbidden { code, .. } | Error::NotFound { code, .. } | Error::Conflict { code, .. }) => code,
            Err(Error::Invalid(errors)) => errors.first().map_or("invalid_fields", |error| error.code),
            Err(Error::Unauthenticated) => "user_not_found",
            Err(error @ Error::UnknownValue { .. }) => {
                // This message is tried again later. The messages after it do not have to wait.
                tracing::error!(%error, scheduled = id.0, "a scheduled message could not be sent; trying it again later");
                skipped += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        app.db
            .write((*id, now, failure), |conn, (id, now, failure)| {
                Box::pin(store::messages::scheduled::fail(conn, *id, *now, failure))
            })
            .await?;
    }
    Ok(due.len() - skipped)
}

/// Sends one message and returns it, unless it was cancelled or another node has sent it.
async fn send_one(app: &App, id: ScheduledId) -> Result<Option<Box<Message>>> {
    let mark = app.callers.revocations.current_mark(&app.db).await?;
    let input = (id, app.clock.clone(), mark, app.settings.direct_messages_from);
    app.db
        .write(input, |conn, (id, clock, mark, direct_messages_from)| {
            Box::pin(async move {
                let Some(scheduled) = store::messages::scheduled::take(conn, *id).await? else { return Ok(None) };
                let draft = draft(conn, scheduled).await?;
                let known = DirectoryEntries { mark: *mark, ..DirectoryEntries::default() };
                let batch = Batch::new(clock.clone(), vec![draft], known, *direct_messages_from);
                // This is the last write of the transaction. If the message is refused, the transaction is rolled back.
                match send_all(conn, &batch).await?.into_iter().next() {
                    Some(Ok(answer)) => Ok(answer.message().cloned().map(Box::new)),
                    Some(Err(error)) => Err(error),
                    None => Err(Error::internal("a draft has no answer after its batch")),
                }
            })
        })
        .await
}

async fn draft(conn: &mut Conn, scheduled: Scheduled) -> Result<Draft> {
    let ids: Vec<i64> = user_ids(&scheduled).map(|id| id.0).collect();
    let people: HashMap<UserId, UserSummary> =
        store::identity::users::summaries_by_ids(conn, &ids).await?.into_iter().map(|user| (user.id, user)).collect();
    let key = |id: UserId| people.get(&id).map(|user| user.user_name_key.clone()).ok_or(Error::Unauthenticated);
    let recipient = match (scheduled.recipient_id, scheduled.conversation_id) {
        (Some(recipient), _) => Recipient::Direct(key(recipient)?),
        (None, Some(id)) => Recipient::Conversation(id),
        (None, None) => return Err(Error::internal("a scheduled message has neither a recipient nor a conversation")),
    };
    Ok(Draft {
        sender: Sender::Named(key(scheduled.sender_id)?),
        recipient,
        body: scheduled.body,
        reply_to: scheduled.reply_to,
        attachment_ids: scheduled.attachment_ids.0,
        link_preview_declined: scheduled.link_preview_declined,
        once: Once::without_key(),
        accepted_at: Some(scheduled.created_at),
        request_id: None,
    })
}
