//! Changing a password, resetting a forgotten one by mail or with a code from an administrator, and confirming an email
//! address.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::PasswordHasher as _;
use futures_util::future::join_all;
use posthaste::base::time::{Clock, Timestamp};
use posthaste::domain::operations::housekeeping;
use posthaste::mail::MailSettings;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::operations::operations::{posthaste, text};
use crate::support::accounts::{PASSWORD, secured, without_request_id};
use crate::support::callers::hex;
use crate::support::mail::{MailServer, ReceivedMail};
use crate::support::{Answer, Options, Place, Server, answer_of};

const NEW: &str = "nothing much, you?";
const HOUR: i64 = 3_600_000_000;

fn new_password() -> Value {
    json!({"new_password": NEW})
}

async fn log_in(server: &Server, name: &str, password: &str) -> Answer {
    server.log_in(json!({"user_name": name, "password": password})).await
}

async fn reset(server: &Server, code: &str, body: &Value) -> Answer {
    answer_of(server.request(Method::PUT, &format!("/api/password-resets/{code}")).json(body)).await
}

async fn request_reset(server: &Server, email: &str) -> Answer {
    server.post("/api/password-resets", &json!({"email": email})).await
}

async fn confirm(server: &Server, code: &str) -> Answer {
    answer_of(server.request(Method::PUT, &format!("/api/email-confirmations/{code}"))).await
}

async fn request_confirmation(server: &Server, token: &str) -> Answer {
    answer_of(server.request_as(token, Method::POST, "/api/users/me/email-confirmations")).await
}

/// The code in a mail.
fn code(mail: &ReceivedMail, prefix: &str) -> String {
    let mut words = mail.text.split_whitespace().filter(|word| word.starts_with(prefix));
    let code = words.next().unwrap_or_else(|| panic!("no {prefix} in {}", mail.text));
    assert_eq!(code.len(), 47);
    code.to_owned()
}

async fn confirmed_count(place: &Place) -> i64 {
    place.numbers("SELECT count(*) FROM messaging.users WHERE email_confirmed_at IS NOT NULL").await[0][0]
}

/// A server that sends mail, with a clock that the test moves.
async fn mailing(place: &Place, people: &[&str]) -> (MailServer, Arc<AtomicI64>, Server) {
    let mail = MailServer::start().await;
    let hand = Arc::new(AtomicI64::new(Timestamp::parse("2026-11-22T08:30:00Z").unwrap().micros()));
    let settings = MailSettings { url: mail.url(), from: "Post Haste <posthaste@example.org>".into() };
    let options = Options { clock: Clock::Manual(Arc::clone(&hand)), mail: Some(settings), ..secured() };
    let server = Server::secured_with(place, options, people).await;
    (mail, hand, server)
}

both!(a_change_ends_the_other_sessions, async |place| {
    let server = Server::secured(place, &["bugs", "duck"]).await;
    let (here, phone, duck) =
        (server.token_of("bugs").await, server.token_of("bugs").await, server.token_of("duck").await);
    for token in [&here, &phone] {
        assert_eq!(server.get_as(token, "/api/users/me").await.status, 200);
    }
    let target = "/api/users/me/password";
    let wrong = json!({"current_password": "not the password", "new_password": NEW});
    server.put_as(&here, target, &wrong).await.problem(403, "wrong_password");
    assert_eq!(server.get_as(&phone, "/api/users/me").await.status, 200);
    let right = json!({"current_password": PASSWORD, "new_password": NEW});
    let before = server.hashes().await;
    let changed = server.put_as(&here, "/api/users/BUGS/password", &right).await;
    assert_eq!((changed.status.as_u16(), changed.bytes.len()), (204, 0));
    assert_eq!(server.hashes().await - before, 2);
    assert_eq!(server.get_as(&here, "/api/users/me").await.status, 200);
    server.get_as(&phone, "/api/users/me").await.problem(401, "unauthenticated");
    assert_eq!(server.get_as(&duck, "/api/users/me").await.status, 200);
    log_in(&server, "bugs", PASSWORD).await.problem(401, "invalid_credentials");
    assert_eq!(log_in(&server, "bugs", NEW).await.status, 201);
    assert!(!place.everything().await.contains(NEW));
    // A user changes only their own password.
    server.put_as(&here, "/api/users/duck/password", &right).await.problem(403, "not_your_account");
    server.put_as(&here, "/api/users/nobody/password", &right).await.problem(404, "user_not_found");
    let key = server.api_key(&["read", "write", "admin"]).await;
    server.put_as(&key, target, &right).await.problem(403, "act_as_required");
    server.put_as(&key, "/api/users/duck/password", &right).await.problem(403, "act_as_required");
    assert_eq!(log_in(&server, "duck", PASSWORD).await.status, 201);
});

