//! JSON Web Key Sets: the public keys of the operator's backend, from a file or a URL.
//!
//! Invariants:
//! - A key has one algorithm, fixed when the set is read. Symmetric keys in a set are never used.
//! - One fetch at a time, and not often, whatever callers send. A fetch has a deadline and a size, follows no redirect,
//!   and does not end because the caller who began it went away.
//! - All intervals are counted in the time that is passed in, either way, so a clock that is set back ends them too.

use std::collections::HashMap;
use std::error::Error as _;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::sync::watch;
use url::{Host, Url};

use super::{KID_LIMIT_CHARS, read_at_most, refused};
use crate::base::error::{Error, Result};
use crate::base::tasks;
use crate::base::time::Timestamp;

/// Bytes of a set.
const SET_LIMIT_BYTES: usize = 256 * 1024;
/// Keys of a set.
const KEY_LIMIT: usize = 100;
/// Bits of an RSA key. The upper bound keeps one verification cheap.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;
/// Bytes of an RSA key's exponent; 65537 has three.
const RSA_EXPONENT_LIMIT_BYTES: usize = 4;
/// Bytes of a coordinate on P-256 and of a point on Ed25519.
const COORDINATE_BYTES: usize = 32;
/// For connecting, and again for everything together.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

const MICROS_PER_SECOND: i64 = 1_000_000;
/// From this age on keys are fetched again, while they go on verifying.
const REFRESH_MICROS: i64 = 600 * MICROS_PER_SECOND;
/// From this age on they verify only after a try to fetch them: nobody had asked for long, and a key that was taken back
/// in the meantime should not be good once more.
const RECHECK_MICROS: i64 = 2 * REFRESH_MICROS;
/// From this age on they verify nothing.
const STALE_MICROS: i64 = 86_400 * MICROS_PER_SECOND;
/// Between two fetches, however many tokens name keys that nobody knows.
const FETCH_INTERVAL_MICROS: i64 = 30 * MICROS_PER_SECOND;
/// Between two fetches while there are no keys at all, and so nobody gets in.
const FIRST_FETCH_INTERVAL_MICROS: i64 = 2 * MICROS_PER_SECOND;
/// Between two looks at a file.
const FILE_INTERVAL_MICROS: i64 = 10 * MICROS_PER_SECOND;

/// Where a set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    File(PathBuf),
    Url(Url),
}

impl Place {
    /// Reads what the operator wrote. It is not repeated in the answer: a URL may hold a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("--jwt-jwks is empty: name a file or a URL".into());
        }
        if !text.contains("://") {
            return Ok(Self::File(text.into()));
        }
        let mut url = Url::parse(text).map_err(|error| format!("--jwt-jwks is not a URL: {error}"))?;
        let loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
            None => false,
        };
        match url.scheme() {
            "https" => {}
            "http" if loopback => {}
            "http" => return Err("--jwt-jwks must be https: on the way, http keys could be exchanged".into()),
            _ => return Err("--jwt-jwks must be a file, or a URL with https".into()),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("--jwt-jwks must not hold a user name or password".into());
        }
        url.set_fragment(None);
        Ok(Self::Url(url))
    }
}

impl fmt::Display for Place {
    /// For the log: without the query, which may hold a key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(formatter),
            Self::Url(url) => write!(formatter, "{}{}", url.origin().ascii_serialization(), url.path()),
        }
    }
}

/// A set that is kept up to date.
pub(super) enum Jwks {
    File(Watched),
    Url(Arc<Remote>),
}

impl Jwks {
    pub(super) async fn open(place: Place, now: Timestamp) -> Result<Self, String> {
        match place {
            Place::File(path) => Ok(Self::File(Watched::open(path, now).await?)),
            Place::Url(url) => Ok(Self::Url(Remote::open(url, FETCH_TIMEOUT, now).await?)),
        }
    }

    /// The key for a token with this `kid` and this algorithm.
    pub(super) async fn find(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<Arc<DecodingKey>> {
        let found = match self {
            Self::File(file) => file.find(kid, algorithm, now).await,
            Self::Url(remote) => remote.find(kid, algorithm, now).await?,
        };
        match found {
            Found::Key(key) => Ok(key),
            Found::UnknownKid => Err(refused("no key has its kid")),
            Found::Refused(reason) => Err(refused(reason)),
        }
    }
}

/// What a set says about a token.
pub(super) enum Found {
    Key(Arc<DecodingKey>),
    UnknownKid,
    Refused(&'static str),
}

/// The keys of a set that can verify.
pub(super) struct KeySet {
    keys: Vec<Key>,
    by_kid: HashMap<String, usize>,
    /// Why the first key that cannot verify cannot.
    first_reason: Option<&'static str>,
}

struct Key {
    algorithm: Algorithm,
    key: Arc<DecodingKey>,
}

impl KeySet {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Form {
            keys: Vec<Value>,
        }

