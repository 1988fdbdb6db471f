//! Reports: users report messages to the administrators, who decide about them.
//!
//! Invariants:
//! - A user can report a message once, if they may see it and have not sent it.
//! - Administrators see reported messages of every conversation.
//! - The audit log shows who decided about a report.

use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, ReportId, UserId};
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::audit::{self, Action, By};
use crate::domain::identity::names::Names;
use crate::domain::messages::message_reads::{complete_for, lock_visible, message_deleted};
use crate::domain::sending::drafts::check_text;
use crate::domain::shared::idempotency::{KeyedAnswer, Once};
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::store;
use crate::store::db::Conn;
use crate::store::messages::messages::Message;
pub use crate::store::people::reports::{Report, State};

/// Longest reason, in characters.
pub const MAX_REASON_CHARACTERS: usize = 1_000;
/// Maximum number of open reports of one user.
pub const MAX_OPEN_REPORTS: i64 = 1_000;
const LIST: &str = "reports";

/// A report as administrators see it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The report.
    pub report: Report,
    /// The message as it is now; `None` if its group was ended.
    pub message: Option<Message>,
}

struct NewReport {
    conversation: ConversationId,
    seq: i64,
    reporter: UserId,
    reason: String,
    once: Once<Report>,
    now: Timestamp,
}

/// Reports a message.
///
/// # Errors
/// 403 `act_as_required`; 404 `message_not_found`; 409 `already_reported`, `message_deleted`, `too_many_reports`; 422
/// for `reason`, and for `seq` if the message is the caller's own.
pub async fn report(
    app: &App,
    principal: &Principal,
    conversation: i64,
    seq: i64,
    reason: String,
    once: Once<Report>,
) -> Result<KeyedAnswer> {
    let reporter = principal.require_person()?.id;
    check_text("reason", &reason, MAX_REASON_CHARACTERS)?;
    let new =
        NewReport { conversation: ConversationId(conversation), seq, reporter, reason, once, now: app.clock.now() };
    app.db.write(new, |conn, new| Box::pin(insert_report(conn, new))).await
}

async fn insert_report(conn: &mut Conn, new: &NewReport) -> Result<KeyedAnswer> {
    if let Some(given) = new.once.given(conn, new.now).await? {
        return Ok(given);
    }
    // Locks the user, so that no report is stored for a user who is being erased.
    if store::identity::users::lock_shared(conn, &[new.reporter.0]).await?.is_empty() {
        return Err(Error::Unauthenticated);
    }
    let (_, message) = lock_visible(conn, Viewer::Person(new.reporter), new.conversation, new.seq).await?;
    if message.sender_id == new.reporter {
        return Err(Error::invalid("seq", "yourself", "must be a message of another user"));
    }
    if message.deleted_at.is_some() {
        return Err(message_deleted());
    }
    if store::people::reports::count_open(conn, new.reporter).await? >= MAX_OPEN_REPORTS {
        return Err(Error::Conflict {
            code: "too_many_reports",
            detail: format!("A user has at most {MAX_OPEN_REPORTS} open reports; wait until one is handled").into(),
        });
    }
    // A message is not reported before it was sent, even if the clock was set back.
    let at = new.now.max(message.timestamp_sent);
    let made = store::people::reports::insert(conn, new.conversation, new.seq, new.reporter, &new.reason, at).await?;
    let Some(made) = made else {
        let detail = "You have already reported this message".into();
        return Err(Error::Conflict { code: "already_reported", detail });
    };
    new.once.give(conn, new.now, &made, Some(new.reporter)).await
}

/// Lists the reports in one state, by id, with the names of the users in them.
///
/// # Errors
/// 422 if the cursor is invalid.
pub async fn list(
    app: &App,
    principal: &Principal,
    state: State,
    limit: Limit,
    cursor: Option<&str>,
) -> Result<(Page<Vec<Shown>>, Names)> {
    let after = ReportId(pagination::begin(LIST, cursor, 0)?);
    let input = (principal.viewer(), state, after, limit);
    let (shown, names) = app
        .db
        .read(input, |conn, (viewer, state, after, limit)| {
            Box::pin(async move {
                let reports = store::people::reports::list(conn, *state, *after, limit.to_read()).await?;
                show(conn, *viewer, reports).await
            })
        })
        .await?;
    Ok((Page::new(LIST, shown, limit, |last| [last.report.id.0]), names))
}

/// Sets the state of a report.
///
/// # Errors
/// 404 `report_not_found`.
pub async fn decide(app: &App, principal: &Principal, id: i64, state: State) -> Result<(Shown, Names)> {
    let by = By::principal(principal, app.clock.now());
    app.db.write((ReportId(id), state, by), |conn, (id, state, by)| Box::pin(set_state(conn, *id, *state, by))).await
}

async fn set_state(conn: &mut Conn, id: ReportId, state: State, by: &By) -> Result<(Shown, Names)> {
    let handled = state != State::Open;
    let handled_by = by.actor.filter(|_| handled);
    let report = store::people::reports::set_state(conn, id, state, handled.then_some(by.at), handled_by).await?;
    let report =
        report.ok_or_else(|| Error::NotFound { code: "report_not_found", detail: "Report not found".into() })?;
    // The audit entry has no subject. With the sender of the message as its subject, it would appear in the sender's
    // export.
    audit::record(conn, by, Action::ReportHandled, None, Some(format!("report {}: {}", id.0, state.as_str()))).await?;
    let (mut shown, names) = show(conn, by.actor.map_or(Viewer::Everything, Viewer::Person), vec![report]).await?;
    let shown = shown.pop().ok_or_else(|| Error::internal("a report disappeared during the transaction"))?;
    Ok((shown, names))
}

async fn show(conn: &mut Conn, viewer: Viewer, reports: Vec<Report>) -> Result<(Vec<Shown>, Names)> {
    let places: Vec<_> = reports.iter().map(|report| (report.conversation, report.seq)).collect();
    let mut messages = store::messages::messages::at(conn, &places).await?;
    let mut names = complete_for(conn, viewer, &mut messages).await?;
    let mut others: Vec<i64> = reports
        .iter()
        .flat_map(|report| [report.reporter, report.handled_by])
        .flatten()
        .filter(|id| !names.contains_key(id))
        .map(|id| id.0)
        .collect();
    others.sort_unstable();
    others.dedup();
    if !others.is_empty() {
        names.extend(store::identity::users::names_by_ids(conn, &others).await?);
    }
    let shown = reports
        .into_iter()
        .map(|report| {
            let place = (report.conversation, report.seq);
            let message = messages.iter().find(|message| (message.conversation_id, message.seq) == place).cloned();
            Shown { report, message }
        })
        .collect();
    Ok((shown, names))
}
