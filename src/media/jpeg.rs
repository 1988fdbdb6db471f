//! Walking a JPEG file (ISO/IEC 10918-1, annex B) from its first marker to its end marker.
//!
//! Invariant: the output has the same compressed pixels as the input. Metadata segments and the bytes behind the end marker are
//! left out. Kept are the JFIF header without its embedded thumbnail, ICC profiles, and Adobe's colour transform.

use memchr::memchr;

use super::images::{FrameCount, Outline, damaged};
use super::reader::{BlockReader, Sink, big_endian};
use super::{Limits, Refusal, exif};

const START_OF_IMAGE: u8 = 0xD8;
const END_OF_IMAGE: u8 = 0xD9;
const START_OF_SCAN: u8 = 0xDA;
const COMMENT: u8 = 0xFE;

/// Bytes of a JFIF header without thumbnail.
const JFIF_BYTES: usize = 14;

/// Maximum number of scans. Progressive files of common encoders have about ten.
const MAX_SCANS: u32 = 100;

pub(super) fn walk(reader: &mut BlockReader, sink: &mut Sink, limits: &Limits) -> Result<Outline, Refusal> {
    if reader.array()? != [0xFF, START_OF_IMAGE] {
        return Err(damaged("a JPEG file does not start with its start marker"));
    }
    sink.keep(&[0xFF, START_OF_IMAGE])?;
    let mut outline = Outline::default();
    let mut scans = FrameCount::default();
    let mut marker = next_marker(reader, sink)?;
    while marker != END_OF_IMAGE {
        match marker {
            START_OF_SCAN => {
                if outline.width == 0 {
                    return Err(damaged("a JPEG file has pixels before their size"));
                }
                scans.add(outline.width, outline.height, limits)?;
                if scans.frames() > MAX_SCANS {
                    return Err(Refusal::TooLarge(format!("the image has more than {MAX_SCANS} scans")));
                }
                copy_segment(marker, reader, sink)?;
                marker = copy_scan(reader, sink)?;
                continue;
            }
            0xC4 | 0xC8 | 0xCC | 0xDB..=0xDF => copy_segment(marker, reader, sink)?,
            0xC0..=0xCF => start_frame(marker, reader, sink, limits, &mut outline)?,
            0xE0..=0xEF | COMMENT => filter_metadata(marker, reader, sink, &mut outline)?,
            _ => return Err(damaged("a JPEG file has an unknown marker")),
        }
        marker = next_marker(reader, sink)?;
    }
    if scans.frames() == 0 {
        return Err(damaged("a JPEG file has no pixels"));
    }
    sink.keep(&[0xFF, END_OF_IMAGE])?;
    sink.leave_out(reader, reader.remaining())?;
    Ok(outline)
}

/// Reads a marker. Any number of fill bytes (0xFF) may stand before it; they are left out.
fn next_marker(reader: &mut BlockReader, sink: &mut Sink) -> Result<u8, Refusal> {
    if reader.byte()? != 0xFF {
        return Err(damaged("a JPEG file has bytes between its segments"));
    }
    loop {
        match reader.byte()? {
            0xFF => sink.mark_changed(),
            code => return Ok(code),
        }
    }
}

/// Reads the length of a segment and returns the number of bytes behind it.
fn segment_bytes(reader: &mut BlockReader) -> Result<u16, Refusal> {
    let length = u16::from_be_bytes(reader.array()?);
    length.checked_sub(2).ok_or_else(|| damaged("a JPEG segment is shorter than its length field"))
}

fn keep_segment(marker: u8, payload: &[u8], sink: &mut Sink) -> Result<(), Refusal> {
    let length = u16::try_from(payload.len() + 2).map_err(|_| damaged("a JPEG segment is too long"))?;
    sink.keep(&[0xFF, marker])?;
    sink.keep(&length.to_be_bytes())?;
    sink.keep(payload)?;
    Ok(())
}

fn copy_segment(marker: u8, reader: &mut BlockReader, sink: &mut Sink) -> Result<(), Refusal> {
    let count = segment_bytes(reader)?;
    let payload = reader.bytes(usize::from(count))?;
    keep_segment(marker, &payload, sink)
}

/// Copies the compressed pixels of a scan and returns the marker behind them.
fn copy_scan(reader: &mut BlockReader, sink: &mut Sink) -> Result<u8, Refusal> {
    loop {
        let block = reader.block()?;
        let plain = memchr(0xFF, block).unwrap_or(block.len());
        sink.keep(block.get(..plain).unwrap_or_default())?;
        let at_marker = plain < block.len();
        reader.consume(plain);
        if !at_marker {
            continue;
        }
        // 0xFF in the data is followed by 0, and restart markers are a part of the data.
        match next_marker(reader, sink)? {
            code @ (0 | 0xD0..=0xD7) => sink.keep(&[0xFF, code])?,
            code => return Ok(code),
        }
    }
}

/// Reads the header of the frame, which has the size.
fn start_frame(
    marker: u8,
    reader: &mut BlockReader,
    sink: &mut Sink,
    limits: &Limits,
    outline: &mut Outline,
) -> Result<(), Refusal> {
    let count = segment_bytes(reader)?;
    let payload = reader.bytes(usize::from(count))?;
    let (Some(height), Some(width)) = (payload.get(1..3), payload.get(3..5)) else {
        return Err(damaged("the frame header of a JPEG file is too short"));
    };
    if outline.width != 0 {
        return Err(damaged("a JPEG file has more than one frame"));
    }
    // Both numbers have 16 bits.
    (outline.width, outline.height) = (big_endian(width) as u32, big_endian(height) as u32);
    limits.check_size(outline.width, outline.height)?;
    keep_segment(marker, &payload, sink)
}

/// Keeps or leaves out an application segment or a comment.
fn filter_metadata(
    marker: u8,
    reader: &mut BlockReader,
    sink: &mut Sink,
    outline: &mut Outline,
) -> Result<(), Refusal> {
    let count = segment_bytes(reader)?;
    let payload = reader.bytes(usize::from(count))?;
    match (marker, payload.as_slice()) {
        (0xE0, [b'J', b'F', b'I', b'F', 0, ..]) if payload.len() >= JFIF_BYTES => {
            let mut header = payload;
            if header.len() > JFIF_BYTES {
                sink.mark_changed();
                header.truncate(JFIF_BYTES);
            }
            if let [.., width, height] = header.as_mut_slice() {
                (*width, *height) = (0, 0);
            }
            keep_segment(marker, &header, sink)
        }
        (0xE2, profile) if profile.starts_with(b"ICC_PROFILE\0") => keep_segment(marker, profile, sink),
        (0xEE, transform) if transform.starts_with(b"Adobe") => keep_segment(marker, transform, sink),
        (_, other) => {
            if marker == 0xE1 && other.starts_with(b"Exif\0\0") && outline.orientation == 1 {
                outline.orientation = exif::orientation(other);
            }
            sink.mark_changed();
            Ok(())
        }
    }
}
