//! Images that are refused because of their size.

use std::time::{Duration, Instant};

use image::ImageFormat;

use super::samples::*;
use super::{Limits, Refusal, try_inspect};

fn refused(upload: &[u8], limits: &Limits) -> String {
    let start = Instant::now();
    let result = try_inspect(upload, limits);
    assert!(start.elapsed() < Duration::from_secs(10));
    match result {
        Err(Refusal::TooLarge(reason)) => reason,
        Err(error) => panic!("{error:?}"),
        Ok(outcome) => panic!("{:?}", outcome.inspected),
    }
}

#[test]
fn headers_that_declare_a_huge_image() {
    let mut header = words(&[50_000, 50_000]);
    header.extend([8, 2, 0, 0, 0]);
    let png = [b"\x89PNG\r\n\x1a\n".to_vec(), png_chunk(b"IHDR", &header)].concat();
    let jpeg = [vec![0xFF, 0xD8], jpeg_segment(0xC0, b"\x08\xC3\x50\xC3\x50\x01\x01\x11\0")].concat();
    let gif = b"GIF89a\xFF\xFF\xFF\xFF\0\0\0".to_vec();
    let webp = riff(b"WEBP", &[webp_header(0, 50_000, 50_000)]);
    for upload in [png, jpeg, gif, webp] {
        assert!(refused(&upload, &Limits::default()).contains(" x "));
    }
}

#[test]
fn each_limit_of_one_picture() {
    let upload = encode(photo(60, 40), ImageFormat::Png);
    assert!(try_inspect(&upload, &Limits { max_pixels: 2_400, max_side: 60, ..Limits::default() }).is_ok());
    refused(&upload, &Limits { max_pixels: 2_399, ..Limits::default() });
    refused(&upload, &Limits { max_side: 59, ..Limits::default() });
}

#[test]
fn a_gif_with_too_many_frames() {
    let mut upload = b"GIF89a\x01\0\x01\0\0\0\0".to_vec();
    for _ in 0..10_000 {
        upload.extend(b"\x2C\0\0\0\0\x01\0\x01\0\x80\0\0\0\xFF\xFF\xFF\x02\x02\x44\x01\0");
    }
    upload.push(0x3B);
    assert!(refused(&upload, &Limits::default()).contains("1000 frames"));
    assert!(try_inspect(&upload, &Limits { max_frames: 10_000, ..Limits::default() }).is_ok());
}

#[test]
fn animations_with_too_many_frames_or_pixels() {
    let pictures = [quarters(20, 10), photo(20, 10), photo(20, 10)];
    for upload in [gif(&pictures), apng(&pictures), animated_webp(&pictures)] {
        refused(&upload, &Limits { max_frames: 2, ..Limits::default() });
        refused(&upload, &Limits { max_total_pixels: 599, ..Limits::default() });
        assert!(try_inspect(&upload, &Limits { max_frames: 3, max_total_pixels: 600, ..Limits::default() }).is_ok());
    }
}

#[test]
fn a_jpeg_with_too_many_scans() {
    let plain = jpeg(&photo(16, 16));
    let scan = plain.windows(2).position(|two| two == [0xFF, 0xDA]).unwrap();
    let scans = plain[scan..plain.len() - 2].repeat(200);
    let upload = [&plain[..scan], &scans, &[0xFF, 0xD9]].concat();
    assert!(refused(&upload, &Limits::default()).contains("scans"));
}
