//! The client of the GIF services KLIPY and GIPHY.
//!
//! Invariants:
//! - The key of the operator appears in no error, log line or answer. Errors of the HTTP client have no URLs, because the key is part
//!   of the URL.
//! - A service learns the text of a search and the ids of GIFs, and nothing about the user.
//! - The bytes of a GIF are read only from public addresses with `https:`, or from the origin that the operator has configured.

use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use crate::base::error::{Error, Result};
use crate::outbound::addresses::Reach;
use crate::outbound::{FetchError, Fetched, Fetcher};
use crate::store::files::gifs::Rating;

/// Maximum time of one request to a service, with its answer.
const TIMEOUT: Duration = Duration::from_secs(8);
/// Maximum time in which a file is read.
const FILE_TIMEOUT: Duration = Duration::from_secs(30);
/// The least time between two warnings about the key.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// Titles are cut to this number of characters.
const MAX_TITLE_CHARACTERS: usize = 200;
/// Maximum number of bytes of a list of GIFs.
const MAX_LIST_BYTES: usize = 2 * 1_024 * 1_024;
/// Maximum number of characters of an id.
const MAX_ID_CHARACTERS: usize = 128;
/// Seconds after which a caller should ask again.
const RETRY_AFTER_S: u32 = 10;

/// A service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// <https://klipy.com>
    Klipy,
    /// <https://giphy.com>
    Giphy,
}

impl Service {
    /// The name in answers and options.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Klipy => "klipy",
            Self::Giphy => "giphy",
        }
    }

    /// The text that a client must show beside the GIFs.
    pub const fn attribution(self) -> &'static str {
        match self {
            Self::Klipy => "Powered by KLIPY",
            Self::Giphy => "Powered by GIPHY",
        }
    }

    /// The address of the service.
    pub const fn default_url(self) -> &'static str {
        match self {
            Self::Klipy => "https://api.klipy.com",
            Self::Giphy => "https://api.giphy.com",
        }
    }
}

/// How a service is used.
#[derive(Clone)]
pub struct ServiceSettings {
    /// The service.
    pub service: Service,
    /// The address of the service.
    pub url: Url,
    /// The key of the operator.
    pub key: String,
}

impl fmt::Debug for ServiceSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ServiceSettings").field("service", &self.service).finish_non_exhaustive()
    }
}

/// A GIF of a service.
#[derive(Clone, Debug)]
pub struct RemoteGif {
    /// The id in the service.
    pub id: String,
    /// What it shows. Can be empty.
    pub title: String,
    /// Width of the file in pixels.
    pub width: i64,
    /// Height of the file in pixels.
    pub height: i64,
    /// Where a small version of the file is.
    pub preview_url: String,
    /// Where the file is.
    pub file_url: String,
    /// The page of the GIF in the service.
    pub page_url: Option<String>,
    /// The name of its author in the service.
    pub author: Option<String>,
}

/// One page of GIFs.
#[derive(Clone, Debug, Default)]
pub struct RemotePage {
    /// The GIFs.
    pub gifs: Vec<RemoteGif>,
    /// Whether another page follows.
    pub has_more: bool,
}

/// What is asked of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The text of the search. `None` asks for GIFs that are popular now.
    pub q: Option<String>,
    /// The number of the page, from 0.
    pub page: i64,
    /// GIFs on a page.
    pub limit: usize,
}

impl Question {
    /// GIFs on the pages before.
    fn offset(&self) -> i64 {
        self.page.saturating_mul(i64::try_from(self.limit).unwrap_or(i64::MAX))
    }
}

/// The client of one service.
pub struct Provider {
    /// The settings.
    pub settings: ServiceSettings,
    rating: Rating,
    fetchers: OnceLock<std::result::Result<Fetchers, String>>,
    /// When the log said last that the key is refused.
    warned_at: Mutex<Option<Instant>>,
}

/// The fetchers are created when they are first needed, so that a machine without CA certificates can start the server.
struct Fetchers {
    /// For lists.
    lists: Fetcher,
    /// For files at the origin that the operator has configured.
    own_files: Fetcher,
    /// For files at all other addresses.
    public_files: Fetcher,
}

