//! What the errors of the S3 client mean.
//!
//! Invariant: a fault of the configuration is an error with a sentence that says what to check.

use std::error::Error;

use super::error::{BlobError, Source, described};
use super::location::SET_CREDENTIALS;
use super::s3_http::{FailureKind, S3Failure};

/// Converts an error of the S3 client. `bucket` is the name of the bucket.
pub(super) fn blob_error(error: object_store::Error, bucket: &str) -> BlobError {
    let Some(failure) = failure_of(&error) else {
        return match error {
            object_store::Error::NotFound { .. } => BlobError::NotFound,
            error => BlobError::Other(described("the S3 client failed", error)),
        };
    };
    let text = failure.to_string();
    match &failure.kind {
        _ if failure.is_temporary() && failure.is_for_credentials => BlobError::Unavailable(described(
            format!("the credentials for S3 could not be fetched ({text}). {SET_CREDENTIALS}"),
            error,
        )),
        _ if failure.is_temporary() => BlobError::Unavailable(described(format!("S3 is unavailable: {text}"), error)),
        _ if failure.is_for_credentials => BlobError::Other(described(
            format!("the credentials for S3 could not be fetched ({text}). {SET_CREDENTIALS}"),
            error,
        )),
        FailureKind::NoAnswer(_) => BlobError::Unavailable(described(format!("S3 is unavailable: {text}"), error)),
        FailureKind::Answer { status, code, .. } => meaning(*status, &code.clone(), &text, bucket, error.into()),
    }
}

/// The meaning of an answer of the bucket that is neither a success nor temporary.
fn meaning(status: u16, code: &str, text: &str, bucket: &str, error: Source) -> BlobError {
    if status == 507 || matches!(code, "XMinioStorageFull" | "QuotaExceeded" | "InsufficientStorage") {
        return BlobError::StorageFull(described(format!("S3 has no space left ({text})"), error));
    }
    let other = |sentence: String| BlobError::Other(described(sentence, error));
    match (status, code) {
        (_, "NoSuchBucket") => other(format!(
            "The bucket {bucket} does not exist. Create it, or correct its name or the endpoint in the location."
        )),
        (404, "NoSuchUpload") => other(format!("S3 does not know the upload any more ({text}).")),
        (404, _) => BlobError::NotFound,
        (401 | 403, "RequestTimeTooSkewed") => {
            other(format!("S3 refused a request because of its time ({text}). Check the clock of this machine."))
        }
        (401 | 403, _) => other(format!(
            "S3 refused a request for the bucket {bucket} ({text}). Check the credentials, and that they allow s3:GetObject, \
             s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload and s3:ListBucket."
        )),
        (301 | 307 | 308, _) | (400, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            other(format!("The bucket {bucket} is in another region ({text}). Correct the region in the location."))
        }
        _ => other(format!("S3 refused a request for the bucket {bucket} ({text}).")),
    }
}

/// The failed request that an error of the S3 client contains.
fn failure_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a S3Failure> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(failure) = error.downcast_ref() {
            return Some(failure);
        }
        next = error.source();
    }
    None
}
