//! Sessions in a cookie: requests of pages of this server, and requests that pages of other origins must not be able to make.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use posthaste::base::time::Clock;
use posthaste::domain::access::principal::Access;
use posthaste::http::access::origin::OriginRules;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::both;
use crate::support::accounts::{PASSWORD, secured};
use crate::support::{Answer, Options, Server, answer_of};

fn with_origins(public: Option<&str>, cors: &[&str]) -> Options {
    let cors_origins = cors.iter().map(|origin| (*origin).to_owned()).collect();
    let origins = OriginRules { public_origin: public.map(str::to_owned), cors_origins };
    Options { origins, ..secured() }
}

fn logging_in(server: &Server, name: &str) -> RequestBuilder {
    let body = json!({"user_name": name, "password": PASSWORD, "cookie": true});
    server.request(Method::POST, "/api/sessions").json(&body)
}

/// The cookie's `name=value` and its attributes. Asserts that no other cookie is set.
fn set_cookie(answer: &Answer) -> (String, Vec<String>) {
    let lines: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(lines.len(), 1);
    let mut parts = lines[0].to_str().unwrap().split("; ").map(str::to_owned);
    (parts.next().unwrap(), parts.collect())
}

async fn cookie_of(server: &Server, name: &str) -> String {
    let answer = answer_of(logging_in(server, name)).await;
    assert_eq!(answer.status, 201);
    set_cookie(&answer).0
}

both!(scripts_and_other_sites_cannot_use_the_cookie, async |place| {
    let clock = Clock::Manual(Arc::new(AtomicI64::new(Clock::System.now().micros())));
    for (public, secure) in
        [(None, false), (Some("http://chat.example.org"), false), (Some("https://chat.example.org"), true)]
    {
        let options = Options { clock: clock.clone(), ..with_origins(public, &[]) };
        let server = Server::start_with(place, options).await;
        if public.is_none() {
            server.add_person("bugs", Some(PASSWORD), false).await;
        }
        let answer = answer_of(logging_in(&server, "bugs")).await;
        assert_eq!(answer.status, 201);
        let made = answer.json();
        assert!(made["token"].is_null() && made.as_object().unwrap().contains_key("token"), "{made}");
        assert_eq!(made["user"]["user_name"], "bugs");
        let (pair, mut attributes) = set_cookie(&answer);
        let token = pair.strip_prefix("posthaste_session=").unwrap();
        assert!(token.starts_with("phs_") && token.len() == 47);
        assert!(!String::from_utf8_lossy(&answer.bytes).contains(token));
        let mut expected = vec!["HttpOnly", "Max-Age=15552000", "Path=/", "SameSite=Lax"];
        expected.extend(secure.then_some("Secure"));
        attributes.sort();
        assert_eq!(attributes, expected, "{public:?}");
        // A cookie of another program may have bytes that are not UTF-8.
        let mixed = reqwest::header::HeaderValue::from_bytes(&[b"other=caf\xe9; ", pair.as_bytes()].concat()).unwrap();
        let read = server.request(Method::GET, "/api/users/me").header("cookie", mixed);
        assert_eq!(answer_of(read).await.status, 200);
        let read = server.request(Method::GET, "/api/users/me").header("cookie", &pair);
        assert_eq!(answer_of(read).await.json()["user_name"], "bugs");
        // The same session works as a bearer token.
        assert_eq!(server.get_as(token, "/api/sessions").await.status, 200);
    }
});

