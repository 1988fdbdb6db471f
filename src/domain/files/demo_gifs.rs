//! The GIFs of `--demo`, so that a search finds something in the first minute. `scripts/draw-demo-gifs` draws them.
//!
//! Invariant: they are added in the same way as an administrator's uploads.

use bytes::Bytes;

use super::gif_packs::{self, MAX_GIF_BYTES, NewGif, Rating};
use super::uploads;
use crate::app::App;
use crate::base::error::Result;
use crate::store;

/// The pack that holds them.
const PACK: &str = "demo";

macro_rules! gif {
    ($file:literal, $title:literal, $tags:expr) => {
        (include_bytes!(concat!("../../../assets/gifs/", $file, ".gif")), $title, &$tags)
    };
}

const GIFS: &[(&[u8], &str, &[&str])] = &[
    gif!("typing", "Typing", ["wait", "thinking", "message"]),
    gif!("rain", "Rain", ["weather", "sad", "cloud"]),
    gif!("clock", "Clock", ["time", "wait", "late", "hurry"]),
    gif!("ball", "Bouncing ball", ["jump", "play", "sport"]),
    gif!("rocket", "Rocket", ["launch", "start", "space", "ship it"]),
    gif!("confetti", "Confetti", ["party", "celebrate", "birthday", "yay"]),
    gif!("fireworks", "Fireworks", ["party", "celebrate", "new year"]),
    gif!("heart", "Heartbeat", ["heart", "love", "like"]),
    gif!("wave", "Waving hand", ["hello", "hi", "bye", "wave"]),
    gif!("thumbs-up", "Thumbs up", ["yes", "ok", "like", "good", "agree"]),
];

/// Adds the GIFs.
///
/// # Errors
/// Those of [`gif_packs::create`].
pub async fn fill(app: &App) -> Result<()> {
    for (bytes, title, tags) in GIFS {
        let new = NewGif {
            pack: PACK.to_owned(),
            title: (*title).to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            rating: Rating::G,
        };
        let size_bytes = Some(bytes.len() as u64);
        let mut incoming =
            uploads::begin_for_server(app, store::files::usage::SERVER, size_bytes, MAX_GIF_BYTES).await?;
        incoming.write(Bytes::from_static(bytes)).await?;
        gif_packs::create(app, new, incoming.finish().await?).await?;
    }
    Ok(())
}
