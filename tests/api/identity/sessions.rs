//! `/api/sessions`: logging in, and the list of logged-in devices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use posthaste::base::time::{Clock, Timestamp};
use posthaste::domain::identity::users::{self, Registration};
use posthaste::domain::operations::housekeeping;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::operations::operations::{posthaste, text};
use crate::support::accounts::{PASSWORD, secured, without_request_id};
use crate::support::callers::hex;
use crate::support::process::Process;
use crate::support::{Answer, Options, Server, answer_of};

/// A revocation must take effect within this time.
const REVOKED_WITHIN: Duration = Duration::from_secs(1);
const DAY: i64 = 86_400_000_000;

both!(users_log_in_by_name_or_email_without_regard_to_case, async |place| {
    let server = Server::secured(place, &["Bugs"]).await;
    for who in [json!({"user_name": "bugs"}), json!({"user_name": "BUGS"}), json!({"email": "bUGs@Example.ORG"})] {
        let mut body = who;
        body["password"] = PASSWORD.into();
        let answer = server.log_in(body).await;
        assert_eq!(answer.status, 201);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("set-cookie"), None);
        let made = answer.json();
        assert_eq!(made.as_object().unwrap().keys().collect::<Vec<_>>(), ["expires_at", "token", "user"]);
        let token = made["token"].as_str().unwrap();
        assert!(token.starts_with("phs_") && token.len() == 47, "{token}");
        assert_eq!(made["user"]["user_name"], "Bugs");
        assert_eq!(made["user"]["email"], "Bugs@example.org");
        assert_eq!(server.get_as(token, "/api/users/me").await.json()["user_name"], "Bugs");
        let scheme = server.request(Method::GET, "/api/users/me").header("authorization", format!("bEARER {token}"));
        assert_eq!(answer_of(scheme).await.status, 200);
    }
});

/// The status, the headers and the body of an answer, without the parts that differ for each request.
fn comparable(answer: &Answer) -> (u16, BTreeMap<String, String>, String) {
    let headers = answer.headers.iter().filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()));
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    (answer.status.as_u16(), headers.collect(), without_request_id(answer))
}

both!(every_failed_log_in_looks_the_same_and_costs_one_hash, async |place| {
    let server = Server::secured(place, &["bugs", "gone"]).await;
    server.add_person("keyed", None, false).await;
    let admin = server.api_key(&["read", "write", "admin"]).await;
    assert_eq!(server.delete_as(&admin, "/api/users/gone").await.status, 204);
    let mut first = None;
    let long = "x".repeat(10_000);
    let nearly = format!("{PASSWORD} ");
    let upper = PASSWORD.to_uppercase();
    for password in ["", "x", "wrong password", &nearly, &upper, &"🥕".repeat(256), &"🥕".repeat(257), &long] {
        for who in ["bugs", "nobody", "keyed", "gone", "", "me", "bugs@example.org", "ünïcode", "user 1", &long[..254]]
        {
            for field in ["user_name", "email"] {
                // Tries only a third of the combinations, because hashing is slow by design.
                if (who.len() + password.len() + field.len()) % 3 != 0 {
                    continue;
                }
                let before = server.hashes().await;
                let answer = server.log_in(json!({field: who, "password": password})).await;
                assert_eq!(server.hashes().await - before, 1, "{field} {who:?} {password:?}");
                answer.problem(401, "invalid_credentials");
                let seen = comparable(&answer);
                assert_eq!(first.get_or_insert_with(|| seen.clone()), &seen, "{field} {who:?} {password:?}");
            }
        }
    }
    let before = server.hashes().await;
    server.token_of("bugs").await;
    assert_eq!(server.hashes().await - before, 1);
});

both!(a_log_in_accepts_passwords_that_break_todays_rules, async |place| {
    let server = Server::secured(place, &["bugs"]).await;
    // Stores a password that is too short by today's rules. An import or older rules may have stored such a password.
    let hash = server.app.passwords.hash(&server.app.rng, "1".into()).await.unwrap();
    place.sql(&format!("UPDATE messaging.passwords SET hash = '{hash}'")).await;
    let answer = server.log_in(json!({"user_name": "bugs", "password": "1"})).await;
    assert_eq!(answer.status, 201);
});

