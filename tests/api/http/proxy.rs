//! Behind a real nginx with the configuration of `packaging/nginx.conf`: everything works over TLS as it does without TLS, the
//! server uses the caller's address that nginx saw, and errors of nginx itself have the form of the server's errors.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use posthaste::domain::access::principal::Access;
use posthaste::http::access::client_address::{TrustedProxies, client_address};
use posthaste::http::access::origin::OriginRules;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, tls};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;

use crate::both;
use crate::operations::operations::{posthaste, text};
use crate::support::nginx::{CALLER, NAME, Nginx};
use crate::support::place::Kind;
use crate::support::{Options, Place, Server, answer_of, run};

const MIB: usize = 1_024 * 1_024;

fn behind_nginx() -> Options {
    Options { trusted_proxies: TrustedProxies::parse(&["127.0.0.1"]).unwrap(), ..Options::default() }
}

/// Runs a test with a server behind nginx. The server uses SQLite only, because the database makes no difference to nginx.
fn proxied(options: Options, test: impl AsyncFnOnce(&Place, &Server, &Nginx)) {
    run(Kind::Sqlite, async |place| {
        let server = Server::start_with(place, options).await;
        let nginx = Nginx::start(server.address).await;
        test(place, &server, &nginx).await;
    });
}

fn send_body(text: &str) -> Value {
    json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": text})
}

#[test]
fn the_requests_of_the_seed_work_over_tls() {
    proxied(behind_nginx(), async |_, server, nginx| {
        for version in [tls::Version::TLS_1_2, tls::Version::TLS_1_3] {
            let client = nginx.client().tls_version_min(version).tls_version_max(version).build().unwrap();
            let users = answer_of(client.get(nginx.url("/api/users"))).await;
            assert_eq!(users.json(), server.get("/api/users").await.json());
            assert_eq!(users.header("strict-transport-security"), Some("max-age=31536000"));
            assert_eq!(users.header("x-content-type-options"), Some("nosniff"));
            let sent = answer_of(client.post(nginx.url("/api/messages")).json(&send_body("over TLS"))).await;
            assert_eq!(sent.status, 201);
            let location = sent.header("location").unwrap();
            assert!(location.starts_with("/api/conversations/"), "{location}");
            assert_eq!(answer_of(client.get(nginx.url(location))).await.json(), sent.json());
            let timeline = answer_of(client.get(nginx.url("/api/messages/duck?order=desc&limit=1"))).await;
            assert_eq!(timeline.json()[0]["body"], "over TLS");
            assert!(timeline.next().unwrap().starts_with("/api/messages/duck?"));
        }
        let client = nginx.client().build().unwrap();
        let named = client.get(nginx.url("/api/nothing")).header("x-request-id", "my-id");
        let nothing = answer_of(named).await;
        assert_eq!(nothing.problem(404, "not_found")["request_id"], "my-id");
        let encoded = answer_of(client.get(nginx.url("/api/messages/b%75gs%2F"))).await;
        encoded.problem(404, "user_not_found");
        let own = nginx.url("").to_owned();
        let write = client.post(nginx.url("/api/messages")).json(&send_body("hey"));
        assert_eq!(answer_of(write.header("origin", own)).await.status, 201, "a page of the own origin may write");
        let write = client.post(nginx.url("/api/messages")).json(&send_body("hey"));
        answer_of(write.header("origin", "https://evil.example")).await.problem(403, "foreign_origin");
    });
}

#[test]
fn plain_http_is_sent_to_tls() {
    proxied(behind_nginx(), async |_, _, nginx| {
        let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let answer = answer_of(client.get(format!("http://{}/api/users?limit=1", nginx.plain_address))).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (308, Some(&*nginx.url("/api/users?limit=1"))));
    });
}