both!(of_two_changes_together_one_is_made, async |place| {
    let server = Arc::new(Server::secured(place, &["bugs"]).await);
    let token = server.token_of("bugs").await;
    let changes: Vec<_> = (0..8)
        .map(|number| {
            let (server, token) = (Arc::clone(&server), token.clone());
            tokio::spawn(async move {
                let body = json!({"current_password": PASSWORD, "new_password": format!("password of {number}")});
                (number, server.put_as(&token, "/api/users/me/password", &body).await)
            })
        })
        .collect();
    let mut made = Vec::new();
    for change in changes {
        let (number, answer) = change.await.unwrap();
        if answer.status == 204 {
            made.push(number);
        } else {
            answer.problem(403, "wrong_password");
        }
    }
    assert_eq!(made.len(), 1);
    assert_eq!(log_in(&server, "bugs", &format!("password of {}", made[0])).await.status, 201);
});

both!(a_new_password_must_follow_the_rules, async |place| {
    let server = Server::secured(place, &["longusername"]).await;
    let token = server.token_of("longusername").await;
    let change = async |body: Value| server.put_as(&token, "/api/users/me/password", &body).await;
    let issued = posthaste(place, &["admin", "reset-password", "--user-name", "longusername"]);
    let code = String::from_utf8(issued.stdout).unwrap().trim().to_owned();
    for (new, why) in [
        ("", "too_short"),
        ("🥕🥕🥕🥕🥕🥕🥕", "too_short"),
        (&"🥕".repeat(257), "too_long"),
        (&"x".repeat(100_000), "too_long"),
        ("what's up,\0 doc?", "nul_character"),
        ("password", "common_password"),
        ("LongUserName", "password_is_name"),
        ("LONGUSERNAME@example.org", "password_is_name"),
    ] {
        let refused = change(json!({"current_password": PASSWORD, "new_password": new})).await;
        assert_eq!(refused.invalid(&["new_password"])["errors"][0]["code"], why);
        let refused = reset(&server, &code, &json!({"new_password": new})).await;
        assert_eq!(refused.invalid(&["new_password"])["errors"][0]["code"], why);
    }
    for (body, field) in [
        (json!({}), "new_password"),
        (new_password(), "current_password"),
        (json!({"current_password": null, "new_password": NEW}), "current_password"),
        (json!({"current_password": "what's up,\0 doc?", "new_password": NEW}), "current_password"),
        (json!({"current_password": 1, "new_password": NEW}), "current_password"),
        (json!({"current_password": PASSWORD, "new_password": 12345678}), "new_password"),
        (json!({"current_password": PASSWORD, "new_password": NEW, "code": "1"}), "code"),
    ] {
        change(body).await.invalid(&[field]);
    }
    for (body, field) in [(json!({}), "new_password"), (json!({"new_password": NEW, "password": NEW}), "password")] {
        reset(&server, &code, &body).await.invalid(&[field]);
    }
    let overlong = json!({"current_password": "x".repeat(10_000), "new_password": NEW});
    change(overlong).await.problem(403, "wrong_password");
    // The refused requests have not used up the code.
    let carrots = "🥕".repeat(241) + PASSWORD;
    assert_eq!(carrots.chars().count(), 256);
    assert_eq!(reset(&server, &code, &json!({"new_password": carrots})).await.status, 204);
    assert_eq!(log_in(&server, "longusername", &carrots).await.status, 201);
});

