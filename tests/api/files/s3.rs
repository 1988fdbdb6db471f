//! Files in a bucket of S3. `scripts/with-s3` starts the store.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use posthaste::blobs::Location;
use reqwest::Method;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use crate::both;
use crate::operations::operations::{posthaste, text};
use crate::support::files::{age_blobs, noise, png, send_with, upload, uploaded};
use crate::support::people::{delete, get};
use crate::support::{Options, Place, Server, answer_of};

/// The longest answer of a server whose store does not answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

static BUCKETS: AtomicU32 = AtomicU32::new(0);

/// The address of the store.
fn store() -> SocketAddr {
    let url = std::env::var("POSTHASTE_TEST_S3").expect("run make test, or scripts/with-s3 cargo test");
    url.strip_prefix("http://").unwrap().trim_end_matches('/').parse().unwrap()
}

/// Creates a bucket, and returns its name.
async fn make_bucket(store: SocketAddr) -> String {
    let bucket = format!("files-{}-{}", std::process::id(), BUCKETS.fetch_add(1, Ordering::Relaxed));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let made = client.put(format!("http://{store}/{bucket}")).send().await.unwrap();
    assert!(made.status().is_success(), "{}", made.status());
    bucket
}

/// The keys of a bucket, as the XML of its list has them.
async fn keys(store: SocketAddr, bucket: &str) -> usize {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let list = client.get(format!("http://{store}/{bucket}")).send().await.unwrap().text().await.unwrap();
    list.matches("<Key>").count()
}

fn url(address: SocketAddr, bucket: &str) -> String {
    format!("s3://{bucket}/prefix?region=us-east-1&endpoint=http://{address}")
}

fn options(address: SocketAddr, bucket: &str) -> Options {
    let location: Location = url(address, bucket).parse().unwrap();
    Options { blobs: Some(location), ..Options::default() }
}

/// A TCP proxy whose connections can be cut or stalled.
struct Gate {
    address: SocketAddr,
    mode: Arc<AtomicU8>,
    /// The number of connections that are being carried.
    carried: Arc<AtomicUsize>,
}

const PASS: u8 = 0;
const CUT: u8 = 1;
const STALL: u8 = 2;

