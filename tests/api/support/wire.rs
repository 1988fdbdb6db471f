//! A client that distinguishes four outcomes of a request: not sent, sent and not answered, answered in part, or answered.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::contract;
use super::server::Answer;

/// The longest wait for an answer. It is longer than any time limit of the server, so a later answer would never arrive.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// One connection, kept open between requests.
pub struct Wire {
    stream: TcpStream,
}

/// How a request ended without its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// No connection: the server cannot have received the request.
    Unsent,
    /// The request was sent, and no byte came back.
    Unanswered,
    /// The connection ended within the answer.
    Cut,
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> Result<Self, Lost> {
        let stream = TcpStream::connect(address).await.map_err(|_| Lost::Unsent)?;
        stream.set_nodelay(true).unwrap();
        Ok(Self { stream })
    }

    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        // The server may have received a part of the request before the error.
        self.stream.write_all(bytes).await.map_err(|_| Lost::Unanswered)
    }

    pub async fn answer(&mut self) -> Result<Answer, Lost> {
        let mut received = Vec::new();
        let mut chunk = [0; 8_192];
        loop {
            let reading = tokio::time::timeout(ANSWER_TIMEOUT, self.stream.read(&mut chunk));
            match reading.await.expect("no answer within the time limit") {
                Ok(0) | Err(_) if received.is_empty() => return Err(Lost::Unanswered),
                Ok(0) | Err(_) => return Err(Lost::Cut),
                Ok(count) => received.extend_from_slice(&chunk[..count]),
            }
            if let Some(answer) = parse(&received) {
                return Ok(answer);
            }
        }
    }

    /// Sends a request, and asserts that the OpenAPI document describes its answer.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer, Lost> {
        self.write(request).await?;
        let answer = self.answer().await?;
        let line = request.split(|byte| *byte == b'\r').next().and_then(|line| std::str::from_utf8(line).ok());
        if let [Some(method), Some(target)] = [0, 1].map(|index| line.and_then(|line| line.split(' ').nth(index))) {
            contract::check_answer(method, target, &answer);
        }
        Ok(answer)
    }
}

/// Parses an answer. Returns `None` while the answer is incomplete.
fn parse(received: &[u8]) -> Option<Answer> {
    let head_length = received.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&received[..head_length]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ").unwrap();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
    }
    let length: usize =
        headers.get("content-length").expect("the answer has no Content-Length").to_str().unwrap().parse().unwrap();
    let body = received.get(head_length + 4..head_length + 4 + length)?;
    Some(Answer { status: StatusCode::from_bytes(&status.as_bytes()[..3]).unwrap(), headers, bytes: body.to_vec() })
}

/// The bytes of `POST /api/messages`.
pub fn send_request(sender: &str, recipient: &str, body: &str, key: Option<&str>) -> Vec<u8> {
    let json =
        serde_json::json!({"sender_user_name": sender, "recipient_user_name": recipient, "body": body}).to_string();
    let key = key.map(|key| format!("idempotency-key: {key}\r\n")).unwrap_or_default();
    format!(
        "POST /api/messages HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{key}content-length: {}\r\n\r\n{json}",
        json.len()
    )
    .into_bytes()
}

/// The bytes of a GET.
pub fn get_request(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").into_bytes()
}
