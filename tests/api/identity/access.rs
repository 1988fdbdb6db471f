//! Which requests are accepted: under secured access, and under open access with its rules for hosts and origins.

use posthaste::domain::access::principal::Access;
use posthaste::http::access::origin::OriginRules;
use reqwest::Method;
use serde_json::json;

use crate::both;
use crate::support::{Options, Server, answer_of, raw};

both!(secured_access_refuses_requests_without_credentials, async |place| {
    let options = Options { access: Access::Secured, demo: false, ..Options::default() };
    let server = Server::start_with(place, options).await;
    for (method, target) in [
        (Method::GET, "/api/users"),
        (Method::GET, "/api/users/bugs"),
        (Method::GET, "/api/messages/bugs"),
        (Method::POST, "/api/messages"),
        (Method::GET, "/api/no/such/path"),
        (Method::DELETE, "/api/users"),
        (Method::GET, "/api"),
        (Method::GET, "/api/"),
        (Method::POST, "/api/capabilities"),
        (Method::OPTIONS, "/api/users"),
        (Method::GET, "/api/users?limit=x"),
    ] {
        let answer = answer_of(server.request(method.clone(), target)).await;
        answer.problem(401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{method} {target}");
    }
    let with_token = server.request(Method::GET, "/api/users").header("authorization", "Bearer phs_nonsense");
    answer_of(with_token).await.problem(401, "unauthenticated");
    let act_as = server.request(Method::GET, "/api/users").header("x-act-as", "bugs");
    answer_of(act_as).await.problem(401, "unauthenticated");
    for target in ["/healthz", "/readyz", "/openapi.json", "/asyncapi.json", "/docs/", "/api/capabilities"] {
        assert_eq!(server.get(target).await.status, 200, "{target}");
    }
    let capabilities = server.get("/api/capabilities").await.json();
    assert_eq!((&capabilities["access"], &capabilities["files"]), (&json!("secured"), &json!(true)));
    assert_eq!(capabilities["limits"]["file_bytes"], 128 * 1_024 * 1_024);
    server.post("/api/sessions", &json!({})).await.invalid(&["user_name"]);
    // The same path has a public method and methods that need credentials.
    let text = json!({"text": "hey"});
    server.post("/api/hooks/abc", &text).await.problem(404, "incoming_webhook_not_found");
    server.get("/api/hooks/abc").await.problem(401, "unauthenticated");
    server.get("/api/invites/abc").await.problem(404, "invite_not_found");
    server.get("/api/invites/abc/def").await.problem(401, "unauthenticated");
});

both!(open_access_answers_only_to_loopback_host_names, async |place| {
    let origins = OriginRules { public_origin: Some("https://chat.example.org".into()), cors_origins: Vec::new() };
    let server = Server::start_with(place, Options { origins, ..Options::default() }).await;
    let with_host = async |host: &str| {
        let request = format!("GET /api/users HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        raw(server.address, request.as_bytes()).await
    };
    for host in ["localhost", "localhost:8000", "127.0.0.1", "[::1]:8000", "chat.example.org", "CHAT.example.org"] {
        assert!(with_host(host).await.starts_with("HTTP/1.1 200"), "{host}");
    }
    for host in [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "chat.example.org.evil.example",
        "10.0.0.1",
    ] {
        let answer = with_host(host).await;
        assert!(answer.starts_with("HTTP/1.1 421"), "{host}: {answer}");
        assert!(answer.contains("\"code\":\"foreign_host\""), "{answer}");
    }
    for host in ["Host: \r\n", ""] {
        let request = format!("GET /api/users HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        let without = raw(server.address, request.as_bytes()).await;
        assert!(without.starts_with("HTTP/1.1 400"), "{without}");
    }
    // HTTP/1.0 needs no Host. Without one, the request names no host of the server.
    let without = raw(server.address, b"GET /api/users HTTP/1.0\r\n\r\n").await;
    assert!(without.contains(" 421 "), "{without}");
});

both!(open_access_checks_the_origin_of_writes, async |place| {
    let origins = OriginRules {
        public_origin: Some("https://chat.example.org".into()),
        cors_origins: vec!["https://app.example".into()],
    };
    let server = Server::start_with(place, Options { origins, ..Options::default() }).await;
    let own = format!("http://{}", server.address);
    let hey = json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": "hey"});
    let send = async |origin: &str| {
        answer_of(server.request(Method::POST, "/api/messages").header("origin", origin.to_owned()).json(&hey)).await
    };
    for origin in [own.as_str(), "https://chat.example.org", "https://app.example"] {
        assert_eq!(send(origin).await.status, 201, "{origin}");
    }
    for origin in ["https://evil.example", "null", "http://localhost:1", "https://chat.example.org.evil.example"] {
        send(origin).await.problem(403, "foreign_origin");
    }
    // Reads from a foreign origin are answered. The browser does not show the answer to the page, because no CORS header allows
    // it.
    let read = answer_of(server.request(Method::GET, "/api/users").header("origin", "https://evil.example")).await;
    assert_eq!(read.status, 200);
    assert_eq!(read.header("access-control-allow-origin"), None);
});

both!(cors_headers_follow_the_configuration, async |place| {
    let origins = OriginRules { public_origin: None, cors_origins: vec!["https://app.example".into()] };
    let options = Options { access: Access::Secured, demo: false, origins, ..Options::default() };
    let server = Server::start_with(place, options).await;
    let preflight = server
        .request(Method::OPTIONS, "/api/messages")
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,idempotency-key");
    let answer = answer_of(preflight).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
    assert!(answer.header("access-control-allow-headers").unwrap().contains("idempotency-key"));
    assert!(answer.header("access-control-allow-methods").unwrap().contains("POST"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    // An OPTIONS request without the headers of a preflight is an ordinary request.
    let plain = answer_of(server.request(Method::OPTIONS, "/api/nothing")).await;
    plain.problem(401, "unauthenticated");
    // The page can also read errors.
    let refused = answer_of(server.request(Method::GET, "/api/users").header("origin", "https://app.example")).await;
    refused.problem(401, "unauthenticated");
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://app.example"));
    let exposed = refused.header("access-control-expose-headers").unwrap().to_lowercase();
    for name in ["link", "location", "etag", "ratelimit-limit", "retry-after", "idempotency-replayed", "x-request-id"] {
        assert!(exposed.contains(name), "{name}: {exposed}");
    }
    let foreign = answer_of(server.request(Method::GET, "/api/users").header("origin", "https://evil.example")).await;
    assert_eq!(foreign.header("access-control-allow-origin"), None);
});
