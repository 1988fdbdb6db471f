//! Credentials of all users, and requests that carry them.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rusqlite::params;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio_postgres::Client;

use crate::client::Request;
use crate::data::{self, Random};
use crate::process::{Context, Outcome};
use crate::server::ISSUER_AND_AUDIENCE;

const SECRET_DIGITS: usize = 64;
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The credentials of all users.
pub struct Credentials {
    jwt_secret: String,
    /// The API key with which the client acts as each user.
    pub api_key: String,
    sessions: Vec<String>,
    jwts: Vec<String>,
    made_at: SystemTime,
}

/// The kind of caller that makes the requests of a load.
pub enum Caller<'a> {
    /// No credentials.
    Nobody,
    /// Each user with a session of their own.
    Session(&'a Credentials),
    /// One API key, with which the client acts as each user.
    ApiKey(&'a Credentials),
    /// Each user with a JWT of their own.
    Jwt(&'a Credentials),
}

impl Caller<'_> {
    /// Returns the request with the credentials of this user.
    pub fn sign(&self, user: u64, request: Request) -> Request {
        let index = user as usize - 1;
        match self {
            Caller::Nobody => request,
            Caller::Session(credentials) => request.with(&bearer(&credentials.sessions[index])),
            Caller::ApiKey(credentials) => {
                request.with(&format!("X-Act-As: {}", data::user_name(user))).with(&bearer(&credentials.api_key))
            }
            Caller::Jwt(credentials) => request.with(&bearer(&credentials.jwts[index])),
        }
    }
}

/// The header of a request with a bearer token.
pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

impl Credentials {
    /// Generates credentials for all users. They are not in a database yet.
    pub fn make() -> Outcome<Self> {
        let mut random = Random::from_clock(u64::from(std::process::id()));
        let jwt_secret = digits(&mut random);
        let key = hmac::Key::new(hmac::HMAC_SHA256, jwt_secret.as_bytes());
        let made_at = SystemTime::now();
        let expires_at_s = (made_at + LIFETIME).duration_since(UNIX_EPOCH).context("reading the clock")?.as_secs();
        Ok(Self {
            api_key: format!("phk_{}", digits(&mut random)),
            sessions: data::users().map(|_| format!("phs_{}", digits(&mut random))).collect(),
            jwts: data::users().map(|user| jwt(&key, &data::user_name(user), expires_at_s)).collect(),
            jwt_secret,
            made_at,
        })
    }

    /// Writes the secret with which the server verifies JWTs.
    pub fn put_jwt_secret_into(&self, path: &Path) -> Outcome<()> {
        fs::write(path, &self.jwt_secret).context("writing the JWT secret")
    }

    /// Writes the sessions and the API key. No server may have seen one of them before.
    pub fn put_into_sqlite(&self, path: &Path) -> Outcome<()> {
        self.write_sqlite(path).context(format!("writing sessions into {}", path.display()))
    }

    fn write_sqlite(&self, path: &Path) -> rusqlite::Result<()> {
        let microseconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
        let (now, end) = (microseconds(self.made_at), microseconds(self.made_at + LIFETIME));
        let mut database = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let transaction = database.transaction()?;
        {
            let mut insert = transaction.prepare(
                "INSERT INTO sessions (token_hash, user_id, created_at, last_seen_at, expires_at, ends_at, agent, address)
                 VALUES (?1, ?2, ?3, ?3, ?4, ?4, 'bench', '127.0.0.1')",
            )?;
            for (user, token) in data::users().zip(&self.sessions) {
                insert.execute(params![hash(token), user as i64, now, end])?;
            }
        }
        transaction.execute(
            "INSERT INTO api_keys (key_hash, name, scopes, created_at) VALUES (?1, 'bench', 'read write', ?2)",
            params![hash(&self.api_key), now],
        )?;
        transaction.commit()
    }

    /// Writes the sessions and the API key. No server may have seen one of them before.
    pub async fn put_into_postgres(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let users: Vec<i64> = data::users().map(|user| user as i64).collect();
        let hashes: Vec<Vec<u8>> = self.sessions.iter().map(|token| hash(token)).collect();
        client
            .execute(
                "INSERT INTO messaging.sessions (token_hash, user_id, created_at, last_seen_at, expires_at, ends_at, agent,
                     address)
                 SELECT token_hash, user_id, $1, $1, $2, $2, 'bench', '127.0.0.1'
                 FROM unnest($3::bytea[], $4::bigint[]) AS rows (token_hash, user_id)",
                &[&self.made_at, &(self.made_at + LIFETIME), &hashes, &users],
            )
            .await?;
        client
            .execute(
                "INSERT INTO messaging.api_keys (key_hash, name, scopes, created_at)
                 VALUES ($1, 'bench', 'read write', $2)",
                &[&hash(&self.api_key), &self.made_at],
            )
            .await?;
        Ok(())
    }
}

fn digits(random: &mut Random) -> String {
    let mut text = vec![b'0'; SECRET_DIGITS];
    random.write_hex(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

fn jwt(key: &hmac::Key, user_name: &str, expires_at_s: u64) -> String {
    let claims = json!({
        "iss": ISSUER_AND_AUDIENCE, "aud": ISSUER_AND_AUDIENCE, "sub": user_name, "exp": expires_at_s,
    });
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(key, message.as_bytes()));
    format!("{message}.{signature}")
}