both!(long_passwords_with_any_characters_work, async |place| {
    let server = Server::secured(place, &[]).await;
    let password = "🥕é ß\u{200D}Å".repeat(42) + "end.";
    assert_eq!(password.chars().count(), 256);
    server.add_person("bugs", Some(&password), false).await;
    let answer = server.log_in(json!({"user_name": "bugs", "password": password})).await;
    assert_eq!(answer.status, 201);
    let shorter = password[..password.len() - 1].to_owned();
    for other in [shorter, format!("{password} "), password.to_uppercase()] {
        server.log_in(json!({"user_name": "bugs", "password": other})).await.problem(401, "invalid_credentials");
    }
});

both!(invalid_fields_are_named, async |place| {
    let server = Server::secured(place, &["bugs"]).await;
    let long = "x".repeat(255);
    for (body, fields) in [
        (json!({}), vec!["user_name"]),
        (json!({"user_name": "bugs"}), vec!["password"]),
        (json!({"user_name": "bugs", "email": "bugs@example.org", "password": PASSWORD}), vec!["user_name"]),
        (json!({"user_name": "bugs", "password": null}), vec!["password"]),
        (json!({"user_name": 1, "password": PASSWORD}), vec!["user_name"]),
        (json!({"user_name": "bugs", "password": 12345678}), vec!["password"]),
        (json!({"user_name": "bugs", "password": [PASSWORD]}), vec!["password"]),
        (json!({"user_name": "bugs", "password": PASSWORD, "code": 123456}), vec!["code"]),
        (json!({"user_name": "bugs", "password": PASSWORD, "cookie": "true"}), vec!["cookie"]),
        (json!({"user_name": "bugs", "password": PASSWORD, "remember": true}), vec!["remember"]),
        (json!({"user_name": "bu\0gs", "password": PASSWORD}), vec!["user_name"]),
        (json!({"email": "\0", "password": PASSWORD}), vec!["email"]),
        (json!({"user_name": "bugs", "password": "what's up,\0 doc?"}), vec!["password"]),
        (json!({"user_name": "bugs", "password": PASSWORD, "code": "12\0 456"}), vec!["code"]),
        (json!({"user_name": long, "password": PASSWORD}), vec!["user_name"]),
        (json!({"email": long, "password": PASSWORD}), vec!["email"]),
        (json!({"user_name": "bugs", "password": PASSWORD, "code": long}), vec!["code"]),
        (json!([]), vec!["body"]),
        (json!(["bugs", null, PASSWORD, null, false]), vec!["body"]),
        (json!("bugs"), vec!["body"]),
        (Value::Null, vec!["body"]),
    ] {
        server.log_in(body).await.invalid(&fields);
    }
    assert_eq!(server.hashes().await, 1, "one hash for the new account");
    answer_of(server.request(Method::POST, "/api/sessions")).await.invalid(&["user_name"]);
    server.post("/api/sessions?x=1", &json!({"user_name": "bugs", "password": PASSWORD})).await.invalid(&["x"]);
    let huge = json!({"user_name": "bugs", "password": "x".repeat(300_000)});
    server.log_in(huge).await.problem(413, "body_too_large");
    let malformed = server.request(Method::POST, "/api/sessions").header("content-type", "application/json");
    answer_of(malformed.body("{\"user_name\": \"\\ud800\"}")).await.problem(400, "malformed_json");
    let form = server.request(Method::POST, "/api/sessions").header("content-type", "text/plain");
    answer_of(form.body("{}")).await.problem(415, "unsupported_media_type");
});

both!(open_access_needs_no_password, async |place| {
    let server = Server::start(place).await;
    let before = server.hashes().await;
    let answer = server.log_in(json!({"user_name": "bugs"})).await;
    assert_eq!(answer.status, 201);
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(server.get_as(&token, "/api/users/me").await.json()["user_name"], "bugs");
    assert_eq!(server.hashes().await, before, "no password was hashed");
    // The session has only the rights of bugs, not those of open access.
    server.get_as(&token, "/api/messages/duck").await.problem(403, "not_your_messages");
    server.log_in(json!({"user_name": "nobody"})).await.problem(401, "invalid_credentials");
    // Even under open access, a log-in with a password needs the right password.
    server
        .log_in(json!({"user_name": "bugs", "password": "anything at all"}))
        .await
        .problem(401, "invalid_credentials");
    let admin = server.request(Method::PUT, "/api/admin/users/bugs/ban");
    assert_eq!(answer_of(admin).await.status, 204);
    server.log_in(json!({"user_name": "bugs"})).await.problem(403, "banned");
});

