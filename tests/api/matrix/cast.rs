//! All callers: users, administrators, API keys, and callers whose credentials are not valid.
//!
//! Two servers work on one database. The tests of permissions send their requests to the secured server. The other server has
//! open access. Everything that a test needs is created there, where the permissions under test do not matter.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use posthaste::base::time::Clock;
use posthaste::domain::access::principal::Access;
use posthaste::domain::files::gif_search::Rating;
use posthaste::domain::files::gif_search::{GifSettings, GifSource};
use posthaste::domain::identity::jwt::{JwtSettings, KeySource};
use posthaste::mail::MailSettings;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::support::callers::now_micros;
use crate::support::mail::MailServer;
use crate::support::server::Answer;
use crate::support::{Options, Place, Server, answer_of};

const SECRET: &[u8] = b"a secret that only the backend has";
const ISSUER: &str = "https://backend.example.org";
const AUDIENCE: &str = "posthaste";
const DAY_S: i64 = 86_400;

/// The name of an erased user, and a name that was never used.
pub const ERASED: &str = "erased";
pub const NEVER: &str = "nobody-ever";

pub struct Fixture {
    pub server: Server,
    pub open_server: Server,
    pub mails: Mutex<MailServer>,
    /// Session tokens of users.
    other: String,
    admin: String,
    /// API keys, each with the name of its column in the table: the first letter of its scope, or `*` for all scopes.
    keys: Vec<(&'static str, String)>,
    /// Callers without valid credentials.
    invalid: Vec<Caller>,
    made: AtomicI64,
}

/// A caller: a name for messages, a column of the table, and the headers with its credentials.
#[derive(Clone, Debug)]
pub struct Caller {
    pub name: String,
    /// The caller's column in the table.
    pub column: String,
    pub headers: Vec<(&'static str, String)>,
}

impl Caller {
    fn new(name: &str, column: &str, headers: Vec<(&'static str, String)>) -> Self {
        Self { name: name.into(), column: column.into(), headers }
    }

    fn unauthenticated(name: &str, headers: Vec<(&'static str, String)>) -> Self {
        Self::new(name, "no", headers)
    }
}

/// The user whom a request is about.
#[derive(Clone, Debug)]
pub struct Subject {
    pub user_name: String,
    pub email: String,
    pub token: String,
}

fn bearer(token: &str) -> (&'static str, String) {
    ("authorization", format!("Bearer {token}"))
}

/// The headers that a browser sends for a page of this origin: the cookie and `Origin`.
fn cookie(token: &str, origin: &str) -> Vec<(&'static str, String)> {
    vec![("cookie", format!("posthaste_session={token}")), ("origin", origin.to_owned())]
}

fn now_s() -> i64 {
    now_micros() / 1_000_000
}

/// A JWT as the operator's backend signs it.
pub fn jwt(subject: &str, secret: &[u8], expires_in_s: i64) -> String {
    let claims = json!({"sub": subject, "iss": ISSUER, "aud": AUDIENCE, "exp": now_s() + expires_in_s});
    let key = jsonwebtoken::EncodingKey::from_secret(secret);
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

#[track_caller]
fn expect_status(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.bytes));
}

impl Fixture {
    /// Starts with closed registration.
    pub async fn start(place: &Place) -> Self {
        Self::start_with(place, false).await
    }

    pub async fn start_with(place: &Place, registration_open: bool) -> Self {
        let (token, key) = Self::expired_credentials(place).await;
        let mails = MailServer::start().await;
        let mail = MailSettings { url: mails.url(), from: "posthaste@example.org".into() };
        let gifs = Some(GifSettings { source: GifSource::Local, rating: Rating::R });
        let options = Options {
            demo: false,
            mail: Some(mail.clone()),
            gifs: gifs.clone(),
            webhook_allow_private: true,
            ..Options::default()
        };
        let open_server = Server::start_with(place, options).await;
        let file = place.folder.path().join("jwt-secret");
        std::fs::write(&file, SECRET).unwrap();
        let jwt = JwtSettings {
            keys: KeySource::Hs256File(file),
            issuer: ISSUER.into(),
            audience: AUDIENCE.into(),
            provision: false,
        };
        let options = Options {
            access: Access::Secured,
            demo: false,
            registration_open,
            jwt: Some(jwt),
            mail: Some(mail),
            gifs,
            ..Options::default()
        };
        let server = Server::start_with(place, options).await;
        let mut fixture = Self {
            server,
            open_server,
            mails: Mutex::new(mails),
            other: String::new(),
            admin: String::new(),
            keys: Vec::new(),
            invalid: Vec::new(),
            made: AtomicI64::new(0),
        };
        fixture.other = fixture.person("other", false).await;
        fixture.admin = fixture.person("admin", true).await;
        for (letters, scopes) in
            [("r", vec!["read"]), ("w", vec!["write"]), ("a", vec!["admin"]), ("*", vec!["read", "write", "admin"])]
        {
            let key = fixture.key(&scopes).await.0;
            fixture.keys.push((letters, key));
        }
        fixture.invalid = fixture.invalid_callers(&token, &key).await;
        fixture
    }

