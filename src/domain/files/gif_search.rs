//! The state of the search for GIFs in a service: its client and its kept answers.
//!
//! Invariant: of equal requests at the same time, only one is made. Answers are kept for `KEPT_MICROS` in bounded memory.

use std::sync::Arc;

use bytes::Bytes;
use quick_cache::sync::Cache;

use super::gif_provider::{Provider, Question, RemoteGif, RemotePage, Service, ServiceSettings, unavailable};
use crate::base::error::{Error, Result};
use crate::base::metrics::Metrics;
use crate::base::time::Timestamp;
use crate::media;
pub use crate::store::files::gifs::Rating;

/// The media types of GIFs.
pub const GIF_TYPES: [&str; 2] = ["image/gif", "image/webp"];
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
    /// GIFs for a narrower audience are not shown.
    pub rating: Rating,
    /// The service. `None` for the GIFs of this server.
    pub remote: Option<Remote>,
}

/// A service, and its kept answers.
pub struct Remote {
    /// The client.
    pub provider: Provider,
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

impl Remote {
    /// One page of GIFs.
    ///
    /// # Errors
    /// 503 `gif_provider_unavailable`.
    pub async fn list(&self, metrics: &Metrics, now: Timestamp, question: Question) -> Result<Arc<RemotePage>> {
        if let Some(kept) = self.pages.get(&question) {
            match kept.fresh(now) {
                Some(page) => return Ok(page),
                None => drop(self.pages.remove(&question)),
            }
        }
        let asking = async {
            let page = counted(metrics, self.provider.list(&question).await)?;
            for gif in &page.gifs {
                self.known.insert(gif.id.clone(), Kept::new(gif.clone(), now));
            }
            Ok::<_, Error>(Kept::new(page, now))
        };
        Ok(self.pages.get_or_insert_async(&question, asking).await?.value)
    }

    /// A GIF by its id.
    ///
    /// # Errors
    /// 404 `gif_not_found`; 503 `gif_provider_unavailable`.
    pub async fn by_id(&self, metrics: &Metrics, now: Timestamp, id: &str) -> Result<Arc<RemoteGif>> {
        if let Some(gif) = self.known.get(id).and_then(|kept| kept.fresh(now)) {
            return Ok(gif);
        }
        let found = counted(metrics, self.provider.by_id(id).await)?.ok_or_else(not_found)?;
        let kept = Kept::new(found, now);
        self.known.insert(id.to_owned(), kept.clone());
        Ok(kept.value)
    }

    /// The preview of a GIF.
    ///
    /// # Errors
    /// As [`Self::by_id`].
    pub async fn preview(&self, metrics: &Metrics, now: Timestamp, id: &str) -> Result<Arc<Preview>> {
        if let Some(kept) = self.previews.get(id) {
            match kept.fresh(now) {
                Some(preview) => return Ok(preview),
                None => drop(self.previews.remove(id)),
            }
        }
        let reading = async {
            let gif = self.by_id(metrics, now, id).await?;
            let fetched = counted(metrics, self.provider.file(&gif.preview_url).await)?;
            let read = fetched.read(MAX_PREVIEW_BYTES).await;
            let (bytes, is_whole) = read.map_err(|error| unavailable(error.to_string()))?;
            let content_type = gif_type(&bytes).filter(|_| is_whole);
            let content_type = content_type.ok_or_else(|| unavailable("a preview is not a small image".into()))?;
            Ok::<_, Error>(Kept::new(Preview { bytes: bytes.into(), content_type }, now))
        };
        Ok(self.previews.get_or_insert_async(id, reading).await?.value)
    }
}

/// Counts a request to a service.
pub fn counted<T>(metrics: &Metrics, result: Result<T>) -> Result<T> {
    metrics.gif_requests(if result.is_ok() { "answered" } else { "failed" }).inc();
    result
}

/// The type of a GIF or a WebP image, by its first bytes.
pub fn gif_type(head: &[u8]) -> Option<&'static str> {
    media::image_type(head).filter(|content_type| GIF_TYPES.contains(content_type))
}

/// The error for a GIF that does not exist.
pub fn not_found() -> Error {
    Error::NotFound { code: "gif_not_found", detail: "GIF not found".into() }
}
