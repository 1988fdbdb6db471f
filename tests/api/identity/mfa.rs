//! The second factor: codes of an authenticator, and recovery codes.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use posthaste::base::time::{Clock, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::operations::operations::posthaste;
use crate::support::accounts::{PASSWORD, authenticator, secured, without_request_id};
use crate::support::{Answer, Options, Server, answer_of};

const MFA: &str = "/api/users/me/mfa";
const DISABLE: &str = "/api/users/me/mfa/disable";
const STEP: i64 = 30_000_000;

/// An authenticator app that shares the server's clock.
struct Authenticator {
    secret: String,
    hand: Arc<AtomicI64>,
}

impl Authenticator {
    fn new(secret: &str, hand: &Arc<AtomicI64>) -> Self {
        Self { secret: secret.into(), hand: Arc::clone(hand) }
    }

    /// The code for the time step that is `steps` steps after the present one.
    fn code(&self, steps: i64) -> String {
        authenticator(&self.secret, self.hand.load(Ordering::Relaxed) + steps * STEP)
    }

    /// A code that is wrong for all time steps around the present one.
    fn wrong_code(&self) -> String {
        let right: Vec<String> = (-3..=3).map(|steps| self.code(steps)).collect();
        (0..).map(|number| format!("{number:06}")).find(|code| !right.contains(code)).unwrap()
    }
}

async fn start(place: &crate::support::Place, rate_limits: bool) -> (Arc<AtomicI64>, Server) {
    let hand = Arc::new(AtomicI64::new(Timestamp::parse("2026-11-22T08:30:10Z").unwrap().micros()));
    let clock = Clock::Manual(Arc::clone(&hand));
    let server = Server::secured_with(place, Options { clock, rate_limits, ..secured() }, &["bugs"]).await;
    (hand, server)
}

async fn request_secret(server: &Server, token: &str) -> Value {
    let answer = answer_of(server.request_as(token, Method::POST, MFA)).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()
}

/// Enables the second factor. Returns the authenticator and the recovery codes.
async fn enrol(server: &Server, hand: &Arc<AtomicI64>, token: &str) -> (Authenticator, Vec<String>) {
    let offered = request_secret(server, token).await;
    let authenticator = Authenticator::new(offered["secret"].as_str().unwrap(), hand);
    let answer = server.put_as(token, MFA, &json!({"code": authenticator.code(0)})).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    let codes = answer.json()["recovery_codes"].as_array().unwrap().clone();
    (authenticator, codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect())
}

async fn log_in(server: &Server, code: Option<&str>) -> Answer {
    let mut body = json!({"user_name": "bugs", "password": PASSWORD});
    if let Some(code) = code {
        body["code"] = code.into();
    }
    server.log_in(body).await
}

async fn mfa_flag(server: &Server, token: &str) -> Value {
    server.get_as(token, "/api/users/me").await.json()["mfa"].clone()
}

/// Asserts that an XML parser accepts the text.
fn assert_is_svg(text: &str) {
    let script = "import sys, xml.etree.ElementTree as tree; print(tree.fromstring(sys.stdin.read()).tag)";
    let mut child = std::process::Command::new("python3")
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{text}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "{http://www.w3.org/2000/svg}svg");
}