    /// Creates a session of an administrator and an API key with every scope. Both have expired already.
    async fn expired_credentials(place: &Place) -> (String, String) {
        let past = Clock::Manual(Arc::new(AtomicI64::new((now_s() - 31 * DAY_S) * 1_000_000)));
        let server = Server::start_with(place, Options { demo: false, clock: past, ..Options::default() }).await;
        expect_status(&server.post("/api/users", &json!({"user_name": "late"})).await, 201);
        let role = server.request(Method::PUT, "/api/admin/users/late/role").json(&json!({"role": "admin"}));
        expect_status(&answer_of(role).await, 204);
        let session = server.post("/api/sessions", &json!({"user_name": "late"})).await.json();
        let expires_at = Clock::System.now().days_before(1).to_string();
        let key = json!({"name": "late", "scopes": ["read", "write", "admin"], "expires_at": expires_at});
        let key = server.post("/api/api-keys", &key).await.json();
        server.stop().await;
        (session["token"].as_str().unwrap().into(), key["key"].as_str().unwrap().into())
    }

    /// Creates the callers with invalid credentials. Nearly all of their credentials had every permission, so that a caller who
    /// is accepted by mistake succeeds and the test notices it.
    async fn invalid_callers(&self, expired_session: &str, expired_key: &str) -> Vec<Caller> {
        let (ended, banned, erased) =
            (self.token("admin").await, self.person("banned", true).await, self.person(ERASED, true).await);
        let (revoked, id) = self.key(&["read", "write", "admin"]).await;
        let of_banned = jwt("banned", SECRET, 600);
        let of_erased = jwt(ERASED, SECRET, 600);
        // These credentials were valid, and the server has accepted each of them.
        for token in [&ended, &banned, &erased, &revoked, &of_banned, &of_erased] {
            expect_status(&answer_of(self.server.request(Method::GET, "/api/users").bearer_auth(token)).await, 200);
        }
        for (method, target, token) in [
            (Method::DELETE, "/api/sessions/current".to_owned(), &ended),
            (Method::PUT, "/api/admin/users/banned/ban".to_owned(), &self.admin),
            (Method::DELETE, format!("/api/users/{ERASED}"), &self.admin),
            (Method::DELETE, format!("/api/api-keys/{id}"), &self.admin),
        ] {
            expect_status(&answer_of(self.server.request(method, &target).bearer_auth(token)).await, 204);
        }
        let made_up = format!("phs_{}", "A".repeat(43));
        let with_token = [
            ("a session that expired", expired_session),
            ("a session that was ended", &ended),
            ("a banned administrator's session", &banned),
            ("an erased administrator's session", &erased),
            ("an API key that expired", expired_key),
            ("an API key that was revoked", &revoked),
            ("a JWT that expired", &jwt("admin", SECRET, -600)),
            ("a JWT of another backend", &jwt("admin", b"a secret that anybody could think of", 600)),
            ("a banned administrator's JWT", &of_banned),
            ("an erased administrator's JWT", &of_erased),
            ("a JWT of an unknown user", &jwt(NEVER, SECRET, 600)),
            ("a JWT of an administrator in other letters", &jwt("ADMIN", SECRET, 600)),
            ("a token that was made up", &made_up),
        ];
        let mut invalid = vec![
            Caller::unauthenticated("no credentials", Vec::new()),
            Caller::unauthenticated("only X-Act-As", vec![("x-act-as", "admin".into())]),
            Caller::unauthenticated("another scheme", vec![("authorization", "Basic YWRtaW46YWRtaW4=".into())]),
            Caller::unauthenticated("two tokens", vec![bearer(&self.admin), bearer(&self.admin)]),
            Caller::unauthenticated("a cookie of an ended session", cookie(&ended, &self.server_origin())),
        ];
        invalid.extend(with_token.map(|(name, token)| Caller::unauthenticated(name, vec![bearer(token)])));
        invalid
    }