#[test]
fn bodies_up_to_the_limit_of_nginx_are_refused_by_the_server() {
    proxied(behind_nginx(), async |_, _, nginx| {
        let client = nginx.client().build().unwrap();
        let post = async |length: usize| {
            let body = send_body("padded").to_string();
            let body = format!("{body}{}", " ".repeat(length - body.len()));
            let request = client.post(nginx.url("/api/messages")).header("content-type", "application/json");
            answer_of(request.body(body)).await
        };
        assert_eq!(post(100 * 1_024).await.status, 201);
        for length in [300 * 1_024, MIB] {
            // Answers of the server itself have a request id.
            let problem = post(length).await.problem(413, "body_too_large");
            assert!(!problem["request_id"].as_str().unwrap().is_empty(), "{problem}");
        }
        // Sends a Content-Length without that many bytes of a body. At the limit the server answers, above the limit nginx
        // does.
        let announced = async |target: &str, length: usize| {
            let head = format!("POST {target} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {length}\r\n\r\n{{}}");
            nginx.raw(head.into_bytes()).await
        };
        assert_problem(&announced("/api/messages", MIB + 1).await, 413, "body_too_large");
        for target in [
            "/api/attachments",
            "/api/emoji/x",
            "/api/uploads/1",
            "/api/users/me/avatar",
            "/api/conversations/1/avatar",
        ] {
            let at_limit = announced(target, 129 * MIB).await;
            assert!(at_limit.to_ascii_lowercase().contains("\r\nx-request-id: "), "the server's: {at_limit}");
            assert_problem(&announced(target, 129 * MIB + 1).await, 413, "body_too_large");
        }
    });
}

#[test]
fn a_refusal_arrives_before_the_upload_is_complete() {
    let options = Options { access: Access::Secured, demo: false, ..behind_nginx() };
    proxied(options, async |_, _, nginx| {
        let client = nginx.client().build().unwrap();
        // The server answers before it has read the body, and closes the connection. The client must still get this refusal and
        // the answer to its next request.
        for length in [1_024, 100 * 1_024, MIB, 20 * MIB].repeat(5) {
            let target = if length <= MIB { "/api/messages" } else { "/api/attachments" };
            for target in [target, "/api/attachments"] {
                let answer = answer_of(client.post(nginx.url(target)).body(vec![0; length])).await;
                assert_eq!(answer.status, 401, "{target} {length}: {}", nginx.log());
                answer.problem(401, "unauthenticated");
            }
        }
    });
}

both!(a_refusal_without_a_proxy_is_not_lost, async |place| {
    let options = Options { access: Access::Secured, demo: false, ..Options::default() };
    let server = Server::start_with(place, options).await;
    for length in [1, 1_024, 100 * 1_024, MIB, 20 * MIB].repeat(3) {
        let answer = answer_of(server.request(Method::POST, "/api/messages").body(vec![0; length])).await;
        answer.problem(401, "unauthenticated");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    // The connection stays open after a request without a body, or with one that was read.
    assert_eq!(server.get("/api/users").await.header("connection"), None);
    assert_eq!(
        server.request(Method::POST, "/api/users").body("").send().await.unwrap().headers().get("connection"),
        None
    );
});

#[test]
fn heads_up_to_the_limit_of_nginx_are_refused_by_the_server() {
    proxied(behind_nginx(), async |_, _, nginx| {
        let get = |target: &str, more: &str| {
            format!("GET {target} HTTP/1.1\r\nHost: {NAME}\r\nX-Request-Id: mine\r\nConnection: close\r\n{more}\r\n")
                .into_bytes()
        };
        let header = |length: usize| format!("X-Large: {}\r\n", "x".repeat(length));
        let target = |length: usize| format!("/api/users?q={}", "x".repeat(length));
        for (request, status, code, own) in [
            (get("/api/users", &header(40_000)), 431, "headers_too_large", true),
            (get("/api/users", &header(20_000).repeat(3)), 431, "headers_too_large", true),
            (get("/api/users", &header(70_000)), 431, "headers_too_large", false),
            (get("/api/users", &header(60_000).repeat(9)), 431, "headers_too_large", false),
            (get(&target(20_000), ""), 414, "uri_too_long", true),
            (get(&target(70_000), ""), 414, "uri_too_long", false),
        ] {
            let problem = assert_problem(&nginx.raw(request).await, status, code);
            assert_eq!(problem["request_id"], if own { "mine" } else { "" }, "{problem}");
        }
        let large = nginx.raw(get("/api/users?limit=1", &header(30_000))).await;
        assert!(large.starts_with("HTTP/1.1 200"), "{large}");
        let many: String = (0..300).map(|number| format!("X-{number}: 1\r\n")).collect();
        assert_problem(&nginx.raw(get("/api/users", &many)).await, 431, "headers_too_large");
    });
}

#[test]
fn nginx_does_not_forward_metrics() {
    proxied(behind_nginx(), async |_, server, nginx| {
        let client = nginx.client().build().unwrap();
        for target in ["/metrics", "/metrics?x=1", "/%6detrics", "//metrics", "/api/../metrics"] {
            let answer = nginx.raw(format!("GET {target} HTTP/1.0\r\nHost: {NAME}\r\n\r\n").into_bytes()).await;
            assert_problem(&answer, 404, "not_found");
        }
        assert_eq!(answer_of(client.get(nginx.url("/healthz"))).await.status, 200);
        // The proxy connects from loopback, and the server still refuses it the metrics. So a proxy without a rule for this
        // path would not get them either.
        server.get("/metrics").await.problem(404, "not_found");
    });
}

#[test]
fn nginx_answers_503_without_a_server() {
    run(Kind::Sqlite, async |_| {
        // The socket is bound and does not listen: no other process can take the port, and connections to it are refused.
        let taken = TcpSocket::new_v4().unwrap();
        taken.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let nginx = Nginx::start(taken.local_addr().unwrap()).await;
        let answer = answer_of(nginx.client().build().unwrap().get(nginx.url("/api/users"))).await;
        assert_eq!(answer.json()["code"], "unavailable", "{}", nginx.log());
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, Some("1")));
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    });
}