impl Gate {
    async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(AtomicU8::new(PASS));
        let carried = Arc::new(AtomicUsize::new(0));
        let (shared, counter) = (Arc::clone(&mode), Arc::clone(&carried));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mode, counter) = (Arc::clone(&shared), Arc::clone(&counter));
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let changed = async {
                        while mode.load(Ordering::SeqCst) == PASS {
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    };
                    let carry = async {
                        let mut server = TcpStream::connect(target).await.unwrap();
                        drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                    };
                    let ended = tokio::select! {
                        () = changed => false,
                        () = carry => true,
                    };
                    counter.fetch_sub(1, Ordering::SeqCst);
                    if ended {
                        return;
                    }
                    while mode.load(Ordering::SeqCst) == STALL {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                });
            }
        });
        Self { address, mode, carried }
    }

    /// Changes what happens to connections. It waits until no connection is carried any more: a body that still reached the store
    /// would be stored although its answer is cut off.
    async fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
        while mode != PASS && self.carried.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn wait_for_keys(store: SocketAddr, bucket: &str, count: usize) {
    for _ in 0..200 {
        if keys(store, bucket).await == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(keys(store, bucket).await, count);
}

both!(files_live_in_a_bucket, async |place| {
    let store = store();
    let bucket = make_bucket(store).await;
    let server = Server::start_with(place, options(store, &bucket)).await;
    // More than one part of an upload in parts, which have 8 MiB.
    let large = noise(20_000_000);
    let file = uploaded(&server, "bugs", "large.bin", &large).await;
    let picture = uploaded(&server, "bugs", "a.png", &png(400, 300)).await;
    let message = send_with(&server, "bugs", "duck", &[file, picture]).await;
    assert_eq!(keys(store, &bucket).await, 3);
    assert!(crate::support::files::stored(place).is_empty(), "{:?}", crate::support::files::stored(place));
    let path = format!("/api/attachments/{file}");
    assert!(get(&server, "duck", &path).await.bytes == large);
    for (range, part) in
        [("bytes=0-0", 0..1), ("bytes=9999990-12000000", 9_999_990..12_000_001), ("bytes=-5", 19_999_995..20_000_000)]
    {
        let request = server.request(Method::GET, &path).header("x-act-as", "duck").header("range", range);
        let answer = answer_of(request).await;
        assert_eq!(answer.status, 206);
        assert!(answer.bytes == large[part], "{range}");
    }
    assert_eq!(get(&server, "duck", &format!("/api/attachments/{picture}/thumbnail")).await.status, 200);
    get(&server, "porky", &path).await.problem(404, "attachment_not_found");
    // The same bytes are stored once.
    let same = uploaded(&server, "duck", "same.bin", &large).await;
    send_with(&server, "duck", "bugs", &[same]).await;
    assert_eq!(keys(store, &bucket).await, 3);
    let path = format!("/api/conversations/{}/messages/{}", message["conversation_id"], message["seq"]);
    assert_eq!(delete(&server, "bugs", &path).await.status, 204);
    wait_for_keys(store, &bucket, 1).await;
    assert!(get(&server, "bugs", &format!("/api/attachments/{same}")).await.bytes == large);
    upload(&server, "bugs", "a", b"").await.invalid(&["file"]);
    assert_eq!(keys(store, &bucket).await, 1);
});

both!(a_bucket_is_backed_up_restored_and_checked, async |place| {
    let store = store();
    let (bucket, other) = (make_bucket(store).await, make_bucket(store).await);
    let server = Server::start_with(place, options(store, &bucket)).await;
    let file = uploaded(&server, "bugs", "a.bin", &noise(300_000)).await;
    send_with(&server, "bugs", "duck", &[file]).await;
    let backup = place.folder.path().join("backup");
    let run = |arguments: &[&str], bucket: &str| {
        let url = url(store, bucket);
        let output = posthaste(place, &[arguments, &["--blob-url", &url]].concat());
        (output.status.success(), text(&output))
    };
    let (done, said) = run(&["doctor", "--deep"], &bucket);
    assert!(done && said.contains("1 files, 300000 bytes, SHA-256 compared"), "{said}");
    let (done, said) = run(&["doctor"], &other);
    assert!(!done && said.contains("1 of 1 files are missing"), "{said}");
    let (done, said) = run(&["backup", backup.to_str().unwrap()], &bucket);
    assert!(done && said.contains("Copied 1 files"), "{said}");
    server.stop().await;
    let (done, said) = run(&["restore", "--yes", backup.to_str().unwrap()], &other);
    assert!(done && said.contains("Copied 1 files"), "{said}");
    let server = Server::start_with(place, options(store, &other)).await;
    assert!(get(&server, "duck", &format!("/api/attachments/{file}")).await.bytes == noise(300_000));
});

both!(a_store_that_is_gone_stops_files_only, async |place| {
    let store = store();
    let bucket = make_bucket(store).await;
    let gate = Gate::start(store).await;
    let server = Server::start_with(place, options(gate.address, &bucket)).await;
    let file = uploaded(&server, "bugs", "a.bin", &noise(300_000)).await;
    let path = format!("/api/attachments/{file}");
    let message = send_with(&server, "bugs", "duck", &[file]).await;
    for mode in [CUT, STALL] {
        gate.set(mode).await;
        let started = Instant::now();
        let small = noise(1_000);
        let (read, written) = tokio::join!(get(&server, "duck", &path), upload(&server, "duck", "b.bin", &small));
        read.problem(503, "unavailable");
        written.problem(503, "unavailable");
        assert!(started.elapsed() < ANSWER_LIMIT + Duration::from_secs(2), "{mode}: {:?}", started.elapsed());
        let started = Instant::now();
        let timeline = get(&server, "duck", "/api/messages/duck?with=bugs").await.json();
        assert!(timeline.as_array().unwrap().iter().any(|found| found["attachments"] == message["attachments"]));
        let body = json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": "still here"});
        assert_eq!(server.post("/api/messages", &body).await.status, 201);
        assert!(started.elapsed() < Duration::from_secs(3), "{mode}: {:?}", started.elapsed());
        gate.set(PASS).await;
        assert!(get(&server, "duck", &path).await.bytes == noise(300_000));
    }
    // A message whose file cannot be deleted now is deleted, and its file later.
    gate.set(CUT).await;
    let target = format!("/api/conversations/{}/messages/{}", message["conversation_id"], message["seq"]);
    assert_eq!(delete(&server, "bugs", &target).await.status, 204);
    get(&server, "duck", &path).await;
    gate.set(PASS).await;
    // The bytes of an upload whose answer was lost can have reached the store. Its blob is only claimed.
    age_blobs(place).await;
    wait_for_keys(store, &bucket, 0).await;
});

/// Runs `serve` and waits until it ends. Returns its output.
fn refused_start(place: &Place, blob_url: &str) -> String {
    let child = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--blob-url",
            blob_url,
            "--database-url",
            &place.url(),
            "--data-dir",
        ])
        .arg(place.folder.path())
        .env("AWS_ACCESS_KEY_ID", "hidden-key")
        .env("AWS_SECRET_ACCESS_KEY", "hidden-secret")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(!child.status.success(), "{}", text(&child));
    text(&child)
}

both!(a_server_says_that_its_store_of_files_cannot_be_reached, async |place| {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let started = Instant::now();
    let said = refused_start(place, &url(address, "a-bucket"));
    assert!(said.contains("the files cannot be stored in s3://a-bucket/prefix"), "{said}");
    assert!(!said.contains("hidden"), "{said}");
    assert!(started.elapsed() < ANSWER_LIMIT * 2, "{:?}", started.elapsed());
    let said = refused_start(place, "file:/proc/none");
    assert!(said.contains("the files cannot be stored in file:/proc/none"), "{said}");
});
