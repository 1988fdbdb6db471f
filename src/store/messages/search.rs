//! Rows of `messaging.search_entries`: the search index over the text of messages.
//!
//! Each message with text has one entry. The entry is a stream of terms: the words of the body with their positions, and
//! marks, for example for the conversation and the sender. A mark contains a colon, which no word does. SQLite indexes the
//! stream with FTS5, PostgreSQL as a tsvector with GIN. The dictionaries of the two databases are not used.
//!
//! Invariants: an entry is inserted, updated and deleted in the same transaction as its message, under the lock of the
//! conversation. Tombstones and system messages have no entry. The query of the index contains the marks of the
//! conversations that the viewer may see, so hits in other conversations are never read.

use std::time::Duration;

use super::messages::{self, Kind, Message, NewRow, Range};
use crate::base::error::Result;
use crate::base::ids::{ConversationId, MessageId, UserId};
use crate::base::terms;
use crate::base::time::Timestamp;
use crate::store::db::{Conn, Db, Row};
use crate::store::driver::values::Value;

/// Entries that a rebuild of the index inserts in one statement.
const ENTRIES_PER_STEP: i64 = 1_000;
/// Entries between two log lines that report the progress of a rebuild.
const ENTRIES_PER_REPORT: i64 = 100_000;
/// The three sizes of windows of ids, each with the letter of its marks. A number n means windows of 2 to the power of n
/// ids. See [`newest_postgres`].
const WINDOW_BITS: [(char, u32); 3] = [('u', 9), ('v', 13), ('w', 17)];
/// How many windows of each size are searched before the rest of the index.
const WINDOWS: [usize; 3] = [2, 2, 8];
/// Pages of FTS5 that are written in one step of a rewrite.
const MERGE_PAGES: i64 = 200;
/// How long merging the pending entries may take.
const MERGE_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest difference between the clocks of nodes on one database that a search by time allows for: one hour.
const CLOCK_SLACK_MICROS: i64 = 3_600_000_000;

/// The statements that create the index of SQLite.
pub(in crate::store) const SQLITE_TABLE: &str = include_str!("../../../migrations/0006_search.sqlite.sql");
/// The index of PostgreSQL. New entries wait in a pending list of at most 4,096 KiB, so that many of them are merged into
/// the index together. Merging them one by one would take longer than all other work of a send. [`sort_in`] keeps the list
/// short, because each search reads the whole list.
const POSTGRES_INDEX: &str = "CREATE INDEX search_entries_terms ON messaging.search_entries USING gin (terms)
                               WITH (fastupdate = on, gin_pending_list_limit = 4096)";

/// The mark of the conversation of a message.
pub fn conversation_mark(conversation: ConversationId) -> String {
    format!("c:{}", conversation.0)
}

/// The mark of a user as one of the two participants of a direct conversation.
pub fn participant_mark(person: UserId) -> String {
    format!("p:{}", person.0)
}

/// The mark of the sender of a message.
pub fn sender_mark(sender: UserId) -> String {
    format!("f:{}", sender.0)
}

/// The mark of a message with a link.
pub const LINK_MARK: &str = "h:link";
/// The mark of a message with an attachment.
pub const ATTACHMENT_MARK: &str = "h:attachment";

/// Terms that follow each other directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phrase {
    /// At least one term.
    pub terms: Vec<String>,
    /// Whether the last term is a prefix.
    pub prefix: bool,
}

/// A condition on entries. An entry must contain each phrase and each mark of `all`. Unless `any` is empty, it must also
/// contain at least one mark of `any`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expression {
    /// The phrases of words.
    pub phrases: Vec<Phrase>,
    /// Marks that an entry must have.
    pub all: Vec<String>,
    /// Marks of which an entry must have at least one.
    pub any: Vec<String>,
}

/// The range of messages that are searched, and the maximum number of hits. The newest hits are returned.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The smallest message id.
    pub least_id: i64,
    /// Ids must be below this one.
    pub before_id: i64,
    /// The earliest time of sending.
    pub since: Timestamp,
    /// Messages must be sent before this time.
    pub until: Timestamp,
    /// The greatest number of hits.
    pub limit: i64,
}