#[test]
fn the_server_gets_the_callers_address_from_nginx() {
    run(Kind::Sqlite, async |_| {
        let echo = Echo::start().await;
        let nginx = Nginx::start(echo.address).await;
        let trusted = behind_nginx().trusted_proxies;
        let peer = SocketAddr::from(([127, 0, 0, 1], 4711));
        for spoofed in [vec![], vec!["203.0.113.7"], vec!["203.0.113.7, 127.0.0.1"], vec!["203.0.113.7", "127.0.0.1"]] {
            let lines: String = spoofed.iter().map(|line| format!("X-Forwarded-For: {line}\r\n")).collect();
            let request =
                format!("GET /api/x%2Fy?q=%20 HTTP/1.1\r\nHost: {NAME}:1\r\nX-Forwarded-Proto: gopher\r\n{lines}\r\n");
            let answer = nginx.raw(request.into_bytes()).await;
            let (line, headers) = echoed(&answer);
            assert_eq!(line, "GET /api/x%2Fy?q=%20 HTTP/1.1");
            assert_eq!(client_address(peer, &headers, &trusted), IpAddr::from(CALLER), "{spoofed:?}: {answer}");
            assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
            assert_eq!(headers["x-forwarded-proto"], "https");
            assert_eq!(headers["host"], format!("{NAME}:1"));
            assert!(!headers.contains_key("upgrade") && !headers.contains_key("connection"), "{answer}");
        }
        assert_eq!(echo.connections.load(Ordering::Relaxed), 1, "nginx keeps its connections to the server");
    });
}

#[test]
fn websockets_are_forwarded_and_other_upgrades_are_not() {
    run(Kind::Sqlite, async |_| {
        let echo = Echo::start().await;
        let nginx = Nginx::start(echo.address).await;
        let client = nginx.client().build().unwrap();
        let asking = |protocol| {
            client.get(nginx.url("/api/ws")).header("connection", "keep-alive, Upgrade").header("upgrade", protocol)
        };
        let response = asking("WebSocket").send().await.unwrap();
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["x-was"], "upgrade, websocket");
        let mut socket = response.upgrade().await.unwrap();
        let mut buffer = [0; 4];
        for word in [b"ping", b"pong"] {
            socket.write_all(word).await.unwrap();
            socket.read_exact(&mut buffer).await.unwrap();
            assert_eq!(&buffer, word);
        }
        let refused = answer_of(asking("h2c")).await;
        let (_, headers) = echoed(&format!("\r\n\r\n{}", String::from_utf8_lossy(&refused.bytes)));
        assert!(!headers.contains_key("upgrade") && !headers.contains_key("connection"), "{headers:?}");
    });
}

#[test]
fn nginx_forwards_events_immediately() {
    run(Kind::Sqlite, async |_| {
        let echo = Echo::start().await;
        let nginx = Nginx::start(echo.address).await;
        let mut response = nginx.client().build().unwrap().get(nginx.url("/api/events/stream")).send().await.unwrap();
        assert_eq!(response.chunk().await.unwrap().unwrap(), "data: 1\n\n");
        // The server writes the second event only after the first one has arrived here.
        echo.go_on.notify_one();
        assert_eq!(response.chunk().await.unwrap().unwrap(), "data: 2\n\n");
    });
}

