//! Rows of `messaging.search_entries`: the index of what was said.
//!
//! Each message with text has one entry, which is one stream of terms: the words of its body with their places, and marks
//! that say where it was said and by whom. A mark holds a colon, which no word does. SQLite indexes the stream with FTS5,
//! PostgreSQL as a tsvector with GIN; no dictionary of either is asked.
//!
//! Invariants: an entry is written, renewed and removed in the transaction that does so with its message, under the lock of
//! its conversation. Tombstones and system messages have none. Whose entries are looked at is said by marks inside the query
//! of the index: hits of others are never read.

use std::time::Duration;

use super::messages::{self, Kind, Message, NewRow, Range};
use crate::base::error::Result;
use crate::base::ids::{ConversationId, MessageId, UserId};
use crate::base::terms;
use crate::base::time::Timestamp;
use crate::store::db::{Conn, Db, Row};
use crate::store::driver::values::Value;

/// Entries that are made in one statement when the index is made anew.
const ENTRIES_PER_STEP: i64 = 1_000;
/// Entries between two words of progress.
const ENTRIES_PER_REPORT: i64 = 100_000;
/// Ids of a small window and of a large one, as powers of two: see [`newest_postgres`].
const WINDOW_BITS: [(char, u32); 3] = [('u', 9), ('v', 13), ('w', 17)];
/// Small windows, then larger ones, that are looked into before the whole index is.
const WINDOWS: [usize; 3] = [2, 2, 8];
/// Pages of FTS5 that are written in one step of a rewrite.
const MERGE_PAGES: i64 = 200;
/// How long entries may take to be sorted in.
const SORTING_TIMEOUT: Duration = Duration::from_secs(60);
/// How many clocks of one database may differ.
const CLOCK_SLACK_MICROS: i64 = 3_600_000_000;

/// The table of SQLite, to be made anew.
pub(in crate::store) const SQLITE_TABLE: &str = include_str!("../../../migrations/0006_search.sqlite.sql");
/// The index of PostgreSQL. New entries wait for it in a list of at most so many KiB, so that many are sorted in together:
/// one by one, they cost a send more than everything else. [`sort_in`] keeps the list short, which each search reads from end
/// to end.
const POSTGRES_INDEX: &str = "CREATE INDEX search_entries_terms ON messaging.search_entries USING gin (terms)
                               WITH (fastupdate = on, gin_pending_list_limit = 4096)";

/// Where a message is said to have been.
pub fn conversation_mark(conversation: ConversationId) -> String {
    format!("c:{}", conversation.0)
}

/// That somebody is one of the two of a direct conversation.
pub fn participant_mark(person: UserId) -> String {
    format!("p:{}", person.0)
}

/// By whom a message is.
pub fn sender_mark(sender: UserId) -> String {
    format!("f:{}", sender.0)
}

/// That there is a link in it.
pub const LINK_MARK: &str = "h:link";
/// That there is a file with it.
pub const ATTACHMENT_MARK: &str = "h:attachment";

/// Terms that stand one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phrase {
    /// At least one.
    pub terms: Vec<String>,
    /// Whether the last one is only how a term begins.
    pub prefix: bool,
}

/// What an entry must have to be found: each phrase, each mark of `all`, and one of `any` if there is any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expression {
    /// Words that are looked for.
    pub phrases: Vec<Phrase>,
    /// Marks.
    pub all: Vec<String>,
    /// Marks.
    pub any: Vec<String>,
}

/// Which of the entries that are found are wanted: the newest.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// This message, or one after it.
    pub least_id: i64,
    /// Before this message.
    pub before_id: i64,
    /// Sent then or later.
    pub since: Timestamp,
    /// Sent before.
    pub until: Timestamp,
    /// How many at most.
    pub limit: i64,
}

/// A message that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Which.
    pub id: MessageId,
    /// Where it was said.
    pub conversation: ConversationId,
    /// Its place there.
    pub seq: i64,
}

fn hit(row: &Row<'_>) -> Result<Hit> {
    Ok(Hit { id: MessageId(row.i64(0)?), conversation: ConversationId(row.i64(1)?), seq: row.i64(2)? })
}

