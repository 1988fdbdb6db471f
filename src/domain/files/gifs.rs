//! Searching GIFs, and turning a chosen one into an attachment.
//!
//! Invariant: a client gets every byte from this server, so a service does not learn the address of a user.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

use super::attachments::{self, Attachment, Content};
use super::gif_packs::{self, StoredGif};
use super::gif_provider::{Question, RemoteGif, Service, unavailable};
use super::gif_search::{GIF_TYPES, GifSearch, Preview, counted, gif_type, not_found};
use super::uploads::{self, Stated};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::domain::access::principal::Principal;
use crate::domain::shared::idempotency::{KeyedAnswer, Once};
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::media::{Inspected, Kind};

/// Maximum number of characters of a search.
pub const MAX_QUERY_CHARACTERS: usize = 50;
/// Maximum number of bytes of a GIF that becomes an attachment.
pub const MAX_FILE_BYTES: u64 = 16 * 1_024 * 1_024;
/// Maximum time of a search and of a preview, with all requests to the service.
const TIMEOUT: Duration = Duration::from_secs(9);
/// The last page that is asked of a service.
const MAX_PAGE: i64 = 100;
/// Most GIFs on a page of a service.
const MAX_SERVICE_LIMIT: usize = 50;
/// The name of the list of a service in cursors.
const LIST: &str = "remote_gifs";

/// A GIF that a search has found.
#[derive(Clone, Debug)]
pub enum Gif {
    /// One of this server.
    Stored(StoredGif),
    /// One of a service.
    Remote(Service, RemoteGif),
}

fn search_of(app: &App) -> Result<&GifSearch> {
    app.gifs.as_ref().ok_or(Error::NotConfigured {
        code: "gif_search_not_configured",
        detail: "This server has no search for GIFs; the operator can set --gif-provider",
    })
}

/// Finds GIFs. Without `q`, GIFs that are popular now or, on a server with its own GIFs, the newest ones.
///
/// # Errors
/// 422 for `q` and `cursor`; 501 `gif_search_not_configured`; 503 `gif_provider_unavailable`.
pub async fn search(app: &App, q: Option<&str>, limit: Limit, cursor: Option<&str>) -> Result<Page<Vec<Gif>>> {
    let search = search_of(app)?;
    if q.is_some_and(|q| q.trim().is_empty() || q.chars().count() > MAX_QUERY_CHARACTERS) {
        let detail = format!("must have 1 to {MAX_QUERY_CHARACTERS} characters");
        return Err(Error::invalid("q", "out_of_range", detail));
    }
    let Some(remote) = &search.remote else {
        let page = match q {
            Some(q) => gif_packs::search(app, q, search.rating, limit, cursor).await?,
            None => gif_packs::newest(app, search.rating, limit, cursor).await?,
        };
        return Ok(Page { entries: page.entries.into_iter().map(Gif::Stored).collect(), next: page.next });
    };
    let limit = limit.get().min(MAX_SERVICE_LIMIT);
    // The number of entries belongs to the place, because a service counts pages.
    let (page, limit) = match cursor {
        None => (0, limit),
        Some(cursor) => {
            let [page, entries] = pagination::decode_cursor(LIST, cursor)?;
            (page.clamp(0, MAX_PAGE), usize::try_from(entries).unwrap_or(limit).clamp(1, MAX_SERVICE_LIMIT))
        }
    };
    let question = Question { q: q.map(normalized), page, limit };
    let found = in_time(remote.list(&app.metrics, app.clock.now(), question)).await?;
    let service = remote.provider.settings.service;
    let entries = found.gifs.iter().cloned().map(|gif| Gif::Remote(service, gif)).collect();
    let place = [page + 1, i64::try_from(limit).unwrap_or_default()];
    let next = (found.has_more && page < MAX_PAGE).then(|| pagination::encode_cursor(LIST, &place));
    Ok(Page { entries, next })
}

/// A search without differences of case and white space, so that equal ones share an answer.
fn normalized(q: &str) -> String {
    q.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn in_time<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| unavailable("the service was too slow".into());
    tokio::time::timeout(TIMEOUT, asking).await.map_err(late)?
}

/// The bytes of a preview.
pub enum PreviewSource {
    /// A stored file.
    Stored(Content),
    /// A file of a service.
    Remote(Arc<Preview>),
}

