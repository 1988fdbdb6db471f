//! A connection that always gets an answer in our words.
//!
//! hyper answers a head that it cannot take (too many fields, malformed) with an empty 400 or 431, and a head that never ends
//! by closing. This wrapper turns both into problem documents. It looks at the first bytes of each write only.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP stream that speaks for hyper where hyper has nothing to say.
pub struct Connection {
    stream: TcpStream,
    /// Bytes of a request came, and nothing was answered since.
    unanswered: bool,
}

impl Connection {
    /// Wraps an accepted stream.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, unanswered: false }
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
        Pin::new(&mut self.stream).poll_write(cx, bytes)
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
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.unanswered {
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
