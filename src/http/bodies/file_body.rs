//! Request bodies that are files: the raw bytes, or a form with one file.
//!
//! Invariant: the bytes are passed on as they arrive. At most one piece of the body and the head of the form's part are in memory.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;

use super::disposition;
use super::extract::{body_cut_off, body_too_slow, media_type, refuse_encoding};
use super::problem::Problem;
use crate::app::App;
use crate::base::error::Error;
use crate::domain::access::principal::Principal;
use crate::domain::files::uploads::{self, Incoming, Received};

/// The limit of the head of a part: its boundary and its header fields.
const PART_HEAD_LIMIT_BYTES: usize = 16 * 1_024;
/// Longest boundary of a form (RFC 2046, section 5.1.1).
const BOUNDARY_LIMIT_BYTES: usize = 70;

/// A file that has arrived, with the name that the request gives it.
pub struct ReceivedFile {
    /// The file.
    pub received: Received,
    /// Its name.
    pub file_name: Option<String>,
}

/// Receives the file of a request. `stall_timeout` is the longest pause between two pieces of the body.
///
/// # Errors
/// Those of [`receive_up_to`].
pub async fn receive(
    app: &App,
    principal: &Principal,
    headers: &HeaderMap,
    body: Body,
    stall_timeout: Duration,
) -> Result<ReceivedFile, Problem> {
    receive_up_to(u64::MAX, app, principal, headers, body, stall_timeout).await
}

/// Receives the file of a request, which has at most `max_bytes` and at most the limit of the server.
///
/// # Errors
/// Those of [`uploads::begin`]; 400 for a malformed form; 408 if the body does not arrive; 415 for a Content-Encoding; 422 for a form
/// that is not one file.
pub async fn receive_up_to(
    max_bytes: u64,
    app: &App,
    principal: &Principal,
    headers: &HeaderMap,
    body: Body,
    stall_timeout: Duration,
) -> Result<ReceivedFile, Problem> {
    let Some(boundary) = boundary(headers)? else {
        let file_name = disposition::file_name(headers)?;
        let incoming = uploads::begin_up_to(app, principal, announced_bytes(headers), max_bytes).await?;
        let received = receive_raw(incoming, headers, body, stall_timeout).await?;
        return Ok(ReceivedFile { received, file_name });
    };
    let mut pieces = Pieces::new(headers, body, stall_timeout)?;
    // The announced size of a form includes its boundaries, so it is not compared with the limit.
    let mut incoming = uploads::begin_up_to(app, principal, None, max_bytes).await?;
    let file_name = receive_form(&mut pieces, &mut incoming, &boundary).await?;
    Ok(ReceivedFile { received: incoming.finish().await?, file_name })
}

/// The size that a request announces.
pub fn announced_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Receives a body that is the file itself. `stall_timeout` is the longest pause between two pieces of the body.
///
/// # Errors
/// Those of [`Incoming::write`] and [`Incoming::finish`]; 408 if the body does not arrive; 415 for a Content-Encoding.
pub async fn receive_raw(
    mut incoming: Incoming,
    headers: &HeaderMap,
    body: Body,
    stall_timeout: Duration,
) -> Result<Received, Problem> {
    let mut pieces = Pieces::new(headers, body, stall_timeout)?;
    while let Some(piece) = pieces.next().await? {
        incoming.write(piece).await?;
    }
    Ok(incoming.finish().await?)
}

