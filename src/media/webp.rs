//! Walking a WebP file (RFC 9649) over the chunks of its RIFF container.
//!
//! Invariant: the output has only chunks with pixels, animation and colour profile, also inside of frames. The sizes of the
//! containers and the flags of the header fit the output. Bytes behind the container are left out.

use super::images::{FrameCount, Outline, damaged};
use super::reader::{BlockReader, Sink, little_endian};
use super::{Limits, Refusal, exif};

/// Bytes of the RIFF header: "RIFF", size, "WEBP".
const HEADER_BYTES: u64 = 12;
/// Bytes of a chunk's name and size.
const CHUNK_HEADER_BYTES: u64 = 8;
const FLAG_PROFILE: u8 = 0x20;
const FLAG_EXIF: u8 = 0x08;
const FLAG_XMP: u8 = 0x04;
const FLAG_ANIMATION: u8 = 0x02;

/// Maximum size of a colour profile. Decoders hold it in memory.
const MAX_PROFILE_BYTES: u32 = 4 * 1024 * 1024;

/// Maximum size of EXIF metadata that is read for its orientation: the maximum that fits into a JPEG file.
const MAX_EXIF_BYTES: u32 = 64 * 1024;

/// The start of a chunk with pixels that has the size: three bytes and a start code, or one byte, before the size.
const LOSSY_HEADER_BYTES: u32 = 10;
const LOSSLESS_HEADER_BYTES: u32 = 5;

/// What a walk has seen so far.
#[derive(Default)]
struct Seen {
    outline: Outline,
    frames: FrameCount,
    /// The flags of the extended header as they were read, if there is one.
    flags: Option<u8>,
    has_profile: bool,
    /// Images outside of frames.
    images: u32,
}

/// A chunk: its name, and the size of its content without the padding.
struct Chunk {
    name: [u8; 4],
    size: u32,
}

pub(super) fn walk(reader: &mut BlockReader, sink: &mut Sink, limits: &Limits) -> Result<Outline, Refusal> {
    let header: [u8; HEADER_BYTES as usize] = reader.array()?;
    let [b'R', b'I', b'F', b'F', s0, s1, s2, s3, b'W', b'E', b'B', b'P'] = header else {
        return Err(damaged("a WebP file does not start with its header"));
    };
    let size = [s0, s1, s2, s3];
    let end = CHUNK_HEADER_BYTES + u64::from(u32::from_le_bytes(size));
    if end > reader.length() {
        return Err(damaged("the file ends before its last block"));
    }
    sink.keep(&header)?;
    let mut seen = Seen::default();
    while let Some(chunk) = next_chunk(reader, end)? {
        top_level_chunk(&chunk, reader, sink, limits, &mut seen)?;
    }
    finish(&seen)?;
    let written = u32::try_from(sink.written() - CHUNK_HEADER_BYTES).map_err(|_| damaged("a WebP file is too long"))?;
    sink.replace(4, &size, &written.to_le_bytes())?;
    if let Some(flags) = seen.flags {
        let mut kept = flags & !(FLAG_EXIF | FLAG_XMP | FLAG_PROFILE);
        if seen.has_profile {
            kept |= FLAG_PROFILE;
        }
        sink.replace(HEADER_BYTES + CHUNK_HEADER_BYTES, &[flags], &[kept])?;
    }
    sink.leave_out(reader, reader.remaining())?;
    seen.outline.animated = seen.frames.frames() > 1;
    Ok(seen.outline)
}

/// Reads the header of a chunk. Returns `None` at the end of the container.
fn next_chunk(reader: &mut BlockReader, end: u64) -> Result<Option<Chunk>, Refusal> {
    if reader.position() + CHUNK_HEADER_BYTES > end {
        return Ok(None);
    }
    let name = reader.array()?;
    let size = u32::from_le_bytes(reader.array()?);
    if reader.position() + u64::from(size) > end {
        return Err(damaged("a WebP chunk is longer than its container"));
    }
    Ok(Some(Chunk { name, size }))
}

