//! A connection that always gets an answer in our words.
//!
//! hyper answers a head that it cannot take (too many fields, malformed) with an empty 400 or 431, and a head that never ends
//! by closing. This wrapper turns both into problem documents. It looks at the first bytes of each write only.
//!
//! A peer that takes nothing of its answers for a while is closed, whatever it speaks: TCP alone would hold on to it, and so to
//! its place, for as long as the peer's system answers.
//!
//! It also keeps answers from being lost. A request may be refused before its body is there, and hyper then closes. If the
//! system had the rest of the body arrive at a closed socket, it would reset the connection, and the peer (a proxy, above
//! all) might never read what it was answered. So what arrives is read and thrown away for a while.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How long the rest of a refused body is read and thrown away, once everything is answered.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes that are thrown away at once.
const LINGER_BUFFER_BYTES: usize = 8 * 1_024;

/// Whether the body of a connection's latest request was read to its end. Shared by the connection and the body.
#[derive(Clone, Debug, Default)]
pub struct BodyWatch {
    unread: Arc<AtomicBool>,
    upgraded: Arc<AtomicBool>,
}

impl BodyWatch {
    /// Whether something of it is still to come. Then a peer must be told that the connection ends: it would send its next
    /// request into one that nobody reads.
    pub fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// The connection speaks another protocol from here on: HTTP has nothing to say any more.
    pub fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    /// The body of the next request, watched.
    pub fn watch(&self, body: Incoming) -> axum::body::Body {
        let unread = !body.is_end_stream();
        self.unread.store(unread, Ordering::Relaxed);
        if unread { axum::body::Body::new(Watched { body, watch: self.clone() }) } else { axum::body::Body::new(body) }
    }
}

struct Watched {
    body: Incoming,
    watch: BodyWatch,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.watch.unread.store(false, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A TCP stream that speaks for hyper where hyper has nothing to say.
pub struct Connection {
    stream: TcpStream,
    /// Bytes of a request came, and nothing was answered since.
    unanswered: bool,
    watch: BodyWatch,
    /// How long a peer may take nothing.
    stall_timeout: Duration,
    /// When that is over, while there is something that it does not take.
    stalled: Option<Pin<Box<Sleep>>>,
    /// The end of the lingering, once the end of our answers is sent.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    /// Wraps an accepted stream, whose requests' bodies are watched.
    pub fn new(stream: TcpStream, watch: BodyWatch, stall_timeout: Duration) -> Self {
        Self { stream, unanswered: false, watch, stall_timeout, stalled: None, lingering: None }
    }

    /// What became of a write, unless the peer has taken nothing for too long.
    fn unless_stalled(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stall_timeout = self.stall_timeout;
        let end = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall_timeout)));
        ready!(end.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
    }

    /// Throws away what arrives, until the peer ends or [`LINGER`] has passed.
    fn poll_linger(stream: &mut TcpStream, end: &mut Pin<Box<Sleep>>, cx: &mut Context<'_>) -> Poll<()> {
        // The time first: a peer that sends without a pause would use up what this task may do at once.
        if end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut bytes = [0; LINGER_BUFFER_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            let outcome = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
            if outcome.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

/// An answer that is given without a request having been read.
pub fn canned(status: u16, title: &str, code: &str, detail: &str) -> Vec<u8> {
    let body = format!(
        r#"{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}","code":"{code}","request_id":""}}"#
    );
    let retry = if status == 503 { "retry-after: 1\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\n{retry}connection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The answer that stands in for one of hyper's own; ours always carry a request id.
fn replacement(head: &[u8]) -> Option<Vec<u8>> {
    let status = head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let (status, title, code, detail) = match status {
        b"431" => (
            431,
            "Request Header Fields Too Large",
            "headers_too_large",
            "the request has too many or too large header fields",
        ),
        b"400" => (400, "Bad Request", "malformed_request", "this is not an HTTP/1.1 request"),
        b"414" => (414, "URI Too Long", "uri_too_long", "the request's target is too long"),
        _ => return None,
    };
    let ours = head.windows(13).any(|window| window.eq_ignore_ascii_case(b"x-request-id:"));
    (!ours).then(|| canned(status, title, code, detail))
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.unanswered = true;
        }
        outcome
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.unanswered
            && let Some(answer) = replacement(bytes)
        {
            self.unanswered = false;
            // A fresh answer fits the socket's buffer; if it does not, the connection is closed all the same.
            drop(self.stream.try_write(&answer));
            return Poll::Ready(Ok(bytes.len()));
        }
        self.unanswered = false;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_stalled(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().find(|slice| !slice.is_empty());
        if self.unanswered
            && let Some(answer) = first.and_then(|first| replacement(first))
        {
            self.unanswered = false;
            drop(self.stream.try_write(&answer));
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        self.unanswered = false;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.unless_stalled(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let end = match &mut this.lingering {
            Some(end) => end,
            None => {
                ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                if !this.watch.is_unread() {
                    return Poll::Ready(Ok(()));
                }
                this.lingering.insert(Box::pin(tokio::time::sleep(LINGER)))
            }
        };
        Self::poll_linger(&mut this.stream, end, cx).map(Ok)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.unanswered && !self.watch.upgraded.load(Ordering::Relaxed) {
            let answer = canned(408, "Request Timeout", "request_timeout", "the request took too long to arrive");
            // The peer may be gone: then nobody is left to be told.
            drop(self.stream.try_write(&answer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canned_answer_is_whole() {
        let answer =
            String::from_utf8(canned(503, "Service Unavailable", "too_many_connections", "try again")).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["status"], 503);
    }
}
