//! Tests of headers and claims: their form, their types and their times.
//!
//! Invariant: every token here has a valid signature, so a refusal can only be due to its form.

use super::*;

fn secret() -> Signer {
    Signer::Hmac(SECRET.into())
}

/// Whether a token with these claims is accepted.
async fn accepts_claims(claims: &str) -> bool {
    accepts(&with_secret(), &secret().token(r#"{"alg":"HS256"}"#, claims)).await
}

/// Whether a token with this header is accepted.
async fn accepts_header(header: &str) -> bool {
    accepts(&with_secret(), &secret().token(header, &claims().to_string())).await
}

#[tokio::test]
async fn required_claims_must_be_present_and_have_the_right_type() {
    assert!(accepts_claims(&claims().to_string()).await);
    for name in ["iss", "aud", "sub", "exp"] {
        assert!(!accepts_claims(&claims_with(json!({name: null}))).await, "{name}");
        let mut nothing = claims();
        nothing[name] = Value::Null;
        assert!(!accepts_claims(&nothing.to_string()).await, "{name} null");
        for wrong in [json!(true), json!(""), json!({}), json!([]), json!([[]]), json!(-1)] {
            assert!(!accepts_claims(&claims_with(json!({name: wrong}))).await, "{name} {wrong}");
        }
    }
    for name in ["iss", "sub"] {
        for wrong in [json!([ISSUER]), json!(7), json!({"name": "rdibari"})] {
            assert!(!accepts_claims(&claims_with(json!({name: wrong}))).await, "{name} {wrong}");
        }
    }
    for name in ["exp", "nbf", "iat"] {
        for wrong in [json!((NOW_S + 60).to_string()), json!("2026-11-22T09:00:00Z"), json!([NOW_S]), json!(false)] {
            assert!(!accepts_claims(&claims_with(json!({name: wrong}))).await, "{name} {wrong}");
        }
    }
    for name in ["nbf", "iat"] {
        let mut nothing = claims();
        nothing[name] = Value::Null;
        assert!(!accepts_claims(&nothing.to_string()).await, "{name} null");
        assert!(accepts_claims(&claims_with(json!({name: NOW_S - 5}))).await, "{name}");
        assert!(accepts_claims(&claims_with(json!({name: NOW_S as f64 - 0.5}))).await, "{name}");
    }
}

#[tokio::test]
async fn issuer_and_audience_must_match() {
    for issuer in ["https://backend.example.org/", "https://BACKEND.example.org", "https://backend.example.or", " "] {
        assert!(!accepts_claims(&claims_with(json!({"iss": issuer}))).await, "{issuer}");
    }
    for audience in [json!([AUDIENCE]), json!(["other", AUDIENCE]), json!([AUDIENCE, AUDIENCE])] {
        assert!(accepts_claims(&claims_with(json!({"aud": audience}))).await, "{audience}");
    }
    for audience in [
        json!("other"),
        json!("Posthaste"),
        json!("posthaste,other"),
        json!("post"),
        json!(["other"]),
        json!([AUDIENCE, 7]),
        json!([AUDIENCE, null]),
        json!([[AUDIENCE]]),
        json!({AUDIENCE: true}),
    ] {
        assert!(!accepts_claims(&claims_with(json!({"aud": audience}))).await, "{audience}");
    }
}

#[tokio::test]
async fn a_duplicate_name_makes_a_token_invalid() {
    let claims = claims().to_string();
    let inner = claims.trim_end_matches('}');
    assert!(accepts_claims(&format!("{inner}}}")).await);
    for twice in [
        r#""sub":"rdibari""#,
        r#""sub":"bugs""#,
        r#""s\u0075b":"bugs""#,
        r#""exp":99999999999"#,
        r#""aud":"other""#,
        r#""x":1,"x":1"#,
    ] {
        assert!(!accepts_claims(&format!("{inner},{twice}}}")).await, "{twice}");
    }
    for header in [
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","\u0061lg":"none"}"#,
        r#"{"alg":"HS256","kid":"a","kid":"b"}"#,
    ] {
        assert!(!accepts_header(header).await, "{header}");
    }
}

#[tokio::test]
async fn members_of_the_header_that_matter_are_checked_strictly() {
    for good in [
        r#"{"alg":"HS256"}"#,
        r#"{"alg":"HS256","typ":"JWT"}"#,
        r#"{"alg":"HS256","typ":"jwt","kid":""}"#,
        r#"{"typ":"at+jwt","alg":"HS256"}"#,
        r#"{"typ":"application/at+JWT","alg":"HS256"}"#,
        r#"{"alg":"HS256","cty":"text","x5t":"abc","more":{"a":[1]}}"#,
        " { \"alg\" : \"HS256\" } ",
    ] {
        assert!(accepts_header(good).await, "{good}");
    }
    for wrong in [
        "",
        "{}",
        "null",
        "[]",
        "\"HS256\"",
        r#"{"alg":null}"#,
        r#"{"alg":7}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":" HS256"}"#,
        r#"{"ALG":"HS256"}"#,
        r#"{"alg":"HS256"} {}"#,
        r#"{"alg":"HS256",}"#,
        r#"{"alg":"HS256","crit":["exp"]}"#,
        r#"{"alg":"HS256","crit":[]}"#,
        r#"{"alg":"HS256","crit":null}"#,
        r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
        r#"{"alg":"HS256","kid":null}"#,
        r#"{"alg":"HS256","kid":7}"#,
        r#"{"alg":"HS256","kid":["a"]}"#,
        r#"{"alg":"HS256","typ":"logout+jwt"}"#,
        r#"{"alg":"HS256","typ":"JOSE"}"#,
        r#"{"alg":"HS256","typ":null}"#,
        r#"{"alg":"HS256","typ":{}}"#,
        "\u{feff}{\"alg\":\"HS256\"}",
    ] {
        assert!(!accepts_header(wrong).await, "{wrong}");
    }
}

#[tokio::test]
async fn a_kid_only_selects_a_key_of_the_set() {
    let names = ["../../../../dev/null", "/etc/passwd", "' OR 1=1 --", "https://example.org/", "\u{0}", "日本", ""];
    for name in names {
        let known = with_keys(&[ED.jwk(name), EC.jwk("other")]).await;
        assert!(accepts(&known, &ED.good(name)).await, "{name}");
        let strange = with_keys(&[ED.jwk("it"), EC.jwk("other")]).await;
        assert!(!accepts(&strange, &ED.good(name)).await, "{name}");
        // The content of a file with that name is not used as a secret either. Vulnerable libraries have read
        // `/dev/null` as an empty secret.
        assert!(!accepts(&strange, &Signer::Hmac(vec![]).good(name)).await, "{name}");
    }
    let (longest, too_long) = ("é".repeat(KID_LIMIT_CHARS), "é".repeat(KID_LIMIT_CHARS + 1));
    let known = with_keys(&[ED.jwk(&longest), EC.jwk(&too_long)]).await;
    assert!(accepts(&known, &ED.good(&longest)).await);
    assert!(!accepts(&known, &EC.good(&too_long)).await);
    let header = json!({"alg": "HS256", "kid": too_long}).to_string();
    assert!(!accepts_header(&header).await);
}

#[tokio::test]
async fn times_are_compared_with_the_time_passed_in() {
    let verifier = with_secret();
    let at = |claims: Value| secret().token(r#"{"alg":"HS256"}"#, &claims_with(claims));
    let cases = [
        (json!({"exp": NOW_S + 1}), true),
        (json!({"exp": NOW_S}), true),
        (json!({"exp": NOW_S - 29}), true),
        (json!({"exp": NOW_S as f64 - 29.5}), true),
        (json!({"exp": NOW_S as f64 - 30.5}), false),
        (json!({"exp": NOW_S - 30}), false),
        (json!({"exp": NOW_S - 86_400}), false),
        (json!({"exp": 0}), false),
        (json!({"exp": -1}), false),
        (json!({"exp": i64::MIN}), false),
        (json!({"exp": -1e300}), false),
        // Milliseconds instead of seconds: the year 58861.
        (json!({"exp": NOW_S * 1_000}), true),
        (json!({"nbf": NOW_S}), true),
        (json!({"nbf": NOW_S + 30}), true),
        (json!({"nbf": NOW_S as f64 + 30.5}), false),
        (json!({"nbf": NOW_S + 31}), false),
        (json!({"nbf": u64::MAX}), false),
        (json!({"nbf": 1e300}), false),
        (json!({"nbf": i64::MIN}), true),
    ];
    for (claims, good) in cases {
        assert_eq!(accepts(&verifier, &at(claims.clone())).await, good, "{claims}");
    }
    let token = at(json!({"exp": NOW_S + 600, "nbf": NOW_S + 300}));
    for (seconds, good) in
        [(0, false), (269, false), (270, true), (629, true), (630, false), (i64::MAX / 1_000_000, false)]
    {
        let now = Timestamp::from_micros(NOW.micros().saturating_add(seconds * 1_000_000));
        assert_eq!(accepts_at(&verifier, &token, now).await, good, "{seconds}");
    }
    for now in [Timestamp::MIN, Timestamp::MAX] {
        assert!(!accepts_at(&verifier, &token, now).await);
    }
}

#[tokio::test]
async fn an_expiry_beyond_the_largest_timestamp_becomes_the_largest_timestamp() {
    for exp in ["253402300800", "1e300", "18446744073709551615", "9223372036854775807", "99999999999999999999999999"] {
        let claims = claims_with(json!({})).replace(&(NOW_S + 600).to_string(), exp);
        let verified = with_secret().verify(&secret().token(r#"{"alg":"HS256"}"#, &claims), NOW).await.unwrap();
        assert_eq!(verified.expires_at, Timestamp::MAX, "{exp}");
    }
    for exp in ["1e999", "NaN", "Infinity", "0x7fffffff", "+1795336800", "01795336800"] {
        let claims = claims_with(json!({})).replace(&(NOW_S + 600).to_string(), exp);
        assert!(!accepts_claims(&claims).await, "{exp}");
    }
}

#[tokio::test]
async fn a_token_has_three_parts_of_base64url_and_8_kib() {
    let verifier = with_secret();
    let header = r#"{"alg":"HS256"}"#;
    let of_length = |padding: usize| secret().token(header, &claims_with(json!({"x": "x".repeat(padding)})));
    let longest = (5_000..TOKEN_LIMIT_BYTES).map(of_length).take_while(|token| token.len() <= TOKEN_LIMIT_BYTES).last();
    assert!(accepts(&verifier, &longest.unwrap()).await);
    assert!(!accepts(&verifier, &of_length(TOKEN_LIMIT_BYTES * 3 / 4)).await);

    let good = secret().good("");
    let parts: Vec<_> = good.split('.').collect();
    let [head, body, end] = parts[..] else { panic!() };
    assert!(accepts(&verifier, &good).await);
    for wrong in [
        "".into(),
        ".".into(),
        "..".into(),
        "...".into(),
        format!("{head}.{body}"),
        format!("{head}.{body}."),
        format!(".{body}.{end}"),
        format!("{head}..{end}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{end}"),
        format!("{head}.{body}.{end}.{end}.{end}"),
        format!("{good}="),
        format!("{good} "),
        format!(" {good}"),
        format!("{good}\n"),
        format!("Bearer {good}"),
        good.replace('.', "。"),
        format!("{head}.{body}.é"),
        "é.é.é".into(),
        "\u{0}.\u{0}.\u{0}".into(),
        "🦀".repeat(TOKEN_LIMIT_BYTES),
    ] {
        assert!(!accepts(&verifier, &wrong).await, "{wrong}");
    }
    // The same bytes in other alphabets, with a signature over that text.
    let with_padding = URL_SAFE.encode(r#"{"alg":"HS256" }"#);
    assert!(with_padding.ends_with('='));
    for head in [with_padding, STANDARD.encode("{\"alg\":\"HS256\",\"a\":\"\u{7f}\u{7f}?>\"}")] {
        let message = format!("{head}.{body}");
        let signed = URL_SAFE_NO_PAD.encode(secret().sign(message.as_bytes()));
        assert!(!accepts(&verifier, &format!("{message}.{signed}")).await, "{head}");
    }
    // The last character of 32 bytes in base64 has two unused bits. Only one way to write it is accepted.
    let last = end.chars().last().unwrap();
    let same = ('A'..='Z').chain('a'..='z').chain('0'..='9').filter(|other| *other != last);
    for other in same {
        let changed = format!("{}{other}", &good[..good.len() - 1]);
        assert!(!accepts(&verifier, &changed).await, "{changed}");
    }
}

#[tokio::test]
async fn claims_that_are_not_an_object_are_refused_without_a_panic() {
    let nested = format!("{}{}", "[".repeat(3_000), "]".repeat(3_000));
    for claims in
        ["", "null", "[]", "7", "\"text\"", "{", "{}}", "{\"a\"}", "\u{0}", &nested, &format!("{{\"a\":{nested}}}")]
    {
        assert!(!accepts_claims(claims).await, "{claims}");
    }
    let mut message = format!("{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#));
    message.push_str(&URL_SAFE_NO_PAD.encode([b'{', b'"', 0xff, b'"', b':', b'1', b'}']));
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(secret().sign(message.as_bytes())));
    assert!(!accepts(&with_secret(), &token).await);
}