fn top_level_chunk(
    chunk: &Chunk,
    reader: &mut BlockReader,
    sink: &mut Sink,
    limits: &Limits,
    seen: &mut Seen,
) -> Result<(), Refusal> {
    let first = reader.position() == HEADER_BYTES + CHUNK_HEADER_BYTES;
    let extended = seen.flags.is_some();
    let animation = seen.flags.is_some_and(|flags| flags & FLAG_ANIMATION != 0);
    match &chunk.name {
        b"VP8X" if first => extended_header(chunk, reader, sink, limits, seen),
        b"VP8 " | b"VP8L" if !animation && (first || extended) => {
            let (width, height) = copy_pixels(chunk, reader, sink, limits)?;
            seen.images += 1;
            if !extended {
                (seen.outline.width, seen.outline.height) = (width, height);
            } else if (seen.outline.width, seen.outline.height) != (width, height) {
                return Err(damaged("a WebP file has two different sizes"));
            }
            Ok(())
        }
        b"ALPH" if extended && !animation => copy_chunk(chunk, reader, sink),
        b"ANIM" if animation => copy_chunk(chunk, reader, sink),
        b"ANMF" if animation => frame(chunk, reader, sink, limits, seen),
        b"ICCP" if extended && chunk.size <= MAX_PROFILE_BYTES => {
            seen.has_profile = true;
            copy_chunk(chunk, reader, sink)
        }
        b"EXIF" if chunk.size <= MAX_EXIF_BYTES => {
            seen.outline.orientation = exif::orientation(&reader.bytes(chunk.size as usize)?);
            sink.mark_changed();
            skip_padding(chunk, reader)
        }
        _ if first => Err(damaged("a WebP file does not start with an image")),
        _ => leave_out(chunk, reader, sink),
    }
}

/// Checks what can only be known at the end of the container.
fn finish(seen: &Seen) -> Result<(), Refusal> {
    let animation = seen.flags.is_some_and(|flags| flags & FLAG_ANIMATION != 0);
    let complete = if animation { seen.frames.frames() > 0 } else { seen.images == 1 };
    if complete { Ok(()) } else { Err(damaged("a WebP file does not have the images that it declares")) }
}

/// Reads the header of an extended file: flags, and the size of the image.
fn extended_header(
    chunk: &Chunk,
    reader: &mut BlockReader,
    sink: &mut Sink,
    limits: &Limits,
    seen: &mut Seen,
) -> Result<(), Refusal> {
    if chunk.size != 10 {
        return Err(damaged("the extended header of a WebP file has the wrong size"));
    }
    let header: [u8; 10] = reader.array()?;
    let [flags, _, _, _, w0, w1, w2, h0, h1, h2] = header;
    let (width, height) = (little_endian(&[w0, w1, w2]) + 1, little_endian(&[h0, h1, h2]) + 1);
    limits.check_size(width, height)?;
    (seen.outline.width, seen.outline.height) = (width, height);
    seen.flags = Some(flags);
    keep_header(chunk, sink)?;
    sink.keep(&header)?;
    Ok(())
}

