//! `/api/gifs`: searching GIFs, choosing one, and the GIFs of the server itself.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::attachments::render_created;
use super::file_answer::{self, Confirmation};
use crate::base::error::Error;
use crate::domain::access::principal::Principal;
use crate::domain::files::gif_packs::{self, NewGif, Rating};
use crate::domain::files::gifs::{self, PreviewSource};
use crate::domain::shared::idempotency::Once;
use crate::http::access::limits::LimitKey;
use crate::http::access::policy::{Administrator, PersonWriting, Reader};
use crate::http::bodies::answers::{given, json, list, next_page, no_content, to_json};
use crate::http::bodies::attachments::AttachmentBody;
use crate::http::bodies::extract::{Path, Query, idempotency_key};
use crate::http::bodies::file_body::{announced_bytes, receive_raw};
use crate::http::bodies::gifs::{GifBody, StoredGifBody};
use crate::http::bodies::parameters::{IdSchema, IdempotencyKeyHeader, PageQuery};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// The usual size of a GIF in JSON, in bytes.
const GIF_BYTES: usize = 300;

/// What to search.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct GifQuery {
    /// Words to search. Required.
    #[param(min_length = 1, max_length = 50, example = "ball")]
    q: Option<String>,
}

/// Path parameter of a route about one GIF that a search has found.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct GifPath {
    /// The id of the GIF.
    #[param(max_length = 128, example = "1")]
    id: String,
}

/// Path parameter of a route about one GIF of the server itself.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct StoredGifPath {
    /// The id of the GIF.
    #[param(value_type = IdSchema, inline, example = 1)]
    id: i64,
}

/// Path parameter of the route about a pack.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct PackPath {
    /// The name of the pack.
    #[param(max_length = 64, example = "party")]
    pack: String,
}

/// What is said about a new GIF.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct NewGifQuery {
    /// The name of the pack. Required.
    #[param(min_length = 1, max_length = 64, example = "party")]
    pack: Option<String>,
    /// What the GIF shows. Required.
    #[param(min_length = 1, max_length = 64, example = "Bouncing ball")]
    title: Option<String>,
    /// Further words by which it is found, separated by commas: at most 20 of at most 64 characters.
    #[param(max_length = 1300, example = "ball,jump")]
    tags: Option<String>,
    /// For which audience it is suitable: `g`, `pg`, `pg-13` or `r`. `g` if absent.
    #[param(pattern = "^(g|pg|pg-13|r)$", example = "g")]
    rating: Option<String>,
}

fn required(parameter: &'static str) -> Error {
    Error::invalid(parameter, "required", "required")
}

fn check_limit(state: &HttpState, principal: &Principal, key: fn(i64) -> LimitKey) -> Result<(), Problem> {
    let person = principal.person().map(|person| key(person.id.0));
    match person.and_then(|key| state.limits.check(key).problem()) {
        Some(problem) => Err(problem),
        None => Ok(()),
    }
}

/// Search GIFs
///
/// Asks the service that the operator has chosen, or searches the GIFs of this server. A service may give fewer entries than `limit`.
#[utoipa::path(
    get,
    path = "/api/gifs/search",
    tag = "gifs",
    params(GifQuery, PageQuery),
    responses(
        (status = 200, description = "The GIFs. `Link` has the path of the next page, if there is one.", body = Vec<GifBody<'_>>, headers(
            ("Link" = Option<String>, description = "`</api/gifs/search?…>; rel=\"next\"`"),
        )),
        (status = 501, description = "`gif_search_not_configured`."),
        (status = 503, description = "`gif_provider_unavailable`."),
    ),
)]
pub async fn search_gifs(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    Query((query, page)): Query<(GifQuery, PageQuery)>,
) -> Result<Response, Problem> {
    let q = query.q.ok_or_else(|| required("q"))?;
    listed(&state, &principal, uri.path(), Some(q), page).await
}

