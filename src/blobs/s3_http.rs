//! Sends the requests of the S3 client.
//!
//! Invariant: a call ends within a bounded time, and a failed call is an [`S3Failure`] that says what S3 answered. Requests are
//! repeated here and nowhere else. Each request of this program has the same effect when it is repeated, except that a repeated
//! start of an upload in parts can leave an unfinished upload in the bucket.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::BytesMut;
use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use reqwest::{Method, StatusCode};

use super::error::Source;

/// Maximum time for a connection, with TLS.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time until S3 answers a request without a body.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time until S3 answers a request with a body, which includes the time to send the body. Also the maximum time
/// between two pieces of an answer.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// No attempt begins later than this after the first one. With [`ANSWER_TIMEOUT`] a call without a body ends within 20 s.
pub(super) const RETRY_WINDOW: Duration = Duration::from_secs(6);
/// A request with a body has [`ANSWER_TIMEOUT`] and the time that its body takes at this speed, but not more than
/// [`REQUEST_TIMEOUT`]. So a small upload also ends within 20 s if S3 does not answer.
const SLOWEST_UPLOAD_BYTES_PER_S: u64 = 400_000;
/// Maximum number of attempts of one request.
const MAX_ATTEMPTS: u32 = 4;
/// The pause after the first failed attempt. Each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Maximum number of bytes of an answer that is read as a whole.
const MAX_DOCUMENT_BYTES: usize = 64 * 1024;
/// Maximum number of characters of the message of S3 that an error shows.
const SHOWN_CHARACTERS: usize = 200;

/// Creates the HTTP client of the S3 client.
#[derive(Debug)]
pub(super) struct Connector {
    /// The host and port of the bucket. Other requests fetch credentials.
    pub(super) authority: String,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(REQUEST_TIMEOUT)
            // The signature of a request is valid for one address only.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })?;
        Ok(HttpClient::new(Service { client, authority: self.authority.clone() }))
    }
}

/// A failed request.
#[derive(Debug)]
pub(super) struct S3Failure {
    /// Whether the request fetched credentials instead of going to the bucket.
    pub(super) is_for_credentials: bool,
    pub(super) kind: FailureKind,
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum FailureKind {
    /// There is no answer, or it is not complete.
    NoAnswer(Source),
    /// An answer that is not a success. `code` is the code of S3, such as `NoSuchKey`, and is empty if there is none.
    Answer { status: u16, code: String, message: String },
}

impl S3Failure {
    /// Whether another attempt can succeed.
    pub(super) fn is_temporary(&self) -> bool {
        match &self.kind {
            FailureKind::NoAnswer(_) => true,
            FailureKind::Answer { status, code, .. } => {
                matches!(code.as_str(), "InternalError" | "SlowDown" | "ServiceUnavailable" | "OperationAborted")
                    || matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
            }
        }
    }
}

impl fmt::Display for S3Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            FailureKind::NoAnswer(error) => {
                formatter.write_str("no answer: ")?;
                // The cause says more than the text of the HTTP client.
                let mut cause: &dyn Error = error.as_ref();
                while let Some(next) = cause.source() {
                    cause = next;
                }
                write!(formatter, "{cause}")
            }
            FailureKind::Answer { status, code, message } => write!(formatter, "answer {status} {code} {message}"),
        }
    }
}

impl Error for S3Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            FailureKind::NoAnswer(error) => Some(error.as_ref()),
            FailureKind::Answer { .. } => None,
        }
    }
}

/// Sends requests and repeats those that failed temporarily.
#[derive(Debug)]
struct Service {
    client: reqwest::Client,
    authority: String,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_for_credentials = request.uri().authority().is_none_or(|authority| authority != self.authority.as_str());
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut attempts = 1;
        loop {
            let kind = match self.attempt(request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(kind) => kind,
            };
            let failure = S3Failure { is_for_credentials, kind };
            if !failure.is_temporary() || attempts == MAX_ATTEMPTS || began.elapsed() + pause > RETRY_WINDOW {
                // The client repeats no request that failed for an unknown reason.
                return Err(HttpError::new(HttpErrorKind::Unknown, failure));
            }
            tracing::debug!(attempts, %failure, "repeating a request to S3");
            tokio::time::sleep(pause).await;
            pause *= 2;
            attempts += 1;
        }
    }
}

