//! MP4, QuickTime and related formats (ISO/IEC 14496-12): reads dimensions and duration, and removes metadata such as the location where a
//! video was recorded.
//!
//! Invariant: cleaning changes neither the length of a file nor the position of its samples. Boxes with metadata become `free`
//! boxes of the same size that hold zeros, so offsets into the file stay valid.

use std::io;
use std::path::Path;

use super::erasure::{Erasures, write_erased};
use super::reader::{BlockReader, big_endian};
use super::samples::{SampleTable, sample_ranges};
use super::{Inspected, Kind, Refusal, audio, caught};

/// Maximum number of boxes that a walk visits. Fragmented files have two for each fragment.
const MAX_BOXES: u32 = 200_000;

/// Maximum number of tracks.
const MAX_TRACKS: usize = 64;

/// Boxes of the outermost level that are kept. All others are erased, because vendors of cameras put metadata into boxes of
/// their own.
const FILE_BOXES: &[&[u8; 4]] = &[
    b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"mfra", b"sidx", b"ssix", b"free", b"skip", b"wide", b"pdin",
    b"prft", b"emsg", b"imda",
];

/// Handlers of tracks that are kept. Cameras record positions in tracks with other handlers.
const HANDLERS: &[&[u8; 4]] =
    &[b"vide", b"soun", b"text", b"sbtl", b"subt", b"clcp", b"tmcd", b"hint", b"auxv", b"pict"];

/// The position of a box.
#[derive(Debug, Clone, Copy)]
pub(super) struct BoxHeader {
    pub(super) kind: [u8; 4],
    pub(super) start: u64,
    /// The start of the content.
    pub(super) body: u64,
    pub(super) end: u64,
}

/// An error of the structure of a file, which ends the walk.
pub(super) fn broken() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// Reads the header of the box at the position of the reader. Returns `None` at the end of the container.
///
/// # Errors
/// `InvalidData` if the box is not inside of its container.
pub(super) fn next_box(reader: &mut BlockReader, container_end: u64) -> io::Result<Option<BoxHeader>> {
    let start = reader.position();
    // QuickTime ends some lists with four zero bytes.
    if start + 8 > container_end {
        return Ok(None);
    }
    let short = u64::from(u32::from_be_bytes(reader.array()?));
    let kind = reader.array()?;
    let length = match short {
        0 => container_end - start,
        1 => u64::from_be_bytes(reader.array()?),
        length => length,
    };
    let (body, end) = (reader.position(), start.checked_add(length).ok_or_else(broken)?);
    if end < body || end > container_end {
        return Err(broken());
    }
    Ok(Some(BoxHeader { kind, start, body, end }))
}

/// Containers whose content is visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    File,
    Movie,
    MovieExtends,
    Fragment,
    Track,
    Media,
    MediaInformation,
    SampleTable,
}

#[derive(Debug, Default)]
struct Track {
    handler: [u8; 4],
    /// In pixels, as displayed.
    width: u32,
    /// In pixels, as displayed.
    height: u32,
    samples: SampleTable,
}

/// What a walk over a file finds out.
#[derive(Debug, Default)]
pub(super) struct Movie {
    timescale: u64,
    duration: u64,
    /// The duration of a fragmented file, which has zero as its `duration`.
    fragments_duration: u64,
    tracks: Vec<Track>,
    pub(super) erasures: Erasures,
    /// The outermost `meta` box.
    pub(super) file_meta: Option<BoxHeader>,
}

impl Movie {
    fn duration_ms(&self) -> Option<u64> {
        let duration = if self.duration > 0 { self.duration } else { self.fragments_duration };
        // A number with all bits set means that the duration is unknown.
        if duration == 0 || duration == u64::from(u32::MAX) || duration == u64::MAX {
            return None;
        }
        u64::try_from(u128::from(duration) * 1_000 / u128::from(self.timescale).max(1)).ok()
    }
}

/// Measures a file and erases its metadata. Measures that cannot be read are null.
pub(super) fn inspect(mut inspected: Inspected, source: &Path, target: &Path) -> Result<Inspected, Refusal> {
    let movie = walk(source)?;
    inspected.duration_ms = movie.duration_ms();
    let has = |handler: &[u8; 4]| movie.tracks.iter().any(|track| &track.handler == handler);
    if let Some(video) = movie.tracks.iter().find(|track| &track.handler == b"vide" && track.width > 0) {
        (inspected.width, inspected.height) = (Some(video.width), Some(video.height));
    }
    if has(b"vide") {
        inspected.kind = Kind::Video;
        if inspected.content_type == "audio/mp4" {
            "video/mp4".clone_into(&mut inspected.content_type);
        }
    } else if has(b"soun") {
        inspected.kind = Kind::Audio;
        if inspected.content_type.starts_with("video/mp4") {
            "audio/mp4".clone_into(&mut inspected.content_type);
        }
    }
    if inspected.kind == Kind::Audio {
        let measured = caught(|| audio::measure_iso_media(source)).unwrap_or_default();
        inspected.waveform = measured.waveform;
        inspected.duration_ms = inspected.duration_ms.or(measured.duration_ms);
    }
    let mut erasures = movie.erasures;
    // The outermost metadata box of a video has nothing that a player needs.
    if let Some(meta) = &movie.file_meta {
        erasures.erase_box(meta);
    }
    inspected.cleaned = write_erased(source, target, erasures)?;
    Ok(inspected)
}