impl Provider {
    /// Creates the client. GIFs for a narrower audience than `rating` are left out.
    pub const fn new(settings: ServiceSettings, rating: Rating) -> Self {
        Self { settings, rating, fetchers: OnceLock::new(), warned_at: Mutex::new(None) }
    }

    fn fetchers(&self) -> Result<&Fetchers> {
        let make = || {
            Ok(Fetchers {
                lists: Fetcher::without_redirects(Reach::Anywhere, TIMEOUT)?,
                own_files: Fetcher::without_redirects(Reach::Anywhere, FILE_TIMEOUT)?,
                public_files: Fetcher::new(Reach::PublicHttps, FILE_TIMEOUT)?,
            })
        };
        let made = self.fetchers.get_or_init(|| make().map_err(|error: reqwest::Error| error.to_string()));
        made.as_ref().map_err(|error| Error::internal(error.clone()))
    }

    /// Asks the service for GIFs.
    ///
    /// # Errors
    /// 503 `gif_provider_unavailable`.
    pub async fn list(&self, question: &Question) -> Result<RemotePage> {
        let url = self.list_url(question);
        match self.settings.service {
            Service::Giphy => {
                let list: GiphyList = self.ask(&url).await?;
                let read = i64::try_from(list.data.len()).unwrap_or(i64::MAX);
                let has_more = match list.pagination.total_count {
                    Some(total) => read > 0 && question.offset().saturating_add(read) < total,
                    None => list.data.len() >= question.limit,
                };
                Ok(RemotePage { gifs: self.giphy_gifs(list.data), has_more })
            }
            Service::Klipy => {
                let list: KlipyAnswer<KlipyPage> = self.ask(&url).await?;
                let gifs = klipy_gifs(list.data.data);
                Ok(RemotePage { gifs, has_more: list.data.has_next })
            }
        }
    }

    fn list_url(&self, question: &Question) -> Url {
        let action = if question.q.is_some() { "search" } else { "trending" };
        let mut url = match self.settings.service {
            Service::Giphy => self.url(&["v1", "gifs", action]),
            Service::Klipy => self.url(&["api", "v1", &self.settings.key, "gifs", action]),
        };
        let mut query = url.query_pairs_mut();
        if let Some(q) = &question.q {
            query.append_pair("q", q);
        }
        let limit = question.limit.to_string();
        match self.settings.service {
            Service::Giphy => {
                query.append_pair("api_key", &self.settings.key).append_pair("limit", &limit);
                query.append_pair("offset", &question.offset().to_string());
                query.append_pair("rating", self.rating.as_str());
            }
            Service::Klipy => {
                query.append_pair("page", &question.page.saturating_add(1).to_string()).append_pair("per_page", &limit);
                query.append_pair("content_filter", self.content_filter()).append_pair("format_filter", "gif,webp");
            }
        }
        drop(query);
        url
    }

    /// Asks the service for one GIF. `None` if it does not exist or is not suitable.
    ///
    /// # Errors
    /// 503 `gif_provider_unavailable`.
    pub async fn by_id(&self, id: &str) -> Result<Option<RemoteGif>> {
        if !is_id(id) {
            return Ok(None);
        }
        match self.settings.service {
            Service::Giphy => {
                let mut url = self.url(&["v1", "gifs", id]);
                url.query_pairs_mut()
                    .append_pair("api_key", &self.settings.key)
                    .append_pair("rating", self.rating.as_str());
                let Some(found) = self.ask_if_found::<GiphyOne>(&url).await? else { return Ok(None) };
                Ok(self.giphy_gifs(vec![found.data]).pop())
            }
            Service::Klipy => {
                let mut url = self.url(&["api", "v1", &self.settings.key, "gifs", "items"]);
                url.query_pairs_mut()
                    .append_pair("slugs", id)
                    .append_pair("content_filter", self.content_filter())
                    .append_pair("format_filter", "gif,webp");
                let Some(found) = self.ask_if_found::<KlipyAnswer<KlipyPage>>(&url).await? else { return Ok(None) };
                Ok(klipy_gifs(found.data.data).into_iter().find(|gif| gif.id == id))
            }
        }
    }

