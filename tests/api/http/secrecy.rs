//! Texts and secrets that must never appear in a log, a metric, or an answer to another caller.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::both;
use crate::messages::messages::poison;
use crate::support::accounts::authenticator;
use crate::support::answer_of;
use crate::support::callers::now_micros;
use crate::support::mail::MailServer;
use crate::support::process::{Process, Wrapping};

both!(texts_of_users_are_not_in_the_log, async |place| {
    let wrapping = Wrapping { arguments: vec!["--log".into(), "debug".into()], ..Wrapping::default() };
    let process = Process::start_wrapped(place, wrapping).await;
    let (trigger, _) = poison(place);
    place.sql(trigger).await;
    if place.kind == crate::support::place::Kind::Postgres {
        // Makes PostgreSQL refuse one message. In the detail of such an error PostgreSQL repeats the whole row.
        place.sql("ALTER TABLE messaging.messages ADD CHECK (body <> 'canary-body-refused')").await;
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = |path: &str| format!("http://{}{path}", process.address);
    for body in ["canary-body-kept", "canary-body-refused", "poison"] {
        let message = serde_json::json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": body});
        let request = client.post(url("/api/messages")).header("idempotency-key", format!("canary-key-{body}"));
        let refused =
            body == "poison" || (body == "canary-body-refused" && place.kind == crate::support::place::Kind::Postgres);
        let answer = answer_of(request.json(&message)).await;
        assert_eq!(answer.status, if refused { 500 } else { 201 });
        assert!(
            !String::from_utf8_lossy(&answer.bytes).contains("poisoned"),
            "the answer shows the cause of the error"
        );
    }
    answer_of(client.get(url("/api/users")).bearer_auth("canary-token")).await.problem(401, "unauthenticated");
    answer_of(client.get(url("/api/users?q=canary-query")).header("x-act-as", "canary-name")).await;
    answer_of(client.get(url("/api/messages/canary-path"))).await;
    let log_in = serde_json::json!({"user_name": "canary-name", "password": "canary-password", "code": "canary-code"});
    answer_of(client.post(url("/api/sessions")).json(&log_in)).await.problem(401, "invalid_credentials");
    let register =
        serde_json::json!({"user_name": "someone", "password": "canary-password", "email": "canary@example.org"});
    assert_eq!(answer_of(client.post(url("/api/users")).json(&register)).await.status, 201);
    let reset = serde_json::json!({"new_password": "canary-password"});
    let resetting = client.put(url("/api/password-resets/canary-reset")).json(&reset);
    answer_of(resetting).await.problem(404, "code_not_found");
    let ask = serde_json::json!({"email": "canary@example.org"});
    assert_eq!(answer_of(client.post(url("/api/password-resets")).json(&ask)).await.status, 202);
    answer_of(client.get(url("/api/users")).header("cookie", "posthaste_session=canary-cookie")).await;
    let metrics = String::from_utf8(answer_of(client.get(url("/metrics"))).await.bytes).unwrap();
    let log = process.log();
    assert!(log.contains("poisoned"), "the log does not show the cause: {log}");
    for text in [&log, &metrics] {
        assert!(!text.contains("canary"), "{text}");
    }
    process.terminate().await;
});

/// Sends requests and keeps every answer under the name of its request.
struct Requests {
    client: reqwest::Client,
    base: String,
    answers: Vec<(String, String)>,
}

impl Requests {
    /// Sends a request, keeps the answer with its headers, and returns its body.
    async fn ask(
        &mut self,
        what: &str,
        method: Method,
        target: &str,
        shape: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Value {
        let request = shape(self.client.request(method, format!("{}{target}", self.base)));
        let answer = answer_of(request).await;
        assert!(answer.status.as_u16() < 500, "{what}: {}", String::from_utf8_lossy(&answer.bytes));
        let text = format!("{} {:?} {}", answer.status, answer.headers, String::from_utf8_lossy(&answer.bytes));
        self.answers.push((what.to_owned(), text));
        serde_json::from_slice(&answer.bytes).unwrap_or_default()
    }

    async fn post(&mut self, what: &str, target: &str, body: &Value) -> Value {
        self.ask(what, Method::POST, target, |request| request.json(body)).await
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

both!(a_secret_is_shown_only_to_its_recipient, async |place| {
    let mut mails = MailServer::start().await;
    let secret_file = place.folder.path().join("jwt-secret");
    std::fs::write(&secret_file, "canary-jwt-secret-0123456789abcdef").unwrap();
    let mail = mails.url();
    let mut words = vec!["--log", "debug", "--registration", "open"];
    words.extend([
        "--jwt-hs256-secret-file",
        secret_file.to_str().unwrap(),
        "--jwt-issuer",
        "i",
        "--jwt-audience",
        "a",
    ]);
    words.extend(["--jwt-provision", "true", "--smtp-url", &mail, "--mail-from", "posthaste@example.org"]);
    let wrapping = Wrapping { arguments: words.into_iter().map(str::to_owned).collect(), ..Wrapping::default() };
    let process = Process::start_wrapped(place, wrapping).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut requests = Requests { client, base: format!("http://{}", process.address), answers: Vec::new() };
    // Each secret, with the names of the only requests whose answers may contain it.
    let mut secrets: Vec<(String, &[&str])> = Vec::new();

    for (name, password) in [("keeper", "canary-password-one"), ("canary.name", "canary-password-two")] {
        let body = json!({"user_name": name, "password": password, "first_name": "canary-first", "last_name": "canary-last",
                          "email": format!("{name}@example.org")});
        requests.post("register", "/api/users", &body).await;
    }
    requests.post("register badly", "/api/users", &json!({"user_name": "x", "password": "canary"})).await;
    requests
        .post("register badly", "/api/users", &json!({"user_name": "y", "password": ["canary-password-list"]}))
        .await;
    requests
        .post("register badly", "/api/users", &json!({"user_name": "canary/name", "password": "canary-password-3"}))
        .await;
    let login = json!({"user_name": "keeper", "password": "canary-password-one"});
    let session = text_of(&requests.post("log in", "/api/sessions", &login).await["token"]);
    secrets.push((session.clone(), &["log in"]));
    requests
        .post("log in wrongly", "/api/sessions", &json!({"user_name": "keeper", "password": "canary-password-wrong"}))
        .await;
    requests
        .post(
            "log in wrongly",
            "/api/sessions",
            &json!({"email": "canary@example.org", "password": "canary-password-wrong"}),
        )
        .await;
    let cookie = json!({"user_name": "keeper", "password": "canary-password-one", "cookie": true});
    requests.post("log in by cookie", "/api/sessions", &cookie).await;
    let cookie = requests.answers.last().unwrap().1.split("posthaste_session=").nth(1).unwrap()[..47].to_owned();
    secrets.push((cookie.clone(), &["log in by cookie"]));
    let with_cookie = |request: RequestBuilder| request.header("cookie", format!("posthaste_session={cookie}"));
    requests.ask("me by cookie", Method::GET, "/api/users/me", with_cookie).await;
    let with_session = |request: RequestBuilder| request.bearer_auth(&session);

    let offer = requests.ask("offer", Method::POST, "/api/users/me/mfa", with_session).await;
    let shared = text_of(&offer["secret"]);
    let code = authenticator(&shared, now_micros());
    let body = json!({"code": code});
    let recovery =
        requests.ask("switch on", Method::PUT, "/api/users/me/mfa", |request| with_session(request).json(&body)).await;
    for code in recovery["recovery_codes"].as_array().unwrap() {
        secrets.push((text_of(code), &["switch on"]));
    }
    let used = json!({"user_name": "keeper", "password": "canary-password-one", "code": recovery["recovery_codes"][0]});
    let second = text_of(&requests.post("log in with a code", "/api/sessions", &used).await["token"]);
    secrets.push((second, &["log in with a code"]));
    requests.post("log in with it again", "/api/sessions", &used).await;
    secrets.push((shared, &["offer"]));

    let body = json!({"name": "canary-key-name", "scopes": ["read", "write", "admin"]});
    let once = |request: RequestBuilder| request.header("idempotency-key", "canary-idempotency").json(&body);
    let key = text_of(&requests.ask("make a key", Method::POST, "/api/api-keys", once).await["key"]);
    requests.ask("make a key", Method::POST, "/api/api-keys", once).await;
    secrets.push((key.clone(), &["make a key"]));
    let with_key = |request: RequestBuilder| request.bearer_auth(&key);
    requests.ask("list keys", Method::GET, "/api/api-keys", with_key).await;
    requests.ask("act", Method::GET, "/api/users", |request| with_key(request).header("x-act-as", "canary.name")).await;
    requests
        .ask("act as nobody", Method::GET, "/api/users", |request| {
            with_key(request).header("x-act-as", "canary-nobody")
        })
        .await;

    let claims =
        json!({"iss": "i", "aud": "a", "sub": "canary.jwt", "exp": 4_102_444_800_i64, "canary-claim": "canary-value"});
    let jwt = signed(&claims, b"canary-jwt-secret-0123456789abcdef");
    let forged = signed(&claims, b"another-canary-secret-0123456789");
    for (what, token) in [("me by JWT", &jwt), ("a forged JWT", &forged)] {
        requests.ask(what, Method::GET, "/api/users/me", |request| request.bearer_auth(token)).await;
        for part in token.split('.').skip(1) {
            secrets.push((part.to_owned(), &[]));
        }
    }

    let reset = requests.post("ask for a code", "/api/admin/users/canary.name/password-resets", &json!({})).await;
    let reset = text_of(&reset["code"]);
    secrets.push((reset.clone(), &["ask for a code"]));
    let target = format!("/api/password-resets/{reset}");
    let weak = json!({"new_password": "canary"});
    requests.ask("reset badly", Method::PUT, &target, |request| request.json(&weak)).await;
    let new = json!({"new_password": "canary-password-new"});
    requests.ask("reset", Method::PUT, &target, |request| request.json(&new)).await;
    requests.post("ask by mail", "/api/password-resets", &json!({"email": "canary.name@example.org"})).await;
    let mailed = mails.next_mail().await.text;
    let mailed = mailed[mailed.find("phr_").unwrap()..].split_whitespace().next().unwrap().to_owned();
    requests
        .ask("reset by mail", Method::PUT, &format!("/api/password-resets/{mailed}"), |request| request.json(&new))
        .await;
    secrets.push((mailed, &[]));

    let message = json!({"sender_user_name": "canary.name", "recipient_user_name": "keeper", "body": "canary-body"});
    requests.post("send", "/api/messages", &message).await;
    requests.ask("look for it", Method::GET, "/api/users?q=canary-query", |request| request).await;
    requests
        .ask("look wrongly", Method::GET, "/api/users?limit=canary-limit&cursor=canary-cursor", |request| request)
        .await;
    requests.ask("a wrong path", Method::GET, "/api/canary-path/canary", |request| request).await;
    requests.ask("nobody", Method::GET, "/api/users/canary-person", |request| request).await;
    requests
        .ask("wrong scheme", Method::GET, "/api/users", |request| request.header("authorization", "Basic canary-basic"))
        .await;
    requests
        .ask("no JSON", Method::POST, "/api/messages", |request| {
            request.header("content-type", "application/json").body("{\"body\": \"canary-broken")
        })
        .await;
    requests.ask("export", Method::GET, "/api/users/canary.name/export", with_key).await;
    requests.ask("audit", Method::GET, "/api/admin/audit?limit=200", with_key).await;
    requests.ask("erase", Method::DELETE, "/api/users/canary.name?messages=delete", with_key).await;
    requests.ask("document", Method::GET, "/openapi.json", |request| request).await;
    requests.ask("metrics", Method::GET, "/metrics", |request| request).await;
    process.terminate().await;

    let mut log = String::new();
    for entry in std::fs::read_dir(place.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "log") {
            log.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    assert!(log.contains("DEBUG") && log.contains("a JWT was refused"), "{log}");
    // The log names each request only by the template of its route.
    assert!(log.contains("/api/password-resets/{code}"), "{log}");
    for line in log.lines() {
        assert!(!line.contains("canary"), "{line}");
        for (secret, _) in &secrets {
            assert!(!line.contains(secret.as_str()), "{line}");
        }
    }
    for (what, text) in &requests.answers {
        for (secret, given_by) in &secrets {
            assert!(
                given_by.contains(&what.as_str()) || !text.contains(secret.as_str()),
                "{what} shows {secret}: {text}"
            );
        }
        for password in [
            "canary-password",
            "argon2",
            "canary-jwt-secret",
            "canary-idempotency",
            "canary-query",
            "canary-limit",
            "canary-cursor",
            "canary-path",
            "canary-person",
            "canary-basic",
            "canary-broken",
            "canary-nobody",
            "canary-value",
        ] {
            assert!(!text.contains(password), "{what} shows {password}: {text}");
        }
        if what == "metrics" {
            assert!(!text.contains("canary") && text.contains("route=\"/api/sessions\""), "{text}");
        }
    }
    assert!(requests.answers.len() > 35);
});

/// A JWT signed with HS256.
fn signed(claims: &Value, secret: &[u8]) -> String {
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", part(br#"{"alg":"HS256"}"#), part(claims.to_string().as_bytes()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", part(tag.as_ref()))
}
