//! Requests with JWTs signed by the operator's own backend. The unit tests of the verifier cover invalid tokens in detail.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use posthaste::base::time::Clock;
use posthaste::domain::identity::jwt::{JwtSettings, KeySource};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::both;
use crate::operations::log::{line, span};
use crate::operations::operations::posthaste;
use crate::support::callers::{Caller, moment, now_micros, secured, session, within_a_second};
use crate::support::process::{Process, Wrapping};
use crate::support::{Options, Place, Server, answer_of};

const ISSUER: &str = "https://backend.example.org";
const AUDIENCE: &str = "posthaste";
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// The key with which the backend signs.
enum Signer {
    Hmac(Vec<u8>),
    Ec(EcdsaKeyPair),
}

impl Signer {
    fn secret() -> Self {
        Self::Hmac(SECRET.to_vec())
    }

    fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    /// A token with exactly this header and these claims.
    fn token(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = match self {
            Self::Hmac(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes()).as_ref().to_vec()
            }
            Self::Ec(pair) => pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn header(&self) -> Value {
        match self {
            Self::Hmac(_) => json!({"alg": "HS256", "typ": "JWT"}),
            Self::Ec(_) => json!({"alg": "ES256", "typ": "JWT", "kid": "k1"}),
        }
    }

    fn good(&self, user_name: &str) -> String {
        self.token(&self.header(), &claims(user_name))
    }

    /// The public key in the form of a key set (JWK).
    fn jwk(&self) -> Value {
        let Self::Ec(pair) = self else { panic!("a secret has no public key") };
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "use": "sig", "x": text(x), "y": text(y)})
    }
}

fn now_s() -> i64 {
    now_micros() / 1_000_000
}

fn claims(user_name: &str) -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": user_name, "exp": now_s() + 600})
}

fn settings(keys: KeySource, provision: bool) -> Option<JwtSettings> {
    Some(JwtSettings { keys, issuer: ISSUER.into(), audience: AUDIENCE.into(), provision })
}

fn with_secret(place: &Place, provision: bool) -> Options {
    let path = place.folder.path().join("secret");
    std::fs::write(&path, [SECRET, b"\n"].concat()).unwrap();
    Options { jwt: settings(KeySource::Hs256File(path), provision), ..secured() }
}

fn with_keys(place: &Place, signer: &Signer) -> Options {
    let path = place.folder.path().join("keys.json");
    std::fs::write(&path, json!({"keys": [signer.jwk()]}).to_string()).unwrap();
    Options { jwt: settings(KeySource::Jwks(path.to_str().unwrap().into()), true), ..secured() }
}

async fn assert_refused(server: &Server, token: &str, why: &str) {
    let answer = Caller::new(server, token).get("/api/users").await;
    assert_eq!(answer.status, 401, "{why}: {}", String::from_utf8_lossy(&answer.bytes));
    answer.problem(401, "unauthenticated");
}

both!(a_valid_token_is_accepted_as_its_user, async |place| {
    let signer = Signer::secret();
    let server = Server::start_with(place, with_secret(place, false)).await;
    let token = signer.good("bugs");
    let bugs = Caller::new(&server, &token);
    for _ in 0..2 {
        assert_eq!(bugs.get("/api/users/me").await.json()["user_name"], "bugs");
    }
    let sent = bugs.post("/api/messages", &json!({"recipient_user_name": "duck", "body": "hey"})).await;
    assert_eq!(sent.json()["sender_user_name"], "bugs");
    bugs.get("/api/messages/duck").await.problem(403, "not_your_messages");
    bugs.get("/api/admin/stats").await.problem(403, "admin_required");
    bugs.acting_as("duck").get("/api/users").await.problem(403, "act_as_not_allowed");
    bugs.delete("/api/sessions/current").await.problem(404, "session_not_found");
    let by_cookie = server.request(Method::GET, "/api/users").header("cookie", "posthaste_session=x");
    answer_of(by_cookie).await.problem(401, "unauthenticated");

    // A user's session and the same user's JWT share idempotency keys.
    let open = Server::start(place).await;
    let session = session(&open, "bugs").await;
    let note = json!({"recipient_user_name": "duck", "body": "once"});
    let first = bugs.post_once("/api/messages", "k", &note).await;
    assert_eq!(Caller::new(&server, &session).post_once("/api/messages", "k", &note).await.bytes, first.bytes);
});

