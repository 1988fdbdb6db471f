//! The data of the benchmarks: the same users, conversations and messages in SQLite and in PostgreSQL.
//!
//! Invariant: the data is what a server would have written. Within a conversation, `id`, `seq` and `timestamp_sent` rise together,
//! and `seq` has no gaps. The columns `last_seq`, `last_sent_at` and `last_message_id` of a conversation are those of its newest
//! message.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::params;

use crate::process::{Context, Outcome};

#[path = "../tests/api/support/migrations.rs"]
mod migrations;

/// The version of the schema into which the data is written. The next server that starts upgrades it and builds the search index.
const FIRST_SCHEMA: i64 = 5;

/// Number of users. Their ids begin at 1.
pub const USERS: u64 = 1_000;
/// Each user has conversations with the next ten users and with the ten before: 20 conversations each.
const PARTNERS_AHEAD: u64 = 10;
/// Number of direct conversations. Their ids begin at 1.
pub const CONVERSATIONS: u64 = USERS * PARTNERS_AHEAD;
/// Number of further users, whose only conversation is the large group. Their ids follow those of the other users.
const EXTRAS: u64 = 9_000;
/// The id of a group of the first ten users.
pub const SMALL_GROUP: u64 = CONVERSATIONS + 1;
pub const SMALL_GROUP_MEMBERS: u64 = 10;
/// The id of a group of all ten thousand users, extras included.
pub const BIG_GROUP: u64 = CONVERSATIONS + 2;
/// Number of direct conversations that sends go to: the first one of each user, 1,000 of the 10,000.
pub const BUSY_CONVERSATIONS: u64 = USERS;
const BODY_BYTES: usize = 100;
/// The time between the first and the last message.
const SPREAD: Duration = Duration::from_secs(20 * 24 * 3600);
/// The age of the newest message when the data is generated.
const PAUSE_BEFORE_NOW: Duration = Duration::from_secs(60);
/// Number of messages that one statement inserts into PostgreSQL.
const CHUNK: usize = 10_000;

/// SplitMix64: small, fast and good enough for choosing rows.
pub struct Random(u64);

