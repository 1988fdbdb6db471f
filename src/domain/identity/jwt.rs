//! Tokens of the operator's own backend: who it says is calling.
//!
//! Invariants:
//! - Which algorithm verifies a token is said by the key, never by the token: the header must name the key's own
//!   algorithm. A secret verifies HS256 alone, a key set never does.
//! - Nothing that a token names is fetched or opened. Its `kid` is looked up in a map; `jku`, `jwk`, `x5u` and `x5c` are
//!   not read.
//! - Whoever shows a wrong token reads nothing but "unauthenticated". Why is in the log, at debug, without the token.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::base::error::{Error, Result};
use crate::base::time::Timestamp;

mod jwks;
#[cfg(test)]
mod tests;

use jwks::{Jwks, Place};

/// Bytes of a token.
const TOKEN_LIMIT_BYTES: usize = 8 * 1024;
/// Characters of a key's name.
const KID_LIMIT_CHARS: usize = 256;
/// How far the backend's clock may be from ours.
const LEEWAY_MICROS: i64 = 30 * 1_000_000;
/// A shorter secret could be guessed from one token; RFC 7518 asks for the length of the hash.
const SECRET_MINIMUM_BYTES: usize = 32;
/// Nobody's secret is longer; a wrong file may be.
const SECRET_LIMIT_BYTES: usize = 64 * 1024;

/// What the operator says about the backend's tokens.
#[derive(Clone, Debug)]
pub struct JwtSettings {
    /// What they are verified with.
    pub keys: KeySource,
    /// Their `iss`.
    pub issuer: String,
    /// What must be in their `aud`.
    pub audience: String,
    /// Whether a user is made for a `sub` that is nobody's name.
    pub provision: bool,
}

/// What tokens are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file with a secret that the backend has too.
    Hs256File(PathBuf),
    /// The backend's public keys: a file, or a URL.
    Jwks(String),
}

impl KeySource {
    /// Checks what can be checked without reading anything.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Hs256File(_) => Ok(()),
            Self::Jwks(place) => Place::parse(place).map(|_| ()),
        }
    }
}

/// Says whose a token is.
pub struct JwtVerifier {
    keys: Keys,
    issuer: String,
    audience: String,
    provision: bool,
}

enum Keys {
    Secret(DecodingKey),
    Set(Jwks),
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its `sub`: a user name, as the backend wrote it. Not empty, nothing else was checked.
    pub subject: String,
    /// From when on it is refused: its `exp` and the leeway.
    pub expires_at: Timestamp,
}

impl JwtVerifier {
    /// Reads the secret or the keys. Keys that cannot be fetched yet are no error: they are fetched when they are asked
    /// for.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn open(settings: JwtSettings, now: Timestamp) -> Result<Self, String> {
        let keys = match &settings.keys {
            KeySource::Hs256File(path) => Keys::Secret(read_secret(path).await?),
            KeySource::Jwks(place) => Keys::Set(Jwks::open(Place::parse(place)?, now).await?),
        };
        Ok(Self { keys, issuer: settings.issuer, audience: settings.audience, provision: settings.provision })
    }

    /// Whether a user is to be made for a subject that is nobody's name.
    pub const fn provisions(&self) -> bool {
        self.provision
    }

    /// Says whose a token is, and until when.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] for everything that is wrong with the token; [`Error::Unavailable`] when there are no
    /// keys to hold it against.
    pub async fn verify(&self, token: &str, now: Timestamp) -> Result<Verified> {
        // What costs nothing comes first, so that a token which could never be good makes nobody fetch keys.
        let token = Token::parse(token).map_err(refused)?;
        let verified = self.check_claims(&token.claims, now).map_err(refused)?;
        let algorithm = token.algorithm;
        let good = match &self.keys {
            Keys::Secret(secret) if algorithm == Algorithm::HS256 => token.is_signed_by(secret),
            Keys::Set(set) if algorithm != Algorithm::HS256 => {
                let key = set.find(token.kid.as_deref(), algorithm, now).await?;
                token.is_signed_by(&key)
            }
            Keys::Secret(_) | Keys::Set(_) => return Err(refused("its algorithm is of the other kind")),
        };
        if good { Ok(verified) } else { Err(refused("its signature is wrong")) }
    }

    fn check_claims(&self, claims: &Object, now: Timestamp) -> Result<Verified, &'static str> {
        if claims.required_text("iss")? != self.issuer {
            return Err("it has another issuer");
        }
        if !is_meant_for(claims, &self.audience)? {
            return Err("it is meant for another audience");
        }
        let subject = claims.required_text("sub")?;
        if subject.is_empty() {
            return Err("its subject is empty");
        }
        let expires_at = later(claims.date("exp")?.ok_or("it has no exp")?);
        if now >= expires_at {
            return Err("it has expired");
        }
        if claims.date("nbf")?.is_some_and(|not_before| later(now) < not_before) {
            return Err("it is not valid yet");
        }
        claims.date("iat")?;
        Ok(Verified { subject: subject.to_owned(), expires_at })
    }
}

fn is_meant_for(claims: &Object, audience: &str) -> Result<bool, &'static str> {
    match claims.0.get("aud") {
        None => Err("it has no aud"),
        Some(Value::String(one)) => Ok(one == audience),
        Some(Value::Array(many)) if many.iter().all(Value::is_string) => {
            Ok(many.iter().any(|one| one.as_str() == Some(audience)))
        }
        Some(_) => Err("its aud is neither a string nor a list of strings"),
    }
}

