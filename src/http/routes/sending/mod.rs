//! Routes of scheduled messages.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::state::HttpState;

pub mod scheduled;

/// The routes of this area.
pub fn routes() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(scheduled::list_scheduled))
        .routes(routes!(scheduled::get_scheduled, scheduled::cancel_scheduled))
}