/// A message that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The id of the message.
    pub id: MessageId,
    /// The conversation of the message.
    pub conversation: ConversationId,
    /// The `seq` of the message.
    pub seq: i64,
}

fn hit(row: &Row<'_>) -> Result<Hit> {
    Ok(Hit { id: MessageId(row.i64(0)?), conversation: ConversationId(row.i64(1)?), seq: row.i64(2)? })
}

/// The marks of a message. `None` for a message that is not indexed.
fn marks(message: &Message) -> Option<Vec<String>> {
    if message.kind == Kind::System || message.deleted_at.is_some() {
        return None;
    }
    let mut marks = vec![conversation_mark(message.conversation_id), sender_mark(message.sender_id)];
    if let Some(recipient) = message.recipient_id {
        marks.push(participant_mark(message.sender_id));
        if recipient != message.sender_id {
            marks.push(participant_mark(recipient));
        }
    }
    if terms::has_link(&message.body) {
        marks.push(LINK_MARK.into());
    }
    if !message.attachments.list().is_empty() {
        marks.push(ATTACHMENT_MARK.into());
    }
    Some(marks)
}

/// The stream for FTS5, which splits it at spaces. A colon alone stands at the position of a term that is not indexed, so
/// that the later terms keep their positions.
fn sqlite_stream(message: &Message) -> Option<String> {
    let mut stream = marks(message)?.join(" ");
    for term in terms::places(&message.body) {
        stream.push(' ');
        stream.push_str(term.as_deref().unwrap_or(":"));
    }
    Some(stream)
}

/// The stream in the text form of a tsvector. Marks have no position.
pub(in crate::store) fn postgres_stream(message: &Message) -> Option<String> {
    use std::fmt::Write;
    let mut stream = String::with_capacity(message.body.len() * 2 + 64);
    let windows = WINDOW_BITS.map(|(letter, bits)| format!("{letter}:{}", message.id.0 >> bits));
    for mark in marks(message)?.iter().chain(&windows) {
        write!(stream, "'{mark}' ").ok()?;
    }
    for (place, term) in (1..).zip(terms::places(&message.body)) {
        if let Some(term) = term {
            write!(stream, "'{term}':{place} ").ok()?;
        }
    }
    Some(stream)
}

/// Indexes messages that are being appended. Only for SQLite. PostgreSQL does it in the statement that inserts the messages.
pub(in crate::store) async fn append(conn: &mut Conn, rows: &[NewRow<'_>]) -> Result<()> {
    for row in rows {
        insert_sqlite(conn, row.message).await?;
    }
    Ok(())
}

/// Whether the database has a list of pending entries. SQLite has none, because it merges entries when they are committed.
pub fn has_pending_entries(db: &Db) -> bool {
    matches!(db, Db::Postgres(_))
}

/// Merges the pending entries into the index of PostgreSQL, in a separate transaction that no request waits for.
pub async fn sort_in(db: &Db) -> Result<()> {
    db.execute_outside_transaction(
        "SELECT gin_clean_pending_list('messaging.search_entries_terms')",
        &[],
        MERGE_TIMEOUT,
    )
    .await
}

async fn insert_sqlite(conn: &mut Conn, message: &Message) -> Result<()> {
    let Some(stream) = sqlite_stream(message) else { return Ok(()) };
    conn.execute(
        "INSERT INTO messaging.search_entries (rowid, terms, conversation_id, seq, timestamp_sent)
         VALUES ($1, $2, $3, $4, $5)",
        &[
            Value::I64(message.id.0),
            Value::Text(&stream),
            Value::I64(message.conversation_id.0),
            Value::I64(message.seq),
            Value::Time(message.timestamp_sent),
        ],
    )
    .await?;
    Ok(())
}

async fn insert(conn: &mut Conn, messages: &[Message]) -> Result<()> {
    if let Conn::Sqlite(_) = conn {
        for message in messages {
            insert_sqlite(conn, message).await?;
        }
        return Ok(());
    }
    let streams: Vec<(&Message, String)> =
        messages.iter().filter_map(|message| Some((message, postgres_stream(message)?))).collect();
    if streams.is_empty() {
        return Ok(());
    }
    fn column<T>(rows: &[(&Message, String)], read: impl Fn(&Message) -> T) -> Vec<T> {
        rows.iter().map(|(message, _)| read(message)).collect()
    }
    conn.execute(
        "INSERT INTO messaging.search_entries (id, conversation_id, seq, timestamp_sent, terms)
         SELECT e.id, e.conversation_id, e.seq, e.timestamp_sent, e.terms::tsvector
           FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::text[])
                AS e (id, conversation_id, seq, timestamp_sent, terms)",
        &[
            Value::I64s(&column(&streams, |message| message.id.0)),
            Value::I64s(&column(&streams, |message| message.conversation_id.0)),
            Value::I64s(&column(&streams, |message| message.seq)),
            Value::Times(&column(&streams, |message| message.timestamp_sent)),
            Value::Texts(&streams.iter().map(|(_, stream)| stream.as_str()).collect::<Vec<_>>()),
        ],
    )
    .await?;
    Ok(())
}

