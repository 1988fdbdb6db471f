//! The limits that the server is compared with on this machine: bare axum, and bare axum in front of a bare group commit. Each
//! limit runs in its own process (this executable again, with another argument). A limit is built like the server and gets the
//! same load, so that the ratio shows the cost of the server's own work.
//!
//! Invariant: a limit does only the work that no server can avoid, in the fastest known way.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::BytesMut;
use futures_util::{StreamExt, stream};
use rusqlite::{Connection, params};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use crate::client::Page;
use crate::data;
use crate::process::{Context, Outcome, Output, Process, Stop};

/// The first argument of this executable when it runs as a limit.
pub const ROLE: &str = "--run-as-limit";
/// The writer itself runs a checkpoint when the write-ahead log has reached 64 MB (pages of 4 KiB). Compared on this machine,
/// in inserts per second: SQLite's default of 1,000 pages 17,000, 4,000 pages 27,000, 16,000 pages 31,000. With passive
/// checkpoints from another thread the rate is only 10,000: a writer that is never idle never starts the log from its beginning
/// again, and syncs of a growing file are slow.
const CHECKPOINT_PAGES: u32 = 16_000;
const BATCH: usize = 256;
const QUEUE_LIMIT: usize = 1_024;
const FILE_PIECE_BYTES: usize = 256 * 1024;

/// A running limit.
pub struct Limit {
    /// The address of the limit.
    pub address: SocketAddr,
    _process: Process,
}

impl Limit {
    /// A bare axum handler that answers every GET with the bytes of this page.
    pub fn same_bytes(folder: &Path, page: &Page) -> Outcome<Self> {
        let file = folder.join("page.bin");
        fs::write(&file, &page.body).context("keeping the page")?;
        Self::start("bare axum", folder, &["bytes".into(), file, page.content_type.clone().into()])
    }

    /// A bare axum handler for `POST /api/messages`, and one thread that commits all waiting messages together, over a copy of
    /// the loaded database.
    pub fn group_commit(folder: &Path, database: &Path) -> Outcome<Self> {
        let copy = folder.join("limit.db");
        fs::copy(database, &copy).context("copying the database for the limit")?;
        Self::start("bare group commit", folder, &["group-commit".into(), copy])
    }

    /// A bare axum handler that sends the body of every POST to every WebSocket.
    pub fn broadcast(folder: &Path) -> Outcome<Self> {
        Self::start("bare broadcast", folder, &["broadcast".into()])
    }

    /// A bare axum handler that streams the body of each POST into a file, syncs the file and answers with its path. GET on that path
    /// streams the file back.
    pub fn files(folder: &Path) -> Outcome<Self> {
        let files = folder.join("limit-files");
        fs::create_dir_all(&files).context("making the folder of the limit")?;
        Self::start("bare files", folder, &["files".into(), files])
    }

    fn start(name: &str, folder: &Path, arguments: &[PathBuf]) -> Outcome<Self> {
        let executable = std::env::current_exe().context("finding this executable")?;
        let mut command = Command::new(executable);
        // The limit ends when its standard input closes, so it does not stay behind when this process is killed.
        command.arg(ROLE).args(arguments).stdin(Stdio::piped());
        let process = Process::start(name, &mut command, folder.join("limits.log"), Stop::Terminate, Output::Piped)?;
        let mut line = String::new();
        BufReader::new(process.take_stdout()?).read_line(&mut line).context(format!("listening to {name}"))?;
        let address = line.trim().parse().map_err(|_| {
            let words = process.last_words();
            format!("{name} did not print its address; the end of its log:\n{words}")
        })?;
        Ok(Self { address, _process: process })
    }
}

