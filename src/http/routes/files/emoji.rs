//! `/api/emoji`: the Unicode set and custom emoji.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::file_answer::{self, Confirmation, FileResponses};
use crate::domain::files::{custom_emoji, emoji_list};
use crate::http::access::policy::{Reader, Writer};
use crate::http::bodies::answers::{json, list, next_page, no_content, to_json};
use crate::http::bodies::emoji::{EmojiBody, listed, url};
use crate::http::bodies::extract::{JsonBody, Path, Query};
use crate::http::bodies::file_body::{announced_bytes, receive_raw};
use crate::http::bodies::parameters::{IdSchema, PageQuery};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// The usual size of an emoji in JSON, in bytes.
const EMOJI_BYTES: usize = 160;

/// Which emoji to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EmojiSearch {
    /// A prefix of a shortcode, or prefixes of keywords. Case is ignored, and so are colons around a shortcode.
    #[param(max_length = 64, example = "tad")]
    q: Option<String>,
}

/// Path parameter of a route about one custom emoji.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct EmojiPath {
    /// The name of the custom emoji, without colons. Case is ignored.
    #[param(max_length = 64, pattern = "^[A-Za-z0-9_-]+$", example = "party_parrot")]
    name: String,
}

/// Path parameter of the route of a picture.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct PicturePath {
    /// The id of the custom emoji.
    #[param(value_type = IdSchema, inline, example = 1)]
    id: i64,
}

/// Request body for renaming a custom emoji.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmojiRename {
    /// The new name, without colons.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_-]+$", example = "party_parrot")]
    name: String,
}

/// List emoji
///
/// The Unicode set and the custom emoji. Ordered by how often the caller has reacted with them, then by how well they match `q`, then
/// in the order of the Unicode standard, with the custom emoji last.
#[utoipa::path(
    get,
    path = "/api/emoji",
    tag = "emoji",
    params(EmojiSearch, PageQuery),
    responses((status = 200, description = "The emoji. `Link` has the path of the next page, if there is one.", body = Vec<EmojiBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/emoji?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_emoji(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    Query((search, page)): Query<(EmojiSearch, PageQuery)>,
) -> Result<Response, Problem> {
    let PageQuery { limit, cursor } = page;
    let page = emoji_list::list(&state.app, &principal, search.q.as_deref(), limit, cursor.as_deref()).await?;
    let bodies: Vec<EmojiBody<'_>> = page.entries.iter().map(EmojiBody::new).collect();
    let next = next_page(page.next, limit, search.q.map(|q| ("q", q)));
    Ok(list(to_json(&bodies, EMOJI_BYTES * bodies.len())?, uri.path(), next))
}

/// Add a custom emoji
///
/// The body is the picture: PNG, GIF or WebP of at most 256 KiB, and at most 1,024 pixels wide and high. For administrators, and with
/// `--custom-emoji everyone` for all users. The picture of an emoji cannot be changed.
#[utoipa::path(
    put,
    path = "/api/emoji/{name}",
    tag = "emoji",
    params(EmojiPath),
    request_body(content((Vec<u8> = "application/octet-stream"))),
    responses(
        (status = 201, description = "Added.", body = EmojiBody<'_>, headers(
            ("Location" = String, description = "The path of the picture."),
        )),
        (status = 200, description = "The caller has already added this emoji with this picture.", body = EmojiBody<'_>),
        (status = 409, description = "`emoji_name_taken`, `too_many_emoji`."),
        (status = 413, description = "`file_too_large`."),
        (status = 422, description = "`invalid_fields`, `unsupported_image_type`, `image_too_large`, `damaged_file`."),
        (status = 501, description = "`files_not_configured`."),
        (status = 507, description = "`storage_full`."),
    ),
)]
pub async fn put_emoji(
    State(state): State<HttpState>,
    Writer(principal): Writer,
    Path(EmojiPath { name }): Path<EmojiPath>,
    headers: HeaderMap,
    _query: Query<()>,
    body: Body,
) -> Result<Response, Problem> {
    let incoming = custom_emoji::begin(&state.app, &principal, &name, announced_bytes(&headers)).await?;
    let picture = receive_raw(incoming, &headers, body, state.settings.timeouts.body).await?;
    let (emoji, is_new) = custom_emoji::create(&state.app, &principal, &name, picture).await?;
    let location = url(emoji.id.0);
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = json(status, &EmojiBody::new(&listed(emoji)))?;
    if let Some(location) = HeaderValue::try_from(location).ok().filter(|_| is_new) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Rename a custom emoji
///
/// For administrators and, with `--custom-emoji everyone`, for the user who added it. Reactions with the emoji show the new name.
#[utoipa::path(
    patch,
    path = "/api/emoji/{name}",
    tag = "emoji",
    params(EmojiPath),
    request_body = EmojiRename,
    responses(
        (status = 200, description = "The renamed emoji.", body = EmojiBody<'_>),
        (status = 409, description = "`emoji_name_taken`."),
    ),
)]
pub async fn rename_emoji(
    State(state): State<HttpState>,
    Writer(principal): Writer,
    Path(EmojiPath { name }): Path<EmojiPath>,
    JsonBody { value: rename, .. }: JsonBody<EmojiRename>,
) -> Result<Response, Problem> {
    let emoji = custom_emoji::rename(&state.app, &principal, &name, &rename.name).await?;
    json(StatusCode::OK, &EmojiBody::new(&listed(emoji)))
}

/// Delete a custom emoji
///
/// For administrators and, with `--custom-emoji everyone`, for the user who added it. Reactions with the emoji stay.
#[utoipa::path(
    delete,
    path = "/api/emoji/{name}",
    tag = "emoji",
    params(EmojiPath),
    responses((status = 204, description = "Deleted.")),
)]
pub async fn delete_emoji(
    State(state): State<HttpState>,
    Writer(principal): Writer,
    Path(EmojiPath { name }): Path<EmojiPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    custom_emoji::delete(&state.app, &principal, &name).await?;
    Ok(no_content())
}

/// Get the picture of a custom emoji
///
/// It never changes. The picture of a deleted emoji is served while reactions show it.
#[utoipa::path(get, path = "/api/emoji/custom/{id}", tag = "emoji", params(PicturePath), responses(FileResponses))]
pub async fn get_emoji_picture(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    Path(PicturePath { id }): Path<PicturePath>,
    _query: Query<()>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let content = custom_emoji::content(&state.app, id).await?;
    let permission =
        file_answer::permission(&state, &headers, &principal, || std::future::ready(Confirmation::Confirmed))?;
    file_answer::answer(&state, &headers, &content, permission).await
}