/// Walks over the boxes of a file. If the structure is broken, the walk ends, and the result has what was found before.
pub(super) fn walk(source: &Path) -> io::Result<Movie> {
    let reader = BlockReader::open(source)?;
    let end = reader.length();
    let mut walker = Walker { reader, boxes: 0, movie: Movie::default() };
    match walker.visit_children(Level::File, 0, end) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => Err(error),
        _ => Ok(walker.movie),
    }
}

struct Walker {
    reader: BlockReader,
    boxes: u32,
    movie: Movie,
}

impl Walker {
    /// Visits the boxes between two offsets. The depth of the recursion is the number of levels.
    fn visit_children(&mut self, level: Level, start: u64, end: u64) -> io::Result<()> {
        self.reader.seek_to(start)?;
        while let Some(header) = next_box(&mut self.reader, end)? {
            self.boxes += 1;
            if self.boxes > MAX_BOXES {
                return Err(broken());
            }
            self.visit(level, &header)?;
            self.reader.seek_to(header.end)?;
        }
        Ok(())
    }

    fn visit(&mut self, level: Level, header: &BoxHeader) -> io::Result<()> {
        let inner = match (level, &header.kind) {
            (Level::File, b"moov") => Level::Movie,
            (Level::File, b"moof") => Level::Fragment,
            (Level::Movie, b"mvex") => Level::MovieExtends,
            (Level::Movie, b"trak") => return self.visit_track(header),
            (Level::Track, b"mdia") => Level::Media,
            (Level::Media, b"minf") => Level::MediaInformation,
            (Level::MediaInformation, b"stbl") => Level::SampleTable,
            (Level::File, b"meta") if self.movie.file_meta.is_none() => {
                self.movie.file_meta = Some(*header);
                return Ok(());
            }
            (Level::File, kind) => {
                if !FILE_BOXES.contains(&kind) {
                    self.movie.erasures.erase_box(header);
                }
                return Ok(());
            }
            // Fragments of protected files have `uuid` boxes that a player needs.
            (Level::Fragment, b"uuid") => return Ok(()),
            (_, b"udta" | b"meta" | b"uuid") => {
                self.movie.erasures.erase_box(header);
                return Ok(());
            }
            (Level::Movie, b"mvhd") => return self.movie_header(header),
            (Level::MovieExtends, b"mehd") => return self.movie_extends_header(header),
            (Level::Track, b"tkhd") => return self.track_header(header),
            (Level::Media, b"hdlr") => return self.handler(header),
            (Level::SampleTable, _) => {
                if let Some(track) = self.movie.tracks.last_mut() {
                    track.samples.note(header);
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.visit_children(inner, header.body, header.end)
    }

    fn visit_track(&mut self, header: &BoxHeader) -> io::Result<()> {
        if self.movie.tracks.len() >= MAX_TRACKS {
            return Err(broken());
        }
        self.movie.tracks.push(Track::default());
        self.visit_children(Level::Track, header.body, header.end)?;
        let Some(track) = self.movie.tracks.last() else { return Ok(()) };
        if track.handler != [0; 4] && !HANDLERS.contains(&&track.handler) {
            // If the table of samples is broken, at least the track is erased.
            let ranges = sample_ranges(&mut self.reader, &track.samples).unwrap_or_default();
            ranges.into_iter().for_each(|range| self.movie.erasures.zero(range));
            self.movie.erasures.erase_box(header);
        }
        Ok(())
    }

    /// Reads the first bytes of the content of a box, at most `count`.
    fn content(&mut self, header: &BoxHeader, count: u64) -> io::Result<Vec<u8>> {
        self.reader.seek_to(header.body)?;
        // At most `count`, which fits.
        self.reader.bytes(count.min(header.end - header.body) as usize)
    }

    fn movie_header(&mut self, header: &BoxHeader) -> io::Result<()> {
        let content = self.content(header, 32)?;
        // Version 1 has times of 8 bytes, version 0 has times of 4 bytes.
        let (timescale, duration) = if content.first() == Some(&1) { (20..24, 24..32) } else { (12..16, 16..20) };
        self.movie.timescale = big_endian(content.get(timescale).ok_or_else(broken)?);
        self.movie.duration = big_endian(content.get(duration).ok_or_else(broken)?);
        Ok(())
    }

    fn movie_extends_header(&mut self, header: &BoxHeader) -> io::Result<()> {
        let content = self.content(header, 12)?;
        let duration = if content.first() == Some(&1) { 4..12 } else { 4..8 };
        self.movie.fragments_duration = big_endian(content.get(duration).ok_or_else(broken)?);
        Ok(())
    }

    fn track_header(&mut self, header: &BoxHeader) -> io::Result<()> {
        let content = self.content(header, 96)?;
        let matrix_at = if content.first() == Some(&1) { 52 } else { 40 };
        let number = |index: usize| {
            let at = matrix_at + index * 4;
            content.get(at..at + 4).map(big_endian).ok_or_else(broken)
        };
        // The matrix is a, b, u, c, d, v, x, y, w. Width and height behind it have 16 bits after the point.
        let (a, b, d) = (number(0)?, number(1)?, number(4)?);
        let mut size = (number(9)? >> 16, number(10)? >> 16);
        if a == 0 && d == 0 && b != 0 {
            size = (size.1, size.0);
        }
        if let Some(track) = self.movie.tracks.last_mut() {
            // Both numbers have 16 bits.
            (track.width, track.height) = (size.0 as u32, size.1 as u32);
        }
        Ok(())
    }

    fn handler(&mut self, header: &BoxHeader) -> io::Result<()> {
        let content = self.content(header, 12)?;
        if let (Some(track), [.., a, b, c, d]) = (self.movie.tracks.last_mut(), content.as_slice()) {
            track.handler = [*a, *b, *c, *d];
        }
        Ok(())
    }
}