/// Finds the preview of a GIF.
///
/// # Errors
/// 404 `gif_not_found`; 501 `gif_search_not_configured`; 503 `gif_provider_unavailable`.
pub async fn preview(app: &App, id: &str) -> Result<PreviewSource> {
    let search = search_of(app)?;
    match &search.remote {
        Some(remote) => in_time(remote.preview(&app.metrics, app.clock.now(), id)).await.map(PreviewSource::Remote),
        None => Ok(PreviewSource::Stored(gif_packs::content(suitable(search, app, id).await?))),
    }
}

async fn suitable(search: &GifSearch, app: &App, id: &str) -> Result<StoredGif> {
    let gif = gif_packs::by_id(app, id).await?;
    if gif.rating <= search.rating { Ok(gif) } else { Err(not_found()) }
}

/// Makes an attachment of a GIF.
///
/// # Errors
/// Those of [`uploads::begin`] and [`uploads::create`]; 404 `gif_not_found`; 501 `gif_search_not_configured`; 503
/// `gif_provider_unavailable`.
pub async fn attach(app: &App, principal: &Principal, id: &str, once: Once<Attachment>) -> Result<KeyedAnswer> {
    let search = search_of(app)?;
    if let Some(given) = uploads::given(app, &once).await? {
        return Ok(given);
    }
    // The type by the first bytes, for the name of the file. The whole file is inspected later.
    let mut first_type = None;
    let (received, title) = match &search.remote {
        None => {
            let gif = suitable(search, app, id).await?;
            let announced = u64::try_from(gif.blob.size_bytes).ok();
            let mut incoming = uploads::begin_up_to(app, principal, announced, MAX_FILE_BYTES).await?;
            let mut bytes = attachments::read(app, &gif.blob, 0..gif.blob.size_bytes.unsigned_abs()).await?;
            while let Some(piece) = bytes.next().await {
                let piece = piece.map_err(super::files::blob_error)?;
                first_type = first_type.or_else(|| gif_type(&piece));
                incoming.write(piece).await?;
            }
            (incoming.finish().await?, gif.title)
        }
        Some(remote) => {
            let gif = in_time(remote.by_id(&app.metrics, app.clock.now(), id)).await?;
            let mut incoming = uploads::begin_up_to(app, principal, None, MAX_FILE_BYTES).await?;
            let mut fetched = counted(&app.metrics, remote.provider.file(&gif.file_url).await)?;
            while let Some(piece) = fetched.chunk().await.map_err(|error| unavailable(error.to_string()))? {
                first_type = first_type.or_else(|| gif_type(&piece));
                incoming.write(piece).await?;
            }
            (incoming.finish().await?, gif.title.clone())
        }
    };
    let stated = Stated { file_name: Some(file_name(&title, first_type)), ..Stated::default() };
    uploads::create_checked(app, principal, received, stated, once, check_image).await
}

fn check_image(inspected: &Inspected) -> Result<()> {
    let is_gif = GIF_TYPES.contains(&inspected.content_type.as_str());
    if is_gif && inspected.kind == Kind::Image { Ok(()) } else { Err(unavailable("a file is not a GIF".into())) }
}

/// A file name of a title. It has only letters, digits and spaces, so it is valid on every system.
fn file_name(title: &str, content_type: Option<&str>) -> String {
    let kept: String = title.chars().map(|letter| if letter.is_alphanumeric() { letter } else { ' ' }).collect();
    let words: Vec<&str> = kept.split_whitespace().collect();
    let name: String = words.join(" ").chars().take(60).collect();
    let end = if content_type == Some("image/webp") { "webp" } else { "gif" };
    format!("{}.{end}", if name.is_empty() { "GIF" } else { name.trim_end() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_becomes_a_file_name() {
        assert_eq!(file_name("Happy Dance GIF by ../../etc", None), "Happy Dance GIF by etc.gif");
        assert_eq!(file_name("\u{202E}\r\n/", Some("image/webp")), "GIF.webp");
        assert_eq!(file_name(&"é".repeat(200), Some("image/gif")).chars().count(), 64);
    }

    #[test]
    fn a_search_keeps_its_letters() {
        assert_eq!(normalized("  Happy \t CÁT "), "happy cát");
        assert_eq!(normalized("한국 がく"), "한국 がく");
    }
}
