//! The spool: local files for uploads that are not finished.
//!
//! Invariant: a file of the spool is deleted when its last owner drops it. Its size and its SHA-256 are those of the bytes
//! that were written to it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::error::BlobError;
use super::temporary::{TemporaryFile, TemporaryFolder};

/// Number of bytes that are collected before they are written. A file has at most two such buffers.
const BUFFER_BYTES: usize = 256 * 1024;
/// A piece of at least this many bytes is written as it is. Smaller ones are copied into the buffer, because a small piece can keep a
/// large block of memory from being used again.
const DIRECT_BYTES: usize = 64 * 1024;

/// A private temporary file that receives an upload. Dropping it deletes the file.
///
/// The bytes are hashed and written by the threads for blocking work, while the caller collects the next ones.
#[derive(Debug)]
pub struct SpoolFile {
    file: TemporaryFile,
    buffer: Vec<u8>,
    size_bytes: u64,
    writer: Writer,
}

/// Whether a thread writes at the moment. While it does, the digest and the spare buffer are there.
#[derive(Debug)]
enum Writer {
    Idle(Progress),
    Busy(JoinHandle<Result<Progress, BlobError>>),
    /// A write failed. The content of the file is incomplete.
    Failed,
}

/// What one write gives to the next.
struct Progress {
    digest: digest::Context,
    spare: Vec<u8>,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Progress").finish_non_exhaustive()
    }
}

/// A complete file of the spool. Dropping it deletes the file, unless [`super::Blobs::put`] moved it.
#[derive(Debug)]
pub struct Spooled {
    /// Where the file is.
    pub path: PathBuf,
    /// Number of bytes of the file.
    pub size_bytes: u64,
    /// The SHA-256 of the file.
    pub sha256: [u8; 32],
    _file: TemporaryFile,
}

impl SpoolFile {
    /// Creates an empty file.
    pub(super) async fn create(folder: TemporaryFolder) -> Result<Self, BlobError> {
        let file = super::files::blocking(move || folder.create()).await?;
        let progress = Progress { digest: digest::Context::new(&digest::SHA256), spare: Vec::new() };
        Ok(Self { file, buffer: Vec::new(), size_bytes: 0, writer: Writer::Idle(progress) })
    }

    /// Appends bytes. It waits while the disk is slower than the caller.
    ///
    /// The file must be dropped if the returned future is dropped before it completes, or after an error.
    ///
    /// # Errors
    /// [`BlobError::StorageFull`], [`BlobError::Other`]. An error of these bytes may be returned by a later call.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), BlobError> {
        self.size_bytes += piece.len() as u64;
        if piece.len() >= DIRECT_BYTES {
            if !self.buffer.is_empty() {
                self.write_buffer().await?;
            }
            let Progress { digest, spare } = self.wait_for_writer().await?;
            self.start_write(digest, move |write| write(&piece).map(|()| spare));
            return Ok(());
        }
        let mut bytes: &[u8] = &piece;
        while !bytes.is_empty() {
            if self.buffer.len() >= BUFFER_BYTES {
                self.write_buffer().await?;
            }
            if self.buffer.capacity() == 0 {
                // Small files get a small buffer.
                self.buffer.reserve_exact(bytes.len().min(BUFFER_BYTES));
            }
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Number of bytes that were given to [`Self::write`].
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Writes what is left and returns the complete file. The file is not synced: [`super::Blobs::put`] does that.
    ///
    /// # Errors
    /// [`BlobError::StorageFull`], [`BlobError::Other`].
    pub async fn finish(mut self) -> Result<Spooled, BlobError> {
        if !self.buffer.is_empty() {
            self.write_buffer().await?;
        }
        let progress = self.wait_for_writer().await?;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(progress.digest.finish().as_ref());
        Ok(Spooled { path: self.file.path.clone(), size_bytes: self.size_bytes, sha256, _file: self.file })
    }

    /// The path of the file, for code that writes the file by itself. [`Self::finish_written`] completes such a file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Reads the file that other code has written at [`Self::path`], and returns it as the complete file.
    ///
    /// # Errors
    /// [`BlobError::Other`].
    pub async fn finish_written(self) -> Result<Spooled, BlobError> {
        super::files::blocking(move || {
            let path = self.file.path.clone();
            let hashed = || {
                let mut file = std::fs::File::open(&path)?;
                let mut digest = digest::Context::new(&digest::SHA256);
                let mut buffer = vec![0; BUFFER_BYTES];
                let mut size_bytes = 0;
                loop {
                    match file.read(&mut buffer)? {
                        0 => return Ok((digest.finish(), size_bytes)),
                        count => {
                            digest.update(&buffer[..count]);
                            size_bytes += count as u64;
                        }
                    }
                }
            };
            let (digest, size_bytes) = hashed().map_err(|error| BlobError::io("read", &path, error))?;
            let mut sha256 = [0; 32];
            sha256.copy_from_slice(digest.as_ref());
            Ok(Spooled { path, size_bytes, sha256, _file: self.file })
        })
        .await
    }

    /// Hands the buffer to a thread, and takes the spare one.
    async fn write_buffer(&mut self) -> Result<(), BlobError> {
        let Progress { digest, spare } = self.wait_for_writer().await?;
        let mut full = std::mem::replace(&mut self.buffer, spare);
        self.start_write(digest, move |write| {
            write(&full)?;
            full.clear();
            Ok(full)
        });
        Ok(())
    }

    /// Runs `work` on a thread for blocking work. It gets a function that writes and hashes bytes, and returns the spare buffer.
    fn start_write<W>(&mut self, mut digest: digest::Context, work: W)
    where
        W: FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), BlobError>) -> Result<Vec<u8>, BlobError> + Send + 'static,
    {
        let file = Arc::clone(&self.file.file);
        let path = self.file.path.clone();
        self.writer = Writer::Busy(tokio::task::spawn_blocking(move || {
            let spare = work(&mut |bytes| {
                (&*file).write_all(bytes).map_err(|error| BlobError::io("write", &path, error))?;
                digest.update(bytes);
                Ok(())
            })?;
            Ok(Progress { digest, spare })
        }));
    }

    /// Waits for the running write. The writer is left as failed: the caller starts a new write or ends the file.
    async fn wait_for_writer(&mut self) -> Result<Progress, BlobError> {
        let busy = match &mut self.writer {
            Writer::Busy(task) => Some(task.await),
            Writer::Idle(_) | Writer::Failed => None,
        };
        match (busy, std::mem::replace(&mut self.writer, Writer::Failed)) {
            (Some(result), _) => result.map_err(BlobError::task)?,
            (None, Writer::Idle(progress)) => Ok(progress),
            (None, _) => Err(BlobError::other("an earlier write to this file of the spool failed")),
        }
    }
}