/// Runs as the limit that the arguments name.
pub fn run(arguments: &[String]) -> Outcome<()> {
    let router = match arguments {
        [kind, file, content_type] if kind == "bytes" => same_bytes_router(file, content_type)?,
        [kind, database] if kind == "group-commit" => group_commit_router(database)?,
        [kind] if kind == "broadcast" => broadcast_router(),
        [kind, folder] if kind == "files" => files_router(folder.into()),
        _ => return Err(format!("no such limit: {arguments:?}")),
    };
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        use axum::serve::ListenerExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("binding a port")?;
        println!("{}", listener.local_addr().context("asking for the port")?);
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, router).await.context("serving")
    })
}

fn same_bytes_router(file: &str, content_type: &str) -> Outcome<Router> {
    let body = Bytes::from(fs::read(file).context("reading the page")?);
    let content_type = header::HeaderValue::from_str(content_type).context("using the content type")?;
    let answer = move || {
        let answer = ([(header::CONTENT_TYPE, content_type.clone())], body.clone());
        async move { answer }
    };
    Ok(Router::new().fallback(get(answer)))
}

fn files_router(folder: PathBuf) -> Router {
    let receive = |State(folder): State<PathBuf>, body: Body| async move {
        match receive_file(&folder, body).await {
            Ok(path) => (StatusCode::CREATED, path).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
        }
    };
    let send = |State(folder): State<PathBuf>, axum::extract::Path(name): axum::extract::Path<String>| async move {
        match send_file(&folder.join(name)).await {
            Ok(answer) => answer,
            Err(error) => (StatusCode::NOT_FOUND, error.to_string()).into_response(),
        }
    };
    Router::new()
        .route("/files", post(receive))
        .route("/files/{name}", get(send))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(folder)
}

async fn receive_file(folder: &Path, body: Body) -> Outcome<String> {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let name = NUMBER.fetch_add(1, Ordering::Relaxed).to_string();
    let mut file = tokio::fs::File::create(folder.join(&name)).await.context("making a file")?;
    let mut body = body.into_data_stream();
    while let Some(bytes) = body.next().await {
        file.write_all(&bytes.context("receiving a file")?).await.context("writing a file")?;
    }
    file.sync_all().await.context("syncing a file")?;
    Ok(format!("/files/{name}"))
}

async fn send_file(path: &Path) -> std::io::Result<Response> {
    let file = tokio::fs::File::open(path).await?;
    let size = file.metadata().await?.len();
    let pieces = stream::try_unfold(file, |mut file| async move {
        let mut piece = BytesMut::with_capacity(FILE_PIECE_BYTES);
        let count = file.read_buf(&mut piece).await?;
        Ok::<_, std::io::Error>((count > 0).then(|| (piece.freeze(), file)))
    });
    Ok(([(header::CONTENT_LENGTH, size)], Body::from_stream(pieces)).into_response())
}

fn broadcast_router() -> Router {
    use axum::extract::ws::{Message, Utf8Bytes, WebSocketUpgrade};
    let sender = tokio::sync::broadcast::Sender::<Utf8Bytes>::new(QUEUE_LIMIT);
    let posted = sender.clone();
    let send = move |body: String| {
        // Pads the frame to about the size of an event.
        let frame = format!("{{\"type\":\"event\",\"event\":{body},\"padding\":\"{}\"}}", "x".repeat(600));
        let _ = posted.send(frame.into());
        async { StatusCode::CREATED }
    };
    let listen = move |upgrade: WebSocketUpgrade| {
        let mut receiver = sender.subscribe();
        async move {
            upgrade.on_upgrade(async move |mut socket| {
                while let Ok(frame) = receiver.recv().await {
                    if socket.send(Message::Text(frame)).await.is_err() {
                        return;
                    }
                }
            })
        }
    };
    Router::new().route("/api/ws", get(listen)).route("/api/messages", post(send))
}

#[derive(Deserialize)]
struct NewMessage {
    sender_user_name: String,
    recipient_user_name: String,
    body: String,
}

struct Insert {
    message: NewMessage,
    answer: oneshot::Sender<Option<Inserted>>,
}

