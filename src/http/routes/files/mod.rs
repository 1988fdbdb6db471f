//! Routes of files: uploads, the bytes of attachments, emoji, and GIFs.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::state::HttpState;

pub mod attachments;
pub mod avatars;
pub mod emoji;
pub mod file_answer;
pub mod gifs;
pub mod links;
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
        .routes(routes!(links::create_link))
        .routes(routes!(links::get_linked_file))
        .routes(routes!(avatars::put_user_avatar, avatars::delete_user_avatar))
        .routes(routes!(avatars::put_group_avatar, avatars::delete_group_avatar))
        .routes(routes!(emoji::list_emoji))
        .routes(routes!(emoji::put_emoji, emoji::rename_emoji, emoji::delete_emoji))
        .routes(routes!(emoji::get_emoji_picture))
        .routes(routes!(gifs::search_gifs))
        .routes(routes!(gifs::list_trending_gifs))
        .routes(routes!(gifs::get_gif_preview))
        .routes(routes!(gifs::attach_gif))
        .routes(routes!(gifs::list_gifs, gifs::add_gif))
        .routes(routes!(gifs::delete_gif))
        .routes(routes!(gifs::delete_gif_pack))
}