/// List popular GIFs
///
/// Those that are popular now in the service that the operator has chosen, or the newest GIFs of this server.
#[utoipa::path(
    get,
    path = "/api/gifs/trending",
    tag = "gifs",
    params(PageQuery),
    responses(
        (status = 200, description = "The GIFs. `Link` has the path of the next page, if there is one.", body = Vec<GifBody<'_>>, headers(
            ("Link" = Option<String>, description = "`</api/gifs/trending?…>; rel=\"next\"`"),
        )),
        (status = 501, description = "`gif_search_not_configured`."),
        (status = 503, description = "`gif_provider_unavailable`."),
    ),
)]
pub async fn list_trending_gifs(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    Query(page): Query<PageQuery>,
) -> Result<Response, Problem> {
    listed(&state, &principal, uri.path(), None, page).await
}

async fn listed(
    state: &HttpState,
    principal: &Principal,
    path: &str,
    q: Option<String>,
    PageQuery { limit, cursor }: PageQuery,
) -> Result<Response, Problem> {
    check_limit(state, principal, LimitKey::GifSearch)?;
    let page = gifs::search(&state.app, q.as_deref(), limit, cursor.as_deref()).await?;
    let bodies: Vec<GifBody<'_>> = page.entries.iter().map(GifBody::new).collect();
    let next = next_page(page.next, limit, q.map(|q| ("q", q)));
    Ok(list(to_json(&bodies, GIF_BYTES * bodies.len())?, path, next))
}

/// Get the preview of a GIF
///
/// A small version, or the GIF itself if it is one of this server.
#[utoipa::path(
    get,
    path = "/api/gifs/{id}/preview",
    tag = "gifs",
    params(GifPath),
    responses(
        (status = 200, description = "The preview.", content((Vec<u8> = "image/gif"), (Vec<u8> = "image/webp"))),
        (status = 206, description = "The part that `Range` asks for, of a GIF of this server.", content((Vec<u8> = "image/gif"), (Vec<u8> = "image/webp"))),
        (status = 304, description = "Not modified: the file still has the entity tag in `If-None-Match`."),
        (status = 410, description = "`file_lost`: the bytes of the file are missing."),
        (status = 416, description = "`range_not_satisfiable`."),
        (status = 501, description = "`gif_search_not_configured`."),
        (status = 503, description = "`gif_provider_unavailable`."),
    ),
)]
pub async fn get_gif_preview(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    Path(GifPath { id }): Path<GifPath>,
    _query: Query<()>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    check_limit(&state, &principal, LimitKey::GifPreview)?;
    match gifs::preview(&state.app, &id).await? {
        PreviewSource::Stored(content) => {
            let permission =
                file_answer::permission(&state, &headers, &principal, || std::future::ready(Confirmation::Confirmed))?;
            file_answer::answer(&state, &headers, &content, permission).await
        }
        PreviewSource::Remote(preview) => Ok(file_answer::small(preview.content_type, preview.bytes.clone())),
    }
}

/// Attach a GIF
///
/// Copies the GIF into an attachment of the caller, so that it stays when its service deletes it. A message holds it when its
/// `attachment_ids` contain the id.
#[utoipa::path(
    post,
    path = "/api/gifs/{id}/attach",
    tag = "gifs",
    params(GifPath, IdempotencyKeyHeader),
    responses(
        (status = 201, description = "The attachment.", body = AttachmentBody<'_>, headers(
            ("Location" = String, description = "The path of the file."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this is the stored answer to an earlier request with the same key."),
        )),
        (status = 413, description = "`file_too_large` or `file_quota_exceeded`."),
        (status = 501, description = "`gif_search_not_configured`, `files_not_configured`."),
        (status = 503, description = "`gif_provider_unavailable`."),
        (status = 507, description = "`storage_full`."),
    ),
)]
pub async fn attach_gif(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(GifPath { id }): Path<GifPath>,
    uri: Uri,
    _query: Query<()>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    check_limit(&state, &principal, LimitKey::GifSearch)?;
    let request = idempotency_key(&state.app, &headers, &principal, uri.path(), id.as_bytes())?;
    let once = Once { request, render: render_created, sealed: false };
    Ok(given(gifs::attach(&state.app, &principal, &id, once).await?))
}

