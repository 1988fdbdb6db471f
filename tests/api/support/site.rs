//! A web site whose pages a test chooses.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use futures_util::stream;
use tokio::net::TcpListener;

/// What a site answers.
pub enum Reply {
    /// Status, `Content-Type` and content.
    Content(u16, &'static str, Vec<u8>),
    /// A redirect to a path or URL.
    Redirect(String),
    /// Nothing: the request stays open.
    Hangs,
    /// A content that begins with a text and continues with the same bytes without end.
    Endless(&'static str, Vec<u8>),
    /// A content that arrives byte by byte, one in 200 ms.
    Slow(&'static str),
    /// A content with a `Content-Encoding` that nobody asked for.
    Encoded(Vec<u8>),
}

/// An HTML page with a head.
pub fn html(head: &str) -> Reply {
    let page = format!("<!doctype html><html><head>{head}</head><body>body</body></html>");
    Reply::Content(200, "text/html; charset=utf-8", page.into_bytes())
}

/// A site on a loopback address. It records the requests that it gets.
pub struct Site {
    /// The URL of the site, without a slash at its end.
    pub url: String,
    requests: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

impl Site {
    /// Starts a site on 127.0.0.1.
    pub async fn start(replies: impl Fn(&str) -> Reply + Clone + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1", replies).await
    }

    /// Starts a site on a loopback address.
    pub async fn start_at(address: &str, replies: impl Fn(&str) -> Reply + Clone + Send + Sync + 'static) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        let handler = move |uri: Uri, headers: HeaderMap| {
            let target = uri.path_and_query().map_or("", |target| target.as_str()).to_owned();
            let reply = replies(&target);
            kept.lock().unwrap().push((target, headers));
            answer(reply)
        };
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await.unwrap() });
        Self { url, requests }
    }

    /// The targets of all requests, in their order.
    pub fn targets(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(target, _)| target.clone()).collect()
    }

    /// The headers of all requests.
    pub fn headers(&self) -> Vec<HeaderMap> {
        self.requests.lock().unwrap().iter().map(|(_, headers)| headers.clone()).collect()
    }
}

async fn answer(reply: Reply) -> Response {
    let response = Response::builder();
    let response = match reply {
        Reply::Content(status, content_type, bytes) => {
            response.status(status).header("content-type", content_type).body(Body::from(bytes))
        }
        Reply::Redirect(target) => response.status(302).header("location", target).body(Body::empty()),
        Reply::Hangs => std::future::pending().await,
        Reply::Endless(content_type, start) => {
            let chunks = stream::unfold(Bytes::from(start), |chunk| async {
                Some((Ok::<_, Infallible>(chunk), Bytes::from_static(&[b' '; 16_384])))
            });
            response.header("content-type", content_type).body(Body::from_stream(chunks))
        }
        Reply::Slow(text) => {
            let bytes = stream::unfold(0, move |place| async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Some((Ok::<_, Infallible>(Bytes::from(vec![*text.as_bytes().get(place)?])), place + 1))
            });
            response.header("content-type", "text/html").body(Body::from_stream(bytes))
        }
        Reply::Encoded(bytes) => {
            response.header("content-type", "text/html").header("content-encoding", "gzip").body(Body::from(bytes))
        }
    };
    response.unwrap()
}
