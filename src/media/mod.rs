//! Inspection of one finished upload on local disk: its type, its measures, a thumbnail, and a copy without private metadata.
//!
//! All functions block. The caller runs them on a bounded pool of threads, because one image may need memory for
//! `Limits::max_pixels` pixels.
//!
//! Invariant: nothing that the sender claims is believed. The type comes from the bytes. An image is measured while its
//! container is walked, in blocks and without decoding, and a file over the limits is refused before a decoder sees it. A decoder
//! that panics has the same effect as a decoder that returns an error.

mod audio;
mod blurhash;
mod decode;
mod erasure;
mod exif;
mod gif;
mod heif;
mod images;
mod iso;
mod jpeg;
mod matroska;
mod ogg;
mod png;
mod reader;
mod samples;
mod sniff;
#[cfg(test)]
mod tests;
mod thumbnail;
mod waveform;
mod webp;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use sniff::Format;

/// What an image may cost. Exceeding a limit is [`Refusal::TooLarge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum width times height, in pixels, of an image and of each of its frames.
    pub max_pixels: u64,
    /// Maximum number of frames of an animation.
    pub max_frames: u32,
    /// Maximum width and maximum height, in pixels.
    pub max_side: u32,
    /// Maximum sum of the pixels of all frames of an animation. A progressive JPEG counts each of its scans as a frame.
    pub max_total_pixels: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: 50_000_000, max_frames: 1_000, max_side: 20_000, max_total_pixels: 1_000_000_000 }
    }
}

/// Why an upload is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// An image with too many pixels or frames. The text says which limit was exceeded.
    #[error("{0}")]
    TooLarge(String),
    /// The first bytes are those of an image, but the image cannot be read. The text says what is wrong.
    #[error("{0}")]
    Damaged(String),
    /// The disk failed. This says nothing about the upload.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    /// A file that ends too early is damaged. All other errors are errors of the disk.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("the file ends before its last block".to_owned()),
            _ => Self::Io(error),
        }
    }
}

/// How a client shows a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JPEG, PNG, GIF or WebP.
    Image,
    /// Sound without moving pictures.
    Audio,
    /// Moving pictures.
    Video,
    /// All other files, which includes SVG, HTML, AVIF and HEIC. The server never decodes them.
    Other,
}

/// A small still picture of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumbnail {
    /// The encoded picture.
    pub bytes: Vec<u8>,
    /// `image/jpeg`, or `image/png` if some pixels are transparent.
    pub content_type: &'static str,
    /// In pixels, from 1 to 360.
    pub width: u32,
    /// In pixels, from 1 to 360.
    pub height: u32,
}

/// What is known about an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// The type that the bytes have. `application/octet-stream` if it is unknown; `text/plain; charset=utf-8` if the file is
    /// valid UTF-8 without U+0000.
    pub content_type: String,
    /// How a client shows the file.
    pub kind: Kind,
    /// In pixels, as displayed: after rotation. Null if the file has no picture or its size is unknown.
    pub width: Option<u32>,
    /// In pixels, as displayed: after rotation. Null if the file has no picture or its size is unknown.
    pub height: Option<u32>,
    /// A BlurHash of 4 by 3 components. Images only.
    pub blurhash: Option<String>,
    /// Duration in milliseconds. Audio and video only; null if it is unknown.
    pub duration_ms: Option<u64>,
    /// The loudness of 64 equal parts. The loudest part has 255; all parts of a silent recording have 0. Audio only; `None` if the
    /// codec is unknown, the recording is longer than 30 minutes, or it cannot be decoded within 10 s.
    pub waveform: Option<[u8; 64]>,
    /// The image has more than one frame.
    pub animated: bool,
    /// True if `target` holds the bytes to store. False if the source is to be stored as it is; then `target` does not exist.
    pub cleaned: bool,
    /// Images only.
    pub thumbnail: Option<Thumbnail>,
}

impl Inspected {
    /// A file of which only the type is known.
    fn unmeasured(content_type: &str, kind: Kind) -> Self {
        Self {
            content_type: content_type.to_owned(),
            kind,
            width: None,
            height: None,
            blurhash: None,
            duration_ms: None,
            waveform: None,
            animated: false,
            cleaned: false,
            thumbnail: None,
        }
    }
}

/// The media type of a JPEG, PNG, GIF or WebP file, by its first bytes. The rest of the file can still be damaged.
pub fn image_type(head: &[u8]) -> Option<&'static str> {
    sniff::image_type(head)
}

/// Inspects the file `source`. If it holds something that must not be stored, such as the place where a photo was taken, a
/// cleaned copy is written to `target`, which is replaced if it exists. The copy is not synced to disk. `source` is not changed.
///
/// # Errors
/// [`Refusal::TooLarge`] and [`Refusal::Damaged`] for images only: files of other kinds are stored as they are if they cannot be
/// read. [`Refusal::Io`] if a file cannot be read or written. After an error, `target` does not exist.
pub fn inspect(source: &Path, target: &Path, limits: &Limits) -> Result<Inspected, Refusal> {
    let result = inspect_format(sniff::sniff(source)?, source, target, limits);
    if !result.as_ref().is_ok_and(|inspected| inspected.cleaned)
        && let Err(error) = std::fs::remove_file(target)
        && error.kind() != io::ErrorKind::NotFound
        && result.is_ok()
    {
        return Err(Refusal::Io(error));
    }
    result
}

fn inspect_format(format: Format, source: &Path, target: &Path, limits: &Limits) -> Result<Inspected, Refusal> {
    if let Some(image_format) = format.image_format() {
        let inspected = caught(|| images::inspect(image_format, source, target, limits));
        return inspected.unwrap_or_else(|| Err(Refusal::Damaged("the image cannot be decoded".to_owned())));
    }
    let unmeasured = Inspected::unmeasured(format.content_type(), format.kind());
    let inspected = caught(|| match format {
        Format::IsoMedia(_) => iso::inspect(unmeasured.clone(), source, target),
        Format::Heif(_) => heif::inspect(unmeasured.clone(), source, target),
        Format::Matroska(_) => matroska::inspect(unmeasured.clone(), source),
        Format::Ogg => ogg::inspect(unmeasured.clone(), source),
        Format::Sound(sound) => Ok(audio::measure(sound, source).into_inspected(unmeasured.clone())),
        _ => Ok(unmeasured.clone()),
    });
    inspected.unwrap_or(Ok(unmeasured))
}

/// Runs a function and turns its panic into `None`. Files of senders reach decoders that other projects maintain.
fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    // What the function changed is dropped with it: local buffers, and a target file that the caller deletes.
    catch_unwind(AssertUnwindSafe(work)).ok()
}
