//! Searching GIFs, and turning a chosen one into an attachment.
//!
//! Invariants:
//! - A client gets every byte from this server, so a service does not learn the address of a user.
//! - Of equal requests to a service at the same time, only one is made. Answers are kept for [`KEPT_MICROS`] in bounded memory.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use quick_cache::sync::Cache;

use super::attachments::{self, Attachment, Content};
use super::gif_packs::{self, Rating, StoredGif};
use super::gif_provider::{Provider, Question, RemoteGif, RemotePage, Service, ServiceSettings, unavailable};
use super::uploads::{self, Stated};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::text::fold;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::shared::idempotency::{KeyedAnswer, Once};
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::media::{Inspected, Kind};

/// Maximum number of characters of a search.
pub const MAX_QUERY_CHARACTERS: usize = 50;
/// Maximum number of bytes of a GIF that becomes an attachment.
pub const MAX_FILE_BYTES: u64 = 16 * 1_024 * 1_024;
/// Maximum number of bytes of a preview.
const MAX_PREVIEW_BYTES: usize = 4 * 1_024 * 1_024;
/// How long answers of a service are kept.
const KEPT_MICROS: i64 = 5 * 60 * 1_000_000;
/// Pages of a service that are kept, of at most some 100 KB each.
const KEPT_PAGES: usize = 256;
/// GIFs of a service that are known by their id.
const KNOWN_GIFS: usize = 4_096;
/// Bytes of previews that are kept.
const KEPT_PREVIEW_BYTES: u64 = 32 * 1_024 * 1_024;
/// The last page that is asked of a service.
const MAX_PAGE: i64 = 100;
/// Most GIFs on a page of a service.
const MAX_SERVICE_LIMIT: usize = 50;
/// The name of the list of a service in cursors.
const LIST: &str = "remote_gifs";

/// Where GIFs are searched.
#[derive(Clone, Debug)]
pub enum GifSource {
    /// Among the GIFs that administrators have added.
    Local,
    /// In a service.
    Service(ServiceSettings),
}

/// How GIFs are searched.
#[derive(Clone, Debug)]
pub struct GifSettings {
    /// Where.
    pub source: GifSource,
    /// GIFs for a narrower audience are not shown.
    pub rating: Rating,
}

/// The state of the search for GIFs: the client of the service, and its kept answers.
pub struct GifSearch {
    rating: Rating,
    remote: Option<Remote>,
}

struct Remote {
    provider: Provider,
    pages: Cache<Question, Kept<RemotePage>>,
    known: Cache<String, Kept<RemoteGif>>,
    previews: Cache<String, Kept<Preview>, PreviewWeight>,
}

/// A value and when it was read.
struct Kept<T> {
    value: Arc<T>,
    at: Timestamp,
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), at: self.at }
    }
}

impl<T> Kept<T> {
    fn new(value: T, at: Timestamp) -> Self {
        Self { value: Arc::new(value), at }
    }

    /// The value, if it is not too old.
    fn fresh(&self, now: Timestamp) -> Option<Arc<T>> {
        let age = now.micros().saturating_sub(self.at.micros());
        (0..KEPT_MICROS).contains(&age).then(|| Arc::clone(&self.value))
    }
}

/// A small version of a GIF of a service.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The bytes.
    pub bytes: Bytes,
    /// Their media type, found by reading them.
    pub content_type: &'static str,
}

#[derive(Clone)]
struct PreviewWeight;

impl quick_cache::Weighter<String, Kept<Preview>> for PreviewWeight {
    fn weight(&self, _: &String, preview: &Kept<Preview>) -> u64 {
        preview.value.bytes.len() as u64 + 256
    }
}

impl GifSearch {
    /// Creates the state.
    pub fn new(settings: GifSettings) -> Self {
        let remote = match settings.source {
            GifSource::Local => None,
            GifSource::Service(service) => Some(Remote {
                provider: Provider::new(service, settings.rating),
                pages: Cache::new(KEPT_PAGES),
                known: Cache::new(KNOWN_GIFS),
                previews: Cache::with_weighter(KEPT_PAGES, KEPT_PREVIEW_BYTES, PreviewWeight),
            }),
        };
        Self { rating: settings.rating, remote }
    }

    /// The service in which GIFs are searched. `None` for the GIFs of this server.
    pub fn service(&self) -> Option<Service> {
        self.remote.as_ref().map(|remote| remote.provider.settings.service)
    }
}

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
    let question = Question { q: q.map(|q| fold(q.trim())), page, limit };
    let found = remote.list(app, question).await?;
    let service = remote.provider.settings.service;
    let entries = found.gifs.iter().cloned().map(|gif| Gif::Remote(service, gif)).collect();
    let place = [page + 1, i64::try_from(limit).unwrap_or_default()];
    let next = (found.has_more && page < MAX_PAGE).then(|| pagination::encode_cursor(LIST, &place));
    Ok(Page { entries, next })
}

