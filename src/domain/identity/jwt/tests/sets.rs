//! Tests of key sets: which keys are used, and when a file is read again.
//!
//! Invariant: an unusable key does not prevent the use of the other keys of its set.

use std::path::Path;

use super::*;

/// The error for a file that holds only this key.
async fn refusal(key: Value) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, json!({"keys": [key]}).to_string()).unwrap();
    open(&path).await.err().unwrap_or_default()
}

async fn open(path: &Path) -> Result<JwtVerifier, String> {
    JwtVerifier::open(settings(KeySource::Jwks(path.to_str().unwrap().into())), NOW).await
}

/// A key with some members replaced; null stands for a missing member.
fn changed(mut key: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        key[name] = value.clone();
    }
    key
}

#[tokio::test]
async fn unusable_keys_are_skipped_with_a_reason() {
    let (rsa, ec, ed) = (RSA.jwk("k"), EC.jwk("k"), ED.jwk("k"));
    let modulus = |bytes: Vec<u8>| json!({"n": URL_SAFE_NO_PAD.encode(bytes)});
    let mut bits_2047 = vec![0xff; 256];
    bits_2047[0] = 0x7f;
    let cases = [
        (Signer::Hmac(SECRET.into()).jwk("k"), "unsupported kty"),
        (changed(ec.clone(), json!({"crv": "P-384"})), "unsupported kty"),
        (changed(ec.clone(), json!({"crv": "secp256k1"})), "unsupported kty"),
        (changed(ed.clone(), json!({"crv": "X25519"})), "unsupported kty"),
        (changed(ed.clone(), json!({"crv": "Ed448"})), "unsupported kty"),
        (changed(ed.clone(), json!({"kty": "EC"})), "unsupported kty"),
        (changed(rsa.clone(), json!({"kty": "rsa"})), "unsupported kty"),
        (changed(rsa.clone(), json!({"alg": "HS256"})), "unsupported alg"),
        (changed(rsa.clone(), json!({"alg": "RS512"})), "unsupported alg"),
        (changed(rsa.clone(), json!({"alg": "PS256"})), "unsupported alg"),
        (changed(rsa.clone(), json!({"alg": "RSA-OAEP"})), "unsupported alg"),
        (changed(ec.clone(), json!({"alg": "RS256"})), "unsupported alg"),
        (changed(ed.clone(), json!({"alg": "ES256"})), "unsupported alg"),
        (changed(rsa.clone(), json!({"use": "enc"})), "use or key_ops"),
        (changed(ec.clone(), json!({"use": "SIG"})), "use or key_ops"),
        (changed(ec.clone(), json!({"key_ops": ["sign"]})), "use or key_ops"),
        (changed(ec.clone(), json!({"key_ops": []})), "use or key_ops"),
        (changed(ec.clone(), json!({"use": "sig", "key_ops": ["encrypt"]})), "use or key_ops"),
        (changed(ec.clone(), json!({"use": "enc", "key_ops": ["verify"]})), "use or key_ops"),
        (changed(ec.clone(), json!({"d": "AAAA"})), "private key"),
        (changed(rsa.clone(), modulus(vec![0xff; 128])), "2048"),
        (changed(rsa.clone(), modulus(bits_2047)), "2048"),
        (changed(rsa.clone(), modulus([vec![0; 200], vec![0xff; 128]].concat())), "2048"),
        (changed(rsa.clone(), modulus(vec![0xff; 1_025])), "8192"),
        (changed(rsa.clone(), modulus(vec![])), "2048"),
        (changed(rsa.clone(), json!({"e": "AQ"})), "exponent"),
        (changed(rsa.clone(), json!({"e": "AAAAAQ"})), "exponent"),
        (changed(rsa.clone(), json!({"e": "AAAA"})), "exponent"),
        (changed(rsa.clone(), json!({"e": "Ag"})), "exponent"),
        (changed(rsa.clone(), json!({"e": "AQAAAAAB"})), "exponent"),
        (changed(rsa.clone(), json!({"n": null})), "missing"),
        (changed(rsa.clone(), json!({"n": "not base64!"})), "base64url"),
        (changed(ec.clone(), json!({"x": "AAAA"})), "32 bytes"),
        (changed(ec.clone(), json!({"y": null})), "missing"),
        (changed(ed.clone(), json!({"x": URL_SAFE_NO_PAD.encode([7; 33])})), "32 bytes"),
        (changed(ed.clone(), json!({"kid": 7})), "not a JSON Web Key"),
        (changed(ed.clone(), json!({"key_ops": "verify"})), "not a JSON Web Key"),
        (json!(7), "not a JSON Web Key"),
        (json!({}), "not a JSON Web Key"),
    ];
    for (key, reason) in cases {
        let sentence = refusal(key.clone()).await;
        assert!(sentence.contains(reason), "{key}: {sentence}");
        let verifier = with_keys(&[key, EC.jwk("other")]).await;
        assert!(accepts(&verifier, &EC.good("other")).await);
        for signer in [&*RSA, &*EC, &*ED] {
            assert!(!accepts(&verifier, &signer.good("k")).await);
        }
    }
    let more = json!({"alg": "RS256", "use": "sig", "key_ops": ["sign", "verify"], "x5c": [], "unknown": {}});
    assert!(accepts(&with_keys(&[changed(rsa.clone(), more)]).await, &RSA.good("k")).await);
    // Some backends write a leading zero byte, as for a signed number.
    let Some(text) = rsa["n"].as_str() else { panic!() };
    let padded = [vec![0], URL_SAFE_NO_PAD.decode(text).unwrap()].concat();
    assert!(accepts(&with_keys(&[changed(rsa, modulus(padded))]).await, &RSA.good("k")).await);
}

