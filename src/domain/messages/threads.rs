//! Threads: the replies to a message.
//!
//! Invariant: the list of replies has as many messages as the count of replies, because both leave out tombstones. A
//! user who may see a message may also see its replies, because the replies are newer.

use super::message_reads::{complete_for, visible};
use crate::app::App;
use crate::base::error::Result;
use crate::base::ids::ConversationId;
use crate::domain::access::principal::Principal;
use crate::domain::identity::names::Names;
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::store;
use crate::store::messages::messages::Message;

const LIST: &str = "replies";

/// Lists the replies to a message, by seq.
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
) -> Result<(Page<Vec<Message>>, Names)> {
    let after = pagination::begin(LIST, cursor, 0)?;
    let input = (principal.viewer(), ConversationId(conversation), seq, after, limit);
    let (messages, names) = app
        .db
        .read(input, |conn, (viewer, conversation, seq, after, limit)| {
            Box::pin(async move {
                visible(conn, *viewer, *conversation, *seq).await?;
                let seqs = store::messages::threads::list(conn, *conversation, *seq, *after, limit.to_read()).await?;
                let mut messages = store::messages::messages::by_seqs(conn, *conversation, &seqs).await?;
                let names = complete_for(conn, *viewer, &mut messages).await?;
                Ok((messages, names))
            })
        })
        .await?;
    Ok((Page::new(LIST, messages, limit, |last| [last.seq]), names))
}
