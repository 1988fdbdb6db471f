//! A TCP proxy on 127.0.0.1 in front of PostgreSQL, through which a node reaches its database.
//!
//! Faults can be switched at any moment. A stalled connection stays open and carries nothing, as behind a firewall that drops
//! packets: neither side notices. The proxy also reads the messages of clients, so that it can stall a node between the
//! statement that numbers its events and its COMMIT. At that point the node holds the lock that every writer needs.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The text of the statement that takes the lock on the event counter.
const NUMBERING: &str = "UPDATE messaging.event_log";
/// How long a test waits for a node to reach its COMMIT.
const HOLD_TIMEOUT: Duration = Duration::from_secs(30);

/// What happens to the bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Pass,
    /// Nothing is forwarded in either direction.
    Stall,
    /// Requests reach the database. Its answers do not come back.
    StallAnswers,
    /// Both sockets are closed. New connections in this state are closed immediately.
    Cut,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Flow {
    fn lets(self, direction: Direction) -> bool {
        self == Self::Pass || (self == Self::StallAnswers && direction == Direction::ToServer)
    }
}

struct Shared {
    target: Mutex<SocketAddr>,
    /// The flow of connections that are opened from now on.
    new: Mutex<Flow>,
    connections: Mutex<Vec<watch::Sender<Flow>>>,
    hold_commits: AtomicBool,
    held: AtomicUsize,
    lose_answers: AtomicBool,
}

impl Shared {
    fn set_existing(&self, flow: Flow) {
        let mut connections = self.connections.lock().unwrap();
        connections.retain(|connection| !connection.is_closed());
        connections.iter().for_each(|connection| {
            connection.send_replace(flow);
        });
    }

    fn set_all(&self, flow: Flow) {
        *self.new.lock().unwrap() = flow;
        self.set_existing(flow);
    }
}

pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy in front of the PostgreSQL server that a URL names.
    pub async fn start(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target: Mutex::new(target_of(url)),
            new: Mutex::new(Flow::Pass),
            connections: Mutex::default(),
            hold_commits: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            lose_answers: AtomicBool::new(false),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    /// The URL with the proxy's address instead of the database's own.
    pub fn url(&self, url: &str) -> String {
        let target = target_of(url).to_string();
        assert!(url.contains(&target), "{url} does not name {target}");
        url.replacen(&target, &self.address.to_string(), 1)
    }

    /// Sets the flow of all connections, including later ones.
    pub fn set(&self, flow: Flow) {
        self.shared.set_all(flow);
    }

    /// Sets the flow of the connections that are open now. Later ones keep theirs.
    pub fn set_existing(&self, flow: Flow) {
        self.shared.set_existing(flow);
    }

    /// Sets the flow of connections that are opened from now on.
    pub fn set_new(&self, flow: Flow) {
        *self.shared.new.lock().unwrap() = flow;
    }

    /// Sends new connections to another server, as when an address moves to another machine.
    pub fn retarget(&self, url: &str) {
        *self.shared.target.lock().unwrap() = target_of(url);
    }

    /// Arms the proxy: when a connection next sends a COMMIT after it has numbered events, the proxy stalls all connections and
    /// does not forward the COMMIT. For the database, the node behind the proxy has then vanished while it holds the lock on
    /// the event counter.
    pub fn vanish_before_commit(&self) {
        self.shared.hold_commits.store(true, Ordering::SeqCst);
    }

    /// Arms the proxy: it replaces the answer to the next COMMIT of a transaction that has numbered events. The client gets the
    /// error that a pooler sends when the pooler's own connection to the database breaks.
    pub fn lose_answer_of_commit(&self) {
        self.shared.lose_answers.store(true, Ordering::SeqCst);
    }

    /// Waits until the armed proxy has stalled a COMMIT.
    pub async fn vanished(&self) {
        let deadline = Instant::now() + HOLD_TIMEOUT;
        while self.shared.held.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < deadline, "no transaction that numbers events has reached its COMMIT");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.set_all(Flow::Cut);
    }
}

/// The address in a URL such as `postgres://user@127.0.0.1:5432/database`.
pub fn target_of(url: &str) -> SocketAddr {
    let (_, rest) = url.split_once('@').expect("the URL must have a user");
    let end = rest.find('/').unwrap_or(rest.len());
    rest[..end].parse().unwrap_or_else(|error| panic!("{url}: {error}"))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let flow = *shared.new.lock().unwrap();
        if flow == Flow::Cut {
            continue;
        }
        let (sender, receiver) = watch::channel(flow);
        shared.connections.lock().unwrap().push(sender);
        tokio::spawn(carry(client, receiver, Arc::clone(&shared)));
    }
}

async fn carry(client: TcpStream, mut flow: watch::Receiver<Flow>, shared: Arc<Shared>) {
    let mut cut = flow.clone();
    let carrying = async {
        // A new connection in a stalled state is accepted here, as the operating system of a stalled machine does, and gets no
        // answer, as behind a firewall.
        flow.wait_for(|flow| flow.lets(Direction::ToServer)).await.ok()?;
        let target = *shared.target.lock().unwrap();
        let server = TcpStream::connect(target).await.ok()?;
        client.set_nodelay(true).ok()?;
        server.set_nodelay(true).ok()?;
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let loses = Arc::new(AtomicBool::new(false));
        let messages = Messages::new(Arc::clone(&shared), Arc::clone(&loses));
        let up = pump(from_client, to_server, flow.clone(), Direction::ToServer, Some(messages), Arc::clone(&loses));
        let down = pump(from_server, to_client, flow.clone(), Direction::ToClient, None, loses);
        tokio::join!(up, down);
        Some(())
    };
    tokio::select! {
        _ = carrying => {}
        _ = cut.wait_for(|flow| *flow == Flow::Cut) => {}
    }
}