    /// All callers, with the credentials of this subject.
    pub fn callers(&self, subject: &Subject) -> Vec<Caller> {
        let mut callers = self.invalid.clone();
        callers.extend([
            Caller::new("the subject", "me", vec![bearer(&subject.token)]),
            Caller::new("the subject by JWT", "me", vec![bearer(&jwt(&subject.user_name, SECRET, 600))]),
            Caller::new("the subject by cookie", "me", cookie(&subject.token, &self.server_origin())),
            Caller::new("the subject by a foreign page", "fp", cookie(&subject.token, "https://evil.example")),
            Caller::new("the subject by a page without origin", "fp", cookie(&subject.token, "null")),
            Caller::new("another user", "ot", vec![bearer(&self.other)]),
            Caller::new("another user by JWT", "ot", vec![bearer(&jwt("other", SECRET, 600))]),
            Caller::new("an administrator", "ad", vec![bearer(&self.admin)]),
            Caller::new("an administrator by JWT", "ad", vec![bearer(&jwt("admin", SECRET, 600))]),
            Caller::new(
                "a session acting as itself",
                "ax",
                vec![bearer(&subject.token), ("x-act-as", subject.user_name.clone())],
            ),
            Caller::new(
                "an administrator acting as the subject",
                "ax",
                vec![bearer(&self.admin), ("x-act-as", subject.user_name.clone())],
            ),
        ]);
        for (letters, key) in &self.keys {
            callers.push(Caller::new(&format!("key {letters}"), letters, vec![bearer(key)]));
            for (column, person) in [("m", subject.user_name.as_str()), ("a", "admin")] {
                let name = format!("key {letters} as {person}");
                let headers = vec![bearer(key), ("x-act-as", person.to_owned())];
                callers.push(Caller::new(&name, &format!("{letters}/{column}"), headers));
            }
        }
        callers
    }

    /// Sends a request to the secured server as one of the callers. The request id is fixed, so that answers can be compared
    /// byte for byte.
    pub async fn call(&self, caller: &Caller, method: &str, target: &str, body: Option<&Value>) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.server.request(method, target).header("x-request-id", "the-same-for-all");
        for (name, value) in &caller.headers {
            request = request.header(*name, value);
        }
        if target.starts_with("/api/uploads") {
            request =
                request.header("tus-resumable", "1.0.0").header("upload-length", 1_000).header("upload-offset", 0);
            if let Some(body) = body {
                request = request.header("content-type", "application/offset+octet-stream").body(body.to_string());
            }
            return answer_of(request).await;
        }
        answer_of(with_body(request, body)).await
    }

    /// Creates a user with an email address and a session, and with a password if one is given.
    pub async fn subject(&self, password: Option<&str>) -> Subject {
        let user_name = self.new_name("subject");
        let email = format!("{user_name}@example.org");
        let user = json!({"user_name": user_name, "email": email, "password": password});
        expect_status(&self.open_server.post("/api/users", &user).await, 201);
        let token = self.token(&user_name).await;
        Subject { user_name, email, token }
    }

    /// A name that no user has.
    pub fn new_name(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.made.fetch_add(1, Ordering::Relaxed))
    }

    /// Creates an API key. Returns its text and its id.
    pub async fn key(&self, scopes: &[&str]) -> (String, i64) {
        let answer = self.open_server.post("/api/api-keys", &json!({"name": "key", "scopes": scopes})).await;
        expect_status(&answer, 201);
        let key = answer.json();
        (key["key"].as_str().unwrap().into(), key["id"].as_i64().unwrap())
    }

    /// Creates a session of a user.
    pub async fn token(&self, user_name: &str) -> String {
        let answer = self.open_server.post("/api/sessions", &json!({"user_name": user_name})).await;
        expect_status(&answer, 201);
        answer.json()["token"].as_str().unwrap().into()
    }

    /// Sends a request to the server with open access as a user. It must succeed.
    pub async fn act_as(&self, user_name: &str, method: Method, target: &str, body: Option<&Value>) -> Answer {
        let request = self.open_server.request(method, target).header("x-act-as", user_name);
        let answer = answer_of(with_body(request, body)).await;
        assert!(answer.status.is_success(), "{target}: {}", String::from_utf8_lossy(&answer.bytes));
        answer
    }

    fn server_origin(&self) -> String {
        format!("http://{}", self.server.address)
    }

    async fn person(&self, user_name: &str, admin: bool) -> String {
        expect_status(&self.open_server.post("/api/users", &json!({"user_name": user_name})).await, 201);
        if admin {
            let target = format!("/api/admin/users/{user_name}/role");
            let role = self.open_server.request(Method::PUT, &target).json(&json!({"role": "admin"}));
            expect_status(&answer_of(role).await, 204);
        }
        self.token(user_name).await
    }
}

fn with_body(request: RequestBuilder, body: Option<&Value>) -> RequestBuilder {
    match body {
        Some(Value::String(bytes)) => request.body(BASE64_STANDARD.decode(bytes).unwrap()),
        Some(body) => request.json(body),
        None => request,
    }
}
