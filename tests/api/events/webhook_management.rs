//! Outgoing webhooks: testing one, replacing its secret, what happens after 410, and metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use posthaste::base::time::Clock;
use posthaste::domain::operations::housekeeping;
use reqwest::Method;
use serde_json::{Value, json};

use super::webhooks::{Receiver, create_webhook, server};
use crate::both;
use crate::support::callers::now_micros;
use crate::support::{Options, Server, answer_of};

fn path(webhook: &Value) -> String {
    format!("/api/webhooks/{}", webhook["id"])
}

async fn patch(server: &Server, webhook: &Value, changes: Value) -> Value {
    let answer = answer_of(server.request(Method::PATCH, &path(webhook)).json(&changes)).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json()
}

/// Waits until the webhook is as wanted, and returns it.
async fn wait_for(server: &Server, webhook: &Value, wanted: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let found = server.get(&path(webhook)).await.json();
        if wanted(&found) {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{found}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The signatures that a receiver expects, by each of these secrets.
fn expected_signatures(receiver: &Receiver, index: usize, secrets: &[&Value]) -> String {
    let sign = |secret: &&Value| {
        let key = STANDARD.decode(secret.as_str().unwrap().strip_prefix("whsec_").unwrap()).unwrap();
        let (id, at) = (receiver.header(index, "webhook-id"), receiver.header(index, "webhook-timestamp"));
        let signed = [format!("{id}.{at}.").as_bytes(), &receiver.body(index)].concat();
        format!("v1,{}", STANDARD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed)))
    };
    secrets.iter().map(sign).collect::<Vec<_>>().join(" ")
}

