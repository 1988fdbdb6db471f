//! What accounts cost: requests with credentials beside the same ones under open access, and how long a
//! log-in takes for somebody and for nobody.
//!
//! Invariant: one server answers the same requests by turns without credentials and with them, so that this is
//! what differs between the rates. Sessions and the key are written into the database: logging in a thousand
//! people would measure argon2.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rusqlite::params;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio_postgres::Client;

use crate::client::{self, Measured, Request};
use crate::data::{self, Random};
use crate::plan::{Settings, say};
use crate::process::{Context, Outcome};
use crate::report::{Figure, Target};
use crate::server::{Access, ISSUER_AND_AUDIENCE, Server, Setup};
use crate::turns::{TURNS, median, turn};

/// A credential may cost a tenth.
const LEAST_RATIO: f64 = 0.91;
/// Log-ins of somebody, and as many of nobody.
const LOG_INS: usize = 60;
/// How far the two may be apart.
const LOG_IN_SHARE: f64 = 0.1;
const SECRET_DIGITS: usize = 64;
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
const ANSWER_AT_MOST: Duration = Duration::from_secs(10);
const KNOWN_NAME: &str = "somebody";

/// What lets each user in.
pub struct Credentials {
    jwt_secret: String,
    api_key: String,
    sessions: Vec<String>,
    jwts: Vec<String>,
    made_at: SystemTime,
}

/// Who makes the requests of a load.
pub enum Caller<'a> {
    /// Without any credential.
    Nobody,
    /// Each user with their session.
    Session(&'a Credentials),
    /// One API key for everyone.
    ApiKey(&'a Credentials),
    /// Each user with their JWT.
    Jwt(&'a Credentials),
}

impl Caller<'_> {
    /// The request as this user makes it.
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

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

impl Credentials {
    /// Makes them for all users; nobody knows of them yet.
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

    /// Writes the secret that the server is to verify JWTs with.
    pub fn put_jwt_secret_into(&self, path: &Path) -> Outcome<()> {
        fs::write(path, &self.jwt_secret).context("writing the JWT secret")
    }

    /// Writes the sessions and the key. No server may have seen one of them before.
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

    /// Likewise.
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

/// A server under open access, which takes credentials as well.
pub struct Callers<'a> {
    server: &'a Server,
    credentials: &'a Credentials,
    /// What it is called in the figures.
    database: &'static str,
}

impl<'a> Callers<'a> {
    /// Looks whether the server tells good credentials from bad ones: else there would be nothing to compare.
    pub fn of(database: &'static str, server: &'a Server, credentials: &'a Credentials) -> Outcome<Self> {
        let request = |token: &str| Request::get(server.address, "/api/users").with(&bearer(token));
        for (token, expected) in [(credentials.api_key.as_str(), 200), ("phk_0", 401)] {
            let status = client::fetch(server.address, &request(token), ANSWER_AT_MOST)?.status;
            if status != expected {
                return Err(format!("the server answers {status} to credentials instead of {expected}"));
            }
        }
        Ok(Self { server, credentials, database })
    }

    /// Reads. Comes before writing: the pages are those of the other reading figures.
    pub fn read(&self, settings: &Settings) -> Outcome<Vec<Figure>> {
        say(&format!("{}: reading with credentials", self.database));
        self.compare("GET 50 messages", |caller| turn(settings.reads_as(self.server.address, caller)))
    }

    /// Writes; `settle` is done before each load.
    pub fn write(&self, settings: &Settings, settle: impl Fn() -> Outcome<()>) -> Outcome<Vec<Figure>> {
        say(&format!("{}: writing with credentials", self.database));
        self.compare("POST a message", |caller| {
            settle()?;
            turn(settings.posts_as(self.server.address, caller, false))
        })
    }

    /// Each kind of caller in turn, with open access before and after them.
    fn compare(&self, what: &str, run: impl Fn(&Caller<'_>) -> Outcome<Measured>) -> Outcome<Vec<Figure>> {
        let mut secured = [
            ("a session each", Caller::Session(self.credentials), Vec::new()),
            ("an API key and X-Act-As", Caller::ApiKey(self.credentials), Vec::new()),
            ("a JWT each", Caller::Jwt(self.credentials), Vec::new()),
        ];
        let mut opens = vec![run(&Caller::Nobody)?];
        for _ in 0..TURNS {
            let mut turns = Vec::with_capacity(secured.len());
            for (_, caller, _) in &secured {
                turns.push(run(caller)?);
            }
            let before = opens.last().map_or(0.0, |open| open.rate);
            let after = run(&Caller::Nobody)?;
            let beside = f64::midpoint(before, after.rate);
            let mut told = format!("  open access: {beside:.0}/s");
            for ((name, _, ratios), turn) in secured.iter_mut().zip(turns) {
                told.push_str(&format!(", {name}: {:.2}", turn.rate / beside));
                ratios.push((turn, turn.rate / beside));
            }
            say(&told);
            opens.push(after);
            // The other way round every other time, so that no one is always the last.
            secured.reverse();
        }
        let open = median(opens.into_iter().map(|open| (open, open.rate)).collect());
        let figure = |(name, _, ratios): (&str, Caller<'_>, Vec<(Measured, f64)>)| {
            let (turn, ratio) = median(ratios);
            let what = format!("{what}, {}, {name}", self.database);
            Figure::paired(&what, turn, ("open access", open.1), ratio, Target::Ratio(LEAST_RATIO))
        };
        Ok(secured.into_iter().map(figure).collect())
    }
}

/// Wrong passwords for a name that has one and for names that nobody has, in turns, one at a time.
pub fn log_in(database: &str, setup: &Setup) -> Outcome<[Figure; 2]> {
    say(&format!("{database}: logging in"));
    let open = Server::start(setup)?;
    let address = open.address;
    let account = json!({ "user_name": KNOWN_NAME, "password": "three blue kites" }).to_string();
    let made = client::fetch(address, &Request::post(address, "/api/users", &account, false), ANSWER_AT_MOST)?;
    if made.status != 201 {
        return Err(format!("making an account: {} {}", made.status, String::from_utf8_lossy(&made.body)));
    }
    drop(open);
    let secured = Server::start(&Setup { access: Access::Secured, ..setup.clone() })?;
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for round in 0..LOG_INS {
        let nobody = format!("nobody{round}");
        if round % 2 == 0 {
            known.push(fail_to_log_in(secured.address, KNOWN_NAME)?);
            unknown.push(fail_to_log_in(secured.address, &nobody)?);
        } else {
            unknown.push(fail_to_log_in(secured.address, &nobody)?);
            known.push(fail_to_log_in(secured.address, KNOWN_NAME)?);
        }
    }
    known.sort();
    unknown.sort();
    let beside = |what: &str, hundredth: usize, target| {
        let at = |times: &[Duration]| times[times.len() * hundredth / 100];
        Figure::time_beside(what, at(&unknown), ("for a known name", at(&known)), target)
    };
    let median = format!("log-in for an unknown name, {}, median", database);
    Ok([beside(&median, 50, Target::Same(LOG_IN_SHARE)), beside("… 95th percentile", 95, Target::Nothing)])
}

fn fail_to_log_in(address: SocketAddr, user_name: &str) -> Outcome<Duration> {
    let body = json!({ "user_name": user_name, "password": "three red kites" }).to_string();
    let request = Request::post(address, "/api/sessions", &body, false);
    let asked_at = Instant::now();
    let answer = client::fetch(address, &request, ANSWER_AT_MOST)?;
    let took = asked_at.elapsed();
    match answer.status {
        401 => Ok(took),
        status => Err(format!("a wrong password was answered {status}")),
    }
}
