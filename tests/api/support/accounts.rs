//! Users with passwords, API keys, and calls with credentials.

use aws_lc_rs::hmac;
use posthaste::domain::access::principal::Access;
use posthaste::domain::identity::api_keys::{self, NewApiKey};
use posthaste::domain::identity::users::{self, Registration};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::{Answer, Options, Place, Server, answer_of};

/// The password of every user, unless a test needs another one.
pub const PASSWORD: &str = "what's up, doc?";

/// Options for secured access without the demo users.
pub fn secured() -> Options {
    Options { access: Access::Secured, demo: false, ..Options::default() }
}

impl Server {
    /// A server with secured access and these users. Each has the email address NAME@example.org.
    pub async fn secured(place: &Place, people: &[&str]) -> Self {
        Self::secured_with(place, secured(), people).await
    }

    pub async fn secured_with(place: &Place, options: Options, people: &[&str]) -> Self {
        let server = Self::start_with(place, options).await;
        for name in people {
            server.add_person(name, Some(PASSWORD), false).await;
        }
        server
    }

    pub async fn add_person(&self, user_name: &str, password: Option<&str>, admin: bool) {
        let registration = Registration {
            user_name: user_name.into(),
            email: Some(format!("{user_name}@example.org")),
            password: password.map(str::to_owned),
            admin,
            ..Registration::default()
        };
        users::create(&self.app, registration).await.unwrap();
    }

    /// Creates an API key with these scopes.
    pub async fn api_key(&self, scopes: &[&str]) -> String {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let new = NewApiKey { name: "test".into(), scopes, expires_at: None };
        api_keys::create_for_operator(&self.app, new).await.unwrap()
    }

    pub async fn log_in(&self, body: Value) -> Answer {
        self.post("/api/sessions", &body).await
    }

    /// Logs in with [`PASSWORD`]. Returns the token.
    pub async fn token_of(&self, user_name: &str) -> String {
        let answer = self.log_in(json!({"user_name": user_name, "password": PASSWORD})).await;
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    pub fn request_as(&self, token: &str, method: Method, target: &str) -> RequestBuilder {
        self.request(method, target).bearer_auth(token)
    }

    pub async fn get_as(&self, token: &str, target: &str) -> Answer {
        answer_of(self.request_as(token, Method::GET, target)).await
    }

    pub async fn delete_as(&self, token: &str, target: &str) -> Answer {
        answer_of(self.request_as(token, Method::DELETE, target)).await
    }

    pub async fn post_as(&self, token: &str, target: &str, body: &Value) -> Answer {
        answer_of(self.request_as(token, Method::POST, target).json(body)).await
    }

    pub async fn put_as(&self, token: &str, target: &str, body: &Value) -> Answer {
        answer_of(self.request_as(token, Method::PUT, target).json(body)).await
    }

    pub async fn patch_as(&self, token: &str, target: &str, body: &Value) -> Answer {
        answer_of(self.request_as(token, Method::PATCH, target).json(body)).await
    }

    /// The number of passwords that the server has hashed or verified so far.
    pub async fn hashes(&self) -> u64 {
        let metrics = String::from_utf8(self.get("/metrics").await.bytes).unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("posthaste_password_hashes_total "));
        line.expect("no posthaste_password_hashes_total").parse().unwrap()
    }
}

/// Computes the code that an authenticator app shows at the time `at_micros`. Implements RFC 6238, RFC 4226 and RFC 4648
/// without using the server's code.
pub fn authenticator(secret: &str, at_micros: i64) -> String {
    let mut bits = 0_u64;
    let mut count = 0;
    let mut key = Vec::new();
    for letter in secret.bytes() {
        let value = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".iter().position(|known| *known == letter).unwrap();
        bits = bits << 5 | value as u64;
        count += 5;
        if count >= 8 {
            count -= 8;
            key.push((bits >> count) as u8);
        }
    }
    let step = (at_micros / 30_000_000) as u64;
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key), &step.to_be_bytes());
    let tag = tag.as_ref();
    let offset = usize::from(tag[19] & 15);
    let number = u32::from_be_bytes(tag[offset..offset + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}

/// The body of an answer without its request id.
pub fn without_request_id(answer: &Answer) -> String {
    let text = String::from_utf8(answer.bytes.clone()).unwrap();
    let id = answer.header("x-request-id").expect("the answer has no X-Request-Id");
    assert!(text.contains(id), "{text}");
    text.replace(id, "")
}
