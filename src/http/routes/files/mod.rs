//! Routes of files: uploads, and the bytes of attachments.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::state::HttpState;

pub mod attachments;

/// The routes of this area.
pub fn routes() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(attachments::upload_attachment))
        .routes(routes!(attachments::get_attachment))
        .routes(routes!(attachments::get_thumbnail))
}
