//! Rows of `messaging.reports`.
//!
//! Invariant: a user can report a message only once.

use crate::base::error::Result;
use crate::base::ids::{ConversationId, ReportId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::columns::{columns, read, sql, word_column};
use crate::store::db::{Conn, words};
use crate::store::driver::values::Value;

/// The state of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not handled yet.
    Open,
    /// Handled, and something was done.
    Resolved,
    /// Handled, and nothing needed to be done.
    Dismissed,
}

impl State {
    const ALL: [Self; 3] = [Self::Open, Self::Resolved, Self::Dismissed];

    /// The word in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Resolved => "resolved",
            Self::Dismissed => "dismissed",
        }
    }

    /// The state with this word.
    ///
    /// # Errors
    /// [`Error::UnknownValue`](crate::base::error::Error::UnknownValue).
    pub fn parse(word: &str) -> Result<Self> {
        words::parse("reports.state", &Self::ALL, Self::as_str, word)
    }
}

/// A report: a message that a user has submitted to the administrators.
#[derive(Clone, Debug)]
pub struct Report {
    /// Assigned by the database.
    pub id: ReportId,
    /// The conversation of the message.
    pub conversation: ConversationId,
    /// The `seq` of the message.
    pub seq: i64,
    /// The user who reported it. `None` after that user was erased.
    pub reporter: Option<UserId>,
    /// The reason, as the reporter wrote it. Empty after the reporter was erased.
    pub reason: String,
    /// The state of the report.
    pub state: State,
    /// When it was reported.
    pub created_at: Timestamp,
    /// When it was handled.
    pub handled_at: Option<Timestamp>,
    /// The user who handled it.
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

/// Inserts a new, open report. Returns `None` when the user has already reported this message.
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

/// How many open reports a user has submitted.
pub async fn count_open(conn: &mut Conn, reporter: UserId) -> Result<i64> {
    conn.one(
        "SELECT count(*) FROM messaging.reports WHERE reporter_id = $1 AND state = 'open'",
        &[Value::I64(reporter.0)],
        |row| row.i64(0),
    )
    .await
}

/// Reports in a state, in the order of their ids, after `after`.
pub async fn list(conn: &mut Conn, state: State, after: ReportId, limit: i64) -> Result<Vec<Report>> {
    conn.rows(
        sql!("SELECT ", Report::COLUMNS, " FROM messaging.reports WHERE state = $1 AND id > $2 ORDER BY id LIMIT $3"),
        &[Value::Text(state.as_str()), Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// Sets the state of a report, and returns the changed report. `None` when the report does not exist.
pub async fn set_state(
    conn: &mut Conn,
    id: ReportId,
    state: State,
    handled_at: Option<Timestamp>,
    handled_by: Option<UserId>,
) -> Result<Option<Report>> {
    conn.first(
        sql!(
            "UPDATE messaging.reports
                SET state = $2, handled_at = CASE WHEN created_at > $3 THEN created_at ELSE $3 END, handled_by = $4
              WHERE id = $1 RETURNING ",
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

/// The reports that a user submitted, in the order of conversation and `seq`, after the place `after`.
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

/// Removes the id of a user from the reports that the user submitted, and the reasons that the user wrote.
pub async fn forget(conn: &mut Conn, reporter: UserId) -> Result<()> {
    conn.execute(
        "UPDATE messaging.reports SET reporter_id = NULL, reason = '' WHERE reporter_id = $1",
        &[Value::I64(reporter.0)],
    )
    .await?;
    Ok(())
}
