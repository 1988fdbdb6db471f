//! The timeline of a user: the messages of all their conversations as one list, ordered by `(timestamp_sent, id)`.
//!
//! The database has no such list, because each send would have to write a row for every member. Instead, the newest
//! messages of each conversation are read and merged, until the page can contain none of the messages that were not
//! read. This relies on two invariants of the store: `seq` has no gaps, and `(timestamp_sent, id)` rises with `seq`. So
//! the messages to read are a range of `seq`, and the place of a cursor in a conversation is found by binary search.

use super::messages;
use super::tails::{Rendered, Tails};
use crate::app::App;
use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::{MessageId, UserId};
use crate::base::text::fold_ascii;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::identity::users;
use crate::domain::shared::pagination::{Limit, Page, decode_cursor};
use crate::store;
use crate::store::conversations::conversations::{Head, Pair};
use crate::store::db::Conn;
use crate::store::messages::messages::Range;

/// Days in the window if the caller gives none.
pub const DEFAULT_DAYS: i64 = 30;
/// Maximum number of days in a window.
pub const MAX_DAYS: i64 = 3_650;
const LIST: &str = "timeline";

/// Which messages to list.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The number of days before now; not together with `since` or `until`.
    pub days: Option<i64>,
    /// Messages sent at or after this time; not together with `days`.
    pub since: Option<Timestamp>,
    /// Messages sent before this time; not together with `days`.
    pub until: Option<Timestamp>,
    /// Whether the newest messages come first.
    pub descending: bool,
    /// Only the direct conversation with this user.
    pub with: Option<String>,
    /// Entries on the page.
    pub limit: Limit,
    /// Where the page begins.
    pub cursor: Option<String>,
}

/// A page, and the beginning of its window.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// The rendered messages.
    pub page: Page<Vec<Rendered>>,
    /// The beginning of the window, as it was computed for the first page.
    pub since: Timestamp,
}

/// A place in the order: `(sent_at, id)`.
type Place = (Timestamp, MessageId);

/// The page to read.
struct Window {
    user_name_key: String,
    principal: Principal,
    tails: Tails,
    with: Option<String>,
    /// The first place in the window.
    from: Place,
    /// The first place after the window; `None` for no end.
    to: Option<Place>,
    descending: bool,
    wanted: usize,
}

/// Lists the messages of a user.
///
/// # Errors
/// 422 for a wrong window, limit or cursor, or an unknown `with`; 404 `user_not_found`; 403 `act_as_required`,
/// `not_your_messages`.
pub async fn list(app: &App, principal: &Principal, user_name: &str, listing: Listing) -> Result<Timeline> {
    let now = app.clock.now();
    let since = resolve_since(&listing, now)?;
    let cursor = listing.cursor.as_deref().map(|cursor| decode_cursor::<3>(LIST, cursor)).transpose()?;
    let mut window = Window {
        user_name_key: fold_ascii(principal.resolve(user_name)?),
        principal: principal.clone(),
        tails: app.tails.clone(),
        with: listing.with.as_deref().map(|name| principal.resolve(name).map(fold_ascii)).transpose()?,
        from: (since, MessageId(0)),
        to: listing.until.map(|until| (until, MessageId(0))),
        descending: listing.descending,
        wanted: listing.limit.get() + 1,
    };
    if let Some([micros, id, descending]) = cursor {
        if (descending == 1) != listing.descending {
            return Err(Error::invalid("cursor", "invalid_cursor", "this cursor belongs to a list in the other order"));
        }
        let place = (Timestamp::from_micros(micros), MessageId(id));
        if listing.descending {
            window.to = Some(window.to.map_or(place, |to| to.min(place)));
        } else {
            window.from = window.from.max((place.0, MessageId(id.saturating_add(1))));
        }
    }
    let descending = i64::from(listing.descending);
    let entries = app.db.read(window, |conn, window| Box::pin(read(conn, window))).await?;
    let page = Page::new(LIST, entries, listing.limit, |last| [last.sent_at.micros(), last.id.0, descending]);
    Ok(Timeline { page, since })
}

