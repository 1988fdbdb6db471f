//! Outgoing webhooks: the deliveries that receivers get.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use posthaste::base::time::Clock;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::both;
use crate::support::process::{Process, Wrapping};
use crate::support::server::Options;
use crate::support::{Place, Server, answer_of, contract};

/// A receiver of webhooks. It answers the first deliveries with the given statuses and all later ones with `then`. For the
/// status `0` it never answers.
pub struct Receiver {
    pub url: String,
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

impl Receiver {
    pub async fn start(answers: &'static [u16], then: u16) -> Self {
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&got);
        let handler = move |headers: HeaderMap, body: Bytes| {
            let kept = Arc::clone(&kept);
            async move {
                let count = {
                    let mut kept = kept.lock().unwrap();
                    kept.push((headers, body));
                    kept.len()
                };
                let answer = answers.get(count - 1).copied().unwrap_or(then);
                if answer == 0 {
                    std::future::pending::<()>().await;
                }
                StatusCode::from_u16(answer).unwrap()
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await.unwrap() });
        Self { url, got }
    }

    pub fn events(&self) -> Vec<Value> {
        let got = self.got.lock().unwrap();
        let events: Vec<Value> = got.iter().map(|(_, body)| serde_json::from_slice(body).unwrap()).collect();
        events.iter().for_each(|event| contract::check("LoggedEvent", event));
        events
    }

    pub fn bodies(&self) -> Vec<String> {
        self.events().iter().filter_map(|event| Some(event["data"]["body"].as_str()?.to_owned())).collect()
    }

    pub fn body(&self, index: usize) -> Bytes {
        self.got.lock().unwrap()[index].1.clone()
    }

    pub fn header(&self, index: usize, name: &str) -> String {
        self.got.lock().unwrap()[index].0[name].to_str().unwrap().to_owned()
    }

    pub async fn wait(&self, count: usize) {
        let started = Instant::now();
        while self.got.lock().unwrap().len() < count {
            assert!(started.elapsed() < Duration::from_secs(20), "{:?}", self.events());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub async fn server(place: &Place) -> Server {
    Server::start_with(place, Options { webhook_allow_private: true, ..Options::default() }).await
}

pub async fn create_webhook(server: &Server, receiver: &Receiver) -> Value {
    let made = server.post("/api/webhooks", &json!({"url": receiver.url, "event_types": ["message.created"]})).await;
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.bytes));
    made.json()
}

both!(a_delivery_is_signed_and_in_order_and_can_be_replayed, async |place| {
    let server = server(place).await;
    let cursor = server.get("/api/events").await.json()["cursor"].clone();
    let receiver = Receiver::start(&[], 204).await;
    let made = create_webhook(&server, &receiver).await;
    let expected: Vec<String> = (0..12).map(|index| format!("message {index}")).collect();
    for body in &expected {
        server.send("duck", "bugs", body).await;
    }
    receiver.wait(12).await;
    assert_eq!(receiver.bodies(), expected);
    let secret = made["secret"].as_str().unwrap().strip_prefix("whsec_").unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(secret).unwrap());
    let (id, timestamp) = (receiver.header(0, "webhook-id"), receiver.header(0, "webhook-timestamp"));
    let mut signed = format!("{id}.{timestamp}.").into_bytes();
    signed.extend_from_slice(&receiver.got.lock().unwrap()[0].1);
    let signature = format!("v1,{}", STANDARD.encode(hmac::sign(&key, &signed)));
    assert_eq!(receiver.header(0, "webhook-signature"), signature);
    // The secret is not shown again.
    let listed = server.get("/api/webhooks").await.json();
    assert_eq!((listed[0]["id"].clone(), listed[0]["secret"].clone()), (made["id"].clone(), Value::Null));
    let target = format!("/api/webhooks/{}", made["id"]);
    let patched = answer_of(server.request(Method::PATCH, &target).json(&json!({"enabled": true}))).await.json();
    assert_eq!(patched.get("secret"), None);

    let again = server.post(&format!("{target}/replay"), &json!({"after": cursor})).await;
    assert_eq!(again.status, 204);
    receiver.wait(24).await;
    assert_eq!(receiver.bodies()[12..], expected);
    assert_eq!(receiver.header(12, "webhook-id"), id);
    server.post(&format!("{target}/replay"), &json!({"after": "00-1"})).await.problem(410, "cursor_expired");
    server.post(&format!("{target}/replay"), &json!({"after": "x"})).await.invalid(&["after"]);
    assert_eq!(answer_of(server.request(Method::DELETE, &target)).await.status, 204);
    server.get(&format!("{target}/deliveries")).await.problem(404, "webhook_not_found");
});