both!(tokens_are_verified_with_a_key_set, async |place| {
    let signer = Signer::ec();
    let server = Server::start_with(place, with_keys(place, &signer)).await;
    let token = signer.good("duck");
    assert_eq!(Caller::new(&server, &token).get("/api/users/me").await.json()["id"], 3);
    let newcomer = signer.good("newcomer");
    assert_eq!(Caller::new(&server, &newcomer).get("/api/users/me").await.json()["user_name"], "newcomer");
    assert_refused(&server, &Signer::ec().good("duck"), "another key with the same id").await;
});

both!(unknown_users_are_created_only_if_configured, async |place| {
    let signer = Signer::secret();
    let newcomer = signer.good("New.Comer");
    let strict = Server::start_with(place, with_secret(place, false)).await;
    assert_refused(&strict, &newcomer, "an unknown user, who must not be created").await;
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.users").await, [[4]]);

    let (one, other) = (
        Server::start_with(place, with_secret(place, true)).await,
        Server::start_with(place, with_secret(place, true)).await,
    );
    let first_uses = (0..24).map(|number| {
        let server = if number % 2 == 0 { &one } else { &other };
        let newcomer = &newcomer;
        async move { Caller::new(server, newcomer).get("/api/users/me").await }
    });
    for answer in futures_util::future::join_all(first_uses).await {
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
        let user = answer.json();
        assert_eq!(
            (&user["user_name"], &user["role"], &user["email"]),
            (&json!("New.Comer"), &json!("user"), &json!(null))
        );
    }
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.users").await, [[5]]);
    // A user whom a token has created has no password, so a log-in with a password is refused.
    one.post("/api/sessions", &json!({"user_name": "New.Comer", "password": "anything at all"}))
        .await
        .problem(401, "invalid_credentials");
    let admin = one.api_key(&["admin"]).await;
    let log = Caller::new(&one, &admin).get("/api/admin/audit").await.json();
    let made: Vec<&Value> = log.as_array().unwrap().iter().filter(|entry| entry["action"] == "user.created").collect();
    assert_eq!(made.len(), 1, "{log}");
    assert_eq!((&made[0]["subject_id"].is_i64(), &made[0]["address"]), (&true, &json!("127.0.0.1")));
});

both!(tokens_of_banned_erased_and_unknown_users_are_refused, async |place| {
    let signer = Signer::secret();
    let server = Server::start_with(place, with_secret(place, true)).await;
    let other = Server::start_with(place, with_secret(place, true)).await;
    let admin = server.api_key(&["read", "write", "admin"]).await;
    let admin = Caller::new(&server, &admin);
    let (bugs, duck) = (signer.good("bugs"), signer.good("duck"));
    for server in [&server, &other] {
        for token in [&bugs, &duck] {
            assert_eq!(Caller::new(server, token).get("/api/users/me").await.status, 200);
        }
    }
    assert_eq!(admin.put("/api/admin/users/bugs/ban", &json!({})).await.status, 204);
    assert_refused(&server, &bugs, "banned").await;
    assert_refused(&server, &signer.good("bugs"), "a new token of a banned user").await;
    within_a_second(Caller::new(&other, &bugs), "/api/users", 401).await;
    assert_eq!(admin.delete("/api/admin/users/bugs/ban").await.status, 204);
    assert_eq!(Caller::new(&server, &bugs).get("/api/users/me").await.status, 200);

    assert_eq!(admin.delete("/api/users/duck").await.status, 204);
    assert_refused(&server, &duck, "erased").await;
    within_a_second(Caller::new(&other, &duck), "/api/users", 401).await;
    assert_refused(&server, &signer.good("duck"), "a new token of an erased user").await;
    assert_refused(&server, &signer.good("Duck"), "the name of an erased user in other letter case").await;

    for name in ["BUGS", "Bugs", "me", "ME", "requests", "", " ", "a b", "../admin", "x\0y", "\0", "ü", "...", "bugs\n"]
    {
        assert_refused(&server, &signer.good(name), name).await;
    }
    assert_refused(&server, &signer.good(&"x".repeat(33)), "too long").await;
    assert_refused(&server, &signer.good(&"x".repeat(4_000)), "much too long").await;
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.users").await, [[3]]);
});