both!(writes_with_a_cookie_need_an_own_origin, async |place| {
    let public = "https://chat.example.org";
    let server = Server::secured_with(place, with_origins(Some(public), &["https://app.example"]), &["bugs"]).await;
    let cookie = cookie_of(&server, "bugs").await;
    let unsafe_calls = [
        (Method::PATCH, "/api/users/me"),
        (Method::PUT, "/api/users/me/password"),
        (Method::POST, "/api/users/me/mfa"),
        (Method::POST, "/api/messages"),
        (Method::DELETE, "/api/sessions/current"),
        (Method::DELETE, "/api/users/me"),
        (Method::PUT, "/api/no/such/path"),
    ];
    for (method, target) in unsafe_calls {
        for origin in [
            None,
            Some("null"),
            Some(""),
            Some("https://evil.example"),
            Some("http://chat.example.org"),
            Some("https://chat.example.org:8443"),
            Some("https://chat.example.org.evil.example"),
            Some("https://evil.example?https://chat.example.org"),
            Some("https://app.example"),
            Some("https://"),
        ] {
            let request = server.request(method.clone(), target).header("cookie", &cookie).json(&json!({}));
            let request = if let Some(origin) = origin { request.header("origin", origin) } else { request };
            answer_of(request).await.problem(403, "foreign_origin");
        }
    }
    let change = |origin: &str| {
        let request = server.request(Method::PATCH, "/api/users/me").header("cookie", &cookie);
        request.header("origin", origin.to_owned()).json(&json!({"first_name": "Bugs"}))
    };
    for origin in [public, "HTTPS://Chat.Example.org"] {
        assert_eq!(answer_of(change(origin)).await.status, 200, "{origin}");
    }
    // A request with two Origin headers is refused.
    for second in [public, "https://evil.example"] {
        answer_of(change(public).header("origin", second)).await.problem(403, "foreign_origin");
    }
    // Reads from other origins are answered. The browser does not show the answer to the page.
    for method in [Method::GET, Method::HEAD] {
        for origin in ["https://evil.example", "null"] {
            let read =
                server.request(method.clone(), "/api/users/me").header("cookie", &cookie).header("origin", origin);
            let answer = answer_of(read).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("access-control-allow-origin"), None);
            assert_eq!(answer.header("access-control-allow-credentials"), None);
        }
    }
});