#[tokio::test]
async fn points_off_the_curve_verify_nothing() {
    let zero = URL_SAFE_NO_PAD.encode([0; 32]);
    let verifier = with_keys(&[changed(EC.jwk("k"), json!({"x": zero, "y": zero}))]).await;
    assert!(!accepts(&verifier, &EC.good("k")).await);
    let message = message(r#"{"alg":"ES256","kid":"k"}"#, &claims().to_string());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode([0; 64]));
    assert!(!accepts(&verifier, &token).await);
}

#[tokio::test]
async fn symmetric_keys_of_a_set_are_never_used() {
    let secret = Signer::Hmac(SECRET.into());
    let mut oct = secret.jwk("oct");
    oct["alg"] = "HS256".into();
    let verifier = with_keys(&[oct, ED.jwk("ed")]).await;
    assert!(accepts(&verifier, &ED.good("ed")).await);
    for kid in ["oct", "ed", "other"] {
        assert!(!accepts(&verifier, &secret.good(kid)).await);
    }
    assert!(!accepts(&verifier, &secret.token(r#"{"alg":"HS256"}"#, &claims().to_string())).await);
}

#[tokio::test]
async fn a_token_without_a_kid_needs_exactly_one_key_of_its_algorithm() {
    let without_kid =
        |signer: &Signer| signer.token(&json!({"alg": signer.algorithm()}).to_string(), &claims().to_string());
    let one_key_each = with_all().await;
    for signer in [&*RSA, &*EC, &*ED] {
        assert!(accepts(&one_key_each, &without_kid(signer)).await);
    }
    assert!(!accepts(&one_key_each, &without_kid(&Signer::ec())).await);
    let two = with_keys(&[EC.jwk("one"), Signer::ec().jwk("two"), ED.jwk("three")]).await;
    assert!(!accepts(&two, &without_kid(&EC)).await);
    assert!(accepts(&two, &without_kid(&ED)).await);
    assert!(!accepts(&two, &without_kid(&RSA)).await);
    // An unusable key does not count as the second one.
    let enc = changed(Signer::ec().jwk("two"), json!({"use": "enc"}));
    assert!(accepts(&with_keys(&[EC.jwk("one"), enc]).await, &without_kid(&EC)).await);
    // A key without a `kid` verifies only tokens without one.
    let unnamed = with_keys(&[changed(EC.jwk(""), json!({"kid": null}))]).await;
    assert!(accepts(&unnamed, &without_kid(&EC)).await);
    assert!(!accepts(&unnamed, &EC.good("")).await);
}

#[tokio::test]
async fn of_two_keys_with_one_kid_the_first_is_used() {
    let verifier = with_keys(&[EC.jwk("k"), Signer::ec().jwk("k"), ED.jwk("k")]).await;
    assert!(accepts(&verifier, &EC.good("k")).await);
    assert!(!accepts(&verifier, &ED.good("k")).await);
}

#[tokio::test]
async fn files_without_a_valid_set_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    assert!(open(&path).await.err().unwrap().contains("keys.json: No such file"));
    assert!(open(folder.path()).await.is_err());
    let many: Vec<_> = (0..101).map(|number| ED.jwk(&number.to_string())).collect();
    let nested = format!("{{\"keys\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for (text, sentence) in [
        (String::new(), "not a JSON Web Key Set"),
        ("[]".into(), "not a JSON Web Key Set"),
        ("{}".into(), "not a JSON Web Key Set"),
        (EC.jwk("k").to_string(), "not a JSON Web Key Set"),
        (r#"{"keys":{}}"#.into(), "not a JSON Web Key Set"),
        (nested, "not a JSON Web Key Set"),
        (r#"{"keys":[]}"#.into(), "no key in this set can verify a token"),
        (json!({"keys": many}).to_string(), "more than 100 keys"),
        (" ".repeat(256 * 1024 + 1), "longer than 262144 bytes"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = open(&path).await.err().unwrap();
        assert!(error.contains(sentence), "{error}");
    }
    std::fs::write(&path, json!({"keys": many[..100]}).to_string()).unwrap();
    assert!(accepts(&open(&path).await.unwrap(), &ED.good("99")).await);
}

#[tokio::test]
async fn a_changed_file_is_read_again_after_10_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let write = |text: &str| {
        // Replaced by a rename, so that no reader sees half of a file.
        let new = folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    let set = |keys: &[Value]| json!({"keys": keys}).to_string();
    write(&set(&[ED.jwk("old")]));
    let verifier = open(&path).await.unwrap();
    assert!(accepts(&verifier, &ED.good("old")).await);

    write(&set(&[EC.jwk("new")]));
    assert!(!accepts_at(&verifier, &EC.good("new"), after(9)).await);
    assert!(accepts_at(&verifier, &ED.good("old"), after(9)).await);
    assert!(accepts_at(&verifier, &EC.good("new"), after(10)).await);
    assert!(!accepts_at(&verifier, &ED.good("old"), after(11)).await);

    write("half of a s");
    assert!(accepts_at(&verifier, &EC.good("new"), after(30)).await);
    std::fs::remove_file(&path).unwrap();
    assert!(accepts_at(&verifier, &EC.good("new"), after(60)).await);
    write(&set(&[ED.jwk("old"), EC.jwk("new")]));
    assert!(accepts_at(&verifier, &ED.good("old"), after(90)).await);
    // An empty set is valid: the backend has withdrawn every key, and no token is accepted any more.
    write(&set(&[]));
    assert!(!accepts_at(&verifier, &EC.good("new"), after(120)).await);
    write(&set(&[ED.jwk("old")]));
    // A clock that was set back does not delay the reading of a change.
    assert!(accepts_at(&verifier, &ED.good("old"), after(100)).await);
}