both!(a_user_without_a_password_sets_the_first_one, async |place| {
    let server = Server::secured(place, &[]).await;
    server.add_person("bugs", None, false).await;
    let key = server.api_key(&["write"]).await;
    let set = async || {
        let request = server.request_as(&key, Method::PUT, "/api/users/me/password").header("x-act-as", "bugs");
        answer_of(request.json(&new_password())).await
    };
    assert_eq!(set().await.status, 204);
    assert_eq!(log_in(&server, "bugs", NEW).await.status, 201);
    set().await.invalid(&["current_password"]);
});

both!(a_reset_comes_by_mail_and_works_once, async |place| {
    let (mut mail, _, server) = mailing(place, &["bugs"]).await;
    let token = server.token_of("bugs").await;
    assert_eq!(server.get_as(&token, "/api/users/me").await.status, 200);
    assert_eq!(request_reset(&server, "BUGS@Example.ORG").await.status, 202);
    let received = mail.next_mail().await;
    assert_eq!(received.to, "bugs@example.org");
    let code = code(&received, "phr_");
    assert!(!received.text.contains(PASSWORD));
    let kept = place.everything().await;
    for secret in [code.as_str(), &code[4..], &hex(code.as_bytes()), &hex(&code.as_bytes()[4..])] {
        assert!(!kept.contains(secret), "{secret} is stored");
    }
    // The code cannot be used for anything else.
    server.get_as(&code, "/api/users/me").await.problem(401, "unauthenticated");
    confirm(&server, &code).await.problem(404, "code_not_found");
    let before = server.hashes().await;
    for wrong in [&code[..46], &code.to_lowercase(), "phr_", "x", &"x".repeat(5_000)] {
        reset(&server, wrong, &new_password()).await.problem(404, "code_not_found");
    }
    assert_eq!(server.hashes().await, before, "an invalid code causes no hashing");
    reset(&server, "a%00b", &new_password()).await.problem(404, "not_found");
    let done = reset(&server, &code, &new_password()).await;
    assert_eq!((done.status.as_u16(), done.bytes.len()), (204, 0));
    assert_eq!(done.header("set-cookie"), None);
    server.get_as(&token, "/api/users/me").await.problem(401, "unauthenticated");
    reset(&server, &code, &new_password()).await.problem(404, "code_not_found");
    log_in(&server, "bugs", PASSWORD).await.problem(401, "invalid_credentials");
    assert_eq!(log_in(&server, "bugs", NEW).await.status, 201);
    // A used code gets the same answer as an unknown code.
    let used = reset(&server, &code, &new_password()).await;
    let never = reset(&server, &"x".repeat(47), &new_password()).await;
    assert_eq!(without_request_id(&used), without_request_id(&never));
});

both!(requesting_a_reset_does_not_reveal_whether_an_account_exists, async |place| {
    let (mut mail, _, server) = mailing(place, &["bugs"]).await;
    let without_mail = Server::start_with(place, secured()).await;
    let mut first = None;
    for server in [&server, &without_mail] {
        for email in
            ["nobody@example.org", "bugs@example.org", "bugs", "", "\"<bugs@example.org>", "ünïcode@example.org"]
        {
            let answer = request_reset(server, email).await;
            assert_eq!((answer.status.as_u16(), answer.bytes.len()), (202, 0), "{email}");
            let mut names: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
            names.sort();
            assert_eq!(first.get_or_insert_with(|| names.clone()), &names, "{email}");
        }
    }
    mail.next_mail().await;
    for (body, field) in [
        (json!({}), "email"),
        (json!({"email": null}), "email"),
        (json!({"email": ["bugs@example.org"]}), "email"),
        (json!({"email": "bugs\0@example.org"}), "email"),
        (json!({"email": "x".repeat(255)}), "email"),
        (json!({"email": "bugs@example.org", "user_name": "bugs"}), "user_name"),
    ] {
        server.post("/api/password-resets", &body).await.invalid(&[field]);
    }
    answer_of(server.request(Method::POST, "/api/password-resets")).await.invalid(&["email"]);
    assert!(!mail.has_mail());
});

