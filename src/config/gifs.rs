//! Derives how GIFs are searched from the options.

use url::Url;

use super::options::{GifProvider, GifRating, Secret};
use crate::domain::files::gif_provider::{Service, ServiceSettings};
use crate::domain::files::gif_search::Rating;
use crate::domain::files::gif_search::{GifSettings, GifSource};

/// Derives the settings. `None` if GIFs are not searched.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn settings(
    provider: GifProvider,
    key: Option<Secret>,
    url: Option<&str>,
    rating: GifRating,
) -> Result<Option<GifSettings>, String> {
    let rating = match rating {
        GifRating::G => Rating::G,
        GifRating::Pg => Rating::Pg,
        GifRating::Pg13 => Rating::Pg13,
        GifRating::R => Rating::R,
    };
    let service = match provider {
        GifProvider::Klipy => Service::Klipy,
        GifProvider::Giphy => Service::Giphy,
        GifProvider::Off | GifProvider::Local => {
            if key.is_some() || url.is_some() {
                return Err("--gif-api-key and --gif-url are for --gif-provider klipy and giphy only".into());
            }
            let local = GifSettings { source: GifSource::Local, rating };
            return Ok((provider == GifProvider::Local).then_some(local));
        }
    };
    let key = key.map(|Secret(key)| key).filter(|key| !key.is_empty()).ok_or_else(|| {
        format!("--gif-provider {} needs --gif-api-key, the key that the service gives you", service.as_str())
    })?;
    let url = url.unwrap_or(service.default_url());
    let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or("--gif-url must be an http or https URL")?;
    Ok(Some(GifSettings { source: GifSource::Service(ServiceSettings { service, url, key }), rating }))
}
