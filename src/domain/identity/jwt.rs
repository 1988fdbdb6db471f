//! JWTs that the operator's own backend issues. A JWT names the user who calls.
//!
//! Invariants:
//! - The key decides which algorithm verifies a token. A token whose header names another algorithm is refused. A
//!   secret verifies HS256 only, and a key set never verifies HS256.
//! - Nothing that a token names is fetched or opened. Its `kid` is looked up in a map; `jku`, `jwk`, `x5u` and `x5c`
//!   are not read.
//! - A caller with an invalid token learns only that it is not authenticated. The reason is logged at level info,
//!   with the id of the request and without the token.

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

use jwks::{Jwks, SetLocation};

/// Longest token, in bytes.
const TOKEN_LIMIT_BYTES: usize = 8 * 1024;
/// Longest `kid`, in characters.
const KID_LIMIT_CHARS: usize = 256;
/// By how much the backend's clock may differ from the server's.
const LEEWAY_MICROS: i64 = 30 * 1_000_000;
/// Shortest secret, in bytes. A shorter one could be guessed from one token. RFC 7518 requires the length of the hash.
const SECRET_MINIMUM_BYTES: usize = 32;
/// Largest secret file, in bytes. A larger file cannot be a secret, so the operator has named the wrong file.
const SECRET_LIMIT_BYTES: usize = 64 * 1024;

/// The operator's settings for JWTs.
#[derive(Clone, Debug)]
pub struct JwtSettings {
    /// The keys that verify them.
    pub keys: KeySource,
    /// The required `iss`.
    pub issuer: String,
    /// The value that `aud` must contain.
    pub audience: String,
    /// Whether a user is created for a `sub` that is not the name of a user.
    pub provision: bool,
}

/// Where the keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file with a secret that the backend shares.
    Hs256File(PathBuf),
    /// The public keys of the backend: the path of a file, or a URL.
    Jwks(String),
}

impl KeySource {
    /// Checks the setting as far as possible without reading the keys.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Hs256File(_) => Ok(()),
            Self::Jwks(place) => SetLocation::parse(place).map(|_| ()),
        }
    }
}

/// Verifies JWTs.
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

/// The contents of a valid token that the server uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The `sub`: a user name, as the backend wrote it. It is not empty; nothing else was checked.
    pub subject: String,
    /// When the token expires: its `exp` plus the leeway.
    pub expires_at: Timestamp,
}

impl JwtVerifier {
    /// Reads the secret or the keys. If the keys cannot be fetched from their URL, the verifier is created without
    /// keys, and fetches them when a token needs them.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn open(settings: JwtSettings, now: Timestamp) -> Result<Self, String> {
        let keys = match &settings.keys {
            KeySource::Hs256File(path) => Keys::Secret(read_secret(path).await?),
            KeySource::Jwks(place) => Keys::Set(Jwks::open(SetLocation::parse(place)?, now).await?),
        };
        Ok(Self { keys, issuer: settings.issuer, audience: settings.audience, provision: settings.provision })
    }

    /// Whether a user is created for a subject that is not the name of a user.
    pub const fn provisions(&self) -> bool {
        self.provision
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if the token is invalid for any reason; [`Error::Unavailable`] if there are no keys
    /// to verify it with.
    pub async fn verify(&self, token: &str, now: Timestamp) -> Result<Verified> {
        // The claims are checked before the signature, so a token that cannot be valid never causes a fetch of keys.
        let token = Token::parse(token).map_err(refused)?;
        let verified = self.check_claims(&token.claims, now).map_err(refused)?;
        let algorithm = token.algorithm;
        let good = match &self.keys {
            Keys::Secret(secret) if algorithm == Algorithm::HS256 => token.is_signed_by(secret),
            Keys::Set(set) if algorithm != Algorithm::HS256 => {
                let key = set.find(token.kid.as_deref(), algorithm, now).await?;
                token.is_signed_by(&key)
            }
            Keys::Secret(_) | Keys::Set(_) => {
                return Err(refused("the algorithm does not fit the configured kind of key"));
            }
        };
        if good { Ok(verified) } else { Err(refused("the signature is wrong")) }
    }

    fn check_claims(&self, claims: &Object, now: Timestamp) -> Result<Verified, &'static str> {
        if claims.required_text("iss")? != self.issuer {
            return Err("iss is not the configured issuer");
        }
        if !has_audience(claims, &self.audience)? {
            return Err("aud does not contain the configured audience");
        }
        let subject = claims.required_text("sub")?;
        if subject.is_empty() {
            return Err("sub is empty");
        }
        let expires_at = with_leeway(claims.date("exp")?.ok_or("exp is missing")?);
        if now >= expires_at {
            return Err("the token has expired");
        }
        if claims.date("nbf")?.is_some_and(|not_before| with_leeway(now) < not_before) {
            return Err("the token is not valid yet (nbf)");
        }
        claims.date("iat")?;
        Ok(Verified { subject: subject.to_owned(), expires_at })
    }
}