both!(a_second_factor_is_offered_and_enabled_with_its_code, async |place| {
    let (hand, server) = start(place, false).await;
    let token = server.token_of("bugs").await;
    assert_eq!(mfa_flag(&server, &token).await, false);
    server.put_as(&token, MFA, &json!({"code": "123456"})).await.problem(409, "mfa_not_offered");
    let first = request_secret(&server, &token).await;
    let second = request_secret(&server, &token).await;
    assert_eq!(second.as_object().unwrap().keys().collect::<Vec<_>>(), ["otpauth_uri", "qr_svg", "secret"]);
    let secret = second["secret"].as_str().unwrap();
    assert_eq!(secret.len(), 32);
    let uri = url::Url::parse(second["otpauth_uri"].as_str().unwrap()).unwrap();
    assert_eq!((uri.scheme(), uri.host_str(), uri.path()), ("otpauth", Some("totp"), "/Posthaste:bugs"));
    let parameters: std::collections::HashMap<_, _> = uri.query_pairs().into_owned().collect();
    assert_eq!((&*parameters["secret"], &*parameters["issuer"]), (secret, "Posthaste"));
    for (name, usual) in [("algorithm", "SHA1"), ("digits", "6"), ("period", "30")] {
        assert!(parameters.get(name).is_none_or(|value| value == usual), "{parameters:?}");
    }
    assert_is_svg(second["qr_svg"].as_str().unwrap());
    // A request for a secret does not enable the second factor, and only the secret that was offered last is valid.
    assert_eq!(mfa_flag(&server, &token).await, false);
    assert_eq!(log_in(&server, None).await.status, 201);
    let old = Authenticator::new(first["secret"].as_str().unwrap(), &hand);
    let authenticator = Authenticator::new(secret, &hand);
    for wrong in [old.code(0), authenticator.code(2), authenticator.code(-2), authenticator.wrong_code()] {
        server.put_as(&token, MFA, &json!({"code": wrong})).await.invalid(&["code"]);
    }
    let on = server.put_as(&token, MFA, &json!({"code": authenticator.code(0)})).await;
    assert_eq!(on.status, 200);
    let codes: HashSet<String> =
        on.json()["recovery_codes"].as_array().unwrap().iter().map(|code| code.as_str().unwrap().to_owned()).collect();
    assert_eq!(codes.len(), 10, "ten different recovery codes");
    assert!(codes.iter().all(|code| code.len() == 16));
    assert_eq!(mfa_flag(&server, &token).await, true);
    let kept = place.everything().await;
    assert!(codes.iter().all(|code| !kept.contains(code)));
    answer_of(server.request_as(&token, Method::POST, MFA)).await.problem(409, "mfa_enabled");
    server.put_as(&token, MFA, &json!({"code": authenticator.code(1)})).await.problem(409, "mfa_enabled");
});

both!(a_code_is_required_and_works_once, async |place| {
    let (hand, server) = start(place, false).await;
    let token = server.token_of("bugs").await;
    let (authenticator, _) = enrol(&server, &hand, &token).await;
    let before = server.hashes().await;
    log_in(&server, None).await.problem(401, "mfa_required");
    assert_eq!(server.hashes().await - before, 1);
    // Only a caller with the right password learns that a code is needed.
    for code in [None, Some(authenticator.code(0))] {
        let mut body = json!({"user_name": "bugs", "password": "not the password"});
        body["code"] = code.into();
        server.log_in(body).await.problem(401, "invalid_credentials");
    }
    // The code that enabled the second factor is used up.
    log_in(&server, Some(&authenticator.code(0))).await.problem(401, "invalid_credentials");
    hand.fetch_add(STEP, Ordering::Relaxed);
    let wrong = log_in(&server, Some(&authenticator.wrong_code())).await;
    wrong.problem(401, "invalid_credentials");
    let password = server.log_in(json!({"user_name": "bugs", "password": "not the password", "code": "000000"})).await;
    assert_eq!(without_request_id(&wrong), without_request_id(&password));
    let code = authenticator.code(0);
    assert_eq!(log_in(&server, Some(&format!("{} {}", &code[..3], &code[3..]))).await.status, 201);
    log_in(&server, Some(&code)).await.problem(401, "invalid_credentials");
    hand.fetch_add(STEP, Ordering::Relaxed);
    log_in(&server, Some(&code)).await.problem(401, "invalid_credentials");
});

both!(codes_of_the_previous_and_the_next_time_step_are_accepted, async |place| {
    let (hand, server) = start(place, false).await;
    let token = server.token_of("bugs").await;
    let (authenticator, _) = enrol(&server, &hand, &token).await;
    hand.fetch_add(10 * STEP, Ordering::Relaxed);
    for steps in [-3, -2, 2, 3] {
        log_in(&server, Some(&authenticator.code(steps))).await.problem(401, "invalid_credentials");
    }
    assert_eq!(log_in(&server, Some(&authenticator.code(-1))).await.status, 201);
    assert_eq!(log_in(&server, Some(&authenticator.code(1))).await.status, 201);
    // A code for a time step before the last used one is refused, although it was never used.
    log_in(&server, Some(&authenticator.code(0))).await.problem(401, "invalid_credentials");
    log_in(&server, Some(&authenticator.code(1))).await.problem(401, "invalid_credentials");
    hand.fetch_add(2 * STEP, Ordering::Relaxed);
    assert_eq!(log_in(&server, Some(&authenticator.code(0))).await.status, 201);
    hand.fetch_sub(5 * STEP, Ordering::Relaxed);
    log_in(&server, Some(&authenticator.code(0))).await.problem(401, "invalid_credentials");
});