impl Random {
    /// A generator that returns the same numbers in every run.
    pub fn fixed(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator that returns different numbers in every run, so that idempotency keys never repeat.
    pub fn from_clock(stream: u64) -> Self {
        let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let mut mixed = Self(nanoseconds ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        Self(mixed.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Fills `place` with hexadecimal digits.
    pub fn write_hex(&mut self, place: &mut [u8]) {
        for sixteen in place.chunks_mut(16) {
            let mut bits = self.next();
            for digit in sixteen {
                *digit = b"0123456789abcdef"[(bits & 15) as usize];
                bits >>= 4;
            }
        }
    }
}

/// The name of the user with this id.
pub fn user_name(id: u64) -> String {
    format!("user{id:04}")
}

/// The ids of all users.
pub fn users() -> impl Iterator<Item = u64> {
    1..=USERS
}

/// The ids of the two members of a conversation.
pub fn members(conversation_id: u64) -> (u64, u64) {
    let user = (conversation_id - 1) / PARTNERS_AHEAD;
    let step = (conversation_id - 1) % PARTNERS_AHEAD + 1;
    (user + 1, (user + step) % USERS + 1)
}

/// The id and the number of members of each group. The members are the users with the lowest ids.
fn groups() -> [(i64, i64); 2] {
    [(SMALL_GROUP as i64, SMALL_GROUP_MEMBERS as i64), (BIG_GROUP as i64, (USERS + EXTRAS) as i64)]
}

/// The ids of the conversations that sends go to.
pub fn busy_conversations() -> impl Iterator<Item = u64> {
    (0..BUSY_CONVERSATIONS).map(|user| user * PARTNERS_AHEAD + 1)
}

/// A body of 100 characters.
pub fn body(random: &mut Random) -> String {
    const WORDS: [&str; 16] = [
        "hey", "are", "you", "coming", "to", "the", "meeting", "later", "today", "or", "shall", "we", "move", "it",
        "until", "tomorrow",
    ];
    let mut text = String::with_capacity(BODY_BYTES + 10);
    while text.len() < BODY_BYTES {
        text.push_str(WORDS[random.below(16) as usize]);
        text.push(' ');
    }
    text.truncate(BODY_BYTES - 1);
    text.push('.');
    text
}

struct Message {
    id: i64,
    conversation_id: i64,
    seq: i64,
    sent_at_us: i64,
    sender_id: i64,
    recipient_id: i64,
    body: String,
}

/// Generates the messages, oldest first. `newest` holds the newest message of each conversation so far.
struct History {
    random: Random,
    first_at_us: i64,
    step_us: i64,
    message_count: i64,
    next_id: i64,
    newest: Vec<Newest>,
}

#[derive(Clone, Copy)]
struct Newest {
    seq: i64,
    sent_at_us: i64,
    message_id: i64,
}

impl History {
    fn new(message_count: u64) -> Outcome<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("reading the clock")?;
        let first_at_us = (now - SPREAD - PAUSE_BEFORE_NOW).as_micros() as i64;
        let step_us = SPREAD.as_micros() as i64 / message_count.max(1) as i64;
        let nothing = Newest { seq: 0, sent_at_us: first_at_us, message_id: 0 };
        Ok(Self {
            random: Random::fixed(20),
            first_at_us,
            step_us,
            message_count: message_count as i64,
            next_id: 1,
            newest: vec![nothing; CONVERSATIONS as usize],
        })
    }

    fn conversations(&self) -> impl Iterator<Item = (i64, Newest)> {
        (1..).zip(self.newest.iter().copied())
    }

    fn next_chunk(&mut self) -> Option<Vec<Message>> {
        let chunk: Vec<Message> = self.by_ref().take(CHUNK).collect();
        (!chunk.is_empty()).then_some(chunk)
    }
}

impl Iterator for History {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        if self.next_id > self.message_count {
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        let index = self.random.below(CONVERSATIONS);
        let newest = &mut self.newest[index as usize];
        let sent_at_us = self.first_at_us + id * self.step_us;
        *newest = Newest { seq: newest.seq + 1, sent_at_us, message_id: id };
        let seq = newest.seq;
        let (one, other) = members(index + 1);
        let (sender, recipient) = if seq % 2 == 1 { (one, other) } else { (other, one) };
        Some(Message {
            id,
            conversation_id: index as i64 + 1,
            seq,
            sent_at_us,
            sender_id: sender as i64,
            recipient_id: recipient as i64,
            body: body(&mut self.random),
        })
    }
}

/// Fills an empty SQLite database whose schema the server has created. No server may have the database open. The schema is set
/// back to version 5, so the next server that starts upgrades it and builds the search index.
pub fn fill_sqlite(path: &Path, message_count: u64) -> Outcome<()> {
    let doing = format!("filling {}", path.display());
    let mut history = History::new(message_count)?;
    write_sqlite(path, &mut history).context(doing)
}

fn write_sqlite(path: &Path, history: &mut History) -> rusqlite::Result<()> {
    let mut database = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // All rows are written in one transaction, and the page cache holds the whole transaction. So each page is written once.
    database.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000;")?;
    let transaction = database.transaction()?;
    let start_us = history.first_at_us;
    {
        let mut insert = transaction.prepare(
            "INSERT INTO users (id, first_name, last_name, user_name, email, mfa, created_at, modified_at,
                 user_name_key, email_key, full_name_key, last_name_key)
             VALUES (?1, 'User', ?2, ?3, NULL, 0, ?4, ?4, ?3, NULL, 'user ' || ?2, ?2)",
        )?;
        for id in 1..=USERS + EXTRAS {
            insert.execute(params![id as i64, format!("{id:04}"), user_name(id), start_us])?;
        }
        let mut insert = transaction.prepare(
            "INSERT INTO messages (conversation_id, seq, id, timestamp_sent, kind, sender_id, recipient_id,
                 created_at, body) VALUES (?1, ?2, ?3, ?4, 'text', ?5, ?6, ?4, ?7)",
        )?;
        for message in history.by_ref() {
            let Message { id, conversation_id, seq, sent_at_us, sender_id, recipient_id, body } = message;
            insert.execute(params![conversation_id, seq, id, sent_at_us, sender_id, recipient_id, body])?;
        }
    }
    write_sqlite_conversations(&transaction, history)?;
    transaction.execute("DELETE FROM messaging_sequence", [])?;
    transaction.execute("INSERT INTO messaging_sequence (id, last_value) VALUES (1, ?1)", [history.message_count])?;
    let newest = transaction.query_row("SELECT max(version) FROM schema_migrations", [], |row| row.get(0))?;
    transaction.execute_batch(&back_to_first_schema(newest, "sqlite").replace("messaging.", ""))?;
    transaction.commit()?;
    database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    database.execute_batch("PRAGMA synchronous = FULL;")
}

/// Statements that set a schema of version `newest` back to [`FIRST_SCHEMA`].
fn back_to_first_schema(newest: i64, database: &str) -> String {
    let undone = (FIRST_SCHEMA + 1..=newest).rev().map(|version| migrations::undo(version, database));
    let forgotten = format!("DELETE FROM messaging.schema_migrations WHERE version > {FIRST_SCHEMA};");
    undone.chain([forgotten]).collect()
}

fn write_sqlite_conversations(transaction: &rusqlite::Transaction<'_>, history: &History) -> rusqlite::Result<()> {
    let start_us = history.first_at_us;
    let mut conversation = transaction.prepare(
        "INSERT INTO conversations (id, kind, created_at, created_by, last_seq, last_sent_at, last_message_id, member_count)
         VALUES (?1, 'direct', ?2, ?3, ?4, ?5, ?6, 2)",
    )?;
    let mut pair = transaction.prepare(
        "INSERT INTO direct_conversations (lower_user_id, higher_user_id, conversation_id) VALUES (?1, ?2, ?3)",
    )?;
    let mut member =
        transaction.prepare("INSERT INTO members (conversation_id, user_id, joined_at) VALUES (?1, ?2, ?3)")?;
    for (id, newest) in history.conversations() {
        let (one, other) = members(id as u64);
        let (one, other) = (one as i64, other as i64);
        let Newest { seq, sent_at_us, message_id } = newest;
        conversation.execute(params![id, start_us, one, seq, sent_at_us, message_id])?;
        pair.execute(params![one.min(other), one.max(other), id])?;
        member.execute(params![id, one, start_us])?;
        member.execute(params![id, other, start_us])?;
    }
    let mut group = transaction.prepare(
        "INSERT INTO conversations (id, kind, title, created_at, created_by, last_seq, last_sent_at, last_message_id,
             member_count)
         VALUES (?1, 'group', 'a group', ?2, 1, 0, ?2, 0, ?3)",
    )?;
    for (id, count) in groups() {
        group.execute(params![id, start_us, count])?;
        for user in 1..=count {
            member.execute(params![id, user, start_us])?;
        }
    }
    Ok(())
}

