//! Lists of conversations: those of a user, with the latest messages first, and all of them for a program of the operator.
//!
//! Invariants:
//! - Only a caller who may read everything gets the list of all.
//! - Every conversation that is in the list of a user when its first page is read is on one of the pages, also if it gets a
//!   message meanwhile. Messages move conversations, so the later pages use the order of the moment at which the first page
//!   was read: the cursor contains that moment.

use std::collections::{BTreeSet, HashMap};

use super::conversations::{Conversation, Showing, Shown};
use crate::app::App;
use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::shared::pagination::{Limit, Page, begin, decode_numbers, encode_cursor, invalid_cursor};
use crate::store;
use crate::store::conversations::conversation_kinds::Kind;
use crate::store::conversations::listing::Activity;
use crate::store::db::Conn;

const LIST: &str = "conversations";
const LIST_OF_ALL: &str = "all_conversations";
/// How many conversations are read at a time for a list with a filter.
const PART: usize = 100;
/// How many parts one page reads at most. If they contain too few matches, the page is short and the next one continues.
const PARTS: usize = 10;
/// How long before the first page a message may have got its time and still be missing there, because its transaction was
/// not committed yet.
const SETTLING_MICROS: i64 = 5_000_000;
/// How many conversations with a message within that time a cursor can contain. Of more than these, some can come twice.
const MAX_RECENT: usize = 20;

/// The place of a conversation in the list: the time of its last message, and its id.
type Key = (Timestamp, ConversationId);

/// Which conversations are listed. An empty filter selects all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those of this kind.
    pub kind: Option<Kind>,
    /// Those with unread messages of the user, or those without.
    pub unread: Option<bool>,
    /// Those that the user has archived, or the others.
    pub archived: Option<bool>,
}

impl Filter {
    fn selects(self, shown: &Shown) -> bool {
        let Conversation { kind, me, .. } = &shown.conversation;
        let is = |wanted: Option<bool>, value: bool| wanted.is_none_or(|wanted| wanted == value);
        self.kind.is_none_or(|wanted| wanted == *kind)
            && is(self.unread, me.as_ref().is_some_and(|me| me.unread_count > 0))
            && is(self.archived, me.as_ref().is_some_and(|me| me.keeps.archived))
    }
}

/// Some conversations of a user in the order of the list.
struct Part {
    found: Vec<Conversation>,
    /// The places of the conversations, in order. A conversation that the user has left meanwhile is missing in `found`.
    keys: Vec<Key>,
    /// Whether others follow.
    more: bool,
    /// From where the list continues after this part, except for `before` and `recent`.
    cursor: Cursor,
}

/// Where a later page begins.
#[derive(Clone)]
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

    /// The cursor after these entries.
    fn after(&self, keys: &[Key]) -> Self {
        let settled = self.settled();
        let recent = keys.iter().filter(|(at, _)| *at > settled).map(|(_, id)| id.0);
        let recent = self.recent.iter().copied().chain(recent).collect();
        Self { before: keys.last().copied().unwrap_or(self.before), as_of: self.as_of, recent }
    }

    /// Messages up to this moment were committed before the first page was read.
    fn settled(&self) -> Timestamp {
        self.as_of.plus_micros(-SETTLING_MICROS)
    }
}

/// Lists the conversations of a user, those with the latest messages first; for a caller who is not a user, all conversations by id.
///
/// # Errors
/// 422 if the cursor is invalid, or for a filter that needs a user.
pub async fn list(
    app: &App,
    principal: &Principal,
    filter: Filter,
    limit: Limit,
    cursor: Option<&str>,
) -> Result<Page<Vec<Shown>>> {
    let Some(person) = principal.viewer().person() else {
        return list_all(app, principal, filter, limit, cursor).await;
    };
    let cursor = cursor.map(Cursor::read).transpose()?;
    let input = (Showing::new(app, principal), person, filter, cursor, limit, app.clock.now());
    app.db
        .read(input, |conn, (showing, person, filter, cursor, limit, now)| {
            Box::pin(page(conn, showing, *person, *filter, cursor.clone(), limit.get(), *now))
        })
        .await
}

