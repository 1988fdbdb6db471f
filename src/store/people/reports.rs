//! Rows of `messaging.reports`.
//!
//! Invariant: a person reports a message once.

use crate::base::error::Result;
use crate::base::ids::{ConversationId, ReportId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::columns::{columns, read, sql, word_column};
use crate::store::db::{Conn, words};
use crate::store::driver::values::Value;

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has seen to it yet.
    Open,
    /// Something was done.
    Resolved,
    /// Nothing was to be done.
    Dismissed,
}

impl State {
    const ALL: [Self; 3] = [Self::Open, Self::Resolved, Self::Dismissed];

    /// As it stands in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Resolved => "resolved",
            Self::Dismissed => "dismissed",
        }
    }

    /// The state of a word.
    ///
    /// # Errors
    /// [`Error::UnknownValue`](crate::base::error::Error::UnknownValue).
    pub fn parse(word: &str) -> Result<Self> {
        words::parse("reports.state", &Self::ALL, Self::as_str, word)
    }
}

/// That somebody found a message wrong.
#[derive(Clone, Debug)]
pub struct Report {
    /// Given by the database.
    pub id: ReportId,
    /// Where the message is.
    pub conversation: ConversationId,
    /// Its place there.
    pub seq: i64,
    /// Who reported it; `None` when they were erased.
    pub reporter: Option<UserId>,
    /// Why, in their words; empty when they were erased.
    pub reason: String,
    /// What became of it.
    pub state: State,
    /// When it was reported.
    pub created_at: Timestamp,
    /// When somebody saw to it.
    pub handled_at: Option<Timestamp>,
    /// Who that was.
    pub handled_by: Option<UserId>,
}

word_column!(State);

columns! {
    Report {
        id: "id",
        conversation: "conversation_id",
        seq: "seq",
        reporter: "reporter_id",
        reason: "reason",
        state: "state",
        created_at: "created_at",
        handled_at: "handled_at",
        handled_by: "handled_by",
    }
}

/// A new report, which is open; `None` when this person has reported this message before.
pub async fn insert(
    conn: &mut Conn,
    conversation: ConversationId,
    seq: i64,
    reporter: UserId,
    reason: &str,
    now: Timestamp,
) -> Result<Option<Report>> {
    conn.first(
        sql!(
            "INSERT INTO messaging.reports (conversation_id, seq, reporter_id, reason, state, created_at)
             VALUES ($1, $2, $3, $4, 'open', $5) ON CONFLICT DO NOTHING RETURNING ",
            Report::COLUMNS
        ),
        &[Value::I64(conversation.0), Value::I64(seq), Value::I64(reporter.0), Value::Text(reason), Value::Time(now)],
        read,
    )
    .await
}

/// How many open reports somebody has made.
pub async fn count_open(conn: &mut Conn, reporter: UserId) -> Result<i64> {
    conn.one(
        "SELECT count(*) FROM messaging.reports WHERE reporter_id = $1 AND state = 'open'",
        &[Value::I64(reporter.0)],
        |row| row.i64(0),
    )
    .await
}

/// Reports in a state, by id, after `after`.
pub async fn list(conn: &mut Conn, state: State, after: ReportId, limit: i64) -> Result<Vec<Report>> {
    conn.rows(
        sql!("SELECT ", Report::COLUMNS, " FROM messaging.reports WHERE state = $1 AND id > $2 ORDER BY id LIMIT $3"),
        &[Value::Text(state.as_str()), Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// Gives a report another state; the report as it is then. `None` when there is none.
pub async fn set_state(
    conn: &mut Conn,
    id: ReportId,
    state: State,
    handled_at: Option<Timestamp>,
    handled_by: Option<UserId>,
) -> Result<Option<Report>> {
    conn.first(
        sql!(
            "UPDATE messaging.reports SET state = $2, handled_at = $3, handled_by = $4 WHERE id = $1 RETURNING ",
            Report::COLUMNS
        ),
        &[
            Value::I64(id.0),
            Value::Text(state.as_str()),
            Value::OptionTime(handled_at),
            Value::OptionI64(handled_by.map(|user| user.0)),
        ],
        read,
    )
    .await
}

/// Reports that somebody made, by conversation and seq, behind the place `after`.
pub async fn of_user(
    conn: &mut Conn,
    reporter: UserId,
    after: (ConversationId, i64),
    limit: i64,
) -> Result<Vec<Report>> {
    conn.rows(
        sql!(
            "SELECT ",
            Report::COLUMNS,
            " FROM messaging.reports WHERE reporter_id = $1 AND (conversation_id, seq) > ($2, $3)
              ORDER BY conversation_id, seq LIMIT $4"
        ),
        &[Value::I64(reporter.0), Value::I64(after.0.0), Value::I64(after.1), Value::I64(limit)],
        read,
    )
    .await
}

/// Takes somebody, and what they wrote, out of the reports that they made.
pub async fn forget(conn: &mut Conn, reporter: UserId) -> Result<()> {
    conn.execute(
        "UPDATE messaging.reports SET reporter_id = NULL, reason = '' WHERE reporter_id = $1",
        &[Value::I64(reporter.0)],
    )
    .await?;
    Ok(())
}
