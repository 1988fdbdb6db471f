//! The messages of one conversation, a page at a time.
//!
//! Invariant: a page is a range of `seq`. The numbers have no gaps and are never reused. So pages neither shift nor
//! overlap while other callers write.

use super::tails::{Rendered, Tails};
use crate::app::App;
use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::{ConversationId, MAX_ID, MessageId};
use crate::base::time::Timestamp;
use crate::domain::access::membership::{conversation_not_found, membership};
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::shared::pagination::Limit;
use crate::store;
use crate::store::db::Conn;
use crate::store::messages::messages::Range;

/// Which range to list. Give at most one of the fields; without one, the newest messages are listed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listing {
    /// Messages before this `seq`.
    pub before: Option<i64>,
    /// Messages after this `seq`.
    pub after: Option<i64>,
    /// The message with this `seq`, and messages before and after it.
    pub around: Option<i64>,
    /// The first message sent at or after this time, and the messages after it.
    pub date: Option<Timestamp>,
}

/// A page of messages, oldest first, and where the next page begins.
#[derive(Clone, Debug)]
pub struct History {
    /// The rendered messages.
    pub messages: Vec<Rendered>,
    /// Where the next page begins; `None` on the last page.
    pub next: Option<Next>,
}

/// The next page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Older messages: those before this `seq`.
    Before(i64),
    /// Newer messages: those after this `seq`.
    After(i64),
}

struct Wanted {
    conversation: ConversationId,
    viewer: Viewer,
    listing: Listing,
    limit: i64,
    tails: Tails,
}

/// Lists one page of the messages of a conversation.
///
/// # Errors
/// 422 for more than one field or a number that cannot be a `seq`; 404 `conversation_not_found`, also if the caller is
/// not a member; 410 `cursor_expired` if `after` is a `seq` that the conversation does not have.
pub async fn list(
    app: &App,
    principal: &Principal,
    conversation: i64,
    listing: Listing,
    limit: Limit,
) -> Result<History> {
    check(&listing)?;
    let wanted = Wanted {
        conversation: ConversationId(conversation),
        viewer: principal.viewer(),
        listing,
        limit: limit.get() as i64,
        tails: app.tails.clone(),
    };
    app.db.read(wanted, |conn, wanted| Box::pin(read(conn, wanted))).await
}

fn check(listing: &Listing) -> Result<()> {
    let places = [
        ("before", listing.before.is_some()),
        ("after", listing.after.is_some()),
        ("around", listing.around.is_some()),
        ("date", listing.date.is_some()),
    ];
    let mut errors: Vec<FieldError> = places
        .iter()
        .filter(|(_, named)| *named)
        .skip(1)
        .map(|(name, _)| FieldError::new(*name, "excluded", "Give at most one of before, after, around and date"))
        .collect();
    let seqs = [("before", listing.before, 1), ("after", listing.after, 0), ("around", listing.around, 1)];
    for (name, seq, least) in seqs {
        if seq.is_some_and(|seq| !(least..=MAX_ID).contains(&seq)) {
            errors.push(FieldError::new(name, "out_of_range", "must be the seq of a message"));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Error::Invalid(errors)) }
}

async fn read(conn: &mut Conn, wanted: &Wanted) -> Result<History> {
    let least = membership(conn, wanted.viewer, wanted.conversation).await?.first_seq;
    let head = store::conversations::conversations::head_of(conn, wanted.conversation)
        .await?
        .ok_or_else(conversation_not_found)?;
    // The caller has seen messages that a restore of a backup has removed. An empty page would hide the messages that get the same
    // `seq` later.
    if wanted.listing.after.is_some_and(|seq| seq > head.last_seq) {
        return Err(Error::Gone {
            code: "cursor_expired",
            detail: "The conversation has no message with this seq; a backup was restored, so load the conversation again",
        });
    }
    let limit = wanted.limit;
    let (first, last) = match wanted.listing {
        Listing { before: Some(seq), .. } => {
            let last = (seq - 1).min(head.last_seq);
            (last - limit + 1, last)
        }
        Listing { after: Some(seq), .. } => (seq.max(least - 1) + 1, seq.max(least - 1) + limit),
        // If `limit` is even, the page has one message more before this `seq` than after it.
        Listing { around: Some(seq), .. } => {
            let first = seq.min(head.last_seq) - limit / 2;
            (first, first + limit - 1)
        }
        Listing { date: Some(at), .. } => {
            let before = store::messages::messages::count_before(conn, &[head.id.0], at, MessageId(0)).await?;
            let before = before.first().map_or(0, |(_, before)| *before);
            let before = before.max(least - 1);
            (before + 1, before + limit)
        }
        Listing { .. } => (head.last_seq - limit + 1, head.last_seq),
    };
    let range = Range { conversation_id: head.id, first_seq: first.max(least), last_seq: last.min(head.last_seq) };
    let mut messages = if range.first_seq <= range.last_seq {
        wanted.tails.load(conn, &[(head, range)]).await?.into_iter().next().unwrap_or_default()
    } else {
        Vec::new()
    };
    wanted.tails.mark_own(conn, wanted.viewer, &mut messages).await?;
    let next = if wanted.listing.after.is_some() {
        messages.last().map(|last| last.seq).filter(|seq| *seq < head.last_seq).map(Next::After)
    } else {
        messages.first().map(|first| first.seq).filter(|seq| *seq > least).map(Next::Before)
    };
    // The range begins after the newest message. The page is empty, but there may be older messages.
    let past_the_end = messages.is_empty() && wanted.listing.after.is_none() && range.first_seq > head.last_seq;
    let next = next.or_else(|| (past_the_end && head.last_seq >= least).then_some(Next::Before(head.last_seq + 1)));
    Ok(History { messages, next })
}