        // Not the parser's own words: they may quote what was read.
        let form: Form = serde_json::from_slice(bytes)
            .map_err(|error| format!("no JSON Web Key Set (line {}, column {})", error.line(), error.column()))?;
        if form.keys.len() > KEY_LIMIT {
            return Err(format!("more than {KEY_LIMIT} keys"));
        }
        let mut set = Self { keys: Vec::new(), by_kid: HashMap::new(), first_reason: None };
        for value in form.keys {
            if let Err(reason) = set.add(value) {
                tracing::debug!(reason, "a key of the set is not used");
                set.first_reason.get_or_insert(reason);
            }
        }
        Ok(set)
    }

    fn add(&mut self, value: Value) -> Result<(), &'static str> {
        let jwk: Jwk = serde_json::from_value(value).map_err(|_| "it has not the form of a key")?;
        let key = Key::new(&jwk)?;
        if let Some(kid) = jwk.kid {
            if kid.chars().count() > KID_LIMIT_CHARS {
                return Err("its kid is too long");
            }
            if self.by_kid.contains_key(&kid) {
                return Err("an earlier key has the same kid");
            }
            self.by_kid.insert(kid, self.keys.len());
        }
        self.keys.push(key);
        Ok(())
    }

    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Found {
        if let Some(kid) = kid {
            return match self.by_kid.get(kid).and_then(|index| self.keys.get(*index)) {
                None => Found::UnknownKid,
                Some(key) if key.algorithm == algorithm => Found::Key(Arc::clone(&key.key)),
                Some(_) => Found::Refused("its algorithm is not the key's"),
            };
        }
        let mut fitting = self.keys.iter().filter(|key| key.algorithm == algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Found::Key(Arc::clone(&key.key)),
            (None, _) => Found::Refused("it has no kid, and no key has its algorithm"),
            (Some(_), Some(_)) => Found::Refused("it has no kid, and several keys have its algorithm"),
        }
    }
}

/// What is read of a key.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<IgnoredAny>,
}

impl Key {
    fn new(jwk: &Jwk) -> Result<Self, &'static str> {
        let (algorithm, name) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => (Algorithm::RS256, "RS256"),
            ("EC", Some("P-256")) => (Algorithm::ES256, "ES256"),
            ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, "EdDSA"),
            _ => return Err("its kind is not used here: RSA, EC with P-256, OKP with Ed25519"),
        };
        if jwk.alg.as_deref().is_some_and(|alg| alg != name) {
            return Err("its alg is not used here: RS256, ES256, EdDSA");
        }
        let for_something_else = jwk.purpose.as_deref().is_some_and(|purpose| purpose != "sig")
            || jwk.key_ops.as_ref().is_some_and(|operations| operations.iter().all(|name| name != "verify"));
        if for_something_else {
            return Err("its use or key_ops say that it is not for verifying");
        }
        if jwk.d.is_some() {
            return Err("it is a private key, which nobody but the signer may have");
        }
        let key = match algorithm {
            Algorithm::RS256 => rsa(jwk)?,
            Algorithm::ES256 => {
                let mut point = vec![4];
                point.extend(coordinate(jwk.x.as_deref())?);
                point.extend(coordinate(jwk.y.as_deref())?);
                DecodingKey::from_ec_der(&point)
            }
            _ => DecodingKey::from_ed_der(&coordinate(jwk.x.as_deref())?),
        };
        Ok(Self { algorithm, key: Arc::new(key) })
    }
}