/// Removes messages from the index.
pub async fn remove(conn: &mut Conn, ids: &[i64]) -> Result<()> {
    if let Conn::Sqlite(_) = conn {
        for id in ids {
            conn.execute("DELETE FROM messaging.search_entries WHERE rowid = $1", &[Value::I64(*id)]).await?;
        }
        return Ok(());
    }
    conn.execute("DELETE FROM messaging.search_entries WHERE id = ANY($1)", &[Value::I64s(ids)]).await?;
    Ok(())
}

/// Indexes messages of a conversation again after they were changed.
pub(in crate::store) async fn renew(conn: &mut Conn, conversation: ConversationId, seqs: &[i64]) -> Result<()> {
    let ranges: Vec<Range> =
        seqs.iter().map(|seq| Range { conversation_id: conversation, first_seq: *seq, last_seq: *seq }).collect();
    let messages = messages::in_ranges(conn, &ranges).await?;
    let ids: Vec<i64> = messages.iter().map(|message| message.id.0).collect();
    remove(conn, &ids).await?;
    insert(conn, &messages).await
}

/// The newest hits, newest first.
pub async fn newest(conn: &mut Conn, expression: &Expression, bounds: Bounds) -> Result<Vec<Hit>> {
    if bounds.least_id >= bounds.before_id || bounds.since >= bounds.until {
        return Ok(Vec::new());
    }
    if let Conn::Postgres(_) = conn {
        return newest_postgres(conn, expression, bounds).await;
    }
    conn.rows(
        "SELECT rowid, conversation_id, seq FROM messaging.search_entries
          WHERE search_entries MATCH $1 AND rowid >= $2 AND rowid < $3 AND timestamp_sent >= $4 AND timestamp_sent < $5
          ORDER BY rowid DESC LIMIT $6",
        &[
            Value::Text(&sqlite_query(expression)),
            Value::I64(bounds.least_id),
            Value::I64(bounds.before_id),
            Value::Time(bounds.since),
            Value::Time(bounds.until),
            Value::I64(bounds.limit),
        ],
        hit,
    )
    .await
}

