//! Rows of `messaging.events`, and the one row of `messaging.event_log` that numbers them.
//!
//! Invariant: positions are assigned in the last write of a transaction. The counter row stays locked until the commit, so
//! positions become visible in order, and a reader that has seen a position never finds a lower one later. On PostgreSQL
//! every statement that locks the row is sent together with its COMMIT, and the node does not wait for an answer in
//! between. So a node that fails does not leave the row locked. The exception is [`lock`], which only the creation of the
//! demo data uses.

pub use super::event_kinds::Kind;
use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;
use crate::store::postgres::Counter;

/// An event to be added to the event log. It refers to users, conversations and messages by their ids. Its only text is the
/// emoji of a reaction.
#[derive(Clone, Copy, Debug)]
pub struct NewEvent<'a> {
    /// The kind of the event.
    pub kind: Kind,
    /// The conversation; `None` for an event about users.
    pub conversation_id: Option<ConversationId>,
    /// The `seq` of the message, if the event is about one.
    pub seq: Option<i64>,
    /// The user who caused the event.
    pub actor_id: UserId,
    /// The user whom the event affects, if there is one.
    pub subject_id: Option<UserId>,
    /// The emoji, if the event is about a reaction.
    pub detail: Option<&'a str>,
    /// When it happened.
    pub at: Timestamp,
}

impl NewEvent<'_> {
    /// An event in a conversation.
    pub const fn of_conversation(kind: Kind, conversation: ConversationId, actor_id: UserId, at: Timestamp) -> Self {
        let conversation_id = Some(conversation);
        Self { kind, conversation_id, seq: None, actor_id, subject_id: None, detail: None, at }
    }

    /// An event between two users, outside conversations.
    pub const fn between(kind: Kind, actor_id: UserId, subject: UserId, at: Timestamp) -> Self {
        Self { kind, conversation_id: None, seq: None, actor_id, subject_id: Some(subject), detail: None, at }
    }

    /// Sets the message of the event.
    #[must_use]
    pub const fn message(self, seq: i64) -> Self {
        Self { seq: Some(seq), ..self }
    }

    /// Sets the user whom the event affects.
    #[must_use]
    pub const fn about(self, subject: UserId) -> Self {
        Self { subject_id: Some(subject), ..self }
    }
}

/// Adds events to the event log, in the given order. On PostgreSQL they get their positions with the COMMIT, even if the
/// unit of work runs other statements after this call. The events of several calls stay in the order of the calls.
pub async fn append(conn: &mut Conn, events: &[NewEvent<'_>]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    if let Conn::Postgres(connection) = conn {
        return queue(connection, events).await;
    }
    let count = events.len() as i64;
    let last = conn
        .one(
            "UPDATE messaging.event_log SET last_position = last_position + $1 RETURNING last_position",
            &[Value::I64(count)],
            |row| row.i64(0),
        )
        .await?;
    let first = last - count + 1;
    for (event, position) in events.iter().zip(first..) {
        conn.execute(
            "INSERT INTO messaging.events (position, type, conversation_id, seq, actor_id, subject_id, detail, at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            &[
                Value::I64(position),
                Value::Text(event.kind.as_str()),
                Value::OptionI64(event.conversation_id.map(|id| id.0)),
                Value::OptionI64(event.seq),
                Value::I64(event.actor_id.0),
                Value::OptionI64(event.subject_id.map(|id| id.0)),
                Value::OptionText(event.detail),
                Value::Time(event.at),
            ],
        )
        .await?;
    }
    Ok(())
}

async fn queue(connection: &mut crate::store::postgres::Conn, events: &[NewEvent<'_>]) -> Result<()> {
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    let conversations: Vec<Option<i64>> = events.iter().map(|event| event.conversation_id.map(|id| id.0)).collect();
    let seqs: Vec<Option<i64>> = events.iter().map(|event| event.seq).collect();
    let actors: Vec<i64> = events.iter().map(|event| event.actor_id.0).collect();
    let subjects: Vec<Option<i64>> = events.iter().map(|event| event.subject_id.map(|id| id.0)).collect();
    let details: Vec<Option<&str>> = events.iter().map(|event| event.detail).collect();
    let times: Vec<Timestamp> = events.iter().map(|event| event.at).collect();
    connection
        .queue(
            Counter::Events,
            // If the counter row is missing, the position is NULL, which the table refuses.
            "WITH log AS (
                 UPDATE messaging.event_log SET last_position = last_position + $1 WHERE id = 1 RETURNING last_position)
             INSERT INTO messaging.events (position, type, conversation_id, seq, actor_id, subject_id, detail, at)
             SELECT (SELECT last_position FROM log) - $1 + e.place, e.type, e.conversation_id, e.seq, e.actor_id,
                    e.subject_id, e.detail, e.at
               FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[],
                           $8::timestamptz[])
                    WITH ORDINALITY AS e (type, conversation_id, seq, actor_id, subject_id, detail, at, place)",
            &[
                Value::I64(events.len() as i64),
                Value::Texts(&kinds),
                Value::OptionI64s(&conversations),
                Value::OptionI64s(&seqs),
                Value::I64s(&actors),
                Value::OptionI64s(&subjects),
                Value::OptionTexts(&details),
                Value::Times(&times),
            ],
        )
        .await
}

