//! Callers with credentials.

use posthaste::base::time::{Clock, Timestamp};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::server::Answer;
use super::{Options, Server, accounts, answer_of};

/// A caller with a token.
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

    /// The same token, acting as a user.
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

/// Options for secured access with the users of the demo.
pub fn secured() -> Options {
    Options { demo: true, ..accounts::secured() }
}

/// Creates a session of a user and returns its token. Under open access this needs no password.
pub async fn session(open: &Server, user_name: &str) -> String {
    let answer = open.post("/api/sessions", &json!({"user_name": user_name})).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json()["token"].as_str().unwrap().to_owned()
}

/// Repeats a GET until the answer has this status. This must happen within one second, because a revocation must take effect
/// within one second.
pub async fn within_a_second(caller: Caller<'_>, target: &str, status: u16) -> Answer {
    let started = std::time::Instant::now();
    loop {
        let answer = caller.get(target).await;
        if answer.status.as_u16() == status {
            return answer;
        }
        assert!(started.elapsed().as_millis() < 1_000, "the status is still {} after a second", answer.status);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Whether `kept` contains a word, either as it is or in hexadecimal, as a dump of the database writes bytes.
pub fn holds(kept: &[u8], word: &str) -> bool {
    [word, &hex(word.as_bytes())].iter().any(|form| kept.windows(form.len()).any(|window| window == form.as_bytes()))
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The present time in microseconds since 1970.
pub fn now_micros() -> i64 {
    Clock::System.now().micros()
}

/// Parses a time. Returns microseconds since 1970, the unit of a manual clock.
pub fn moment(text: &str) -> i64 {
    Timestamp::parse(text).unwrap().micros()
}
