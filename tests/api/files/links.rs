//! Links: URLs of files that need no header.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use posthaste::base::time::{Clock, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::accounts::secured;
use crate::support::files::{noise, png, upload, uploaded};
use crate::support::people::{delete, group, post};
use crate::support::process::{Process, Wrapping};
use crate::support::{Answer, Options, Server, answer_of};

async fn link(server: &Server, person: &str, id: i64, body: Value) -> Value {
    let answer = post(server, person, &format!("/api/attachments/{id}/links"), body).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json()
}

fn url(link: &Value) -> &str {
    link["url"].as_str().unwrap()
}

/// Asserts that a link answers like a link that was never made.
async fn assert_ended(server: &Server, url: &str) {
    let invented = "/api/files/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let ask = async |target: &str| {
        answer_of(server.request(Method::GET, target).header("x-request-id", "the-same-for-all")).await
    };
    let (ended, invented) = (ask(url).await, ask(invented).await);
    ended.problem(404, "link_not_found");
    let shown = |answer: &Answer| {
        let mut headers: Vec<String> = answer
            .headers
            .iter()
            .filter(|(name, _)| *name != "date")
            .map(|(name, value)| format!("{name}: {value:?}"))
            .collect();
        headers.sort();
        (headers, answer.bytes.clone())
    };
    assert_eq!(shown(&ended), shown(&invented));
}

