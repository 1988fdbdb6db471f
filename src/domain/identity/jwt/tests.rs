//! Tests of which tokens are accepted. The library that signs the tokens is not the one that verifies them. Every
//! header and every claim is written by hand.
//!
//! Invariant: each attack is tried against a verifier that accepts the same token without the attack.

use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaPublicKeyComponents};
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::json;

use super::*;

mod forms;
mod remote;
mod sets;

const ISSUER: &str = "https://backend.example.org";
const AUDIENCE: &str = "posthaste";
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// 2026-11-22T08:30:00Z.
const NOW_S: i64 = 1_795_336_200;
const NOW: Timestamp = Timestamp::from_micros(NOW_S * 1_000_000);

fn after(seconds: i64) -> Timestamp {
    Timestamp::from_micros(NOW.micros() + seconds * 1_000_000)
}

/// A key with which a backend signs tokens.
enum Signer {
    Hmac(Vec<u8>),
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

static RSA: LazyLock<Signer> = LazyLock::new(|| Signer::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()));
static EC: LazyLock<Signer> = LazyLock::new(Signer::ec);
static ED: LazyLock<Signer> = LazyLock::new(Signer::ed);

impl Signer {
    fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Hmac(_) => "HS256",
            Self::Rsa(_) => "RS256",
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Hmac(secret) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec(),
            Self::Rsa(_) => self.sign_rsa(&signature::RSA_PKCS1_SHA256, message),
            Self::Ec(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    fn sign_rsa(&self, padding: &'static dyn signature::RsaEncoding, message: &[u8]) -> Vec<u8> {
        let Self::Rsa(pair) = self else { panic!("no RSA key") };
        let mut signed = vec![0; pair.public_modulus_len()];
        pair.sign(padding, &SystemRandom::new(), message, &mut signed).unwrap();
        signed
    }

    /// The public key.
    fn jwk(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Hmac(secret) => json!({"kty": "oct", "kid": kid, "k": text(secret)}),
            Self::Rsa(pair) => {
                let parts = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "kid": kid, "n": text(&parts.n), "e": text(&parts.e)})
            }
            Self::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": text(x), "y": text(y)})
            }
            Self::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": text(pair.public_key().as_ref())})
            }
        }
    }

    /// A token with exactly this header and these claims.
    fn token(&self, header: &str, claims: &str) -> String {
        let message = message(header, claims);
        let signed = self.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed))
    }

    /// A valid token that is signed with this key. Its header has this `kid`.
    fn good(&self, kid: &str) -> String {
        self.token(&json!({"alg": self.algorithm(), "kid": kid}).to_string(), &claims().to_string())
    }
}

fn message(header: &str, claims: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "rdibari", "exp": NOW_S + 600})
}

/// The valid claims with some of them replaced; null removes a claim.
fn claims_with(changes: Value) -> String {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims.to_string()
}

fn settings(keys: KeySource) -> JwtSettings {
    JwtSettings { keys, issuer: ISSUER.into(), audience: AUDIENCE.into(), provision: false }
}

fn verifier(keys: Keys) -> JwtVerifier {
    JwtVerifier { keys, issuer: ISSUER.into(), audience: AUDIENCE.into(), provision: false }
}

fn with_secret() -> JwtVerifier {
    verifier(Keys::Secret(DecodingKey::from_secret(SECRET)))
}

/// A verifier with a file of these keys.
async fn with_keys(keys: &[Value]) -> JwtVerifier {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, json!({"keys": keys}).to_string()).unwrap();
    JwtVerifier::open(settings(KeySource::Jwks(path.to_str().unwrap().into())), NOW).await.unwrap()
}

/// A verifier with one key for each algorithm. The `kid` of a key is the name of its algorithm.
async fn with_all() -> JwtVerifier {
    with_keys(&[RSA.jwk("RS256"), EC.jwk("ES256"), ED.jwk("EdDSA")]).await
}

async fn accepts(verifier: &JwtVerifier, token: &str) -> bool {
    accepts_at(verifier, token, NOW).await
}