/// One frame of an animation, which contains chunks of its own.
fn frame(
    chunk: &Chunk,
    reader: &mut BlockReader,
    sink: &mut Sink,
    limits: &Limits,
    seen: &mut Seen,
) -> Result<(), Refusal> {
    let end = reader.position() + u64::from(chunk.size);
    if chunk.size < 16 {
        return Err(damaged("a frame of a WebP file is too short"));
    }
    let start = sink.written();
    keep_header(chunk, sink)?;
    let header: [u8; 16] = reader.array()?;
    let [x0, x1, x2, y0, y1, y2, w0, w1, w2, h0, h1, h2, ..] = header;
    let (left, top) = (little_endian(&[x0, x1, x2]) * 2, little_endian(&[y0, y1, y2]) * 2);
    let (width, height) = (little_endian(&[w0, w1, w2]) + 1, little_endian(&[h0, h1, h2]) + 1);
    if left + width > seen.outline.width || top + height > seen.outline.height {
        return Err(damaged("a frame of a WebP file is outside of the image"));
    }
    seen.frames.add(width, height, limits)?;
    sink.keep(&header)?;
    let mut images = 0;
    while let Some(inner) = next_chunk(reader, end)? {
        match &inner.name {
            b"VP8 " | b"VP8L" => {
                if copy_pixels(&inner, reader, sink, limits)? != (width, height) {
                    return Err(damaged("a frame of a WebP file has two different sizes"));
                }
                images += 1;
            }
            b"ALPH" => copy_chunk(&inner, reader, sink)?,
            _ => leave_out(&inner, reader, sink)?,
        }
    }
    if images != 1 {
        return Err(damaged("a frame of a WebP file does not have exactly one image"));
    }
    // Bytes that are too few for another chunk, and the padding.
    sink.leave_out(reader, end.saturating_sub(reader.position()))?;
    if chunk.size % 2 == 1 {
        sink.mark_changed();
        skip_padding(chunk, reader)?;
    }
    let size = u32::try_from(sink.written() - start - CHUNK_HEADER_BYTES)
        .map_err(|_| damaged("a frame of a WebP file is too long"))?;
    sink.replace(start + 4, &chunk.size.to_le_bytes(), &size.to_le_bytes())?;
    Ok(())
}

/// Copies a chunk with pixels, and returns the width and the height that the pixels themselves have.
fn copy_pixels(
    chunk: &Chunk,
    reader: &mut BlockReader,
    sink: &mut Sink,
    limits: &Limits,
) -> Result<(u32, u32), Refusal> {
    let lossless = &chunk.name == b"VP8L";
    let header_bytes = if lossless { LOSSLESS_HEADER_BYTES } else { LOSSY_HEADER_BYTES };
    if chunk.size < header_bytes {
        return Err(damaged("an image of a WebP file is too short"));
    }
    let header = reader.bytes(header_bytes as usize)?;
    let (width, height) = match *header.as_slice() {
        [0x2F, b0, b1, b2, b3] => {
            let bits = u32::from_le_bytes([b0, b1, b2, b3]);
            ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        }
        [_, _, _, 0x9D, 0x01, 0x2A, w0, w1, h0, h1] => {
            (little_endian(&[w0, w1]) & 0x3FFF, little_endian(&[h0, h1]) & 0x3FFF)
        }
        _ => return Err(damaged("an image of a WebP file does not start with its header")),
    };
    limits.check_size(width, height)?;
    keep_header(chunk, sink)?;
    sink.keep(&header)?;
    sink.copy(reader, u64::from(chunk.size - header_bytes))?;
    keep_padding(chunk, reader, sink)?;
    Ok((width, height))
}

fn keep_header(chunk: &Chunk, sink: &mut Sink) -> Result<(), Refusal> {
    sink.keep(&chunk.name)?;
    sink.keep(&chunk.size.to_le_bytes())?;
    Ok(())
}

fn copy_chunk(chunk: &Chunk, reader: &mut BlockReader, sink: &mut Sink) -> Result<(), Refusal> {
    keep_header(chunk, sink)?;
    sink.copy(reader, chunk.size.into())?;
    keep_padding(chunk, reader, sink)
}

fn leave_out(chunk: &Chunk, reader: &mut BlockReader, sink: &mut Sink) -> Result<(), Refusal> {
    sink.mark_changed();
    reader.skip(chunk.size.into())?;
    skip_padding(chunk, reader)
}

/// Writes the byte behind a chunk of an odd size as zero, whatever the input has there.
fn keep_padding(chunk: &Chunk, reader: &mut BlockReader, sink: &mut Sink) -> Result<(), Refusal> {
    if chunk.size % 2 == 1 {
        // Some writers leave out the last padding of a file.
        let padding = if reader.remaining() > 0 { Some(reader.byte()?) } else { None };
        if padding != Some(0) {
            sink.mark_changed();
        }
        sink.keep(&[0])?;
    }
    Ok(())
}

fn skip_padding(chunk: &Chunk, reader: &mut BlockReader) -> Result<(), Refusal> {
    if chunk.size % 2 == 1 && reader.remaining() > 0 {
        reader.skip(1)?;
    }
    Ok(())
}
