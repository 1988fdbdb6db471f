//! Reading a file in blocks, and writing the parts of it that are kept.
//!
//! Invariant: memory does not grow with the size of a file. Only [`BlockReader::bytes`] allocates, and its callers bound the size.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes that are read from disk at once.
const BLOCK_BYTES: usize = 64 * 1024;

/// A file that is read forwards, with its position and length.
pub(super) struct BlockReader {
    inner: BufReader<File>,
    position: u64,
    length: u64,
}

impl BlockReader {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { inner: BufReader::with_capacity(BLOCK_BYTES, file), position: 0, length })
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes between the position and the end of the file.
    pub(super) fn remaining(&self) -> u64 {
        self.length.saturating_sub(self.position)
    }

    /// The bytes that are buffered at the position, at least one.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end of the file.
    pub(super) fn block(&mut self) -> io::Result<&[u8]> {
        let block = self.inner.fill_buf()?;
        if block.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(block) }
    }

    /// Moves the position over bytes that [`Self::block`] returned.
    pub(super) fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.position += count as u64;
    }

    pub(super) fn byte(&mut self) -> io::Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(bytes)
    }

    /// Reads `count` bytes into memory. A count beyond the end of the file is an error before anything is allocated.
    pub(super) fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        if count as u64 > self.remaining() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; count];
        self.inner.read_exact(&mut bytes)?;
        self.position += count as u64;
        Ok(bytes)
    }

    /// Moves the position forwards.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end of the file.
    pub(super) fn skip(&mut self, count: u64) -> io::Result<()> {
        let target = self.position.checked_add(count).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.seek_to(target)
    }

    /// Moves the position to an offset from the start of the file. Short distances keep the buffer.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end of the file.
    pub(super) fn seek_to(&mut self, offset: u64) -> io::Result<()> {
        if offset > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // A file offset always fits into 63 bits.
        self.inner.seek_relative(offset.wrapping_sub(self.position).cast_signed())?;
        self.position = offset;
        Ok(())
    }
}

/// The output of a walk over a container. A first walk measures: it writes nothing and finds out whether something has to be
/// removed. A second walk writes the cleaned file.
pub(super) struct Sink {
    file: Option<BufWriter<File>>,
    written: u64,
    changed: bool,
}

impl Sink {
    /// A sink that only counts.
    pub(super) fn measuring() -> Self {
        Self { file: None, written: 0, changed: false }
    }

    /// A sink that writes a new file.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::with_capacity(BLOCK_BYTES, File::create(path)?);
        Ok(Self { file: Some(file), written: 0, changed: false })
    }

    /// The output differs from the input.
    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    /// Number of bytes written so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Says that the output differs from the input here.
    pub(super) fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// Writes bytes.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Ok(()),
        }
    }

    /// Writes the next `count` bytes of the input.
    pub(super) fn copy(&mut self, reader: &mut BlockReader, count: u64) -> io::Result<()> {
        if self.file.is_none() {
            self.written += count;
            return reader.skip(count);
        }
        each_block(reader, count, |block| self.keep(block))
    }

    /// Leaves out the next `count` bytes of the input.
    pub(super) fn leave_out(&mut self, reader: &mut BlockReader, count: u64) -> io::Result<()> {
        self.changed |= count > 0;
        reader.skip(count)
    }

    /// Replaces bytes that were written before, at an offset from the start of the output.
    pub(super) fn replace(&mut self, offset: u64, before: &[u8], after: &[u8]) -> io::Result<()> {
        if before == after {
            return Ok(());
        }
        self.changed = true;
        if let Some(file) = &mut self.file {
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(after)?;
            file.seek(SeekFrom::End(0))?;
        }
        Ok(())
    }

    /// Writes what is buffered.
    pub(super) fn finish(self) -> io::Result<()> {
        match self.file {
            Some(mut file) => file.flush(),
            None => Ok(()),
        }
    }
}

/// Calls a function with the next `count` bytes of a file, block by block.
pub(super) fn each_block(
    reader: &mut BlockReader,
    count: u64,
    mut work: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut left = count;
    while left > 0 {
        let block = reader.block()?;
        let size = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
        work(block.get(..size).unwrap_or_default())?;
        reader.consume(size);
        left -= size as u64;
    }
    Ok(())
}

/// A big-endian number of up to eight bytes.
pub(super) fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A little-endian number of up to four bytes.
pub(super) fn little_endian(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}
