//! Routes of friends, presence, exports and reports.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::state::HttpState;

pub mod export;
pub mod friends;
pub mod presence;
pub mod reports;

/// The routes of this area.
pub fn routes() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(export::export_user))
        .routes(routes!(reports::report_message))
        .routes(routes!(reports::list_reports, reports::decide_report))
        .routes(routes!(friends::list_friends))
        .routes(routes!(friends::list_friend_requests))
        .routes(routes!(friends::put_friend, friends::delete_friend))
        .routes(routes!(friends::list_blocks))
        .routes(routes!(friends::put_block, friends::delete_block))
        .routes(routes!(presence::get_presence))
        .routes(routes!(presence::list_presence))
}
