//! Images that are stored turned, as cameras do.

use image::{DynamicImage, ImageFormat, RgbImage};

use super::samples::*;
use super::{contains, inspect_bytes};

/// The upright picture has red, green, blue and white quarters. This is how a camera stores it with an orientation.
fn stored(upright: &RgbImage, orientation: u16) -> RgbImage {
    let upright = DynamicImage::from(upright.clone());
    // The inverse of each orientation.
    match orientation {
        2 => upright.fliph(),
        3 => upright.rotate180(),
        4 => upright.flipv(),
        5 => upright.rotate90().fliph(),
        6 => upright.rotate270(),
        7 => upright.rotate270().fliph(),
        8 => upright.rotate90(),
        _ => upright,
    }
    .into_rgb8()
}

fn check(upload: &[u8], orientation: u16) {
    let outcome = inspect_bytes(upload);
    assert_eq!((outcome.inspected.width, outcome.inspected.height), (Some(48), Some(32)), "{orientation}");
    assert!(outcome.inspected.cleaned);
    assert!(!contains(&outcome.stored, PLACE));
    let thumbnail = outcome.inspected.thumbnail.unwrap();
    for bytes in [&outcome.stored, &thumbnail.bytes] {
        let pixels = decoded(bytes).into_rgb8();
        assert_eq!(pixels.dimensions(), (48, 32));
        for (x, y, expected) in [(6, 4, [255, 0, 0]), (42, 4, [0, 255, 0]), (6, 28, [0, 0, 255]), (42, 28, [255; 3])] {
            let found = pixels.get_pixel(x, y).0;
            let close = found.iter().zip(expected).all(|(found, expected)| found.abs_diff(expected) < 40);
            assert!(close, "orientation {orientation}, {x} x {y}: {found:?} instead of {expected:?}");
        }
    }
}

#[test]
fn each_orientation_of_each_format_is_shown_upright() {
    let upright = quarters(48, 32);
    for orientation in 1..=8 {
        let pixels = stored(&upright, orientation);
        check(&jpeg_with_exif(&jpeg(&pixels), orientation), orientation);
        let png = encode(pixels.clone(), ImageFormat::Png);
        check(&png_with(&png, &[png_chunk(b"eXIf", &exif(orientation))]), orientation);
        check(&webp_with_metadata(&pixels, orientation), orientation);
    }
}

#[test]
fn a_turned_jpeg_keeps_its_colour_profile() {
    let mut profile = vec![0; 200];
    profile[16..20].copy_from_slice(b"RGB ");
    let segment = jpeg_segment(0xE2, &[b"ICC_PROFILE\0\x01\x01", profile.as_slice()].concat());
    let upload = jpeg_with_exif(&jpeg_with(&jpeg(&quarters(48, 32)), &[segment]), 6);
    let outcome = inspect_bytes(&upload);
    assert!(contains(&outcome.stored, &profile));
    assert!(contains(&outcome.inspected.thumbnail.unwrap().bytes, &profile));
}

#[test]
fn an_unknown_orientation_changes_nothing() {
    let plain = jpeg(&quarters(48, 32));
    for orientation in [0, 1, 9, 65_535] {
        assert_eq!(inspect_bytes(&jpeg_with_exif(&plain, orientation)).stored, plain);
    }
    let broken = [jpeg_segment(0xE1, b"Exif\0\0MM\0\x2A\xFF\xFF\xFF\xFF")];
    assert_eq!(inspect_bytes(&jpeg_with(&plain, &broken)).stored, plain);
}
