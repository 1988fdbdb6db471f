//! Pages of lists: how many entries a page has, and where it begins.
//!
//! Invariant: callers cannot interpret a cursor. It marks a place by the values of an entry, never by an offset, so
//! entries that do not change are neither repeated nor skipped. A cursor contains the name of its list, and other lists
//! refuse it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::base::error::{Error, Result};

/// Entries on a page if the caller gives no limit.
pub const DEFAULT_LIMIT: usize = 50;
/// Maximum number of entries on a page.
pub const MAX_LIMIT: usize = 200;
/// Longest cursor that is decoded, in bytes. The cursors of this server are shorter.
const MAX_CURSOR_BYTES: usize = 1_000;

/// The number of entries on a page: 1..=[`MAX_LIMIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(usize);

impl Limit {
    /// The largest page.
    pub const MAX: Self = Self(MAX_LIMIT);

    /// `None` if the number is out of range.
    pub fn new(entries: i64) -> Option<Self> {
        usize::try_from(entries).ok().filter(|entries| (1..=MAX_LIMIT).contains(entries)).map(Self)
    }

    /// The number of entries.
    pub const fn get(self) -> usize {
        self.0
    }

    /// How many entries to read: one more than the page holds, which shows whether another page follows.
    pub const fn to_read(self) -> i64 {
        self.0 as i64 + 1
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(DEFAULT_LIMIT)
    }
}

/// One page of a list, and the cursor of the next one.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The entries.
    pub entries: T,
    /// The cursor of the next page; `None` on the last page.
    pub next: Option<String>,
}

impl<T> Page<Vec<T>> {
    /// Builds a page of the list called `list` from up to [`Limit::to_read`] entries. `place` returns the values that
    /// mark the place of an entry.
    pub fn new<const N: usize>(list: &str, mut read: Vec<T>, limit: Limit, place: impl FnOnce(&T) -> [i64; N]) -> Self {
        let more = read.len() > limit.0;
        read.truncate(limit.0);
        let next = read.last().filter(|_| more).map(|last| encode_cursor(list, &place(last)));
        Self { entries: read, next }
    }
}

/// Where a page of the list called `list` begins: after the place of the cursor, or after `start` without a cursor.
///
/// # Errors
/// As [`decode_cursor`].
pub fn begin(list: &str, cursor: Option<&str>, start: i64) -> Result<i64> {
    let Some(cursor) = cursor else { return Ok(start) };
    let [place] = decode_cursor(list, cursor)?;
    Ok(place)
}

/// Encodes a cursor for the list called `list`.
pub fn encode_cursor(list: &str, place: &[i64]) -> String {
    let mut text = list.to_owned();
    for number in place {
        text.push(':');
        text.push_str(&number.to_string());
    }
    URL_SAFE_NO_PAD.encode(text)
}

/// Decodes a cursor of the list called `list`.
///
/// # Errors
/// 422 for the field `cursor` if it is not a cursor of this list.
pub fn decode_cursor<const N: usize>(list: &str, cursor: &str) -> Result<[i64; N]> {
    decode_numbers(list, cursor)?.try_into().map_err(|_| invalid_cursor())
}

/// As [`decode_cursor`], for a cursor whose length varies.
///
/// # Errors
/// As [`decode_cursor`].
pub fn decode_numbers(list: &str, cursor: &str) -> Result<Vec<i64>> {
    let numbers = (|| {
        if cursor.len() > MAX_CURSOR_BYTES {
            return None;
        }
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let mut parts = text.split(':');
        if parts.next() != Some(list) {
            return None;
        }
        parts.map(|part| part.parse().ok()).collect::<Option<_>>()
    })();
    numbers.ok_or_else(invalid_cursor)
}

/// The error for a cursor that does not belong to the list.
pub fn invalid_cursor() -> Error {
    Error::invalid("cursor", "invalid_cursor", "not a cursor of this list; send the link of the Link header unchanged")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_by_its_own_list_alone() {
        let cursor = encode_cursor("users", &[7, -1]);
        assert_eq!(decode_cursor::<2>("users", &cursor).ok(), Some([7, -1]));
        assert!(decode_cursor::<2>("messages", &cursor).is_err());
        assert!(decode_cursor::<1>("users", &cursor).is_err());
        for garbage in ["", "x", "====", "dXNlcnM6eA", &"A".repeat(2_000)] {
            assert!(decode_cursor::<1>("users", garbage).is_err(), "{garbage}");
        }
    }
}
