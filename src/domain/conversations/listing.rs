//! The list of a user's conversations, those with the latest messages first.
//!
//! Invariant: every conversation that is in the list when its first page is read is on one of the pages, also if it gets
//! a message meanwhile. Messages move conversations, so the later pages use the order of the moment at which the first
//! page was read: the cursor contains that moment.

use std::collections::{BTreeSet, HashMap};

use super::conversations::{Conversation, Showing, Shown};
use crate::app::App;
use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::shared::pagination::{Limit, Page, decode_numbers, encode_cursor, invalid_cursor};
use crate::store;
use crate::store::conversations::listing::Activity;
use crate::store::db::Conn;

const LIST: &str = "conversations";
/// How long before the first page a message may have got its time and still be missing there, because its transaction was
/// not committed yet.
const SETTLING_MICROS: i64 = 5_000_000;
/// How many conversations with a message within that time a cursor can contain. Of more than these, some can come twice.
const MAX_RECENT: usize = 20;

/// The place of a conversation in the list: the time of its last message, and its id.
type Key = (Timestamp, ConversationId);

/// Where a later page begins.
struct Cursor {
    /// The place of the last entry on the page before.
    before: Key,
    /// The moment whose order the pages have.
    as_of: Timestamp,
    /// The entries of earlier pages whose last message was sent so late that its transaction may have been in progress.
    recent: BTreeSet<i64>,
}

impl Cursor {
    fn read(cursor: &str) -> Result<Self> {
        let numbers = decode_numbers(LIST, cursor)?;
        let [micros, id, as_of, ref recent @ ..] = numbers[..] else { return Err(invalid_cursor()) };
        Ok(Self {
            before: (Timestamp::from_micros(micros), ConversationId(id)),
            as_of: Timestamp::from_micros(as_of),
            recent: recent.iter().copied().collect(),
        })
    }

    fn write(&self) -> String {
        let mut numbers = vec![self.before.0.micros(), self.before.1.0, self.as_of.micros()];
        numbers.extend(self.recent.iter().take(MAX_RECENT));
        encode_cursor(LIST, &numbers)
    }

    /// Whether a conversation comes after the pages that were read.
    fn precedes(&self, activity: &Activity) -> bool {
        (activity.last_sent_at, activity.id) < self.before
    }

    /// Messages up to this moment were committed before the first page was read.
    fn settled(&self) -> Timestamp {
        self.as_of.plus_micros(-SETTLING_MICROS)
    }
}

/// Lists the caller's conversations, those with the latest messages first.
///
/// # Errors
/// 403 `act_as_required`; 422 if the cursor is invalid.
pub async fn list(app: &App, principal: &Principal, limit: Limit, cursor: Option<&str>) -> Result<Page<Vec<Shown>>> {
    let person = principal.require_person()?.id;
    let cursor = cursor.map(Cursor::read).transpose()?;
    let input = (Showing::new(app, principal), person, cursor, limit, app.clock.now());
    app.db
        .read(input, |conn, (showing, person, cursor, limit, now)| {
            Box::pin(async move {
                let (found, next) = match cursor {
                    None => first_page(conn, *person, *limit, *now).await?,
                    Some(cursor) => later_page(conn, *person, *limit, cursor).await?,
                };
                Ok(Page { entries: showing.show(conn, found).await?, next })
            })
        })
        .await
}

async fn first_page(
    conn: &mut Conn,
    person: UserId,
    limit: Limit,
    now: Timestamp,
) -> Result<(Vec<Conversation>, Option<String>)> {
    let mut found = store::conversations::listing::latest_of(conn, person, limit.to_read()).await?;
    let more = found.len() > limit.get();
    found.truncate(limit.get());
    let keys: Vec<Key> = found.iter().map(|found| (found.head.last_sent_at, found.head.id)).collect();
    let Some(last) = keys.last().filter(|_| more) else { return Ok((found, None)) };
    // After the clock was set back, the latest message can be later than the present time.
    let as_of = keys.first().map_or(now, |(latest, _)| now.max(*latest));
    let cursor = Cursor { before: *last, as_of, recent: BTreeSet::new() };
    let next = after_page(&cursor, &keys);
    Ok((found, next))
}

async fn later_page(
    conn: &mut Conn,
    person: UserId,
    limit: Limit,
    cursor: &Cursor,
) -> Result<(Vec<Conversation>, Option<String>)> {
    let mut keys = keys_before(conn, person, limit, cursor).await?;
    keys.sort_unstable_by(|one, other| other.cmp(one));
    let more = keys.len() > limit.get();
    keys.truncate(limit.get());
    let ids: Vec<i64> = keys.iter().map(|(_, id)| id.0).collect();
    let found = store::conversations::listing::by_ids(conn, person, &ids).await?;
    let mut found: HashMap<ConversationId, Conversation> =
        found.into_iter().map(|conversation| (conversation.head.id, conversation)).collect();
    let next = if more { after_page(cursor, &keys) } else { None };
    Ok((keys.iter().filter_map(|(_, id)| found.remove(id)).collect(), next))
}

/// The cursor after a page with these entries.
fn after_page(cursor: &Cursor, keys: &[Key]) -> Option<String> {
    let settled = cursor.settled();
    let recent = keys.iter().filter(|(at, _)| *at > settled).map(|(_, id)| id.0);
    let recent = cursor.recent.iter().copied().chain(recent).collect();
    Some(Cursor { before: *keys.last()?, as_of: cursor.as_of, recent }.write())
}

/// The places of the conversations after the cursor: at least as many as the page needs, in no particular order.
async fn keys_before(conn: &mut Conn, person: UserId, limit: Limit, cursor: &Cursor) -> Result<Vec<Key>> {
    let (settled, as_of) = (cursor.settled(), cursor.as_of);
    let mut found =
        store::conversations::listing::active_before(conn, person, settled, cursor.before, limit.to_read()).await?;
    found.retain(|activity| !cursor.recent.contains(&activity.id.0));
    let (moved, mut known): (Vec<Activity>, Vec<Activity>) =
        found.into_iter().partition(|activity| activity.last_sent_at > as_of);
    known.extend(as_they_were(conn, moved, as_of).await?);
    let (mut next, passed): (Vec<Activity>, Vec<Activity>) =
        known.into_iter().partition(|activity| cursor.precedes(activity));
    // By its place it was on an earlier page. It was not if its message was committed only afterwards.
    let late = passed.into_iter().filter(|activity| activity.last_sent_at > settled).collect();
    let late = as_they_were(conn, late, settled).await?;
    next.extend(late.into_iter().filter(|activity| cursor.precedes(activity)));
    Ok(next.into_iter().map(|activity| (activity.last_sent_at, activity.id)).collect())
}

/// The conversations as they were at a moment, without those that were created later.
async fn as_they_were(conn: &mut Conn, activities: Vec<Activity>, at: Timestamp) -> Result<Vec<Activity>> {
    if activities.is_empty() {
        return Ok(activities);
    }
    let ids: Vec<i64> = activities.iter().map(|activity| activity.id.0).collect();
    let found = store::conversations::listing::last_sent_until(conn, &ids, at).await?;
    let found: HashMap<ConversationId, Timestamp> = found.into_iter().collect();
    let then = activities.into_iter().map(|activity| {
        let last_sent_at = found.get(&activity.id).copied().unwrap_or(activity.created_at);
        Activity { last_sent_at, ..activity }
    });
    Ok(then.filter(|activity| activity.last_sent_at <= at).collect())
}