/// Uses one code in fifty simultaneous requests on two servers. Returns how many times it was accepted.
async fn fifty_at_once(servers: [&Arc<Server>; 2], code: &str) -> usize {
    let uses: Vec<_> = (0..50)
        .map(|number| {
            let (server, code) = (Arc::clone(servers[number % 2]), code.to_owned());
            tokio::spawn(async move { log_in(&server, Some(&code)).await })
        })
        .collect();
    let mut opened = 0;
    for using in uses {
        let answer = using.await.unwrap();
        if answer.status == 201 {
            opened += 1;
        } else {
            answer.problem(401, "invalid_credentials");
        }
    }
    opened
}

both!(of_fifty_uses_of_a_code_together_one_is_accepted, async |place| {
    let (hand, server) = start(place, false).await;
    let token = server.token_of("bugs").await;
    let (authenticator, recovery) = enrol(&server, &hand, &token).await;
    let one = Arc::new(server);
    let clock = Clock::Manual(Arc::clone(&hand));
    let other = Arc::new(Server::start_with(place, Options { clock, ..secured() }).await);
    hand.fetch_add(STEP, Ordering::Relaxed);
    assert_eq!(fifty_at_once([&one, &other], &authenticator.code(0)).await, 1);
    assert_eq!(fifty_at_once([&one, &other], &recovery[0]).await, 1);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.recovery_codes").await, [[9]]);
    // Of many simultaneous requests that enable the second factor, one gets the recovery codes, and these codes are valid.
    let off = json!({"password": PASSWORD, "code": recovery[1]});
    assert_eq!(one.post_as(&token, DISABLE, &off).await.status, 204);
    let offered = request_secret(&one, &token).await;
    let code = Authenticator::new(offered["secret"].as_str().unwrap(), &hand).code(0);
    let enabling: Vec<_> = (0..10)
        .map(|_| {
            let (server, token, body) = (Arc::clone(&one), token.clone(), json!({"code": code}));
            tokio::spawn(async move { server.put_as(&token, MFA, &body).await })
        })
        .collect();
    let mut enabled = Vec::new();
    for answer in enabling {
        let answer = answer.await.unwrap();
        if answer.status == 200 {
            enabled.push(answer.json());
        } else {
            answer.problem(409, "mfa_enabled");
        }
    }
    assert_eq!(enabled.len(), 1);
    let code = enabled[0]["recovery_codes"][0].as_str().unwrap().to_owned();
    assert_eq!(log_in(&one, Some(&code)).await.status, 201);
});

both!(a_recovery_code_works_once_in_any_spelling, async |place| {
    let (hand, server) = start(place, false).await;
    let token = server.token_of("bugs").await;
    let (_, codes) = enrol(&server, &hand, &token).await;
    for (number, code) in codes.iter().enumerate() {
        let typed = match number % 3 {
            0 => code.clone(),
            1 => format!("{}-{}-{}-{}", &code[..4], &code[4..8], &code[8..12], &code[12..]).to_uppercase(),
            _ => format!(" {} {} ", &code[..8], &code[8..]),
        };
        let before = server.hashes().await;
        assert_eq!(log_in(&server, Some(&typed)).await.status, 201, "{typed}");
        assert_eq!(server.hashes().await - before, 1);
        log_in(&server, Some(code)).await.problem(401, "invalid_credentials");
    }
    for wrong in ["aaaaaaaaaaaaaaaa", "", " ", "------", "🥕🥕🥕🥕", "２８７０８２", "-1", "1e5"] {
        log_in(&server, Some(wrong)).await.problem(401, "invalid_credentials");
    }
    assert_eq!(mfa_flag(&server, &token).await, true);
});