/// Locks the counter row. No other transaction can add events until this one ends.
pub async fn lock(conn: &mut Conn) -> Result<()> {
    conn.one("SELECT id FROM messaging.event_log WHERE id = 1 FOR UPDATE", &[], |row| row.i64(0)).await?;
    Ok(())
}

/// The position of the newest event; 0 if there was none yet.
pub async fn last_position(conn: &mut Conn) -> Result<i64> {
    conn.one("SELECT last_position FROM messaging.event_log WHERE id = 1", &[], |row| row.i64(0)).await
}

/// The state of the event log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLog {
    /// The identity of the log. It changes when a backup is restored, because positions then refer to other events.
    pub epoch: String,
    /// The position of the newest event; 0 if there was none yet.
    pub last_position: i64,
    /// The position of the newest event that was deleted from the log; 0 if there was none yet.
    pub trimmed_position: i64,
}

/// The current state of the event log.
pub async fn log(conn: &mut Conn) -> Result<EventLog> {
    let sql = "SELECT epoch, last_position, trimmed_position FROM messaging.event_log WHERE id = 1";
    conn.one(sql, &[], |row| {
        Ok(EventLog { epoch: row.text(0)?.to_owned(), last_position: row.i64(1)?, trimmed_position: row.i64(2)? })
    })
    .await
}

/// An event as it is stored in the event log.
#[derive(Clone, Debug)]
pub struct LoggedEvent {
    /// The position in the event log.
    pub position: i64,
    /// The kind of the event.
    pub kind: Kind,
    /// The conversation; `None` for an event about users.
    pub conversation_id: Option<ConversationId>,
    /// The `seq` of the message, if the event is about one.
    pub seq: Option<i64>,
    /// The user who caused the event; 0 if the row has none.
    pub actor_id: UserId,
    /// The user whom the event affects, if there is one.
    pub subject_id: Option<UserId>,
    /// The emoji, if the event is about a reaction.
    pub detail: Option<String>,
    /// When it happened.
    pub at: Timestamp,
}

/// Consecutive events of the event log.
#[derive(Debug, Default)]
pub struct LogChunk {
    /// The events, by position.
    pub events: Vec<LoggedEvent>,
    /// The position up to which the log was read.
    pub up_to: i64,
}

impl LogChunk {
    /// Creates a chunk from `rows`, the first `limit` rows up to the position `up_to`. Events of a kind that only a later
    /// version knows are left out, but `up_to` passes them.
    fn new(rows: Vec<LogRow>, up_to: i64, limit: i64) -> Self {
        let cut = rows.last().filter(|_| rows.len() as i64 >= limit).map(|row| row.position);
        Self { events: rows.into_iter().filter_map(|row| row.logged).collect(), up_to: cut.unwrap_or(up_to) }
    }
}

/// A row of the event log.
struct LogRow {
    position: i64,
    /// `None` for an event of a kind that only a later version knows.
    logged: Option<LoggedEvent>,
}

columns! {
    LogRow {
        position: "e.position",
        kind: "e.type",
        conversation_id: "e.conversation_id",
        seq: "e.seq",
        actor_id: "e.actor_id",
        subject_id: "e.subject_id",
        detail: "e.detail",
        at: "e.at",
    } => {
        let actor_id = Option::unwrap_or(actor_id, UserId(0));
        let logged = Kind::parse(kind)
            .map(|kind| LoggedEvent { position, kind, conversation_id, seq, actor_id, subject_id, detail, at });
        LogRow { position, logged }
    }
}

