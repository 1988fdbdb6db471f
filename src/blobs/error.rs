//! The errors of the storage of blobs.
//!
//! Invariant: each error keeps its cause as the source, and no text contains a credential.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;

/// The cause of an error.
pub type Source = Box<dyn Error + Send + Sync>;

/// Why an operation on blobs failed.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// No blob has this name.
    #[error("the blob does not exist")]
    NotFound,
    /// The disk, the quota or the bucket has no space left. Nothing was stored.
    #[error("the storage of blobs is full")]
    StorageFull(#[source] Source),
    /// The storage does not answer, or answers that it cannot work now. A later attempt can succeed.
    #[error("the storage of blobs is unavailable")]
    Unavailable(#[source] Source),
    /// The location cannot be used. The text is a sentence that says why.
    #[error("{0}")]
    InvalidLocation(String),
    /// Any other fault. Its text says what failed or what to check. Another attempt does not help.
    #[error(transparent)]
    Other(Source),
}

impl BlobError {
    /// Creates [`BlobError::Other`] from a sentence.
    pub(super) fn other(text: impl Into<String>) -> Self {
        Self::Other(Box::new(Described { text: text.into(), source: None }))
    }

    /// Creates the error of a failed operation on a file: `action` is a phrase such as "write".
    ///
    /// A missing file is [`BlobError::Other`] here. A caller for which it means [`BlobError::NotFound`] checks that first.
    pub(super) fn io(action: &str, path: &Path, error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let kind = error.kind();
        let source = described(format!("could not {action} {}: {error}", path.display()), error);
        match kind {
            Kind::StorageFull | Kind::QuotaExceeded => Self::StorageFull(source),
            // A network file system that does not answer.
            Kind::TimedOut
            | Kind::StaleNetworkFileHandle
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::NotConnected => Self::Unavailable(source),
            _ => Self::Other(source),
        }
    }

    /// Creates the error of a blocking task that did not end normally.
    pub(super) fn task(error: tokio::task::JoinError) -> Self {
        if error.is_cancelled() { Self::Unavailable(Box::new(error)) } else { Self::Other(Box::new(error)) }
    }
}

/// A sentence with the error that it explains.
#[derive(Debug)]
struct Described {
    text: String,
    source: Option<Source>,
}

impl fmt::Display for Described {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Error for Described {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// Creates a cause from a sentence and the error that it explains.
pub(super) fn described(text: impl Into<String>, source: impl Into<Source>) -> Source {
    Box::new(Described { text: text.into(), source: Some(source.into()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_used_up_quota_are_storage_full() {
        // ENOSPC and EDQUOT on Linux.
        for code in [28, 122] {
            let error = BlobError::io("write", Path::new("/x"), io::Error::from_raw_os_error(code));
            assert!(matches!(error, BlobError::StorageFull(_)), "{error:?}");
        }
    }

    #[test]
    fn an_error_keeps_its_cause() {
        let error = BlobError::io("write", Path::new("/x"), io::Error::from_raw_os_error(5));
        assert!(error.to_string().starts_with("could not write /x: "), "{error}");
        assert!(error.source().is_some_and(|source| source.is::<io::Error>()));
    }
}