impl Remote {
    async fn list(&self, app: &App, question: Question) -> Result<Arc<RemotePage>> {
        let now = app.clock.now();
        if let Some(kept) = self.pages.get(&question) {
            match kept.fresh(now) {
                Some(page) => return Ok(page),
                None => drop(self.pages.remove(&question)),
            }
        }
        let asking = async {
            let page = counted(app, self.provider.list(&question).await)?;
            for gif in &page.gifs {
                self.known.insert(gif.id.clone(), Kept::new(gif.clone(), now));
            }
            Ok::<_, Error>(Kept::new(page, now))
        };
        Ok(self.pages.get_or_insert_async(&question, asking).await?.value)
    }

    async fn by_id(&self, app: &App, id: &str) -> Result<Arc<RemoteGif>> {
        let now = app.clock.now();
        if let Some(gif) = self.known.get(id).and_then(|kept| kept.fresh(now)) {
            return Ok(gif);
        }
        let found = counted(app, self.provider.by_id(id).await)?.ok_or_else(gif_packs::not_found)?;
        let kept = Kept::new(found, now);
        self.known.insert(id.to_owned(), kept.clone());
        Ok(kept.value)
    }

    async fn preview(&self, app: &App, id: &str) -> Result<Arc<Preview>> {
        let now = app.clock.now();
        if let Some(kept) = self.previews.get(id) {
            match kept.fresh(now) {
                Some(preview) => return Ok(preview),
                None => drop(self.previews.remove(id)),
            }
        }
        let reading = async {
            let gif = self.by_id(app, id).await?;
            let fetched = counted(app, self.provider.file(&gif.preview_url).await)?;
            let read = fetched.read(MAX_PREVIEW_BYTES).await;
            let (bytes, is_whole) = read.map_err(|error| unavailable(error.to_string()))?;
            let content_type = image_type(&bytes).filter(|_| is_whole);
            let content_type = content_type.ok_or_else(|| unavailable("a preview is not a small image".into()))?;
            Ok::<_, Error>(Kept::new(Preview { bytes: bytes.into(), content_type }, now))
        };
        Ok(self.previews.get_or_insert_async(id, reading).await?.value)
    }
}

/// Counts a request to a service.
fn counted<T>(app: &App, result: Result<T>) -> Result<T> {
    app.metrics.gif_requests(if result.is_ok() { "answered" } else { "failed" }).inc();
    result
}

/// The type of an image that browsers show, by its first bytes.
fn image_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
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
        Some(remote) => remote.preview(app, id).await.map(PreviewSource::Remote),
        None => Ok(PreviewSource::Stored(gif_packs::content(suitable(search, app, id).await?))),
    }
}

async fn suitable(search: &GifSearch, app: &App, id: &str) -> Result<StoredGif> {
    let gif = gif_packs::by_id(app, id).await?;
    if gif.rating <= search.rating { Ok(gif) } else { Err(gif_packs::not_found()) }
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
    let (received, title) = match &search.remote {
        None => {
            let gif = suitable(search, app, id).await?;
            let announced = u64::try_from(gif.blob.size_bytes).ok();
            let mut incoming = uploads::begin_up_to(app, principal, announced, MAX_FILE_BYTES).await?;
            let mut bytes = attachments::read(app, &gif.blob, 0..gif.blob.size_bytes.unsigned_abs()).await?;
            while let Some(piece) = bytes.next().await {
                incoming.write(piece.map_err(super::files::blob_error)?).await?;
            }
            (incoming.finish().await?, gif.title)
        }
        Some(remote) => {
            let gif = remote.by_id(app, id).await?;
            let mut incoming = uploads::begin_up_to(app, principal, None, MAX_FILE_BYTES).await?;
            let mut fetched = counted(app, remote.provider.file(&gif.file_url).await)?;
            while let Some(piece) = fetched.chunk().await.map_err(|error| unavailable(error.to_string()))? {
                incoming.write(piece).await?;
            }
            (incoming.finish().await?, gif.title.clone())
        }
    };
    let stated = Stated { file_name: Some(file_name(&title)), ..Stated::default() };
    uploads::create_checked(app, principal, received, stated, once, check_image).await
}

fn check_image(inspected: &Inspected) -> Result<()> {
    let is_gif = ["image/gif", "image/webp"].contains(&inspected.content_type.as_str());
    if is_gif && inspected.kind == Kind::Image { Ok(()) } else { Err(unavailable("a file is not a GIF".into())) }
}

/// A file name of a title. It has only letters, digits and spaces, so it is valid on every system.
fn file_name(title: &str) -> String {
    let kept: String = title.chars().map(|letter| if letter.is_alphanumeric() { letter } else { ' ' }).collect();
    let words: Vec<&str> = kept.split_whitespace().collect();
    let name: String = words.join(" ").chars().take(60).collect();
    format!("{}.gif", if name.is_empty() { "GIF" } else { name.trim_end() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_becomes_a_file_name() {
        assert_eq!(file_name("Happy Dance GIF by ../../etc"), "Happy Dance GIF by etc.gif");
        assert_eq!(file_name("\u{202E}\r\n/"), "GIF.gif");
        assert_eq!(file_name(&"é".repeat(200)).chars().count(), 64);
    }
}
