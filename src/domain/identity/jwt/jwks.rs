//! JSON Web Key Sets: the public keys of the operator's backend, from a file or a URL.
//!
//! Invariants:
//! - A key has one algorithm, which is fixed when the set is read. Symmetric keys in a set are never used.
//! - Only one fetch runs at a time, and there is a minimum interval between fetches, whatever tokens callers send. A
//!   fetch has a time limit and a size limit, and follows no redirects. It continues if the caller who caused it goes
//!   away.
//! - Intervals are measured with the time that the caller passes in, as an absolute difference. So an interval also
//!   ends when the clock is set back.

use std::collections::HashMap;
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
use crate::outbound::{self, explain};

/// Largest set, in bytes.
const SET_LIMIT_BYTES: usize = 256 * 1024;
/// Maximum number of keys in a set.
const KEY_LIMIT: usize = 100;
/// Allowed sizes of an RSA key, in bits. The upper limit keeps a verification cheap.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;
/// Longest exponent of an RSA key, in bytes; 65537 has three.
const RSA_EXPONENT_LIMIT_BYTES: usize = 4;
/// Bytes of a coordinate on P-256 and of a point on Ed25519.
const COORDINATE_BYTES: usize = 32;
/// Time limit for connecting. The same limit applies to the whole fetch.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

const MICROS_PER_SECOND: i64 = 1_000_000;
/// From this age on, the keys are fetched again in the background. Meanwhile they still verify tokens.
const REFRESH_MICROS: i64 = 600 * MICROS_PER_SECOND;
/// From this age on, a token waits for an attempt to fetch the keys, unless an attempt failed lately. Keys reach this
/// age if no token arrives for a long time. A key that was withdrawn in that time must not verify one more token.
const RECHECK_MICROS: i64 = 2 * REFRESH_MICROS;
/// From this age on, the keys verify no token.
const STALE_MICROS: i64 = 86_400 * MICROS_PER_SECOND;
/// Minimum interval between two fetches, however many tokens have an unknown `kid`.
const FETCH_INTERVAL_MICROS: i64 = 30 * MICROS_PER_SECOND;
/// Minimum interval between two fetches while there are no keys, so that no JWT can be verified.
const FIRST_FETCH_INTERVAL_MICROS: i64 = 2 * MICROS_PER_SECOND;
/// Minimum interval between two checks of a file.
const FILE_INTERVAL_MICROS: i64 = 10 * MICROS_PER_SECOND;

/// Where a set is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SetLocation {
    File(PathBuf),
    Url(Url),
}

impl SetLocation {
    /// Parses the option. Error texts do not repeat the option, because a URL may contain a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("--jwt-jwks is empty: give the path of a file or a URL".into());
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
            "http" => {
                return Err(
                    "--jwt-jwks must use https: with http, an attacker on the network could replace the keys".into()
                );
            }
            _ => return Err("--jwt-jwks must be the path of a file, or a URL with https".into()),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("--jwt-jwks must not contain a user name or a password".into());
        }
        url.set_fragment(None);
        Ok(Self::Url(url))
    }
}

impl fmt::Display for SetLocation {
    /// For the log: without the query, which may hold a secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(formatter),
            Self::Url(url) => write!(formatter, "{}{}", url.origin().ascii_serialization(), url.path()),
        }
    }
}

/// A set that is kept up to date.
pub(super) enum Jwks {
    File(SetFile),
    Url(Arc<RemoteSet>),
}

impl Jwks {
    pub(super) async fn open(place: SetLocation, now: Timestamp) -> Result<Self, String> {
        match place {
            SetLocation::File(path) => Ok(Self::File(SetFile::open(path, now).await?)),
            SetLocation::Url(url) => Ok(Self::Url(RemoteSet::open(url, FETCH_TIMEOUT, now).await?)),
        }
    }

    /// Finds the key for a token with this `kid` and this algorithm.
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
            KeyLookup::Key(key) => Ok(key),
            KeyLookup::UnknownKid => Err(refused("no key has this kid")),
            KeyLookup::Refused(reason) => Err(refused(reason)),
        }
    }
}

