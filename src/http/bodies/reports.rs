//! The JSON form of reports for the users who made them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::time::Timestamp;
use crate::domain::people::reports::{Report, State};

/// The state of a report.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportState {
    /// Not decided yet.
    #[default]
    Open,
    /// An administrator has acted on it.
    Resolved,
    /// An administrator has decided that no action is needed.
    Dismissed,
}

impl ReportState {
    /// The corresponding value of the domain.
    pub const fn decision(self) -> State {
        match self {
            Self::Open => State::Open,
            Self::Resolved => State::Resolved,
            Self::Dismissed => State::Dismissed,
        }
    }
}

/// A report of a message, as the user who made it sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Report)]
pub struct ReportBody<'a> {
    #[schema(minimum = 1, example = 1)]
    id: i64,
    #[schema(minimum = 1, example = 1)]
    conversation_id: i64,
    #[schema(minimum = 1, example = 1)]
    seq: i64,
    /// Empty after the reporter was erased.
    #[schema(example = "This is spam.", max_length = 1000)]
    reason: &'a str,
    #[schema(inline, value_type = ReportState)]
    state: &'static str,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
}

impl<'a> ReportBody<'a> {
    /// The JSON form of a report.
    pub fn new(report: &'a Report) -> Self {
        Self {
            id: report.id.0,
            conversation_id: report.conversation.0,
            seq: report.seq,
            reason: &report.reason,
            state: report.state.as_str(),
            created_at: report.created_at,
        }
    }
}
