//! Thumbnails and BlurHashes.

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

use super::samples::*;
use super::{Kind, inspect_bytes};

#[test]
fn a_thumbnail_keeps_the_shape_and_is_never_larger_than_the_image() {
    for (size, expected) in [
        ((1000, 500), (360, 180)),
        ((500, 1000), (180, 360)),
        ((360, 360), (360, 360)),
        ((361, 10), (360, 10)),
        ((20, 30), (20, 30)),
        ((5000, 2), (360, 1)),
        ((1, 1), (1, 1)),
    ] {
        let outcome = inspect_bytes(&encode(photo(size.0, size.1), ImageFormat::Png));
        assert_eq!(outcome.inspected.kind, Kind::Image);
        assert_eq!((outcome.inspected.width, outcome.inspected.height), (Some(size.0), Some(size.1)));
        let thumbnail = outcome.inspected.thumbnail.unwrap();
        assert_eq!((thumbnail.width, thumbnail.height), expected);
        assert_eq!(thumbnail.content_type, "image/jpeg");
        let pixels = decoded(&thumbnail.bytes);
        assert_eq!((pixels.width(), pixels.height()), expected);
    }
}

#[test]
fn a_transparent_image_has_a_transparent_thumbnail() {
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let outcome = inspect_bytes(&encode(half_transparent(721, 400), format));
        let thumbnail = outcome.inspected.thumbnail.unwrap();
        assert_eq!(thumbnail.content_type, "image/png");
        let pixels = decoded(&thumbnail.bytes).into_rgba8();
        assert_eq!(pixels.get_pixel(10, 10).0[3], 0);
        // The invisible black does not darken the edge.
        for pixel in pixels.pixels().filter(|pixel| pixel.0[3] > 0) {
            assert!(pixel.0[0] > 250, "{pixel:?}");
        }
    }
}

#[test]
fn an_opaque_image_with_an_alpha_channel_has_a_jpeg_thumbnail() {
    let pixels = DynamicImage::from(photo(50, 50)).into_rgba8();
    let outcome = inspect_bytes(&encode(pixels, ImageFormat::Png));
    assert_eq!(outcome.inspected.thumbnail.unwrap().content_type, "image/jpeg");
}

#[test]
fn pictures_of_other_depths() {
    for pixels in [
        DynamicImage::from(photo(400, 50)).into_luma8().into(),
        DynamicImage::from(photo(400, 50)).into_luma_alpha8().into(),
        DynamicImage::from(photo(400, 50)).into_luma16().into(),
        DynamicImage::from(photo(400, 50)).into_rgb16().into(),
        DynamicImage::from(photo(400, 50)).into_rgba16().into(),
    ] {
        let pixels: DynamicImage = pixels;
        let outcome = inspect_bytes(&encode(pixels, ImageFormat::Png));
        assert_eq!(outcome.inspected.thumbnail.unwrap().width, 360);
    }
}

#[test]
fn a_blurhash_of_one_colour() {
    // Components 4 x 3, no variation, and the colour in four digits.
    let outcome = inspect_bytes(&encode(RgbImage::from_pixel(64, 64, Rgb([255, 255, 255])), ImageFormat::Png));
    let hash = outcome.inspected.blurhash.unwrap();
    assert_eq!(hash.len(), 28);
    assert!(hash.starts_with('L'), "{hash}");
    assert_eq!(&hash[2..6], "TSUA", "{hash}");
}

#[test]
fn a_blurhash_shows_where_the_colours_are() {
    // The sign of the horizontal wave: more light on the left is positive, and 9 is zero.
    let half = RgbImage::from_fn(64, 64, |x, _| if x < 32 { Rgb([255; 3]) } else { Rgb([0; 3]) });
    let hash = inspect_bytes(&encode(half, ImageFormat::Png)).inspected.blurhash.unwrap();
    let digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz#$%*+,-.:;=?@[]^_{|}~";
    let number = hash[6..8].chars().fold(0, |number, digit| number * 83 + digits.find(digit).unwrap());
    assert_eq!((number / 361, number / 19 % 19, number % 19), (18, 18, 18), "{hash}");
}