/// Searches PostgreSQL from the newest messages to older ones. GIN returns hits in no order, so a query for a common word
/// would read all messages with that word. To avoid this, each entry has marks for the windows of ids that it belongs to.
/// Windows are searched from the newest on, small ones first, then larger ones. These windows span about a million ids. The
/// rest is searched in one query, because a word that has few hits in them is rare.
async fn newest_postgres(conn: &mut Conn, expression: &Expression, bounds: Bounds) -> Result<Vec<Hit>> {
    let newest = "SELECT coalesce(max(id), 0) FROM messaging.search_entries WHERE id < $1";
    let newest = conn.one(newest, &[Value::I64(bounds.before_id)], |row| row.i64(0)).await?;
    let mut bounds = Bounds { before_id: newest + 1, ..bounds };
    let query = postgres_query(expression);
    let mut hits: Vec<Hit> = Vec::new();
    for ((letter, bits), count) in WINDOW_BITS.into_iter().zip(WINDOWS) {
        for _ in 0..count {
            let window = (bounds.before_id - 1) >> bits;
            let least_id = bounds.least_id.max(window << bits);
            let in_window = format!("{query} & '{letter}:{window}'");
            let limit = bounds.limit - hits.len() as i64;
            hits.extend(query_postgres(conn, &in_window, Bounds { least_id, limit, ..bounds }).await?);
            bounds.before_id = least_id;
            if hits.len() as i64 == bounds.limit || bounds.least_id >= bounds.before_id {
                return Ok(hits);
            }
        }
    }
    let limit = bounds.limit - hits.len() as i64;
    hits.extend(query_postgres(conn, &query, Bounds { limit, ..bounds }).await?);
    Ok(hits)
}

async fn query_postgres(conn: &mut Conn, query: &str, bounds: Bounds) -> Result<Vec<Hit>> {
    // MATERIALIZED, so that the planner does not read the table in the order of ids to satisfy ORDER BY.
    conn.rows(
        "WITH found AS MATERIALIZED (
             SELECT id, conversation_id, seq, timestamp_sent FROM messaging.search_entries
              WHERE terms @@ $1::text::tsquery)
         SELECT id, conversation_id, seq FROM found
          WHERE id >= $2 AND id < $3 AND timestamp_sent >= $4 AND timestamp_sent < $5
          ORDER BY id DESC LIMIT $6",
        &[
            Value::Text(query),
            Value::I64(bounds.least_id),
            Value::I64(bounds.before_id),
            Value::Time(bounds.since),
            Value::Time(bounds.until),
            Value::I64(bounds.limit),
        ],
        hit,
    )
    .await
}

/// The query in the syntax of FTS5. Terms consist of letters and digits; marks also contain a colon. All of them are
/// quoted, so they contain no operators.
fn sqlite_query(expression: &Expression) -> String {
    let phrases = expression
        .phrases
        .iter()
        .map(|phrase| format!("\"{}\"{}", phrase.terms.join(" "), if phrase.prefix { " *" } else { "" }));
    let mut parts: Vec<String> = phrases.collect();
    parts.extend(expression.all.iter().map(|mark| format!("\"{mark}\"")));
    if !expression.any.is_empty() {
        let any: Vec<String> = expression.any.iter().map(|mark| format!("\"{mark}\"")).collect();
        parts.push(format!("({})", any.join(" OR ")));
    }
    parts.join(" AND ")
}

fn postgres_query(expression: &Expression) -> String {
    let phrases = expression.phrases.iter().map(|phrase| {
        let terms: Vec<String> = phrase.terms.iter().map(|term| format!("'{term}'")).collect();
        format!("({}{})", terms.join(" <-> "), if phrase.prefix { ":*" } else { "" })
    });
    let mut parts: Vec<String> = phrases.collect();
    parts.extend(expression.all.iter().map(|mark| format!("'{mark}'")));
    if !expression.any.is_empty() {
        let any: Vec<String> = expression.any.iter().map(|mark| format!("'{mark}'")).collect();
        parts.push(format!("({})", any.join(" | ")));
    }
    parts.join(" & ")
}

/// The smallest id from which on messages may have been sent at `at` or later, found by binary search. Ids rise with time,
/// except for differences between clocks and for messages that are being sent at the same moment; one hour is subtracted to
/// cover both.
pub async fn first_id_since(conn: &mut Conn, at: Timestamp) -> Result<i64> {
    id_at(conn, at.plus_micros(-CLOCK_SLACK_MICROS)).await
}