#[test]
fn open_access_answers_under_the_public_name() {
    let origins = OriginRules { public_origin: Some("https://chat.example".into()), cors_origins: Vec::new() };
    proxied(Options { origins, ..behind_nginx() }, async |_, _, nginx| {
        let get = |host: &str| format!("GET /api/users?limit=1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let ours = nginx.raw(get("chat.example").into_bytes()).await;
        assert!(ours.starts_with("HTTP/1.1 200"), "{ours}");
        assert_problem(&nginx.raw(get("evil.example").into_bytes()).await, 421, "foreign_host");
    });
}

#[test]
fn invalid_trusted_proxies_are_refused_at_the_start() {
    run(Kind::Sqlite, async |place| {
        for (value, reason) in
            [("10.0.0.0/33", "is not an IP address or a network"), ("::1,0.0.0.0/0", "includes all addresses")]
        {
            let output = posthaste(place, &["serve", "--trusted-proxies", value]);
            assert!(!output.status.success());
            let said = text(&output);
            assert!(said.contains("--trusted-proxies") && said.contains(reason), "{said}");
        }
        let file = place.folder.path().join("options.toml");
        std::fs::write(&file, "trusted_proxies = [\"::1\", \"everyone\"]").unwrap();
        let output = posthaste(place, &["serve", "--config", file.to_str().unwrap()]);
        assert!(text(&output).contains("--trusted-proxies everyone is not an IP address"), "{}", text(&output));
    });
}

/// The problem document in the raw text of an answer.
#[track_caller]
fn assert_problem(answer: &str, status: u16, code: &str) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with(&format!("http/1.1 {status} ")), "{answer}");
    assert!(head.contains("\r\ncontent-type: application/problem+json"), "{answer}");
    let start = body.find('{').unwrap_or_else(|| panic!("no document: {answer}"));
    let mut documents = serde_json::Deserializer::from_str(&body[start..]).into_iter::<Value>();
    let document = documents.next().unwrap().unwrap();
    assert_eq!((&document["status"], &document["code"]), (&json!(status), &json!(code)), "{answer}");
    document
}

/// The request line and the headers that [`Echo`] sent back.
#[track_caller]
fn echoed(answer: &str) -> (String, HeaderMap) {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let mut lines = body.split("\r\n").filter(|line| !line.is_empty());
    let first = lines.next().unwrap().to_owned();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{answer}"));
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
    }
    (first, headers)
}

/// A backend that answers with the bytes of the request's head. It also accepts any upgrade and repeats the bytes that follow,
/// and it has a stream of two events.
struct Echo {
    address: SocketAddr,
    connections: Arc<AtomicU32>,
    /// Allows the second event.
    go_on: Arc<Notify>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let echo = Self { address: listener.local_addr().unwrap(), connections: Arc::default(), go_on: Arc::default() };
        let (connections, go_on) = (Arc::clone(&echo.connections), Arc::clone(&echo.go_on));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(answer(stream, Arc::clone(&go_on)));
            }
        });
        echo
    }
}

async fn answer(mut stream: TcpStream, go_on: Arc<Notify>) -> std::io::Result<()> {
    let mut received = Vec::new();
    loop {
        let Some(length) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
            if stream.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let head: Vec<u8> = received.drain(..length + 4).collect();
        let (line, headers) = echoed(&format!("\r\n\r\n{}", String::from_utf8_lossy(&head)));
        if let Some(protocol) = headers.get("upgrade") {
            let was = format!("{}, {}", headers["connection"].to_str().unwrap(), protocol.to_str().unwrap());
            let switching = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
            stream.write_all(format!("{switching}x-was: {was}\r\n\r\n").as_bytes()).await?;
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await?;
            return Ok(());
        }
        if line.starts_with("GET /api/events/stream ") {
            let start = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
            stream.write_all(format!("{start}data: 1\n\n").as_bytes()).await?;
            // Without the notification from the test this times out, and the test fails.
            tokio::time::timeout(Duration::from_secs(10), go_on.notified()).await?;
            return stream.write_all(b"data: 2\n\n").await;
        }
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", head.len()).as_bytes()).await?;
        stream.write_all(&head).await?;
    }
}

#[test]
fn a_trusted_proxy_gets_no_metrics_even_on_loopback() {
    run(Kind::Sqlite, async |place| {
        for (proxies, status) in [(&[][..], 200), (&["10.0.0.0/8"][..], 200), (&["127.0.0.0/8"][..], 404)] {
            let trusted_proxies = TrustedProxies::parse(proxies).unwrap();
            let server = Server::start_with(place, Options { trusted_proxies, ..Options::default() }).await;
            let answer =
                answer_of(server.request(Method::GET, "/metrics").header("x-forwarded-for", "127.0.0.1")).await;
            assert_eq!(answer.status.as_u16(), status, "{proxies:?}");
            server.stop().await;
        }
    });
}
