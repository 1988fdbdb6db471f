//! Where the samples of a track are in a file (ISO/IEC 14496-12, 8.6 and 8.7).
//!
//! Invariant: the memory for a table is limited, whatever its header declares.

use std::io;
use std::ops::Range;

use super::iso::{BoxHeader, broken};
use super::reader::{BlockReader, big_endian};

/// Maximum number of entries of a table. A track that records 200 positions a second has 720,000 in an hour.
const MAX_ENTRIES: u64 = 1_000_000;

/// The boxes that describe the samples of a track.
#[derive(Debug, Default)]
pub(super) struct SampleTable {
    sample_to_chunk: Option<BoxHeader>,
    sample_sizes: Option<BoxHeader>,
    chunk_offsets: Option<BoxHeader>,
}

impl SampleTable {
    /// Remembers a box of the table.
    pub(super) fn note(&mut self, header: &BoxHeader) {
        match &header.kind {
            b"stsc" => self.sample_to_chunk = Some(*header),
            b"stsz" => self.sample_sizes = Some(*header),
            b"stco" | b"co64" => self.chunk_offsets = Some(*header),
            _ => {}
        }
    }
}

/// The ranges of bytes that hold the samples, one for each chunk.
///
/// # Errors
/// `InvalidData` or `UnexpectedEof` if the table is not complete.
pub(super) fn sample_ranges(reader: &mut BlockReader, table: &SampleTable) -> io::Result<Vec<Range<u64>>> {
    let (Some(to_chunk), Some(sizes), Some(offsets)) = (table.sample_to_chunk, table.sample_sizes, table.chunk_offsets)
    else {
        return Err(broken());
    };
    let runs = entries(reader, &to_chunk, 4, 12)?;
    let mut runs = runs.chunks_exact(12).map(|run| (field(run, 0, 4), field(run, 4, 8))).peekable();
    reader.seek_to(sizes.body + 4)?;
    let one_size = u64::from(u32::from_be_bytes(reader.array()?));
    let sizes = if one_size == 0 { entries(reader, &sizes, 8, 4)? } else { Vec::new() };
    let mut sizes = sizes.chunks_exact(4).map(big_endian);
    let width = if &offsets.kind == b"co64" { 8 } else { 4 };
    let offsets = entries(reader, &offsets, 4, width)?;

    let mut ranges = Vec::new();
    let mut samples_per_chunk = 0;
    for (index, start) in offsets.chunks_exact(width).map(big_endian).enumerate() {
        // Chunks are numbered from 1, and a run says how many samples each of its chunks has.
        while let Some((_, samples)) = runs.next_if(|(first, _)| *first <= index as u64 + 1) {
            samples_per_chunk = samples;
        }
        let length = if one_size > 0 {
            samples_per_chunk.saturating_mul(one_size)
        } else {
            let count = usize::try_from(samples_per_chunk.min(MAX_ENTRIES)).unwrap_or_default();
            sizes.by_ref().take(count).fold(0, u64::saturating_add)
        };
        ranges.push(start..start.saturating_add(length).min(reader.length()));
    }
    Ok(ranges)
}

/// The entries of a table whose number is at an offset of the content, with the entries behind it.
fn entries(reader: &mut BlockReader, header: &BoxHeader, count_at: u64, entry_bytes: usize) -> io::Result<Vec<u8>> {
    reader.seek_to(header.body + count_at)?;
    let count = u64::from(u32::from_be_bytes(reader.array()?));
    let available = header.end.saturating_sub(reader.position()) / entry_bytes as u64;
    if count > MAX_ENTRIES || count > available {
        return Err(broken());
    }
    // At most twelve million.
    reader.bytes(count as usize * entry_bytes)
}

fn field(entry: &[u8], from: usize, to: usize) -> u64 {
    entry.get(from..to).map_or(0, big_endian)
}