    /// Begins to read a file of the service.
    ///
    /// # Errors
    /// 503 `gif_provider_unavailable`.
    pub async fn file(&self, url: &str) -> Result<Fetched> {
        let Fetchers { own_files, public_files, .. } = self.fetchers()?;
        let is_own = Url::parse(url).is_ok_and(|url| url.origin() == self.settings.url.origin());
        let fetched =
            if is_own { own_files } else { public_files }.get(url, "image/gif, image/webp").await.map_err(failed)?;
        match fetched.status() {
            200 => Ok(fetched),
            status => Err(unavailable(format!("a file was answered with status {status}"))),
        }
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.settings.url.clone();
        let encoded = segments.iter().map(|segment| utf8_percent_encode(segment, NON_ALPHANUMERIC).to_string());
        let path = [url.path().trim_end_matches('/'), "/", &encoded.collect::<Vec<_>>().join("/")].concat();
        url.set_path(&path);
        url
    }

    async fn ask<T: DeserializeOwned>(&self, url: &Url) -> Result<T> {
        self.ask_if_found(url).await?.ok_or_else(|| unavailable("a list was answered with status 404".into()))
    }

    /// `None` if the service answers 404.
    async fn ask_if_found<T: DeserializeOwned>(&self, url: &Url) -> Result<Option<T>> {
        let fetched = self.fetchers()?.lists.get(url.as_str(), "application/json").await.map_err(failed)?;
        match fetched.status() {
            200 => {}
            404 => return Ok(None),
            status @ (401 | 403) => {
                self.warn_of_key(status);
                return Err(unavailable(format!("the key was refused with status {status}")));
            }
            status => return Err(unavailable(format!("a request was answered with status {status}"))),
        }
        let (bytes, is_whole) = fetched.read(MAX_LIST_BYTES).await.map_err(failed)?;
        if !is_whole {
            return Err(unavailable("an answer was too long".into()));
        }
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|error| unavailable(format!("an answer could not be read: {error}")))
    }

    fn warn_of_key(&self, status: u16) {
        let mut warned_at = self.warned_at.lock().unwrap_or_else(PoisonError::into_inner);
        if warned_at.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) {
            *warned_at = Some(Instant::now());
            tracing::warn!(status, "the GIF service refuses the key; check --gif-api-key");
        }
    }

    /// The level of KLIPY's filter.
    const fn content_filter(&self) -> &'static str {
        match self.rating {
            Rating::G => "high",
            Rating::Pg => "medium",
            Rating::Pg13 => "low",
            Rating::R => "off",
        }
    }

    /// The suitable ones. An item that cannot be read is left out, so that it does not spoil the list.
    fn giphy_gifs(&self, items: Vec<Value>) -> Vec<RemoteGif> {
        let suitable = |gif: &GiphyGif| gif.rating().is_some_and(|rating| rating <= self.rating);
        let gifs = items.into_iter().filter_map(|item| serde_json::from_value::<GiphyGif>(item).ok());
        gifs.filter(suitable).filter_map(GiphyGif::into_gif).collect()
    }
}

/// The GIFs among the items of a page. Advertisements, and items that cannot be read, are left out.
fn klipy_gifs(items: Vec<Value>) -> Vec<RemoteGif> {
    let gifs = items.into_iter().filter_map(|item| serde_json::from_value::<KlipyGif>(item).ok());
    gifs.filter_map(KlipyGif::into_gif).collect()
}

fn cut(title: &str) -> String {
    title.chars().take(MAX_TITLE_CHARACTERS).collect()
}