/// The result of looking up the key for a token.
pub(super) enum KeyLookup {
    Key(Arc<DecodingKey>),
    UnknownKid,
    Refused(&'static str),
}

/// The keys of a set that can verify tokens.
pub(super) struct KeySet {
    keys: Vec<Key>,
    by_kid: HashMap<String, usize>,
    /// Why the first unusable key of the set is not used.
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

        // The message of the parser is not part of the error, because it may quote the contents.
        let form: Form = serde_json::from_slice(bytes)
            .map_err(|error| format!("not a JSON Web Key Set (line {}, column {})", error.line(), error.column()))?;
        if form.keys.len() > KEY_LIMIT {
            return Err(format!("more than {KEY_LIMIT} keys"));
        }
        let mut set = Self { keys: Vec::new(), by_kid: HashMap::new(), first_reason: None };
        for value in form.keys {
            if let Err(reason) = set.add(value) {
                tracing::debug!(reason, "a key of the set cannot be used");
                set.first_reason.get_or_insert(reason);
            }
        }
        Ok(set)
    }

    fn add(&mut self, value: Value) -> Result<(), &'static str> {
        let jwk: Jwk = serde_json::from_value(value).map_err(|_| "it is not a JSON Web Key")?;
        let key = Key::new(&jwk)?;
        if let Some(kid) = jwk.kid {
            if kid.chars().count() > KID_LIMIT_CHARS {
                return Err("kid is too long");
            }
            if self.by_kid.contains_key(&kid) {
                return Err("an earlier key has the same kid");
            }
            self.by_kid.insert(kid, self.keys.len());
        }
        self.keys.push(key);
        Ok(())
    }

    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> KeyLookup {
        if let Some(kid) = kid {
            return match self.by_kid.get(kid).and_then(|index| self.keys.get(*index)) {
                None => KeyLookup::UnknownKid,
                Some(key) if key.algorithm == algorithm => KeyLookup::Key(Arc::clone(&key.key)),
                Some(_) => KeyLookup::Refused("alg is not the algorithm of the key"),
            };
        }
        let mut candidates = self.keys.iter().filter(|key| key.algorithm == algorithm);
        match (candidates.next(), candidates.next()) {
            (Some(key), None) => KeyLookup::Key(Arc::clone(&key.key)),
            (None, _) => KeyLookup::Refused("the token has no kid, and no key has its algorithm"),
            (Some(_), Some(_)) => KeyLookup::Refused("the token has no kid, and several keys have its algorithm"),
        }
    }
}

