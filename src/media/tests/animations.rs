//! Animations keep their frames and their delays.

use std::io::Cursor;

use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, Frame, RgbImage};

use super::samples::*;
use super::{contains, inspect_bytes};

fn pictures() -> [RgbImage; 3] {
    [quarters(40, 24), photo(40, 24), RgbImage::new(40, 24)]
}

fn delays_ms(frames: &[Frame]) -> Vec<u32> {
    frames.iter().map(|frame| frame.delay().numer_denom_ms().0 / frame.delay().numer_denom_ms().1).collect()
}

#[test]
fn a_gif() {
    let plain = gif(&pictures());
    let outcome = inspect_bytes(&[plain.clone(), b"tail".to_vec()].concat());
    assert!(outcome.inspected.animated);
    assert_eq!(outcome.stored, plain);
    let frames = GifDecoder::new(Cursor::new(outcome.stored)).unwrap().into_frames().collect_frames().unwrap();
    assert_eq!(delays_ms(&frames), [100, 200, 300]);
}

#[test]
fn a_webp() {
    let outcome = inspect_bytes(&animated_webp(&pictures()));
    assert!(outcome.inspected.animated && outcome.inspected.cleaned);
    assert!(!contains(&outcome.stored, PLACE));
    // The orientation of an animation is ignored.
    assert_eq!((outcome.inspected.width, outcome.inspected.height), (Some(40), Some(24)));
    let frames = WebPDecoder::new(Cursor::new(&outcome.stored)).unwrap().into_frames().collect_frames().unwrap();
    assert_eq!(delays_ms(&frames), [100, 200, 300]);
    for (frame, expected) in frames.into_iter().zip(pictures()) {
        assert_eq!(image::DynamicImage::from(frame.into_buffer()).into_rgb8(), expected);
    }
    assert!(!inspect_bytes(&outcome.stored).inspected.cleaned, "cleaning again changes nothing");
}

#[test]
fn a_png() {
    let plain = apng(&pictures());
    let outcome = inspect_bytes(&png_with(&plain, &[png_chunk(b"tEXt", PLACE)]));
    assert!(outcome.inspected.animated && outcome.inspected.cleaned);
    assert_eq!(outcome.stored, plain);
    let decoder = PngDecoder::new(Cursor::new(outcome.stored)).unwrap().apng().unwrap();
    assert_eq!(delays_ms(&decoder.into_frames().collect_frames().unwrap()), [100, 100, 100]);
}

#[test]
fn one_frame_is_not_an_animation() {
    let [picture, ..] = pictures();
    let one = std::slice::from_ref(&picture);
    for upload in [gif(one), apng(one), animated_webp(one)] {
        assert!(!inspect_bytes(&upload).inspected.animated);
    }
}