both!(cached_tokens_end_at_their_expiry, async |place| {
    let hand = Arc::new(AtomicI64::new(moment("2026-11-22T08:30:00Z")));
    let options = Options { clock: Clock::Manual(Arc::clone(&hand)), ..with_secret(place, false) };
    let server = Server::start_with(place, options).await;
    let mut claims = claims("bugs");
    claims["exp"] = (moment("2026-11-22T08:31:00Z") / 1_000_000).into();
    claims["nbf"] = (moment("2026-11-22T08:30:20Z") / 1_000_000).into();
    let token = Signer::secret().token(&json!({"alg": "HS256"}), &claims);
    let caller = Caller::new(&server, &token);
    let at = |text: &str| hand.store(moment(text), Ordering::Relaxed);
    at("2026-11-22T08:29:49Z");
    assert_refused(&server, &token, "not valid yet").await;
    at("2026-11-22T08:29:51Z");
    assert_eq!(caller.get("/api/users").await.status, 200);
    at("2026-11-22T08:31:29.999999Z");
    assert_eq!(caller.get("/api/users").await.status, 200);
    at("2026-11-22T08:31:30Z");
    assert_refused(&server, &token, "expired, even with the leeway").await;
});

both!(a_clock_that_is_set_back_keeps_no_cached_token_valid_longer, async |place| {
    let hand = Arc::new(AtomicI64::new(moment("2026-11-22T08:30:00Z")));
    let options = Options { clock: Clock::Manual(Arc::clone(&hand)), ..with_secret(place, false) };
    let server = Server::start_with(place, options).await;
    let mut claims = claims("bugs");
    claims["exp"] = (moment("2026-11-22T09:30:00Z") / 1_000_000).into();
    claims["nbf"] = (moment("2026-11-22T08:30:00Z") / 1_000_000).into();
    let token = Signer::secret().token(&json!({"alg": "HS256"}), &claims);
    assert_eq!(Caller::new(&server, &token).get("/api/users").await.status, 200);
    hand.store(moment("2026-11-20T08:30:00Z"), Ordering::Relaxed);
    assert_refused(&server, &token, "not valid yet").await;
});

both!(a_demoted_administrator_loses_the_role_within_a_second, async |place| {
    let signer = Signer::secret();
    let server = Server::start_with(place, with_secret(place, false)).await;
    let set = |role: &str| posthaste(place, &["admin", "set-role", "--user-name", "duck", "--role", role]);
    assert!(set("admin").status.success());
    let duck = signer.good("duck");
    assert_eq!(Caller::new(&server, &duck).get("/api/admin/stats").await.status, 200);
    assert!(set("user").status.success());
    within_a_second(Caller::new(&server, &duck), "/api/admin/stats", 403).await.problem(403, "admin_required");
});

/// Starts a listener to which the server must not connect. Returns its URL and a counter of the connections to it.
async fn trap() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys.json", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    (url, count)
}

/// The claims with one of them replaced; `null` removes it.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims("bugs");
    claims[name] = value;
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

