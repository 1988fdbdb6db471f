//! Measures of Ogg files (RFC 3533): Opus, Vorbis, FLAC and Speex, and the size of Theora videos.
//!
//! Invariant: only the first pages and the last pages are read, except by the decoder that computes a waveform. The file is stored
//! as it is.

use std::io;
use std::path::Path;

use super::reader::{BlockReader, big_endian, little_endian};
use super::{Inspected, Kind, Refusal, audio, caught};

/// Bytes at the end of a file that are searched for the last page. A page has at most 65,307 bytes.
const TAIL_BYTES: u64 = 128 * 1024;

/// Maximum number of streams.
const MAX_STREAMS: usize = 16;

/// The rate of Opus timestamps (RFC 7845, section 4).
const OPUS_RATE: u64 = 48_000;

/// A stream with sound.
struct SoundStream {
    serial: [u8; 4],
    /// Ticks in a second.
    rate: u64,
    /// Ticks at the start that are not played.
    skipped: u64,
    /// A decoder for a waveform exists.
    decodable: bool,
}

/// What the first pages say.
#[derive(Default)]
struct Streams {
    sound: Option<SoundStream>,
    /// Width and height in pixels.
    video: Option<(u32, u32)>,
}

/// Measures a file. Measures that cannot be read are null.
pub(super) fn inspect(mut inspected: Inspected, source: &Path) -> Result<Inspected, Refusal> {
    let mut reader = BlockReader::open(source)?;
    let mut streams = Streams::default();
    match read_first_pages(&mut reader, &mut streams) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
        _ => {}
    }
    if let Some(sound) = &streams.sound {
        let last = last_timestamp(&mut reader, sound.serial)?;
        inspected.duration_ms = last.and_then(|last| {
            let ticks = last.checked_sub(sound.skipped)?;
            u64::try_from(u128::from(ticks) * 1_000 / u128::from(sound.rate)).ok()
        });
    }
    match (&streams.sound, streams.video) {
        (_, Some((width, height))) => {
            inspected.kind = Kind::Video;
            "video/ogg".clone_into(&mut inspected.content_type);
            (inspected.width, inspected.height) = (Some(width), Some(height));
        }
        (Some(sound), None) if sound.decodable => {
            let measured = caught(|| audio::measure_ogg(source)).unwrap_or_default();
            inspected.waveform = measured.waveform;
            inspected.duration_ms = inspected.duration_ms.or(measured.duration_ms);
        }
        (Some(_), None) => {}
        (None, None) => {
            inspected.kind = Kind::Other;
            "application/ogg".clone_into(&mut inspected.content_type);
        }
    }
    Ok(inspected)
}

/// Reads the pages that start the streams of a file. They stand before all other pages.
fn read_first_pages(reader: &mut BlockReader, streams: &mut Streams) -> io::Result<()> {
    for _ in 0..MAX_STREAMS {
        let header: [u8; 27] = reader.array()?;
        let [b'O', b'g', b'g', b'S', 0, flags, rest @ ..] = header else { return Ok(()) };
        if flags & 2 == 0 {
            return Ok(());
        }
        let [_, _, _, _, _, _, _, _, s0, s1, s2, s3, .., segments] = rest;
        let lengths = reader.bytes(segments.into())?;
        let packet = reader.bytes(lengths.iter().map(|length| usize::from(*length)).sum())?;
        if let Some(size) = theora_size(&packet) {
            streams.video = Some(size);
        } else if streams.sound.is_none() {
            streams.sound = sound_stream([s0, s1, s2, s3], &packet);
        }
    }
    Ok(())
}

fn sound_stream(serial: [u8; 4], packet: &[u8]) -> Option<SoundStream> {
    let (rate, skipped, decodable) = if packet.starts_with(b"OpusHead") {
        (OPUS_RATE, u64::from(little_endian(packet.get(10..12)?)), false)
    } else if packet.starts_with(b"\x01vorbis") {
        (little_endian(packet.get(12..16)?).into(), 0, true)
    } else if packet.starts_with(b"\x7FFLAC") {
        // The rate has 20 bits.
        (big_endian(packet.get(27..30)?) >> 4, 0, true)
    } else if packet.starts_with(b"Speex   ") {
        (little_endian(packet.get(36..40)?).into(), 0, false)
    } else {
        return None;
    };
    (rate > 0).then_some(SoundStream { serial, rate, skipped, decodable })
}

fn theora_size(packet: &[u8]) -> Option<(u32, u32)> {
    let numbers = packet.strip_prefix(b"\x80theora")?;
    // Both numbers have 24 bits.
    Some((big_endian(numbers.get(7..10)?) as u32, big_endian(numbers.get(10..13)?) as u32))
}

/// The timestamp of the last page of a stream.
fn last_timestamp(reader: &mut BlockReader, serial: [u8; 4]) -> io::Result<Option<u64>> {
    let size = reader.length().min(TAIL_BYTES);
    reader.seek_to(reader.length() - size)?;
    let tail = reader.bytes(size as usize)?;
    let pages = memchr::memmem::rfind_iter(&tail, b"OggS\0");
    let timestamps = pages.filter_map(|start| {
        let header = tail.get(start..start + 27)?;
        let timestamp = u64::from_le_bytes(header.get(6..14)?.try_into().ok()?);
        // A page on which no packet ends has a timestamp with all bits set. Negative timestamps are not valid at the end.
        (header.get(14..18)? == serial && timestamp <= i64::MAX as u64).then_some(timestamp)
    });
    let mut timestamps = timestamps;
    Ok(timestamps.next())
}
