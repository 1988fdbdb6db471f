//! Callers with credentials, and a search through everything that a database keeps.

use std::process::Command;

use posthaste::domain::api_keys::{self, NewApiKey};
use posthaste::domain::auth::Access;
use posthaste::time::Timestamp;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::place::Kind;
use super::server::Answer;
use super::{Options, Place, Server, answer_of};

/// Someone who shows a token.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    pub server: &'a Server,
    pub token: &'a str,
    pub act_as: Option<&'a str>,
}

impl<'a> Caller<'a> {
    pub fn new(server: &'a Server, token: &'a str) -> Self {
        Self { server, token, act_as: None }
    }

    /// The same program, acting for a person.
    pub fn acting_as(self, name: &'a str) -> Self {
        Self { act_as: Some(name), ..self }
    }

    pub fn request(&self, method: Method, target: &str) -> RequestBuilder {
        let request = self.server.request(method, target).bearer_auth(self.token);
        match self.act_as {
            Some(name) => request.header("x-act-as", name),
            None => request,
        }
    }

    pub async fn get(&self, target: &str) -> Answer {
        answer_of(self.request(Method::GET, target)).await
    }

    pub async fn delete(&self, target: &str) -> Answer {
        answer_of(self.request(Method::DELETE, target)).await
    }

    pub async fn post(&self, target: &str, body: &Value) -> Answer {
        answer_of(self.request(Method::POST, target).json(body)).await
    }

    pub async fn put(&self, target: &str, body: &Value) -> Answer {
        answer_of(self.request(Method::PUT, target).json(body)).await
    }

    /// A POST with an `Idempotency-Key`.
    pub async fn post_once(&self, target: &str, key: &str, body: &Value) -> Answer {
        answer_of(self.request(Method::POST, target).header("idempotency-key", key).json(body)).await
    }
}

/// The demo's people behind secured access.
pub fn secured() -> Options {
    Options { access: Access::Secured, ..Options::default() }
}

/// A key that the operator made.
pub async fn api_key(server: &Server, scopes: &[&str]) -> String {
    let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let new = NewApiKey { name: "a test".into(), scopes, expires_at: None };
    api_keys::create_for_operator(&server.app, new).await.unwrap()
}

/// A session of a person, which open access gives without a password.
pub async fn session(open: &Server, user_name: &str) -> String {
    let answer = open.post("/api/sessions", &json!({"user_name": user_name})).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json()["token"].as_str().unwrap().to_owned()
}

/// Asks until the answer has this status, for a second at most: what is revoked ends within that time.
pub async fn within_a_second(caller: Caller<'_>, target: &str, status: u16) -> Answer {
    let started = std::time::Instant::now();
    loop {
        let answer = caller.get(target).await;
        if answer.status.as_u16() == status {
            return answer;
        }
        assert!(started.elapsed().as_millis() < 1_000, "still {} after a second", answer.status);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Everything that the place's database keeps: the bytes of SQLite's files, or what pg_dump writes.
pub fn everything_kept(place: &Place) -> Vec<u8> {
    match place.kind {
        Kind::Sqlite => {
            let mut bytes = Vec::new();
            for suffix in ["", "-wal", "-shm"] {
                let mut path = place.sqlite_file().into_os_string();
                path.push(suffix);
                bytes.extend(std::fs::read(&path).unwrap_or_default());
            }
            assert!(bytes.starts_with(b"SQLite format 3"));
            bytes
        }
        Kind::Postgres => {
            let folder = std::env::var("POSTHASTE_TEST_POSTGRES_BIN").expect("run make test, or scripts/with-postgres");
            let mut command = Command::new(format!("{folder}/pg_dump"));
            let output = command.arg(place.postgres_url()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout.windows(15).any(|window| window == b"messaging.users"));
            output.stdout
        }
    }
}

/// Whether a word is in some bytes: as it stands, or as a dump writes bytes.
pub fn holds(kept: &[u8], word: &str) -> bool {
    let hex: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
    [word, &hex].iter().any(|form| kept.windows(form.len()).any(|window| window == form.as_bytes()))
}

/// A moment to set a clock by hand to.
pub fn moment(text: &str) -> i64 {
    Timestamp::parse(text).unwrap().micros()
}
