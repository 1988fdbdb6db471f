//! Listing the blobs that are stored.
//!
//! Invariant: a name that is not the name of a blob is never listed.

use std::time::SystemTime;

use futures_util::stream::BoxStream;

use super::error::BlobError;
use super::name::BlobName;

/// A blob that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name of the blob.
    pub name: BlobName,
    /// Number of bytes.
    pub size_bytes: u64,
    /// When the blob was stored, by the clock of the storage.
    pub modified_at: SystemTime,
}

/// The blobs that are stored, as a stream in no certain order. The stream ends after the first error.
///
/// A blob that is stored or deleted while the stream is read may be listed or not.
pub type Listing = BoxStream<'static, Result<Listed, BlobError>>;

/// Parses a path `ab/NAME` below the location. `None`: it is not the path of a blob.
pub(super) fn name_of_path(path: &str) -> Option<BlobName> {
    let (_, name) = path.rsplit_once('/')?;
    let name: BlobName = name.parse().ok()?;
    (name.path() == path).then_some(name)
}