both!(a_failed_delivery_is_repeated_and_delays_only_its_own_conversation, async |place| {
    let server = server(place).await;
    let receiver = Receiver::start(&[500], 204).await;
    let made = create_webhook(&server, &receiver).await;
    server.send("duck", "bugs", "first").await;
    receiver.wait(1).await;
    server.send("duck", "bugs", "second").await;
    server.send("duck", "porky", "elsewhere").await;
    receiver.wait(4).await;
    assert_eq!(receiver.bodies(), ["first", "elsewhere", "first", "second"]);
    assert_eq!(receiver.header(0, "webhook-id"), receiver.header(2, "webhook-id"));
    let target = format!("/api/webhooks/{}/deliveries", made["id"]);
    let started = Instant::now();
    let wanted = [("delivered", 1), ("delivered", 1), ("delivered", 2)].map(|(state, count)| json!([state, count]));
    loop {
        let ledger = server.get(&target).await.json();
        let found: Vec<Value> =
            ledger.as_array().unwrap().iter().map(|entry| json!([entry["state"], entry["attempts"]])).collect();
        if found == wanted {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{ledger}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
});

both!(a_receiver_that_does_not_answer_delays_no_other, async |place| {
    let server = server(place).await;
    let (hanging, other) = (Receiver::start(&[], 0).await, Receiver::start(&[], 204).await);
    create_webhook(&server, &hanging).await;
    create_webhook(&server, &other).await;
    server.send("duck", "bugs", "first").await;
    hanging.wait(1).await;
    let started = Instant::now();
    server.send("duck", "bugs", "second").await;
    other.wait(2).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(hanging.bodies(), ["first"]);
});

both!(nothing_is_delivered_to_private_addresses, async |place| {
    let receiver = Receiver::start(&[], 204).await;
    let server = server(place).await;
    create_webhook(&server, &receiver).await;
    server.stop().await;
    // The setting that allowed the address is now off.
    let server = Server::start(place).await;
    server.send("duck", "bugs", "hey").await;
    let hosts = [
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[fc00::1]",
        "[fe80::1]",
        "[ff02::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "localhost",
        "a.localhost",
    ];
    for host in hosts {
        let refused = server.post("/api/webhooks", &json!({"url": format!("https://{host}/")})).await;
        refused.invalid(&["url"]);
    }
    for url in ["http://example.com/", "ftp://example.com/", "https://a:b@example.com/", "", "/hook"] {
        server.post("/api/webhooks", &json!({"url": url})).await.invalid(&["url"]);
    }
    let wrong = json!({"url": "https://example.com/", "event_types": ["message.sent"]});
    server.post("/api/webhooks", &wrong).await.invalid(&["event_types"]);
    let id = server.get("/api/webhooks").await.json()[0]["id"].clone();
    let started = Instant::now();
    loop {
        let ledger = server.get(&format!("/api/webhooks/{id}/deliveries")).await.json();
        if ledger[0]["attempts"] == 1 {
            assert_eq!((&ledger[0]["state"], &ledger[0]["last_status"]), (&json!("pending"), &Value::Null));
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{ledger}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(receiver.events().is_empty());
});

/// The results of verifying deliveries with the published library of Standard Webhooks.
async fn verify_with_library(deliveries: Vec<Value>) -> Vec<String> {
    tokio::task::spawn_blocking(move || {
        const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/standardwebhooks");
        // Held during the installation, so that two tests do not install the library at the same time.
        static INSTALLING: Mutex<()> = Mutex::new(());
        let one_at_a_time = INSTALLING.lock().unwrap();
        assert!(Command::new(PROGRAM).status().unwrap().success(), "the library cannot be installed");
        drop(one_at_a_time);
        let mut command = Command::new(PROGRAM);
        let mut child = command.arg("verify").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(Value::from(deliveries).to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    })
    .await
    .unwrap()
}

both!(the_library_that_receivers_use_verifies_deliveries, async |place| {
    let server = server(place).await;
    let receiver = Receiver::start(&[], 204).await;
    let secret = create_webhook(&server, &receiver).await["secret"].clone();
    server.send("duck", "bugs", "Olé, naïve „Ente“ 🦆 \u{202e}\n").await;
    receiver.wait(1).await;
    let (headers, body) = receiver.got.lock().unwrap()[0].clone();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let named = |name: &str| headers[name].to_str().unwrap().to_owned();
    let (id, at, signature) = (named("webhook-id"), named("webhook-timestamp"), named("webhook-signature"));
    let delivery = |at: &str, signature: &str, body: &str| {
        let headers = json!({"webhook-id": id, "webhook-timestamp": at, "webhook-signature": signature});
        json!({"secret": secret, "headers": headers, "body": body})
    };
    // One bit of one byte is changed.
    let changed = body.replacen("naïve", "naïvd", 1);
    assert_eq!(changed.len(), body.len());
    // The signature is valid, but six minutes old.
    let key = STANDARD.decode(secret.as_str().unwrap().strip_prefix("whsec_").unwrap()).unwrap();
    let then = (at.parse::<i64>().unwrap() - 360).to_string();
    let signed = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), format!("{id}.{then}.{body}").as_bytes());
    let signature_then = format!("v1,{}", STANDARD.encode(signed));
    let mut other_id = delivery(&at, &signature, &body);
    other_id["headers"]["webhook-id"] = json!(format!("{id}0"));
    let mut other_secret = delivery(&at, &signature, &body);
    other_secret["secret"] = create_webhook(&server, &receiver).await["secret"].clone();
    let deliveries = vec![
        delivery(&at, &signature, &body),
        delivery(&at, &signature, &changed),
        delivery(&then, &signature_then, &body),
        delivery(&then, &signature, &body),
        other_id,
        other_secret,
    ];
    let (none, old) = ("No matching signature found", "Message timestamp too old");
    assert_eq!(verify_with_library(deliveries).await, ["verified", none, old, old, none, none]);
});

/// Asserts that each body arrived once, and that those of each conversation arrived in order.
#[track_caller]
fn assert_once_in_order(arrived: &[String], expected: &[Vec<String>]) {
    let sorted = |bodies: Vec<String>| {
        let mut bodies = bodies;
        bodies.sort();
        bodies
    };
    assert_eq!(sorted(arrived.to_vec()), sorted(expected.concat()));
    for of_one in expected {
        let came: Vec<&String> = arrived.iter().filter(|body| of_one.contains(body)).collect();
        assert_eq!(came, of_one.iter().collect::<Vec<_>>());
    }
}

both!(of_two_servers_one_delivers_and_the_other_takes_over_after_its_death, async |place| {
    let arguments = vec!["--webhook-allow-private".into(), "true".into()];
    let dying = Process::start_wrapped(place, Wrapping { arguments, ..Wrapping::default() }).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let at_dying = |target: &str, body: Value| {
        client.request(Method::POST, format!("http://{}{target}", dying.address)).json(&body)
    };
    let receiver = Receiver::start(&[], 204).await;
    let new = json!({"url": receiver.url, "event_types": ["message.created"]});
    assert_eq!(answer_of(at_dying("/api/webhooks", new)).await.status, 201);
    let message = |to: &str, body: &str| json!({"sender_user_name": "duck", "recipient_user_name": to, "body": body});
    assert_eq!(answer_of(at_dying("/api/messages", message("bugs", "first"))).await.status, 201);
    // After the first delivery the first server holds the lease.
    receiver.wait(1).await;

    let now = Arc::new(AtomicI64::new(Clock::System.now().micros()));
    let clock = Clock::Manual(Arc::clone(&now));
    let other = Server::start_with(place, Options { webhook_allow_private: true, clock, ..Options::default() }).await;
    let mut expected = [vec!["first".to_owned()], Vec::new()];
    for index in 0..10 {
        for (to, bodies) in ["bugs", "porky"].iter().zip(&mut expected) {
            let body = format!("{index} to {to}");
            if index % 2 == 0 {
                assert_eq!(answer_of(at_dying("/api/messages", message(to, &body))).await.status, 201);
            } else {
                other.send("duck", to, &body).await;
            }
            bodies.push(body);
        }
    }
    receiver.wait(21).await;
    // A duplicate would arrive by now.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_once_in_order(&receiver.bodies(), &expected);
    let pending = "SELECT count(*) FROM messaging.webhook_deliveries WHERE state = 'pending'";
    assert_eq!(place.numbers(pending).await, [[0]]);

    dying.kill();
    for index in 0..5 {
        for (to, bodies) in ["bugs", "porky"].iter().zip(&mut expected) {
            let body = format!("{index} to {to} after the crash");
            other.send("duck", to, &body).await;
            bodies.push(body);
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(receiver.bodies().len(), 21, "the other server did not wait for the end of the lease");
    now.fetch_add(61_000_000, Ordering::Relaxed);
    receiver.wait(31).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_once_in_order(&receiver.bodies(), &expected);
});

/// A listener that only counts connections.
async fn count_connections() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (port, count)
}

async fn wait_for_attempts(server: &Server, webhooks: usize, status: &Value) {
    let started = Instant::now();
    for id in 1..=webhooks {
        let ledger = loop {
            let ledger = server.get(&format!("/api/webhooks/{id}/deliveries")).await.json();
            if ledger[0]["attempts"].as_i64().is_some_and(|attempts| attempts > 0) {
                break ledger;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "{id}: {ledger}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!((&ledger[0]["state"], &ledger[0]["last_status"]), (&json!("pending"), status), "{id}");
    }
}

both!(names_and_links_to_private_addresses_are_never_connected_to, async |place| {
    let (port, connected) = count_connections().await;
    let hosts = [
        "localhost",
        "localhost.",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
    ];
    let server = server(place).await;
    for host in hosts {
        for scheme in ["http", "https"] {
            let new = json!({"url": format!("{scheme}://{host}:{port}/"), "event_types": ["message.created"]});
            assert_eq!(server.post("/api/webhooks", &new).await.status, 201, "{host}");
        }
    }
    server.stop().await;
    // The setting that allowed the addresses is now off.
    let server = Server::start(place).await;
    server.send("duck", "bugs", "hey").await;
    wait_for_attempts(&server, 2 * hosts.len(), &Value::Null).await;
    assert_eq!(connected.load(Ordering::Relaxed), 0);
    server.stop().await;
    // With the setting the server does connect, so only the setting prevented it before.
    let server = self::server(place).await;
    let started = Instant::now();
    while connected.load(Ordering::Relaxed) == 0 {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.stop().await;
});

both!(a_redirect_is_not_followed, async |place| {
    let (port, connected) = count_connections().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let to = format!("http://127.0.0.1:{port}/");
    let redirect = move || async move { axum::response::Redirect::temporary(&to) };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(redirect)).await.unwrap() });
    let server = server(place).await;
    server.post("/api/webhooks", &json!({"url": url, "event_types": ["message.created"]})).await;
    server.send("duck", "bugs", "hey").await;
    wait_for_attempts(&server, 1, &json!(307)).await;
    assert_eq!(connected.load(Ordering::Relaxed), 0);
});