/// An id from which on no message was sent before `at`. It is found like [`first_id_since`], with one hour added.
pub async fn last_id_before(conn: &mut Conn, at: Timestamp) -> Result<i64> {
    id_at(conn, at.plus_micros(CLOCK_SLACK_MICROS)).await
}

async fn id_at(conn: &mut Conn, at: Timestamp) -> Result<i64> {
    let (mut before, mut behind) = match last_entry(conn).await? {
        Some(last) => (0, last + 1),
        None => return Ok(1),
    };
    // All entries up to the id `before` were sent before `at`. Entries from the id `behind` on were sent at `at` or later,
    // or do not exist.
    while behind - before > 1 {
        let middle = before + (behind - before) / 2;
        match entry_from(conn, middle).await? {
            Some((id, sent_at)) if id < behind => {
                if sent_at < at {
                    before = id;
                } else {
                    behind = middle;
                }
            }
            _ => behind = middle,
        }
    }
    Ok(behind)
}

async fn last_entry(conn: &mut Conn) -> Result<Option<i64>> {
    let sql = match conn {
        Conn::Sqlite(_) => "SELECT id FROM messaging.search_entries_content ORDER BY id DESC LIMIT 1",
        Conn::Postgres(_) => "SELECT id FROM messaging.search_entries ORDER BY id DESC LIMIT 1",
    };
    conn.first(sql, &[], |row| row.i64(0)).await
}

/// The first entry with this id or a larger one. On SQLite it is read from the ordinary table that FTS5 keeps beside its
/// index.
async fn entry_from(conn: &mut Conn, id: i64) -> Result<Option<(i64, Timestamp)>> {
    let sql = match conn {
        Conn::Sqlite(_) => "SELECT id, c3 FROM messaging.search_entries_content WHERE id >= $1 ORDER BY id LIMIT 1",
        Conn::Postgres(_) => {
            "SELECT id, timestamp_sent FROM messaging.search_entries WHERE id >= $1 ORDER BY id LIMIT 1"
        }
    };
    conn.first(sql, &[Value::I64(id)], |row| Ok((row.i64(0)?, row.time(1)?))).await
}

/// A group that a user may search.
#[derive(Clone, Copy, Debug)]
pub struct Searchable {
    /// The group.
    pub conversation: ConversationId,
    /// The id of the first message that the user sees. 0 when the user sees all messages.
    pub least_id: i64,
}

/// The groups of a user. If the user sees only messages sent after joining and there are none, `least_id` is larger than
/// every id.
pub async fn groups_of(conn: &mut Conn, person: UserId) -> Result<Vec<Searchable>> {
    conn.rows(
        "SELECT m.conversation_id,
                CASE WHEN c.history <> 'all' AND m.joined_seq > 0
                     THEN coalesce((SELECT s.id FROM messaging.messages s
                                     WHERE s.conversation_id = m.conversation_id AND s.seq > m.joined_seq
                                     ORDER BY s.seq LIMIT 1), 9223372036854775807)
                     ELSE 0 END
           FROM messaging.members m JOIN messaging.conversations c ON c.id = m.conversation_id
          WHERE m.user_id = $1 AND c.kind = 'group' AND c.deleted_at IS NULL
          ORDER BY m.conversation_id",
        &[Value::I64(person.0)],
        |row| Ok(Searchable { conversation: ConversationId(row.i64(0)?), least_id: row.i64(1)? }),
    )
    .await
}

/// The id of the first message of a conversation with this `seq` or a larger one. `None` when there is none.
pub async fn id_from(conn: &mut Conn, conversation: ConversationId, seq: i64) -> Result<Option<i64>> {
    conn.first(
        "SELECT id FROM messaging.messages WHERE conversation_id = $1 AND seq >= $2 ORDER BY seq LIMIT 1",
        &[Value::I64(conversation.0), Value::I64(seq)],
        |row| row.i64(0),
    )
    .await
}