both!(of_fifty_uses_of_reset_codes_one_is_accepted, async |place| {
    let server = Arc::new(Server::secured(place, &["bugs"]).await);
    let admin = server.api_key(&["admin"]).await;
    let mut codes = Vec::new();
    for _ in 0..2 {
        let issued = server.post_as(&admin, "/api/admin/users/bugs/password-resets", &json!({})).await;
        codes.push(issued.json()["code"].as_str().unwrap().to_owned());
    }
    // Uses two codes of one user in many simultaneous requests. The first use of either code also ends the other code.
    let uses: Vec<_> = (0..50)
        .map(|number| {
            let (server, code) = (Arc::clone(&server), codes[number % 2].clone());
            tokio::spawn(async move {
                (number, reset(&server, &code, &json!({"new_password": format!("password of {number}")})).await)
            })
        })
        .collect();
    let mut won = Vec::new();
    for using in uses {
        let (number, answer) = using.await.unwrap();
        if answer.status == 204 {
            won.push(number);
        } else {
            answer.problem(404, "code_not_found");
        }
    }
    assert_eq!(won.len(), 1);
    assert_eq!(log_in(&server, "bugs", &format!("password of {}", won[0])).await.status, 201);
});

both!(a_reset_code_is_valid_for_an_hour, async |place| {
    let (mut mail, hand, server) = mailing(place, &["bugs"]).await;
    request_reset(&server, "bugs@example.org").await;
    let late = code(&mail.next_mail().await, "phr_");
    hand.fetch_add(HOUR, Ordering::Relaxed);
    reset(&server, &late, &new_password()).await.problem(404, "code_not_found");
    while housekeeping::batch(&server.app).await.unwrap() {}
    // A clock that is set back does not make a used code valid again.
    request_reset(&server, "bugs@example.org").await;
    let code = code(&mail.next_mail().await, "phr_");
    hand.fetch_add(HOUR - 1, Ordering::Relaxed);
    assert_eq!(reset(&server, &code, &new_password()).await.status, 204);
    hand.fetch_sub(2 * HOUR, Ordering::Relaxed);
    reset(&server, &code, &new_password()).await.problem(404, "code_not_found");
});