impl Service {
    /// Sends a request once. An answer that is not a success is an error.
    async fn attempt(&self, request: HttpRequest) -> Result<HttpResponse, FailureKind> {
        let sending = Duration::from_secs(request.body().content_length() as u64 / SLOWEST_UPLOAD_BYTES_PER_S);
        let limit = (ANSWER_TIMEOUT + sending).min(REQUEST_TIMEOUT);
        let is_post = request.method() == Method::POST;
        let mut answer = tokio::time::timeout(limit, self.send(request)).await.map_err(no_answer)??;
        let status = answer.status();
        if !status.is_success() {
            return Err(failed_answer(status, &read_document(&mut answer).await?));
        }
        if is_post {
            // S3 can answer a POST with 200 before it finds out that the work fails.
            let document = read_document(&mut answer).await?;
            if element(&document, "Error").is_some() {
                return Err(failed_answer(status, &document));
            }
            return Ok(with_body(answer, |_| document.into()));
        }
        Ok(with_body(answer, |body| {
            HttpResponseBody::new(body.map_err(|error| {
                let kind = no_answer(error.without_url());
                HttpError::new(HttpErrorKind::Interrupted, S3Failure { is_for_credentials: false, kind })
            }))
        }))
    }

    async fn send(&self, request: HttpRequest) -> Result<reqwest::Response, FailureKind> {
        let (parts, body) = request.into_parts();
        let url = reqwest::Url::parse(&parts.uri.to_string()).map_err(no_answer)?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        if body.content_length() > 0 {
            *request.body_mut() = Some(reqwest::Body::wrap(body));
        }
        self.client.execute(request).await.map_err(|error| no_answer(error.without_url()))
    }
}

fn no_answer(error: impl Into<Source>) -> FailureKind {
    FailureKind::NoAnswer(error.into())
}

/// Converts the answer of one HTTP library into the type of the other.
fn with_body(answer: reqwest::Response, convert: impl FnOnce(reqwest::Body) -> HttpResponseBody) -> HttpResponse {
    let answer: http::Response<reqwest::Body> = answer.into();
    let (parts, body) = answer.into_parts();
    HttpResponse::from_parts(parts, convert(body))
}

/// Reads a short answer within [`REQUEST_TIMEOUT`]. The rest of a long one is left out.
async fn read_document(answer: &mut reqwest::Response) -> Result<String, FailureKind> {
    let mut bytes = BytesMut::new();
    let reading = async {
        while bytes.len() < MAX_DOCUMENT_BYTES {
            match answer.chunk().await.map_err(|error| no_answer(error.without_url()))? {
                Some(chunk) => bytes.extend_from_slice(&chunk),
                None => break,
            }
        }
        Ok(())
    };
    tokio::time::timeout(REQUEST_TIMEOUT, reading).await.map_err(no_answer)??;
    bytes.truncate(MAX_DOCUMENT_BYTES);
    // A limit can cut a character, and a proxy can answer in another encoding. The text up to there is used.
    let valid = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    Ok(valid.to_owned())
}

fn failed_answer(status: StatusCode, document: &str) -> FailureKind {
    let text = |name| element(document, name).unwrap_or_default().chars().take(SHOWN_CHARACTERS).collect();
    FailureKind::Answer { status: status.as_u16(), code: text("Code"), message: text("Message") }
}

/// The content of the first element with this name, which has no attributes in the answers of S3.
fn element<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once(&format!("</{name}>"))?;
    Some(content)
}
