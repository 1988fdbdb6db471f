//! The bytes of a blob as a stream.
//!
//! Invariant: a stream yields exactly the bytes of its range, or an error. It holds a bounded number of bytes: two chunks of a
//! folder, or one chunk and the buffer of one connection of S3.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use futures_util::stream::{BoxStream, StreamExt};
use tokio::task::JoinHandle;

use super::error::BlobError;

/// Number of bytes of a chunk of a folder, except the last one. A chunk of S3 has no more.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;
/// Smallest number of bytes of a chunk of S3, except the last one.
const SMALLEST_CHUNK_BYTES: usize = 64 * 1024;

/// The bytes of a range of a blob. Dropping the stream ends the reading. The stream ends after the first error.
pub struct BlobStream(Inner);

enum Inner {
    Folder(FileChunks),
    S3(BoxStream<'static, Result<Bytes, BlobError>>),
}

impl BlobStream {
    pub(super) fn of_file(chunks: FileChunks) -> Self {
        Self(Inner::Folder(chunks))
    }

    /// The stream of an answer of S3, which must have `size_bytes` bytes.
    pub(super) fn of_answer(answer: BoxStream<'static, Result<Bytes, BlobError>>, size_bytes: u64) -> Self {
        let chunks = AnswerChunks { answer, piece: Bytes::new(), size_bytes };
        let stream = futures_util::stream::try_unfold(chunks, |mut chunks| async move {
            Ok(chunks.next().await?.map(|chunk| (chunk, chunks)))
        });
        Self(Inner::S3(stream.boxed()))
    }

    /// The stream of an empty range.
    pub(super) fn empty() -> Self {
        Self(Inner::S3(futures_util::stream::empty().boxed()))
    }
}

impl Stream for BlobStream {
    type Item = Result<Bytes, BlobError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.0 {
            Inner::Folder(chunks) => chunks.poll_next(context),
            Inner::S3(stream) => stream.as_mut().poll_next(context),
        }
    }
}

/// Reads a range of a file. While the caller has one chunk, a thread for blocking work reads the next one.
pub(super) struct FileChunks {
    file: Arc<File>,
    path: Arc<Path>,
    next: u64,
    end: u64,
    ahead: Ahead,
}

/// The chunk that is read ahead.
enum Ahead {
    Ready(Bytes),
    Reading(JoinHandle<Result<Bytes, BlobError>>),
    Nothing,
}

impl FileChunks {
    /// Reads the first chunk. Blocks. The range must lie within the file.
    pub(super) fn start(file: File, path: Arc<Path>, start: u64, end: u64) -> Result<Self, BlobError> {
        let size_bytes = chunk_size(start, end);
        let first = read_chunk(&file, &path, start, vec![0; size_bytes])?;
        let next = start + size_bytes as u64;
        let ahead = if first.is_empty() { Ahead::Nothing } else { Ahead::Ready(first) };
        Ok(Self { file: Arc::new(file), path, next, end, ahead })
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BlobError>>> {
        let result = match &mut self.ahead {
            Ahead::Nothing => return Poll::Ready(None),
            Ahead::Ready(chunk) => Ok(std::mem::take(chunk)),
            Ahead::Reading(task) => match Pin::new(task).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result.map_err(BlobError::task).flatten(),
            },
        };
        self.ahead = if result.is_ok() { self.read_ahead() } else { Ahead::Nothing };
        Poll::Ready(Some(result))
    }

    fn read_ahead(&mut self) -> Ahead {
        if self.next >= self.end {
            return Ahead::Nothing;
        }
        let (file, path, start) = (Arc::clone(&self.file), Arc::clone(&self.path), self.next);
        let size_bytes = chunk_size(start, self.end);
        self.next += size_bytes as u64;
        // Allocated here, because this thread also frees the chunks. The allocator then uses their memory again at once.
        let bytes = vec![0; size_bytes];
        Ahead::Reading(tokio::task::spawn_blocking(move || read_chunk(&file, &path, start, bytes)))
    }
}

