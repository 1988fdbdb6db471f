//! The header `Host`, the handshake of a WebSocket, and frames that break its protocol.

use std::time::Duration;

use posthaste::domain::access::principal::Access;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::both;
use crate::support::{Options, Server, raw};

fn status_of(answer: &str) -> &str {
    answer.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("{answer:?}")).split(' ').next().unwrap()
}

both!(a_request_needs_one_valid_host, async |place| {
    let server = Server::start_with(place, Options { access: Access::Secured, ..Options::default() }).await;
    let get = async |hosts: &[&[u8]]| {
        let mut request = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n".to_vec();
        for host in hosts {
            request.extend_from_slice(&[b"Host: ", *host, b"\r\n"].concat());
        }
        raw(server.address, &[request.as_slice(), b"\r\n"].concat()).await
    };
    for valid in ["localhost", "example.org:8000", "127.0.0.1", "[::1]:80", "a_b.example", "localhost:"] {
        assert_eq!(status_of(&get(&[valid.as_bytes()]).await), "200", "{valid}");
    }
    let invalid: &[&[&[u8]]] = &[
        &[],
        &[b"localhost", b"localhost"],
        &[b"localhost", b"evil.example"],
        &[b""],
        &[b"a b"],
        &[b"a/b@c"],
        &[b"user@localhost"],
        &[b"localhost:port"],
        &[b"localhost:99999"],
        &[b"localhost:80:80"],
        &[b"[::1"],
        &[b"::1"],
        &[b"http://localhost"],
        &[b"localhost?x"],
        &[b"caf\xe9.example"],
        &[b"localhost, evil.example"],
    ];
    for hosts in invalid {
        let answer = get(hosts).await;
        assert_eq!(status_of(&answer), "400", "{hosts:?}: {answer}");
        assert!(answer.contains("\"invalid_host\""), "{answer}");
        assert!(answer.to_lowercase().contains("x-request-id: "), "{answer}");
    }
    // HTTP/1.0 has no such rule.
    assert!(raw(server.address, b"GET /healthz HTTP/1.0\r\n\r\n").await.contains(" 200 OK"));
    // A preflight, which is answered before everything else, is no exception.
    let origins = posthaste::http::access::origin::OriginRules {
        cors_origins: vec!["https://app.example.org".into()],
        ..Default::default()
    };
    let server = Server::start_with(place, Options { origins, ..Options::default() }).await;
    let preflight = |host: &str| {
        format!(
            "OPTIONS /api/users HTTP/1.1\r\n{host}Origin: https://app.example.org\r\nConnection: close\r\n\
             Access-Control-Request-Method: GET\r\n\r\n"
        )
    };
    assert_eq!(status_of(&raw(server.address, preflight("Host: localhost\r\n").as_bytes()).await), "200");
    for host in ["", "Host: a b\r\n", "Host: localhost\r\nHost: localhost\r\n"] {
        assert_eq!(status_of(&raw(server.address, preflight(host).as_bytes()).await), "400", "{host:?}");
    }
});

both!(the_host_in_the_request_target_replaces_the_header, async |place| {
    let server = Server::start(place).await;
    let ask = async |target: &str, host: &str, origin: &str| {
        let body = r#"{"user_name": "bugs"}"#;
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: {host}\r\n{origin}Connection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        raw(server.address, request.as_bytes()).await
    };
    for (target, host, origin, status, code) in [
        ("/api/sessions", "localhost", "", "201", ""),
        ("/api/sessions", "evil.example", "", "421", "foreign_host"),
        ("http://localhost/api/sessions", "evil.example", "", "201", ""),
        ("http://evil.example/api/sessions", "localhost", "", "421", "foreign_host"),
        ("http://localhost/api/sessions", "localhost", "Origin: http://localhost\r\n", "201", ""),
        ("http://localhost/api/sessions", "evil.example", "Origin: http://evil.example\r\n", "403", "foreign_origin"),
        ("http://localhost:81/api/sessions", "localhost", "Origin: http://localhost\r\n", "403", "foreign_origin"),
        ("http://user@localhost/api/sessions", "localhost", "", "400", "invalid_host"),
        ("http://localhost/api/sessions", "a b", "", "400", "invalid_host"),
    ] {
        let answer = ask(target, host, origin).await;
        assert_eq!(status_of(&answer), status, "{target} {host}: {answer}");
        assert!(answer.contains(code), "{target} {host}: {answer}");
    }
});

