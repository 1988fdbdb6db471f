//! Reading events from the event log. The log contains references only. The objects are loaded when an event is read,
//! so the event shows their current state. The exception is a message that this process sent in the last moments: its
//! event may show the message as it was sent (see [`recent_sends`](crate::domain::sending::recent_sends)).
//!
//! Invariants:
//! - The data of an event is the same for every reader.
//! - A cursor contains the epoch of its event log, so a cursor of another log is recognised.
//! - A reader who returns with a cursor gets every later event that they may see now, or `cursor_expired`.

use std::collections::{BTreeSet, HashMap};

use super::event_data::{Data, Event};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, MAX_ID, UserId};
use crate::base::time::Timestamp;
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::names::{self, Names};
use crate::domain::messages::message_reads::complete;
use crate::domain::messages::tallies;
use crate::store;
use crate::store::db::Conn;
pub use crate::store::events::event_kinds::EphemeralKind;
pub use crate::store::events::events::{EventLog, Kind, LogChunk, LoggedEvent};
use crate::store::messages::messages::Message;
use crate::store::messages::reactions::Tally;

/// Maximum number of positions that one read examines.
pub const CHUNK: i64 = 1_000;
/// Maximum number of events that one read returns to one reader.
const PAGE_LIMIT: i64 = 200;
/// The longest cursor. A longer one is rejected without parsing.
const MAX_CURSOR_BYTES: usize = 64;

/// A place in an event log: after the event at `position`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The epoch of the event log.
    pub epoch: String,
    /// The position of the last event before this place.
    pub position: i64,
}

impl Cursor {
    /// Parses a cursor that [`write`](Self::write) has returned.
    ///
    /// # Errors
    /// 422 `invalid_cursor` for the field `after`.
    pub fn read(text: &str) -> Result<Self> {
        let parse = || {
            let (epoch, position) = text.rsplit_once('-').filter(|_| text.len() <= MAX_CURSOR_BYTES)?;
            let hexadecimal = !epoch.is_empty() && epoch.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            let digits = !position.is_empty() && position.bytes().all(|byte| byte.is_ascii_digit());
            let position: i64 = position.parse().ok().filter(|position| *position <= MAX_ID)?;
            (hexadecimal && digits).then(|| Self { epoch: epoch.to_owned(), position })
        };
        let detail = "not a cursor of the event log; send the cursor of an event or of an answer unchanged";
        parse().ok_or_else(|| Error::invalid("after", "invalid_cursor", detail))
    }

    /// The text of a cursor, for callers.
    pub fn write(epoch: &str, position: i64) -> String {
        format!("{epoch}-{position}")
    }
}

/// The error for a cursor of another event log, and for a cursor after which events are missing because they were
/// deleted.
pub fn cursor_expired() -> Error {
    Error::Gone {
        code: "cursor_expired",
        detail: "The events after this cursor are no longer stored; load the current state again and start without a cursor",
    }
}

/// Events that were loaded with their data.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The events, by position.
    pub events: Vec<Event>,
    /// How many damaged messages were found.
    pub damaged: u64,
}

/// Loads the data of events. An event whose object no longer exists is left out, because nobody may see the object any
/// more. An event with a damaged row is left out too. Otherwise no reader would get the events after it.
///
/// # Errors
/// Errors of the database.
pub async fn load(conn: &mut Conn, log: &[LoggedEvent]) -> Result<Loaded> {
    let mut damaged = 0;
    let mut messages = messages_of(conn, log, &mut damaged).await?;
    let users = log.iter().flat_map(|logged| [Some(logged.actor_id), logged.subject_id]).flatten();
    let names = names::load(conn, users.collect()).await?;
    let name = |id: UserId| names.get(&id).cloned();
    let mut remaining_uses: HashMap<MessageKey, usize> = HashMap::new();
    for key in log.iter().filter(|logged| is_of_message(logged)).filter_map(message_key) {
        *remaining_uses.entry(key).or_default() += 1;
    }
    let mut events = Vec::with_capacity(log.len());
    for logged in log {
        let data = match logged.kind {
            Kind::MessageCreated | Kind::MessageUpdated | Kind::MessageDeleted => {
                let key = message_key(logged);
                let remaining = key.and_then(|key| remaining_uses.get_mut(&key));
                // Several events can refer to one message. The last of them moves it, the others clone it.
                let is_last = remaining.is_none_or(|remaining| {
                    *remaining -= 1;
                    *remaining == 0
                });
                let message =
                    key.and_then(|key| if is_last { messages.remove(&key) } else { messages.get(&key).cloned() });
                message.map(Data::Message)
            }
            _ => match data_of(conn, logged, &names).await {
                Err(error @ Error::UnknownValue { .. }) => {
                    tracing::error!(%error, position = logged.position, "an event with an unknown value is left out");
                    None
                }
                data => data?,
            },
        };
        if let Some(data) = data {
            let LoggedEvent { position, kind, at, conversation_id, actor_id, .. } = *logged;
            events.push(Event { position, kind, at, conversation_id, actor_user_name: name(actor_id), data });
        }
    }
    Ok(Loaded { events, damaged })
}