both!(a_recovery_code_of_another_user_is_refused, async |place| {
    let (hand, server) = start(place, false).await;
    server.add_person("duck", Some(PASSWORD), false).await;
    let (bugs, duck) = (server.token_of("bugs").await, server.token_of("duck").await);
    enrol(&server, &hand, &bugs).await;
    let (authenticator, codes) = enrol(&server, &hand, &duck).await;
    hand.fetch_add(STEP, Ordering::Relaxed);
    for code in [&codes[0], &authenticator.code(0)] {
        log_in(&server, Some(code)).await.problem(401, "invalid_credentials");
    }
    let body = json!({"user_name": "duck", "password": PASSWORD, "code": codes[0]});
    assert_eq!(server.log_in(body).await.status, 201);
    for (method, target) in [
        (Method::POST, "/api/users/duck/mfa"),
        (Method::PUT, "/api/users/duck/mfa"),
        (Method::POST, "/api/users/duck/mfa/disable"),
    ] {
        let body = json!({"code": codes[1], "password": PASSWORD});
        let request = server.request_as(&bugs, method.clone(), target);
        let request = match method {
            Method::PUT => request.json(&json!({"code": codes[1]})),
            _ if target.ends_with("disable") => request.json(&body),
            _ => request,
        };
        answer_of(request).await.problem(403, "not_your_account");
    }
});

both!(disabling_needs_the_password_and_a_code, async |place| {
    let (hand, server) = start(place, false).await;
    let token = server.token_of("bugs").await;
    let off = async |password: &str, code: &str| {
        server.post_as(&token, DISABLE, &json!({"password": password, "code": code})).await
    };
    off(PASSWORD, "123456").await.problem(409, "mfa_not_enabled");
    request_secret(&server, &token).await;
    off(PASSWORD, "123456").await.problem(409, "mfa_not_enabled");
    let (authenticator, codes) = enrol(&server, &hand, &token).await;
    hand.fetch_add(STEP, Ordering::Relaxed);
    off("not the password", &authenticator.code(0)).await.problem(403, "wrong_password");
    off(PASSWORD, &authenticator.wrong_code()).await.invalid(&["code"]);
    off(PASSWORD, &authenticator.code(-1)).await.invalid(&["code"]);
    assert_eq!(mfa_flag(&server, &token).await, true);
    assert_eq!(off(PASSWORD, &authenticator.code(0)).await.status, 204);
    assert_eq!(mfa_flag(&server, &token).await, false);
    assert_eq!(log_in(&server, None).await.status, 201);
    assert_eq!(log_in(&server, Some("whatever")).await.status, 201, "the second factor is off");
    for table in ["totp_secrets", "recovery_codes"] {
        assert_eq!(place.numbers(&format!("SELECT count(*) FROM messaging.{table}")).await, [[0]]);
    }
    let (anew, new_codes) = enrol(&server, &hand, &token).await;
    assert_ne!(anew.secret, authenticator.secret);
    assert!(new_codes.iter().all(|code| !codes.contains(code)));
    log_in(&server, Some(&codes[0])).await.problem(401, "invalid_credentials");
    hand.fetch_add(STEP, Ordering::Relaxed);
    log_in(&server, Some(&authenticator.code(0))).await.problem(401, "invalid_credentials");
    assert_eq!(off(PASSWORD, &new_codes[0]).await.status, 204);
});

both!(a_missing_code_is_no_failure_and_a_wrong_code_is_one, async |place| {
    let (hand, server) = start(place, true).await;
    let token = server.token_of("bugs").await;
    let (authenticator, _) = enrol(&server, &hand, &token).await;
    for _ in 0..8 {
        log_in(&server, None).await.problem(401, "mfa_required");
    }
    for _ in 0..5 {
        log_in(&server, Some(&authenticator.wrong_code())).await.problem(401, "invalid_credentials");
    }
    log_in(&server, None).await.problem(429, "too_many_attempts");
    hand.fetch_add(1_000_000, Ordering::Relaxed);
    // A missing code starts no delay either: the next attempt is allowed immediately.
    log_in(&server, None).await.problem(401, "mfa_required");
    hand.fetch_add(STEP, Ordering::Relaxed);
    log_in(&server, None).await.problem(401, "mfa_required");
    assert_eq!(log_in(&server, Some(&authenticator.code(0))).await.status, 201);
    // Wrong codes and passwords in requests of a logged-in user count together with those of log-ins.
    for number in 0..5 {
        let body =
            json!({"password": if number % 2 == 0 { PASSWORD } else { "wrong" }, "code": authenticator.wrong_code()});
        let refused = server.post_as(&token, DISABLE, &body).await;
        assert_eq!(refused.status, if number % 2 == 0 { 422 } else { 403 });
    }
    let body = json!({"password": PASSWORD, "code": authenticator.code(1)});
    server.post_as(&token, DISABLE, &body).await.problem(429, "too_many_attempts");
    log_in(&server, Some(&authenticator.code(1))).await.problem(429, "too_many_attempts");
});

