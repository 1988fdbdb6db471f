//! What cleaning removes, and what it keeps.

use image::ImageFormat;

use super::samples::*;
use super::{contains, inspect_bytes};

#[test]
fn a_jpeg_loses_its_metadata_and_keeps_its_pixels() {
    let plain = jpeg(&photo(64, 48));
    let mut jfif = b"JFIF\0\x01\x02\0\0\x01\0\x01\x01\x01".to_vec();
    jfif.extend(b"thu");
    let upload = jpeg_with(
        &plain,
        &[
            jpeg_segment(0xE0, &jfif),
            jpeg_segment(0xE1, &[b"Exif\0\0".to_vec(), exif(1)].concat()),
            jpeg_segment(0xE1, &[b"http://ns.adobe.com/xap/1.0/\0", PLACE].concat()),
            jpeg_segment(0xE2, &[b"MPF\0", PLACE].concat()),
            jpeg_segment(0xED, PLACE),
            jpeg_segment(0xFE, PLACE),
            vec![0xFF, 0xFF, 0xFF],
        ],
    );
    // Fill bytes belong before a marker.
    let upload = [upload, PLACE.to_vec()].concat();
    let outcome = inspect_bytes(&upload);
    assert!(outcome.inspected.cleaned);
    assert!(!contains(&outcome.stored, PLACE));
    assert!(!contains(&outcome.stored, b"thu"));
    assert!(contains(&outcome.stored, b"JFIF"));
    assert!(outcome.stored.ends_with(&plain[plain.len() - 500..]), "the compressed pixels are the same");
    assert_eq!(decoded(&outcome.stored), decoded(&plain));
}

#[test]
fn a_jpeg_keeps_its_colour_profile_and_its_colour_transform() {
    let upload = jpeg_with_exif(&jpeg(&photo(32, 32)), 1);
    let profile = jpeg_segment(0xE2, b"ICC_PROFILE\0\x01\x01profile");
    let transform = jpeg_segment(0xEE, b"Adobe\0\x64\0\0\0\0\x01");
    let outcome = inspect_bytes(&jpeg_with(&upload, &[profile.clone(), transform.clone()]));
    assert!(contains(&outcome.stored, &profile));
    assert!(contains(&outcome.stored, &transform));
    assert!(!contains(&outcome.stored, PLACE));
}

#[test]
fn a_png_loses_its_metadata_and_keeps_its_pixels() {
    let plain = encode(photo(64, 48), ImageFormat::Png);
    let gamma = png_chunk(b"gAMA", &[0, 0, 0xB1, 0x8F]);
    let upload = png_with(
        &plain,
        &[
            gamma.clone(),
            png_chunk(b"tEXt", &[b"Location\0", PLACE].concat()),
            png_chunk(b"iTXt", &[b"XML:com.adobe.xmp\0\0\0\0\0", PLACE].concat()),
            png_chunk(b"eXIf", &exif(1)),
            png_chunk(b"prVt", PLACE),
        ],
    );
    let outcome = inspect_bytes(&[upload, PLACE.to_vec()].concat());
    assert!(outcome.inspected.cleaned);
    assert_eq!(outcome.stored, png_with(&plain, &[gamma]));
}

#[test]
fn a_webp_loses_its_metadata_and_keeps_its_pixels() {
    let pixels = photo(64, 48);
    let upload = webp_with_metadata(&pixels, 1);
    let outcome = inspect_bytes(&[upload, PLACE.to_vec()].concat());
    assert!(outcome.inspected.cleaned);
    assert_eq!(outcome.stored, riff(b"WEBP", &[webp_header(0, 64, 48), webp_pixels(&pixels)]));
    assert_eq!(decoded(&outcome.stored).into_rgb8(), pixels);
}

#[test]
fn a_gif_loses_its_metadata_and_the_bytes_behind_its_trailer() {
    let plain = gif(&[quarters(16, 16), photo(16, 16)]);
    // Behind the header, which has no colour table.
    let table_bytes = if plain[10] & 0x80 == 0 { 0 } else { 3 << ((plain[10] & 7) + 1) };
    let (head, rest) = plain.split_at(13 + table_bytes);
    let blocks = |label: u8, texts: &[&[u8]]| {
        let mut bytes = vec![0x21, label];
        for text in texts {
            bytes.push(text.len() as u8);
            bytes.extend(*text);
        }
        bytes.push(0);
        bytes
    };
    let comment = blocks(0xFE, &[PLACE]);
    let xmp = blocks(0xFF, &[b"XMP DataXMP", PLACE]);
    let text = [blocks(0xF9, &[&[0, 1, 2, 3]]), blocks(0x01, &[&[0; 12], PLACE])].concat();
    let page = b"<html><script>alert(1)</script></html>";
    let upload = [head, &comment, &xmp, &text, rest, page].concat();
    let outcome = inspect_bytes(&upload);
    assert!(outcome.inspected.cleaned);
    assert_eq!(outcome.stored, plain);
}

#[test]
fn files_without_metadata_are_stored_as_they_are() {
    let pixels = photo(40, 30);
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Jpeg] {
        assert!(!inspect_bytes(&encode(pixels.clone(), format)).inspected.cleaned, "{format:?}");
    }
    assert!(!inspect_bytes(&gif(std::slice::from_ref(&pixels))).inspected.cleaned);
    assert!(!inspect_bytes(&apng(&[pixels.clone(), pixels])).inspected.cleaned);
}