/// Number of bytes of the chunk that begins at `start`.
fn chunk_size(start: u64, end: u64) -> usize {
    usize::try_from(end.saturating_sub(start)).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)
}

fn read_chunk(file: &File, path: &Path, start: u64, mut bytes: Vec<u8>) -> Result<Bytes, BlobError> {
    file.read_exact_at(&mut bytes, start).map_err(|error| BlobError::io("read", path, error))?;
    Ok(bytes.into())
}

/// Cuts an answer of S3 into chunks of similar sizes. The pieces of an answer have the sizes that the network gives them.
struct AnswerChunks {
    answer: BoxStream<'static, Result<Bytes, BlobError>>,
    /// What is left of the last piece.
    piece: Bytes,
    /// Number of bytes that the answer must still yield.
    size_bytes: u64,
}

impl AnswerChunks {
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        if self.piece.is_empty() && !self.next_piece().await? {
            return Ok(None);
        }
        if self.piece.len() >= SMALLEST_CHUNK_BYTES {
            return Ok(Some(self.cut(CHUNK_BYTES)));
        }
        // All buffers have the same size, so that the allocator can use the memory of one for the next.
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        while buffer.len() < SMALLEST_CHUNK_BYTES && (!self.piece.is_empty() || self.next_piece().await?) {
            buffer.extend_from_slice(&self.cut(CHUNK_BYTES - buffer.len()));
        }
        Ok(Some(buffer.freeze()))
    }

    /// Waits for the next piece. `false`: the answer is complete.
    async fn next_piece(&mut self) -> Result<bool, BlobError> {
        while self.piece.is_empty() {
            let Some(piece) = self.answer.next().await.transpose()? else {
                return if self.size_bytes == 0 { Ok(false) } else { Err(wrong_size()) };
            };
            self.size_bytes = self.size_bytes.checked_sub(piece.len() as u64).ok_or_else(wrong_size)?;
            self.piece = piece;
        }
        Ok(true)
    }

    /// Takes at most this number of bytes from the piece.
    fn cut(&mut self, limit_bytes: usize) -> Bytes {
        self.piece.split_to(self.piece.len().min(limit_bytes))
    }
}

fn wrong_size() -> BlobError {
    BlobError::other("the answer of S3 has another number of bytes than the range")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn chunk_sizes(pieces: &[usize], size_bytes: u64) -> Result<Vec<usize>, BlobError> {
        let pieces: Vec<_> = pieces.iter().map(|&length| Ok(Bytes::from(vec![7; length]))).collect();
        let mut stream = BlobStream::of_answer(futures_util::stream::iter(pieces).boxed(), size_bytes);
        let mut sizes = Vec::new();
        while let Some(chunk) = stream.next().await.transpose()? {
            sizes.push(chunk.len());
        }
        Ok(sizes)
    }

    #[tokio::test]
    async fn small_pieces_are_joined_and_large_ones_are_cut() {
        assert!(chunk_sizes(&[], 0).await.unwrap().is_empty());
        assert_eq!(chunk_sizes(&[5], 5).await.unwrap(), [5]);
        assert_eq!(chunk_sizes(&[40_000; 3], 120_000).await.unwrap(), [80_000, 40_000]);
        assert_eq!(chunk_sizes(&[100_000; 2], 200_000).await.unwrap(), [100_000, 100_000]);
        assert_eq!(
            chunk_sizes(&[600_000], 600_000).await.unwrap(),
            [CHUNK_BYTES, CHUNK_BYTES, 600_000 - 2 * CHUNK_BYTES]
        );
    }

    #[tokio::test]
    async fn an_answer_of_another_size_is_an_error() {
        assert!(chunk_sizes(&[100_000], 100_001).await.is_err());
        assert!(chunk_sizes(&[100_000], 99_999).await.is_err());
        assert!(chunk_sizes(&[], 1).await.is_err());
    }
}
