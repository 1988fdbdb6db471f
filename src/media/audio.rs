//! Duration and waveform of sound, with the decoders of symphonia.
//!
//! Invariant: a file costs at most [`MAX_TIME`] and the decoding of [`MAX_DECODED_S`] seconds of sound. A file that cannot be
//! decoded has no measures, which is not an error.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::{Error, Result};
use symphonia::core::formats::{FormatOptions, FormatReader, Track, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream, MediaSourceStreamOptions};
use symphonia::default::formats::{AdtsReader, FlacReader, IsoMp4Reader, MpaReader, OggReader, WavReader};
use symphonia::default::get_codecs;

use super::Inspected;
use super::sniff::Sound;
use super::waveform::{Envelope, PARTS};

/// Time after which reading a file ends.
const MAX_TIME: Duration = Duration::from_secs(10);

/// Seconds of sound that are decoded. A longer recording has no waveform.
const MAX_DECODED_S: u64 = 30 * 60;

/// Packets of a file that may be damaged before decoding ends.
const MAX_DAMAGED_PACKETS: u32 = 1_000;

/// What is known about a recording.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) duration_ms: Option<u64>,
    pub(super) waveform: Option<[u8; PARTS]>,
}

impl Measured {
    pub(super) fn into_inspected(self, inspected: Inspected) -> Inspected {
        Inspected { duration_ms: self.duration_ms, waveform: self.waveform, ..inspected }
    }
}

pub(super) fn measure(sound: Sound, source: &Path) -> Measured {
    let measured = match sound {
        Sound::Mp3 { tag_bytes } => {
            measure_with(source, tag_bytes, |stream, options| Ok(Box::new(MpaReader::try_new(stream, options)?)))
        }
        Sound::Adts { tag_bytes } => {
            measure_with(source, tag_bytes, |stream, options| Ok(Box::new(AdtsReader::try_new(stream, options)?)))
        }
        Sound::Flac { tag_bytes } => {
            measure_with(source, tag_bytes, |stream, options| Ok(Box::new(FlacReader::try_new(stream, options)?)))
        }
        Sound::Wave => measure_with(source, 0, |stream, options| Ok(Box::new(WavReader::try_new(stream, options)?))),
    };
    measured.unwrap_or_default()
}

pub(super) fn measure_iso_media(source: &Path) -> Measured {
    let measured = measure_with(source, 0, |stream, options| Ok(Box::new(IsoMp4Reader::try_new(stream, options)?)));
    measured.unwrap_or_default()
}

pub(super) fn measure_ogg(source: &Path) -> Measured {
    let measured = measure_with(source, 0, |stream, options| Ok(Box::new(OggReader::try_new(stream, options)?)));
    measured.unwrap_or_default()
}

type Open = fn(MediaSourceStream<'static>, FormatOptions) -> Result<Box<dyn FormatReader>>;

/// Measures a file from an offset, with one container format. The format is known, so symphonia does not have to guess it.
fn measure_with(source: &Path, offset: u64, open: Open) -> Result<Measured> {
    let deadline = Instant::now() + MAX_TIME;
    let view = View::open(source, offset, deadline)?;
    let stream = MediaSourceStream::new(Box::new(view), MediaSourceStreamOptions::default());
    let mut reader = open(stream, FormatOptions::default())?;
    let track = reader.default_track(TrackType::Audio).ok_or(Error::Unsupported("no sound"))?.clone();
    let declared_ms = declared_duration_ms(&track);
    let Some(CodecParameters::Audio(parameters)) = &track.codec_params else {
        return Ok(Measured { duration_ms: declared_ms, waveform: None });
    };
    let Ok(decoder) = get_codecs().make_audio_decoder(parameters, &AudioDecoderOptions::default()) else {
        return Ok(Measured { duration_ms: declared_ms, waveform: None });
    };
    let mut decoding =
        Decoding { decoder, envelope: Envelope::new(), samples: Vec::new(), decoded_ns: 0, damaged_packets: 0 };
    let complete = decoding.run(reader.as_mut(), track.id, deadline);
    if !complete {
        return Ok(Measured { duration_ms: declared_ms, waveform: None });
    }
    // Rounded, because the duration of a packet is seldom a whole number.
    let decoded_ms = Some((decoding.decoded_ns + 500_000) / 1_000_000).filter(|decoded_ms| *decoded_ms > 0);
    Ok(Measured { duration_ms: decoded_ms.or(declared_ms), waveform: decoding.envelope.into_parts() })
}

/// The duration in the header of a file.
fn declared_duration_ms(track: &Track) -> Option<u64> {
    let base = track.time_base?;
    let duration = base.calc_duration(track.duration?)?;
    u64::try_from(duration.as_millis()).ok().filter(|duration_ms| *duration_ms > 0)
}

struct Decoding {
    decoder: Box<dyn AudioDecoder>,
    envelope: Envelope,
    samples: Vec<f32>,
    decoded_ns: u64,
    damaged_packets: u32,
}

impl Decoding {
    /// Decodes a track. Returns true if the end of the file was reached.
    fn run(&mut self, reader: &mut dyn FormatReader, track_id: u32, deadline: Instant) -> bool {
        while self.decoded_ns < MAX_DECODED_S * 1_000_000_000 && self.damaged_packets < MAX_DAMAGED_PACKETS {
            let packet = match reader.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => return true,
                // A recording that was cut off.
                Err(Error::IoError(error)) => return error.kind() == io::ErrorKind::UnexpectedEof,
                Err(_) => return false,
            };
            if Instant::now() > deadline {
                return false;
            }
            if packet.track_id != track_id {
                continue;
            }
            match self.decoder.decode(&packet) {
                Ok(buffer) => {
                    let (rate, channels) = (buffer.spec().rate(), buffer.spec().channels().count());
                    if rate == 0 || channels == 0 {
                        return false;
                    }
                    self.decoded_ns += buffer.frames() as u64 * 1_000_000_000 / u64::from(rate);
                    buffer.copy_to_vec_interleaved(&mut self.samples);
                    self.envelope.add(&self.samples, channels);
                }
                Err(Error::DecodeError(_)) => self.damaged_packets += 1,
                Err(_) => return false,
            }
        }
        false
    }
}

/// A file from an offset to its end, which cannot be read any more after a deadline. A demuxer may read for long without returning
/// a packet.
struct View {
    file: File,
    offset: u64,
    length: u64,
    deadline: Instant,
}

impl View {
    fn open(path: &Path, offset: u64, deadline: Instant) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len().checked_sub(offset).ok_or(io::ErrorKind::UnexpectedEof)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { file, offset, length, deadline })
    }
}

impl Read for View {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if Instant::now() > self.deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.file.read(buffer)
    }
}

impl Seek for View {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let position = match position {
            SeekFrom::Start(start) => {
                SeekFrom::Start(start.checked_add(self.offset).ok_or(io::ErrorKind::InvalidInput)?)
            }
            other => other,
        };
        let absolute = self.file.seek(position)?;
        absolute.checked_sub(self.offset).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

impl MediaSource for View {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.length)
    }
}