async fn accepts_at(verifier: &JwtVerifier, token: &str, now: Timestamp) -> bool {
    match verifier.verify(token, now).await {
        Ok(verified) => {
            assert!(!verified.subject.is_empty() && verified.expires_at > now);
            true
        }
        Err(Error::Unauthenticated) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn valid_tokens_of_every_algorithm_are_accepted() {
    let expected = Verified { subject: "rdibari".into(), expires_at: after(630) };
    let secret = Signer::Hmac(SECRET.into());
    assert_eq!(with_secret().verify(&secret.good("whatever"), NOW).await.unwrap(), expected);
    let verifier = with_all().await;
    for signer in [&*RSA, &*EC, &*ED] {
        assert_eq!(verifier.verify(&signer.good(signer.algorithm()), NOW).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_token_with_any_byte_changed_is_refused() {
    let verifier = with_all().await;
    for signer in [&*RSA, &*EC, &*ED] {
        let token = signer.good(signer.algorithm());
        for place in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(!accepts(&verifier, &changed).await, "{place}: {changed}");
        }
        for length in 0..token.len() {
            assert!(!accepts(&verifier, &token[..length]).await, "{length}");
        }
        assert!(!accepts(&verifier, &format!("{token}A")).await);
    }
}

#[tokio::test]
async fn another_signer_of_the_same_kind_is_refused() {
    let verifier = with_all().await;
    for (kid, signer) in [("ES256", Signer::ec()), ("EdDSA", Signer::ed())] {
        assert!(!accepts(&verifier, &signer.good(kid)).await, "{kid}");
    }
    assert!(!accepts(&with_secret(), &Signer::Hmac(vec![7; 32]).good("")).await);
}

#[tokio::test]
async fn a_token_without_a_signature_is_refused() {
    let verifiers = [with_secret(), with_all().await];
    for verifier in &verifiers {
        for none in ["none", "None", "NONE", "nOnE", ""] {
            for kid in ["", r#","kid":"RS256""#] {
                let message = message(&format!(r#"{{"alg":"{none}"{kid}}}"#), &claims().to_string());
                for signature in ["", "AA", "e30"] {
                    assert!(!accepts(verifier, &format!("{message}.{signature}")).await, "{none}");
                }
                assert!(!accepts(verifier, &message).await);
            }
        }
        for algorithm in ["HS256", "RS256", "ES256", "EdDSA"] {
            let message = message(&format!(r#"{{"alg":"{algorithm}","kid":"{algorithm}"}}"#), &claims().to_string());
            // Faulty libraries have accepted an ECDSA signature of zeros for every message.
            for signature in [vec![], vec![0; 32], vec![0; 64], vec![0; 256]] {
                let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
                assert!(!accepts(verifier, &token).await, "{token}");
            }
        }
    }
}

#[tokio::test]
async fn public_keys_are_not_used_as_secrets() {
    let Signer::Rsa(pair) = &*RSA else { panic!() };
    let pkcs1 = pair.public_key().as_ref().to_vec();
    let x509: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let lines: Vec<_> = STANDARD.encode(&*x509).into_bytes().chunks(64).map(<[u8]>::to_vec).collect();
    let pem = [b"-----BEGIN PUBLIC KEY-----\n", &*lines.join(&b'\n'), b"\n-----END PUBLIC KEY-----"].concat();
    let parts = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
    let Signer::Ec(ec) = &*EC else { panic!() };
    let Signer::Ed(ed) = &*ED else { panic!() };
    let jwk = RSA.jwk("RS256").to_string().into_bytes();
    let secrets = [
        pkcs1,
        x509.as_ref().to_vec(),
        [&*pem, b"\n"].concat(),
        pem,
        parts.n,
        ec.public_key().as_ref().to_vec(),
        ed.public_key().as_ref().to_vec(),
        jwk,
        vec![],
    ];
    let verifier = with_all().await;
    let alone = with_keys(&[RSA.jwk("RS256")]).await;
    for secret in secrets {
        let forger = Signer::Hmac(secret);
        for algorithm in ["HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"] {
            for kid in ["RS256", "ES256", "EdDSA"] {
                let header = json!({"alg": algorithm, "kid": kid}).to_string();
                assert!(!accepts(&verifier, &forger.token(&header, &claims().to_string())).await, "{header}");
            }
            let header = json!({"alg": algorithm}).to_string();
            assert!(!accepts(&alone, &forger.token(&header, &claims().to_string())).await, "{header}");
        }
    }
}

#[tokio::test]
async fn the_key_decides_the_algorithm_not_the_header() {
    let verifier = with_all().await;
    for signer in [&*RSA, &*EC, &*ED] {
        for algorithm in ["RS256", "ES256", "EdDSA", "HS256", "RS384", "RS512", "PS256", "ES384", "rs256", "Ed25519"] {
            for kid in ["RS256", "ES256", "EdDSA"] {
                let good = signer.algorithm() == algorithm && algorithm == kid;
                let token = signer.token(&json!({"alg": algorithm, "kid": kid}).to_string(), &claims().to_string());
                assert_eq!(accepts(&verifier, &token).await, good, "{algorithm} {kid}");
            }
        }
    }
    // A correct signature with the same key, but with another algorithm of its family.
    let others: [(&str, &'static dyn signature::RsaEncoding); 3] = [
        ("RS512", &signature::RSA_PKCS1_SHA512),
        ("PS256", &signature::RSA_PSS_SHA256),
        ("RS384", &signature::RSA_PKCS1_SHA384),
    ];
    for (algorithm, padding) in others {
        for said in [algorithm, "RS256"] {
            let message = message(&json!({"alg": said, "kid": "RS256"}).to_string(), &claims().to_string());
            let signed = RSA.sign_rsa(padding, message.as_bytes());
            assert!(!accepts(&verifier, &format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed))).await, "{said}");
        }
    }
    // A secret verifies no other algorithm.
    let secret = Signer::Hmac(SECRET.into());
    for algorithm in ["HS384", "HS512", "RS256", "ES256", "EdDSA", "none"] {
        let token = secret.token(&json!({"alg": algorithm}).to_string(), &claims().to_string());
        assert!(!accepts(&with_secret(), &token).await, "{algorithm}");
    }
}

#[tokio::test]
async fn keys_inside_a_token_are_not_used() {
    let verifier = with_all().await;
    let forger = Signer::ec();
    let own = [
        json!({"jwk": forger.jwk("ES256")}),
        json!({"jku": "http://127.0.0.1:1/jwks.json"}),
        json!({"x5u": "http://127.0.0.1:1/chain.pem"}),
        json!({"x5c": ["MIIB"]}),
        json!({"x5c": "wrong", "jwk": 7, "jku": null, "x5u": []}),
    ];
    for extra in own {
        for kid in [Some("ES256"), Some("other"), None] {
            let mut header = extra.clone();
            header["alg"] = "ES256".into();
            if let Some(kid) = kid {
                header["kid"] = kid.into();
            }
            let (header, claims) = (header.to_string(), claims().to_string());
            assert!(!accepts(&verifier, &forger.token(&header, &claims)).await, "{header}");
            // The extra members do not harm a token that the real key has signed, because they are not read.
            assert_eq!(accepts(&verifier, &EC.token(&header, &claims)).await, kid != Some("other"), "{header}");
        }
    }
}

#[tokio::test]
async fn a_secret_is_read_without_its_newline_and_needs_32_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let open = || JwtVerifier::open(settings(KeySource::Hs256File(path.clone())), NOW);
    assert!(open().await.err().unwrap().contains("secret: No such file"));
    let token = Signer::Hmac(SECRET.into()).good("");
    for end in ["", "\n", "\r\n"] {
        std::fs::write(&path, [SECRET, end.as_bytes()].concat()).unwrap();
        assert!(accepts(&open().await.unwrap(), &token).await);
    }
    for (bytes, sentence) in [
        (b"".to_vec(), "has 0 bytes and needs at least 32"),
        (b"\n".to_vec(), "has 0 bytes"),
        ([&SECRET[1..], b"\n"].concat(), "has 31 bytes"),
        ([&SECRET[1..], b"\r\n"].concat(), "has 31 bytes"),
        (vec![7; SECRET_LIMIT_BYTES + 1], "longer than"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = open().await.err().unwrap();
        assert!(error.contains(sentence), "{error}");
    }
    std::fs::write(&path, [0xff; 32]).unwrap();
    assert!(accepts(&open().await.unwrap(), &Signer::Hmac(vec![0xff; 32]).good("")).await);
}

#[tokio::test]
async fn provisioning_follows_the_setting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, SECRET).unwrap();
    for provision in [true, false] {
        let settings = JwtSettings { provision, ..settings(KeySource::Hs256File(path.clone())) };
        assert_eq!(JwtVerifier::open(settings, NOW).await.unwrap().provisions(), provision);
    }
}
