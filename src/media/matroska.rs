//! Measures of Matroska and WebM files (RFC 9559).
//!
//! Invariant: the elements are read one behind the other, with a limited number of them, and a broken element ends the walk. The
//! file is stored as it is.

use std::io;
use std::path::Path;

use super::reader::{BlockReader, big_endian};
use super::{Inspected, Kind, Refusal};

/// Maximum number of elements that a walk visits. A recording with 50 frames a second has 720,000 blocks in four hours.
const MAX_ELEMENTS: u32 = 1_000_000;

// Elements whose content is visited.
const SEGMENT: u64 = 0x1853_8067;
const INFO: u64 = 0x1549_A966;
const TRACKS: u64 = 0x1654_AE6B;
const TRACK_ENTRY: u64 = 0xAE;
const VIDEO: u64 = 0xE0;
const CLUSTER: u64 = 0x1F43_B675;
const BLOCK_GROUP: u64 = 0xA0;

// Elements with a value.
const TIMESTAMP_SCALE: u64 = 0x002A_D7B1;
const DURATION: u64 = 0x4489;
const TRACK_TYPE: u64 = 0x83;
const PIXEL_WIDTH: u64 = 0xB0;
const PIXEL_HEIGHT: u64 = 0xBA;
const CLUSTER_TIMESTAMP: u64 = 0xE7;
const BLOCK: u64 = 0xA1;
const SIMPLE_BLOCK: u64 = 0xA3;

const TRACK_TYPE_VIDEO: u64 = 1;
const TRACK_TYPE_AUDIO: u64 = 2;

/// What a walk has seen so far.
#[derive(Debug)]
struct Seen {
    /// Nanoseconds of one tick.
    timestamp_scale: u64,
    /// In ticks.
    duration: Option<f64>,
    has_video: bool,
    has_audio: bool,
    width: Option<u32>,
    height: Option<u32>,
    cluster_timestamp: u64,
    /// The largest timestamp of a block, in ticks.
    last_timestamp: Option<u64>,
}

impl Seen {
    fn duration_ms(&self) -> Option<u64> {
        let ticks = self.duration.or(self.last_timestamp.map(|ticks| ticks as f64))?;
        let duration_ms = ticks * self.timestamp_scale as f64 / 1_000_000.0;
        // Longer than a century is not a duration.
        (duration_ms > 0.0 && duration_ms < 3.2e12).then_some(duration_ms as u64)
    }
}

/// Measures a file. Measures that cannot be read are null.
pub(super) fn inspect(mut inspected: Inspected, source: &Path) -> Result<Inspected, Refusal> {
    let mut seen = Seen {
        timestamp_scale: 1_000_000,
        duration: None,
        has_video: false,
        has_audio: false,
        width: None,
        height: None,
        cluster_timestamp: 0,
        last_timestamp: None,
    };
    match walk(&mut BlockReader::open(source)?, &mut seen) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            return Err(error.into());
        }
        _ => {}
    }
    inspected.duration_ms = seen.duration_ms();
    if seen.has_audio && !seen.has_video {
        inspected.kind = Kind::Audio;
        inspected.content_type = inspected.content_type.replace("video/", "audio/");
    } else {
        (inspected.width, inspected.height) = (seen.width, seen.height);
    }
    Ok(inspected)
}

/// Reads the elements in the order of the file. The end of a container is not tracked: recordings of browsers have containers
/// of unknown size, and the id of an element says all that is needed.
fn walk(reader: &mut BlockReader, seen: &mut Seen) -> io::Result<()> {
    for _ in 0..MAX_ELEMENTS {
        if reader.remaining() == 0 {
            return Ok(());
        }
        let (id, _) = number(reader, true)?;
        let (size, unknown) = number(reader, false)?;
        match id {
            CLUSTER if seen.duration.is_some() => return Ok(()),
            SEGMENT | INFO | TRACKS | TRACK_ENTRY | VIDEO | CLUSTER | BLOCK_GROUP => continue,
            _ if unknown => return Err(io::ErrorKind::InvalidData.into()),
            BLOCK | SIMPLE_BLOCK if size >= 4 => {
                let start = reader.position();
                number(reader, false)?;
                let relative = i16::from_be_bytes(reader.array()?);
                let timestamp = seen.cluster_timestamp.saturating_add_signed(relative.into());
                seen.last_timestamp = seen.last_timestamp.max(Some(timestamp));
                reader.skip((start + size).saturating_sub(reader.position()))?;
            }
            TIMESTAMP_SCALE | DURATION | TRACK_TYPE | PIXEL_WIDTH | PIXEL_HEIGHT | CLUSTER_TIMESTAMP if size <= 8 => {
                // At most eight bytes.
                let value = reader.bytes(size as usize)?;
                note(id, &value, seen);
            }
            _ => reader.skip(size)?,
        }
    }
    Ok(())
}

fn note(id: u64, value: &[u8], seen: &mut Seen) {
    let integer = big_endian(value);
    match id {
        TIMESTAMP_SCALE => seen.timestamp_scale = integer,
        DURATION => {
            seen.duration = match *value {
                [a, b, c, d] => Some(f32::from_be_bytes([a, b, c, d]).into()),
                [a, b, c, d, e, f, g, h] => Some(f64::from_be_bytes([a, b, c, d, e, f, g, h])),
                _ => None,
            }
            .filter(|duration: &f64| *duration > 0.0);
        }
        TRACK_TYPE if integer == TRACK_TYPE_VIDEO => seen.has_video = true,
        TRACK_TYPE if integer == TRACK_TYPE_AUDIO => seen.has_audio = true,
        PIXEL_WIDTH if seen.width.is_none() => seen.width = u32::try_from(integer).ok().filter(|width| *width > 0),
        PIXEL_HEIGHT if seen.height.is_none() => seen.height = u32::try_from(integer).ok().filter(|height| *height > 0),
        CLUSTER_TIMESTAMP => seen.cluster_timestamp = integer,
        _ => {}
    }
}

/// Reads a number whose first byte says how long it is. An id keeps the bit that marks the length, and has at most four bytes.
/// The flag is true if all bits of the number are set, which means an unknown size.
fn number(reader: &mut BlockReader, id: bool) -> io::Result<(u64, bool)> {
    let first = reader.byte()?;
    let more = first.leading_zeros();
    if more > if id { 3 } else { 7 } {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut value = if id { u64::from(first) } else { u64::from(first) & (0x7F >> more) };
    for _ in 0..more {
        value = value << 8 | u64::from(reader.byte()?);
    }
    Ok((value, value == (1 << (7 * (more + 1))) - 1))
}
