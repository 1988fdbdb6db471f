//! The checks with which `posthaste doctor` searches for damage.
//!
//! Invariants: a row is reported as checked only after it was read. Rows are compared in batches, so that no snapshot stays
//! open for long.

use std::path::Path;

use crate::base::error::{Error, Result};
use crate::base::ids::ConversationId;
use crate::base::time::Timestamp;
use crate::store::db::{Conn, Db};
use crate::store::driver::values::Value;
use crate::store::messages::digests::Checked;
use crate::store::messages::edits::{self, EditionPlace};
use crate::store::messages::messages;
use crate::store::sqlite;

/// Rows that are compared in one read.
const ROWS_PER_BATCH: i64 = 1_000;
/// The maximum number of damaged rows that are described. Further ones are only counted.
const NAMED_LIMIT: usize = 5;

/// The first fault that SQLite finds in the structure of its file. `thorough` also checks the indexes. `None` when there is
/// no fault, and always on PostgreSQL, which checks its own files.
pub async fn structure_fault(conn: &mut Conn, thorough: bool) -> Result<Option<String>> {
    let sql = match conn {
        Conn::Sqlite(_) if thorough => "PRAGMA integrity_check",
        Conn::Sqlite(_) => "PRAGMA quick_check",
        Conn::Postgres(_) => return Ok(None),
    };
    let verdict = conn.one(sql, &[], |row| Ok(row.text(0)?.to_owned())).await?;
    Ok((verdict != "ok").then_some(verdict))
}

/// The number of conversations.
pub async fn count_conversations(conn: &mut Conn) -> Result<i64> {
    conn.one("SELECT count(*) FROM messaging.conversations", &[], |row| row.i64(0)).await
}

/// How many conversations lack some of their messages. Deleted conversations are not counted, because their messages are
/// being removed.
pub async fn count_incomplete_conversations(conn: &mut Conn) -> Result<i64> {
    conn.one(
        "SELECT count(*) FROM messaging.conversations c
          WHERE c.deleted_at IS NULL
            AND c.last_seq <> (SELECT count(*) FROM messaging.messages m WHERE m.conversation_id = c.id)",
        &[],
        |row| row.i64(0),
    )
    .await
}

/// How many messages belong to no conversation.
pub async fn count_stray_messages(conn: &mut Conn) -> Result<i64> {
    conn.one(
        "SELECT count(*) FROM messaging.messages m
          WHERE NOT EXISTS (SELECT 1 FROM messaging.conversations c WHERE c.id = m.conversation_id)",
        &[],
        |row| row.i64(0),
    )
    .await
}

/// The data to check.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// The database of a server.
    Db(&'a Db),
    /// A backup file, which is only read.
    File(&'a Path),
}

/// A source that is open for reading.
enum Reader<'a> {
    Db(&'a Db),
    File(Box<Conn>),
}

/// The result of comparing texts with their digests.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Messages that match their digests.
    pub messages: u64,
    /// Earlier bodies of messages that match their digests.
    pub earlier_bodies: u64,
    /// Messages and earlier bodies without a digest.
    pub without_digest: u64,
    /// Damaged messages and earlier bodies.
    pub damaged: u64,
    /// One sentence for each of the first damaged rows.
    pub named: Vec<String>,
}

/// Compares all messages and all earlier bodies with their digests. `report` is called with the number of rows read so far.
///
/// # Errors
/// Errors of the database.
pub async fn compare(source: Source<'_>, report: &mut (dyn FnMut(u64) + Send)) -> Result<Comparison> {
    let mut reader = match source {
        Source::Db(db) => Reader::Db(db),
        Source::File(file) => Reader::File(Box::new(Conn::Sqlite(sqlite::file::open_to_read(file)?))),
    };
    let mut found = Comparison::default();
    let mut rows_read = 0;
    let mut place = (ConversationId(i64::MIN), i64::MIN);
    loop {
        let batch = reader.messages_after(place).await?;
        let Some((last, _)) = batch.last() else { break };
        place = last_place(place, *last)?;
        rows_read += batch.len() as u64;
        for (_, checked) in batch {
            found.messages += found.count(checked)?;
        }
        report(rows_read);
    }
    let mut place = (ConversationId(i64::MIN), i64::MIN, i64::MIN);
    loop {
        let batch = reader.editions_after(place).await?;
        let Some((last, _)) = batch.last() else { break };
        place = last_place(place, *last)?;
        rows_read += batch.len() as u64;
        for (_, checked) in batch {
            found.earlier_bodies += found.count(checked)?;
        }
        report(rows_read);
    }
    Ok(found)
}

