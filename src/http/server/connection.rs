//! The TCP stream of a connection, with three additions to hyper.
//!
//! - hyper answers a head that it cannot parse or that is too large with an empty 400, 414 or 431. It closes the connection if a
//!   head is never completed. In both cases this wrapper answers with a problem document. It examines only the first write after
//!   bytes of a request have arrived.
//! - A peer that accepts no data for a while is disconnected, in every protocol. TCP alone would keep the connection, and its
//!   permit, for as long as the peer's system answers.
//! - Answers are not lost. A request may be refused before its body has arrived, and then hyper closes the connection. If the
//!   rest of the body arrived at a closed socket, the system would reset the connection, and the peer (usually a proxy) might
//!   never read the answer. So this wrapper reads and discards the rest for a while. It does the same after a WebSocket.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::base::tasks;

/// How long the rest of a refused body is read and discarded after the answer.
const LINGER: Duration = Duration::from_secs(5);
/// How long the rest of what a peer sends on a closed WebSocket is read and discarded.
const SOCKET_LINGER: Duration = Duration::from_secs(1);
/// The size of the buffer for discarded bytes.
const LINGER_BUFFER_BYTES: usize = 8 * 1_024;

/// Records whether the body of the latest request was read to its end. The connection and the body share it.
#[derive(Clone, Debug, Default)]
pub struct BodyWatch {
    unread: Arc<AtomicBool>,
    upgraded: Arc<AtomicBool>,
}

impl BodyWatch {
    /// Whether a part of the body has not been read. Then the answer must announce that the connection ends, because the server
    /// would not read another request on this connection.
    pub fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// Notes that the connection has changed to another protocol, so that no HTTP answer is written any more.
    pub fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    /// Wraps the body of the next request so that reading its end is recorded.
    pub fn watch(&self, body: Incoming) -> axum::body::Body {
        let unread = !body.is_end_stream();
        self.unread.store(unread, Ordering::Relaxed);
        if unread {
            axum::body::Body::new(WatchedBody { body, watch: self.clone() })
        } else {
            axum::body::Body::new(body)
        }
    }
}

struct WatchedBody {
    body: Incoming,
    watch: BodyWatch,
}

impl Body for WatchedBody {
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

/// A TCP stream with the additions of this module.
pub struct Connection {
    stream: TcpStream,
    /// Whether bytes of a request have arrived and nothing has been written since.
    has_unanswered_bytes: bool,
    watch: BodyWatch,
    /// How long a peer may accept no data.
    stall_timeout: Duration,
    /// The time at which `stall_timeout` ends. Set while a write is pending.
    stalled: Option<Pin<Box<Sleep>>>,
    /// The time at which reading and discarding ends. Set once the sending side is shut down.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    /// Wraps an accepted stream. `watch` also wraps the bodies of its requests.
    pub fn new(stream: TcpStream, watch: BodyWatch, stall_timeout: Duration) -> Self {
        Self { stream, has_unanswered_bytes: false, watch, stall_timeout, stalled: None, lingering: None }
    }

    /// The result of a write, or an error if the peer has accepted no data for too long.
    fn unless_stalled(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stall_timeout = self.stall_timeout;
        let end = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall_timeout)));
        ready!(end.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer accepts no data")))
    }

    /// Reads and discards bytes until the peer closes or [`LINGER`] has passed.
    fn poll_linger(stream: &mut TcpStream, end: &mut Pin<Box<Sleep>>, cx: &mut Context<'_>) -> Poll<()> {
        // The time is checked first, because a peer that sends without a pause would keep this loop busy.
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

/// A complete HTTP answer for a connection without a parsed request.
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

/// The replacement for an answer that hyper wrote itself. `None` for other answers: those have a request id.
fn replacement(head: &[u8]) -> Option<Vec<u8>> {
    let status = head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let (status, title, code, detail) = match status {
        b"431" => (
            431,
            "Request Header Fields Too Large",
            "headers_too_large",
            "The request has too many or too large header fields",
        ),
        b"400" => (400, "Bad Request", "malformed_request", "This is not a valid HTTP/1.1 request"),
        b"414" => (414, "URI Too Long", "uri_too_long", "The request target is too long"),
        _ => return None,
    };
    let has_request_id = head.windows(13).any(|window| window.eq_ignore_ascii_case(b"x-request-id:"));
    (!has_request_id).then(|| canned(status, title, code, detail))
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.has_unanswered_bytes = true;
        }
        outcome
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.has_unanswered_bytes
            && let Some(answer) = replacement(bytes)
        {
            self.has_unanswered_bytes = false;
            // This short answer usually fits into the send buffer of the socket. If it does not fit, the connection is closed
            // without it.
            drop(self.stream.try_write(&answer));
            return Poll::Ready(Ok(bytes.len()));
        }
        self.has_unanswered_bytes = false;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_stalled(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().find(|slice| !slice.is_empty());
        if self.has_unanswered_bytes
            && let Some(answer) = first.and_then(|first| replacement(first))
        {
            self.has_unanswered_bytes = false;
            drop(self.stream.try_write(&answer));
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        self.has_unanswered_bytes = false;
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
        if self.watch.upgraded.load(Ordering::Relaxed) {
            linger_after_upgrade(&self.stream);
        }
        if self.has_unanswered_bytes && !self.watch.upgraded.load(Ordering::Relaxed) {
            let answer = canned(408, "Request Timeout", "request_timeout", "The request took too long to arrive");
            // This fails if the peer is gone.
            drop(self.stream.try_write(&answer));
        }
    }
}

/// Closes the sending side of a WebSocket, and reads and discards what the peer still sends. Otherwise the system would reset the
/// connection, and the peer might never read the frame that says why it was closed.
fn linger_after_upgrade(stream: &TcpStream) {
    // There is no runtime when the program ends.
    if tokio::runtime::Handle::try_current().is_err() {
        return;
    }
    let copied = stream.as_fd().try_clone_to_owned().map(std::net::TcpStream::from).and_then(TcpStream::from_std);
    let Ok(mut stream) = copied else { return };
    tasks::spawn("linger", async move {
        // An error means that the peer is gone.
        if stream.shutdown().await.is_ok() {
            let mut end = Box::pin(tokio::time::sleep(SOCKET_LINGER));
            std::future::poll_fn(|cx| Connection::poll_linger(&mut stream, &mut end, cx)).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canned_answer_is_complete_http() {
        let answer =
            String::from_utf8(canned(503, "Service Unavailable", "too_many_connections", "Too many connections"))
                .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["status"], 503);
    }
}
