//! Thumbnails.
//!
//! Invariant: a thumbnail has the shape of its image, is never larger than it, and has no metadata besides a small colour profile.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{DynamicImage, RgbImage, RgbaImage};

use super::decode::{Picture, write};
use super::{Refusal, Thumbnail};

/// Maximum width and height, in pixels.
const MAX_SIDE: u32 = 360;

/// Maximum width and height, in pixels, of the picture from which a BlurHash is computed.
const SMALL_SIDE: u32 = 32;

/// JPEG quality, from 1 to 100.
const QUALITY: u8 = 80;

/// Maximum size of a colour profile that a thumbnail keeps. Cameras use profiles of about 600 bytes.
const MAX_PROFILE_BYTES: usize = 4 * 1024;

/// Makes a thumbnail, and a smaller picture for a BlurHash.
pub(super) fn make_thumbnail(picture: Picture) -> Result<(Thumbnail, RgbImage), Refusal> {
    let colour_profile = picture.fitting_profile().map(<[u8]>::to_vec);
    let pixels = if picture.pixels.has_alpha() {
        shrink_transparent(picture.pixels, MAX_SIDE)
    } else {
        shrink_opaque(&picture.pixels, MAX_SIDE)
    };
    let (width, height) = (pixels.width(), pixels.height());
    let small = over_white(&shrink_transparent(pixels.to_rgba8().into(), SMALL_SIDE));
    let opaque = !pixels.has_alpha();
    let picture = Picture { pixels, colour_profile };
    let profile = picture.colour_profile.as_deref().filter(|profile| profile.len() <= MAX_PROFILE_BYTES);
    let mut bytes = Vec::new();
    let content_type = if opaque {
        write(&picture, JpegEncoder::new_with_quality(&mut bytes, QUALITY), profile)?;
        "image/jpeg"
    } else {
        let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::Adaptive);
        write(&picture, encoder, profile)?;
        "image/png"
    };
    Ok((Thumbnail { bytes, content_type, width, height }, small))
}

/// The size of a picture whose longest side has at most `side` pixels.
fn fitting_size(width: u32, height: u32, side: u32) -> (u32, u32) {
    let longest = width.max(height);
    if longest <= side {
        return (width, height);
    }
    let scale = |length: u32| {
        let scaled = (u64::from(length) * u64::from(side) + u64::from(longest) / 2) / u64::from(longest);
        // At most `side`.
        (scaled as u32).max(1)
    };
    (scale(width), scale(height))
}

fn shrink(pixels: &DynamicImage, side: u32) -> Option<DynamicImage> {
    let (width, height) = fitting_size(pixels.width(), pixels.height(), side);
    ((width, height) != (pixels.width(), pixels.height())).then(|| pixels.thumbnail_exact(width, height))
}

/// Returns pixels of 8 bits without an alpha channel.
fn shrink_opaque(pixels: &DynamicImage, side: u32) -> DynamicImage {
    let small = shrink(pixels, side).unwrap_or_else(|| pixels.clone());
    if small.color().has_color() { small.into_rgb8().into() } else { small.into_luma8().into() }
}

/// Returns pixels of 8 bits, with an alpha channel only if a pixel is transparent.
fn shrink_transparent(pixels: DynamicImage, side: u32) -> DynamicImage {
    let mut pixels = pixels.into_rgba8();
    if pixels.width().max(pixels.height()) > side {
        // The mean of some pixels counts each colour as much as it is visible. Otherwise the invisible colours of transparent
        // pixels would show at the edges.
        multiply_by_alpha(&mut pixels);
        let shrunk = shrink(&DynamicImage::ImageRgba8(pixels), side).map(DynamicImage::into_rgba8);
        pixels = shrunk.unwrap_or_default();
        divide_by_alpha(&mut pixels);
    }
    let opaque = pixels.pixels().all(|pixel| pixel.0[3] == u8::MAX);
    let pixels = DynamicImage::ImageRgba8(pixels);
    if opaque { pixels.into_rgb8().into() } else { pixels }
}

fn multiply_by_alpha(pixels: &mut RgbaImage) {
    for pixel in pixels.pixels_mut() {
        let [red, green, blue, alpha] = pixel.0;
        if alpha != u8::MAX {
            let scaled = |value: u8| ((u16::from(value) * u16::from(alpha) + 127) / 255) as u8;
            pixel.0 = [scaled(red), scaled(green), scaled(blue), alpha];
        }
    }
}

fn divide_by_alpha(pixels: &mut RgbaImage) {
    for pixel in pixels.pixels_mut() {
        let [red, green, blue, alpha] = pixel.0;
        if alpha != 0 && alpha != u8::MAX {
            let half = u16::from(alpha) / 2;
            let scaled = |value: u8| ((u16::from(value) * 255 + half) / u16::from(alpha)).min(255) as u8;
            pixel.0 = [scaled(red), scaled(green), scaled(blue), alpha];
        }
    }
}

/// The picture as it looks on a white page.
fn over_white(pixels: &DynamicImage) -> RgbImage {
    let pixels = pixels.to_rgba8();
    let mut flat = RgbImage::new(pixels.width(), pixels.height());
    for (flat, pixel) in flat.pixels_mut().zip(pixels.pixels()) {
        let [red, green, blue, alpha] = pixel.0.map(u16::from);
        flat.0 = [red, green, blue].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
    }
    flat
}