fn handshake(more: &str) -> String {
    format!("GET /api/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{more}\r\n")
}

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";

both!(a_handshake_of_another_version_is_told_the_right_one, async |place| {
    let server = Server::start(place).await;
    for version in ["", "Sec-WebSocket-Version: 8\r\n", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 8\r\n"] {
        let answer = raw(server.address, handshake(&format!("{KEY}{version}")).as_bytes()).await;
        assert_eq!(status_of(&answer), "426", "{answer}");
        assert!(answer.contains("unsupported_websocket_version"), "{answer}");
        let head = answer.to_lowercase();
        for header in ["\r\nsec-websocket-version: 13\r\n", "\r\nupgrade: websocket\r\n", "\r\nconnection: upgrade\r\n"]
        {
            assert!(head.contains(header), "{answer}");
        }
    }
    for key in ["", "Sec-WebSocket-Key: short\r\n", "Sec-WebSocket-Key: c2hvcnQ=\r\n"] {
        let answer = raw(server.address, handshake(&format!("{key}{VERSION}")).as_bytes()).await;
        assert_eq!(status_of(&answer), "400", "{answer}");
    }
});

/// Opens a socket, sends these bytes and reads until the server closes. Returns the code and the reason of its close frame.
async fn closed_with(server: &Server, bytes: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(handshake(&format!("{KEY}{VERSION}")).as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream.write_all(bytes).await.unwrap();
    let mut received = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut received));
    // An error here would be a connection that is reset, so that the client might not see the close frame.
    reading.await.expect("the server does not close the connection").unwrap();
    let mut frames = received.as_slice();
    loop {
        let [first, length, rest @ ..] = frames else { panic!("no close frame: {received:?}") };
        let (length, rest) = match *length {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            length => (usize::from(length), rest),
        };
        if *first == 0x88 {
            let code = u16::from_be_bytes([rest[0], rest[1]]);
            return (code, String::from_utf8(rest[2..length].to_vec()).unwrap());
        }
        frames = &rest[length..];
    }
}

/// A frame whose mask is zero, so that the payload stays as it is.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let mut bytes = vec![first];
    match length {
        0..126 => bytes.push(0x80 | length as u8),
        126..65_536 => bytes.extend([&[0x80 | 126], &(length as u16).to_be_bytes()[..]].concat()),
        _ => bytes.extend([&[0x80 | 127], &(length as u64).to_be_bytes()[..]].concat()),
    }
    [bytes.as_slice(), &[0; 4], payload].concat()
}

both!(a_frame_that_breaks_the_protocol_ends_with_a_close_frame, async |place| {
    let server = Server::start(place).await;
    for (what, bytes, code) in [
        ("not masked", b"\x81\x02hi".to_vec(), 1002),
        ("a reserved bit", frame(0xC1, b"hi"), 1002),
        ("a reserved opcode", frame(0x83, b"hi"), 1002),
        ("a reserved control opcode", frame(0x8B, b""), 1002),
        ("a ping in fragments", frame(0x09, b""), 1002),
        ("a long ping", frame(0x89, &[0; 126]), 1002),
        ("a continuation of nothing", frame(0x80, b"hi"), 1002),
        ("a text within a text", [frame(0x01, b"h"), frame(0x81, b"i")].concat(), 1002),
        ("a close frame of one byte", frame(0x88, &[3]), 1002),
        ("a close code that does not exist", frame(0x88, &999_u16.to_be_bytes()), 1002),
        ("bytes", frame(0x82, b"hi"), 1003),
        ("a text that is not UTF-8", frame(0x81, b"caf\xe9"), 1007),
        ("fragments that are not UTF-8", [frame(0x01, b"caf\xc3"), frame(0x80, b"x")].concat(), 1007),
        ("a close reason that is not UTF-8", frame(0x88, b"\x03\xe8caf\xe9"), 1007),
        ("a large frame", frame(0x81, &vec![b'x'; 4 * 1_024 * 1_024]), 1009),
        ("large fragments", [frame(0x01, &[b'x'; 100 * 1_024]), frame(0x80, &[b'x'; 100 * 1_024])].concat(), 1009),
    ] {
        let (its_code, reason) = closed_with(&server, &bytes).await;
        assert_eq!(its_code, code, "{what}: {reason}");
    }
    assert_eq!(closed_with(&server, &frame(0x88, &1000_u16.to_be_bytes())).await.0, 1000);
    assert_eq!(server.get("/healthz").await.status, 200);
});
