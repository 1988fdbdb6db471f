//! Overwriting parts of a copy of a file.
//!
//! Invariant: the copy has the length of its source, and differs from it only inside of the erased parts.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use super::iso::BoxHeader;

/// Zeros that are written at once.
const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];

/// Maximum number of erased ranges. They need 24 MiB of memory.
const MAX_RANGES: usize = 1_500_000;

/// The parts of a file that are to be erased.
#[derive(Debug, Default)]
pub(super) struct Erasures {
    zeros: Vec<Range<u64>>,
    /// Bytes that are written at an offset after the zeros.
    replacements: Vec<(u64, &'static [u8])>,
}

impl Erasures {
    /// Turns a box into a `free` box that holds zeros.
    pub(super) fn erase_box(&mut self, header: &BoxHeader) {
        self.zero(header.body..header.end);
        self.replacements.push((header.start + 4, b"free"));
    }

    /// Overwrites the start of a range with `start`, if it fits, and the rest with zeros.
    pub(super) fn replace(&mut self, range: Range<u64>, start: &'static [u8]) {
        if range.end.saturating_sub(range.start) >= start.len() as u64 {
            self.replacements.push((range.start, start));
        }
        self.zero(range);
    }

    /// Overwrites a range with zeros. Ranges after the first [`MAX_RANGES`] are ignored, so their bytes stay in the file.
    pub(super) fn zero(&mut self, range: Range<u64>) {
        if !range.is_empty() && self.zeros.len() < MAX_RANGES {
            self.zeros.push(range);
        }
    }

    /// The ranges in order, without overlaps: a hostile file cannot make one byte be written many times.
    fn merged(zeros: &mut [Range<u64>]) -> Vec<Range<u64>> {
        zeros.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in zeros.iter().cloned() {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged
    }
}

/// Copies `source` to `target` and erases parts of the copy. Returns false, without copying, if there is nothing to erase.
pub(super) fn write_erased(source: &Path, target: &Path, mut erasures: Erasures) -> io::Result<bool> {
    if erasures.zeros.is_empty() && erasures.replacements.is_empty() {
        return Ok(false);
    }
    let length = io::copy(&mut File::open(source)?, &mut File::create(target)?)?;
    let mut file = OpenOptions::new().write(true).open(target)?;
    for range in Erasures::merged(&mut erasures.zeros) {
        let end = range.end.min(length);
        let mut left = end.saturating_sub(range.start);
        file.seek(SeekFrom::Start(range.start))?;
        while left > 0 {
            let count = usize::try_from(left).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            file.write_all(ZEROS.get(..count).unwrap_or_default())?;
            left -= count as u64;
        }
    }
    for (offset, bytes) in &erasures.replacements {
        file.seek(SeekFrom::Start(*offset))?;
        file.write_all(bytes)?;
    }
    Ok(true)
}