/// What is indexed of a message; `None` where there is nothing to be found.
fn marks(message: &Message) -> Option<Vec<String>> {
    if message.kind == Kind::System || message.deleted_at.is_some() || message.body.is_empty() {
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
    Some(marks)
}

/// The stream as FTS5 cuts it: at spaces. A colon alone holds the place of a term that is not kept.
fn sqlite_stream(message: &Message) -> Option<String> {
    let mut stream = marks(message)?.join(" ");
    for term in terms::places(&message.body) {
        stream.push(' ');
        stream.push_str(term.as_deref().unwrap_or(":"));
    }
    Some(stream)
}

/// The stream as a tsvector is written; marks have no place.
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

/// Indexes messages that are being appended. On SQLite; PostgreSQL does it with the messages.
pub(in crate::store) async fn append(conn: &mut Conn, rows: &[NewRow<'_>]) -> Result<()> {
    for row in rows {
        insert_sqlite(conn, row.message).await?;
    }
    Ok(())
}

/// Whether new entries wait to be sorted in. SQLite's are sorted when they are committed.
pub fn entries_wait(db: &Db) -> bool {
    matches!(db, Db::Postgres(_))
}

/// Sorts the entries that wait into the index of PostgreSQL, in a transaction of its own: nothing waits for it.
pub async fn sort_in(db: &Db) -> Result<()> {
    db.alone("SELECT gin_clean_pending_list('messaging.search_entries_terms')", &[], SORTING_TIMEOUT).await
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

/// Takes messages out of the index.
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

/// Indexes messages of a conversation as they are now, after they were changed.
pub(in crate::store) async fn renew(conn: &mut Conn, conversation: ConversationId, seqs: &[i64]) -> Result<()> {
    let ranges: Vec<Range> =
        seqs.iter().map(|seq| Range { conversation_id: conversation, first_seq: *seq, last_seq: *seq }).collect();
    let messages = messages::in_ranges(conn, &ranges).await?;
    let ids: Vec<i64> = messages.iter().map(|message| message.id.0).collect();
    remove(conn, &ids).await?;
    insert(conn, &messages).await
}

/// The newest entries that are found, newest first.
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

/// GIN gives what it finds in no order: of a common word that would be everything that was ever said with it. So each entry
/// has marks for the windows of ids that it lies in, and the windows are looked into from the newest on, first small ones, then
/// larger ones, and what is left is looked for at once: what was not found often enough in a million messages is rare.
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
    // Materialised, so that the order does not tempt the planner into reading the table by id.
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

/// As FTS5 reads it. Terms hold letters and digits, and marks a colon: quoted, none of it is an operator.
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

/// The first id from which on something may have been sent at `at` or later, by halving: ids rise with the time, but for what
/// clocks differ and what was under way at the same moment.
pub async fn first_id_since(conn: &mut Conn, at: Timestamp) -> Result<i64> {
    id_at(conn, at.plus_micros(-CLOCK_SLACK_MICROS)).await
}

/// An id from which on nothing was sent before `at`, by halving likewise.
pub async fn last_id_before(conn: &mut Conn, at: Timestamp) -> Result<i64> {
    id_at(conn, at.plus_micros(CLOCK_SLACK_MICROS)).await
}

async fn id_at(conn: &mut Conn, at: Timestamp) -> Result<i64> {
    let (mut before, mut behind) = match last_entry(conn).await? {
        Some(last) => (0, last + 1),
        None => return Ok(1),
    };
    // Everything up to `before` was sent earlier; everything from `behind` on was not, or there is nothing.
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

/// The first entry with this id or a larger one. What FTS5 stores beside its index is an ordinary table.
async fn entry_from(conn: &mut Conn, id: i64) -> Result<Option<(i64, Timestamp)>> {
    let sql = match conn {
        Conn::Sqlite(_) => "SELECT id, c3 FROM messaging.search_entries_content WHERE id >= $1 ORDER BY id LIMIT 1",
        Conn::Postgres(_) => {
            "SELECT id, timestamp_sent FROM messaging.search_entries WHERE id >= $1 ORDER BY id LIMIT 1"
        }
    };
    conn.first(sql, &[Value::I64(id)], |row| Ok((row.i64(0)?, row.time(1)?))).await
}

/// A group as one of its members may search it.
#[derive(Clone, Copy, Debug)]
pub struct Searchable {
    /// Which.
    pub conversation: ConversationId,
    /// The id of the first message that they see; 0 where they see all.
    pub least_id: i64,
}

/// The groups of a person. Where they see only what came after them and nothing did, `least_id` is beyond every id.
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

/// The id of the first message of a conversation with this seq or a larger one; `None` while there is none.
pub async fn id_from(conn: &mut Conn, conversation: ConversationId, seq: i64) -> Result<Option<i64>> {
    conn.first(
        "SELECT id FROM messaging.messages WHERE conversation_id = $1 AND seq >= $2 ORDER BY seq LIMIT 1",
        &[Value::I64(conversation.0), Value::I64(seq)],
        |row| row.i64(0),
    )
    .await
}

/// Makes the index anew from the messages. For migrations and restores: nobody else writes meanwhile.
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
    // In the order of ids, in which both indexes grow at their ends alone.
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
            tracing::info!(messages = done, "the search index is being made");
        }
    }
    if let Conn::Postgres(_) = conn {
        conn.script(POSTGRES_INDEX).await?;
        conn.script("ANALYZE messaging.search_entries").await?;
    }
    conn.script("DROP TABLE search_order").await
}

/// [`rebuild`], where there is no index but there are messages: a backup of PostgreSQL brings none.
pub async fn rebuild_missing(conn: &mut Conn) -> Result<()> {
    if last_entry(conn).await?.is_none() { rebuild(conn).await } else { Ok(()) }
}

/// The first step of writing the whole index of SQLite anew: what told its old pages apart may be the beginning of words that
/// are in none of them any more. An entry that nobody finds sees to it that there is something to be merged.
pub async fn begin_rewrite(conn: &mut Conn) -> Result<()> {
    if let Conn::Postgres(_) = conn {
        return Ok(());
    }
    remove(conn, &[-1]).await?;
    let sql = "INSERT INTO messaging.search_entries (rowid, terms) VALUES (-1, ':')";
    conn.execute(sql, &[]).await.map(drop)
}

/// A further step; whether there is more to be done. `first` is the first of them.
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
    // SQLite's documentation: a merge with nothing to do counts as less than two changes.
    if after - before >= 2 {
        return Ok(true);
    }
    remove(conn, &[-1]).await?;
    Ok(false)
}