/// The last place of a batch. It must be after the previous place. Otherwise damaged keys could lead back to rows that were
/// already read, and the comparison would never end.
fn last_place<T: PartialOrd>(before: T, last: T) -> Result<T> {
    if last > before { Ok(last) } else { Err(Error::internal("the rows are not in key order")) }
}

impl Comparison {
    /// Counts one result. Returns 1 when the row matches its digest, so that the caller can count it by its kind.
    fn count(&mut self, checked: Result<Checked>) -> Result<u64> {
        match checked {
            Ok(Checked::Matches) => return Ok(1),
            Ok(Checked::NoDigest) => self.without_digest += 1,
            Err(error @ Error::Damaged { .. }) => {
                self.damaged += 1;
                if self.named.len() < NAMED_LIMIT {
                    self.named.push(error.to_string());
                }
            }
            Err(error) => return Err(error),
        }
        Ok(0)
    }
}

impl Reader<'_> {
    async fn messages_after(
        &mut self,
        place: (ConversationId, i64),
    ) -> Result<Vec<((ConversationId, i64), Result<Checked>)>> {
        match self {
            Self::Db(db) => {
                db.read(place, |conn, place| Box::pin(messages::list_after(conn, *place, ROWS_PER_BATCH))).await
            }
            Self::File(conn) => messages::list_after(conn, place, ROWS_PER_BATCH).await,
        }
    }

    async fn editions_after(&mut self, place: EditionPlace) -> Result<Vec<(EditionPlace, Result<Checked>)>> {
        match self {
            Self::Db(db) => {
                db.read(place, |conn, place| Box::pin(edits::list_after(conn, *place, ROWS_PER_BATCH))).await
            }
            Self::File(conn) => edits::list_after(conn, place, ROWS_PER_BATCH).await,
        }
    }
}

/// Writes a row, to test whether writing works. Each call writes another value, because SQLite writes nothing when no value
/// changes.
pub async fn probe_writing(conn: &mut Conn, now: Timestamp) -> Result<()> {
    conn.execute("UPDATE messaging.server_state SET write_probed_at = $1 WHERE id = 1", &[Value::Time(now)])
        .await
        .map(drop)
}

/// How many conversations have a `last_seq` that is not the highest `seq` of their messages, for example after a wrong
/// restore or a manual change of the tables.
pub async fn count_broken_conversations(conn: &mut Conn) -> Result<i64> {
    conn.one(
        "SELECT count(*) FROM messaging.conversations c
          WHERE c.last_seq <> coalesce((SELECT m.seq FROM messaging.messages m
                                         WHERE m.conversation_id = c.id ORDER BY m.seq DESC LIMIT 1), 0)",
        &[],
        |row| row.i64(0),
    )
    .await
}

/// How many messages have counts of reactions that differ from their rows in `messaging.reactions`. The order of the emoji
/// is not checked, because nothing else records when each emoji was first added.
pub async fn count_miscounted_messages(conn: &mut Conn) -> Result<i64> {
    // The stored counts are pairs of an emoji and its count. All parts are separated by one space.
    let under_messages = conn
        .one(
            "SELECT count(*) FROM (
                 SELECT r.conversation_id, r.seq
                   FROM (SELECT conversation_id, seq, emoji, count(*) AS count FROM messaging.reactions
                          GROUP BY conversation_id, seq, emoji) AS r
                   LEFT JOIN messaging.messages m ON m.conversation_id = r.conversation_id AND m.seq = r.seq
                  GROUP BY r.conversation_id, r.seq, m.reaction_counts
                 HAVING m.reaction_counts IS NULL
                     OR count(*) <> sum(CASE WHEN ' ' || m.reaction_counts || ' ' LIKE '% ' || r.emoji || ' ' || r.count || ' %'
                                             THEN 1 ELSE 0 END)
                     OR length(m.reaction_counts) - length(replace(m.reaction_counts, ' ', '')) <> 2 * count(*) - 1
                 ) AS miscounted",
            &[],
            |row| row.i64(0),
        )
        .await?;
    let without_any = conn
        .one(
            "SELECT count(*) FROM messaging.messages m
              WHERE m.reaction_counts IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM messaging.reactions r
                                 WHERE r.conversation_id = m.conversation_id AND r.seq = m.seq)",
            &[],
            |row| row.i64(0),
        )
        .await?;
    Ok(under_messages + without_any)
}
