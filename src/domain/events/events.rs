//! What happened, from the log: references are looked up when an event is read, so it shows what is there now (but for a send that
//! is told at once, see `fresh`).
//!
//! Invariants: an event's data is the same for every reader; a cursor names the log it is of, so that none of another log is
//! taken for one of this; whoever comes back with a cursor gets every event behind it that they may see now, or is told that
//! it cannot be.

use std::collections::{BTreeSet, HashMap};

use super::event_data::{Data, Event};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, MAX_ID, UserId};
use crate::base::time::Timestamp;
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::names::{self, Names};
use crate::domain::messages::message_reads::complete;
use crate::store;
use crate::store::db::Conn;
pub use crate::store::events::events::{Kind, Log, Logged, Stretch};
use crate::store::messages::messages::Message;

/// Positions looked at in one read.
pub const CHUNK: i64 = 1_000;
/// Events of one read for one reader.
const PAGE: i64 = 200;
/// Characters of a cursor that is looked at at all.
const MAX_CURSOR_CHARACTERS: usize = 64;

/// A place in a log: behind the event at this position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Which log.
    pub epoch: String,
    /// Where.
    pub position: i64,
}

impl Cursor {
    /// Reads a cursor as [`write`](Self::write) wrote it.
    ///
    /// # Errors
    /// 422 on `after`.
    pub fn read(text: &str) -> Result<Self> {
        let read = || {
            let (epoch, position) = text.rsplit_once('-').filter(|_| text.len() <= MAX_CURSOR_CHARACTERS)?;
            let hexadecimal = !epoch.is_empty() && epoch.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            let digits = !position.is_empty() && position.bytes().all(|byte| byte.is_ascii_digit());
            let position: i64 = position.parse().ok().filter(|position| *position <= MAX_ID)?;
            (hexadecimal && digits).then(|| Self { epoch: epoch.to_owned(), position })
        };
        let detail = "not a cursor of the event log; send the cursor of an event or of an answer unchanged";
        read().ok_or_else(|| Error::invalid("after", "invalid_cursor", detail))
    }

    /// As callers get it.
    pub fn write(epoch: &str, position: i64) -> String {
        format!("{epoch}-{position}")
    }
}

/// Events behind the cursor are forgotten, or it is of another log.
pub fn cursor_expired() -> Error {
    Error::Gone {
        code: "cursor_expired",
        detail: "The events after this cursor are no longer stored; load the current state again and start without a cursor",
    }
}

/// Events with what they are about.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The events, by position.
    pub events: Vec<Event>,
    /// How many messages that they are about are damaged.
    pub damaged: u64,
}

/// Looks up what events are about. An event about something that is gone is left out: nobody sees it any more. So is an event
/// about a row that is damaged, or the events behind it would reach nobody.
///
/// # Errors
/// Of the database.
pub async fn load(conn: &mut Conn, log: &[Logged]) -> Result<Loaded> {
    let mut damaged = 0;
    let mut messages = messages_of(conn, log, &mut damaged).await?;
    let people = log.iter().flat_map(|logged| [Some(logged.actor_id), logged.subject_id]).flatten();
    let names = names::load(conn, people.collect()).await?;
    let name = |id: UserId| names.get(&id).cloned();
    let mut tellings: HashMap<Place, usize> = HashMap::new();
    for place in log.iter().filter(|logged| is_of_message(logged)).filter_map(place) {
        *tellings.entry(place).or_default() += 1;
    }
    let mut events = Vec::with_capacity(log.len());
    for logged in log {
        let data = match logged.kind {
            Kind::MessageCreated | Kind::MessageUpdated | Kind::MessageDeleted => {
                let place = place(logged);
                let left = place.and_then(|place| tellings.get_mut(&place));
                // The last telling takes it, those before it take copies.
                let last = left.is_none_or(|left| {
                    *left -= 1;
                    *left == 0
                });
                let found =
                    place.and_then(|place| if last { messages.remove(&place) } else { messages.get(&place).cloned() });
                found.map(Data::Message)
            }
            _ => match data_of(conn, logged, &names).await {
                Err(error @ Error::UnknownValue { .. }) => {
                    tracing::error!(%error, position = logged.position, "an event is left out");
                    None
                }
                found => found?,
            },
        };
        if let Some(data) = data {
            let Logged { position, kind, at, conversation_id, actor_id, .. } = *logged;
            events.push(Event { position, kind, at, conversation_id, actor_user_name: name(actor_id), data });
        }
    }
    Ok(Loaded { events, damaged })
}