async fn page(
    conn: &mut Conn,
    showing: &Showing,
    person: UserId,
    filter: Filter,
    mut cursor: Option<Cursor>,
    limit: usize,
    now: Timestamp,
) -> Result<Page<Vec<Shown>>> {
    let size = if filter == Filter::default() { limit } else { limit.max(PART) };
    let mut entries: Vec<Shown> = Vec::new();
    for _ in 0..PARTS {
        let part = match &cursor {
            None => first_part(conn, person, size, now).await?,
            Some(cursor) => later_part(conn, person, size, cursor).await?,
        };
        let shown = showing.show(conn, part.found).await?;
        let mut shown: HashMap<ConversationId, Shown> =
            shown.into_iter().map(|shown| (shown.conversation.head.id, shown)).collect();
        for (index, (_, id)) in part.keys.iter().enumerate() {
            entries.extend(shown.remove(id).filter(|shown| filter.selects(shown)));
            if entries.len() == limit {
                let more = part.more || index + 1 < part.keys.len();
                let next = more.then(|| part.cursor.after(&part.keys[..=index]).write());
                return Ok(Page { entries, next });
            }
        }
        if !part.more {
            return Ok(Page { entries, next: None });
        }
        cursor = Some(part.cursor.after(&part.keys));
    }
    Ok(Page { entries, next: cursor.map(|cursor| cursor.write()) })
}

/// Lists all conversations by id.
async fn list_all(
    app: &App,
    principal: &Principal,
    filter: Filter,
    limit: Limit,
    cursor: Option<&str>,
) -> Result<Page<Vec<Shown>>> {
    let of_user = [("unread", filter.unread.is_some()), ("archived", filter.archived.is_some())];
    let errors: Vec<FieldError> = of_user
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| FieldError::new(name, "excluded", "only for the list of a user; name the user with X-Act-As"))
        .collect();
    if !errors.is_empty() {
        return Err(Error::Invalid(errors));
    }
    let after = ConversationId(begin(LIST_OF_ALL, cursor, 0)?);
    let input = (Showing::new(app, principal), filter.kind, after, limit);
    let shown = app.db.read(input, |conn, (showing, kind, after, limit)| {
        Box::pin(async move {
            let found = store::conversations::listing::all_after(conn, *after, *kind, limit.to_read()).await?;
            showing.show(conn, found).await
        })
    });
    Ok(Page::new(LIST_OF_ALL, shown.await?, limit, |last| [last.conversation.head.id.0]))
}

async fn first_part(conn: &mut Conn, person: UserId, size: usize, now: Timestamp) -> Result<Part> {
    let mut found = store::conversations::listing::latest_of(conn, person, size as i64 + 1).await?;
    let more = found.len() > size;
    found.truncate(size);
    let keys: Vec<Key> = found.iter().map(|found| (found.head.last_sent_at, found.head.id)).collect();
    // After the clock was set back, the latest message can be later than the present time.
    let as_of = keys.first().map_or(now, |(latest, _)| now.max(*latest));
    let cursor = Cursor { before: (Timestamp::MAX, ConversationId(i64::MAX)), as_of, recent: BTreeSet::new() };
    Ok(Part { found, keys, more, cursor })
}

async fn later_part(conn: &mut Conn, person: UserId, size: usize, cursor: &Cursor) -> Result<Part> {
    let mut keys = keys_before(conn, person, size as i64 + 1, cursor).await?;
    keys.sort_unstable_by(|one, other| other.cmp(one));
    let more = keys.len() > size;
    keys.truncate(size);
    let ids: Vec<i64> = keys.iter().map(|(_, id)| id.0).collect();
    let found = store::conversations::listing::by_ids(conn, person, &ids).await?;
    Ok(Part { found, keys, more, cursor: cursor.clone() })
}

/// The places of the conversations after the cursor: at least as many as the page needs, in no particular order.
async fn keys_before(conn: &mut Conn, person: UserId, limit: i64, cursor: &Cursor) -> Result<Vec<Key>> {
    let (settled, as_of) = (cursor.settled(), cursor.as_of);
    let mut found = store::conversations::listing::active_before(conn, person, settled, cursor.before, limit).await?;
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
