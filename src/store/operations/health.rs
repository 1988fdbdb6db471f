//! Looking for damage: what `doctor` checks.
//!
//! Invariant: what is reported as checked was read. Comparing reads a batch at a time, so that no snapshot is held for long.

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
/// Damaged messages that are named; the others are counted.
const NAMED_LIMIT: usize = 5;

/// The first fault that SQLite finds in the structure of its file; `thorough` looks through indexes too. `None` when there is
/// no fault, and always on PostgreSQL, which looks after its own files.
pub async fn structure_fault(conn: &mut Conn, thorough: bool) -> Result<Option<String>> {
    let sql = match conn {
        Conn::Sqlite(_) if thorough => "PRAGMA integrity_check",
        Conn::Sqlite(_) => "PRAGMA quick_check",
        Conn::Postgres(_) => return Ok(None),
    };
    let verdict = conn.one(sql, &[], |row| Ok(row.text(0)?.to_owned())).await?;
    Ok((verdict != "ok").then_some(verdict))
}

/// How many conversations there are.
pub async fn count_conversations(conn: &mut Conn) -> Result<i64> {
    conn.one("SELECT count(*) FROM messaging.conversations", &[], |row| row.i64(0)).await
}

/// How many conversations lack some of their messages. Those that are about to be removed lose them from the first on.
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

/// How many messages are in no conversation.
pub async fn count_stray_messages(conn: &mut Conn) -> Result<i64> {
    conn.one(
        "SELECT count(*) FROM messaging.messages m
          WHERE NOT EXISTS (SELECT 1 FROM messaging.conversations c WHERE c.id = m.conversation_id)",
        &[],
        |row| row.i64(0),
    )
    .await
}

/// What is compared.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// The data that a server uses.
    Db(&'a Db),
    /// A backup, which is only read.
    File(&'a Path),
}

/// A source while it is read.
enum Reader<'a> {
    Db(&'a Db),
    File(Box<Conn>),
}

/// What comparing texts with their digests found.
#[derive(Debug, Default)]
pub struct Compared {
    /// Messages that match their digests.
    pub messages: u64,
    /// Earlier bodies of messages that match theirs.
    pub earlier_bodies: u64,
    /// Messages and earlier bodies that have no digest.
    pub without_digest: u64,
    /// Messages and earlier bodies that are damaged.
    pub damaged: u64,
    /// The first of the damaged ones, each as a sentence.
    pub named: Vec<String>,
}

/// Compares every message, and every earlier body, with its digest. `report` gets the number of rows read.
///
/// # Errors
/// Of the database.
pub async fn compare(source: Source<'_>, report: &mut (dyn FnMut(u64) + Send)) -> Result<Compared> {
    let mut reader = match source {
        Source::Db(db) => Reader::Db(db),
        Source::File(file) => Reader::File(Box::new(Conn::Sqlite(sqlite::file::open_to_read(file)?))),
    };
    let mut found = Compared::default();
    let mut rows_read = 0;
    let mut place = (ConversationId(i64::MIN), i64::MIN);
    loop {
        let batch = reader.messages_behind(place).await?;
        let Some((last, _)) = batch.last() else { break };
        place = further(place, *last)?;
        rows_read += batch.len() as u64;
        for (_, checked) in batch {
            found.messages += found.count(checked)?;
        }
        report(rows_read);
    }
    let mut place = (ConversationId(i64::MIN), i64::MIN, i64::MIN);
    loop {
        let batch = reader.editions_behind(place).await?;
        let Some((last, _)) = batch.last() else { break };
        place = further(place, *last)?;
        rows_read += batch.len() as u64;
        for (_, checked) in batch {
            found.earlier_bodies += found.count(checked)?;
        }
        report(rows_read);
    }
    Ok(found)
}

/// The last place of a batch. Damaged keys may lead back to rows that were read before, and so on without end.
fn further<T: PartialOrd>(before: T, last: T) -> Result<T> {
    if last > before { Ok(last) } else { Err(Error::internal("the rows are not in the order of their keys")) }
}

impl Compared {
    /// Counts one outcome; 1 for a match.
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
    async fn messages_behind(
        &mut self,
        place: (ConversationId, i64),
    ) -> Result<Vec<((ConversationId, i64), Result<Checked>)>> {
        match self {
            Self::Db(db) => {
                db.read(place, |conn, place| Box::pin(messages::each_behind(conn, *place, ROWS_PER_BATCH))).await
            }
            Self::File(conn) => messages::each_behind(conn, place, ROWS_PER_BATCH).await,
        }
    }

    async fn editions_behind(&mut self, place: EditionPlace) -> Result<Vec<(EditionPlace, Result<Checked>)>> {
        match self {
            Self::Db(db) => {
                db.read(place, |conn, place| Box::pin(edits::each_behind(conn, *place, ROWS_PER_BATCH))).await
            }
            Self::File(conn) => edits::each_behind(conn, place, ROWS_PER_BATCH).await,
        }
    }
}

/// Writes a row, to find out whether writing works. The value changes, because SQLite writes nothing where none does.
pub async fn probe_writing(conn: &mut Conn, now: Timestamp) -> Result<()> {
    conn.execute("UPDATE messaging.server_state SET write_probed_at = $1 WHERE id = 1", &[Value::Time(now)])
        .await
        .map(drop)
}

/// How many conversations disagree with their messages: what a wrong restore or a hand in the tables would break.
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

/// How many messages have counts that disagree with the reactions under them. The order of the emoji is that of their coming,
/// which nothing else tells.
pub async fn count_miscounted_messages(conn: &mut Conn) -> Result<i64> {
    // Each emoji stands in the counts with its number, and nothing else stands there: two words an emoji.
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