/// The first `limit` events after the position `after` and up to `up_to`.
pub async fn between(conn: &mut Conn, after: i64, up_to: i64, limit: i64) -> Result<LogChunk> {
    let rows = conn
        .rows(
            sql!(
                "SELECT ",
                LogRow::COLUMNS,
                " FROM messaging.events e WHERE e.position > $1 AND e.position <= $2 ORDER BY e.position LIMIT $3"
            ),
            &[Value::I64(after), Value::I64(up_to), Value::I64(limit)],
            read,
        )
        .await?;
    Ok(LogChunk::new(rows, up_to, limit))
}

/// Like [`between`], with only the events that a user may see now. These are:
/// - events of the user's conversations; events about a message only if the user sees that message,
/// - events between the user and another user,
/// - changes of the name of any user,
/// - the removal of the user from a group, and the deletion of a group of which the user was a member until then.
///
/// This is the rule of `domain::events::audience::sees` in SQL. `tests/api/events/visibility.rs` compares the two.
pub async fn visible_between(conn: &mut Conn, user: UserId, after: i64, up_to: i64, limit: i64) -> Result<LogChunk> {
    let rows = conn
        .rows(
            // The query uses a count and not EXISTS. With an EXISTS under an OR, the database may choose a plan that reads
            // all former members.
            sql!(
                "SELECT ",
                LogRow::COLUMNS,
                " FROM messaging.events e
               LEFT JOIN messaging.members m ON m.conversation_id = e.conversation_id AND m.user_id = $3
               LEFT JOIN messaging.conversations c ON c.id = e.conversation_id
              WHERE e.position > $1 AND e.position <= $2
                AND ((e.conversation_id IS NULL AND (e.subject_id = $3 OR e.actor_id = $3 OR e.type = 'user.updated'))
                  OR (m.user_id IS NOT NULL AND (e.seq IS NULL OR c.history = 'all' OR e.seq > m.joined_seq))
                  OR (e.type = 'member.removed' AND e.subject_id = $3)
                  OR (e.type = 'conversation.deleted' AND 0 < (
                        SELECT count(*) FROM messaging.former_members f
                         WHERE f.user_id = $3 AND f.conversation_id = e.conversation_id AND f.left_at = e.at)))
              ORDER BY e.position LIMIT $4"
            ),
            &[Value::I64(after), Value::I64(up_to), Value::I64(user.0), Value::I64(limit)],
            read,
        )
        .await?;
    Ok(LogChunk::new(rows, up_to, limit))
}

/// The users who were members of a group when it was deleted. `at` is the time of the deletion.
pub async fn last_members(conn: &mut Conn, conversation: ConversationId, at: Timestamp) -> Result<Vec<UserId>> {
    conn.rows(
        "SELECT user_id FROM messaging.former_members WHERE conversation_id = $1 AND left_at = $2",
        &[Value::I64(conversation.0), Value::Time(at)],
        |row| row.i64(0).map(UserId),
    )
    .await
}

/// Deletes the oldest events, at most `limit`, that happened before a time. Returns how many were deleted.
pub async fn trim(conn: &mut Conn, before: Timestamp, limit: i64) -> Result<u64> {
    let EventLog { last_position, trimmed_position, .. } = log(conn).await?;
    let up_to = last_position.min(trimmed_position + limit);
    let range = [Value::I64(trimmed_position), Value::I64(up_to)];
    // The deletion ends before the first event that is new enough to stay. Later positions have later times, apart from
    // small differences between the clocks of nodes.
    let sql = "SELECT position, at FROM messaging.events WHERE position > $1 AND position <= $2 ORDER BY position";
    let rows = conn.rows(sql, &range, |row| Ok((row.i64(0)?, row.time(1)?))).await?;
    let last = match rows.iter().find(|(_, at)| *at >= before) {
        Some((position, _)) => position - 1,
        None => up_to,
    };
    if last <= trimmed_position {
        return Ok(0);
    }
    let range = [Value::I64(trimmed_position), Value::I64(last)];
    let removed = conn.execute("DELETE FROM messaging.events WHERE position > $1 AND position <= $2", &range).await?;
    let sql = "UPDATE messaging.event_log SET trimmed_position = $1 WHERE id = 1";
    match conn {
        Conn::Sqlite(_) => _ = conn.execute(sql, &[Value::I64(last)]).await?,
        Conn::Postgres(connection) => connection.queue(Counter::Events, sql, &[Value::I64(last)]).await?,
    }
    Ok(removed)
}