/// Returns all mails that arrive, at least this many. To know that no more mails follow, it requests one for the user `other`:
/// when that mail arrives, earlier requests are finished.
async fn wait_for_mails(mail: &mut MailServer, server: &Server, at_least: usize, other: &str) -> Vec<ReceivedMail> {
    let mut received = Vec::new();
    while received.len() < at_least {
        received.push(mail.next_mail().await);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    request_reset(server, other).await;
    loop {
        let next = mail.next_mail().await;
        if next.to == other {
            return received;
        }
        received.push(next);
    }
}

both!(a_user_gets_at_most_three_mails_an_hour, async |place| {
    let (mut mail, hand, server) = mailing(place, &["bugs", "duck", "porky"]).await;
    // Codes from administrators do not count for the limit of mails.
    let admin = server.api_key(&["admin"]).await;
    for _ in 0..4 {
        let issued = server.post_as(&admin, "/api/admin/users/bugs/password-resets", &json!({})).await;
        assert_eq!(issued.status, 201);
    }
    let asking = (0..20).map(|_| request_reset(&server, "bugs@example.org"));
    for answer in join_all(asking).await {
        assert_eq!(answer.status, 202);
    }
    let received = wait_for_mails(&mut mail, &server, 3, "duck@example.org").await;
    assert_eq!(received.len(), 3);
    // Using a code does not allow another mail before the hour is over. It also ends the user's other codes.
    assert_eq!(reset(&server, &code(&received[1], "phr_"), &new_password()).await.status, 204);
    reset(&server, &code(&received[0], "phr_"), &new_password()).await.problem(404, "code_not_found");
    hand.fetch_add(HOUR - 1, Ordering::Relaxed);
    while housekeeping::batch(&server.app).await.unwrap() {}
    request_reset(&server, "bugs@example.org").await;
    assert_eq!(wait_for_mails(&mut mail, &server, 0, "duck@example.org").await.len(), 0);
    hand.fetch_add(1, Ordering::Relaxed);
    request_reset(&server, "bugs@example.org").await;
    assert_eq!(wait_for_mails(&mut mail, &server, 1, "porky@example.org").await.len(), 1);
});

both!(mails_dated_in_the_future_do_not_count, async |place| {
    let (mut mail, hand, server) = mailing(place, &["bugs", "duck", "porky"]).await;
    for _ in 0..4 {
        request_reset(&server, "bugs@example.org").await;
    }
    assert_eq!(wait_for_mails(&mut mail, &server, 3, "duck@example.org").await.len(), 3);
    hand.fetch_sub(48 * HOUR, Ordering::Relaxed);
    request_reset(&server, "bugs@example.org").await;
    assert_eq!(wait_for_mails(&mut mail, &server, 1, "porky@example.org").await.len(), 1);
});

both!(a_new_address_allows_no_further_mails, async |place| {
    let (mut mail, _, server) = mailing(place, &["bugs", "duck"]).await;
    let token = server.token_of("bugs").await;
    for round in 0..3 {
        let victim = json!({"email": format!("victim+{round}@example.org")});
        assert_eq!(server.patch_as(&token, "/api/users/me", &victim).await.status, 200);
        for _ in 0..2 {
            assert_eq!(request_confirmation(&server, &token).await.status, 202);
        }
    }
    assert_eq!(wait_for_mails(&mut mail, &server, 3, "duck@example.org").await.len(), 3);
});

both!(a_new_address_ends_the_codes_of_the_old_one, async |place| {
    let (mut mail, _, server) = mailing(place, &["bugs"]).await;
    let token = server.token_of("bugs").await;
    let patch = async |email: Value| {
        let answer = server.patch_as(&token, "/api/users/me", &json!({"email": email})).await;
        assert_eq!(answer.status, 200);
    };
    request_confirmation(&server, &token).await;
    let first = code(&mail.next_mail().await, "phe_");
    assert_eq!(confirm(&server, &first).await.status, 204);
    assert_eq!(confirmed_count(place).await, 1);
    confirm(&server, &first).await.problem(404, "code_not_found");
    // The same address in another spelling stays confirmed.
    patch(json!("Bugs@Example.org")).await;
    assert_eq!(confirmed_count(place).await, 1);
    request_reset(&server, "bugs@example.org").await;
    let reset_code = code(&mail.next_mail().await, "phr_");
    request_confirmation(&server, &token).await;
    let second = code(&mail.next_mail().await, "phe_");
    reset(&server, &second, &new_password()).await.problem(404, "code_not_found");
    patch(json!("bunny@example.org")).await;
    assert_eq!(confirmed_count(place).await, 0);
    confirm(&server, &second).await.problem(404, "code_not_found");
    reset(&server, &reset_code, &new_password()).await.problem(404, "code_not_found");
    patch(json!("bugs@example.org")).await;
    confirm(&server, &second).await.problem(404, "code_not_found");
    reset(&server, &reset_code, &new_password()).await.problem(404, "code_not_found");
    assert_eq!(confirmed_count(place).await, 0);
    patch(Value::Null).await;
    request_confirmation(&server, &token).await.problem(409, "no_email");
});

both!(a_confirmation_code_is_valid_for_a_day, async |place| {
    let (mut mail, hand, server) = mailing(place, &["bugs", "duck"]).await;
    let (bugs, duck) = (server.token_of("bugs").await, server.token_of("duck").await);
    request_confirmation(&server, &bugs).await;
    let received = mail.next_mail().await;
    assert_eq!(received.to, "bugs@example.org");
    let late = code(&received, "phe_");
    request_confirmation(&server, &duck).await;
    let code = code(&mail.next_mail().await, "phe_");
    assert!(!place.everything().await.contains(&code[4..]));
    hand.fetch_add(24 * HOUR - 1, Ordering::Relaxed);
    while housekeeping::batch(&server.app).await.unwrap() {}
    assert_eq!(confirm(&server, &code).await.status, 204);
    hand.fetch_add(1, Ordering::Relaxed);
    confirm(&server, &late).await.problem(404, "code_not_found");
    assert_eq!(confirmed_count(place).await, 1);
    let others = server.request_as(&bugs, Method::POST, "/api/users/duck/email-confirmations");
    answer_of(others).await.problem(403, "not_your_account");
});

both!(without_mail_there_is_no_confirmation, async |place| {
    let server = Server::secured(place, &["bugs"]).await;
    let token = server.token_of("bugs").await;
    request_confirmation(&server, &token).await.problem(501, "mail_not_configured");
    assert_eq!(request_reset(&server, "bugs@example.org").await.status, 202);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.account_codes").await, [[0]]);
});

both!(an_address_that_cannot_receive_mail_is_refused_by_name, async |place| {
    let (_mail, _, server) = mailing(place, &["bugs"]).await;
    let token = server.token_of("bugs").await;
    // Stores an invalid address, which the seed may have accepted.
    place.sql("UPDATE messaging.users SET email = 'a@b@c,d', email_key = 'a@b@c,d'").await;
    request_confirmation(&server, &token).await.invalid(&["email"]);
    assert_eq!(request_reset(&server, "a@b@c,d").await.status, 202);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.account_codes").await, [[0]]);
});

both!(a_reset_ends_the_delay_of_log_ins, async |place| {
    // The clock stands still, so that the delay after failed attempts does not end on a slow machine.
    let clock = Clock::Manual(Arc::new(AtomicI64::new(Clock::System.now().micros())));
    let server = Server::secured_with(place, Options { clock, rate_limits: true, ..secured() }, &["bugs"]).await;
    for _ in 0..5 {
        log_in(&server, "bugs", "not the password").await.problem(401, "invalid_credentials");
    }
    log_in(&server, "bugs", PASSWORD).await.problem(429, "too_many_attempts");
    let issued = posthaste(place, &["admin", "reset-password", "--user-name", "bugs"]);
    let code = String::from_utf8(issued.stdout).unwrap().trim().to_owned();
    assert_eq!(reset(&server, &code, &new_password()).await.status, 204);
    assert_eq!(log_in(&server, "bugs", NEW).await.status, 201);
});

both!(administrators_create_reset_codes, async |place| {
    let server = Server::secured(place, &["bugs"]).await;
    server.add_person("admin", Some(PASSWORD), true).await;
    let (bugs, admin) = (server.token_of("bugs").await, server.token_of("admin").await);
    let target = "/api/admin/users/bugs/password-resets";
    server.post_as(&bugs, target, &json!({})).await.problem(403, "admin_required");
    let key = server.api_key(&["read", "write"]).await;
    server.post_as(&key, target, &json!({})).await.problem(403, "insufficient_scope");
    server.post_as(&admin, "/api/admin/users/nobody/password-resets", &json!({})).await.problem(404, "user_not_found");
    let issued = server.post_as(&admin, target, &json!({})).await;
    assert_eq!(issued.status, 201);
    assert_eq!(issued.header("cache-control"), Some("no-store"));
    let issued = issued.json();
    let code = issued["code"].as_str().unwrap();
    assert_eq!(issued["url"], format!("/api/password-resets/{code}"));
    assert!(!place.everything().await.contains(&code[4..]));
    // A code ends no session until it is used.
    assert_eq!(server.get_as(&bugs, "/api/users/me").await.status, 200);
    assert_eq!(reset(&server, code, &new_password()).await.status, 204);
    server.get_as(&bugs, "/api/users/me").await.problem(401, "unauthenticated");
    assert_eq!(log_in(&server, "bugs", NEW).await.status, 201);

    let issued = posthaste(place, &["admin", "reset-password", "--user-name", "Bugs"]);
    assert!(issued.status.success(), "{}", text(&issued));
    let printed = String::from_utf8(issued.stdout).unwrap();
    let code = printed.strip_suffix('\n').unwrap();
    assert!(code.starts_with("phr_") && code.len() == 47, "the output is not only the code: {printed}");
    assert_eq!(reset(&server, code, &json!({"new_password": PASSWORD})).await.status, 204);
    assert_eq!(log_in(&server, "bugs", PASSWORD).await.status, 201);
    let nobody = posthaste(place, &["admin", "reset-password", "--user-name", "nobody"]);
    assert!(!nobody.status.success());
});

/// A password as the keyboard of one device encodes it (NFC), and as that of another one does (NFD, with a wide space).
const COMPOSED: &str = "étude de Méliès";
const DECOMPOSED: &str = "e\u{301}tude\u{3000}de\u{A0}Me\u{301}lie\u{300}s";

both!(a_password_matches_however_a_device_encodes_it, async |place| {
    let server = Server::secured(place, &["bugs"]).await;
    let token = server.token_of("bugs").await;
    let set = json!({"current_password": PASSWORD, "new_password": DECOMPOSED});
    assert_eq!(server.put_as(&token, "/api/users/me/password", &set).await.status, 204);
    for written in [COMPOSED, DECOMPOSED] {
        assert_eq!(log_in(&server, "bugs", written).await.status, 201, "{written}");
    }
    log_in(&server, "bugs", "etude de Melies").await.problem(401, "invalid_credentials");
    log_in(&server, "bugs", &COMPOSED.to_uppercase()).await.problem(401, "invalid_credentials");
    // The same at the other places that take a password: a change, a reset and a new account.
    let change = json!({"current_password": COMPOSED, "new_password": format!("{COMPOSED} 2")});
    assert_eq!(server.put_as(&token, "/api/users/me/password", &change).await.status, 204);
    assert_eq!(log_in(&server, "bugs", &format!("{DECOMPOSED} 2")).await.status, 201);
    let issued = posthaste(place, &["admin", "reset-password", "--user-name", "bugs"]);
    let code = String::from_utf8(issued.stdout).unwrap().trim().to_owned();
    assert_eq!(reset(&server, &code, &json!({"new_password": COMPOSED})).await.status, 204);
    assert_eq!(log_in(&server, "bugs", DECOMPOSED).await.status, 201);
    let program = server.api_key(&["write"]).await;
    let new = json!({"user_name": "elmer", "password": DECOMPOSED});
    assert_eq!(server.post_as(&program, "/api/users", &new).await.status, 201);
    assert_eq!(log_in(&server, "elmer", COMPOSED).await.status, 201);
    // Lengths count in composed characters, and control characters are refused.
    for (password, why) in [("e\u{301}".repeat(7), "too_short"), ("seven\tsamurai".into(), "control_character")] {
        let new = json!({"user_name": "porky", "password": password});
        let refused = server.post_as(&program, "/api/users", &new).await;
        assert_eq!(refused.invalid(&["password"])["errors"][0]["code"], why);
    }
});

both!(a_hash_of_an_older_version_still_works, async |place| {
    let server = Server::secured(place, &["bugs"]).await;
    // Older versions hashed a password as it was written. Control characters were allowed.
    for (written, hashes) in [(DECOMPOSED, 2), ("plain and old", 1), ("two\nlines of text", 1)] {
        let hash = Argon2::default().hash_password_with_salt(written.as_bytes(), &[7; 16]).unwrap().to_string();
        place.sql(&format!("UPDATE messaging.passwords SET hash = '{hash}'")).await;
        let before = server.hashes().await;
        assert_eq!(log_in(&server, "bugs", written).await.status, 201);
        assert_eq!(server.hashes().await - before, hashes);
    }
    // A wrong password costs as much for a user who does not exist.
    for name in ["bugs", "nobody"] {
        let before = server.hashes().await;
        log_in(&server, name, DECOMPOSED).await.problem(401, "invalid_credentials");
        assert_eq!(server.hashes().await - before, 2);
    }
});
