//! Pages of lists: how many, and from where on.
//!
//! Invariant: a cursor is opaque to callers and names a place by value, never by offset, so a page neither repeats nor skips
//! what stood still. It says for which list it was made; another list refuses it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::base::error::{Error, Result};

/// Entries of a page when the caller names no number.
pub const DEFAULT_LIMIT: usize = 50;
/// Entries that a page may have.
pub const MAX_LIMIT: usize = 200;
/// Bytes of a cursor; ours are shorter.
const MAX_CURSOR_BYTES: usize = 200;

/// How many entries: 1..=[`MAX_LIMIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(usize);

impl Limit {
    /// The largest one.
    pub const MAX: Self = Self(MAX_LIMIT);

    /// `None` when the number is out of bounds.
    pub fn new(entries: i64) -> Option<Self> {
        usize::try_from(entries).ok().filter(|entries| (1..=MAX_LIMIT).contains(entries)).map(Self)
    }

    /// The number.
    pub const fn get(self) -> usize {
        self.0
    }

    /// How many to read: one more than the page has tells whether another one follows.
    pub const fn to_read(self) -> i64 {
        self.0 as i64 + 1
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(DEFAULT_LIMIT)
    }
}

/// One page and the cursor of the next.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The entries.
    pub entries: T,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

impl<T> Page<Vec<T>> {
    /// A page of the list called `list`, made of [`Limit::to_read`] entries or what there was; `place` is where an entry
    /// stands.
    pub fn new<const N: usize>(list: &str, mut read: Vec<T>, limit: Limit, place: impl FnOnce(&T) -> [i64; N]) -> Self {
        let more = read.len() > limit.0;
        read.truncate(limit.0);
        let next = read.last().filter(|_| more).map(|last| encode_cursor(list, &place(last)));
        Self { entries: read, next }
    }
}

/// Where a page of the list called `list` begins: behind what its cursor names, or behind `start`.
///
/// # Errors
/// As [`decode_cursor`].
pub fn begin(list: &str, cursor: Option<&str>, start: i64) -> Result<i64> {
    let Some(cursor) = cursor else { return Ok(start) };
    let [place] = decode_cursor(list, cursor)?;
    Ok(place)
}

/// Writes a cursor for the list called `list`.
pub fn encode_cursor(list: &str, place: &[i64]) -> String {
    let mut text = list.to_owned();
    for number in place {
        text.push(':');
        text.push_str(&number.to_string());
    }
    URL_SAFE_NO_PAD.encode(text)
}

/// Reads a cursor of the list called `list`.
///
/// # Errors
/// 422 on the field `cursor` when it is not one that this list gave.
pub fn decode_cursor<const N: usize>(list: &str, cursor: &str) -> Result<[i64; N]> {
    let place = (|| {
        if cursor.len() > MAX_CURSOR_BYTES {
            return None;
        }
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let mut parts = text.split(':');
        if parts.next() != Some(list) {
            return None;
        }
        let numbers: Vec<i64> = parts.map(|part| part.parse().ok()).collect::<Option<_>>()?;
        numbers.try_into().ok()
    })();
    place.ok_or_else(|| {
        Error::invalid(
            "cursor",
            "invalid_cursor",
            "is not a cursor of this list: take it from the Link header as it is",
        )
    })
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
        for garbage in ["", "x", "====", "dXNlcnM6eA", &"A".repeat(300)] {
            assert!(decode_cursor::<1>("users", garbage).is_err(), "{garbage}");
        }
    }
}
