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

/// The parts of a file that are to be erased.
#[derive(Debug, Default)]
pub(super) struct Erasures {
    zeros: Vec<Range<u64>>,
    /// Offsets of names of boxes that become `free`.
    freed_names: Vec<u64>,
}

impl Erasures {
    /// Turns a box into a `free` box that holds zeros.
    pub(super) fn erase_box(&mut self, header: &BoxHeader) {
        self.freed_names.push(header.start + 4);
        self.zero(header.body..header.end);
    }

    /// Overwrites a range with zeros.
    pub(super) fn zero(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.zeros.push(range);
        }
    }

    /// The ranges in order, without overlaps: a hostile file cannot make one byte be written many times.
    fn merged(mut self) -> Vec<Range<u64>> {
        self.zeros.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in self.zeros {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged
    }
}

/// Copies `source` to `target` and erases parts of the copy. Returns false, without copying, if there is nothing to erase.
pub(super) fn write_erased(source: &Path, target: &Path, erasures: Erasures) -> io::Result<bool> {
    if erasures.zeros.is_empty() && erasures.freed_names.is_empty() {
        return Ok(false);
    }
    let length = io::copy(&mut File::open(source)?, &mut File::create(target)?)?;
    let mut file = OpenOptions::new().write(true).open(target)?;
    for name in &erasures.freed_names {
        file.seek(SeekFrom::Start(*name))?;
        file.write_all(b"free")?;
    }
    for range in erasures.merged() {
        let end = range.end.min(length);
        let mut left = end.saturating_sub(range.start);
        file.seek(SeekFrom::Start(range.start))?;
        while left > 0 {
            let count = usize::try_from(left).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            file.write_all(ZEROS.get(..count).unwrap_or_default())?;
            left -= count as u64;
        }
    }
    Ok(true)
}
