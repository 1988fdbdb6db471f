//! Reporting messages, and `/api/admin/reports`: the reports for administrators.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::base::error::{Error, Result as DomainResult};
use crate::base::time::Timestamp;
use crate::domain::identity::names::Names;
use crate::domain::people::reports::{self, Report, Shown};
use crate::domain::shared::idempotency::{Once, StoredAnswer};
use crate::http::access::policy::{Administrator, PersonWriting};
use crate::http::bodies::answers::{given, json, list, next_page, to_json};
use crate::http::bodies::extract::{JsonBody, Path, Query, idempotency_key};
use crate::http::bodies::messages::MessageBody;
use crate::http::bodies::parameters::{IdempotencyKeyHeader, MessagePath, PageQuery};
use crate::http::bodies::problem::Problem;
use crate::http::bodies::reports::{ReportBody, ReportState};
use crate::http::state::HttpState;

/// Request body for reporting a message.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "This is spam."}))]
pub struct NewReport {
    /// The reason: 1 to 1,000 characters. U+0000 is refused.
    #[schema(min_length = 1, max_length = 1000, pattern = r"^[^\u0000]*$")]
    reason: String,
}

/// A report as administrators see it.
#[derive(Serialize, ToSchema)]
pub struct ReviewedReport<'a> {
    #[serde(flatten)]
    report: ReportBody<'a>,
    /// The user who made the report. Null after they were erased.
    #[schema(example = "bugs")]
    reporter_user_name: Option<&'a str>,
    /// The time of the decision.
    #[schema(value_type = Option<String>, format = DateTime)]
    handled_at: Option<Timestamp>,
    /// The administrator who decided. Null if an API key was used.
    handled_by_user_name: Option<&'a str>,
    /// The message in its present state. Null if its group was deleted.
    message: Option<MessageBody<'a>>,
}

impl<'a> ReviewedReport<'a> {
    fn new(shown: &'a Shown, names: &'a Names) -> Self {
        let name = |id| names.get(&id).map(String::as_str);
        Self {
            report: ReportBody::new(&shown.report),
            reporter_user_name: shown.report.reporter.and_then(name),
            handled_at: shown.report.handled_at,
            handled_by_user_name: shown.report.handled_by.and_then(name),
            message: shown.message.as_ref().map(|message| MessageBody::named(message, names)),
        }
    }
}

/// Report a message to the administrators
///
/// A user can report each message of another user once.
#[utoipa::path(
    post,
    path = "/api/conversations/{id}/messages/{seq}/report",
    tag = "messages",
    params(MessagePath, IdempotencyKeyHeader),
    request_body = NewReport,
    responses(
        (status = 201, description = "Reported.", body = ReportBody<'_>, headers(
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this is the stored answer to an earlier request with the same key."),
        )),
        (status = 409, description = "`already_reported`, `message_deleted`, `too_many_reports`."),
    ),
)]
pub async fn report_message(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    uri: Uri,
    headers: HeaderMap,
    Path(path): Path<MessagePath>,
    body: JsonBody<NewReport>,
) -> Result<Response, Problem> {
    let request = idempotency_key(&state.app, &headers, &principal, uri.path(), &body.bytes)?;
    let once = Once { request, render: render_created, sealed: false };
    let (conversation, seq) = (path.id, path.seq);
    Ok(given(reports::report(&state.app, &principal, conversation, seq, body.value.reason, once).await?))
}

fn render_created(report: &Report) -> DomainResult<StoredAnswer> {
    let body = serde_json::to_vec(&ReportBody::new(report)).map_err(Error::internal)?;
    Ok(StoredAnswer { status: StatusCode::CREATED.as_u16(), location: None, body })
}

/// Which reports to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ReportFilter {
    /// `open` if absent.
    #[serde(default)]
    state: ReportState,
}

/// List reports
///
/// Ordered by the id of the report, each with the reported message.
#[utoipa::path(
    get,
    path = "/api/admin/reports",
    tag = "administration",
    params(ReportFilter, PageQuery),
    responses((status = 200, description = "The reports. `Link` has the path of the next page, if there is one.", body = Vec<ReviewedReport<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/admin/reports?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_reports(
    State(state): State<HttpState>,
    Administrator(principal): Administrator,
    uri: Uri,
    Query((filter, page)): Query<(ReportFilter, PageQuery)>,
) -> Result<Response, Problem> {
    let PageQuery { limit, cursor } = page;
    let state_filter = filter.state.decision();
    let (page, names) = reports::list(&state.app, &principal, state_filter, limit, cursor.as_deref()).await?;
    let bodies: Vec<ReviewedReport<'_>> = page.entries.iter().map(|shown| ReviewedReport::new(shown, &names)).collect();
    let next = next_page(page.next, limit, [("state", state_filter.as_str().to_owned())]);
    Ok(list(to_json(&bodies, 1_024 * bodies.len())?, uri.path(), next))
}

/// Request body for deciding a report.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"id": 1, "state": "resolved"}))]
pub struct ReportDecision {
    /// The id of the report.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    id: i64,
    #[schema(inline)]
    state: ReportState,
}

/// Decide a report
///
/// Closes a report as `resolved` or `dismissed`. `open` takes a decision back.
#[utoipa::path(
    patch,
    path = "/api/admin/reports",
    tag = "administration",
    request_body = ReportDecision,
    responses(
        (status = 200, description = "The decided report.", body = ReviewedReport<'_>),
        (status = 404, description = "`report_not_found`."),
    ),
)]
pub async fn decide_report(
    State(state): State<HttpState>,
    Administrator(principal): Administrator,
    body: JsonBody<ReportDecision>,
) -> Result<Response, Problem> {
    let decision = body.value.state.decision();
    let (shown, names) = reports::decide(&state.app, &principal, body.value.id, decision).await?;
    json(StatusCode::OK, &ReviewedReport::new(&shown, &names))
}