/// Loads the data of an event that does not refer to a message; `None` if the object no longer exists.
async fn data_of(conn: &mut Conn, logged: &LoggedEvent, names: &Names) -> Result<Option<Data>> {
    let name = |id: UserId| names.get(&id).cloned();
    let data = match logged.kind {
        Kind::MessageCreated | Kind::MessageUpdated | Kind::MessageDeleted => None,
        Kind::ReactionAdded | Kind::ReactionRemoved => reaction(conn, logged, name(logged.actor_id)).await?,
        Kind::ReceiptUpdated => match logged.conversation_id {
            Some(conversation) => {
                let watermarks = store::messages::receipts::watermarks_of(conn, conversation, logged.actor_id).await?;
                let user_name = name(logged.actor_id);
                watermarks.map(|watermarks| Data::Receipt { user_name, watermarks, at: logged.at })
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
    Ok(data)
}

/// A conversation and a `seq` in it.
type MessageKey = (ConversationId, i64);

fn message_key(logged: &LoggedEvent) -> Option<MessageKey> {
    logged.conversation_id.zip(logged.seq)
}

const fn is_of_message(logged: &LoggedEvent) -> bool {
    matches!(logged.kind, Kind::MessageCreated | Kind::MessageUpdated | Kind::MessageDeleted)
}

/// Loads the messages of events. Counts damaged messages in `damaged` and leaves them out.
async fn messages_of(
    conn: &mut Conn,
    log: &[LoggedEvent],
    damaged: &mut u64,
) -> Result<HashMap<MessageKey, Box<(Message, Names)>>> {
    let keys: Vec<MessageKey> = log.iter().filter(|logged| is_of_message(logged)).filter_map(message_key).collect();
    let mut messages = Vec::with_capacity(keys.len());
    for read in store::messages::messages::each_at(conn, &keys).await? {
        match read {
            Ok(message) => messages.push(message),
            // One damaged message must not keep all readers from the events after it.
            Err(error @ Error::Damaged { .. }) => {
                tracing::error!(%error, "an event with a damaged message is left out; run posthaste doctor --deep");
                *damaged += 1;
            }
            Err(error) => return Err(error),
        }
    }
    let names = complete(conn, &mut messages).await?;
    let with_names = |message: Message| {
        let users = [Some(message.sender_id), message.recipient_id, message.subject_id].into_iter().flatten();
        let users = users.chain(message.mentions.iter().copied());
        let own: Names = users.filter_map(|id| Some((id, names.get(&id)?.clone()))).collect();
        ((message.conversation_id, message.seq), Box::new((message, own)))
    };
    Ok(messages.into_iter().map(with_names).collect())
}

async fn conversation(conn: &mut Conn, logged: &LoggedEvent) -> Result<Option<Data>> {
    let Some(id) = logged.conversation_id else { return Ok(None) };
    let conversation = store::conversations::conversations::including_deleted(conn, id).await?;
    let deleted = || (logged.kind == Kind::ConversationDeleted).then_some(Data::Ended);
    Ok(conversation.map(|conversation| Data::Conversation(Box::new(conversation))).or_else(deleted))
}

async fn reaction(conn: &mut Conn, logged: &LoggedEvent, user_name: Option<String>) -> Result<Option<Data>> {
    let (Some((conversation, seq)), Some(emoji)) = (message_key(logged), logged.detail.clone()) else {
        return Ok(None);
    };
    let count = store::messages::reactions::count_of(conn, conversation, seq, &emoji).await?;
    let mut tally = Tally { emoji, custom: None, count, me: false };
    tallies::set_names_of(conn, &mut [&mut tally]).await?;
    Ok(Some(Data::Reaction { seq, tally, user_name }))
}

/// The result of [`read`].
#[derive(Debug)]
pub struct EventPage {
    /// The state of the event log at the time of the read.
    pub log: EventLog,
    /// The events that the reader may see.
    pub events: Vec<Event>,
    /// The position up to which the log was examined.
    pub up_to: i64,
}

/// Reads the events after `after` and up to `end` that the viewer may see: at most 200 events, from at most [`CHUNK`] positions.
///
/// # Errors
/// 410 `cursor_expired` if some of the events are no longer stored; errors of the database.
pub async fn read(app: &App, viewer: Viewer, after: i64, end: i64) -> Result<EventPage> {
    app.db
        .read((viewer, after, end), |conn, (viewer, after, end)| {
            Box::pin(async move {
                let log = store::events::events::log(conn).await?;
                let up_to = (*end).min(after + CHUNK).min(log.last_position);
                let chunk = match viewer {
                    Viewer::Person(user) => {
                        store::events::events::visible_between(conn, *user, *after, up_to, PAGE_LIMIT).await?
                    }
                    Viewer::Everything => store::events::events::between(conn, *after, up_to, PAGE_LIMIT).await?,
                };
                // Read again after the events, because some may have been deleted in between.
                let log =
                    EventLog { trimmed_position: store::events::events::log(conn).await?.trimmed_position, ..log };
                if log.trimmed_position > *after {
                    return Err(cursor_expired());
                }
                Ok((load(conn, &chunk.events).await?, log, chunk.up_to))
            })
        })
        .await
        .map(|(loaded, log, up_to)| EventPage { events: count_damaged(app, loaded), log, up_to })
}

/// Adds the damaged messages to the metric, and returns the events.
pub(in crate::domain) fn count_damaged(app: &App, loaded: Loaded) -> Vec<Event> {
    app.metrics.damaged_messages.inc_by(loaded.damaged);
    loaded.events
}

/// The current state of the event log.
///
/// # Errors
/// Errors of the database.
pub async fn log(app: &App) -> Result<EventLog> {
    app.db.read((), |conn, ()| Box::pin(store::events::events::log(conn))).await
}

/// The state of the event log, and the next events after a position: at most [`CHUNK`], without their data. Without a
/// position, there are no events.
///
/// # Errors
/// Errors of the database.
pub async fn tail(app: &App, after: Option<i64>) -> Result<(EventLog, LogChunk)> {
    app.db
        .read(after, |conn, after| {
            Box::pin(async move {
                let log = store::events::events::log(conn).await?;
                let chunk = match *after {
                    Some(after) if after < log.last_position => {
                        store::events::events::between(conn, after, log.last_position.min(after + CHUNK), CHUNK).await?
                    }
                    _ => LogChunk { events: Vec::new(), up_to: log.last_position },
                };
                Ok((log, chunk))
            })
        })
        .await
}

/// The current members of conversations, each with the `seq` after which they see messages.
///
/// # Errors
/// Errors of the database.
pub async fn audiences(app: &App, conversations: Vec<i64>) -> Result<Vec<(ConversationId, UserId, i64)>> {
    app.db
        .read(conversations, |conn, conversations| {
            Box::pin(store::conversations::members::audiences(conn, conversations))
        })
        .await
}

/// The members of a group at the moment `at`, when it was deleted.
///
/// # Errors
/// Errors of the database.
pub async fn last_members(app: &App, conversation: ConversationId, at: Timestamp) -> Result<BTreeSet<UserId>> {
    app.db
        .read((conversation, at), |conn, (conversation, at)| {
            Box::pin(store::events::events::last_members(conn, *conversation, *at))
        })
        .await
        .map(|members| members.into_iter().collect())
}

/// Loads the data of events. If a message is in `recent_sends`, it is taken from there, so its event shows it as it was
/// sent.
///
/// # Errors
/// Errors of the database.
pub async fn load_all(app: &App, log: Vec<LoggedEvent>) -> Result<Vec<Event>> {
    let (mut events, mut rest) = (Vec::with_capacity(log.len()), Vec::new());
    for logged in log {
        match app.recent_sends.take(&logged) {
            Some(event) => events.push(event),
            None => rest.push(logged),
        }
    }
    if !rest.is_empty() {
        let loaded = app.db.read(rest, |conn, log| Box::pin(load(conn, log))).await?;
        events.extend(count_damaged(app, loaded));
        events.sort_unstable_by_key(|event| event.position);
    }
    Ok(events)
}
