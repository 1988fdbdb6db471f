//! Reads a write-ahead log as SQLite's recovery does (<https://www.sqlite.org/fileformat2.html#walformat>).
//!
//! A frame of the log is one page with a header. Recovery uses the frames up to the last commit whose chain of checksums is
//! valid, and silently drops the frames after it. Both a crash and damage leave such a tail. After a crash it holds frames
//! of a commit that was never acknowledged; after damage it holds frames of acknowledged commits. This module counts the
//! frames of the tail.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const MAGIC: u32 = 0x377f_0682;
/// The largest page size that SQLite supports, in bytes.
const PAGE_LIMIT_BYTES: u32 = 65_536;

/// Both salts of the write-ahead log's header. They distinguish one run of the log from the next: SQLite changes them each
/// time it starts to write the log from its beginning.
pub type Salts = [u8; 8];

/// The contents of a write-ahead log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogContents {
    /// The file is missing or empty.
    Absent,
    /// The header is damaged, so recovery uses no frame of the log.
    HeaderDamaged {
        /// The size of the file in bytes.
        bytes: u64,
    },
    /// The header is valid.
    Readable(Scan),
}

/// The frames after a valid header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The salts of this run of the log.
    pub salts: Salts,
    /// Frames that recovery uses: up to the last commit whose checksums are valid.
    pub recovered: u64,
    /// Frames of this run that recovery drops: the first frame with an invalid checksum, and all frames of this run after
    /// it.
    pub cut_off: u64,
    /// The number of commits among the cut-off frames.
    pub cut_off_commits: u64,
    /// Whether a cut-off commit is followed by a frame whose checksum continues from it. If so, the commit was synced,
    /// because the next commit begins only after the sync.
    pub cut_off_commit_was_synced: bool,
}

/// Reads a write-ahead log from its beginning to its end.
///
/// # Errors
/// Errors of reading the file.
pub fn read(path: &Path) -> io::Result<LogContents> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(LogContents::Absent),
        opened => opened?,
    };
    let bytes = file.metadata()?.len();
    if bytes == 0 {
        return Ok(LogContents::Absent);
    }
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut header = [0; HEADER_BYTES];
    if !fill(&mut reader, &mut header)? {
        return Ok(LogContents::HeaderDamaged { bytes });
    }
    match Chain::new(&header) {
        Some(chain) => scan(&mut reader, chain).map(LogContents::Readable),
        None => Ok(LogContents::HeaderDamaged { bytes }),
    }
}

/// The salts of the current run of the write-ahead log. Reads only the header.
///
/// # Errors
/// Errors of reading the file.
pub fn salts(file: &File) -> io::Result<Salts> {
    let mut salts = Salts::default();
    std::os::unix::fs::FileExt::read_exact_at(file, &mut salts, 16)?;
    Ok(salts)
}

/// The chain of checksums over the frames.
struct Chain {
    big_endian: bool,
    page_bytes: usize,
    salts: Salts,
    sum: (u32, u32),
}

impl Chain {
    /// Begins the chain after a header, if the header is valid.
    fn new(header: &[u8; HEADER_BYTES]) -> Option<Self> {
        let magic = number(header, 0);
        let page_bytes = number(header, 8);
        if magic & !1 != MAGIC || !(512..=PAGE_LIMIT_BYTES).contains(&page_bytes) || !page_bytes.is_power_of_two() {
            return None;
        }
        let mut salts = Salts::default();
        salts.copy_from_slice(&header[16..24]);
        let mut chain = Self { big_endian: magic & 1 == 1, page_bytes: page_bytes as usize, salts, sum: (0, 0) };
        chain.add(&header[..24]);
        (chain.sum == (number(header, 24), number(header, 28))).then_some(chain)
    }

    /// The chain after a frame. The checksum is taken from the header of the frame and not computed.
    fn after(&self, header: &[u8]) -> Self {
        Self { sum: (number(header, 16), number(header, 20)), ..*self }
    }

    fn add(&mut self, bytes: &[u8]) {
        let (mut one, mut two) = self.sum;
        for pair in bytes.chunks_exact(8) {
            let (left, right) = (self.word(&pair[..4]), self.word(&pair[4..]));
            one = one.wrapping_add(left).wrapping_add(two);
            two = two.wrapping_add(right).wrapping_add(one);
        }
        self.sum = (one, two);
    }

    fn word(&self, bytes: &[u8]) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(bytes);
        if self.big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    }

    /// Adds a frame to the chain, and returns whether its checksum is valid.
    fn holds(&mut self, header: &[u8], page: &[u8]) -> bool {
        self.add(&header[..8]);
        self.add(page);
        number(header, 0) != 0 && self.sum == (number(header, 16), number(header, 20))
    }
}

