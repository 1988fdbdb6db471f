//! Blobs in a bucket of S3: `PREFIX/ab/NAME`, where `ab` is the first byte of the SHA-256.
//!
//! Invariant: an object at the key of a blob is complete, because S3 shows an object only after all of its bytes arrived and
//! their checksums were right. An upload that fails or is dropped is aborted. A process that is killed leaves its upload behind:
//! a lifecycle rule of the bucket (`AbortIncompleteMultipartUpload`) deletes it.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::multipart::MultipartStore;
use object_store::path::Path as Key;
use object_store::{BackoffConfig, GetOptions, GetRange, ObjectStore, ObjectStoreExt, RetryConfig};
use tokio::sync::Semaphore;

use super::error::BlobError;
use super::files::blocking;
use super::listing::{Listed, Listing, name_of_path};
use super::location::S3Location;
use super::name::BlobName;
use super::s3_errors::blob_error;
use super::s3_http::{Connector, RETRY_WINDOW};
use super::stream::BlobStream;

/// Number of bytes of a part, except the last one. S3 requires at least 5 MiB.
const PART_BYTES: u64 = 8 * 1024 * 1024;
/// Maximum number of parts of an object, as S3 defines it.
const MAX_PARTS: u64 = 10_000;
/// Number of parts of one upload that are in memory at a time.
const PARTS_PER_UPLOAD: usize = 2;
/// Number of parts of all uploads that are in memory at a time: 64 MiB.
const PARTS_IN_MEMORY: usize = 8;
/// How often an answer whose connection breaks is continued from where it broke.
const RESUMES: usize = 2;
/// The key below the prefix that [`S3Store::open`] writes and deletes.
const PROBE: &str = "write-check";

/// The region if neither the location nor the environment names one.
const DEFAULT_REGION: &str = "us-east-1";
/// The variables that choose the credentials. Others, such as the endpoint, come from the location only.
const CREDENTIAL_VARIABLES: [(&str, AmazonS3ConfigKey); 9] = [
    ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
    ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
    ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", AmazonS3ConfigKey::ContainerCredentialsRelativeUri),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", AmazonS3ConfigKey::ContainerAuthorizationTokenFile),
];

/// Checks that the variables of the environment are UTF-8. Otherwise a variable that is set would count as absent.
///
/// # Errors
/// [`BlobError::InvalidLocation`] with the name of the variable.
pub(super) fn check_environment() -> Result<(), BlobError> {
    let names = CREDENTIAL_VARIABLES.iter().map(|(name, _)| *name).chain(["AWS_REGION", "AWS_DEFAULT_REGION"]);
    for name in names {
        if matches!(std::env::var(name), Err(std::env::VarError::NotUnicode(_))) {
            return Err(BlobError::InvalidLocation(format!("The variable {name} in the environment is not UTF-8.")));
        }
    }
    Ok(())
}

