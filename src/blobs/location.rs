//! Where blobs are stored.
//!
//! Invariant: a location contains no credential, so its text can be logged. A text with a credential is refused, and the error
//! does not repeat it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

use super::error::BlobError;

/// The shortest name of a bucket, in bytes.
const SHORTEST_BUCKET: usize = 3;
/// The longest name of a bucket, in bytes.
const LONGEST_BUCKET: usize = 63;
/// The longest prefix, in bytes. S3 allows 1,024 bytes for a whole key.
const LONGEST_PREFIX: usize = 512;

/// Where blobs are stored.
///
/// It is parsed from `file:DIR` or from `s3://BUCKET[/PREFIX][?region=…&endpoint=…&path_style=…]`. Its text has the same
/// form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder of a local file system.
    Folder(PathBuf),
    /// A bucket of S3, or of a store with the interface of S3.
    S3(S3Location),
}

/// A bucket of S3, or of a store with the interface of S3. The credentials are not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Location {
    /// The name of the bucket.
    pub bucket: String,
    /// What each key begins with, without a slash at its end. Empty: the keys are at the top of the bucket.
    pub prefix: String,
    /// The region. `None`: `AWS_REGION`, else `AWS_DEFAULT_REGION`, else `us-east-1`.
    pub region: Option<String>,
    /// The address of the store: `https://HOST[:PORT]` or `http://HOST[:PORT]`. `None`: Amazon's address of the region.
    pub endpoint: Option<String>,
    /// Whether the bucket is in the path of a request (`true`) or in the name of the host (`false`). The default is `true`
    /// if there is an endpoint, else `false`.
    pub path_style: bool,
}

impl FromStr for Location {
    type Err = BlobError;

    /// Parses a location.
    ///
    /// # Errors
    /// [`BlobError::InvalidLocation`].
    fn from_str(text: &str) -> Result<Self, BlobError> {
        if let Some(folder) = text.strip_prefix("file:") {
            parse_folder(folder)
        } else if text.starts_with("s3:") {
            parse_s3(text).map(Self::S3)
        } else {
            invalid("The location of blobs must begin with file: or with s3://.")
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(formatter, "file:{}", folder.display()),
            Self::S3(location) => location.fmt(formatter),
        }
    }
}

impl fmt::Display for S3Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(formatter, "/{}", self.prefix)?;
        }
        let mut separator = '?';
        for (name, value) in [("region", &self.region), ("endpoint", &self.endpoint)] {
            if let Some(value) = value {
                write!(formatter, "{separator}{name}={value}")?;
                separator = '&';
            }
        }
        if self.path_style == self.endpoint.is_some() {
            Ok(())
        } else {
            write!(formatter, "{separator}path_style={}", self.path_style)
        }
    }
}

fn invalid<T>(text: impl Into<String>) -> Result<T, BlobError> {
    Err(BlobError::InvalidLocation(text.into()))
}

fn parse_folder(text: &str) -> Result<Location, BlobError> {
    // file:///var/lib/x has an empty host. A host other than that is a mistake.
    let path = match text.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(_) => return invalid("A folder for blobs has no host: write file:/DIR or file:///DIR."),
        None => text,
    };
    if path.is_empty() || path.contains('\0') {
        return invalid("The folder for blobs is missing: write file:DIR.");
    }
    Ok(Location::Folder(path.into()))
}

fn parse_s3(text: &str) -> Result<S3Location, BlobError> {
    let Ok(url) = Url::parse(text) else {
        return invalid("The location of blobs is not a valid URL: write s3://BUCKET/PREFIX.");
    };
    refuse_credentials(&url, "The location of blobs")?;
    if url.port().is_some() || url.fragment().is_some() {
        return invalid(
            "The location of blobs has neither a port nor a fragment: write s3://BUCKET?endpoint=https://HOST:PORT.",
        );
    }
    let bucket = url.host_str().unwrap_or_default();
    check_bucket(bucket)?;
    let prefix = url.path().trim_matches('/');
    check_prefix(prefix)?;

    let mut region = None;
    let mut endpoint = None;
    let mut path_style = None;
    for (name, value) in url.query_pairs() {
        let repeated = match name.as_ref() {
            "region" => region.replace(parse_region(&value)?).is_some(),
            "endpoint" => endpoint.replace(parse_endpoint(&value)?).is_some(),
            "path_style" => path_style.replace(parse_bool(&value)?).is_some(),
            // The value may be a secret. The name is shown only if it cannot be one.
            "access_key_id" | "secret_access_key" | "session_token" | "access_key" | "secret_key" | "token" => {
                return invalid(format!("The location of blobs must not contain {name}. {SET_CREDENTIALS}"));
            }
            _ => {
                return invalid("The location of blobs has an unknown parameter: use region, endpoint and path_style.");
            }
        };
        if repeated {
            return invalid(format!("The location of blobs has the parameter {name} twice."));
        }
    }
    let path_style = path_style.unwrap_or(endpoint.is_some());
    Ok(S3Location { bucket: bucket.into(), prefix: prefix.into(), region, endpoint, path_style })
}

/// The end of an error about credentials.
pub(super) const SET_CREDENTIALS: &str =
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or give the machine a role.";

fn refuse_credentials(url: &Url, what: &str) -> Result<(), BlobError> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(());
    }
    invalid(format!("{what} must not contain a user name or a password. {SET_CREDENTIALS}"))
}

