//! Rules for every path: problem documents, JSON, request ids, limits of HTTP, compression.

use std::io::Read;
use std::time::Duration;

use posthaste::http::state::Timeouts;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::both;
use crate::support::server::Answer;
use crate::support::{Options, Server, answer_of, raw};

async fn post_bytes(server: &Server, content_type: Option<&str>, body: impl Into<Vec<u8>>) -> Answer {
    let mut request = server.request(Method::POST, "/api/messages").body(body.into());
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    answer_of(request).await
}

/// The problem document in the raw text of an answer.
#[track_caller]
fn raw_problem(answer: &str, status: u16) -> Value {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.to_lowercase().contains("content-type: application/problem+json"), "{answer}");
    let document: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    assert_eq!(document["status"], status);
    document
}

both!(unknown_paths_and_methods_are_refused_with_a_problem_document, async |place| {
    let server = Server::start(place).await;
    for target in
        ["/api", "/api/", "/api/nothing", "/api/users/", "/api/users/a/b", "/nothing", "//api/users", "/docs/none.js"]
    {
        server.get(target).await.problem(404, "not_found");
    }
    for (method, target, allow) in [
        (Method::DELETE, "/api/users", "GET,HEAD,POST"),
        (Method::GET, "/api/messages", "POST"),
        (Method::PUT, "/api/messages/bugs", "GET,HEAD"),
        (Method::OPTIONS, "/api/users", "GET,HEAD,POST"),
        (Method::TRACE, "/api/users", "GET,HEAD,POST"),
        (Method::from_bytes(b"QUERY").unwrap(), "/api/users", "GET,HEAD,POST"),
        (Method::POST, "/healthz", "GET,HEAD"),
    ] {
        let answer = answer_of(server.request(method.clone(), target)).await;
        let problem = answer.problem(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {target}");
        let detail = format!("Method not allowed; allowed: {}", allow.replace(',', ", "));
        assert_eq!(problem["detail"], detail, "{method} {target}");
    }
    let head = answer_of(server.request(Method::HEAD, "/api/users")).await;
    assert_eq!(head.status, 200);
    assert!(head.bytes.is_empty());
    assert!(head.header("content-length").unwrap().parse::<u64>().unwrap() > 100);
});

both!(bodies_that_are_not_json_are_refused, async |place| {
    let server = Server::start(place).await;
    let json_type = Some("application/json");
    for body in [
        b"{".as_slice(),
        b"{\"body\": }",
        b"nonsense",
        b"{\"body\": \"\\ud800\"}",
        b"{\"body\": \"\\udc00x\"}",
        b"{\"body\": \"\xff\"}",
        b"{\"body\": 5, ",
        b"{\"body\": \"a\nb\"}",
        b"{} {}",
        b"\xef\xbb\xbf",
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
        b"   ",
    ] {
        post_bytes(&server, json_type, body).await.problem(400, "malformed_json");
    }
    let deep = "[".repeat(100_000);
    post_bytes(&server, json_type, deep).await.problem(400, "malformed_json");
    post_bytes(&server, json_type, "[]").await.invalid(&["body"]);
    post_bytes(&server, json_type, "null").await.invalid(&["body"]);
    post_bytes(&server, json_type, "\"text\"").await.invalid(&["body"]);
    post_bytes(&server, json_type, "{\"body\":\"a\",\"body\":\"b\"}").await.invalid(&["body"]);
    let named = post_bytes(&server, json_type, "{\"body\":\"a\",\"<script>\":1}").await.invalid(&["<script>"]);
    assert_eq!(named["errors"][0]["code"], "unknown_field");
    // An empty body means {} and needs no Content-Type.
    let missing = ["body", "sender_user_name", "recipient_user_name"];
    post_bytes(&server, None, "").await.invalid(&missing);
    post_bytes(&server, json_type, "").await.invalid(&missing);
});

both!(bodies_of_a_wrong_type_or_size_are_refused, async |place| {
    let server = Server::start(place).await;
    let hey = json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": "hey"}).to_string();
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/json; charset=latin1"),
        Some("application/jsonx"),
    ] {
        post_bytes(&server, content_type, hey.as_str()).await.problem(415, "unsupported_media_type");
    }
    for content_type in [
        "application/json",
        "APPLICATION/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=\"UTF-8\"",
        "application/json; charset=utf8",
        "application/json; charset=\"UTF8\"; q=1",
    ] {
        assert_eq!(post_bytes(&server, Some(content_type), hey.as_str()).await.status, 201, "{content_type}");
    }
    // Some programs write a byte order mark before JSON.
    let marked = format!("\u{feff}{hey}");
    assert_eq!(post_bytes(&server, Some("application/json"), marked).await.json()["body"], "hey");
    let encoded = server
        .request(Method::POST, "/api/messages")
        .header("content-type", "application/json")
        .header("content-encoding", "gzip")
        .body(hey.clone());
    answer_of(encoded).await.problem(415, "unsupported_media_type");
    let padded = |length: usize| format!("{}{}", hey, " ".repeat(length - hey.len()));
    assert_eq!(post_bytes(&server, Some("application/json"), padded(256 * 1024)).await.status, 201);
    for length in [256 * 1024 + 1, 3 * 1024 * 1024] {
        post_bytes(&server, Some("application/json"), padded(length)).await.problem(413, "body_too_large");
    }
    // A text of eight thousand characters is accepted in any JSON escaping.
    let escaped = "\\ud83d\\ude00".repeat(8_000);
    let body = hey.replace("\"hey\"", &format!("\"{escaped}\""));
    assert_eq!(post_bytes(&server, Some("application/json"), body).await.json()["body"], "😀".repeat(8_000));
});

