//! HTTP requests of the server to addresses that the operator or callers choose.
//!
//! Invariants:
//! - A client that is limited to public addresses connects only to IP addresses that were checked: it resolves a name, removes the
//!   addresses that are not public, and connects to one of the others.
//! - No request goes through a proxy, because a proxy would connect to addresses that nobody has checked.
//! - No content is decompressed, because a small answer could become a large one.
//! - No error contains a URL, because a URL can contain a secret.

pub mod addresses;

use std::error::Error as _;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, LOCATION};
use url::Url;

use self::addresses::{Reach, check_url, is_public};

/// Maximum number of redirects that [`Fetcher::get`] follows.
pub const MAX_REDIRECTS: usize = 4;

/// Resolves names, and returns only addresses of the public internet.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = addresses.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err("the host has no public address".into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// The settings that all clients of the server share. A request with its answer takes at most `timeout`. A client follows no redirects
/// and keeps no idle connections.
pub fn builder(timeout: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("posthaste/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .pool_max_idle_per_host(0)
        .connect_timeout(timeout)
        .timeout(timeout)
}

/// Creates a client that keeps at most `max_idle` connections to a host. A request with its answer takes at most `timeout`. The client
/// follows no redirects. The caller checks each URL with [`check_url`], because a host that is an IP address is not resolved.
///
/// # Errors
/// The machine has no CA certificates.
pub fn client(reach: Reach, timeout: Duration, max_idle: usize) -> reqwest::Result<reqwest::Client> {
    let builder = builder(timeout).pool_max_idle_per_host(max_idle);
    match reach {
        Reach::Anywhere => builder,
        Reach::PublicWeb => builder.dns_resolver(Arc::new(PublicOnly)),
        Reach::PublicHttps => builder.https_only(true).dns_resolver(Arc::new(PublicOnly)),
    }
    .build()
}

/// Fetches documents. Follows redirects, and checks each URL.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: reqwest::Client,
    reach: Reach,
    max_redirects: usize,
}

/// Why a document could not be fetched.
#[derive(Debug)]
pub enum FetchError {
    /// The URL, or the URL of a redirect, must not be called.
    Forbidden(&'static str),
    /// The host cannot be reached, or its answer is cut off, too slow or not valid HTTP. The text contains no URL.
    Failed(String),
}

impl fmt::Display for FetchError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden(reason) => write!(formatter, "the URL {reason}"),
            Self::Failed(reason) => formatter.write_str(reason),
        }
    }
}

/// The answer to a request, whose content has not been read yet.
#[derive(Debug)]
pub struct Fetched {
    /// The URL that answered, after all redirects.
    pub url: Url,
    response: reqwest::Response,
}

impl Fetcher {
    /// Creates a fetcher. A request with its answer takes at most `timeout`.
    ///
    /// # Errors
    /// The machine has no CA certificates.
    pub fn new(reach: Reach, timeout: Duration) -> reqwest::Result<Self> {
        // Idle connections are not kept: consecutive requests seldom go to the same host.
        Ok(Self { client: client(reach, timeout, 0)?, reach, max_redirects: MAX_REDIRECTS })
    }

    /// Creates a fetcher that follows no redirects.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn without_redirects(reach: Reach, timeout: Duration) -> reqwest::Result<Self> {
        Ok(Self { max_redirects: 0, ..Self::new(reach, timeout)? })
    }

    /// Gets a document, and follows redirects. Returns also answers that are errors.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn get(&self, url: &str, accept: &'static str) -> Result<Fetched, FetchError> {
        let mut url = check_url(url, self.reach).map_err(FetchError::Forbidden)?;
        for _ in 0..=self.max_redirects {
            let request = self.client.get(url.clone()).header(ACCEPT, HeaderValue::from_static(accept));
            let response = request.send().await.map_err(failed)?;
            let target = match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => response.headers().get(LOCATION).and_then(|value| value.to_str().ok()),
                _ => None,
            };
            let Some(target) = target else { return Ok(Fetched { url, response }) };
            let target = url.join(target).map_err(|_| FetchError::Failed("a redirect has no valid URL".into()))?;
            url = check_url(target.as_str(), self.reach).map_err(FetchError::Forbidden)?;
        }
        Err(FetchError::Failed("there are too many redirects".into()))
    }
}

impl Fetched {
    /// The status of the answer.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The header `Content-Type`.
    pub fn content_type(&self) -> Option<&str> {
        self.response.headers().get(CONTENT_TYPE)?.to_str().ok()
    }

    /// Whether the content is compressed, although the request did not ask for this.
    pub fn is_encoded(&self) -> bool {
        self.response.headers().get(CONTENT_ENCODING).is_some_and(|value| value != "identity")
    }