/// Whether a text can be the id of a GIF of a service.
fn is_id(text: &str) -> bool {
    (1..=MAX_ID_CHARACTERS).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn failed(error: FetchError) -> Error {
    unavailable(error.to_string())
}

/// The error of a service that does not give what is needed. `reason` is for the log.
pub(super) fn unavailable(reason: String) -> Error {
    Error::Upstream {
        code: "gif_provider_unavailable",
        detail: "The service for GIFs does not answer; try again later",
        retry_after_s: RETRY_AFTER_S,
        source: reason.into(),
    }
}

#[derive(Deserialize)]
struct GiphyList {
    data: Vec<Value>,
    #[serde(default)]
    pagination: GiphyPagination,
}

#[derive(Deserialize)]
struct GiphyOne {
    data: Value,
}

#[derive(Default, Deserialize)]
struct GiphyPagination {
    total_count: Option<i64>,
}

#[derive(Deserialize)]
struct GiphyGif {
    id: String,
    #[serde(default)]
    title: String,
    /// GIFs without a rating are not shown.
    #[serde(default)]
    rating: String,
    url: Option<String>,
    #[serde(default)]
    username: String,
    images: GiphyImages,
}

/// The renditions of a GIF. The downsized one has at most 2 MB.
#[derive(Deserialize)]
struct GiphyImages {
    original: Option<GiphyImage>,
    downsized: Option<GiphyImage>,
    fixed_width: Option<GiphyImage>,
    preview_gif: Option<GiphyImage>,
}

/// The service writes numbers as strings.
#[derive(Clone, Deserialize)]
struct GiphyImage {
    url: String,
    #[serde(default)]
    width: String,
    #[serde(default)]
    height: String,
}

impl GiphyGif {
    fn rating(&self) -> Option<Rating> {
        // "y" is for all ages, as "g" is.
        if self.rating == "y" { Some(Rating::G) } else { Rating::parse(&self.rating).ok() }
    }

    fn into_gif(self) -> Option<RemoteGif> {
        let GiphyImages { original, downsized, fixed_width, preview_gif } = self.images;
        let file = downsized.or(original)?;
        let preview = fixed_width.or(preview_gif).unwrap_or_else(|| file.clone());
        is_id(&self.id).then_some(())?;
        Some(RemoteGif {
            id: self.id,
            title: cut(&self.title),
            width: file.width.parse().ok()?,
            height: file.height.parse().ok()?,
            preview_url: preview.url,
            file_url: file.url,
            page_url: self.url,
            author: Some(self.username).filter(|name| !name.is_empty()),
        })
    }
}

#[derive(Deserialize)]
struct KlipyAnswer<T> {
    data: T,
}

#[derive(Deserialize)]
struct KlipyPage {
    data: Vec<Value>,
    #[serde(default)]
    has_next: bool,
}

/// Advertisements have another type and other fields.
#[derive(Deserialize)]
struct KlipyGif {
    #[serde(default)]
    slug: String,
    #[serde(default)]
    title: Option<String>,
    #[serde(default, rename = "type")]
    kind: String,
    file: Option<KlipySizes>,
}

/// The sizes of a GIF, from large to small.
#[derive(Deserialize)]
struct KlipySizes {
    hd: Option<KlipyFormats>,
    md: Option<KlipyFormats>,
    sm: Option<KlipyFormats>,
    xs: Option<KlipyFormats>,
}

#[derive(Deserialize)]
struct KlipyFormats {
    gif: Option<KlipyFile>,
    webp: Option<KlipyFile>,
}

#[derive(Deserialize)]
struct KlipyFile {
    url: String,
    width: i64,
    height: i64,
}

impl KlipyGif {
    fn into_gif(self) -> Option<RemoteGif> {
        if self.kind != "gif" || !is_id(&self.slug) {
            return None;
        }
        let KlipySizes { hd, md, sm, xs } = self.file?;
        let file = |formats: Option<KlipyFormats>| formats.and_then(|formats| formats.gif.or(formats.webp));
        let (hd, md, sm, xs) = (file(hd), file(md), file(sm), file(xs));
        let preview_url = [&sm, &xs, &md, &hd].into_iter().flatten().next()?.url.clone();
        let file = md.or(hd).or(sm).or(xs)?;
        Some(RemoteGif {
            id: self.slug,
            title: cut(&self.title.unwrap_or_default()),
            width: file.width,
            height: file.height,
            preview_url,
            file_url: file.url,
            page_url: None,
            author: None,
        })
    }
}
