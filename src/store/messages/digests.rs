//! Digests of messages and of their earlier bodies. They detect damage to a stored row.
//!
//! A digest is XXH3-64. It detects accidental damage (a flipped bit, a row under another key). It does not protect against
//! an attacker who can write into the database.
//!
//! Invariants: a statement that writes a column covered by a digest also writes the digest, or NULL when it cannot compute
//! it. A change of the list of covered fields needs a migration that sets all earlier digests to NULL.

use xxhash_rust::xxh3::xxh3_64;

/// The result of comparing a row with its digest, when no damage was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The digest matches.
    Matches,
    /// There is no digest: the row was written by a version without digests, or a later write could not compute one.
    NoDigest,
}

/// The fields that a digest covers, in a fixed order and width.
///
/// Each number takes eight bytes. So each field has a fixed place, and rows with different numbers never produce the same
/// bytes. A text is represented by two numbers, its length and its XXH3-64, so that it need not be copied. `COUNT` is the
/// number of these numbers, at most 32.
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

    /// Adds two numbers: 1 and the number, or 0 and 0 for `None`.
    pub(in crate::store) fn put_option(&mut self, number: Option<i64>) {
        self.put(i64::from(number.is_some()));
        self.put(number.unwrap_or_default());
    }

    pub(in crate::store) fn put_text(&mut self, text: &str) {
        self.put(text.len() as i64);
        self.put(xxh3_64(text.as_bytes()).cast_signed());
    }

    pub(in crate::store) fn digest(&self) -> i64 {
        debug_assert_eq!(self.next, COUNT, "COUNT must be the number of words that were added");
        let mut bytes = [0; 256];
        for (place, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        xxh3_64(&bytes[..COUNT * 8]).cast_signed()
    }
}
