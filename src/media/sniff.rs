//! The type of a file, from its bytes.
//!
//! Invariant: a file is an image only if its first bytes are the signature of an image format. Markup is never an image.

use std::io;
use std::path::Path;

use image::ImageFormat;

use super::Kind;
use super::reader::{BlockReader, big_endian, each_block};

/// Bytes at the start of a file that are compared with signatures.
const HEAD_BYTES: usize = 4096;

/// What the parsers of this module can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Image(ImageFormat),
    /// AVIF or HEIC, with the content type.
    Heif(&'static str),
    /// MP4, QuickTime and their relatives, with the content type.
    IsoMedia(&'static str),
    /// Matroska or WebM, with the content type.
    Matroska(&'static str),
    Ogg,
    Sound(Sound),
    /// All other files, with the content type.
    Other(&'static str),
}

/// Sound that is not in a container for several tracks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sound {
    /// `tag_bytes` is the length of the ID3v2 tag before the first frame.
    Mp3 {
        tag_bytes: u64,
    },
    /// AAC in ADTS frames, behind an ID3v2 tag of `tag_bytes`.
    Adts {
        tag_bytes: u64,
    },
    Wave,
    /// FLAC, behind an ID3v2 tag of `tag_bytes`.
    Flac {
        tag_bytes: u64,
    },
}

impl Format {
    pub(super) fn image_format(self) -> Option<ImageFormat> {
        match self {
            Self::Image(format) => Some(format),
            _ => None,
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Image(format) => format.to_mime_type(),
            Self::Heif(name) | Self::IsoMedia(name) | Self::Matroska(name) | Self::Other(name) => name,
            Self::Ogg => "audio/ogg",
            Self::Sound(Sound::Mp3 { .. }) => "audio/mpeg",
            Self::Sound(Sound::Adts { .. }) => "audio/aac",
            Self::Sound(Sound::Wave) => "audio/wav",
            Self::Sound(Sound::Flac { .. }) => "audio/flac",
        }
    }

    /// The kind of a file of this format whose tracks are unknown.
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Image(_) => Kind::Image,
            Self::IsoMedia("audio/mp4") | Self::Ogg | Self::Sound(_) => Kind::Audio,
            Self::IsoMedia(_) | Self::Matroska(_) => Kind::Video,
            Self::Heif(_) | Self::Other(_) => Kind::Other,
        }
    }
}

/// Signatures at the start of a file.
const SIGNATURES: &[(&[u8], Format)] = &[
    (b"\xFF\xD8\xFF", Format::Image(ImageFormat::Jpeg)),
    (b"\x89PNG\r\n\x1a\n", Format::Image(ImageFormat::Png)),
    (b"GIF87a", Format::Image(ImageFormat::Gif)),
    (b"GIF89a", Format::Image(ImageFormat::Gif)),
    (b"OggS", Format::Ogg),
    (b"fLaC", Format::Sound(Sound::Flac { tag_bytes: 0 })),
    (b"%PDF-", Format::Other("application/pdf")),
    (b"PK\x03\x04", Format::Other("application/zip")),
    (b"PK\x05\x06", Format::Other("application/zip")),
    (b"\x1F\x8B\x08", Format::Other("application/gzip")),
    (b"7z\xBC\xAF\x27\x1C", Format::Other("application/x-7z-compressed")),
];

/// Starts of documents that a browser would render. The comparison ignores case.
const HTML_STARTS: &[&str] = &[
    "<!doctype html",
    "<html",
    "<head",
    "<body",
    "<script",
    "<iframe",
    "<title",
    "<style",
    "<table",
    "<div",
    "<p>",
    "<a ",
    "<br",
    "<h1",
    "<img",
    "<meta",
    "<link",
];

/// Finds out the format. Reads the whole file only if it may be text.
pub(super) fn sniff(path: &Path) -> io::Result<Format> {
    let mut reader = BlockReader::open(path)?;
    let size = usize::try_from(reader.length()).map_or(HEAD_BYTES, |length| length.min(HEAD_BYTES));
    let head = reader.bytes(size)?;
    if let Some(format) = signature(&head) {
        return Ok(format);
    }
    let tag_bytes = id3_bytes(&head);
    if tag_bytes > 0 {
        return behind_tag(&mut reader, tag_bytes);
    }
    if let Some(format) = sound_frames(&head, 0) {
        return Ok(format);
    }
    if head.is_empty() || !is_text(&mut reader)? {
        return Ok(Format::Other("application/octet-stream"));
    }
    Ok(Format::Other(markup(&head).unwrap_or("text/plain; charset=utf-8")))
}

