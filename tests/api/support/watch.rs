//! Clients that read events over a WebSocket or over a stream of server-sent events.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{Place, Server, contract};

/// The longest wait for something that must arrive.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Socket {
    pub stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The cursor of the last event.
    pub cursor: String,
    pub hello: Value,
    /// Whether events of type `presence` are returned. Most tests skip them, because they arrive whenever a user opens a
    /// socket.
    pub presence: bool,
}

impl Socket {
    /// Opens a socket with these headers. If the server refuses it, the error is the status of the answer.
    pub async fn open(server: &Server, target: &str, headers: &[(&str, &str)]) -> Result<Self, u16> {
        Self::open_at(server.address, target, headers).await
    }

    pub async fn open_at(address: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Result<Self, u16> {
        let mut request = format!("ws://{address}{target}").into_client_request().unwrap();
        for (name, value) in headers {
            let name = tokio_tungstenite::tungstenite::http::HeaderName::try_from(*name).unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let stream = match tokio_tungstenite::connect_async(request).await {
            Ok((stream, _)) => stream,
            Err(Error::Http(response)) => return Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        };
        let mut socket = Self { stream, cursor: String::new(), hello: Value::Null, presence: false };
        let mut first = socket.frame().await;
        if first["type"] == "reset" {
            first = socket.frame().await;
        }
        assert_eq!(first["type"], "hello", "{first}");
        socket.cursor = first["cursor"].as_str().unwrap().to_owned();
        socket.hello = first;
        Ok(socket)
    }

    /// Opens a socket of a user under open access.
    pub async fn of(server: &Server, person: &str) -> Self {
        Self::open(server, "/api/ws", &[("x-act-as", person)]).await.unwrap()
    }

    /// Opens a socket of a user under open access that continues after a cursor.
    pub async fn behind(server: &Server, person: &str, cursor: &str) -> Self {
        Self::open(server, &format!("/api/ws?after={cursor}"), &[("x-act-as", person)]).await.unwrap()
    }

    /// The next text frame, or the code with which the socket was closed.
    pub async fn next(&mut self) -> Result<Value, u16> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("a frame in time");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(text.as_str()).unwrap();
                    // Tests of the bus send events of a type that the server does not have.
                    if frame["event"]["type"] != "test.whisper" {
                        contract::check("ServerFrame", &frame);
                    }
                    if self.presence || frame["event"]["type"] != "presence" {
                        return Ok(frame);
                    }
                }
                Some(Ok(Message::Close(Some(frame)))) => return Err(frame.code.into()),
                Some(Ok(Message::Close(None))) | None | Some(Err(_)) => return Err(0),
                Some(Ok(_)) => {}
            }
        }
    }

    pub async fn frame(&mut self) -> Value {
        self.next().await.expect("an open socket")
    }

    /// The next event.
    pub async fn event(&mut self) -> Value {
        let frame = self.frame().await;
        assert_eq!(frame["type"], "event", "{frame}");
        let event = frame["event"].clone();
        if let Some(cursor) = event["cursor"].as_str() {
            self.cursor = cursor.to_owned();
        }
        event
    }

    /// The next event of a type. Events before it are skipped.
    pub async fn event_of(&mut self, kind: &str) -> Value {
        loop {
            let event = self.event().await;
            if event["type"] == kind {
                return event;
            }
        }
    }

    /// Whether no frame arrives for 400 ms.
    pub async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(400), self.frame()).await.is_err()
    }

    pub async fn say(&mut self, frame: Value) {
        self.stream.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// Sends a frame and returns the reply.
    pub async fn ask(&mut self, mut frame: Value) -> Value {
        let reference = json!("asked");
        frame["ref"] = reference.clone();
        let asked = frame.clone();
        self.say(frame).await;
        loop {
            let frame = self.frame().await;
            if frame["type"] == "reply" {
                assert_eq!(frame["ref"], reference, "{frame}");
                contract::check_reply(&asked, &frame);
                return frame;
            }
        }
    }
}

/// An event of a stream of server-sent events.
#[derive(Debug, Default, Clone)]
pub struct Sent {
    pub name: String,
    pub id: String,
    pub data: Value,
}

pub struct Stream {
    response: reqwest::Response,
    text: String,
}