both!(without_a_public_url_the_host_decides_the_origin, async |place| {
    let server = Server::secured(place, &["bugs"]).await;
    let cookie = cookie_of(&server, "bugs").await;
    let host = server.address.to_string();
    let change = async |origin: &str| {
        let request = server.request(Method::PATCH, "/api/users/me").header("cookie", &cookie);
        answer_of(request.header("origin", origin.to_owned()).json(&json!({"first_name": "Bugs"}))).await
    };
    assert_eq!(change(&format!("http://{host}")).await.status, 200);
    for origin in ["http://127.0.0.1", "http://localhost", &format!("http://{host}.evil.example"), &host, "null"] {
        change(origin).await.problem(403, "foreign_origin");
    }
    // If the request names no host, no origin counts as the server's own.
    let request = format!(
        "PATCH /api/users/me HTTP/1.1\r\nhost: \r\norigin: http://\r\ncookie: {cookie}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    let answer = crate::support::raw(server.address, request.as_bytes()).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
});

both!(a_bearer_token_wins_over_a_cookie, async |place| {
    let server = Server::secured(place, &["bugs", "duck"]).await;
    let cookie = cookie_of(&server, "bugs").await;
    let duck = server.token_of("duck").await;
    // A request with a bearer token is allowed from every origin, because no browser sends a bearer token by itself.
    let change = server.request_as(&duck, Method::PATCH, "/api/users/me").header("cookie", &cookie);
    let change = change.header("origin", "https://evil.example").json(&json!({"first_name": "Daffy"}));
    assert_eq!(answer_of(change).await.json()["user_name"], "duck");
    // A valid cookie does not replace an invalid token.
    for authorization in ["Bearer phs_nonsense", "Bearer ", "Basic YTpi", "phs_nonsense"] {
        let read = server.request(Method::GET, "/api/users/me").header("cookie", &cookie);
        answer_of(read.header("authorization", authorization)).await.problem(401, "unauthenticated");
    }
    let out = server.request_as(&duck, Method::DELETE, "/api/sessions/current").header("cookie", &cookie);
    let out = answer_of(out).await;
    assert_eq!((out.status.as_u16(), out.header("set-cookie")), (204, None));
    let read = server.request(Method::GET, "/api/users/me").header("cookie", &cookie);
    assert_eq!(answer_of(read).await.json()["user_name"], "bugs", "the session of the cookie stays valid");
});

both!(logging_out_deletes_the_cookie, async |place| {
    let server = Server::secured_with(place, with_origins(Some("https://chat.example.org"), &[]), &["bugs"]).await;
    let (cookie, other) = (cookie_of(&server, "bugs").await, cookie_of(&server, "bugs").await);
    let delete = async |cookie: &str, target: &str| {
        let request = server.request(Method::DELETE, target).header("cookie", cookie);
        answer_of(request.header("origin", "https://chat.example.org")).await
    };
    let sessions = server.request(Method::GET, "/api/sessions").header("cookie", &cookie);
    let sessions = answer_of(sessions).await.json();
    let id = |current: bool| {
        let sessions = sessions.as_array().unwrap();
        sessions.iter().find(|session| session["current"] == current).unwrap()["id"].as_i64().unwrap()
    };
    let others = delete(&cookie, &format!("/api/sessions/{}", id(false))).await;
    assert_eq!((others.status.as_u16(), others.header("set-cookie")), (204, None));
    delete(&other, "/api/sessions/current").await.problem(401, "unauthenticated");
    let out = delete(&cookie, &format!("/api/sessions/{}", id(true))).await;
    assert_eq!(out.status, 204);
    let (pair, mut attributes) = set_cookie(&out);
    assert_eq!(pair, "posthaste_session=");
    attributes.sort();
    assert_eq!(attributes, ["HttpOnly", "Max-Age=0", "Path=/", "SameSite=Lax", "Secure"]);
    let read = server.request(Method::GET, "/api/users/me").header("cookie", &cookie);
    answer_of(read).await.problem(401, "unauthenticated");
});

both!(an_expired_cookie_does_not_block_log_ins_or_open_access, async |place| {
    let options = Options { registration_open: true, ..with_origins(Some("https://chat.example.org"), &[]) };
    let server = Server::secured_with(place, options, &["bugs"]).await;
    for cookie in
        ["posthaste_session=phs_nonsense", "posthaste_session=", "posthaste_session=a=b; x", "posthaste_session"]
    {
        for origin in ["https://chat.example.org", "https://evil.example"] {
            let call = |method: Method, target: &str| {
                server.request(method, target).header("cookie", cookie).header("origin", origin)
            };
            assert_eq!(answer_of(call(Method::GET, "/api/capabilities")).await.status, 200);
            let log_in = call(Method::POST, "/api/sessions").json(&json!({"user_name": "bugs", "password": PASSWORD}));
            assert_eq!(answer_of(log_in).await.status, 201);
            let reset = call(Method::POST, "/api/password-resets").json(&json!({"email": "bugs@example.org"}));
            assert_eq!(answer_of(reset).await.status, 202);
            let register = call(Method::POST, "/api/users").json(&json!({"user_name": "x"}));
            answer_of(register).await.invalid(&["password"]);
        }
        let read = server.request(Method::GET, "/api/users/me").header("cookie", cookie);
        answer_of(read).await.problem(401, "unauthenticated");
    }
});

both!(pages_of_other_origins_cannot_log_a_browser_in, async |place| {
    let public = "https://chat.example.org";
    let server = Server::secured_with(place, with_origins(Some(public), &["https://app.example"]), &["bugs"]).await;
    for origin in ["https://evil.example", "null", "https://app.example"] {
        let answer = answer_of(logging_in(&server, "bugs").header("origin", origin)).await;
        answer.problem(403, "foreign_origin");
        assert_eq!(answer.header("set-cookie"), None);
    }
    assert_eq!(answer_of(logging_in(&server, "bugs").header("origin", public)).await.status, 201);
    // A page of an origin that CORS allows gets its token in the body of the answer, like any other program.
    let body = json!({"user_name": "bugs", "password": PASSWORD});
    let program = server.request(Method::POST, "/api/sessions").header("origin", "https://app.example").json(&body);
    assert!(answer_of(program).await.json()["token"].is_string());
});

both!(the_cookie_is_found_among_others, async |place| {
    let server = Server::secured(place, &["bugs"]).await;
    let cookie = cookie_of(&server, "bugs").await;
    for line in [format!("a=b; {cookie}"), format!("a=b;{cookie};c=d"), format!("xposthaste_session=phs_x; {cookie}")] {
        let read = server.request(Method::GET, "/api/users/me").header("cookie", line.clone());
        assert_eq!(answer_of(read).await.status, 200, "{line}");
    }
    let apart = server.request(Method::GET, "/api/users/me").header("cookie", "a=b").header("cookie", &cookie);
    assert_eq!(answer_of(apart).await.status, 200);
    let open = Options { access: Access::Open, ..secured() };
    let server = Server::start_with(place, open).await;
    let stale = server.request(Method::GET, "/api/users").header("cookie", "posthaste_session=phs_nonsense");
    assert_eq!(answer_of(stale).await.status, 200, "open access needs no credentials");
    let read = server.request(Method::GET, "/api/users/me").header("cookie", &cookie);
    assert_eq!(answer_of(read).await.json()["user_name"], "bugs");
});