/// What an event is about that is not about a message; `None` where that is gone.
async fn data_of(conn: &mut Conn, logged: &Logged, names: &Names) -> Result<Option<Data>> {
    let name = |id: UserId| names.get(&id).cloned();
    let found = match logged.kind {
        Kind::MessageCreated | Kind::MessageUpdated | Kind::MessageDeleted => None,
        Kind::ReactionAdded | Kind::ReactionRemoved => reaction(conn, logged, name(logged.actor_id)).await?,
        Kind::ReceiptUpdated => match logged.conversation_id {
            Some(conversation) => {
                let found = store::messages::receipts::watermarks_of(conn, conversation, logged.actor_id).await?;
                let user_name = name(logged.actor_id);
                found.map(|watermarks| Data::Receipt { user_name, watermarks, at: logged.at })
            }
            None => None,
        },
        Kind::ConversationCreated | Kind::ConversationUpdated | Kind::ConversationDeleted => {
            conversation(conn, logged).await?
        }
        Kind::MemberAdded | Kind::MemberUpdated | Kind::MemberRemoved => {
            match (logged.conversation_id, logged.subject_id) {
                (Some(conversation), Some(subject)) => {
                    let role = store::conversations::members::role_of(conn, conversation, subject).await?;
                    Some(Data::Member { user_name: name(subject), role })
                }
                _ => None,
            }
        }
        Kind::FriendRequested | Kind::FriendAccepted | Kind::FriendRemoved | Kind::UserUpdated => {
            let id = logged.subject_id.unwrap_or(logged.actor_id);
            store::identity::users::by_id(conn, id).await?.map(|user| Data::User(Box::new(user)))
        }
    };
    Ok(found)
}

type Place = (ConversationId, i64);

fn place(logged: &Logged) -> Option<Place> {
    logged.conversation_id.zip(logged.seq)
}

const fn is_of_message(logged: &Logged) -> bool {
    matches!(logged.kind, Kind::MessageCreated | Kind::MessageUpdated | Kind::MessageDeleted)
}

async fn messages_of(
    conn: &mut Conn,
    log: &[Logged],
    damaged: &mut u64,
) -> Result<HashMap<Place, Box<(Message, Names)>>> {
    let places: Vec<Place> = log.iter().filter(|logged| is_of_message(logged)).filter_map(place).collect();
    let mut messages = Vec::with_capacity(places.len());
    for read in store::messages::messages::each_at(conn, &places).await? {
        match read {
            Ok(message) => messages.push(message),
            // One damaged message must not keep everybody from the events behind it.
            Err(error @ Error::Damaged { .. }) => {
                tracing::error!(%error, "an event is left out: see posthaste doctor --deep");
                *damaged += 1;
            }
            Err(error) => return Err(error),
        }
    }
    let names = complete(conn, &mut messages).await?;
    let of = |message: Message| {
        let people = [Some(message.sender_id), message.recipient_id, message.subject_id].into_iter().flatten();
        let people = people.chain(message.mentions.iter().copied());
        let own: Names = people.filter_map(|id| Some((id, names.get(&id)?.clone()))).collect();
        ((message.conversation_id, message.seq), Box::new((message, own)))
    };
    Ok(messages.into_iter().map(of).collect())
}

async fn conversation(conn: &mut Conn, logged: &Logged) -> Result<Option<Data>> {
    let Some(id) = logged.conversation_id else { return Ok(None) };
    let found = store::conversations::conversations::even_ended(conn, id).await?;
    let gone = || (logged.kind == Kind::ConversationDeleted).then_some(Data::Ended);
    Ok(found.map(|found| Data::Conversation(Box::new(found))).or_else(gone))
}

async fn reaction(conn: &mut Conn, logged: &Logged, user_name: Option<String>) -> Result<Option<Data>> {
    let (Some((conversation, seq)), Some(emoji)) = (place(logged), logged.detail.clone()) else { return Ok(None) };
    let count = store::messages::reactions::count_of(conn, conversation, seq, &emoji).await?;
    Ok(Some(Data::Reaction { seq, emoji, user_name, count }))
}