impl Stream {
    pub async fn open(server: &Server, person: &str, last: Option<&str>) -> Self {
        let url = format!("http://{}/api/events/stream", server.address);
        let mut request = reqwest::Client::builder().no_proxy().build().unwrap().get(url).header("x-act-as", person);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Sent> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let mut sent = Sent::default();
                for line in block.lines() {
                    match line.split_once(':') {
                        Some(("event", name)) => sent.name = name.trim().to_owned(),
                        Some(("id", id)) => sent.id = id.trim().to_owned(),
                        Some(("data", data)) => sent.data = serde_json::from_str(data.trim()).unwrap(),
                        _ => {}
                    }
                }
                self.text = rest.to_owned();
                if !sent.data.is_null() {
                    let schema = match &*sent.name {
                        "" => "Event",
                        "hello" => "StreamHello",
                        "reset" => "StreamReset",
                        other => panic!("the document has no item {other}"),
                    };
                    contract::check(schema, &sent.data);
                }
                if !sent.data.is_null() && sent.data["type"] != "presence" {
                    return Some(sent);
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("a chunk in time");
            self.text.push_str(std::str::from_utf8(&chunk.ok()??).unwrap());
        }
    }
}

/// A reader of all events. When its connection ends for any reason, it connects again with its cursor.
pub struct Follower {
    shared: Arc<Mutex<Followed>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Followed {
    address: Option<SocketAddr>,
    /// Ids of messages, in the order of delivery.
    ids: Vec<i64>,
    returns: usize,
}

impl Follower {
    /// Starts reading with the events from now on.
    pub async fn start(address: SocketAddr) -> Self {
        let shared = Arc::new(Mutex::new(Followed { address: Some(address), ..Followed::default() }));
        let followed = Arc::clone(&shared);
        let (begun, begins) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let (mut cursor, mut begun) = (None, Some(begun));
            loop {
                let address = followed.lock().unwrap().address.unwrap();
                follow(address, &mut cursor, &followed, &mut begun).await;
                followed.lock().unwrap().returns += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        begins.await.unwrap();
        Self { shared, task }
    }

    /// Sets the address that the reader connects to from now on.
    pub fn moved(&self, address: SocketAddr) {
        self.shared.lock().unwrap().address = Some(address);
    }

    /// Asserts that every message with an id above `before` was delivered once and in order. Returns how many times the reader
    /// reconnected.
    pub async fn assert_delivered(self, place: &Place, before: i64) -> usize {
        let sql = format!("SELECT id FROM messaging.messages WHERE id > {before} ORDER BY id");
        let expected: BTreeSet<i64> = place.numbers(&sql).await.into_iter().flatten().collect();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.shared.lock().unwrap().ids.len() < expected.len() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.task.abort();
        let followed = self.shared.lock().unwrap();
        let delivered: BTreeSet<i64> = followed.ids.iter().copied().collect();
        assert_eq!(delivered.len(), followed.ids.len(), "some messages were delivered twice");
        assert_eq!(delivered, expected);
        followed.returns
    }
}

async fn follow(
    address: SocketAddr,
    cursor: &mut Option<String>,
    followed: &Mutex<Followed>,
    begun: &mut Option<tokio::sync::oneshot::Sender<()>>,
) -> Option<()> {
    let after = cursor.as_ref().map(|cursor| format!("?after={cursor}")).unwrap_or_default();
    let opening = tokio_tungstenite::connect_async(format!("ws://{address}/api/ws{after}"));
    let (mut stream, _) = tokio::time::timeout(PATIENCE, opening).await.ok()?.ok()?;
    loop {
        let message = tokio::time::timeout(PATIENCE, stream.next()).await.ok()??.ok()?;
        let Message::Text(text) = message else { continue };
        let frame: Value = serde_json::from_str(text.as_str()).unwrap();
        match frame["type"].as_str() {
            Some("hello") => {
                *cursor = frame["cursor"].as_str().map(str::to_owned);
                if let Some(begun) = begun.take() {
                    begun.send(()).unwrap();
                }
            }
            Some("event") => {
                let event = &frame["event"];
                *cursor = event["cursor"].as_str().map(str::to_owned);
                if event["type"] == "message.created" {
                    followed.lock().unwrap().ids.push(event["data"]["id"].as_i64().unwrap());
                }
            }
            other => panic!("{other:?} while following"),
        }
    }
}