/// The storage in a bucket.
pub(super) struct S3Store {
    client: AmazonS3,
    bucket: String,
    prefix: String,
    parts: Semaphore,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("S3Store").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl S3Store {
    /// Checks that the bucket can be listed and that an object can be written and deleted. `variable` reads the environment.
    pub(super) async fn open(
        location: &S3Location,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BlobError> {
        let store = Self::open_to_read(location, variable).await?;
        let probe = store.key(PROBE);
        store.client.put(&probe, Bytes::from_static(b"x").into()).await.map_err(|error| store.error(error))?;
        store.client.delete(&probe).await.map_err(|error| store.error(error))?;
        Ok(store)
    }

    /// Checks that the bucket can be listed. `variable` reads the environment.
    pub(super) async fn open_to_read(
        location: &S3Location,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BlobError> {
        let store = Self {
            client: client(location, variable)?,
            bucket: location.bucket.clone(),
            prefix: location.prefix.clone(),
            parts: Semaphore::new(PARTS_IN_MEMORY),
        };
        store.client.list(store.list_prefix().as_ref()).next().await.transpose().map_err(|error| store.error(error))?;
        Ok(store)
    }

    /// Uploads a file.
    pub(super) async fn put(self: Arc<Self>, name: BlobName, path: PathBuf) -> Result<(), BlobError> {
        let path: Arc<Path> = path.into();
        let opened = Arc::clone(&path);
        let (file, size_bytes) = blocking(move || {
            let file = File::open(&opened).map_err(|error| BlobError::io("open", &opened, error))?;
            let size_bytes = file.metadata().map_err(|error| BlobError::io("read the size of", &opened, error))?.len();
            Ok((Arc::new(file), size_bytes))
        })
        .await?;
        let source = SourceFile { file, path, size_bytes };
        let key = self.key(&name.path());
        if size_bytes <= PART_BYTES {
            let _permit = self.parts.acquire().await.map_err(|error| BlobError::other(error.to_string()))?;
            let bytes = source.read_part(0).await?;
            return self.client.put(&key, bytes.into()).await.map(drop).map_err(|error| self.error(error));
        }
        if size_bytes > PART_BYTES * MAX_PARTS {
            return Err(BlobError::other(format!("a file of {size_bytes} bytes is too large for S3")));
        }
        self.put_in_parts(&key, &source).await
    }

    /// Stores bytes as one object.
    pub(super) async fn put_bytes(&self, name: &BlobName, bytes: Bytes) -> Result<(), BlobError> {
        self.client.put(&self.key(&name.path()), bytes.into()).await.map(drop).map_err(|error| self.error(error))
    }

    async fn put_in_parts(&self, key: &Key, source: &SourceFile) -> Result<(), BlobError> {
        let upload = self.client.create_multipart(key).await.map_err(|error| self.error(error))?;
        let mut upload = Upload { client: self.client.clone(), key: key.clone(), id: upload, is_open: true };
        let count = usize::try_from(source.size_bytes.div_ceil(PART_BYTES)).unwrap_or(usize::MAX);
        let parts: Vec<_> = stream::iter((0..count).map(|index| self.put_part(&upload, source, index)))
            .buffered(PARTS_PER_UPLOAD)
            .try_collect()
            .await?;
        match self.client.complete_multipart(key, &upload.id, parts).await {
            Ok(_) => {
                upload.is_open = false;
                Ok(())
            }
            Err(error) => {
                // The upload is complete if an earlier attempt succeeded and only its answer was lost.
                let error = self.error(error);
                if self.client.head(key).await.is_ok_and(|stored| stored.size == source.size_bytes) {
                    upload.is_open = false;
                    return Ok(());
                }
                Err(error)
            }
        }
    }

    async fn put_part(
        &self,
        upload: &Upload,
        source: &SourceFile,
        index: usize,
    ) -> Result<object_store::multipart::PartId, BlobError> {
        let _permit = self.parts.acquire().await.map_err(|error| BlobError::other(error.to_string()))?;
        let bytes = source.read_part(index).await?;
        self.client.put_part(&upload.key, &upload.id, index, bytes.into()).await.map_err(|error| self.error(error))
    }

    /// Requests a range of a blob.
    pub(super) async fn read(self: Arc<Self>, name: BlobName, range: Range<u64>) -> Result<BlobStream, BlobError> {
        let size_bytes = range.end.saturating_sub(range.start);
        let key = self.key(&name.path());
        if size_bytes == 0 {
            let stored = self.client.head(&key).await.map_err(|error| self.error(error))?;
            return if range.end > stored.size { Err(out_of_range(stored.size)) } else { Ok(BlobStream::empty()) };
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let answer = self.client.get_opts(&key, options).await.map_err(|error| self.error(error))?;
        if answer.range != range {
            return Err(out_of_range(answer.meta.size));
        }
        let bucket = self.bucket.clone();
        let pieces = answer.into_stream().map_err(move |error| blob_error(error, &bucket));
        Ok(BlobStream::of_answer(pieces.boxed(), size_bytes))
    }

    /// Deletes a blob.
    pub(super) async fn delete(&self, name: &BlobName) -> Result<(), BlobError> {
        match self.client.delete(&self.key(&name.path())).await.map_err(|error| self.error(error)) {
            Err(BlobError::NotFound) => Ok(()),
            result => result,
        }
    }

    /// The number of bytes of a blob.
    pub(super) async fn size(&self, name: &BlobName) -> Result<u64, BlobError> {
        let stored = self.client.head(&self.key(&name.path())).await.map_err(|error| self.error(error))?;
        Ok(stored.size)
    }

    /// All blobs, in the order of their keys. S3 lists 1,000 keys in a request.
    pub(super) fn list(&self) -> Listing {
        let bucket = self.bucket.clone();
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let stream = self.client.list(self.list_prefix().as_ref()).filter_map(move |object| {
            let listed =
                match object {
                    Err(error) => Some(Err(blob_error(error, &bucket))),
                    Ok(object) => object.location.as_ref().strip_prefix(&prefix).and_then(name_of_path).map(|name| {
                        Ok(Listed { name, size_bytes: object.size, modified_at: object.last_modified.into() })
                    }),
                };
            std::future::ready(listed)
        });
        stream.boxed()
    }

    fn key(&self, path: &str) -> Key {
        if self.prefix.is_empty() { Key::from(path) } else { Key::from(format!("{}/{path}", self.prefix)) }
    }

    fn list_prefix(&self) -> Option<Key> {
        (!self.prefix.is_empty()).then(|| Key::from(self.prefix.as_str()))
    }

    fn error(&self, error: object_store::Error) -> BlobError {
        blob_error(error, &self.bucket)
    }
}

fn out_of_range(size_bytes: u64) -> BlobError {
    BlobError::other(format!("the range is not within the blob, which has {size_bytes} bytes"))
}

/// The file of an upload.
struct SourceFile {
    file: Arc<File>,
    path: Arc<Path>,
    size_bytes: u64,
}

impl SourceFile {
    async fn read_part(&self, index: usize) -> Result<Bytes, BlobError> {
        let start = PART_BYTES * index as u64;
        let size_bytes = usize::try_from(self.size_bytes.saturating_sub(start).min(PART_BYTES)).unwrap_or_default();
        let (file, path) = (Arc::clone(&self.file), Arc::clone(&self.path));
        // Allocated here: the memory of a thread for blocking work would not be used by the next thread.
        let mut bytes = vec![0; size_bytes];
        blocking(move || {
            file.read_exact_at(&mut bytes, start).map_err(|error| BlobError::io("read", &path, error))?;
            Ok(bytes.into())
        })
        .await
    }
}

/// An upload in parts that is not complete. Dropping it aborts the upload, without waiting for that.
struct Upload {
    client: AmazonS3,
    key: Key,
    id: String,
    is_open: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Without a runtime the process is ending.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.is_open {
            return;
        }
        let (client, key, id) = (self.client.clone(), self.key.clone(), std::mem::take(&mut self.id));
        runtime.spawn(async move {
            match client.abort_multipart(&key, &id).await {
                Ok(()) => {}
                Err(error) => tracing::warn!(%key, %error, "could not abort an upload to S3"),
            }
        });
    }
}

/// Creates the client of a bucket. Sends nothing.
fn client(location: &S3Location, variable: impl Fn(&str) -> Option<String>) -> Result<AmazonS3, BlobError> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let (id, secret) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"));
    if id.is_some() != secret.is_some() {
        return Err(BlobError::other("Set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or neither of them."));
    }
    let region = (location.region.clone())
        .or_else(|| variable("AWS_REGION"))
        .or_else(|| variable("AWS_DEFAULT_REGION"))
        .unwrap_or_else(|| DEFAULT_REGION.into());
    let (endpoint, authority) = endpoint(location, &region);
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&location.bucket)
        .with_region(region)
        .with_allow_http(endpoint.starts_with("http://"))
        .with_endpoint(endpoint)
        .with_virtual_hosted_style_request(!location.path_style)
        .with_checksum_algorithm(Checksum::SHA256)
        // One DELETE for each object: stores other than Amazon's may lack the request that deletes several.
        .with_disable_bulk_delete(true)
        .with_retry(RetryConfig {
            // The HTTP client repeats requests. The S3 client only continues answers that break off.
            max_retries: RESUMES,
            retry_timeout: RETRY_WINDOW,
            backoff: BackoffConfig { init_backoff: Duration::from_millis(100), ..BackoffConfig::default() },
        })
        .with_http_connector(Connector { authority });
    for (name, key) in CREDENTIAL_VARIABLES {
        if let Some(value) = variable(name) {
            builder = builder.with_config(key, value);
        }
    }
    builder.build().map_err(|error| blob_error(error, &location.bucket))
}

/// The address that the client gets, and the host and port of the requests to the bucket.
fn endpoint(location: &S3Location, region: &str) -> (String, String) {
    let default = format!("https://s3.{region}.amazonaws.com");
    let address = location.endpoint.as_ref().unwrap_or(&default);
    let (scheme, host) = address.split_once("://").unwrap_or(("https", address));
    if location.path_style {
        (address.clone(), host.into())
    } else {
        let host = format!("{}.{host}", location.bucket);
        (format!("{scheme}://{host}"), host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::Location;

    fn s3(text: &str) -> S3Location {
        match text.parse() {
            Ok(Location::S3(location)) => location,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn the_bucket_is_in_the_path_or_in_the_host() {
        for (text, address, host) in [
            ("s3://my-bucket", "https://my-bucket.s3.eu-west-3.amazonaws.com", "my-bucket.s3.eu-west-3.amazonaws.com"),
            ("s3://my-bucket?path_style=true", "https://s3.eu-west-3.amazonaws.com", "s3.eu-west-3.amazonaws.com"),
            ("s3://my-bucket?endpoint=http://[::1]:9000", "http://[::1]:9000", "[::1]:9000"),
            (
                "s3://my-bucket?endpoint=https://s3.example.org&path_style=false",
                "https://my-bucket.s3.example.org",
                "my-bucket.s3.example.org",
            ),
        ] {
            assert_eq!(endpoint(&s3(text), "eu-west-3"), (address.into(), host.into()), "{text}");
        }
    }

    #[tokio::test]
    async fn one_half_of_the_credentials_is_refused() {
        for half in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            let variable = |name: &str| (name == half).then(|| "hunter2".to_owned());
            let error = S3Store::open(&s3("s3://my-bucket"), variable).await.unwrap_err();
            assert!(error.to_string().starts_with("Set both"), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
