//! Digests of messages and of their earlier bodies, by which damage to a stored row is found.
//!
//! A digest is XXH3-64: it finds accidents (a flipped bit, a row under another key), and is no protection against somebody
//! who may write into the database.
//!
//! Invariants: whatever writes a column that a digest covers writes the digest with it, or NULL where it cannot compute it.
//! What is covered is never changed without a migration that sets the digests of before to NULL.

use xxhash_rust::xxh3::xxh3_64;

/// What a comparison with a digest found, where it found no damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The digest matches.
    Matches,
    /// There is none: the row was written by a version that had no digests.
    NoDigest,
}

/// The fields that a digest covers, in the order and width that is stored.
///
/// Fields as eight bytes each, so that no two rows have the same bytes. A text is its length and its own digest: that needs
/// no memory for a copy of it.
pub(in crate::store) struct Fields<const COUNT: usize> {
    words: [u64; COUNT],
    next: usize,
}

impl<const COUNT: usize> Default for Fields<COUNT> {
    fn default() -> Self {
        Self { words: [0; COUNT], next: 0 }
    }
}

impl<const COUNT: usize> Fields<COUNT> {
    pub(in crate::store) fn put(&mut self, number: i64) {
        self.words[self.next] = number.cast_unsigned();
        self.next += 1;
    }

    /// Whether there is a number, and the number.
    pub(in crate::store) fn put_option(&mut self, number: Option<i64>) {
        self.put(i64::from(number.is_some()));
        self.put(number.unwrap_or_default());
    }

    pub(in crate::store) fn put_text(&mut self, text: &str) {
        self.put(text.len() as i64);
        self.put(xxh3_64(text.as_bytes()).cast_signed());
    }

    pub(in crate::store) fn digest(&self) -> i64 {
        debug_assert_eq!(self.next, COUNT, "a word a field");
        let mut bytes = [0; 256];
        for (place, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        xxh3_64(&bytes[..COUNT * 8]).cast_signed()
    }
}
