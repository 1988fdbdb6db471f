//! Walking a PNG or APNG file (PNG specification, third edition) from its signature to its IEND chunk.
//!
//! Invariant: the output has only chunks of a fixed list, each with a checksum that was verified. The list has what decoders need
//! for pixels, colours and animation. Texts, times and EXIF metadata are left out, and so are the bytes behind IEND.

use super::images::{FrameCount, Outline, damaged};
use super::reader::{BlockReader, Sink, big_endian, each_block};
use super::{Limits, Refusal, exif};

const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// Chunks without pixels that are kept. IHDR, IDAT, fdAT, acTL, fcTL and IEND are kept too.
const KEPT: &[&[u8; 4]] = &[
    b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"pHYs", b"cICP", b"mDCV", b"mDCv",
    b"cLLI", b"cLLi",
];

/// Maximum size of a kept chunk without pixels. Decoders hold such chunks in memory. Large colour profiles have 3 MiB.
const MAX_KEPT_BYTES: u32 = 4 * 1024 * 1024;

/// Maximum size of EXIF metadata that is read for its orientation: the maximum that fits into a JPEG file.
const MAX_EXIF_BYTES: u32 = 64 * 1024;

/// What a walk has seen so far.
#[derive(Default)]
struct Seen {
    outline: Outline,
    frames: FrameCount,
    declared_frames: Option<u32>,
    has_pixels: bool,
}

pub(super) fn walk(reader: &mut BlockReader, sink: &mut Sink, limits: &Limits) -> Result<Outline, Refusal> {
    if reader.array()? != SIGNATURE {
        return Err(damaged("a PNG file does not start with its signature"));
    }
    sink.keep(&SIGNATURE)?;
    let mut seen = Seen::default();
    loop {
        let count = u32::from_be_bytes(reader.array()?);
        let name: [u8; 4] = reader.array()?;
        if count > i32::MAX as u32 {
            return Err(damaged("a PNG chunk is too long"));
        }
        if (seen.outline.width == 0) != (&name == b"IHDR") {
            return Err(damaged("a PNG file does not have exactly one header at its start"));
        }
        match &name {
            b"IHDR" => {
                let header = small_chunk::<13>(count, &name, reader, sink)?;
                let (width, height) = size_at(&header, 0);
                limits.check_size(width, height)?;
                (seen.outline.width, seen.outline.height) = (width, height);
            }
            b"acTL" if !seen.has_pixels => {
                let header = small_chunk::<8>(count, &name, reader, sink)?;
                seen.declared_frames = Some(size_at(&header, 0).0);
            }
            b"fcTL" if seen.declared_frames.is_some() => frame(count, reader, sink, limits, &mut seen)?,
            b"IDAT" => {
                seen.has_pixels = true;
                copy_chunk(count, &name, reader, sink)?;
            }
            b"fdAT" if seen.declared_frames.is_some() => copy_chunk(count, &name, reader, sink)?,
            b"IEND" => {
                small_chunk::<0>(count, &name, reader, sink)?;
                break;
            }
            b"eXIf" if count <= MAX_EXIF_BYTES => {
                seen.outline.orientation = exif::orientation(&reader.bytes(count as usize)?);
                sink.leave_out(reader, 4)?;
            }
            _ if KEPT.contains(&&name) => {
                if count > MAX_KEPT_BYTES {
                    return Err(damaged("a PNG chunk is too long"));
                }
                copy_chunk(count, &name, reader, sink)?;
            }
            _ => sink.leave_out(reader, u64::from(count) + 4)?,
        }
    }
    if !seen.has_pixels || seen.declared_frames.is_some_and(|frames| frames != seen.frames.frames()) {
        return Err(damaged("a PNG file does not have the pixels that it declares"));
    }
    seen.outline.animated = seen.frames.frames() > 1;
    sink.leave_out(reader, reader.remaining())?;
    Ok(seen.outline)
}

/// The two numbers of four bytes at an offset.
fn size_at(bytes: &[u8], offset: usize) -> (u32, u32) {
    let number = |at: usize| bytes.get(at..at + 4).map_or(0, |four| big_endian(four) as u32);
    (number(offset), number(offset + 4))
}

/// The header of one frame of an animation.
fn frame(
    count: u32,
    reader: &mut BlockReader,
    sink: &mut Sink,
    limits: &Limits,
    seen: &mut Seen,
) -> Result<(), Refusal> {
    let header = small_chunk::<26>(count, b"fcTL", reader, sink)?;
    let ((width, height), (left, top)) = (size_at(&header, 4), size_at(&header, 12));
    let fits = |offset: u32, size: u32, whole: u32| offset.checked_add(size).is_some_and(|end| end <= whole);
    if !fits(left, width, seen.outline.width) || !fits(top, height, seen.outline.height) {
        return Err(damaged("a frame of a PNG file is outside of the image"));
    }
    seen.frames.add(width, height, limits)
}

/// Copies a chunk of a known size and returns its content.
fn small_chunk<const N: usize>(
    count: u32,
    name: &[u8; 4],
    reader: &mut BlockReader,
    sink: &mut Sink,
) -> Result<[u8; N], Refusal> {
    if count as usize != N {
        return Err(damaged("a PNG chunk has the wrong size"));
    }
    let content: [u8; N] = reader.array()?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name);
    hasher.update(&content);
    sink.keep(&count.to_be_bytes())?;
    sink.keep(name)?;
    sink.keep(&content)?;
    checksum(hasher, reader, sink)?;
    Ok(content)
}

fn copy_chunk(count: u32, name: &[u8; 4], reader: &mut BlockReader, sink: &mut Sink) -> Result<(), Refusal> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name);
    sink.keep(&count.to_be_bytes())?;
    sink.keep(name)?;
    each_block(reader, u64::from(count), |block| {
        hasher.update(block);
        sink.keep(block)
    })?;
    checksum(hasher, reader, sink)
}

fn checksum(hasher: crc32fast::Hasher, reader: &mut BlockReader, sink: &mut Sink) -> Result<(), Refusal> {
    let stored: [u8; 4] = reader.array()?;
    if u32::from_be_bytes(stored) != hasher.finalize() {
        return Err(damaged("a PNG chunk has a wrong checksum"));
    }
    sink.keep(&stored)?;
    Ok(())
}