/// The members of a JSON Web Key that this code reads.
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
            _ => return Err("unsupported kty or crv; use RSA, EC with P-256 or OKP with Ed25519"),
        };
        if jwk.alg.as_deref().is_some_and(|alg| alg != name) {
            return Err("unsupported alg; use RS256 for RSA, ES256 for EC, EdDSA for OKP");
        }
        let for_something_else = jwk.purpose.as_deref().is_some_and(|purpose| purpose != "sig")
            || jwk.key_ops.as_ref().is_some_and(|operations| operations.iter().all(|name| name != "verify"));
        if for_something_else {
            return Err("use or key_ops does not allow verifying");
        }
        if jwk.d.is_some() {
            return Err("it is a private key, which only the signer may have");
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
    // With the exponent 1, anybody could forge signatures.
    let odd = exponent.last().is_some_and(|byte| byte % 2 == 1);
    if !odd || exponent == [1] || exponent.len() > RSA_EXPONENT_LIMIT_BYTES {
        return Err("the exponent must be odd, greater than 1 and at most 4 bytes long");
    }
    Ok(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

/// The bytes of a number, without leading zeros.
fn number(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let bytes = decode(text)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Ok(bytes.into_iter().skip(zeros).collect())
}

fn coordinate(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let bytes = decode(text)?;
    if bytes.len() == COORDINATE_BYTES { Ok(bytes) } else { Err("a coordinate does not have 32 bytes") }
}

fn decode(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    URL_SAFE_NO_PAD.decode(text.ok_or("a required member is missing")?).map_err(|_| "a member is not base64url")
}

/// Whether two timestamps differ by at least this much.
const fn differ_by(one: Timestamp, other: Timestamp, micros: i64) -> bool {
    one.micros().abs_diff(other.micros()) >= micros.unsigned_abs()
}

/// Locks the state. Poisoning is ignored, because no code panics after it has written only a part of the state.
fn locked<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is read again when it has changed.
pub(super) struct SetFile {
    path: PathBuf,
    state: Mutex<SetFileState>,
}

struct SetFileState {
    set: KeySet,
    version: Version,
    checked_at: Timestamp,
}

/// Changes when the file is written or replaced: modification time (seconds, nanoseconds), length, inode.
type Version = (i64, i64, u64, u64);

impl SetFile {
    async fn open(path: PathBuf, now: Timestamp) -> Result<Self, String> {
        let version = version(&path).await?;
        let set = read_set(&path).await?;
        if set.keys.is_empty() {
            let reason = set.first_reason.unwrap_or("the set is empty");
            return Err(format!("{}: no key in this set can verify a token: {reason}", path.display()));
        }
        Ok(Self { path, state: Mutex::new(SetFileState { set, version, checked_at: now }) })
    }

    async fn find(&self, kid: Option<&str>, algorithm: Algorithm, now: Timestamp) -> KeyLookup {
        let known = {
            let mut state = locked(&self.state);
            let due = differ_by(now, state.checked_at, FILE_INTERVAL_MICROS);
            // Set before the check, so that other callers do not check the file as well. They use the keys that are
            // already loaded.
            due.then(|| state.checked_at = now).map(|()| state.version)
        };
        if let Some(known) = known
            && let Err(reason) = self.reload_if_changed(known).await
        {
            tracing::warn!(reason, "the file of the JWT keys cannot be read; the loaded keys stay in use");
        }
        locked(&self.state).set.find(kid, algorithm)
    }

    async fn reload_if_changed(&self, known: Version) -> Result<(), String> {
        // Read before the contents. If the file changes in between, the next check sees the change.
        let version = version(&self.path).await?;
        if version != known {
            let set = read_set(&self.path).await?;
            log_loaded(&set, &self.path.display());
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

fn log_loaded(set: &KeySet, place: &dyn fmt::Display) {
    match (set.keys.len(), set.first_reason) {
        (0, reason) => {
            let reason = reason.unwrap_or("the set is empty");
            tracing::warn!(%place, reason, "no key in the set of JWT keys can verify a token");
        }
        (keys, _) => tracing::debug!(%place, keys, "the JWT keys were loaded"),
    }
}

/// A set that is fetched from a URL and kept in memory.
pub(super) struct RemoteSet {
    url: Url,
    client: reqwest::Client,
    state: Mutex<RemoteSetState>,
}

#[derive(Default)]
struct RemoteSetState {
    loaded: Option<Loaded>,
    /// When the last fetch began.
    began_at: Option<Timestamp>,
    /// When the last failed fetch began, unless a later one succeeded.
    failed_at: Option<Timestamp>,
    /// A channel whose sender is dropped when the last fetch ends.
    running: Option<watch::Receiver<()>>,
}

struct Loaded {
    set: KeySet,
    at: Timestamp,
}

enum LookupStep {
    Done(KeyLookup),
    Wait(watch::Receiver<()>),
    NoKeys,
}

impl RemoteSet {
    pub(super) async fn open(url: Url, timeout: Duration, now: Timestamp) -> Result<Arc<Self>, String> {
        let client = client(&url, timeout).map_err(|error| format!("--jwt-jwks: {}", explain(error)))?;
        let remote = Arc::new(Self { url, client, state: Mutex::default() });
        let fetch = remote.begin_or_join_fetch(&mut locked(&remote.state), now, 0);
        if let Some(fetch) = fetch {
            wait_for_end(fetch).await;
        }
        Ok(remote)
    }

    pub(super) async fn find(
        self: &Arc<Self>,
        kid: Option<&str>,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<KeyLookup> {
        let mut step = self.step(kid, algorithm, now, true);
        if let LookupStep::Wait(fetch) = step {
            wait_for_end(fetch).await;
            step = self.step(kid, algorithm, now, false);
        }
        match step {
            LookupStep::Done(found) => Ok(found),
            LookupStep::Wait(_) | LookupStep::NoKeys => {
                Err(Error::Unavailable { retry_after_s: 2, source: "there are no keys to verify a JWT with".into() })
            }
        }
    }

    /// Looks up the key, and begins or joins a fetch if one is needed. Both happen under one lock, so that no fetch can
    /// end unnoticed in between.
    fn step(self: &Arc<Self>, kid: Option<&str>, algorithm: Algorithm, now: Timestamp, may_fetch: bool) -> LookupStep {
        let mut state = locked(&self.state);
        let usable = state.loaded.as_ref().filter(|loaded| !differ_by(now, loaded.at, STALE_MICROS));
        let found = usable.map(|loaded| loaded.set.find(kid, algorithm));
        let older_than = |micros| usable.is_some_and(|loaded| differ_by(now, loaded.at, micros));
        let failed_lately = state.failed_at.is_some_and(|at| !differ_by(now, at, RECHECK_MICROS));
        let fetch = match found {
            None => Some((FIRST_FETCH_INTERVAL_MICROS, true)),
            Some(KeyLookup::UnknownKid) => Some((FETCH_INTERVAL_MICROS, true)),
            Some(_) if older_than(RECHECK_MICROS) => Some((FETCH_INTERVAL_MICROS, !failed_lately)),
            Some(_) if older_than(REFRESH_MICROS) => Some((FETCH_INTERVAL_MICROS, false)),
            Some(_) => None,
        };
        if may_fetch
            && let Some((interval_micros, worth_waiting)) = fetch
            && let Some(running) = self.begin_or_join_fetch(&mut state, now, interval_micros)
            && worth_waiting
        {
            return LookupStep::Wait(running);
        }
        found.map_or(LookupStep::NoKeys, LookupStep::Done)
    }

    /// Returns the running fetch, or begins one if the last one began long enough ago.
    fn begin_or_join_fetch(
        self: &Arc<Self>,
        state: &mut RemoteSetState,
        now: Timestamp,
        interval_micros: i64,
    ) -> Option<watch::Receiver<()>> {
        if let Some(running) = state.running.as_ref().filter(|running| running.has_changed().is_ok()) {
            return Some(running.clone());
        }
        if state.began_at.is_some_and(|at| !differ_by(now, at, interval_micros)) {
            return None;
        }
        let (end, running) = watch::channel(());
        state.began_at = Some(now);
        state.running = Some(running.clone());
        let remote = Arc::clone(self);
        // The fetch runs in a task of its own, because several callers may wait for it, and the caller who caused it
        // may go away.
        tasks::spawn("jwks-fetch", async move {
            remote.fetch(now).await;
            drop(end);
        });
        Some(running)
    }

    async fn fetch(&self, now: Timestamp) {
        let place = SetLocation::Url(self.url.clone());
        match self.read().await {
            Ok(set) => {
                log_loaded(&set, &place);
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

/// Waits until a fetch ends.
async fn wait_for_end(mut fetch: watch::Receiver<()>) {
    // Nothing is ever sent. The error of a dropped sender marks the end.
    while fetch.changed().await.is_ok() {}
}

fn client(url: &Url, timeout: Duration) -> reqwest::Result<reqwest::Client> {
    let builder = outbound::builder(timeout);
    if url.scheme() == "https" {
        builder.https_only(true).build()
    } else {
        // No certificate is checked for `http:`. So the certificates of the machine are not loaded, and the machine
        // needs none.
        builder.tls_certs_only([]).build()
    }
}