/// The events behind a position that a reader may see, as far as one read looks.
#[derive(Debug)]
pub struct Read {
    /// What the log was then.
    pub log: Log,
    /// They.
    pub events: Vec<Event>,
    /// Up to where was looked.
    pub up_to: i64,
}

/// Reads events behind `after` and not behind `end`, at most a page of them, and at most [`CHUNK`] positions.
///
/// # Errors
/// 410 `cursor_expired` when some of them are forgotten; of the database.
pub async fn read(app: &App, viewer: Viewer, after: i64, end: i64) -> Result<Read> {
    app.db
        .read((viewer, after, end), |conn, (viewer, after, end)| {
            Box::pin(async move {
                let log = store::events::events::log(conn).await?;
                let up_to = (*end).min(after + CHUNK).min(log.last_position);
                let found = match viewer {
                    Viewer::Person(user) => {
                        store::events::events::visible_between(conn, *user, *after, up_to, PAGE).await?
                    }
                    Viewer::Everything => store::events::events::between(conn, *after, up_to, PAGE).await?,
                };
                // Asked again afterwards: what was forgotten while it was read is not in it.
                let log = Log { trimmed_position: store::events::events::log(conn).await?.trimmed_position, ..log };
                if log.trimmed_position > *after {
                    return Err(cursor_expired());
                }
                Ok((load(conn, &found.events).await?, log, found.up_to))
            })
        })
        .await
        .map(|(loaded, log, up_to)| Read { events: counted(app, loaded), log, up_to })
}

/// The events of a read, its damaged messages counted.
pub(in crate::domain) fn counted(app: &App, loaded: Loaded) -> Vec<Event> {
    app.metrics.damaged_messages.inc_by(loaded.damaged);
    loaded.events
}

/// The log as it is now.
///
/// # Errors
/// Of the database.
pub async fn log(app: &App) -> Result<Log> {
    app.db.read((), |conn, ()| Box::pin(store::events::events::log(conn))).await
}

/// The next events behind a position as they stand in the log, at most [`CHUNK`].
///
/// # Errors
/// Of the database.
pub async fn tail(app: &App, after: Option<i64>) -> Result<(Log, Stretch)> {
    app.db
        .read(after, |conn, after| {
            Box::pin(async move {
                let log = store::events::events::log(conn).await?;
                let stretch = match *after {
                    Some(after) if after < log.last_position => {
                        store::events::events::between(conn, after, log.last_position.min(after + CHUNK), CHUNK).await?
                    }
                    _ => Stretch { events: Vec::new(), up_to: log.last_position },
                };
                Ok((log, stretch))
            })
        })
        .await
}

/// Who is in some conversations now, each with the seq behind which they see messages.
///
/// # Errors
/// Of the database.
pub async fn audiences(app: &App, conversations: Vec<i64>) -> Result<Vec<(ConversationId, UserId, i64)>> {
    app.db
        .read(conversations, |conn, conversations| {
            Box::pin(store::conversations::members::audiences(conn, conversations))
        })
        .await
}

/// Who was in a group when it ended.
///
/// # Errors
/// Of the database.
pub async fn last_members(app: &App, conversation: ConversationId, at: Timestamp) -> Result<BTreeSet<UserId>> {
    app.db
        .read((conversation, at), |conn, (conversation, at)| {
            Box::pin(store::events::events::last_members(conn, *conversation, *at))
        })
        .await
        .map(|found| found.into_iter().collect())
}

/// [`load`] on a connection of its own. Of a send that was only now, what it had is taken: it shows what was sent.
///
/// # Errors
/// Of the database.
pub async fn load_all(app: &App, log: Vec<Logged>) -> Result<Vec<Event>> {
    let (mut events, mut rest) = (Vec::with_capacity(log.len()), Vec::new());
    for logged in log {
        match app.fresh.take(&logged) {
            Some(event) => events.push(event),
            None => rest.push(logged),
        }
    }
    if !rest.is_empty() {
        let loaded = app.db.read(rest, |conn, log| Box::pin(load(conn, log))).await?;
        events.extend(counted(app, loaded));
        events.sort_unstable_by_key(|event| event.position);
    }
    Ok(events)
}