both!(enabling_the_second_factor_does_not_reset_failures, async |place| {
    let (hand, server) = start(place, true).await;
    let token = server.token_of("bugs").await;
    let change = json!({"current_password": "not the password", "new_password": "nothing much, you?"});
    for _ in 0..5 {
        server.put_as(&token, "/api/users/me/password", &change).await.problem(403, "wrong_password");
    }
    enrol(&server, &hand, &token).await;
    server.put_as(&token, "/api/users/me/password", &change).await.problem(429, "too_many_attempts");
});

both!(a_new_password_keeps_the_second_factor_enabled, async |place| {
    let (hand, server) = start(place, false).await;
    let token = server.token_of("bugs").await;
    let (_, codes) = enrol(&server, &hand, &token).await;
    let admin = server.api_key(&["admin"]).await;
    let issued = server.post_as(&admin, "/api/admin/users/bugs/password-resets", &json!({})).await.json();
    let new = "nothing much, you?";
    let target = format!("/api/password-resets/{}", issued["code"].as_str().unwrap());
    let done = answer_of(server.request(Method::PUT, &target).json(&json!({"new_password": new}))).await;
    assert_eq!(done.status, 204);
    let mut body = json!({"user_name": "bugs", "password": new});
    server.log_in(body.clone()).await.problem(401, "mfa_required");
    body["code"] = codes[0].as_str().into();
    assert_eq!(server.log_in(body).await.status, 201);
});

both!(invalid_bodies_name_their_fields, async |place| {
    let (hand, server) = start(place, false).await;
    let token = server.token_of("bugs").await;
    request_secret(&server, &token).await;
    for body in [
        json!({}),
        json!({"code": null}),
        json!({"code": 123456}),
        json!({"code": "12\0 456"}),
        json!({"code": ""}),
        json!({"code": "x".repeat(100_000)}),
        json!({"code": "aaaaaaaaaaaaaaaa"}),
    ] {
        server.put_as(&token, MFA, &body).await.invalid(&["code"]);
    }
    server.put_as(&token, MFA, &json!({"code": "123456", "x": 1})).await.invalid(&["x"]);
    let (_, codes) = enrol(&server, &hand, &token).await;
    for (body, field) in [
        (json!({}), "password"),
        (json!({"password": PASSWORD}), "code"),
        (json!({"code": codes[0]}), "password"),
        (json!({"password": PASSWORD, "code": codes[0], "x": 1}), "x"),
        (json!({"password": "what's up,\0 doc?", "code": codes[0]}), "password"),
        (json!({"password": PASSWORD, "code": "12\0 456"}), "code"),
        (json!({"password": PASSWORD, "code": "x".repeat(100_000)}), "code"),
        (json!({"password": 1, "code": codes[0]}), "password"),
    ] {
        server.post_as(&token, DISABLE, &body).await.invalid(&[field]);
    }
    let key = server.api_key(&["read", "write", "admin"]).await;
    answer_of(server.request_as(&key, Method::POST, MFA)).await.problem(403, "act_as_required");
    // A path with an unknown user name gets a 404 with the code `user_not_found`.
    answer_of(server.request_as(&token, Method::POST, "/api/users/nobody/mfa")).await.problem(404, "user_not_found");
});

both!(the_qr_code_works_for_a_name_with_any_characters, async |place| {
    let (_, server) = start(place, false).await;
    let token = server.token_of("bugs").await;
    place.sql("UPDATE messaging.users SET user_name = 'B:u&g s?#é', user_name_key = 'b:u&g s?#é'").await;
    // Like every change that does not go through the server, the command records a revocation. So the server drops its cache of
    // users.
    assert!(posthaste(place, &["admin", "set-role", "--user-name", "B:u&g s?#é", "--role", "user"]).status.success());
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let offered = request_secret(&server, &token).await;
    let uri = url::Url::parse(offered["otpauth_uri"].as_str().unwrap()).unwrap();
    let name = percent_encoding::percent_decode_str(uri.path()).decode_utf8().unwrap();
    assert_eq!(name, "/Posthaste:Bu&g s?#é");
    assert_is_svg(offered["qr_svg"].as_str().unwrap());
});