both!(forged_tokens_are_refused_and_cause_no_request_to_other_hosts, async |place| {
    let (url, visitors) = trap().await;
    let (secret, ec, thief) = (Signer::secret(), Signer::ec(), Signer::ec());
    let by_secret = Server::start_with(place, with_secret(place, true)).await;
    let by_keys = Server::start_with(place, with_keys(place, &ec)).await;
    for (server, signer) in [(&by_secret, &secret), (&by_keys, &ec)] {
        let good = signer.good("bugs");
        let (message, _) = good.rsplit_once('.').unwrap();
        for algorithm in ["none", "None", "NONE", "nOnE", "", "HS384", "RS512", "PS256", "ES384"] {
            let header = json!({"alg": algorithm, "typ": "JWT", "kid": "k1"});
            assert_refused(server, &signer.token(&header, &claims("bugs")), algorithm).await;
            let header = URL_SAFE_NO_PAD.encode(header.to_string());
            let claims = URL_SAFE_NO_PAD.encode(claims("bugs").to_string());
            for signature in ["", "AA"] {
                assert_refused(server, &format!("{header}.{claims}.{signature}"), algorithm).await;
            }
        }
        for (token, why) in [
            (message.to_owned(), "no signature"),
            (format!("{message}."), "an empty signature"),
            (format!("{message}.AAAA"), "another signature"),
            (format!("{good}="), "padding"),
            (format!("{good}.AAAA"), "four parts"),
            (format!("{good}{}", "A".repeat(9_000)), "too long"),
        ] {
            assert_refused(server, &token, why).await;
        }
        for (name, value) in [
            ("exp", json!((now_s() + 600).to_string())),
            ("exp", json!(now_s() - 31)),
            ("exp", json!(0)),
            ("exp", json!(-1)),
            ("exp", json!([now_s() + 600])),
            ("exp", json!(true)),
            ("exp", json!(null)),
            ("nbf", json!("0")),
            ("nbf", json!(now_s() + 600)),
            ("iat", json!("0")),
            ("iss", json!(null)),
            ("iss", json!("https://other.example.org")),
            ("iss", json!([ISSUER])),
            ("aud", json!(null)),
            ("aud", json!("other")),
            ("aud", json!([])),
            ("aud", json!({"posthaste": true})),
            ("sub", json!(null)),
            ("sub", json!("")),
            ("sub", json!(2)),
            ("sub", json!(["bugs"])),
        ] {
            let claims = with(name, value);
            assert_refused(server, &signer.token(&signer.header(), &claims), &claims.to_string()).await;
        }
        for (name, value) in [
            ("jku", json!(url)),
            ("x5u", json!(url)),
            ("jwk", thief.jwk()),
            ("kid", json!(url)),
            ("kid", json!("../../../../../../dev/null")),
            ("kid", json!("/dev/null")),
            ("kid", json!("k1' OR '1'='1")),
            ("kid", json!("k1\0")),
            ("kid", json!(1)),
            ("crit", json!(["jku"])),
            ("typ", json!("logout+jwt")),
        ] {
            for forger in [&thief, &Signer::Hmac(Vec::new())] {
                let mut header = forger.header();
                header[name] = value.clone();
                assert_refused(server, &forger.token(&header, &claims("bugs")), &header.to_string()).await;
            }
        }
        // After all these refusals, valid tokens are still accepted.
        assert_eq!(Caller::new(server, &good).get("/api/users/me").await.json()["user_name"], "bugs");
        let several = signer.token(&signer.header(), &with("aud", json!(["x", AUDIENCE])));
        assert_eq!(Caller::new(server, &several).get("/api/users").await.status, 200);
    }
    // Signs with the public key as an HMAC secret, in each form in which a careless verifier might use it.
    let Signer::Ec(pair) = &ec else { unreachable!() };
    let file = std::fs::read(place.folder.path().join("keys.json")).unwrap();
    for public in [pair.public_key().as_ref().to_vec(), ec.jwk().to_string().into_bytes(), file] {
        for header in
            [json!({"alg": "HS256"}), json!({"alg": "HS256", "kid": "k1"}), json!({"alg": "ES256", "kid": "k1"})]
        {
            let forged = Signer::Hmac(public.clone()).token(&header, &claims("bugs"));
            assert_refused(&by_keys, &forged, "algorithm confusion").await;
        }
    }
    assert_refused(&by_secret, &ec.good("bugs"), "an asymmetric token where a secret is configured").await;
    assert_refused(&by_keys, &secret.good("bugs"), "a token signed with a secret where keys are configured").await;
    // Without configuration every JWT is refused.
    let without = Server::start_with(place, secured()).await;
    assert_refused(&without, &secret.good("bugs"), "JWTs are not configured").await;
    assert_eq!(visitors.load(Ordering::Relaxed), 0, "the server has fetched a key");
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.users").await, [[4]]);
});

