//! The JSON form of GIFs.

use std::borrow::Cow;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::base::time::Timestamp;
use crate::domain::files::gif_packs::StoredGif;
use crate::domain::files::gif_provider::Service;
use crate::domain::files::gifs::Gif;

/// A GIF that a search has found.
#[derive(Serialize, ToSchema)]
#[schema(as = Gif)]
pub struct GifBody<'a> {
    /// The id, for `/api/gifs/{id}/attach`. It has no meaning for callers.
    #[schema(example = "1", max_length = 128)]
    id: Cow<'a, str>,
    /// What it shows. Can be empty.
    #[schema(example = "Bouncing ball")]
    title: &'a str,
    /// Width in pixels.
    #[schema(minimum = 1)]
    width: i64,
    /// Height in pixels.
    #[schema(minimum = 1)]
    height: i64,
    /// The path of a small version.
    #[schema(example = "/api/gifs/1/preview")]
    preview_url: String,
    /// `local`, `klipy` or `giphy`.
    #[schema(example = "local")]
    provider: &'static str,
    /// The text that a client must show beside the GIF. Null for a GIF of this server.
    attribution: Option<&'static str>,
    /// The page of the GIF in its service, if it has one.
    page_url: Option<&'a str>,
    /// The name of the author in the service, if it is known.
    author: Option<&'a str>,
}

impl<'a> GifBody<'a> {
    /// The JSON form of a GIF.
    pub fn new(gif: &'a Gif) -> Self {
        match gif {
            Gif::Stored(stored) => {
                let id = stored.id.0.to_string();
                Self {
                    preview_url: preview_url(&id),
                    id: id.into(),
                    title: &stored.title,
                    width: stored.width,
                    height: stored.height,
                    provider: "local",
                    attribution: None,
                    page_url: None,
                    author: None,
                }
            }
            Gif::Remote(service, remote) => Self {
                preview_url: preview_url(&remote.id),
                id: remote.id.as_str().into(),
                title: &remote.title,
                width: remote.width,
                height: remote.height,
                provider: Service::as_str(*service),
                attribution: Some(service.attribution()),
                page_url: remote.page_url.as_deref(),
                author: remote.author.as_deref(),
            },
        }
    }
}

fn preview_url(id: &str) -> String {
    format!("/api/gifs/{}/preview", utf8_percent_encode(id, NON_ALPHANUMERIC))
}

/// A GIF of the server itself, as administrators see it.
#[derive(Serialize, ToSchema)]
#[schema(as = StoredGif)]
pub struct StoredGifBody<'a> {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    /// The name of its pack.
    #[schema(example = "party", max_length = 64)]
    pack: &'a str,
    /// What it shows.
    #[schema(example = "Bouncing ball", max_length = 64)]
    title: &'a str,
    /// Further words by which it is found.
    #[schema(example = json!(["ball", "jump"]), max_items = 20)]
    tags: Vec<&'a str>,
    /// `g`, `pg`, `pg-13` or `r`.
    #[schema(example = "g")]
    rating: &'static str,
    /// `image/gif` or `image/webp`.
    #[schema(example = "image/gif")]
    content_type: &'a str,
    #[schema(minimum = 0)]
    size_bytes: i64,
    /// Width in pixels.
    #[schema(minimum = 1)]
    width: i64,
    /// Height in pixels.
    #[schema(minimum = 1)]
    height: i64,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl<'a> StoredGifBody<'a> {
    /// The JSON form of a GIF of the server.
    pub fn new(gif: &'a StoredGif) -> Self {
        Self {
            id: gif.id.0,
            pack: &gif.pack,
            title: &gif.title,
            tags: gif.tags.split(',').filter(|tag| !tag.is_empty()).collect(),
            rating: gif.rating.as_str(),
            content_type: &gif.content_type,
            size_bytes: gif.blob.size_bytes,
            width: gif.width,
            height: gif.height,
            created_at: gif.created_at,
        }
    }
}