both!(a_link_gives_a_file_without_credentials, async |place| {
    let server = Server::secured_with(place, secured(), &["keeper", "other"]).await;
    let token = server.token_of("keeper").await;
    let bytes = png(800, 400);
    let request = server.request_as(&token, Method::POST, "/api/attachments").body(bytes.clone());
    let attachment = answer_of(request).await.json();
    let target = format!("/api/attachments/{}/links", attachment["id"]);
    let before = Clock::System.now();
    let made = server.post_as(&token, &target, &json!({"expires_in_s": 60})).await;
    assert_eq!(made.status, 200, "{}", String::from_utf8_lossy(&made.bytes));
    let made = made.json();
    let expires_at = Timestamp::parse(made["expires_at"].as_str().unwrap()).unwrap();
    let lifetime_s = (expires_at.micros() - before.micros()) / 1_000_000;
    assert!((58..=75).contains(&lifetime_s), "{lifetime_s}");
    let direct = server.get_as(&token, attachment["url"].as_str().unwrap()).await;
    let linked = server.get(url(&made)).await;
    assert_eq!(linked.status, 200, "{}", String::from_utf8_lossy(&linked.bytes));
    assert_eq!(linked.bytes, direct.bytes);
    for name in [
        "content-type",
        "content-length",
        "content-disposition",
        "etag",
        "accept-ranges",
        "content-security-policy",
        "x-content-type-options",
    ] {
        assert_eq!(linked.header(name), direct.header(name), "{name}");
    }
    let cached = linked.header("cache-control").unwrap().strip_prefix("private, max-age=").unwrap();
    assert!((0..=60).contains(&cached.parse::<i64>().unwrap()), "{cached}");
    assert_eq!(linked.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(linked.header("cross-origin-resource-policy"), Some("cross-origin"));
    assert_eq!(direct.header("cross-origin-resource-policy"), None);
    let thumbnail = server.get(made["thumbnail_url"].as_str().unwrap()).await;
    assert_eq!(thumbnail.bytes, server.get_as(&token, attachment["thumbnail_url"].as_str().unwrap()).await.bytes);
    // HEAD, ranges and entity tags work as for the attachment.
    let ask = async |method: Method, name: &'static str, value: &str| {
        answer_of(server.request(method, url(&made)).header(name, value)).await
    };
    let part = ask(Method::GET, "range", "bytes=10-19").await;
    assert_eq!((part.status.as_u16(), &part.bytes[..]), (206, &direct.bytes[10..20]));
    ask(Method::GET, "range", "bytes=99999999-").await.problem(416, "range_not_satisfiable");
    assert_eq!(ask(Method::GET, "if-none-match", direct.header("etag").unwrap()).await.status, 304);
    let head = ask(Method::HEAD, "accept", "*/*").await;
    assert_eq!((head.status.as_u16(), head.bytes.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(direct.bytes.len().to_string().as_str()));
    // Credentials of others, valid or not, change nothing.
    let other = server.token_of("other").await;
    assert_eq!(server.get_as(&other, url(&made)).await.status, 200);
    assert_eq!(server.get_as("phs_none", url(&made)).await.status, 200);
    server.post_as(&other, &target, &json!({})).await.problem(404, "attachment_not_found");
});

both!(a_link_is_made_by_a_user_and_for_a_limited_time, async |place| {
    let server = Server::start(place).await;
    let id = uploaded(&server, "bugs", "a.bin", &noise(100)).await;
    let target = format!("/api/attachments/{id}/links");
    server.post(&target, &json!({})).await.problem(403, "act_as_required");
    for seconds in [json!(9), json!(3_601), json!(-1), json!(i64::MAX), json!("60"), json!(null)] {
        post(&server, "bugs", &target, json!({"expires_in_s": seconds})).await.invalid(&["expires_in_s"]);
    }
    post(&server, "bugs", &target, json!({"expires_in": 60})).await.invalid(&["expires_in"]);
    for seconds in [10, 3_600] {
        link(&server, "bugs", id, json!({"expires_in_s": seconds})).await;
    }
    let made = link(&server, "bugs", id, json!({})).await;
    assert_eq!(made["thumbnail_url"], Value::Null);
    assert_eq!(server.get(url(&made)).await.bytes, noise(100));
    // Two links of one file differ, so nobody can compare what they are links to.
    assert_ne!(link(&server, "bugs", id, json!({})).await["url"], made["url"]);
    for wrong in ["x", "AAAA", "%00", "..", "phs_none"] {
        let answer = server.get(&format!("/api/files/{wrong}")).await;
        assert_eq!(answer.status, 404, "{wrong}");
    }
    // A change of any character makes the token worthless.
    let token = url(&made).rsplit('/').next().unwrap();
    for at in 0..token.len() {
        let other = if &token[at..=at] == "A" { "B" } else { "A" };
        let changed = format!("/api/files/{}{other}{}", &token[..at], &token[at + 1..]);
        server.get(&changed).await.problem(404, "link_not_found");
    }
    server.get(&format!("{}?a=b", url(&made))).await.invalid(&["a"]);
});

both!(a_link_expires, async |place| {
    let hand = Arc::new(AtomicI64::new(Timestamp::parse("2026-11-22T08:30:00Z").unwrap().micros()));
    let server =
        Server::start_with(place, Options { clock: Clock::Manual(Arc::clone(&hand)), ..Options::default() }).await;
    let id = uploaded(&server, "bugs", "a.png", &png(30, 30)).await;
    let made = link(&server, "bugs", id, json!({})).await;
    assert_eq!(made["expires_at"], "2026-11-22T08:35:00.000000Z");
    hand.fetch_add(299 * 1_000_000, Ordering::Relaxed);
    let shown = server.get(url(&made)).await;
    assert_eq!((shown.status.as_u16(), shown.header("cache-control")), (200, Some("private, max-age=1")));
    hand.fetch_add(1_000_000, Ordering::Relaxed);
    assert_ended(&server, url(&made)).await;
    assert_ended(&server, made["thumbnail_url"].as_str().unwrap()).await;
});

both!(a_link_ends_with_the_permission_of_its_user, async |place| {
    let server = Server::start(place).await;
    let ours = group(&server, "bugs", &["duck", "porky"], "all").await;
    let id = uploaded(&server, "bugs", "a.bin", &noise(3_000_000)).await;
    let body = json!({"conversation_id": ours, "body": "x", "attachment_ids": [id]});
    let sent = post(&server, "bugs", "/api/messages", body).await;
    assert_eq!(sent.status, 201);
    let of = async |person: &str| url(&link(&server, person, id, json!({})).await).to_owned();
    let (bugs, duck, porky) = (of("bugs").await, of("duck").await, of("porky").await);
    for url in [&bugs, &duck, &porky] {
        assert_eq!(server.get(url).await.bytes.len(), 3_000_000);
    }
    // A member leaves the group.
    assert_eq!(delete(&server, "duck", &format!("/api/conversations/{ours}/members/me")).await.status, 204);
    assert_ended(&server, &duck).await;
    // A ban ends the links of a user, and its end brings them back until they expire.
    let ban = async |method: Method| answer_of(server.request(method, "/api/admin/users/porky/ban")).await.status;
    assert_eq!(ban(Method::PUT).await, 204);
    assert_ended(&server, &porky).await;
    assert_eq!(ban(Method::DELETE).await, 204);
    assert_eq!(server.get(&porky).await.status, 200);
    // The message is deleted.
    let message = format!("/api/conversations/{ours}/messages/{}", sent.json()["seq"]);
    assert_eq!(delete(&server, "bugs", &message).await.status, 204);
    assert_ended(&server, &porky).await;
    // The user is erased.
    let other = uploaded(&server, "porky", "b.bin", &noise(50)).await;
    let url = url(&link(&server, "porky", other, json!({})).await).to_owned();
    assert_eq!(server.get(&url).await.status, 200);
    let erased = server.request(Method::DELETE, "/api/users/porky").send().await.unwrap();
    assert_eq!(erased.status(), 204);
    assert_ended(&server, &url).await;
});

both!(a_download_ends_with_the_permission, async |place| {
    let server = Server::start(place).await;
    // Larger than what the sockets and the server hold of it.
    let bytes = noise(40_000_000);
    let id = upload(&server, "bugs", "a.bin", &bytes).await.json()["id"].as_i64().unwrap();
    let made = link(&server, "bugs", id, json!({})).await;
    let mut download = server.request(Method::GET, url(&made)).send().await.unwrap();
    assert_eq!(download.status(), 200);
    assert!(download.chunk().await.unwrap().is_some());
    let banned = answer_of(server.request(Method::PUT, "/api/admin/users/bugs/ban")).await;
    assert_eq!(banned.status, 204);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let mut received = 0;
    let end = loop {
        match download.chunk().await {
            Ok(Some(piece)) => received += piece.len(),
            end => break end,
        }
    };
    assert!(end.is_err(), "the download went on to its end");
    assert!(received < bytes.len());
});

both!(a_link_stays_out_of_the_log, async |place| {
    let arguments = ["--log", "trace"].map(str::to_owned).to_vec();
    let process = Process::start_wrapped(place, Wrapping { arguments, ..Wrapping::default() }).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let base = format!("http://{}", process.address);
    let request = client.post(format!("{base}/api/attachments")).header("x-act-as", "bugs").body(png(30, 30));
    let id = answer_of(request).await.json()["id"].clone();
    let request = client.post(format!("{base}/api/attachments/{id}/links")).header("x-act-as", "bugs");
    let made = answer_of(request).await.json();
    let token = url(&made).rsplit('/').next().unwrap().to_owned();
    for (target, status) in [
        (url(&made).to_owned(), 200),
        (format!("{}?{token}", url(&made)), 422),
        (format!("/api/files/{}x", token), 404),
        (format!("/api/files/{token}/x"), 404),
    ] {
        let answer = answer_of(client.get(format!("{base}{target}"))).await;
        assert_eq!(answer.status, status, "{target}");
        if target == url(&made) {
            assert!(!format!("{:?}", answer.headers).contains(&token));
        }
    }
    let metrics = String::from_utf8(answer_of(client.get(format!("{base}/metrics"))).await.bytes).unwrap();
    assert!(metrics.contains("/api/files/{token}"), "{metrics}");
    let log = process.log();
    assert!(log.contains("/api/files/{token}"), "{log}");
    for text in [&log, &metrics] {
        assert!(!text.contains(&token), "{text}");
    }
    process.terminate().await;
});