fn resolve_since(listing: &Listing, now: Timestamp) -> Result<Timestamp> {
    let mut errors = Vec::new();
    let bounded = listing.since.is_some() || listing.until.is_some();
    if listing.days.is_some() && bounded {
        errors.push(FieldError::new("days", "excluded", "Give either days or since and until, not both"));
    }
    if listing.days.is_some_and(|days| !(1..=MAX_DAYS).contains(&days)) {
        errors.push(FieldError::new("days", "out_of_range", format!("must be between 1 and {MAX_DAYS}")));
    }
    if !errors.is_empty() {
        return Err(Error::Invalid(errors));
    }
    Ok(match (listing.since, listing.until) {
        (Some(since), _) => since,
        // If only the end is given, the window begins 30 days before it.
        (None, Some(until)) => until.days_before(DEFAULT_DAYS),
        (None, None) => now.days_before(listing.days.unwrap_or(DEFAULT_DAYS)),
    })
}

async fn read(conn: &mut Conn, window: &Window) -> Result<Vec<Rendered>> {
    let heads = heads(conn, window).await?;
    let mut stretches = stretches(conn, window, heads).await?;
    let mut messages = merge(conn, window, &mut stretches).await?;
    window.tails.mark_own(conn, window.principal.viewer(), &mut messages).await?;
    Ok(messages)
}

async fn heads(conn: &mut Conn, window: &Window) -> Result<Vec<(Head, i64)>> {
    let key = window.user_name_key.as_str();
    let Some(with) = &window.with else {
        let found = store::conversations::conversations::heads_of_user(conn, key, window.from.0).await?;
        let (user, heads) = found.ok_or_else(users::not_found)?;
        check_reader(window, user)?;
        return Ok(heads);
    };
    let user = store::identity::users::summaries_by_keys(conn, &[key])
        .await?
        .into_iter()
        .next()
        .ok_or_else(users::not_found)?;
    check_reader(window, user.id)?;
    let heads = heads_with(conn, window, user.id, with).await?;
    Ok(heads.into_iter().map(|head| (head, 1)).collect())
}

fn check_reader(window: &Window, user: UserId) -> Result<()> {
    if window.principal.may_read_for(user) { Ok(()) } else { Err(messages::not_yours()) }
}

async fn heads_with(conn: &mut Conn, window: &Window, user: UserId, with: &str) -> Result<Vec<Head>> {
    let found = store::identity::users::summaries_by_keys(conn, &[with]).await?;
    let Some(other) = found.first() else {
        return Err(Error::invalid("with", "user_not_found", "no user has this name"));
    };
    let pair = Pair::new(user, other.id);
    match store::conversations::conversations::direct(conn, &[pair]).await?.first() {
        Some((_, id)) => store::conversations::conversations::head_since(conn, *id, window.from.0).await,
        None => Ok(Vec::new()),
    }
}

/// The messages of one conversation that are still to be read: `first_seq..=last_seq`. In descending order they are
/// read from `last_seq` on, otherwise from `first_seq` on.
struct Stretch {
    head: Head,
    first_seq: i64,
    last_seq: i64,
    /// The place of the last message that was read. The messages still to be read lie beyond it.
    frontier: Option<Place>,
}

impl Stretch {
    const fn is_exhausted(&self) -> bool {
        self.first_seq > self.last_seq
    }

    /// Whether messages beyond the frontier may still belong to the page. `last` is the place of the last message of
    /// the page if the page is full.
    fn is_due(&self, window: &Window, last: Option<Place>) -> bool {
        let Some(frontier) = self.frontier.filter(|_| !self.is_exhausted()) else { return false };
        if window.descending {
            frontier >= window.from && last.is_none_or(|last| frontier > last)
        } else {
            window.to.is_none_or(|to| frontier < to) && last.is_none_or(|last| frontier < last)
        }
    }