    /// The next bytes of the content. `None` at its end.
    ///
    /// # Errors
    /// [`FetchError::Failed`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        self.response.chunk().await.map_err(failed)
    }

    /// Reads the content, at most `max_bytes` of it. The second value is whether this is the whole content.
    ///
    /// # Errors
    /// [`FetchError::Failed`].
    pub async fn read(mut self, max_bytes: usize) -> Result<(Vec<u8>, bool), FetchError> {
        let mut content = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            let room = max_bytes - content.len();
            content.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                return Ok((content, false));
            }
        }
        Ok((content, true))
    }
}

fn failed(error: reqwest::Error) -> FetchError {
    FetchError::Failed(explain(error))
}

/// The error with its causes, without the URL.
pub fn explain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(15);

    /// `client` does not check names. It refuses this name only because the name resolves to a private address.
    #[tokio::test]
    async fn the_client_does_not_connect_to_a_name_that_resolves_to_a_private_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for (reach, scheme) in [(Reach::PublicHttps, "https"), (Reach::PublicWeb, "http")] {
            let url = format!("{scheme}://localhost:{port}/");
            let error = client(reach, TIMEOUT, 0).unwrap().get(&url).send().await.unwrap_err();
            assert!(format!("{error:?}").contains("has no public address"), "{error:?}");
            let seen = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
            assert!(seen.is_err(), "{seen:?}");
        }
        // Without the restriction the client connects, so the name does resolve to the listener.
        let url = format!("https://localhost:{port}/");
        drop(client(Reach::Anywhere, TIMEOUT, 0).unwrap().get(url).timeout(TIMEOUT / 100).send().await);
        tokio::time::timeout(Duration::from_secs(5), listener.accept()).await.unwrap().unwrap();
    }

    /// Answers each connection with one of the given answers, in turn.
    async fn host(answers: Vec<String>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut buffer = [0; 1024];
                    let count = stream.read(&mut buffer).await.unwrap();
                    request.extend_from_slice(&buffer[..count]);
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        port
    }

    fn redirect(to: &str) -> String {
        format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
    }

    #[tokio::test]
    async fn redirects_are_followed_up_to_a_limit() {
        let document = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello".to_owned();
        let fetcher = Fetcher::new(Reach::Anywhere, TIMEOUT).unwrap();
        let mut answers = vec![redirect("/next"); MAX_REDIRECTS];
        answers.push(document.clone());
        let port = host(answers).await;
        let fetched = fetcher.get(&format!("http://127.0.0.1:{port}/"), "text/plain").await.unwrap();
        assert_eq!(fetched.url.path(), "/next");
        assert_eq!((fetched.status(), fetched.content_type()), (200, Some("text/plain")));
        assert_eq!(fetched.read(5).await.unwrap(), (b"hello".to_vec(), true));

        let port = host(vec![redirect("/next"); MAX_REDIRECTS + 1]).await;
        let error = fetcher.get(&format!("http://127.0.0.1:{port}/"), "text/plain").await.unwrap_err();
        assert_eq!(error.to_string(), "there are too many redirects");

        let port = host(vec![redirect("/next")]).await;
        let without = Fetcher::without_redirects(Reach::Anywhere, TIMEOUT).unwrap();
        let error = without.get(&format!("http://127.0.0.1:{port}/"), "text/plain").await.unwrap_err();
        assert_eq!(error.to_string(), "there are too many redirects");

        let port = host(vec![document]).await;
        let fetched = fetcher.get(&format!("http://127.0.0.1:{port}/"), "text/plain").await.unwrap();
        assert_eq!(fetched.read(4).await.unwrap(), (b"hell".to_vec(), false));
    }

    #[tokio::test]
    async fn the_url_of_a_redirect_is_checked() {
        let fetcher = Fetcher::new(Reach::Anywhere, TIMEOUT).unwrap();
        for target in ["file:///etc/passwd", "gopher://127.0.0.1/", "http://a:b@127.0.0.1/"] {
            let port = host(vec![redirect(target)]).await;
            let error = fetcher.get(&format!("http://127.0.0.1:{port}/"), "text/plain").await.unwrap_err();
            assert!(matches!(error, FetchError::Forbidden(_)), "{target}: {error}");
        }
        let fetcher = Fetcher::new(Reach::PublicWeb, TIMEOUT).unwrap();
        let error = fetcher.get("http://127.0.0.1/", "text/plain").await.unwrap_err();
        assert_eq!(error.to_string(), "the URL must not be a private address");
    }
}