fn scan(reader: &mut impl Read, mut chain: Chain) -> io::Result<Scan> {
    let mut frame = vec![0; FRAME_HEADER_BYTES + chain.page_bytes];
    let mut scan =
        Scan { salts: chain.salts, recovered: 0, cut_off: 0, cut_off_commits: 0, cut_off_commit_was_synced: false };
    let (mut count, mut whole) = (0, true);
    // The chain after a commit that was cut off.
    let mut after_commit: Option<Chain> = None;
    while fill(reader, &mut frame)? {
        count += 1;
        let (header, page) = frame.split_at(FRAME_HEADER_BYTES);
        let is_commit = number(header, 4) != 0;
        let of_this_run = header[8..16] == chain.salts;
        if whole {
            let holds = chain.holds(header, page);
            whole = holds && of_this_run;
            if whole {
                if is_commit {
                    scan.recovered = count;
                }
                continue;
            }
            // A frame with a valid checksum belongs to this run, whatever its salts are.
            if !of_this_run && !holds {
                continue;
            }
        } else if !of_this_run {
            continue;
        }
        scan.cut_off_commit_was_synced |= after_commit.take().is_some_and(|mut chain| chain.holds(header, page));
        after_commit = is_commit.then(|| chain.after(header));
        scan.cut_off += 1;
        scan.cut_off_commits += u64::from(is_commit);
    }
    Ok(scan)
}

/// Fills the buffer. Returns `false` when the file ends before the buffer is full.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A write-ahead log with several commits, as a killed process leaves it, and the number of frames after each commit.
    fn log(commits: usize) -> (tempfile::TempDir, std::path::PathBuf, Vec<u64>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", "wal").unwrap();
        connection.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        connection.execute_batch("CREATE TABLE t (v TEXT)").unwrap();
        let wal = folder.path().join("db-wal");
        let frames = || (wal.metadata().unwrap().len() - HEADER_BYTES as u64) / (FRAME_HEADER_BYTES as u64 + 4_096);
        let mut ends = vec![frames()];
        for number in 0..commits {
            connection.execute("INSERT INTO t VALUES (?1)", [format!("{number:>03000}")]).unwrap();
            ends.push(frames());
        }
        let copy = folder.path().join("copy");
        std::fs::copy(&wal, &copy).unwrap();
        (folder, copy, ends)
    }

    fn scanned(path: &Path) -> Scan {
        match read(path).unwrap() {
            LogContents::Readable(scan) => scan,
            other => panic!("{other:?}"),
        }
    }

    fn flip_bit(path: &Path, at: u64) {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at as usize] ^= 0x10;
        std::fs::write(path, bytes).unwrap();
    }

    fn frame_at(number: u64) -> u64 {
        HEADER_BYTES as u64 + (number - 1) * (FRAME_HEADER_BYTES as u64 + 4_096)
    }

    #[test]
    fn recovery_uses_all_frames_of_a_sound_log() {
        let (_folder, path, ends) = log(5);
        let scan = scanned(&path);
        assert_eq!((scan.recovered, scan.cut_off, scan.cut_off_commits), (ends[5], 0, 0));
        assert_eq!(scan.salts, salts(&File::open(&path).unwrap()).unwrap());
    }

    #[test]
    fn damage_cuts_off_the_frames_after_it() {
        for part in [4, 9, 17, 30, 4_000] {
            let (_folder, path, ends) = log(5);
            // Damage the first frame of the third commit.
            flip_bit(&path, frame_at(ends[2] + 1) + part);
            let scan = scanned(&path);
            assert_eq!(scan.recovered, ends[2], "{part}");
            assert_eq!(scan.cut_off, ends[5] - ends[2], "{part}");
            assert!(scan.cut_off_commits >= 2 && scan.cut_off_commit_was_synced, "{part}: {scan:?}");
        }
    }

    #[test]
    fn damage_in_the_last_frame_is_counted() {
        for part in [4, 9, 17, 30, 4_000] {
            let (_folder, path, ends) = log(3);
            flip_bit(&path, frame_at(ends[3]) + part);
            let scan = scanned(&path);
            assert_eq!((scan.recovered, scan.cut_off), (ends[2], 1), "{part}");
        }
    }

    #[test]
    fn a_commit_cut_off_by_a_crash_is_not_damage() {
        let (_folder, path, ends) = log(3);
        let bytes = std::fs::read(&path).unwrap();
        // Cut in the middle of the last frame, after its header, and before it.
        for length in [frame_at(ends[3]) + 2_000, frame_at(ends[3]) + 24, frame_at(ends[3])] {
            std::fs::write(&path, &bytes[..length as usize]).unwrap();
            let scan = scanned(&path);
            assert_eq!((scan.recovered, scan.cut_off), (ends[2], 0));
        }
    }

    #[test]
    fn damage_in_the_header_is_detected() {
        let (_folder, path, _) = log(1);
        flip_bit(&path, 17);
        assert!(matches!(read(&path).unwrap(), LogContents::HeaderDamaged { .. }));
        std::fs::write(&path, b"short").unwrap();
        assert_eq!(read(&path).unwrap(), LogContents::HeaderDamaged { bytes: 5 });
        std::fs::write(&path, b"").unwrap();
        assert_eq!(read(&path).unwrap(), LogContents::Absent);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap(), LogContents::Absent);
    }
}