both!(a_receiver_that_is_gone_gets_nothing_more, async |place| {
    let server = server(place).await;
    let receiver = Receiver::start(&[410], 204).await;
    let made = create_webhook(&server, &receiver).await;
    assert_eq!(
        (&made["enabled"], &made["disabled_at"], &made["disabled_reason"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    server.send("duck", "bugs", "first").await;
    let gone = wait_for(&server, &made, |found| found["enabled"] == false).await;
    assert_eq!(gone["disabled_reason"], "gone");
    assert!(gone["disabled_at"].is_string(), "{gone}");
    assert_eq!(gone.get("secret"), None);
    assert_eq!(server.get("/api/webhooks").await.json()[0]["disabled_reason"], "gone");
    let audit = server.get("/api/admin/audit").await.json();
    assert_eq!((&audit[0]["action"], &audit[0]["actor_id"]), (&json!("webhook.disabled"), &Value::Null), "{audit}");
    server.send("duck", "bugs", "second").await;
    server.send("duck", "porky", "elsewhere").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(receiver.bodies(), ["first"]);
    // Enabled again, it continues with the event that was refused.
    let enabled = patch(&server, &made, json!({"enabled": true})).await;
    assert_eq!(
        (&enabled["enabled"], &enabled["disabled_at"], &enabled["disabled_reason"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    receiver.wait(4).await;
    let mut bodies = receiver.bodies();
    bodies.sort();
    assert_eq!(bodies, ["elsewhere", "first", "first", "second"]);
    // An administrator is another reason.
    let disabled = patch(&server, &made, json!({"enabled": false})).await;
    assert_eq!(disabled["disabled_reason"], "administrator");
    let since = disabled["disabled_at"].clone();
    assert!(since.is_string());
    assert_eq!(patch(&server, &made, json!({"enabled": false})).await["disabled_at"], since);
});

both!(an_upgrade_keeps_webhooks, async |place| {
    let server = server(place).await;
    let receiver = Receiver::start(&[], 204).await;
    let (first, second) = (create_webhook(&server, &receiver).await, create_webhook(&server, &receiver).await);
    patch(&server, &second, json!({"enabled": false})).await;
    server.stop().await;
    place.back_to(26).await;
    let server = crate::events::webhooks::server(place).await;
    server.send("duck", "bugs", "hey").await;
    receiver.wait(1).await;
    assert_eq!(receiver.header(0, "webhook-signature"), expected_signatures(&receiver, 0, &[&first["secret"]]));
    let found = server.get(&path(&second)).await.json();
    assert_eq!((&found["disabled_reason"], &found["disabled_at"]), (&json!("administrator"), &Value::Null));
});

both!(both_secrets_sign_for_a_day_after_a_rotation, async |place| {
    let hand = Arc::new(AtomicI64::new(now_micros()));
    let clock = Clock::Manual(Arc::clone(&hand));
    let options = Options { webhook_allow_private: true, clock, ..Options::default() };
    let server = Server::start_with(place, options).await;
    let receiver = Receiver::start(&[], 204).await;
    let made = create_webhook(&server, &receiver).await;
    let target = format!("{}/rotate-secret", path(&made));
    let rotate = async || answer_of(server.request(Method::POST, &target).header("idempotency-key", "one")).await;
    let rotated = rotate().await;
    assert_eq!(rotated.status, 200, "{}", String::from_utf8_lossy(&rotated.bytes));
    // A repeated request gets the same secret.
    assert_eq!(rotate().await.bytes, rotated.bytes);
    let rotated = rotated.json();
    assert_ne!(rotated["secret"], made["secret"]);
    assert!(rotated["previous_secret_expires_at"].is_string());
    let shown = server.get(&path(&made)).await.json();
    assert_eq!(
        (shown.get("secret"), &shown["previous_secret_expires_at"]),
        (None, &rotated["previous_secret_expires_at"])
    );
    server.send("duck", "bugs", "first").await;
    receiver.wait(1).await;
    let both = expected_signatures(&receiver, 0, &[&rotated["secret"], &made["secret"]]);
    assert_eq!(receiver.header(0, "webhook-signature"), both);
    // A second rotation ends the oldest secret.
    let again = server.post(&target, &json!({})).await.json();
    server.send("duck", "bugs", "second").await;
    receiver.wait(2).await;
    let both = expected_signatures(&receiver, 1, &[&again["secret"], &rotated["secret"]]);
    assert_eq!(receiver.header(1, "webhook-signature"), both);
    hand.fetch_add(24 * 3_600 * 1_000_000, Ordering::Relaxed);
    server.send("duck", "bugs", "third").await;
    receiver.wait(3).await;
    let one = expected_signatures(&receiver, 2, &[&again["secret"]]);
    assert_eq!(receiver.header(2, "webhook-signature"), one);
    assert_eq!(server.get(&path(&made)).await.json()["previous_secret_expires_at"], Value::Null);
    while housekeeping::batch(&server.app).await.unwrap() {}
    let kept = "SELECT count(*) FROM messaging.webhooks WHERE previous_secret IS NOT NULL";
    assert_eq!(place.numbers(kept).await, [[0]]);
    server.post("/api/webhooks/999/rotate-secret", &json!({})).await.problem(404, "webhook_not_found");
    let audit = server.get("/api/admin/audit").await.json();
    let words: Vec<&Value> = audit.as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
    assert_eq!(words[..2], [&json!("webhook.secret_rotated"); 2]);
});

both!(a_test_says_what_the_receiver_answered, async |place| {
    let options = Options { webhook_allow_private: true, rate_limits: true, ..Options::default() };
    let server = Server::start_with(place, options).await;
    let receiver = Receiver::start(&[204, 500, 410, 302], 204).await;
    let made = create_webhook(&server, &receiver).await;
    patch(&server, &made, json!({"enabled": false})).await;
    let test = async |webhook: &Value| server.post(&format!("{}/test", path(webhook)), &json!({})).await;
    let good = test(&made).await.json();
    assert_eq!((&good["delivered"], &good["status"], &good["error"]), (&json!(true), &json!(204), &Value::Null));
    assert!(good["duration_ms"].is_u64(), "{good}");
    let event = receiver.events()[0].clone();
    assert_eq!(
        (&event["type"], &event["cursor"], &event["data"]["webhook_id"]),
        (&json!("webhook.test"), &Value::Null, &made["id"])
    );
    assert!(event["at"].is_string() && receiver.header(0, "webhook-id").starts_with("test_"));
    assert_eq!(receiver.header(0, "webhook-signature"), expected_signatures(&receiver, 0, &[&made["secret"]]));
    for (status, words) in [(500, "answered 500"), (410, "is disabled"), (302, "redirects are not followed")] {
        let bad = test(&made).await.json();
        assert_eq!((&bad["delivered"], &bad["status"]), (&json!(false), &json!(status)));
        assert!(bad["error"].as_str().unwrap().contains(words), "{bad}");
    }
    // A test changes nothing, even after 410, and is not in the list of deliveries.
    assert_eq!(server.get(&path(&made)).await.json()["disabled_reason"], "administrator");
    assert_eq!(server.get(&format!("{}/deliveries", path(&made))).await.json(), json!([]));
    assert_eq!(test(&made).await.status, 200);
    test(&made).await.problem(429, "rate_limited");
    server.post("/api/webhooks/999/test", &json!({})).await.problem(404, "webhook_not_found");
    let new = json!({"url": "http://127.0.0.1:9/hook?secret=abc", "enabled": false});
    let deaf = server.post("/api/webhooks", &new).await.json();
    let bad = test(&deaf).await.json();
    assert_eq!((&bad["delivered"], &bad["status"]), (&json!(false), &Value::Null));
    let error = bad["error"].as_str().unwrap();
    assert!(error.starts_with("The receiver could not be reached") && !error.contains("abc"), "{error}");
    server.stop().await;
    // The setting that allowed the address is now off.
    let server = Server::start(place).await;
    let refused = server.post(&format!("{}/test", path(&made)), &json!({})).await.json();
    assert_eq!((&refused["delivered"], &refused["error"]), (&json!(false), &json!("The URL must begin with https://")));
});

both!(a_refused_url_says_what_is_wrong_with_it, async |place| {
    let strict = Server::start(place).await;
    let option = "--webhook-allow-private";
    for (url, words, names_option) in [
        ("http://example.com/", "must begin with https://", true),
        ("HTTP://example.com/", "must begin with https://", true),
        ("http://127.0.0.1/", "must begin with https://", true),
        ("https://10.0.0.1/", "must not be a private address", true),
        ("https://localhost/", "must have a public host", true),
        ("ftp://example.com/", "begins with ftp:", false),
        ("file:///etc/passwd", "begins with file:", false),
        ("JavaScript:alert(1)", "begins with javascript:", false),
        ("example.com:443/hook", "begins with example.com:", false),
        ("https://a:b@example.com/", "must not contain a user name", false),
        ("/hook", "must be a URL", false),
    ] {
        let refused = strict.post("/api/webhooks", &json!({"url": url})).await.invalid(&["url"]);
        let detail = refused["errors"][0]["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(words) && detail.contains(option) == names_option, "{url}: {detail}");
    }
    strict.stop().await;
    let open = server(place).await;
    let refused = open.post("/api/webhooks", &json!({"url": "ws://example.com/"})).await.invalid(&["url"]);
    let detail = refused["errors"][0]["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("begins with ws:") && !detail.contains(option), "{detail}");
});

async fn metric(server: &Server, name: &str) -> f64 {
    let text = String::from_utf8(server.get("/metrics").await.bytes).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")).map(str::to_owned));
    line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
}

both!(metrics_show_deliveries_that_wait, async |place| {
    let server = server(place).await;
    let receiver = Receiver::start(&[], 500).await;
    let made = create_webhook(&server, &receiver).await;
    server.send("duck", "bugs", "first").await;
    server.send("duck", "bugs", "second").await;
    receiver.wait(1).await;
    let started = Instant::now();
    while metric(&server, "posthaste_webhook_deliveries_pending").await != 2.0 {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(metric(&server, "posthaste_webhook_oldest_pending_age_seconds").await > 0.0);
    assert!(metric(&server, "posthaste_webhook_attempts_total{outcome=\"failed\"}").await >= 1.0);
    assert_eq!(metric(&server, "posthaste_webhook_deliveries_dead").await, 0.0);
    place.sql("UPDATE messaging.webhook_deliveries SET state = 'dead'").await;
    patch(&server, &made, json!({"enabled": false})).await;
    while metric(&server, "posthaste_webhook_deliveries_dead").await != 2.0 {
        assert!(started.elapsed() < Duration::from_secs(40));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(metric(&server, "posthaste_webhook_deliveries_pending").await, 0.0);
    assert_eq!(metric(&server, "posthaste_webhook_oldest_pending_age_seconds").await, 0.0);
});
