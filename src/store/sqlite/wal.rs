//! A write-ahead log, read as SQLite's recovery reads it (<https://www.sqlite.org/fileformat2.html#walformat>).
//!
//! Recovery takes the frames up to the last commit whose chain of checksums holds, and drops what is behind it without saying
//! so. A crash leaves such a tail (frames of a commit that was never acknowledged), and so does damage (frames of commits that
//! were). Here the tail is counted.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const MAGIC: u32 = 0x377f_0682;
/// Bytes of the largest page.
const PAGE_LIMIT_BYTES: u32 = 65_536;

/// What tells one run of the log from the next: both salts of its header.
pub type Salts = [u8; 8];

/// What a log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Log {
    /// There is no file, or it is empty.
    Absent,
    /// The header is damaged: recovery takes nothing of the log.
    Headless {
        /// Bytes of the file.
        bytes: u64,
    },
    /// The header holds.
    Readable(Scan),
}

/// What is behind a header that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Of this run of the log.
    pub salts: Salts,
    /// Frames that recovery takes: up to the last commit whose checksums hold.
    pub recovered: u64,
    /// Frames of this run behind the first frame whose checksum does not hold, that frame included.
    pub cut_off: u64,
    /// Commits among those.
    pub cut_off_commits: u64,
    /// Whether a frame continues a commit that was cut off: then that commit was synced, for the next one began after it.
    pub goes_on_behind_commit: bool,
}

/// Reads a log from its beginning to its end.
///
/// # Errors
/// Of reading.
pub fn read(path: &Path) -> io::Result<Log> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Log::Absent),
        opened => opened?,
    };
    let bytes = file.metadata()?.len();
    if bytes == 0 {
        return Ok(Log::Absent);
    }
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut header = [0; HEADER_BYTES];
    if !fill(&mut reader, &mut header)? {
        return Ok(Log::Headless { bytes });
    }
    match Chain::new(&header) {
        Some(chain) => scan(&mut reader, chain).map(Log::Readable),
        None => Ok(Log::Headless { bytes }),
    }
}

/// The salts of the log's present run, without a look at the rest.
///
/// # Errors
/// Of reading.
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
    /// Begins behind a header, if that holds.
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

    /// The chain behind a frame, as that frame says it.
    fn behind(&self, header: &[u8]) -> Self {
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

    /// Goes on over a frame; whether its checksum holds.
    fn holds(&mut self, header: &[u8], page: &[u8]) -> bool {
        self.add(&header[..8]);
        self.add(page);
        number(header, 0) != 0 && self.sum == (number(header, 16), number(header, 20))
    }
}

fn scan(reader: &mut impl Read, mut chain: Chain) -> io::Result<Scan> {
    let mut frame = vec![0; FRAME_HEADER_BYTES + chain.page_bytes];
    let mut scan =
        Scan { salts: chain.salts, recovered: 0, cut_off: 0, cut_off_commits: 0, goes_on_behind_commit: false };
    let (mut count, mut whole) = (0, true);
    // The chain as it stands behind a commit that was cut off.
    let mut behind_commit: Option<Chain> = None;
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
            // A frame whose checksum holds is of this run, whatever its salts say.
            if !of_this_run && !holds {
                continue;
            }
        } else if !of_this_run {
            continue;
        }
        scan.goes_on_behind_commit |= behind_commit.take().is_some_and(|mut chain| chain.holds(header, page));
        behind_commit = is_commit.then(|| chain.behind(header));
        scan.cut_off += 1;
        scan.cut_off_commits += u64::from(is_commit);
    }
    Ok(scan)
}

/// Fills the buffer; `false` where the file ends before.
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

    /// A log of some commits, as a killed process leaves it, and the frames after each of them.
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
            Log::Readable(scan) => scan,
            other => panic!("{other:?}"),
        }
    }

    fn flip(path: &Path, at: u64) {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at as usize] ^= 0x10;
        std::fs::write(path, bytes).unwrap();
    }

    fn frame_at(number: u64) -> u64 {
        HEADER_BYTES as u64 + (number - 1) * (FRAME_HEADER_BYTES as u64 + 4_096)
    }

    #[test]
    fn a_whole_log_is_recovered_whole() {
        let (_folder, path, ends) = log(5);
        let scan = scanned(&path);
        assert_eq!((scan.recovered, scan.cut_off, scan.cut_off_commits), (ends[5], 0, 0));
        assert_eq!(scan.salts, salts(&File::open(&path).unwrap()).unwrap());
    }

    #[test]
    fn damage_cuts_off_what_is_behind_it() {
        for part in [4, 9, 17, 30, 4_000] {
            let (_folder, path, ends) = log(5);
            // In the first frame of the third commit.
            flip(&path, frame_at(ends[2] + 1) + part);
            let scan = scanned(&path);
            assert_eq!(scan.recovered, ends[2], "{part}");
            assert_eq!(scan.cut_off, ends[5] - ends[2], "{part}");
            assert!(scan.cut_off_commits >= 2 && scan.goes_on_behind_commit, "{part}: {scan:?}");
        }
    }

    #[test]
    fn damage_in_the_last_frame_is_counted() {
        for part in [4, 9, 17, 30, 4_000] {
            let (_folder, path, ends) = log(3);
            flip(&path, frame_at(ends[3]) + part);
            let scan = scanned(&path);
            assert_eq!((scan.recovered, scan.cut_off), (ends[2], 1), "{part}");
        }
    }

    #[test]
    fn a_commit_that_was_cut_off_by_a_crash_is_no_damage() {
        let (_folder, path, ends) = log(3);
        let bytes = std::fs::read(&path).unwrap();
        // In the middle of the last frame, behind its header, and at its beginning.
        for length in [frame_at(ends[3]) + 2_000, frame_at(ends[3]) + 24, frame_at(ends[3])] {
            std::fs::write(&path, &bytes[..length as usize]).unwrap();
            let scan = scanned(&path);
            assert_eq!((scan.recovered, scan.cut_off), (ends[2], 0));
        }
    }

    #[test]
    fn damage_in_the_header_is_seen() {
        let (_folder, path, _) = log(1);
        flip(&path, 17);
        assert!(matches!(read(&path).unwrap(), Log::Headless { .. }));
        std::fs::write(&path, b"short").unwrap();
        assert_eq!(read(&path).unwrap(), Log::Headless { bytes: 5 });
        std::fs::write(&path, b"").unwrap();
        assert_eq!(read(&path).unwrap(), Log::Absent);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap(), Log::Absent);
    }
}