/// Fills an empty PostgreSQL database whose schema the server has created, and sets the schema back to version 5.
pub async fn fill_postgres(client: &mut tokio_postgres::Client, message_count: u64) -> Outcome<()> {
    let mut history = History::new(message_count)?;
    write_postgres(client, &mut history).await.map_err(|error| format!("filling PostgreSQL: {}", full_message(&error)))
}

/// The text of an error, and PostgreSQL's message, which tokio-postgres keeps in the source of the error.
pub fn full_message(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(database_error) => format!("{error}: {database_error}"),
        None => error.to_string(),
    }
}

async fn write_postgres(
    client: &mut tokio_postgres::Client,
    history: &mut History,
) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let start_at = at(history.first_at_us);
    transaction
        .execute(
            "INSERT INTO messaging.users (id, first_name, last_name, user_name, email, mfa, created_at, modified_at,
                 user_name_key, email_key, full_name_key, last_name_key)
             SELECT id, 'User', digits, 'user' || digits, NULL, false, $2, $2,
                 'user' || digits, NULL, 'user ' || digits, digits
             FROM (SELECT id, lpad(id::text, greatest(4, length(id::text)), '0') AS digits FROM generate_series(1, $1::bigint) AS id) AS numbered",
            &[&((USERS + EXTRAS) as i64), &start_at],
        )
        .await?;
    let insert = transaction
        .prepare(
            "INSERT INTO messaging.messages (conversation_id, seq, id, timestamp_sent, kind, sender_id, recipient_id,
                 created_at, body)
             SELECT conversation_id, seq, id, sent_at, 'text', sender_id, recipient_id, sent_at, body
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::bigint[], $6::bigint[],
                 $7::text[]) AS chunk (conversation_id, seq, id, sent_at, sender_id, recipient_id, body)",
        )
        .await?;
    while let Some(chunk) = history.next_chunk() {
        let column = |pick: fn(&Message) -> i64| chunk.iter().map(pick).collect::<Vec<i64>>();
        let sent_at: Vec<SystemTime> = chunk.iter().map(|message| at(message.sent_at_us)).collect();
        let bodies: Vec<&str> = chunk.iter().map(|message| message.body.as_str()).collect();
        let (conversation_ids, seqs) = (column(|message| message.conversation_id), column(|message| message.seq));
        let (senders, recipients) = (column(|message| message.sender_id), column(|message| message.recipient_id));
        let ids = column(|message| message.id);
        transaction
            .execute(&insert, &[&conversation_ids, &seqs, &ids, &sent_at, &senders, &recipients, &bodies])
            .await?;
    }
    write_postgres_conversations(&transaction, history).await?;
    transaction.commit().await
}