/// List the GIFs of this server
///
/// Newest first.
#[utoipa::path(
    get,
    path = "/api/gifs",
    tag = "gifs",
    params(PageQuery),
    responses((status = 200, description = "The GIFs. `Link` has the path of the next page, if there is one.", body = Vec<StoredGifBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/gifs?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_gifs(
    State(state): State<HttpState>,
    Administrator(_principal): Administrator,
    uri: Uri,
    Query(PageQuery { limit, cursor }): Query<PageQuery>,
) -> Result<Response, Problem> {
    let page = gif_packs::list(&state.app, limit, cursor.as_deref()).await?;
    let bodies: Vec<StoredGifBody<'_>> = page.entries.iter().map(StoredGifBody::new).collect();
    Ok(list(to_json(&bodies, GIF_BYTES * bodies.len())?, uri.path(), next_page(page.next, limit, [])))
}

/// Add a GIF to this server
///
/// The body is the file: a GIF or a WebP image of at most 8 MiB. The search finds it with `--gif-provider local`.
#[utoipa::path(
    post,
    path = "/api/gifs",
    tag = "gifs",
    params(NewGifQuery),
    request_body(content((Vec<u8> = "application/octet-stream"))),
    responses(
        (status = 201, description = "Added.", body = StoredGifBody<'_>, headers(
            ("Location" = String, description = "The path of the GIF."),
        )),
        (status = 409, description = "`too_many_gifs`."),
        (status = 413, description = "`file_too_large`."),
        (status = 422, description = "`invalid_fields`, `unsupported_image_type`, `image_too_large`, `damaged_file`."),
        (status = 501, description = "`files_not_configured`."),
        (status = 507, description = "`storage_full`."),
    ),
)]
pub async fn add_gif(
    State(state): State<HttpState>,
    Administrator(principal): Administrator,
    Query(query): Query<NewGifQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let rating = match query.rating {
        None => Rating::G,
        Some(word) => Rating::ALL
            .into_iter()
            .find(|rating| rating.as_str() == word)
            .ok_or_else(|| Error::invalid("rating", "out_of_range", "must be g, pg, pg-13 or r"))?,
    };
    let pack = query.pack.ok_or_else(|| required("pack"))?;
    let title = query.title.ok_or_else(|| required("title"))?;
    let tags = query.tags.filter(|tags| !tags.is_empty());
    let tags = tags.map(|tags| tags.split(',').map(|tag| tag.trim().to_owned()).collect()).unwrap_or_default();
    let new = NewGif { pack, title, tags, rating };
    let incoming = gif_packs::begin(&state.app, &principal, &new, announced_bytes(&headers)).await?;
    let received = receive_raw(incoming, &headers, body, state.settings.timeouts.body).await?;
    let gif = gif_packs::create(&state.app, new, received).await?;
    let mut response = json(StatusCode::CREATED, &StoredGifBody::new(&gif))?;
    if let Ok(location) = HeaderValue::try_from(format!("/api/gifs/{}", gif.id.0)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Delete a GIF of this server
///
/// Attachments that were made of it stay.
#[utoipa::path(
    delete,
    path = "/api/gifs/{id}",
    tag = "gifs",
    params(StoredGifPath),
    responses((status = 204, description = "Deleted.")),
)]
pub async fn delete_gif(
    State(state): State<HttpState>,
    Administrator(_principal): Administrator,
    Path(StoredGifPath { id }): Path<StoredGifPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    gif_packs::delete(&state.app, id).await?;
    Ok(no_content())
}

/// Delete all GIFs of a pack
///
/// Attachments that were made of them stay.
#[utoipa::path(
    delete,
    path = "/api/gifs/packs/{pack}",
    tag = "gifs",
    params(PackPath),
    responses((status = 204, description = "Deleted.")),
)]
pub async fn delete_gif_pack(
    State(state): State<HttpState>,
    Administrator(_principal): Administrator,
    Path(PackPath { pack }): Path<PackPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    gif_packs::delete_pack(&state.app, &pack).await?;
    Ok(no_content())
}