fn check_bucket(bucket: &str) -> Result<(), BlobError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
    let ends_well = bucket.starts_with(|first: char| first.is_ascii_alphanumeric())
        && bucket.ends_with(|last: char| last.is_ascii_alphanumeric());
    let length = SHORTEST_BUCKET..=LONGEST_BUCKET;
    if length.contains(&bucket.len()) && bucket.bytes().all(allowed) && ends_well && !bucket.contains("..") {
        return Ok(());
    }
    invalid(format!(
        "The name of the bucket must have {SHORTEST_BUCKET} to {LONGEST_BUCKET} lower-case letters, digits, dots and hyphens."
    ))
}

fn check_prefix(prefix: &str) -> Result<(), BlobError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let valid = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed);
    if prefix.is_empty() || (prefix.len() <= LONGEST_PREFIX && prefix.split('/').all(valid)) {
        return Ok(());
    }
    invalid(format!(
        "The prefix must have at most {LONGEST_PREFIX} letters, digits, dots, hyphens and underscores, in segments that are \
         separated by single slashes."
    ))
}

fn parse_region(value: &str) -> Result<String, BlobError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !value.is_empty() && value.len() <= LONGEST_BUCKET && value.bytes().all(allowed) {
        return Ok(value.into());
    }
    invalid("The region must have 1 to 63 letters, digits, hyphens and underscores, for example eu-central-1.")
}

fn parse_endpoint(value: &str) -> Result<String, BlobError> {
    const FORM: &str = "The endpoint must be https://HOST, http://HOST, or one of them with a port.";
    let Ok(url) = Url::parse(value) else { return invalid(FORM) };
    refuse_credentials(&url, "The endpoint")?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    match (url.scheme(), url.host_str()) {
        ("http" | "https", Some(_)) if bare => Ok(url.as_str().trim_end_matches('/').into()),
        _ => invalid(FORM),
    }
}

fn parse_bool(value: &str) -> Result<bool, BlobError> {
    value.parse().or_else(|_| invalid("The parameter path_style must be true or false."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(text: &str) -> S3Location {
        match text.parse() {
            Ok(Location::S3(location)) => location,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn refusal(text: &str) -> String {
        match text.parse::<Location>() {
            Err(BlobError::InvalidLocation(sentence)) => sentence,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_folder_is_relative_or_absolute() {
        for (text, path) in [("file:data/blobs", "data/blobs"), ("file:/srv/b", "/srv/b"), ("file:///srv/b", "/srv/b")]
        {
            assert_eq!(text.parse::<Location>().unwrap(), Location::Folder(path.into()));
        }
        for text in ["file:", "file://host/srv", "file://", "file:a\0b", "/srv/b", "", "http://x"] {
            refusal(text);
        }
    }

    #[test]
    fn a_location_is_read_back_from_its_text() {
        for text in [
            "file:/srv/b",
            "s3://my-bucket",
            "s3://my-bucket/a/b_c",
            "s3://my-bucket?region=eu-central-1",
            "s3://my-bucket/a?region=us-east-1&endpoint=http://127.0.0.1:9000",
            "s3://my-bucket?endpoint=https://s3.example.org&path_style=false",
            "s3://my-bucket?path_style=true",
            "s3://my-bucket?endpoint=http://[::1]:9000",
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.to_string(), text);
        }
    }

    #[test]
    fn path_style_is_the_default_of_an_endpoint() {
        assert!(!s3("s3://my-bucket").path_style);
        assert!(s3("s3://my-bucket?endpoint=https%3A%2F%2Fs3.example.org%2F").path_style);
        assert_eq!(s3("s3://my-bucket/?endpoint=HTTPS://S3.example.org/").endpoint.unwrap(), "https://s3.example.org");
    }

    #[test]
    fn a_credential_is_refused_and_not_repeated() {
        for text in [
            "s3://AKIAKEY:hunter2@my-bucket",
            "s3://hunter2@my-bucket",
            "s3://my-bucket?endpoint=https://key:hunter2@s3.example.org",
            "s3://my-bucket?secret_access_key=hunter2",
        ] {
            let sentence = refusal(text);
            assert!(sentence.contains("AWS_SECRET_ACCESS_KEY"), "{sentence}");
            assert!(!sentence.contains("hunter2"), "{sentence}");
        }
        assert!(!refusal("s3://my-bucket?hunter2=1").contains("hunter2"));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "s3:",
            "s3:bucket",
            "s3://",
            "s3:///prefix",
            "s3://ab",
            "s3://Bucket",
            "s3://my_bucket",
            "s3://-bucket",
            "s3://my..bucket",
            "s3://my-bucket:9000",
            "s3://my-bucket/a//b",
            "s3://my-bucket/a b",
            "s3://my-bucket/a%2Fb",
            "s3://my-bucket#x",
            "s3://my-bucket?region=",
            "s3://my-bucket?region=a/b",
            "s3://my-bucket?region=a&region=b",
            "s3://my-bucket?endpoint=s3.example.org",
            "s3://my-bucket?endpoint=ftp://s3.example.org",
            "s3://my-bucket?endpoint=https://s3.example.org/path",
            "s3://my-bucket?endpoint=https://s3.example.org?x=1",
            "s3://my-bucket?path_style=yes",
            "s3://my-bucket?unknown=1",
        ] {
            refusal(text);
        }
    }
}