/// The media type of an image that a decoder knows, by the first bytes of its file.
pub(super) fn image_type(head: &[u8]) -> Option<&'static str> {
    signature(head).filter(|format| format.image_format().is_some()).map(Format::content_type)
}

fn signature(head: &[u8]) -> Option<Format> {
    if let Some((_, format)) = SIGNATURES.iter().find(|(signature, _)| head.starts_with(signature)) {
        return Some(*format);
    }
    match head {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Format::Image(ImageFormat::WebP)),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Some(Format::Sound(Sound::Wave)),
        [0x1A, 0x45, 0xDF, 0xA3, ..] => Some(matroska(head)),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Some(iso_media(head)),
        // QuickTime files of before 2001 have no file type box.
        [_, _, _, _, b'm', b'o', b'o', b'v', ..] | [_, _, _, _, b'm', b'd', b'a', b't', ..] => {
            Some(Format::IsoMedia("video/quicktime"))
        }
        _ => None,
    }
}

/// The header of Matroska files has the name of the document type among its first elements.
fn matroska(head: &[u8]) -> Format {
    let start = head.get(..64).unwrap_or(head);
    if start.windows(4).any(|four| four == b"webm") {
        Format::Matroska("video/webm")
    } else {
        Format::Matroska("video/x-matroska")
    }
}

/// Files of the ISO base media format name their brand, and the brands that they are compatible with.
fn iso_media(head: &[u8]) -> Format {
    let length = big_endian(head.get(..4).unwrap_or_default());
    let end = usize::try_from(length).map_or(head.len(), |length| length.clamp(12, head.len().max(12)));
    let brand = head.get(8..12).unwrap_or_default();
    let compatible = head.get(16..end).unwrap_or_default();
    let has = |names: &[&[u8]]| names.contains(&brand) || compatible.chunks_exact(4).any(|name| names.contains(&name));
    let still: &[&[u8]] = &[b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"];
    match brand {
        b"qt  " => Format::IsoMedia("video/quicktime"),
        b"M4A " | b"M4B " => Format::IsoMedia("audio/mp4"),
        [b'3', b'g', b'p' | b'g' | b'2', _] => Format::IsoMedia("video/3gpp"),
        _ if still.contains(&brand) && has(&[b"avif", b"avis"]) => Format::Heif("image/avif"),
        _ if still.contains(&brand) => Format::Heif("image/heic"),
        _ => Format::IsoMedia("video/mp4"),
    }
}

/// The length of an ID3v2 tag, or zero.
fn id3_bytes(head: &[u8]) -> u64 {
    match head {
        [b'I', b'D', b'3', 2..=4, _, flags, a, b, c, d, ..] if (a | b | c | d) & 0x80 == 0 => {
            let content = [a, b, c, d].iter().fold(0, |size, seven| size << 7 | u64::from(**seven));
            let footer = if flags & 0x10 == 0 { 0 } else { 10 };
            10 + content + footer
        }
        _ => 0,
    }
}

fn behind_tag(reader: &mut BlockReader, tag_bytes: u64) -> io::Result<Format> {
    let sound = Format::Sound(Sound::Mp3 { tag_bytes });
    if tag_bytes >= reader.length() {
        return Ok(sound);
    }
    reader.seek_to(tag_bytes)?;
    let size = usize::try_from(reader.remaining()).map_or(HEAD_BYTES, |left| left.min(HEAD_BYTES));
    let head = reader.bytes(size)?;
    if head.starts_with(b"fLaC") {
        return Ok(Format::Sound(Sound::Flac { tag_bytes }));
    }
    Ok(sound_frames(&head, tag_bytes).unwrap_or(sound))
}

/// Two frames of MP3 or AAC, one behind the other. The mark of one frame alone is too short to be a signature.
fn sound_frames(head: &[u8], tag_bytes: u64) -> Option<Format> {
    if let Some(length) = adts_bytes(head) {
        let second = head.get(length..).filter(|rest| !rest.is_empty());
        return second
            .is_none_or(|rest| adts_bytes(rest).is_some())
            .then_some(Format::Sound(Sound::Adts { tag_bytes }));
    }
    let length = mp3_bytes(head)?;
    mp3_bytes(head.get(length..)?)?;
    Some(Format::Sound(Sound::Mp3 { tag_bytes }))
}

/// The length of an ADTS frame (ISO/IEC 13818-7).
fn adts_bytes(frame: &[u8]) -> Option<usize> {
    match frame {
        [0xFF, 0xF0 | 0xF1 | 0xF8 | 0xF9, rate, high, middle, low, _, ..] if rate >> 2 & 0xF < 13 => {
            let length = usize::from(high & 3) << 11 | usize::from(*middle) << 3 | usize::from(low >> 5);
            (length > 7).then_some(length)
        }
        _ => None,
    }
}

/// The length of an MPEG audio frame of layer III (ISO/IEC 11172-3 and 13818-3).
fn mp3_bytes(frame: &[u8]) -> Option<usize> {
    const KBITS_1: [usize; 16] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0];
    const KBITS_2: [usize; 16] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0];
    const RATES: [usize; 4] = [44_100, 48_000, 32_000, 0];
    let [0xFF, second, third, ..] = frame else { return None };
    let (version, layer) = (second >> 3 & 3, second >> 1 & 3);
    if second >> 5 != 7 || version == 1 || layer != 1 {
        return None;
    }
    let (kbits, divisor, samples) = match version {
        3 => (KBITS_1, 1, 144_000),
        2 => (KBITS_2, 2, 72_000),
        _ => (KBITS_2, 4, 72_000),
    };
    let kbits = *kbits.get(usize::from(third >> 4))?;
    let rate = RATES.get(usize::from(third >> 2 & 3))? / divisor;
    (kbits > 0 && rate > 0).then(|| samples * kbits / rate + usize::from(third >> 1 & 1))
}