both!(the_demo_of_the_binary_needs_no_password, async |place| {
    let process = Process::start(place).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = |path: &str| format!("http://{}{path}", process.address);
    let answer = answer_of(client.post(url("/api/sessions")).json(&json!({"user_name": "rdibari"}))).await;
    assert_eq!(answer.status, 201);
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let me = answer_of(client.get(url("/api/users/me")).bearer_auth(&token)).await;
    assert_eq!(me.json()["user_name"], "rdibari");
    process.terminate().await;
});

both!(a_ban_is_shown_only_with_the_right_password, async |place| {
    let server = Server::secured(place, &["bugs"]).await;
    let admin = server.api_key(&["admin"]).await;
    let token = server.token_of("bugs").await;
    let ban = "/api/admin/users/bugs/ban";
    assert_eq!(answer_of(server.request_as(&admin, Method::PUT, ban)).await.status, 204);
    server.get_as(&token, "/api/users/me").await.problem(401, "unauthenticated");
    let wrong = server.log_in(json!({"user_name": "bugs", "password": "not the password"})).await;
    let nobody = server.log_in(json!({"user_name": "nobody", "password": "not the password"})).await;
    assert_eq!(comparable(&wrong), comparable(&nobody));
    let before = server.hashes().await;
    server.log_in(json!({"user_name": "bugs", "password": PASSWORD})).await.problem(403, "banned");
    assert_eq!(server.hashes().await - before, 1);
    assert_eq!(server.delete_as(&admin, ban).await.status, 204);
    server.token_of("bugs").await;
    server.get_as(&token, "/api/users/me").await.problem(401, "unauthenticated");
});

both!(a_token_is_stored_only_as_a_hash, async |place| {
    let server = Server::secured(place, &["bugs"]).await;
    let token = server.token_of("bugs").await;
    server.get_as(&token, "/api/sessions").await;
    let kept = place.everything().await;
    assert!(kept.contains("bugs@example.org"), "the search itself works");
    let random = &token[4..];
    for secret in [token.as_str(), random, &hex(token.as_bytes()), &hex(random.as_bytes()), PASSWORD] {
        assert!(!kept.contains(secret), "{secret} is stored");
    }
    // Nothing in the database can be used to log in.
    let hash = digest(&SHA256, token.as_bytes());
    assert!(kept.contains(&hex(hash.as_ref())));
    server.get_as(&format!("phs_{}", hex(hash.as_ref())), "/api/users/me").await.problem(401, "unauthenticated");
    for wrong in [random, &token[..46], &format!("{token}A"), &token.to_lowercase(), &token.replace("phs_", "phk_"), ""]
    {
        server.get_as(wrong, "/api/users/me").await.problem(401, "unauthenticated");
    }
});

fn manual(from: &str) -> (Arc<AtomicI64>, Options) {
    let hand = Arc::new(AtomicI64::new(Timestamp::parse(from).unwrap().micros()));
    let options = Options { clock: Clock::Manual(Arc::clone(&hand)), ..secured() };
    (hand, options)
}

