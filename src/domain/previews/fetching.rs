//! Fetching a page and its image.
//!
//! Invariants:
//! - The client of [`outbound`](crate::outbound) makes every request, so each address is checked. Requests contain nothing about the
//!   message or its sender.
//! - A page is fetched within [`TIMEOUT`], its image included. No more than `PAGE_BYTES` of a page and `IMAGE_BYTES` of an image
//!   are read.
//! - An image is inspected like an uploaded one, and stored without its metadata.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::page::{self, MAX_TITLE_CHARACTERS};
use super::queue::Page;
use crate::app::App;
use crate::base::error::Result;
use crate::domain::files::files::NewAttachment;
use crate::domain::files::uploads;
use crate::outbound::{FetchError, Fetched, Fetcher};
use crate::store::files::usage;

/// The longest time in which a page and its image are fetched.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of bytes of a page that are read. The rest is ignored.
const PAGE_BYTES: usize = 512 * 1_024;
/// Maximum size of an image, in bytes. A larger one is not shown.
const IMAGE_BYTES: u64 = 5 * 1_024 * 1_024;
/// The media types that the server asks for.
const ACCEPT_PAGE: &str = "text/html, application/xhtml+xml, image/*;q=0.5";
const ACCEPT_IMAGE: &str = "image/webp, image/png, image/jpeg, image/gif";

/// Fetches what a URL leads to. `None` if it is no page with a title and no image.
///
/// # Errors
/// [`FetchError`]: the page cannot be reached, is too slow or must not be called.
pub async fn fetch(app: &App, fetcher: &Fetcher, url: &str) -> std::result::Result<Option<Page>, FetchError> {
    let deadline = Instant::now() + TIMEOUT;
    let too_slow = |_| FetchError::Failed("the page did not arrive in time".into());
    let fetched = timeout_at(deadline, fetcher.get(url, ACCEPT_PAGE)).await.map_err(too_slow)??;
    if fetched.status() != 200 || fetched.is_encoded() {
        return Ok(None);
    }
    let content_type = fetched.content_type().unwrap_or_default().to_owned();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media_type.starts_with("image/") {
        let title = file_name(&fetched.url);
        let image = timeout_at(deadline, receive_image(app, fetched)).await.map_err(too_slow)?;
        return Ok(image.map(|image| Page { title, description: None, image: Some(image) }));
    }
    if media_type != "text/html" && media_type != "application/xhtml+xml" {
        return Ok(None);
    }
    let base = fetched.url.clone();
    let (bytes, _) = timeout_at(deadline, fetched.read(PAGE_BYTES)).await.map_err(too_slow)??;
    // A large page takes some time, and no other task should wait for it.
    let reading = tokio::task::spawn_blocking(move || page::read(&bytes, &content_type));
    let described = reading.await.map_err(|error| FetchError::Failed(error.to_string()))?;
    let Some(title) = described.title else { return Ok(None) };
    let image = match described.image.and_then(|image| base.join(&image).ok()) {
        Some(image) => timeout_at(deadline, fetch_image(app, fetcher, &image)).await.ok().flatten(),
        None => None,
    };
    Ok(Some(Page { title: Some(title), description: described.description, image }))
}

async fn fetch_image(app: &App, fetcher: &Fetcher, url: &Url) -> Option<NewAttachment> {
    let fetched = fetcher.get(url.as_str(), ACCEPT_IMAGE).await.ok()?;
    if fetched.status() != 200 || fetched.is_encoded() {
        return None;
    }
    receive_image(app, fetched).await
}

/// Reads and stores an image. `None` if it cannot be stored: it is too large, damaged or of another type, or there is no space.
async fn receive_image(app: &App, fetched: Fetched) -> Option<NewAttachment> {
    match store_image(app, fetched).await {
        Ok(image) => image,
        Err(error) => {
            tracing::debug!(%error, "the image of a link preview is not stored");
            None
        }
    }
}

async fn store_image(app: &App, mut fetched: Fetched) -> Result<Option<NewAttachment>> {
    // The image does not belong to a user yet, because several messages can show it.
    let mut incoming = uploads::begin_for_server(app, usage::SERVER, None, IMAGE_BYTES).await?;
    loop {
        match fetched.chunk().await {
            Ok(Some(chunk)) => incoming.write(chunk).await?,
            Ok(None) => break,
            Err(_) => return Ok(None),
        }
    }
    uploads::prepare_image(app, incoming.finish().await?).await.map(Some)
}

/// The last part of the path of a URL.
fn file_name(url: &Url) -> Option<String> {
    let last = url.path_segments()?.next_back()?;
    page::clean(&percent_decode_str(last).decode_utf8_lossy(), MAX_TITLE_CHARACTERS)
}