fn rsa(jwk: &Jwk) -> Result<DecodingKey, &'static str> {
    let (modulus, exponent) = (number(jwk.n.as_deref())?, number(jwk.e.as_deref())?);
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err("an RSA key must have 2048 to 8192 bits");
    }
    // With 1, everyone could write the signature of everything.
    let odd = exponent.last().is_some_and(|byte| byte % 2 == 1);
    if !odd || exponent == [1] || exponent.len() > RSA_EXPONENT_LIMIT_BYTES {
        return Err("its exponent is none that is used");
    }
    Ok(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

/// The bytes of a number, without zeros in front.
fn number(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let bytes = decode(text)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Ok(bytes.into_iter().skip(zeros).collect())
}

fn coordinate(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let bytes = decode(text)?;
    if bytes.len() == COORDINATE_BYTES { Ok(bytes) } else { Err("a coordinate of it has not 32 bytes") }
}

fn decode(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    URL_SAFE_NO_PAD.decode(text.ok_or("a part of it is missing")?).map_err(|_| "a part of it is not base64url")
}

/// Whether two points in time are at least so far apart.
const fn apart(one: Timestamp, other: Timestamp, micros: i64) -> bool {
    one.micros().abs_diff(other.micros()) >= micros.unsigned_abs()
}

/// The state behind a lock. Whoever panicked with it cannot have left it half written.
fn locked<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is read again when it changed.
pub(super) struct Watched {
    path: PathBuf,
    state: Mutex<FileState>,
}

struct FileState {
    set: KeySet,
    version: Version,
    looked_at: Timestamp,
}

/// What differs when a file was written or exchanged: modification time, length, inode.
type Version = (i64, i64, u64, u64);

impl Watched {
    async fn open(path: PathBuf, now: Timestamp) -> Result<Self, String> {
        let version = version(&path).await?;
        let set = read_set(&path).await?;
        if set.keys.is_empty() {
            let reason = set.first_reason.unwrap_or("there is none");
            return Err(format!("{}: no key in it can verify a token: {reason}", path.display()));
        }
        Ok(Self { path, state: Mutex::new(FileState { set, version, looked_at: now }) })
    }

    async fn find(&self, kid: Option<&str>, algorithm: Algorithm, now: Timestamp) -> Found {
        let known = {
            let mut state = locked(&self.state);
            let due = apart(now, state.looked_at, FILE_INTERVAL_MICROS);
            // At once, so that nobody else looks too; they take the keys that are there.
            due.then(|| state.looked_at = now).map(|()| state.version)
        };
        if let Some(known) = known
            && let Err(reason) = self.look(known).await
        {
            tracing::warn!(reason, "the JWT keys stay as they were: their file cannot be read");
        }
        locked(&self.state).set.find(kid, algorithm)
    }

    async fn look(&self, known: Version) -> Result<(), String> {
        // Before reading: what is written in between shows as a change the next time.
        let version = version(&self.path).await?;
        if version != known {
            let set = read_set(&self.path).await?;
            tell_of(&set, &self.path.display());
            let mut state = locked(&self.state);
            state.set = set;
            state.version = version;
        }
        Ok(())
    }
}

async fn version(path: &Path) -> Result<Version, String> {
    let metadata = tokio::fs::metadata(path).await.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok((metadata.mtime(), metadata.mtime_nsec(), metadata.len(), metadata.ino()))
}

async fn read_set(path: &Path) -> Result<KeySet, String> {
    KeySet::parse(&read_at_most(path, SET_LIMIT_BYTES).await?).map_err(|error| format!("{}: {error}", path.display()))
}

fn tell_of(set: &KeySet, place: &dyn fmt::Display) {
    match (set.keys.len(), set.first_reason) {
        (0, reason) => {
            tracing::warn!(%place, reason = reason.unwrap_or("there is none"), "no JWT key in the set can verify a token")
        }
        (keys, _) => tracing::debug!(%place, keys, "the JWT keys were read"),
    }
}

/// A URL whose set is fetched, kept, and fetched again.
pub(super) struct Remote {
    url: Url,
    client: reqwest::Client,
    state: Mutex<RemoteState>,
}

#[derive(Default)]
struct RemoteState {
    loaded: Option<Loaded>,
    /// When the last fetch began.
    began_at: Option<Timestamp>,
    /// When the last one that failed began.
    failed_at: Option<Timestamp>,
    /// Closed once the last fetch has ended.
    running: Option<watch::Receiver<()>>,
}

struct Loaded {
    set: KeySet,
    at: Timestamp,
}

enum Step {
    Done(Found),
    Wait(watch::Receiver<()>),
    NoKeys,
}

impl Remote {
    pub(super) async fn open(url: Url, timeout: Duration, now: Timestamp) -> Result<Arc<Self>, String> {
        let client = client(&url, timeout).map_err(|error| format!("--jwt-jwks: {}", explain(error)))?;
        let remote = Arc::new(Self { url, client, state: Mutex::default() });
        let fetch = remote.begin(&mut locked(&remote.state), now, 0);
        if let Some(fetch) = fetch {
            ended(fetch).await;
        }
        Ok(remote)
    }

    pub(super) async fn find(
        self: &Arc<Self>,
        kid: Option<&str>,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<Found> {
        let mut step = self.step(kid, algorithm, now, true);
        if let Step::Wait(fetch) = step {
            ended(fetch).await;
            step = self.step(kid, algorithm, now, false);
        }
        match step {
            Step::Done(found) => Ok(found),
            Step::Wait(_) | Step::NoKeys => {
                Err(Error::Unavailable { retry_after_s: 2, source: "there are no keys to verify a JWT with".into() })
            }
        }
    }

    /// One look at the keys that are there. What it sees and the fetch that it begins or joins go under one lock, so that
    /// no fetch ends unseen between the two.
    fn step(self: &Arc<Self>, kid: Option<&str>, algorithm: Algorithm, now: Timestamp, may_fetch: bool) -> Step {
        let mut state = locked(&self.state);
        let usable = state.loaded.as_ref().filter(|loaded| !apart(now, loaded.at, STALE_MICROS));
        let found = usable.map(|loaded| loaded.set.find(kid, algorithm));
        let older_than = |micros| usable.is_some_and(|loaded| apart(now, loaded.at, micros));
        let failed_lately = state.failed_at.is_some_and(|at| !apart(now, at, RECHECK_MICROS));
        let fetch = match found {
            None => Some((FIRST_FETCH_INTERVAL_MICROS, true)),
            Some(Found::UnknownKid) => Some((FETCH_INTERVAL_MICROS, true)),
            Some(_) if older_than(RECHECK_MICROS) => Some((FETCH_INTERVAL_MICROS, !failed_lately)),
            Some(_) if older_than(REFRESH_MICROS) => Some((FETCH_INTERVAL_MICROS, false)),
            Some(_) => None,
        };
        if may_fetch
            && let Some((interval_micros, worth_waiting)) = fetch
            && let Some(running) = self.begin(&mut state, now, interval_micros)
            && worth_waiting
        {
            return Step::Wait(running);
        }
        found.map_or(Step::NoKeys, Step::Done)
    }

    /// The fetch that is under way, or a new one if the last one began long enough ago.
    fn begin(
        self: &Arc<Self>,
        state: &mut RemoteState,
        now: Timestamp,
        interval_micros: i64,
    ) -> Option<watch::Receiver<()>> {
        if let Some(running) = state.running.as_ref().filter(|running| running.has_changed().is_ok()) {
            return Some(running.clone());
        }
        if state.began_at.is_some_and(|at| !apart(now, at, interval_micros)) {
            return None;
        }
        let (end, running) = watch::channel(());
        state.began_at = Some(now);
        state.running = Some(running.clone());
        let remote = Arc::clone(self);
        // A task of its own: it serves everyone who waits, and the caller who began it may go away.
        tasks::spawn("jwks-fetch", async move {
            remote.fetch(now).await;
            drop(end);
        });
        Some(running)
    }

    async fn fetch(&self, now: Timestamp) {
        let place = Place::Url(self.url.clone());
        match self.read().await {
            Ok(set) => {
                tell_of(&set, &place);
                let mut state = locked(&self.state);
                state.loaded = Some(Loaded { set, at: now });
                state.failed_at = None;
            }
            Err(reason) => {
                tracing::warn!(%place, reason, "the JWT keys could not be fetched");
                locked(&self.state).failed_at = Some(now);
            }
        }
    }

    async fn read(&self) -> Result<KeySet, String> {
        let request = self.client.get(self.url.clone()).header("accept", "application/jwk-set+json, application/json");
        let mut response = request.send().await.map_err(explain)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("answered with status {}", response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(explain)? {
            if body.len() + chunk.len() > SET_LIMIT_BYTES {
                return Err(format!("answered with more than {SET_LIMIT_BYTES} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        KeySet::parse(&body)
    }
}

/// Waits for a fetch.
async fn ended(mut fetch: watch::Receiver<()>) {
    // Nothing is ever sent: the error that says so is the end.
    while fetch.changed().await.is_ok() {}
}

fn client(url: &Url, timeout: Duration) -> reqwest::Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("posthaste/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .no_gzip()
        .pool_max_idle_per_host(0)
        .connect_timeout(timeout)
        .timeout(timeout);
    if url.scheme() == "https" {
        builder.https_only(true).build()
    } else {
        // No certificate is ever looked at, so none of the machine's need to be there.
        builder.tls_certs_only([]).build()
    }
}

/// The error with its causes, and without the URL.
fn explain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
