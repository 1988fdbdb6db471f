//! The cost of accounts: requests with credentials compared with the same requests under open access, and the time of a failed
//! log-in for a name with an account and for a name without one.
//!
//! Invariant: one server answers the same requests in turns, alternately without and with credentials. So the credentials are
//! the only difference between the rates. The sessions and the API key are written directly into the database, because logging
//! in a thousand users would measure argon2.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{self, Measured, Request};
use crate::credentials::{Caller, Credentials, bearer};
use crate::process::Outcome;
use crate::report::{Figure, Target};
use crate::server::{Access, Server, Setup};
use crate::settings::{Settings, say};
use crate::turns::{TURNS, median, turn};

/// Smallest allowed rate with credentials, as a share of the rate under open access.
const MIN_RATIO: f64 = 0.91;
/// Number of log-in attempts for the known name, and also the number for unknown names.
const LOG_INS: usize = 60;
/// The two median times may differ by this share.
const LOG_IN_SHARE: f64 = 0.1;
const ANSWER_AT_MOST: Duration = Duration::from_secs(10);
const KNOWN_NAME: &str = "somebody";

/// A server under open access that also accepts credentials.
pub struct Callers<'a> {
    server: &'a Server,
    credentials: &'a Credentials,
    /// The name of the database, as the figures show it.
    database: &'static str,
}

impl<'a> Callers<'a> {
    /// Checks that the server accepts valid credentials and refuses invalid ones. Otherwise the comparison means nothing.
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

    /// Measures reads. Call it before any writes, so that the pages are those of the other figures for reads.
    pub fn read(&self, settings: &Settings) -> Outcome<Vec<Figure>> {
        say(&format!("{}: reading with credentials", self.database));
        self.compare("GET 50 messages", |caller| turn(settings.reads_as(self.server.address, caller)))
    }

    /// Measures writes. `settle` runs before each load. It finishes the background work of the load before.
    pub fn write(&self, settings: &Settings, settle: impl Fn() -> Outcome<()>) -> Outcome<Vec<Figure>> {
        say(&format!("{}: writing with credentials", self.database));
        self.compare("POST a message", |caller| {
            settle()?;
            turn(settings.posts_as(self.server.address, caller, false))
        })
    }

    /// Runs one turn for each kind of caller with credentials, between two turns under open access, and repeats this.
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
            let open_rate = f64::midpoint(before, after.rate);
            let mut line = format!("  open access: {open_rate:.0}/s");
            for ((name, _, ratios), turn) in secured.iter_mut().zip(turns) {
                line.push_str(&format!(", {name}: {:.2}", turn.rate / open_rate));
                ratios.push((turn, turn.rate / open_rate));
            }
            say(&line);
            opens.push(after);
            // Reverses the order each time, so that no kind of caller always runs last.
            secured.reverse();
        }
        let open = median(opens.into_iter().map(|open| (open, open.rate)).collect());
        let figure = |(name, _, ratios): (&str, Caller<'_>, Vec<(Measured, f64)>)| {
            let (turn, ratio) = median(ratios);
            let what = format!("{what}, {}, {name}", self.database);
            Figure::paired(&what, turn, ("open access", open.1), ratio, Target::Ratio(MIN_RATIO))
        };
        Ok(secured.into_iter().map(figure).collect())
    }
}

/// Sends wrong passwords for a name with an account and for names without one, in turns, one request at a time.
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
    let open_rate = |what: &str, hundredth: usize, target| {
        let at = |times: &[Duration]| times[times.len() * hundredth / 100];
        Figure::time_beside(what, at(&unknown), ("for a known name", at(&known)), target)
    };
    let median = format!("log-in for an unknown name, {}, median", database);
    Ok([open_rate(&median, 50, Target::Same(LOG_IN_SHARE)), open_rate("… 95th percentile", 95, Target::Nothing)])
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