/// Returns the only session once `field` is `expected`. Uses are recorded in the background.
async fn session_with(server: &Server, token: &str, field: &str, expected: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let sessions = server.get_as(token, "/api/sessions").await.json();
        if sessions[0][field] == expected || Instant::now() > deadline {
            assert_eq!(sessions[0][field], expected);
            return sessions[0].clone();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

both!(a_session_is_extended_by_use_up_to_180_days, async |place| {
    let (hand, options) = manual("2026-01-01T00:00:00Z");
    let server = Server::secured_with(place, options, &["bugs"]).await;
    let answer = server.log_in(json!({"user_name": "bugs", "password": PASSWORD})).await.json();
    assert_eq!(answer["expires_at"], "2026-01-31T00:00:00.000000Z");
    let (used, idle) = (answer["token"].as_str().unwrap(), server.token_of("bugs").await);
    hand.fetch_add(30 * DAY - 1, Ordering::Relaxed);
    session_with(&server, used, "expires_at", "2026-03-01T23:59:59.999999Z").await;
    hand.fetch_add(1, Ordering::Relaxed);
    server.get_as(&idle, "/api/users/me").await.problem(401, "unauthenticated");
    // The expired session is not listed, even if it has not been deleted yet.
    assert_eq!(server.get_as(used, "/api/sessions").await.json().as_array().unwrap().len(), 1);
    for days in [29, 29, 29, 29] {
        hand.fetch_add(days * DAY, Ordering::Relaxed);
        assert_eq!(server.get_as(used, "/api/users/me").await.status, 200);
    }
    // 146 days have passed: from now on the session's end does not move beyond the 180th day.
    hand.fetch_add(10 * DAY, Ordering::Relaxed);
    session_with(&server, used, "expires_at", "2026-06-30T00:00:00.000000Z").await;
    hand.fetch_add(24 * DAY - 1, Ordering::Relaxed);
    assert_eq!(server.get_as(used, "/api/users/me").await.status, 200);
    hand.fetch_add(1, Ordering::Relaxed);
    server.get_as(used, "/api/users/me").await.problem(401, "unauthenticated");
    hand.fetch_add(1, Ordering::Relaxed);
    while housekeeping::batch(&server.app).await.unwrap() {}
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.sessions").await, [[0]]);
});

both!(the_use_of_a_session_is_recorded_once_a_minute, async |place| {
    let (hand, options) = manual("2026-01-01T00:00:00Z");
    let server = Server::secured_with(place, options.clone(), &["bugs"]).await;
    let other = Server::start_with(place, options).await;
    let token = server.token_of("bugs").await;
    hand.fetch_add(59_999_999, Ordering::Relaxed);
    for server in [&server, &other, &server] {
        assert_eq!(server.get_as(&token, "/api/users/me").await.status, 200);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    session_with(&server, &token, "last_seen_at", "2026-01-01T00:00:00.000000Z").await;
    hand.fetch_add(1, Ordering::Relaxed);
    session_with(&server, &token, "last_seen_at", "2026-01-01T00:01:00.000000Z").await;
    hand.fetch_add(30_000_000, Ordering::Relaxed);
    for _ in 0..5 {
        server.get_as(&token, "/api/users/me").await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let session = session_with(&server, &token, "last_seen_at", "2026-01-01T00:01:00.000000Z").await;
    assert_eq!(session["created_at"], "2026-01-01T00:00:00.000000Z");
    assert_eq!(session["expires_at"], "2026-01-31T00:01:00.000000Z");
});

both!(devices_are_listed_without_their_tokens, async |place| {
    let server = Server::secured(place, &["bugs", "duck"]).await;
    let body = json!({"user_name": "bugs", "password": PASSWORD});
    let log_in = server.request(Method::POST, "/api/sessions").header("user-agent", "x".repeat(500)).json(&body);
    let first = answer_of(log_in).await.json()["token"].as_str().unwrap().to_owned();
    let second = server.token_of("bugs").await;
    server.token_of("duck").await;
    let listed = server.get_as(&second, "/api/sessions").await;
    assert_eq!(listed.header("cache-control"), Some("no-store"));
    let sessions = listed.json();
    let [old, new] = &sessions.as_array().unwrap()[..] else { panic!("{sessions}") };
    assert_eq!(
        old.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["address", "agent", "created_at", "current", "expires_at", "id", "last_seen_at"]
    );
    assert_eq!((&old["current"], &new["current"]), (&json!(false), &json!(true)));
    assert_eq!(old["agent"], "x".repeat(200));
    assert_eq!(old["address"], "127.0.0.1");
    for token in [&first, &second] {
        assert!(!String::from_utf8_lossy(&listed.bytes).contains(&token[4..]));
    }
    let page = server.get_as(&first, "/api/sessions?limit=1").await;
    assert_eq!(page.json()[0]["current"], true);
    let next = page.next().unwrap();
    let page = server.get_as(&first, &next).await;
    assert_eq!(page.json()[0]["id"], new["id"]);
    assert_eq!(page.next(), None);
    for wrong in ["limit=0", "limit=201"] {
        server.get_as(&first, &format!("/api/sessions?{wrong}")).await.invalid(&["limit"]);
    }
    server.get_as(&first, "/api/sessions?cursor=x").await.invalid(&["cursor"]);
    let key = server.api_key(&["read", "write"]).await;
    server.get_as(&key, "/api/sessions").await.problem(403, "act_as_required");
    let acting = server.request_as(&key, Method::GET, "/api/sessions").header("x-act-as", "BUGS");
    let acting = answer_of(acting).await.json();
    assert!(acting.as_array().unwrap().iter().all(|session| session["current"] == false), "{acting}");
    assert_eq!(acting.as_array().unwrap().len(), 2);
});

both!(only_its_owner_logs_a_device_out, async |place| {
    let server = Server::secured(place, &["bugs", "duck"]).await;
    let (bugs, phone, duck) =
        (server.token_of("bugs").await, server.token_of("bugs").await, server.token_of("duck").await);
    let id = async |token: &str| -> i64 {
        let sessions = server.get_as(token, "/api/sessions").await.json();
        let own = sessions.as_array().unwrap().iter().find(|session| session["current"] == true);
        own.unwrap()["id"].as_i64().unwrap()
    };
    let (phones, ducks) = (id(&phone).await, id(&duck).await);
    let foreign = server.delete_as(&bugs, &format!("/api/sessions/{ducks}")).await;
    foreign.problem(404, "session_not_found");
    let absent = server.delete_as(&bugs, "/api/sessions/999999").await;
    assert_eq!(without_request_id(&foreign), without_request_id(&absent));
    for nothing in ["0", "-1", "01", "x", "CURRENT", "9223372036854775807", "99999999999999999999", "1.0"] {
        server.delete_as(&bugs, &format!("/api/sessions/{nothing}")).await.problem(404, "session_not_found");
    }
    assert_eq!(server.get_as(&duck, "/api/users/me").await.status, 200);
    assert_eq!(server.delete_as(&bugs, &format!("/api/sessions/{phones}")).await.status, 204);
    server.get_as(&phone, "/api/users/me").await.problem(401, "unauthenticated");
    server.delete_as(&bugs, &format!("/api/sessions/{phones}")).await.problem(404, "session_not_found");
    let out = server.delete_as(&bugs, "/api/sessions/current").await;
    assert_eq!((out.status.as_u16(), out.bytes.len()), (204, 0));
    assert_eq!(out.header("set-cookie"), None, "a log-out with a token sets no cookie");
    server.get_as(&bugs, "/api/users/me").await.problem(401, "unauthenticated");
    let key = server.api_key(&["read", "write"]).await;
    let acting = server.request_as(&key, Method::DELETE, "/api/sessions/current").header("x-act-as", "duck");
    answer_of(acting).await.problem(404, "session_not_found");
    let acting = server.request_as(&key, Method::DELETE, &format!("/api/sessions/{ducks}")).header("x-act-as", "duck");
    assert_eq!(answer_of(acting).await.status, 204);
    server.get_as(&duck, "/api/users/me").await.problem(401, "unauthenticated");
});

both!(the_hundred_and_first_session_ends_the_oldest, async |place| {
    let server = Server::start(place).await;
    let mut tokens = Vec::new();
    for _ in 0..100 {
        let answer = server.log_in(json!({"user_name": "bugs"})).await.json();
        tokens.push(answer["token"].as_str().unwrap().to_owned());
    }
    let duck = server.log_in(json!({"user_name": "duck"})).await.json()["token"].as_str().unwrap().to_owned();
    for token in [&tokens[0], &tokens[1], &duck] {
        assert_eq!(server.get_as(token, "/api/users/me").await.status, 200);
    }
    let last = server.log_in(json!({"user_name": "bugs"})).await.json()["token"].as_str().unwrap().to_owned();
    server.get_as(&tokens[0], "/api/users/me").await.problem(401, "unauthenticated");
    for token in [&tokens[1], &duck, &last] {
        assert_eq!(server.get_as(token, "/api/users/me").await.status, 200);
    }
    let listed = server.get_as(&last, "/api/sessions?limit=200").await.json();
    assert_eq!(listed.as_array().unwrap().len(), 100);
});

/// Waits until this server refuses a token, and asserts that this happens within [`REVOKED_WITHIN`] after `since`.
async fn revoked(server: &Server, token: &str, since: Instant) {
    loop {
        let asked = Instant::now();
        let answer = server.get_as(token, "/api/users/me").await;
        if answer.status == 401 {
            return;
        }
        assert!(asked - since < REVOKED_WITHIN, "still {} after {:?}", answer.status, asked - since);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

both!(a_revoked_session_is_refused_within_a_second_on_every_server, async |place| {
    let one = Server::secured(place, &["bugs", "duck", "porky"]).await;
    let other = Server::start_with(place, secured()).await;
    let admin = one.api_key(&["read", "write", "admin"]).await;
    let (bugs, phone) = (one.token_of("bugs").await, other.token_of("bugs").await);
    let (duck, porky) = (other.token_of("duck").await, one.token_of("porky").await);
    for server in [&one, &other] {
        for token in [&bugs, &phone, &duck, &porky] {
            assert_eq!(server.get_as(token, "/api/users/me").await.status, 200);
        }
    }
    assert_eq!(one.delete_as(&bugs, "/api/sessions/current").await.status, 204);
    let since = Instant::now();
    one.get_as(&bugs, "/api/users/me").await.problem(401, "unauthenticated");
    revoked(&other, &bugs, since).await;
    assert_eq!(other.get_as(&phone, "/api/users/me").await.status, 200);

    let change = json!({"current_password": PASSWORD, "new_password": "nothing much, you?"});
    let bugs = one.token_of("bugs").await;
    assert_eq!(other.get_as(&bugs, "/api/users/me").await.status, 200);
    assert_eq!(one.put_as(&bugs, "/api/users/me/password", &change).await.status, 204);
    let since = Instant::now();
    one.get_as(&phone, "/api/users/me").await.problem(401, "unauthenticated");
    revoked(&other, &phone, since).await;
    assert_eq!(other.get_as(&bugs, "/api/users/me").await.status, 200);

    let ban = one.request_as(&admin, Method::PUT, "/api/admin/users/duck/ban");
    assert_eq!(answer_of(ban).await.status, 204);
    revoked(&other, &duck, Instant::now()).await;

    assert_eq!(other.delete_as(&porky, "/api/users/me").await.status, 204);
    let since = Instant::now();
    other.get_as(&porky, "/api/users/me").await.problem(401, "unauthenticated");
    revoked(&one, &porky, since).await;
});

both!(a_ban_on_the_command_line_reaches_a_running_server, async |place| {
    let server = Server::secured(place, &["bugs"]).await;
    let token = server.token_of("bugs").await;
    assert_eq!(server.get_as(&token, "/api/users/me").await.status, 200);
    let banned = posthaste(place, &["admin", "ban", "--user-name", "BUGS"]);
    let since = Instant::now();
    assert!(banned.status.success(), "{}", text(&banned));
    revoked(&server, &token, since).await;
    server.log_in(json!({"user_name": "bugs", "password": PASSWORD})).await.problem(403, "banned");
    let unbanned = posthaste(place, &["admin", "unban", "--user-name", "bugs"]);
    assert!(unbanned.status.success(), "{}", text(&unbanned));
    server.token_of("bugs").await;
    let nobody = posthaste(place, &["admin", "ban", "--user-name", "nobody"]);
    assert!(!nobody.status.success());
    assert!(text(&nobody).contains("No user has this name"), "{}", text(&nobody));
});

both!(many_log_ins_together_are_answered_and_bounded, async |place| {
    let server = Arc::new(Server::secured(place, &["bugs"]).await);
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.log_in(json!({"user_name": "bugs", "password": PASSWORD})).await })
        })
        .collect();
    let mut made = 0;
    for call in calls {
        let answer = call.await.unwrap();
        if answer.status == 201 {
            made += 1;
        } else {
            answer.problem(503, "unavailable");
            assert!(answer.header("retry-after").is_some());
        }
    }
    assert!(made >= 66, "{made}");
});

both!(erased_people_cannot_log_in_and_others_can_by_their_address, async |place| {
    let server = Server::secured(place, &["bugs"]).await;
    let token = server.token_of("bugs").await;
    assert_eq!(server.delete_as(&token, "/api/users/me").await.status, 204);
    server.log_in(json!({"user_name": "bugs", "password": PASSWORD})).await.problem(401, "invalid_credentials");
    server.log_in(json!({"email": "bugs@example.org", "password": PASSWORD})).await.problem(401, "invalid_credentials");
    let registration = Registration {
        user_name: "bunny".into(),
        email: Some("BUGS@example.org".into()),
        password: Some(PASSWORD.into()),
        ..Registration::default()
    };
    users::create(&server.app, registration).await.unwrap();
    let answer = server.log_in(json!({"email": "bugs@example.org", "password": PASSWORD})).await;
    assert_eq!(answer.json()["user"]["user_name"], "bunny");
});
