//! The names of blobs.
//!
//! Invariant: a name is valid in every kind of storage, and each name has exactly one text.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

/// The name of a blob: `SHA256.ID`, with the SHA-256 of the bytes in 64 lower-case hexadecimal digits and an id in decimal.
///
/// The bytes of a name never change. The id makes the names of two uploads of the same bytes different, so that each can
/// be deleted on its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobName {
    sha256: [u8; 32],
    id: i64,
}

/// The text is not the name of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a blob: expected 64 lower-case hexadecimal digits, a dot and an integer")]
pub struct InvalidBlobName;

impl BlobName {
    /// Creates the name of the bytes with this SHA-256.
    pub fn new(sha256: [u8; 32], id: i64) -> Self {
        Self { sha256, id }
    }

    /// The SHA-256 of the bytes.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// The id.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// The number of the folder that holds the blob: the first byte of the SHA-256.
    pub(super) fn folder(&self) -> u8 {
        let [first, ..] = self.sha256;
        first
    }

    /// The path below the location: `ab/NAME`, where `ab` is the first byte of the SHA-256 in hexadecimal.
    pub(super) fn path(&self) -> String {
        format!("{:02x}/{self}", self.folder())
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", HEXLOWER.encode(&self.sha256), self.id)
    }
}

impl FromStr for BlobName {
    type Err = InvalidBlobName;

    fn from_str(text: &str) -> Result<Self, InvalidBlobName> {
        let (digest, id) = text.split_once('.').ok_or(InvalidBlobName)?;
        let digest = HEXLOWER.decode(digest.as_bytes()).map_err(|_| InvalidBlobName)?;
        let name = Self {
            sha256: digest.try_into().map_err(|_| InvalidBlobName)?,
            id: id.parse().map_err(|_| InvalidBlobName)?,
        };
        // Refuses other texts of the same integer, such as "+7" and "007".
        if name.id.to_string() == id { Ok(name) } else { Err(InvalidBlobName) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_from_its_text() {
        for id in [0, 1, 42, i64::MAX, -1, i64::MIN] {
            let name = BlobName::new([0xab; 32], id);
            assert_eq!(name.to_string().parse(), Ok(name.clone()));
            assert_eq!(name.path(), format!("ab/{}.{id}", "ab".repeat(32)));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let digest = "ab".repeat(32);
        for text in [
            String::new(),
            digest.clone(),
            format!("{digest}."),
            format!("{digest}.+7"),
            format!("{digest}.007"),
            format!("{digest}.-0"),
            format!("{digest}.7.8"),
            format!("{digest}.7/"),
            format!("{digest}.9223372036854775808"),
            format!("{}.7", digest.to_uppercase()),
            format!("{}.7", &digest[2..]),
            format!("{digest}ab.7"),
            format!("../{digest}.7"),
            "é".repeat(40),
        ] {
            assert_eq!(text.parse::<BlobName>(), Err(InvalidBlobName), "{text}");
        }
    }
}
