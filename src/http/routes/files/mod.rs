//! Routes of files: uploads, and the bytes of attachments.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::state::HttpState;

pub mod attachments;
pub mod resumable_uploads;

/// The routes of this area.
pub fn routes() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(attachments::upload_attachment))
        .routes(routes!(attachments::get_attachment))
        .routes(routes!(attachments::get_thumbnail))
        .routes(routes!(resumable_uploads::create_upload))
        .routes(routes!(
            resumable_uploads::get_upload_offset,
            resumable_uploads::add_upload_part,
            resumable_uploads::delete_upload
        ))
}
