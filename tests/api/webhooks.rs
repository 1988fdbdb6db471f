//! Webhooks: what receivers of the operator's get.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::both;
use crate::support::server::Options;
use crate::support::{Place, Server, answer_of};

/// A receiver. Its first answers are as told, the others are 204; a `0` never comes.
struct Receiver {
    url: String,
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

impl Receiver {
    async fn start(answers: &'static [u16], then: u16) -> Self {
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

    fn events(&self) -> Vec<Value> {
        self.got.lock().unwrap().iter().map(|(_, body)| serde_json::from_slice(body).unwrap()).collect()
    }

    fn bodies(&self) -> Vec<String> {
        self.events().iter().filter_map(|event| Some(event["data"]["body"].as_str()?.to_owned())).collect()
    }

    fn header(&self, index: usize, name: &str) -> String {
        self.got.lock().unwrap()[index].0[name].to_str().unwrap().to_owned()
    }

    async fn wait(&self, count: usize) {
        let started = Instant::now();
        while self.got.lock().unwrap().len() < count {
            assert!(started.elapsed() < Duration::from_secs(20), "{:?}", self.events());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn server(place: &Place) -> Server {
    Server::start_with(place, Options { webhook_allow_private: true, ..Options::default() }).await
}

async fn hook(server: &Server, receiver: &Receiver) -> Value {
    let made = server.post("/api/webhooks", &json!({"url": receiver.url, "event_types": ["message.created"]})).await;
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.bytes));
    made.json()
}

both!(a_delivery_is_signed_and_in_order_and_can_be_replayed, async |place| {
    let server = server(place).await;
    let cursor = server.get("/api/events").await.json()["cursor"].clone();
    let receiver = Receiver::start(&[], 204).await;
    let made = hook(&server, &receiver).await;
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
    // Nobody is shown the secret again.
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

both!(a_failure_is_tried_again_and_holds_up_its_own_conversation_alone, async |place| {
    let server = server(place).await;
    let receiver = Receiver::start(&[500], 204).await;
    let made = hook(&server, &receiver).await;
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

both!(a_receiver_that_hangs_delays_no_other, async |place| {
    let server = server(place).await;
    let (hanging, other) = (Receiver::start(&[], 0).await, Receiver::start(&[], 204).await);
    hook(&server, &hanging).await;
    hook(&server, &other).await;
    server.send("duck", "bugs", "first").await;
    hanging.wait(1).await;
    let started = Instant::now();
    server.send("duck", "bugs", "second").await;
    other.wait(2).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(hanging.bodies(), ["first"]);
});

both!(private_addresses_are_not_called, async |place| {
    let receiver = Receiver::start(&[], 204).await;
    let server = server(place).await;
    hook(&server, &receiver).await;
    server.stop().await;
    // What was allowed once is not any more.
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
