//! `/api/admin/audit`: the audit log.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use crate::domain::identity::audit;
use crate::http::access::policy::Administrator;
use crate::http::bodies::answers::{list, next_page, to_json};
use crate::http::bodies::audit::AuditBody;
use crate::http::bodies::extract::Query;
use crate::http::bodies::parameters::PageQuery;
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// List the entries of the audit log
///
/// Ordered from the newest to the oldest.
#[utoipa::path(
    get,
    path = "/api/admin/audit",
    tag = "administration",
    params(PageQuery),
    responses((status = 200, description = "The entries. `Link` has the path of the next page, if there is one.", body = Vec<AuditBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/admin/audit?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_audit(
    State(state): State<HttpState>,
    _caller: Administrator,
    uri: Uri,
    Query(PageQuery { limit, cursor }): Query<PageQuery>,
) -> Result<Response, Problem> {
    let page = audit::list(&state.app, limit, cursor.as_deref()).await?;
    let bodies: Vec<AuditBody<'_>> = page.entries.iter().map(|(_, entry)| AuditBody::new(entry)).collect();
    Ok(list(to_json(&bodies, 200 * bodies.len())?, uri.path(), next_page(page.next, limit, [])))
}
