//! Walking a GIF file (GIF89a specification) from its header to its trailer.
//!
//! Invariant: the output has the images, their graphic control extensions and the loop count of the input. Comments, texts, other
//! application extensions and the bytes behind the trailer are left out.

use super::images::{FrameCount, Outline, damaged};
use super::reader::{BlockReader, Sink};
use super::{Limits, Refusal};

const EXTENSION: u8 = 0x21;
const IMAGE: u8 = 0x2C;
const TRAILER: u8 = 0x3B;
const GRAPHIC_CONTROL: u8 = 0xF9;
const APPLICATION: u8 = 0xFF;
const PLAIN_TEXT: u8 = 0x01;

/// A graphic control extension: label, size, four bytes, terminator.
type Control = [u8; 8];

pub(super) fn walk(reader: &mut BlockReader, sink: &mut Sink, limits: &Limits) -> Result<Outline, Refusal> {
    let header: [u8; 13] = reader.array()?;
    let [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', w0, w1, h0, h1, flags, _, _] = header else {
        return Err(damaged("a GIF file does not start with its header"));
    };
    let mut outline = Outline {
        width: u16::from_le_bytes([w0, w1]).into(),
        height: u16::from_le_bytes([h0, h1]).into(),
        ..Outline::default()
    };
    limits.check_size(outline.width, outline.height)?;
    sink.keep(&header)?;
    sink.copy(reader, colour_table_bytes(flags))?;
    let mut frames = FrameCount::default();
    // The extension belongs to the image behind it, and is written with that image.
    let mut control: Option<Control> = None;
    loop {
        match reader.byte()? {
            TRAILER => break,
            IMAGE => {
                if let Some(control) = control.take() {
                    sink.keep(&control)?;
                }
                image(reader, sink, limits, &mut frames)?;
            }
            EXTENSION => match reader.byte()? {
                GRAPHIC_CONTROL => {
                    let body: [u8; 6] = reader.array()?;
                    let [4, flags, d0, d1, transparent, 0] = body else {
                        return Err(damaged("a graphic control extension of a GIF file has the wrong size"));
                    };
                    let extension = [EXTENSION, GRAPHIC_CONTROL, 4, flags, d0, d1, transparent, 0];
                    if control.replace(extension).is_some() {
                        sink.mark_changed();
                    }
                }
                APPLICATION => application(reader, sink)?,
                label => {
                    if label == PLAIN_TEXT {
                        control = None;
                    }
                    sink.mark_changed();
                    skip_blocks(reader)?;
                }
            },
            // Some writers put a second terminator behind an image. Decoders ignore it.
            0 => sink.mark_changed(),
            _ => return Err(damaged("a GIF file has an unknown block")),
        }
    }
    if frames.frames() == 0 {
        return Err(damaged("a GIF file has no image"));
    }
    if control.is_some() {
        sink.mark_changed();
    }
    sink.keep(&[TRAILER])?;
    outline.animated = frames.frames() > 1;
    sink.leave_out(reader, reader.remaining())?;
    Ok(outline)
}

fn colour_table_bytes(flags: u8) -> u64 {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

fn image(reader: &mut BlockReader, sink: &mut Sink, limits: &Limits, frames: &mut FrameCount) -> Result<(), Refusal> {
    let descriptor: [u8; 9] = reader.array()?;
    let [_, _, _, _, w0, w1, h0, h1, flags] = descriptor;
    let (width, height) = (u16::from_le_bytes([w0, w1]), u16::from_le_bytes([h0, h1]));
    frames.add(width.into(), height.into(), limits)?;
    sink.keep(&[IMAGE])?;
    sink.keep(&descriptor)?;
    // The colour table, and the byte that starts the compressed pixels.
    sink.copy(reader, colour_table_bytes(flags) + 1)?;
    loop {
        let count = reader.byte()?;
        sink.keep(&[count])?;
        if count == 0 {
            return Ok(());
        }
        sink.copy(reader, count.into())?;
    }
}

/// Keeps the number of times that an animation is repeated, and leaves out all other application extensions.
fn application(reader: &mut BlockReader, sink: &mut Sink) -> Result<(), Refusal> {
    let size = reader.byte()?;
    let name = reader.bytes(size.into())?;
    if size != 0 && (name == b"NETSCAPE2.0" || name == b"ANIMEXTS1.0") {
        let count = reader.byte()?;
        let first = reader.bytes(count.into())?;
        if let [1, low, high] = first.as_slice() {
            sink.keep(&[EXTENSION, APPLICATION, 11])?;
            sink.keep(&name)?;
            sink.keep(&[3, 1, *low, *high, 0])?;
            if skip_blocks(reader)? > 0 {
                sink.mark_changed();
            }
            return Ok(());
        }
        sink.mark_changed();
        if count == 0 {
            return Ok(());
        }
    }
    sink.mark_changed();
    if size != 0 {
        skip_blocks(reader)?;
    }
    Ok(())
}

/// Moves behind a sequence of sub-blocks and its terminator. Returns the number of sub-blocks.
fn skip_blocks(reader: &mut BlockReader) -> Result<u64, Refusal> {
    let mut blocks = 0;
    loop {
        match reader.byte()? {
            0 => return Ok(blocks),
            count => reader.skip(count.into())?,
        }
        blocks += 1;
    }
}
