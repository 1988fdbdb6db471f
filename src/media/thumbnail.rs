//! Thumbnails.
//!
//! Invariant: a thumbnail has the aspect ratio of its image (rounded to whole pixels), is never larger, and has no metadata except a small
//! colour profile.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{DynamicImage, RgbImage, RgbaImage};

use super::decode::{Picture, write};
use super::images::damaged;
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
    let shrunk = if picture.pixels.has_alpha() {
        shrink_transparent(picture.pixels, MAX_SIDE)
    } else {
        shrink_opaque(&picture.pixels, MAX_SIDE)
    };
    let pixels = shrunk.ok_or_else(|| damaged("the image has no thumbnail"))?;
    let (width, height) = (pixels.width(), pixels.height());
    let small = shrink_transparent(pixels.to_rgba8().into(), SMALL_SIDE);
    let small = over_white(&small.ok_or_else(|| damaged("the image has no thumbnail"))?);
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

/// Returns pixels of 8 bits without an alpha channel.
fn shrink_opaque(pixels: &DynamicImage, side: u32) -> Option<DynamicImage> {
    let size = (pixels.width(), pixels.height());
    let small = fitting_size(size.0, size.1, side);
    let add = |sum: u64, value: u8| sum + u64::from(value);
    if let DynamicImage::ImageLuma8(_) | DynamicImage::ImageLuma16(_) = pixels {
        let grey = pixels.to_luma8();
        let bytes = shrink(&grey, size, small, |[sum], [value]: [u8; 1]| [add(sum, value)], mean);
        return image::GrayImage::from_raw(small.0, small.1, bytes).map(DynamicImage::from);
    }
    // A photo is not copied: it may have 150 MB.
    let converted;
    let colours = match pixels {
        DynamicImage::ImageRgb8(colours) => colours,
        other => {
            converted = other.to_rgb8();
            &converted
        }
    };
    let bytes = shrink(
        colours,
        size,
        small,
        |[r, g, b], [red, green, blue]: [u8; 3]| [add(r, red), add(g, green), add(b, blue)],
        mean,
    );
    RgbImage::from_raw(small.0, small.1, bytes).map(DynamicImage::from)
}

/// Returns pixels of 8 bits, with an alpha channel only if a pixel is transparent.
fn shrink_transparent(pixels: DynamicImage, side: u32) -> Option<DynamicImage> {
    let mut pixels = pixels.into_rgba8();
    let size = pixels.dimensions();
    let small = fitting_size(size.0, size.1, side);
    if small != size {
        // Each colour counts as much as it is visible. Otherwise the invisible colours of transparent pixels would show at the
        // edges.
        let add = |sums: [u64; 4], [red, green, blue, alpha]: [u8; 4]| {
            let [r, g, b, a] = sums;
            let weighted = |sum: u64, value: u8| sum + u64::from(value) * u64::from(alpha);
            [weighted(r, red), weighted(g, green), weighted(b, blue), a + u64::from(alpha)]
        };
        let visible_mean = |[r, g, b, a]: [u64; 4], count: u64| {
            let ([red, green, blue], [alpha]) = (mean([r, g, b], a), mean([a], count));
            [red, green, blue, alpha]
        };
        let bytes = shrink(&pixels, size, small, add, visible_mean);
        pixels = RgbaImage::from_raw(small.0, small.1, bytes)?;
    }
    let opaque = pixels.pixels().all(|pixel| pixel.0[3] == u8::MAX);
    let pixels = DynamicImage::ImageRgba8(pixels);
    Some(if opaque { pixels.into_rgb8().into() } else { pixels })
}

/// Sums divided by their number, rounded. Zero if the number is zero.
fn mean<const N: usize>(sums: [u64; N], count: u64) -> [u8; N] {
    // A mean of bytes is a byte.
    sums.map(|sum| (sum + count / 2).checked_div(count).unwrap_or_default() as u8)
}

/// Makes each pixel of a smaller picture from the pixels that it covers: their sums by `add`, and the result by `finish`, which
/// gets the number of pixels. The small size must not be larger than the size in any direction. This is four times as fast as the
/// function of the image library, which looks up each pixel by its coordinates.
fn shrink<const N: usize>(
    source: &[u8],
    (width, height): (u32, u32),
    (small_width, small_height): (u32, u32),
    add: impl Fn([u64; N], [u8; N]) -> [u64; N],
    finish: impl Fn([u64; N], u64) -> [u8; N],
) -> Vec<u8> {
    let covered = |index: u32, length: u32, small_length: u32| {
        let edge = |index: u64| index * u64::from(length) / u64::from(small_length);
        (edge(u64::from(index) + 1) - edge(index.into())) as usize
    };
    let columns: Vec<usize> = (0..small_width).map(|index| covered(index, width, small_width)).collect();
    let mut rows = source.chunks_exact(width as usize * N);
    let mut bytes = Vec::with_capacity(small_width as usize * small_height as usize * N);
    for index in 0..small_height {
        let mut sums = vec![[0; N]; columns.len()];
        let row_count = covered(index, height, small_height);
        for row in rows.by_ref().take(row_count) {
            let mut pixels = row.as_chunks::<N>().0;
            for (sum, column_count) in sums.iter_mut().zip(&columns) {
                let (here, rest) = pixels.split_at(pixels.len().min(*column_count));
                *sum = here.iter().fold(*sum, |sum, pixel| add(sum, *pixel));
                pixels = rest;
            }
        }
        for (sum, column_count) in sums.into_iter().zip(&columns) {
            bytes.extend(finish(sum, (column_count * row_count) as u64));
        }
    }
    bytes
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