both!(the_log_says_why_a_token_was_refused, async |place| {
    let path = place.folder.path().join("secret");
    std::fs::write(&path, SECRET).unwrap();
    let arguments = [
        ["--jwt-hs256-secret-file", path.to_str().unwrap()],
        ["--jwt-issuer", ISSUER],
        ["--jwt-audience", AUDIENCE],
        ["--log", "info"],
        ["--log-format", "json"],
    ];
    let arguments = arguments.concat().iter().map(|word| (*word).to_owned()).collect();
    let process = Process::start_wrapped(place, Wrapping { arguments, ..Wrapping::default() }).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let signer = Signer::secret();
    let with = |name: &str, value: Value| {
        let mut claims = claims("bugs");
        claims[name] = value;
        signer.token(&signer.header(), &claims)
    };
    let cases = [
        (with("exp", json!(now_s() - 600)), "the token has expired"),
        (with("nbf", json!(now_s() + 600)), "not valid yet"),
        (with("iss", json!("https://other.example.org")), "iss is not the configured issuer"),
        (with("aud", json!("other")), "aud does not contain the configured audience"),
        (with("sub", json!("nobody-here")), "no user has the name in sub"),
        (with("sub", json!("BUGS")), "differ in upper and lower case"),
        (Signer::Hmac(vec![7; 32]).good("bugs"), "the signature is wrong"),
        (Signer::ec().good("bugs"), "the algorithm does not fit"),
        (signer.token(&json!({"alg": "none"}), &claims("bugs")), "alg is not one of"),
        ("nonsense-token".to_owned(), "does not have three parts"),
        ("phk_nonsense-key".to_owned(), "unknown, revoked or expired"),
        ("phs_nonsense-session".to_owned(), "unknown or has ended"),
    ];
    for (number, (token, reason)) in cases.iter().enumerate() {
        let id = format!("refused-{number}");
        let request = client.get(format!("http://{}/api/messages/porky?limit=3", process.address));
        let answer = answer_of(request.bearer_auth(token).header("x-request-id", &id)).await;
        answer.problem(401, "unauthenticated");
        let of_request = |line: &Value| span(line, "request").is_some_and(|request| request["request_id"] == *id);
        let refused = line(&process, reason, |line| of_request(line) && line["reason"].is_string()).await;
        assert!(refused["reason"].as_str().unwrap().contains(reason), "{reason}: {refused}");
        assert_eq!(refused["level"], "INFO");
        let answered = line(&process, "the answer", |line| of_request(line) && line["message"] == "answered").await;
        assert_eq!(span(&answered, "request").unwrap()["route"], "/api/messages/{user_name}", "{answered}");
    }
    let log = process.log();
    for (token, reason) in &cases {
        assert!(token.split('.').all(|part| !log.contains(part)), "{reason}: {log}");
    }
    assert!(!log.contains("nobody-here") && !log.contains("porky"), "{log}");
    let metrics = client.get(format!("http://{}/metrics", process.address)).send().await.unwrap().text().await.unwrap();
    let counted = format!(
        "posthaste_http_requests_total{{method=\"GET\",route=\"/api/messages/{{user_name}}\",status=\"401\"}} {}",
        cases.len()
    );
    assert!(metrics.contains(&counted), "{metrics}");
    process.terminate().await;
});