/// Rebuilds the index from the messages. For migrations and restores, during which nothing else writes.
pub async fn rebuild(conn: &mut Conn) -> Result<()> {
    let order = match conn {
        Conn::Sqlite(_) => {
            conn.script(&format!("DROP TABLE IF EXISTS messaging.search_entries;\n{SQLITE_TABLE}")).await?;
            "DROP TABLE IF EXISTS temp.search_order;
             CREATE TEMP TABLE search_order (id INTEGER PRIMARY KEY, conversation_id BIGINT, seq BIGINT);
             INSERT INTO temp.search_order SELECT id, conversation_id, seq FROM messages ORDER BY id"
        }
        Conn::Postgres(_) => {
            conn.script("DROP INDEX IF EXISTS messaging.search_entries_terms; DELETE FROM messaging.search_entries")
                .await?;
            "CREATE TEMP TABLE search_order AS SELECT id, conversation_id, seq FROM messaging.messages;
             CREATE UNIQUE INDEX search_order_id ON search_order (id)"
        }
    };
    // Messages are indexed in the order of their ids, so that new entries are always added at the end.
    conn.script(order).await?;
    let (mut after, mut done) = (0, 0);
    loop {
        let places = conn
            .rows(
                "SELECT id, conversation_id, seq FROM search_order WHERE id > $1 ORDER BY id LIMIT $2",
                &[Value::I64(after), Value::I64(ENTRIES_PER_STEP)],
                hit,
            )
            .await?;
        let Some(last) = places.last() else { break };
        after = last.id.0;
        let ranges: Vec<Range> = places
            .iter()
            .map(|place| Range { conversation_id: place.conversation, first_seq: place.seq, last_seq: place.seq })
            .collect();
        let mut messages = messages::in_ranges(conn, &ranges).await?;
        messages.sort_unstable_by_key(|message| message.id);
        insert(conn, &messages).await?;
        done += places.len() as i64;
        if done % ENTRIES_PER_REPORT == 0 {
            tracing::info!(messages = done, "rebuilding the search index");
        }
    }
    if let Conn::Postgres(_) = conn {
        conn.script(POSTGRES_INDEX).await?;
        conn.script("ANALYZE messaging.search_entries").await?;
    }
    conn.script("DROP TABLE search_order").await
}

/// Like [`rebuild`], but does nothing when the index has entries. A backup of PostgreSQL contains no index.
pub async fn rebuild_missing(conn: &mut Conn) -> Result<()> {
    if last_entry(conn).await?.is_none() { rebuild(conn).await } else { Ok(()) }
}

/// Begins to rewrite the whole index of SQLite. Without a rewrite, the upper pages of the index can still contain the
/// beginnings of deleted words, which separate the lower pages from each other. This function inserts an entry that no
/// search finds, so that there is something to merge.
pub async fn begin_rewrite(conn: &mut Conn) -> Result<()> {
    if let Conn::Postgres(_) = conn {
        return Ok(());
    }
    remove(conn, &[-1]).await?;
    let sql = "INSERT INTO messaging.search_entries (rowid, terms) VALUES (-1, ':')";
    conn.execute(sql, &[]).await.map(drop)
}

/// Runs one step of the rewrite, and returns whether more steps are needed. `first` must be `true` for the first step.
pub async fn rewrite(conn: &mut Conn, first: bool) -> Result<bool> {
    if let Conn::Postgres(_) = conn {
        return Ok(false);
    }
    let changes = "SELECT total_changes()";
    let before = conn.one(changes, &[], |row| row.i64(0)).await?;
    let pages = if first { -MERGE_PAGES } else { MERGE_PAGES };
    let sql = "INSERT INTO messaging.search_entries (search_entries, rank) VALUES ('merge', $1)";
    conn.execute(sql, &[Value::I64(pages)]).await?;
    let after = conn.one(changes, &[], |row| row.i64(0)).await?;
    // According to the documentation of SQLite, a merge that had nothing to do changes this number by less than two.
    if after - before >= 2 {
        return Ok(true);
    }
    remove(conn, &[-1]).await?;
    Ok(false)
}
