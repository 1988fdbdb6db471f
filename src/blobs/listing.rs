//! Listing the blobs that are stored.
//!
//! Invariant: a name that is not the name of a blob is never listed. It is counted, so that a sweep can report it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::Stream;
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
pub struct Listing {
    stream: BoxStream<'static, Result<Listed, BlobError>>,
    foreign: ForeignNames,
}

impl Listing {
    pub(super) fn new(stream: BoxStream<'static, Result<Listed, BlobError>>, foreign: ForeignNames) -> Self {
        Self { stream, foreign }
    }

    /// Number of names so far that are not names of blobs.
    pub fn foreign_names(&self) -> u64 {
        self.foreign.0.load(Ordering::Relaxed)
    }
}

impl Stream for Listing {
    type Item = Result<Listed, BlobError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(context)
    }
}

/// A count of names that are not names of blobs.
#[derive(Clone, Debug, Default)]
pub(super) struct ForeignNames(Arc<AtomicU64>);

impl ForeignNames {
    pub(super) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Parses a path `ab/NAME` below the location. `None`: it is not the path of a blob.
pub(super) fn name_of_path(path: &str) -> Option<BlobName> {
    let (_, name) = path.rsplit_once('/')?;
    let name: BlobName = name.parse().ok()?;
    (name.path() == path).then_some(name)
}