/// The boundary of a form. `None` if the body is not a form.
fn boundary(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Problem> {
    let (media_type, parameters) = media_type(headers);
    if !media_type.eq_ignore_ascii_case("multipart/form-data") {
        return Ok(None);
    }
    let boundary = disposition::parameters(parameters)
        .find(|(name, _)| name.eq_ignore_ascii_case("boundary"))
        .map(|(_, value)| value.into_bytes())
        .filter(|boundary| (1..=BOUNDARY_LIMIT_BYTES).contains(&boundary.len()));
    boundary.map(Some).ok_or_else(|| malformed_form("it needs a boundary of 1 to 70 characters"))
}

/// The pieces of a body as they arrive.
pub struct Pieces {
    body: Body,
    stall_timeout: Duration,
}

impl Pieces {
    /// The pieces of `body`. `stall_timeout` is the longest pause between two of them.
    ///
    /// # Errors
    /// 415 for a Content-Encoding, because the server does not decode bodies.
    pub fn new(headers: &HeaderMap, body: Body, stall_timeout: Duration) -> Result<Self, Problem> {
        refuse_encoding(headers)?;
        Ok(Self { body, stall_timeout })
    }

    /// The next piece. `None` at the end of the body.
    ///
    /// # Errors
    /// 400 if the body ends too early; 408 if it does not arrive.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            let frame = tokio::time::timeout(self.stall_timeout, self.body.frame());
            match frame.await.map_err(|_| body_too_slow())? {
                None => return Ok(None),
                Some(Err(_)) => return Err(body_cut_off()),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// Receives a form with exactly one part, a file (RFC 7578). Returns the name of the file.
async fn receive_form(
    pieces: &mut Pieces,
    incoming: &mut Incoming,
    boundary: &[u8],
) -> Result<Option<String>, Problem> {
    let first = [b"--", boundary].concat();
    let delimiter = [b"\r\n--", boundary].concat();
    let mut buffer: Vec<u8> = Vec::new();
    let head_end = loop {
        if let Some(at) = find(&buffer, b"\r\n\r\n") {
            break at;
        }
        if buffer.len() > PART_HEAD_LIMIT_BYTES {
            return Err(malformed_form("the head of its first part is too large"));
        }
        let piece = pieces.next().await?.ok_or_else(|| malformed_form("it ends too early"))?;
        buffer.extend_from_slice(&piece);
    };
    if !buffer.starts_with(&first) || buffer.get(first.len()..first.len() + 2) != Some(b"\r\n") {
        return Err(malformed_form("it does not begin with its boundary"));
    }
    let file_name = part_file_name(&buffer[first.len()..head_end])?;
    buffer.drain(..head_end + 4);
    // Bytes that may be the beginning of the delimiter stay in the buffer until the next piece has arrived.
    loop {
        if let Some(at) = find(&buffer, &delimiter) {
            let rest = buffer.split_off(at + delimiter.len());
            buffer.truncate(at);
            incoming.write(buffer.into()).await?;
            return end_form(pieces, rest).await.map(|()| file_name);
        }
        let safe = buffer.len().saturating_sub(delimiter.len() - 1);
        if safe > 0 {
            let rest = buffer.split_off(safe);
            incoming.write(std::mem::replace(&mut buffer, rest).into()).await?;
        }
        let piece = pieces.next().await?.ok_or_else(|| malformed_form("it ends too early"))?;
        buffer.extend_from_slice(&piece);
    }
}

/// Checks that nothing but the end of the form follows.
async fn end_form(pieces: &mut Pieces, mut rest: Vec<u8>) -> Result<(), Problem> {
    while rest.len() < 2 {
        match pieces.next().await? {
            Some(piece) => rest.extend_from_slice(&piece),
            None => return Err(malformed_form("it ends too early")),
        }
    }
    if !rest.starts_with(b"--") {
        return Err(Error::invalid("file", "duplicate", "must be the only part of the form").into());
    }
    // A form may end with white space.
    while let Some(piece) = pieces.next().await? {
        rest.extend_from_slice(&piece);
        if rest.len() > PART_HEAD_LIMIT_BYTES {
            return Err(malformed_form("bytes follow its end"));
        }
    }
    Ok(())
}

/// The file name in the head of a part.
fn part_file_name(head: &[u8]) -> Result<Option<String>, Problem> {
    let head = std::str::from_utf8(head).map_err(|_| malformed_form("the head of its part is not UTF-8"))?;
    let value = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then(|| value.trim())
    });
    let value = value.ok_or_else(|| malformed_form("its part has no Content-Disposition"))?;
    disposition::file_name_of(value)?
        .map(Some)
        .ok_or_else(|| Error::invalid("file", "required", "the part of the form must be a file with a name").into())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}

fn malformed_form(reason: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed_form", format!("The form cannot be read: {reason}"))
}