both!(every_answer_has_a_request_id, async |place| {
    let server = Server::start(place).await;
    let first = server.get("/api/users").await;
    let second = server.get("/api/users").await;
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
    assert_eq!(first.header("x-request-id").unwrap().len(), 24);
    let with = async |id: &str| {
        answer_of(server.request(Method::GET, "/api/nothing").header("x-request-id", id.to_owned())).await
    };
    let echoed = with("my-id_1.2:3").await;
    assert_eq!(echoed.header("x-request-id"), Some("my-id_1.2:3"));
    assert_eq!(echoed.json()["request_id"], "my-id_1.2:3");
    for id in ["with space", &"x".repeat(129)] {
        assert_ne!(with(id).await.header("x-request-id"), Some(id));
    }
    assert_eq!(first.header("x-content-type-options"), Some("nosniff"));
});

both!(heads_that_are_too_large_or_malformed_are_refused, async |place| {
    let server = Server::start(place).await;
    let get = |more: &str| {
        format!("GET /api/users HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n").into_bytes()
    };
    let large = raw(server.address, &get(&format!("X-Large: {}\r\n", "x".repeat(40_000)))).await;
    assert_eq!(raw_problem(&large, 431)["code"], "headers_too_large");
    let huge = raw(server.address, &get(&format!("X-Large: {}\r\n", "x".repeat(600_000)))).await;
    assert_eq!(raw_problem(&huge, 431)["code"], "headers_too_large");
    let many: String = (0..300).map(|number| format!("X-{number}: 1\r\n")).collect();
    assert_eq!(raw_problem(&raw(server.address, &get(&many)).await, 431)["code"], "headers_too_large");
    let long =
        format!("GET /api/users?q={} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "x".repeat(20_000));
    assert_eq!(raw_problem(&raw(server.address, long.as_bytes()).await, 414)["code"], "uri_too_long");
    for nonsense in [
        "NONSENSE\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "\u{16}\u{3}\u{1}hello\r\n\r\n",
    ] {
        assert_eq!(
            raw_problem(&raw(server.address, nonsense.as_bytes()).await, 400)["code"],
            "malformed_request",
            "{nonsense:?}"
        );
    }
    // The server still works.
    assert_eq!(server.get("/healthz").await.status, 200);
});

both!(requests_that_do_not_end_time_out, async |place| {
    let timeouts =
        Timeouts { head: Duration::from_millis(300), body: Duration::from_millis(300), ..Timeouts::default() };
    let server = Server::start_with(place, Options { timeouts, ..Options::default() }).await;
    let head = raw(server.address, b"GET /api/users HTTP/1.1\r\nHost: localh").await;
    assert_eq!(raw_problem(&head, 408)["code"], "request_timeout");
    let body = raw(
        server.address,
        b"POST /api/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{\"body\":",
    )
    .await;
    assert_eq!(raw_problem(&body, 408)["code"], "request_timeout");
    // An idle connection is closed without an answer.
    assert_eq!(raw(server.address, b"").await, "");
    let cut = {
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let request = b"POST /api/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{";
        stream.write_all(request).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        // The server may cut the connection off without an answer, so a read error is ignored.
        drop(stream.read_to_string(&mut answer).await);
        answer
    };
    assert!(cut.is_empty() || cut.starts_with("HTTP/1.1 400"), "{cut}");
    assert_eq!(server.get("/api/users").await.status, 200);
});

both!(answers_are_compressed_when_asked, async |place| {
    let server = Server::start(place).await;
    for _ in 0..20 {
        server.send("bugs", "duck", "the same again and again").await;
    }
    let plain = server.get("/api/messages/duck").await;
    assert_eq!(plain.header("content-encoding"), None);
    let ask = async |encoding: &str| {
        answer_of(server.request(Method::GET, "/api/messages/duck").header("accept-encoding", encoding.to_owned()))
            .await
    };
    let zipped = ask("gzip").await;
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    assert!(zipped.header("vary").unwrap().to_lowercase().contains("accept-encoding"));
    assert!(zipped.bytes.len() * 4 < plain.bytes.len());
    let mut unzipped = Vec::new();
    flate2::read::GzDecoder::new(zipped.bytes.as_slice()).read_to_end(&mut unzipped).unwrap();
    assert_eq!(unzipped, plain.bytes);
    assert_eq!(ask("br").await.header("content-encoding"), Some("br"));
    assert_eq!(ask("identity").await.bytes, plain.bytes);
    let missing = answer_of(server.request(Method::GET, "/api/nothing").header("accept-encoding", "gzip")).await;
    missing.problem(404, "not_found");
});

both!(many_requests_on_one_connection_are_answered, async |place| {
    let server = Server::start(place).await;
    let one = "GET /api/users/bugs HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let last = "GET /api/users/bugs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answers = raw(server.address, format!("{}{last}", one.repeat(20)).as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 21);
});

both!(a_connection_above_the_limit_is_refused_with_503, async |place| {
    let server = Server::start_with(place, Options { connection_limit: 2, ..Options::default() }).await;
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        held.push(stream);
    }
    let refused = raw(server.address, b"").await;
    assert_eq!(raw_problem(&refused, 503)["code"], "too_many_connections");
    assert!(refused.contains("retry-after: 1"), "{refused}");
    held.pop();
    // The server accepts another connection only after it has noticed the end of that one, so the test tries repeatedly.
    for _ in 0..100 {
        if raw(server.address, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200")
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the server accepts no new connection after one was closed");
});