/// `at`, with the leeway added.
fn later(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.micros().saturating_add(LEEWAY_MICROS))
}

fn refused(reason: &'static str) -> Error {
    tracing::debug!(reason, "a JWT was refused");
    Error::Unauthenticated
}

/// A token whose form is right. Nothing in it is proven.
struct Token<'a> {
    algorithm: Algorithm,
    kid: Option<String>,
    claims: Object,
    /// Header and claims as they were signed.
    message: &'a str,
    /// As it was written, in base64.
    signature: &'a str,
}

impl<'a> Token<'a> {
    fn parse(token: &'a str) -> Result<Self, &'static str> {
        if token.len() > TOKEN_LIMIT_BYTES {
            return Err("it is too long");
        }
        let (message, signature) = token.rsplit_once('.').ok_or("it has not three parts")?;
        let (header, claims) = message.split_once('.').ok_or("it has not three parts")?;
        if header.is_empty() || claims.is_empty() || claims.contains('.') || signature.is_empty() {
            return Err("it has not three parts");
        }
        let header = Object::decode(header).ok_or("its header is not readable")?;
        // Whoever writes crit wants everything refused that does not know what it lists, and nothing is known here.
        if header.0.contains_key("crit") {
            return Err("its header asks for an extension");
        }
        // Other tokens of the same issuer have the same keys and may look the same: those that end a session, say.
        if header.text("typ")?.is_some_and(|typ| !is_access_type(typ)) {
            return Err("it is a token of another type");
        }
        let kid = header.text("kid")?;
        if kid.is_some_and(|kid| kid.chars().count() > KID_LIMIT_CHARS) {
            return Err("its kid is too long");
        }
        let algorithm = match header.required_text("alg")? {
            "HS256" => Algorithm::HS256,
            "RS256" => Algorithm::RS256,
            "ES256" => Algorithm::ES256,
            "EdDSA" => Algorithm::EdDSA,
            _ => return Err("its algorithm is not used here"),
        };
        let claims = Object::decode(claims).ok_or("its claims are not readable")?;
        Ok(Self { algorithm, kid: kid.map(ToOwned::to_owned), claims, message, signature })
    }

    /// The caller has made sure that the algorithm is the key's.
    fn is_signed_by(&self, key: &DecodingKey) -> bool {
        jsonwebtoken::crypto::verify(self.signature, self.message.as_bytes(), key, self.algorithm).unwrap_or(false)
    }
}

/// Whether `typ` is what tokens for calling an API carry (RFC 7519, RFC 9068).
fn is_access_type(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
}

/// A JSON object in which no name stands twice: two readers could not agree on what such a token says.
struct Object(BTreeMap<String, Value>);

impl Object {
    fn decode(part: &str) -> Option<Self> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
    }

    fn text(&self, name: &str) -> Result<Option<&str>, &'static str> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err("something in it that must be a string is none"),
        }
    }

    fn required_text(&self, name: &str) -> Result<&str, &'static str> {
        self.text(name)?.ok_or("it says too little: alg, iss, aud, sub and exp are required")
    }

    /// A NumericDate: seconds since 1970, perhaps with a fraction.
    fn date(&self, name: &str) -> Result<Option<Timestamp>, &'static str> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let micros = match (value.as_i64(), value.as_f64()) {
            (Some(seconds), _) => seconds.saturating_mul(1_000_000),
            // The cast holds what is too large at the ends of i64, as the timestamp then does at its own.
            (None, Some(seconds)) if seconds.is_finite() => (seconds * 1_000_000.0) as i64,
            _ => return Err("a date in it is no number"),
        };
        Ok(Some(Timestamp::from_micros(micros)))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Object, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = access.next_entry()? {
                    if members.insert(name, value).is_some() {
                        return Err(de::Error::custom("a name stands twice"));
                    }
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

async fn read_secret(path: &Path) -> Result<DecodingKey, String> {
    let bytes = read_at_most(path, SECRET_LIMIT_BYTES).await?;
    // Editors and `echo` end a file with a newline, which is no part of the secret.
    let secret = bytes.strip_suffix(b"\r\n").or_else(|| bytes.strip_suffix(b"\n")).unwrap_or(&bytes);
    if secret.len() < SECRET_MINIMUM_BYTES {
        return Err(format!(
            "{}: the secret has {} bytes and needs at least {SECRET_MINIMUM_BYTES}; make one with: openssl rand -hex 32",
            path.display(),
            secret.len()
        ));
    }
    Ok(DecodingKey::from_secret(secret))
}

/// The whole file, if it is not longer than that.
async fn read_at_most(path: &Path, limit_bytes: usize) -> Result<Vec<u8>, String> {
    let explain = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = tokio::fs::File::open(path).await.map_err(explain)?;
    let mut bytes = Vec::new();
    file.take(limit_bytes as u64 + 1).read_to_end(&mut bytes).await.map_err(explain)?;
    if bytes.len() > limit_bytes {
        return Err(format!("{}: longer than {limit_bytes} bytes", path.display()));
    }
    Ok(bytes)
}