/// The file is valid UTF-8 without U+0000.
fn is_text(reader: &mut BlockReader) -> io::Result<bool> {
    reader.seek_to(0)?;
    // The start of a character whose end is in the next block: at most three bytes.
    let mut open: Vec<u8> = Vec::new();
    let mut valid = true;
    while valid && reader.remaining() > 0 {
        let size = reader.block()?.len();
        each_block(reader, size as u64, |block| {
            // Only the end of a character is missing, so the whole block is not copied.
            let missing = open.first().map_or(0, |first| character_bytes(*first).saturating_sub(open.len()));
            let (end, rest) = block.split_at(missing.min(block.len()));
            open.extend_from_slice(end);
            let character = std::mem::take(&mut open);
            valid = match str::from_utf8(&character) {
                Ok(_) => match str::from_utf8(rest) {
                    Ok(_) => true,
                    Err(error) => {
                        open = rest.get(error.valid_up_to()..).unwrap_or_default().to_vec();
                        error.error_len().is_none()
                    }
                },
                Err(error) => {
                    open = character;
                    error.error_len().is_none()
                }
            } && memchr::memchr(0, block).is_none();
            Ok(())
        })?;
    }
    Ok(valid && open.is_empty())
}

/// The length of a UTF-8 character from its first byte, which is the first of several.
fn character_bytes(first: u8) -> usize {
    match first {
        0xF0.. => 4,
        0xE0.. => 3,
        _ => 2,
    }
}

/// The content type of a text that is markup.
fn markup(head: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(head);
    let mut text = text.trim_start_matches('\u{FEFF}');
    loop {
        text = text.trim_start();
        let lower = text.get(..16).unwrap_or(text).to_ascii_lowercase();
        if HTML_STARTS.iter().any(|start| lower.starts_with(start)) {
            return Some("text/html");
        }
        if lower.starts_with("<svg") || lower.starts_with("<!doctype svg") {
            return Some("image/svg+xml");
        }
        // What may stand before the first element.
        let end = if lower.starts_with("<!--") {
            "-->"
        } else if lower.starts_with("<?") {
            "?>"
        } else {
            return None;
        };
        text = text.split_once(end)?.1;
    }
}