    /// Takes the next `count` seqs in the order of the window.
    fn take(&mut self, count: i64, descending: bool) -> Range {
        let (first_seq, last_seq) = if descending {
            (self.first_seq.max(self.last_seq - count + 1), self.last_seq)
        } else {
            (self.first_seq, self.last_seq.min(self.first_seq + count - 1))
        };
        if descending {
            self.last_seq = first_seq - 1;
        } else {
            self.first_seq = last_seq + 1;
        }
        Range { conversation_id: self.head.id, first_seq, last_seq }
    }
}

/// The ranges to read. Each head comes with the first `seq` that the user may see.
async fn stretches(conn: &mut Conn, window: &Window, mut heads: Vec<(Head, i64)>) -> Result<Vec<Stretch>> {
    let place = |head: &Head| (head.last_sent_at, head.last_message_id);
    let to = window.to.filter(|_| window.descending);
    if window.descending && to.is_none() {
        // The page has at most `wanted` messages, so only the `wanted` conversations with the newest messages can
        // contribute to it.
        heads.sort_unstable_by_key(|(head, _)| std::cmp::Reverse(place(head)));
        heads.truncate(window.wanted);
    }
    let mut stretches: Vec<Stretch> = heads
        .iter()
        .map(|(head, first_seq)| Stretch {
            head: *head,
            first_seq: *first_seq,
            last_seq: head.last_seq,
            frontier: None,
        })
        .collect();
    // If reading begins at a boundary of the window, the place of this boundary in each conversation is searched for.
    // Otherwise reading begins at the end of the conversation.
    let end = if window.descending { to } else { Some(window.from) };
    let Some(end) = end else { return Ok(stretches) };
    let sought: Vec<i64> = heads
        .iter()
        .map(|(head, _)| head)
        .filter(|head| !window.descending || place(head) >= end)
        .map(|head| head.id.0)
        .collect();
    if sought.is_empty() {
        return Ok(stretches);
    }
    for (conversation, before) in store::messages::messages::count_before(conn, &sought, end.0, end.1).await? {
        if let Some(stretch) = stretches.iter_mut().find(|stretch| stretch.head.id == conversation) {
            if window.descending {
                stretch.last_seq = stretch.last_seq.min(before);
            } else {
                stretch.first_seq = stretch.first_seq.max(before + 1);
            }
        }
    }
    stretches.retain(|stretch| !stretch.is_exhausted());
    Ok(stretches)
}

/// Reads ranges until no message that was not read can belong to the first `wanted` messages.
async fn merge(conn: &mut Conn, window: &Window, stretches: &mut [Stretch]) -> Result<Vec<Rendered>> {
    let place = |message: &Rendered| (message.sent_at, message.id);
    let in_window =
        |message: &Rendered| place(message) >= window.from && window.to.is_none_or(|to| place(message) < to);
    let mut messages: Vec<Rendered> = Vec::new();
    let mut due: Vec<usize> = (0..stretches.len()).collect();
    // Twice the equal share of each conversation. That is enough in nine of ten conversations, so a second round is
    // rare and short.
    let mut share = (2 * window.wanted).div_ceil(stretches.len().max(1));
    while !due.is_empty() {
        share = share.min(window.wanted);
        let ranges: Vec<(Head, Range)> = due
            .iter()
            .map(|index| (stretches[*index].head, stretches[*index].take(share as i64, window.descending)))
            .collect();
        let found = window.tails.load(conn, &ranges).await?;
        for (index, page) in due.iter().zip(found) {
            let edge = if window.descending { page.first() } else { page.last() };
            stretches[*index].frontier = edge.map(place);
            messages.extend(page.into_iter().filter(in_window));
        }
        if window.descending {
            messages.sort_unstable_by_key(|message| std::cmp::Reverse(place(message)));
        } else {
            messages.sort_unstable_by_key(place);
        }
        messages.truncate(window.wanted);
        let last = messages.last().filter(|_| messages.len() == window.wanted).map(place);
        share *= 2;
        due = (0..stretches.len()).filter(|index| stretches[*index].is_due(window, last)).collect();
    }
    Ok(messages)
}