/// Forwards the bytes of one side while the flow allows it.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut flow: watch::Receiver<Flow>,
    direction: Direction,
    mut messages: Option<Messages>,
    loses: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 65_536];
    loop {
        if flow.wait_for(|flow| flow.lets(direction)).await.is_err() {
            return;
        }
        let count = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = flow.changed() => continue,
        };
        if count == 0 {
            // When one side closes, the other one is closed too.
            drop(to.shutdown().await);
            return;
        }
        if direction == Direction::ToClient && loses.load(Ordering::SeqCst) {
            // Drops the answer of the database and waits long enough for the database to commit.
            let swallow = async { while from.read(&mut buffer).await.is_ok_and(|count| count > 0) {} };
            drop(tokio::time::timeout(Duration::from_millis(500), swallow).await);
            drop(to.write_all(&broken_connection()).await);
            drop(to.shutdown().await);
            return;
        }
        let parts = match &mut messages {
            Some(messages) => messages.split(&buffer[..count]),
            None => vec![(buffer[..count].to_vec(), false)],
        };
        for (bytes, is_held) in parts {
            if is_held && let Some(messages) = &messages {
                messages.hold();
            }
            if flow.wait_for(|flow| flow.lets(direction)).await.is_err() || to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

/// An ErrorResponse as PgBouncer sends it when its connection to the database breaks.
fn broken_connection() -> Vec<u8> {
    let fields = b"SFATAL\0VFATAL\0C08P01\0Mserver conn crashed?\0\0";
    let mut message = vec![b'E'];
    message.extend((fields.len() as u32 + 4).to_be_bytes());
    message.extend(fields);
    message
}

/// Splits the bytes of a client into messages (PostgreSQL's manual, "Message Formats"), so that the proxy can act before a
/// COMMIT is forwarded.
struct Messages {
    shared: Arc<Shared>,
    /// Whether the database's answers on this connection are lost from now on.
    loses: Arc<AtomicBool>,
    waiting: Vec<u8>,
    /// The first message has no type byte.
    started: bool,
    /// Names of prepared statements that number events.
    numbering: HashSet<Vec<u8>>,
    /// Whether the present transaction has numbered events.
    numbered: bool,
}

impl Messages {
    fn new(shared: Arc<Shared>, loses: Arc<AtomicBool>) -> Self {
        Self { shared, loses, waiting: Vec::new(), started: false, numbering: HashSet::new(), numbered: false }
    }

    /// Splits off complete messages, in order. Each part has a flag: `true` if it begins with the COMMIT of a transaction that
    /// has numbered events.
    fn split(&mut self, bytes: &[u8]) -> Vec<(Vec<u8>, bool)> {
        self.waiting.extend_from_slice(bytes);
        let mut parts: Vec<(Vec<u8>, bool)> = Vec::new();
        while let Some(length) = self.message_length() {
            let message: Vec<u8> = self.waiting.drain(..length).collect();
            let is_commit = self.started && self.look(&message);
            self.started = true;
            match parts.last_mut() {
                Some((bytes, _)) if !is_commit => bytes.extend(message),
                _ => parts.push((message, is_commit)),
            }
        }
        parts
    }

    fn message_length(&self) -> Option<usize> {
        let head = usize::from(self.started);
        let length = self.waiting.get(head..head + 4)?;
        let length = head + u32::from_be_bytes(length.try_into().unwrap()) as usize;
        (self.waiting.len() >= length).then_some(length)
    }

    /// Updates the state of the transaction. Returns whether the message is the COMMIT of a transaction that has numbered
    /// events.
    fn look(&mut self, message: &[u8]) -> bool {
        let payload = &message[5..];
        let mut fields = payload.split(|byte| *byte == 0);
        match message[0] {
            b'P' => {
                let (name, text) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
                if holds(text, NUMBERING) {
                    self.numbering.insert(name.to_vec());
                }
                false
            }
            b'B' => {
                let statement = fields.nth(1).unwrap_or_default();
                self.numbered |= self.numbering.contains(statement);
                false
            }
            b'Q' if holds(payload, "COMMIT") => std::mem::take(&mut self.numbered),
            b'Q' if holds(payload, "BEGIN") || holds(payload, "ROLLBACK") => {
                self.numbered = false;
                false
            }
            _ => false,
        }
    }

    /// Stalls all connections, or loses the answer, if the proxy is armed for that.
    fn hold(&self) {
        if self.shared.lose_answers.swap(false, Ordering::SeqCst) {
            self.loses.store(true, Ordering::SeqCst);
        }
        if self.shared.hold_commits.swap(false, Ordering::SeqCst) {
            self.shared.set_all(Flow::Stall);
            self.shared.held.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
