//! Images: walking their container, cleaning them, turning them upright, and their thumbnail.
//!
//! Invariant: a decoder only sees a file that a walk accepted, and whose size and number of frames are within the limits.

use std::path::Path;

use image::ImageFormat;

use super::decode::{decode, encode_upright};
use super::reader::{BlockReader, Sink};
use super::thumbnail::make_thumbnail;
use super::{Inspected, Kind, Limits, Refusal, blurhash, gif, jpeg, png, webp};

/// What a walk over a container finds out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outline {
    /// In pixels, as stored; zero until it is known.
    pub(super) width: u32,
    /// In pixels, as stored; zero until it is known.
    pub(super) height: u32,
    /// The EXIF orientation, from 1 to 8. 1 needs no change.
    pub(super) orientation: u8,
    pub(super) animated: bool,
}

impl Default for Outline {
    fn default() -> Self {
        Self { width: 0, height: 0, orientation: 1, animated: false }
    }
}

pub(super) fn damaged(reason: &str) -> Refusal {
    Refusal::Damaged(reason.to_owned())
}

impl Limits {
    /// Checks the size of an image or of one frame.
    pub(super) fn check_size(&self, width: u32, height: u32) -> Result<(), Refusal> {
        if width == 0 || height == 0 {
            return Err(damaged("the image has no pixels"));
        }
        if width > self.max_side || height > self.max_side {
            let side = self.max_side;
            return Err(Refusal::TooLarge(format!("the image is {width} x {height} pixels; a side may have {side}")));
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            let pixels = self.max_pixels;
            return Err(Refusal::TooLarge(format!(
                "the image is {width} x {height} pixels; it may have {pixels} pixels in total"
            )));
        }
        Ok(())
    }
}

/// The frames of an animation that a walk has seen so far.
#[derive(Debug, Default)]
pub(super) struct FrameCount {
    frames: u32,
    pixels: u64,
}

impl FrameCount {
    pub(super) fn frames(&self) -> u32 {
        self.frames
    }

    /// Counts a frame.
    pub(super) fn add(&mut self, width: u32, height: u32, limits: &Limits) -> Result<(), Refusal> {
        limits.check_size(width, height)?;
        self.frames += 1;
        self.pixels += u64::from(width) * u64::from(height);
        if self.frames > limits.max_frames {
            let frames = limits.max_frames;
            return Err(Refusal::TooLarge(format!("the animation has more than {frames} frames")));
        }
        if self.pixels > limits.max_total_pixels {
            let pixels = limits.max_total_pixels;
            return Err(Refusal::TooLarge(format!("the frames of the image have more than {pixels} pixels in total")));
        }
        Ok(())
    }
}

type Walk = fn(&mut BlockReader, &mut Sink, &Limits) -> Result<Outline, Refusal>;

pub(super) fn inspect(
    format: ImageFormat,
    source: &Path,
    target: &Path,
    limits: &Limits,
) -> Result<Inspected, Refusal> {
    let walk: Walk = match format {
        ImageFormat::Jpeg => jpeg::walk,
        ImageFormat::Png => png::walk,
        ImageFormat::Gif => gif::walk,
        ImageFormat::WebP => webp::walk,
        _ => return Err(damaged("images of this format are not supported")),
    };
    let mut measuring = Sink::measuring();
    let outline = walk(&mut BlockReader::open(source)?, &mut measuring, limits)?;
    let mut cleaned = measuring.changed();
    if cleaned {
        let mut writing = Sink::create(target)?;
        walk(&mut BlockReader::open(source)?, &mut writing, limits)?;
        writing.finish()?;
    }
    let mut picture = decode(if cleaned { target } else { source }, format, &outline, limits)?;
    // Turning an animation would mean encoding all frames again. Its orientation is ignored.
    if outline.orientation != 1 && !outline.animated {
        picture.turn(outline.orientation);
        encode_upright(&picture, format, target)?;
        cleaned = true;
    }
    let (width, height) = (picture.pixels.width(), picture.pixels.height());
    let (thumbnail, small) = make_thumbnail(picture)?;
    Ok(Inspected {
        width: Some(width),
        height: Some(height),
        blurhash: Some(blurhash::encode(&small)),
        animated: outline.animated,
        cleaned,
        thumbnail: Some(thumbnail),
        ..Inspected::unmeasured(format.to_mime_type(), Kind::Image)
    })
}
