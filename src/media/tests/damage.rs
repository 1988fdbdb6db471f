//! Damaged files of each format: inspection never panics and never takes long.

use std::cell::Cell;
use std::panic;
use std::sync::Once;
use std::time::{Duration, Instant};

use image::ImageFormat;

use super::containers::heic;
use super::samples::*;
use super::{Limits, Refusal, try_inspect};

/// Flips of single bytes for each format.
const FLIPS: u64 = 2_000;

thread_local! {
    /// Panics of the code of this crate in the test's thread, which inspection hides. Panics of decoders are expected.
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Counts panics, and passes those outside of decoders on to the usual hook.
fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let file = panic.location().map(|location| location.file()).unwrap_or_default();
            if file.starts_with("src/media/") && !file.contains("/tests/") {
                PANICS.set(PANICS.get() + 1);
            }
            if file.starts_with("src/") {
                usual(panic);
            }
        }));
    });
}

/// A generator of numbers (xorshift64*), the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

/// The memory of a decoder takes time in a debug build.
fn limits() -> Limits {
    Limits { max_pixels: 4_000_000, ..Limits::default() }
}

fn inspect_in_time(upload: &[u8], what: &dyn Fn() -> String) -> bool {
    let start = Instant::now();
    let result = try_inspect(upload, &limits());
    let elapsed = start.elapsed();
    assert_eq!(PANICS.get(), 0, "{}: a panic", what());
    assert!(elapsed < Duration::from_secs(20), "{} took {elapsed:?}", what());
    match result {
        Ok(_) => true,
        Err(Refusal::Io(error)) => panic!("{}: {error}", what()),
        Err(_) => false,
    }
}

fn check(name: &str, upload: &[u8], refused_if_cut: bool) {
    count_panics();
    assert!(inspect_in_time(upload, &|| name.to_owned()), "{name} is not valid");
    for part in 0..50 {
        let length = upload.len() * part / 50;
        let accepted = inspect_in_time(&upload[..length], &|| format!("{name} cut to {length} bytes"));
        // Less than a signature is no image.
        assert!(!accepted || !refused_if_cut || length < 12, "{name} cut to {length} bytes was accepted");
    }
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for round in 0..FLIPS {
        let mut flipped = upload.to_vec();
        // Some rounds damage more than one byte, and half of them damage the header.
        for _ in 0..1 + round % 3 {
            let reach = if round % 2 == 0 { flipped.len() } else { flipped.len().min(256) };
            let at = random.below(reach);
            flipped[at] ^= 1 << random.below(8);
        }
        inspect_in_time(&flipped, &|| format!("{name}, flip {round}"));
    }
}

#[test]
fn jpeg_files() {
    let upload = jpeg_with_exif(&jpeg(&photo(40, 30)), 6);
    check("jpeg", &upload, true);
}

#[test]
fn png_files() {
    let upload = encode(photo(24, 20), ImageFormat::Png);
    check("png", &png_with(&upload, &[png_chunk(b"eXIf", &exif(3))]), true);
    check("apng", &apng(&[photo(16, 12), quarters(16, 12)]), true);
}

#[test]
fn gif_files() {
    check("gif", &gif(&[photo(16, 12), quarters(16, 12)]), true);
}

#[test]
fn webp_files() {
    check("webp", &webp_with_metadata(&photo(24, 20), 8), true);
    check("animated webp", &animated_webp(&[photo(16, 12), quarters(16, 12)]), true);
}

#[test]
fn videos() {
    check("mp4", &mp4(false), false);
    check("heic", &heic(), false);
    check("webm", &webm(1, Some(1000.0), &[]), false);
}

#[test]
fn sound() {
    check("wav", &wav(&[0.5, 0.2]), false);
    let mp3_frame = [vec![0xFF, 0xFB, 0x90, 0], vec![0; 413]].concat();
    check("mp3", &mp3_frame.repeat(5), false);
    let adts_frame = [vec![0xFF, 0xF1, 0x50, 0x80, 0x02, 0x1F, 0xFC], vec![0; 9]].concat();
    check("aac", &adts_frame.repeat(20), false);
    let head = b"OpusHead\x01\x01\x38\x01\x80\xBB\0\0\0\0\0";
    check("opus", &[ogg_page(2, 0, head), ogg_page(4, 96_312, &[1; 200])].concat(), false);
}
