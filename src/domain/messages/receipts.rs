//! Receipts: up to where each member has received and read messages, and when each message was delivered and read.
//!
//! Invariants:
//! - Watermarks never go back, and a message that is read is also delivered.
//! - A member has read a message at the time when their watermark first moved to or past it, and never before the
//!   message was sent. The same holds for delivery.
//! - The marker `unread_from` of a member is not shown to anybody else.

use super::message_reads::{complete, visible};
use super::watermarks::{Report, Standing, assert_within};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, MAX_ID, UserId};
use crate::base::request_id::RequestId;
use crate::domain::access::principal::Principal;
use crate::domain::identity::names::Names;
use crate::domain::sending::change_batch::{Change, ChangeAnswer, ChangeKind};
use crate::domain::shared::pagination::{Limit, Page, begin};
use crate::store;
use crate::store::messages::messages::Message;
pub use crate::store::messages::receipts::Receipt;

/// The name of the list of members who have received a message, for its cursors.
const LIST: &str = "receipts";

/// Records up to where the caller has received or read messages. Returns the watermarks after that.
///
/// # Errors
/// 403 `act_as_required`; 404 `conversation_not_found`; 422 for a `seq` outside the conversation.
pub async fn report(app: &App, principal: &Principal, conversation: i64, report: Report) -> Result<Standing> {
    let person = principal.require_person()?.id;
    if report.delivered_seq.is_none() && report.read_seq.is_none() && report.unread_from.is_none() {
        return Err(Error::invalid(
            "read_seq",
            "required",
            "Give at least one of read_seq, delivered_seq and unread_from",
        ));
    }
    assert_within(&report, 1, MAX_ID, 1)?;
    let conversation = ConversationId(conversation);
    let request_id = RequestId::current();
    let change = Change { person, conversation, kind: ChangeKind::Report(report), now: app.clock.now(), request_id };
    match app.changes.make(change).await? {
        ChangeAnswer::Reported(standing) => Ok(standing),
        _ => Err(Error::internal("the answer to a receipt has the wrong type")),
    }
}

/// Lists the members who have received a message, by id: members who had joined when it was sent, without its sender.
///
/// # Errors
/// 404 `message_not_found`; 422 if the cursor is invalid.
pub async fn list(
    app: &App,
    principal: &Principal,
    conversation: i64,
    seq: i64,
    limit: Limit,
    cursor: Option<&str>,
) -> Result<Page<Vec<Receipt>>> {
    let after = begin(LIST, cursor, 0)?;
    let input = (principal.viewer(), ConversationId(conversation), seq, UserId(after), limit);
    let read = app
        .db
        .read(input, |conn, (viewer, conversation, seq, after, limit)| {
            Box::pin(async move {
                let mut message = visible(conn, *viewer, *conversation, *seq).await?;
                if message.recipient_id.is_none() {
                    return store::messages::receipts::of_message(conn, &message, *after, limit.to_read()).await;
                }
                let names = complete(conn, std::slice::from_mut(&mut message)).await?;
                Ok(of_recipient(&message, &names).filter(|receipt| receipt.user > *after).into_iter().collect())
            })
        })
        .await?;
    Ok(Page::new(LIST, read, limit, |receipt| [receipt.user.0]))
}

/// The receipt of the recipient in a direct conversation. It is computed from the times of the message.
fn of_recipient(message: &Message, names: &Names) -> Option<Receipt> {
    let user = message.recipient_id?;
    let Message { timestamp_delivered: delivered_at, timestamp_read: read_at, .. } = *message;
    delivered_at.or(read_at)?;
    Some(Receipt { user, user_name: names.get(&user)?.clone(), delivered_at, read_at })
}