async fn write_postgres_conversations(
    transaction: &tokio_postgres::Transaction<'_>,
    history: &History,
) -> Result<(), tokio_postgres::Error> {
    let mut columns: [Vec<i64>; 5] = Default::default();
    let mut last_sent_at = Vec::new();
    for (id, newest) in history.conversations() {
        let (one, other) = members(id as u64);
        let row = [id, one as i64, other as i64, newest.seq, newest.message_id];
        columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
        last_sent_at.push(at(newest.sent_at_us));
    }
    let [ids, ones, others, last_seqs, last_message_ids] = columns;
    let start_at = at(history.first_at_us);
    transaction
        .execute(
            "INSERT INTO messaging.conversations (id, kind, created_at, created_by, last_seq, last_sent_at,
                 last_message_id, member_count)
             SELECT id, 'direct', $1, one, last_seq, last_sent_at, last_message_id, 2
             FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::bigint[])
                 AS rows (id, one, last_seq, last_sent_at, last_message_id)",
            &[&start_at, &ids, &ones, &last_seqs, &last_sent_at, &last_message_ids],
        )
        .await?;
    transaction
        .execute(
            "INSERT INTO messaging.direct_conversations (lower_user_id, higher_user_id, conversation_id)
             SELECT least(one, other), greatest(one, other), id
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS rows (id, one, other)",
            &[&ids, &ones, &others],
        )
        .await?;
    for user_ids in [&ones, &others] {
        transaction
            .execute(
                "INSERT INTO messaging.members (conversation_id, user_id, joined_at)
                 SELECT id, user_id, $1 FROM unnest($2::bigint[], $3::bigint[]) AS rows (id, user_id)",
                &[&start_at, &ids, user_ids],
            )
            .await?;
    }
    for (id, count) in groups() {
        transaction
            .execute(
                "INSERT INTO messaging.conversations (id, kind, title, created_at, created_by, last_seq, last_sent_at,
                     last_message_id, member_count)
                 VALUES ($1, 'group', 'a group', $2, 1, 0, $2, 0, $3)",
                &[&id, &start_at, &count],
            )
            .await?;
        transaction
            .execute(
                "INSERT INTO messaging.members (conversation_id, user_id, joined_at)
                 SELECT $1, user_id, $2 FROM generate_series(1, $3::bigint) AS user_id",
                &[&id, &start_at, &count],
            )
            .await?;
    }
    let newest = transaction.query_one("SELECT max(version) FROM messaging.schema_migrations", &[]).await?.get(0);
    transaction.batch_execute(&back_to_first_schema(newest, "postgres")).await?;
    transaction
        .execute(
            "SELECT setval('messaging.messaging_sequence', $1),
                 setval(pg_get_serial_sequence('messaging.users', 'id'), $2),
                 setval(pg_get_serial_sequence('messaging.conversations', 'id'), $3)",
            &[&history.message_count.max(1), &((USERS + EXTRAS) as i64), &(BIG_GROUP as i64)],
        )
        .await?;
    Ok(())
}

fn at(microseconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(microseconds as u64)
}