struct Inserted {
    id: i64,
    seq: i64,
}

fn group_commit_router(database: &str) -> Outcome<Router> {
    let writer = Writer::open(database).context("opening the database of the limit")?;
    let (sender, receiver) = mpsc::channel(QUEUE_LIMIT);
    std::thread::spawn(move || {
        if let Err(error) = writer.run(receiver) {
            eprintln!("the writer of the limit failed: {error}");
            std::process::exit(1);
        }
    });
    Ok(Router::new().route("/api/messages", post(insert)).with_state(sender))
}

async fn insert(State(writer): State<mpsc::Sender<Insert>>, body: Bytes) -> Response {
    let Ok(message) = serde_json::from_slice(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let (answer, answered) = oneshot::channel();
    if writer.send(Insert { message, answer }).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match answered.await {
        Ok(Some(Inserted { id, seq })) => {
            let json = [(header::CONTENT_TYPE, "application/json")];
            (StatusCode::CREATED, json, format!("{{\"id\":{id},\"seq\":{seq}}}")).into_response()
        }
        Ok(None) => StatusCode::UNPROCESSABLE_ENTITY.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

struct Writer {
    connection: Connection,
    /// The conversation and the last seq of each busy pair of users.
    heads: HashMap<(String, String), ConversationHead>,
    last_id: i64,
}

struct ConversationHead {
    conversation_id: i64,
    sender_id: i64,
    recipient_id: i64,
    seq: i64,
}

impl Writer {
    fn open(database: &str) -> rusqlite::Result<Self> {
        let connection = Connection::open(database)?;
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        connection.execute_batch(&format!(
            "PRAGMA synchronous = FULL; PRAGMA cache_size = -65536; PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}"
        ))?;
        let last_id = connection.query_row("SELECT max(id) FROM messages", [], |row| row.get(0))?;
        let mut heads = HashMap::new();
        for id in data::busy_conversations() {
            let (sender, recipient) = data::members(id);
            let seq = connection
                .query_row("SELECT last_seq FROM conversations WHERE id = ?1", [id as i64], |row| row.get(0))?;
            let place = ConversationHead {
                conversation_id: id as i64,
                sender_id: sender as i64,
                recipient_id: recipient as i64,
                seq,
            };
            heads.insert((data::user_name(sender), data::user_name(recipient)), place);
        }
        Ok(Self { connection, heads, last_id })
    }

    fn run(self, mut waiting: mpsc::Receiver<Insert>) -> rusqlite::Result<()> {
        let Self { connection, mut heads, mut last_id } = self;
        let mut begin = connection.prepare("BEGIN IMMEDIATE")?;
        let mut commit = connection.prepare("COMMIT")?;
        let mut insert = connection.prepare(
            "INSERT INTO messages (conversation_id, seq, id, timestamp_sent, kind, sender_id, recipient_id,
                 created_at, body) VALUES (?1, ?2, ?3, ?4, 'text', ?5, ?6, ?4, ?7)",
        )?;
        let mut batch = Vec::with_capacity(BATCH);
        let mut done = Vec::with_capacity(BATCH);
        while waiting.blocking_recv_many(&mut batch, BATCH) > 0 {
            begin.execute([])?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
            for Insert { message, answer } in batch.drain(..) {
                let pair = (message.sender_user_name, message.recipient_user_name);
                let Some(place) = heads.get_mut(&pair) else {
                    done.push((answer, None));
                    continue;
                };
                place.seq += 1;
                last_id += 1;
                let ConversationHead { conversation_id, sender_id, recipient_id, seq } = *place;
                insert.execute(params![conversation_id, seq, last_id, now, sender_id, recipient_id, message.body])?;
                done.push((answer, Some(Inserted { id: last_id, seq })));
            }
            commit.execute([])?;
            for (answer, inserted) in done.drain(..) {
                let _ = answer.send(inserted);
            }
        }
        Ok(())
    }
}