fn has_audience(claims: &Object, audience: &str) -> Result<bool, &'static str> {
    match claims.0.get("aud") {
        None => Err("aud is missing"),
        Some(Value::String(one)) => Ok(one == audience),
        Some(Value::Array(many)) if many.iter().all(Value::is_string) => {
            Ok(many.iter().any(|one| one.as_str() == Some(audience)))
        }
        Some(_) => Err("aud is neither a string nor a list of strings"),
    }
}

/// `at` plus the leeway.
fn with_leeway(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.micros().saturating_add(LEEWAY_MICROS))
}

/// The error for a refused token. Logs the reason, which must not contain text of the token.
pub(super) fn refused(reason: &'static str) -> Error {
    tracing::info!(reason, "a JWT was refused");
    Error::Unauthenticated
}

/// A token of the right form. Its signature is not verified yet.
struct Token<'a> {
    algorithm: Algorithm,
    kid: Option<String>,
    claims: Object,
    /// Header and claims as they were signed.
    message: &'a str,
    /// In base64url, as in the token.
    signature: &'a str,
}

impl<'a> Token<'a> {
    fn parse(token: &'a str) -> Result<Self, &'static str> {
        if token.len() > TOKEN_LIMIT_BYTES {
            return Err("the token is too long");
        }
        let (message, signature) = token.rsplit_once('.').ok_or("the token does not have three parts")?;
        let (header, claims) = message.split_once('.').ok_or("the token does not have three parts")?;
        if header.is_empty() || claims.is_empty() || claims.contains('.') || signature.is_empty() {
            return Err("the token does not have three parts");
        }
        let header = Object::decode(header).ok_or("the header is not a JSON object in base64url")?;
        // `crit` lists extensions that the reader of a token must understand (RFC 7515). This code understands none.
        if header.0.contains_key("crit") {
            return Err("the header requires an extension (crit)");
        }
        // An issuer may sign other kinds of token with the same keys, for example tokens that end a session.
        if header.text("typ")?.is_some_and(|typ| !is_access_type(typ)) {
            return Err("typ is not that of an access token");
        }
        let kid = header.text("kid")?;
        if kid.is_some_and(|kid| kid.chars().count() > KID_LIMIT_CHARS) {
            return Err("kid is too long");
        }
        let algorithm = match header.required_text("alg")? {
            "HS256" => Algorithm::HS256,
            "RS256" => Algorithm::RS256,
            "ES256" => Algorithm::ES256,
            "EdDSA" => Algorithm::EdDSA,
            _ => return Err("alg is not one of HS256, RS256, ES256, EdDSA"),
        };
        let claims = Object::decode(claims).ok_or("the claims are not a JSON object in base64url")?;
        Ok(Self { algorithm, kid: kid.map(ToOwned::to_owned), claims, message, signature })
    }

    /// Verifies the signature. The caller has checked that the algorithm is that of the key.
    fn is_signed_by(&self, key: &DecodingKey) -> bool {
        jsonwebtoken::crypto::verify(self.signature, self.message.as_bytes(), key, self.algorithm).unwrap_or(false)
    }
}

/// Whether `typ` is a type of token for calling an API (RFC 7519, RFC 9068).
fn is_access_type(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
}

/// A JSON object without duplicate names. An object with a duplicate name is refused, because parsers differ in which
/// of the values they use.
struct Object(BTreeMap<String, Value>);

impl Object {
    fn decode(part: &str) -> Option<Self> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
    }

    fn text(&self, name: &str) -> Result<Option<&str>, &'static str> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err("a member that must be a string is not one"),
        }
    }

    fn required_text(&self, name: &str) -> Result<&str, &'static str> {
        self.text(name)?.ok_or("a required member is missing: alg, iss, aud, sub or exp")
    }

    /// A NumericDate: seconds since 1970, possibly with a fraction.
    fn date(&self, name: &str) -> Result<Option<Timestamp>, &'static str> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let micros = match (value.as_i64(), value.as_f64()) {
            (Some(seconds), _) => seconds.saturating_mul(1_000_000),
            // The cast limits values that are too large to the range of i64.
            (None, Some(seconds)) if seconds.is_finite() => (seconds * 1_000_000.0) as i64,
            _ => return Err("exp, nbf or iat is not a number"),
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
                        return Err(de::Error::custom("duplicate name"));
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
    // Editors and `echo` end a file with a newline, which is not part of the secret.
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

/// Reads a whole file, unless it is longer than the limit.
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
