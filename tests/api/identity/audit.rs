//! The audit log: who did what to whom, when and from where.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use posthaste::base::time::Clock;
use posthaste::http::access::client_address::TrustedProxies;
use posthaste::mail::MailSettings;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::both;
use crate::operations::operations::posthaste;
use crate::support::accounts::authenticator;
use crate::support::callers::{Caller, holds, moment, secured, session};
use crate::support::mail::MailServer;
use crate::support::server::Answer;
use crate::support::{Options, Server, answer_of};

/// Sets the address of the caller, as a trusted proxy does.
fn from(request: RequestBuilder, address: &str) -> RequestBuilder {
    request.header("x-forwarded-for", address)
}

async fn expect_status(request: RequestBuilder, status: u16) -> Answer {
    let answer = answer_of(request).await;
    assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.bytes));
    answer
}

/// The action, the actor, the API key, the subject, the address and the detail of an entry.
type Fields<T> = (T, Option<i64>, Option<i64>, Option<i64>, Option<T>, Option<T>);

fn fields_of(entry: &Value) -> Fields<String> {
    let text = |field: &str| entry[field].as_str().map(str::to_owned);
    let number = |field: &str| entry[field].as_i64();
    let action = text("action").unwrap();
    (action, number("actor_id"), number("api_key_id"), number("subject_id"), text("address"), text("detail"))
}

both!(every_entry_has_actor_action_subject_time_and_address, async |place| {
    let mut mails = MailServer::start().await;
    let hand = Arc::new(AtomicI64::new(moment("2026-11-22T08:30:00Z")));
    let options = Options {
        clock: Clock::Manual(Arc::clone(&hand)),
        trusted_proxies: TrustedProxies::parse(&["127.0.0.1"]).unwrap(),
        mail: Some(MailSettings { url: mails.url(), from: "posthaste@example.org".into() }),
        registration_open: true,
        ..secured()
    };
    let server = Server::start_with(place, options).await;
    let here = "203.0.113.7";
    let request = |method, target: &str| from(server.request(method, target), here);
    let by = |token: &str, method, target: &str| from(server.request(method, target), here).bearer_auth(token);
    let mut expected: Vec<Fields<&str>> = Vec::new();
    let later = || hand.fetch_add(60_000_000, Ordering::Relaxed);
    let now = || hand.load(Ordering::Relaxed);

    let key = server.api_key(&["read", "write", "admin"]).await;
    expected.push(("api_key.created", None, None, None, None, Some("key 1: read write admin")));
    later();
    let password = "canary of the mine";
    let body = json!({"user_name": "canaryname", "first_name": "canaryname", "password": password, "email": "canaryname@example.org"});
    expect_status(request(Method::POST, "/api/users").json(&body), 201).await;
    expected.push(("user.created", None, None, Some(5), Some(here), None));
    expect_status(by(&key, Method::POST, "/api/users").json(&json!({"user_name": "wendy"})), 201).await;
    expected.push(("user.created", None, Some(1), Some(6), Some(here), None));
    later();
    let wrong = json!({"user_name": "canaryname", "password": "canary wrong one"});
    expect_status(request(Method::POST, "/api/sessions").json(&wrong), 401).await;
    expected.push(("session.refused", None, None, Some(5), Some(here), None));
    let nobody = json!({"user_name": "canarynobody", "password": "canary wrong one"});
    expect_status(request(Method::POST, "/api/sessions").json(&nobody), 401).await;
    expected.push(("session.refused", None, None, None, Some(here), None));
    let login = json!({"user_name": "canaryname", "password": password});
    let log_in = async |body: &Value| {
        let answer = expect_status(from(server.request(Method::POST, "/api/sessions"), here).json(body), 201).await;
        answer.json()["token"].as_str().unwrap().to_owned()
    };
    let token = log_in(&login).await;
    expected.push(("session.created", Some(5), None, Some(5), Some(here), None));
    later();

    let change = json!({"current_password": "canary wrong one", "new_password": "canary of another mine"});
    expect_status(by(&token, Method::PUT, "/api/users/me/password").json(&change), 403).await;
    expected.push(("password.refused", Some(5), None, Some(5), Some(here), None));
    let change = json!({"current_password": password, "new_password": "canary of another mine"});
    expect_status(by(&token, Method::PUT, "/api/users/me/password").json(&change), 204).await;
    expected.push(("password.changed", Some(5), None, Some(5), Some(here), None));
    expect_status(by(&token, Method::PATCH, "/api/users/me").json(&json!({"email": "canarynew@example.org"})), 200)
        .await;
    expected.push(("email.changed", Some(5), None, Some(5), Some(here), None));
    expect_status(by(&token, Method::PATCH, "/api/users/me").json(&json!({"first_name": "canaryname2"})), 200).await;
    expect_status(by(&token, Method::POST, "/api/users/me/email-confirmations"), 202).await;
    let code_of = |text: &str, prefix: &str| {
        let at = text.find(prefix).unwrap();
        text[at..].split_whitespace().next().unwrap().to_owned()
    };
    let confirmation = code_of(&mails.next_mail().await.text, "phe_");
    expect_status(request(Method::PUT, &format!("/api/email-confirmations/{confirmation}")), 204).await;
    expected.push(("email.confirmed", Some(5), None, Some(5), Some(here), None));
    later();

    let offer = expect_status(by(&token, Method::POST, "/api/users/me/mfa"), 200).await.json();
    let secret = offer["secret"].as_str().unwrap();
    let code = json!({"code": authenticator(secret, now())});
    let recovery = expect_status(by(&token, Method::PUT, "/api/users/me/mfa").json(&code), 200).await.json();
    expected.push(("mfa.enabled", Some(5), None, Some(5), Some(here), None));
    let recovery_code = recovery["recovery_codes"][0].as_str().unwrap();
    let with_code = json!({"user_name": "canaryname", "password": "canary of another mine", "code": recovery_code});
    let second = log_in(&with_code).await;
    expected.push(("mfa.recovery_code_used", Some(5), None, Some(5), Some(here), None));
    expected.push(("session.created", Some(5), None, Some(5), Some(here), None));
    expect_status(from(server.request(Method::POST, "/api/sessions"), here).json(&with_code), 401).await;
    expected.push(("session.refused", None, None, Some(5), Some(here), None));
    expect_status(by(&second, Method::DELETE, "/api/sessions/current"), 204).await;
    expected.push(("session.ended", Some(5), None, Some(5), Some(here), None));
    later();
    let off = json!({"password": "canary of another mine", "code": authenticator(secret, now())});
    expect_status(by(&token, Method::POST, "/api/users/me/mfa/disable").json(&off), 204).await;
    expected.push(("mfa.disabled", Some(5), None, Some(5), Some(here), None));

    expect_status(request(Method::POST, "/api/password-resets").json(&json!({"email": "canarynew@example.org"})), 202)
        .await;
    expected.push(("password.reset_asked", None, None, Some(5), Some(here), None));
    let reset = code_of(&mails.next_mail().await.text, "phr_");
    let new = json!({"new_password": "canary of the third mine"});
    expect_status(request(Method::PUT, &format!("/api/password-resets/{reset}")).json(&new), 204).await;
    expected.push(("password.reset", Some(5), None, Some(5), Some(here), None));
    let asked = expect_status(by(&key, Method::POST, "/api/admin/users/canaryname/password-resets"), 201).await.json();
    expected.push(("password.reset_asked", None, Some(1), Some(5), Some(here), None));
    later();

    let role = |role: &str| by(&key, Method::PUT, "/api/admin/users/canaryname/role").json(&json!({"role": role}));
    expect_status(role("admin"), 204).await;
    expected.push(("role.changed", None, Some(1), Some(5), Some(here), Some("admin")));
    let token = log_in(&json!({"user_name": "canaryname", "password": "canary of the third mine"})).await;
    expected.push(("session.created", Some(5), None, Some(5), Some(here), None));
    expect_status(by(&token, Method::PUT, "/api/admin/users/wendy/ban"), 204).await;
    expected.push(("user.banned", Some(5), None, Some(6), Some(here), None));
    expect_status(by(&token, Method::DELETE, "/api/admin/users/wendy/ban"), 204).await;
    expected.push(("user.unbanned", Some(5), None, Some(6), Some(here), None));
    let made =
        expect_status(by(&token, Method::POST, "/api/api-keys").json(&json!({"name": "canarykey"})), 201).await.json();
    expected.push(("api_key.created", Some(5), None, None, Some(here), Some("key 2: read write")));
    expect_status(by(&token, Method::DELETE, "/api/api-keys/2"), 204).await;
    expected.push(("api_key.revoked", Some(5), None, None, Some(here), Some("key 2")));
    expect_status(by(&token, Method::GET, "/api/users/wendy/export"), 200).await;
    expected.push(("user.exported", Some(5), None, Some(6), Some(here), None));
    let acting = by(&key, Method::GET, "/api/users/me/export").header("x-act-as", "wendy");
    expect_status(acting, 200).await;
    expected.push(("user.exported", Some(6), Some(1), Some(6), Some(here), None));
    later();
    expect_status(by(&token, Method::DELETE, "/api/users/wendy"), 204).await;
    expected.push(("user.erased", Some(5), None, Some(6), Some(here), None));
    let newest = expect_status(by(&key, Method::GET, "/api/admin/audit?limit=1"), 200).await.json();
    assert_eq!((&newest[0]["action"], &newest[0]["address"]), (&json!("user.erased"), &json!(here)));
    expect_status(by(&token, Method::DELETE, "/api/users/me"), 204).await;
    // Entries about erased users stay, without their addresses.
    for entry in &mut expected {
        let theirs = entry.1 == Some(5) || entry.1 == Some(6);
        let strangers = entry.1.is_none() && [Some(5), Some(6)].contains(&entry.3);
        if theirs || strangers {
            entry.4 = None;
        }
    }
    expected.push(("user.erased", Some(5), None, Some(5), None, None));

    let answer = expect_status(by(&key, Method::GET, "/api/admin/audit?limit=200"), 200).await;
    let log = answer.json();
    let log = log.as_array().unwrap();
    expected.reverse();
    let owned = |fields: &Fields<&str>| {
        (fields.0.to_owned(), fields.1, fields.2, fields.3, fields.4.map(str::to_owned), fields.5.map(str::to_owned))
    };
    let expected: Vec<_> = expected.iter().map(owned).collect();
    assert_eq!(log.iter().map(fields_of).collect::<Vec<_>>(), expected);
    let actions: std::collections::BTreeSet<_> = log.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions.len(), 20, "some action of the audit log is not tested here: {actions:?}");
    let times: Vec<_> = log.iter().map(|entry| entry["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|newer, older| newer >= older), "{times:?}");
    assert_eq!(*times.last().unwrap(), "2026-11-22T08:30:00.000000Z");
    let secrets = [
        "canary",
        "wendy",
        "example.org",
        "$argon2",
        &token,
        &key,
        &confirmation,
        &reset,
        secret,
        recovery_code,
        asked["code"].as_str().unwrap(),
        made["key"].as_str().unwrap(),
    ];
    for secret in secrets {
        assert!(!holds(&answer.bytes, secret), "{secret} in {log:?}");
    }
});

both!(the_audit_log_has_pages_and_starts_with_the_newest_entry, async |place| {
    let open = Server::start(place).await;
    let bugs = session(&open, "bugs").await;
    for _ in 0..24 {
        session(&open, "duck").await;
    }
    for (limit, pages) in [(7, 4), (25, 1), (24, 2), (200, 1)] {
        let mut ids = Vec::new();
        let mut target = Some(format!("/api/admin/audit?limit={limit}"));
        let mut count = 0;
        while let Some(page) = target {
            let answer = open.get(&page).await;
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            ids.extend(answer.json().as_array().unwrap().iter().map(|entry| entry["actor_id"].as_i64().unwrap()));
            // Entries that are added or deleted while the test reads do not shift the later pages.
            if count == 0 && limit == 7 {
                session(&open, "porky").await;
                place.sql("DELETE FROM messaging.audit_log WHERE actor_id = 4").await;
            }
            target = answer.next();
            count += 1;
        }
        assert_eq!((ids.len(), ids.last(), count), (25, Some(&2), pages), "limit {limit}");
    }
    open.get("/api/admin/audit?cursor=nonsense").await.invalid(&["cursor"]);
    open.get("/api/admin/audit?limit=0").await.invalid(&["limit"]);
    open.get("/api/admin/audit?actor=1").await.invalid(&["actor"]);
    let server = Server::start_with(place, secured()).await;
    Caller::new(&server, &bugs).get("/api/admin/audit").await.problem(403, "admin_required");
    let plain = server.api_key(&["read", "write"]).await;
    Caller::new(&server, &plain).get("/api/admin/audit").await.problem(403, "insufficient_scope");
});

both!(actions_on_the_command_line_are_logged_without_an_address, async |place| {
    let server = Server::start(place).await;
    for words in [
        &["admin", "create-user", "--user-name", "fifth"][..],
        &["admin", "set-role", "--user-name", "fifth", "--role", "admin"],
        &["admin", "reset-password", "--user-name", "fifth"],
        &["admin", "ban", "--user-name", "fifth"],
        &["admin", "unban", "--user-name", "fifth"],
        &["api-key", "create", "--name", "x"],
        &["api-key", "revoke", "1"],
    ] {
        assert!(posthaste(place, words).status.success());
    }
    let log = server.get("/api/admin/audit").await.json();
    let subject = Some(5);
    let expected = [
        ("api_key.revoked", None, Some("key 1")),
        ("api_key.created", None, Some("key 1: read write")),
        ("user.unbanned", subject, None),
        ("user.banned", subject, None),
        ("password.reset_asked", subject, None),
        ("role.changed", subject, Some("admin")),
        ("user.created", subject, None),
    ];
    let expected = expected
        .map(|(action, subject, detail)| (action.to_owned(), None, None, subject, None, detail.map(str::to_owned)));
    assert_eq!(log.as_array().unwrap().iter().map(fields_of).collect::<Vec<_>>(), expected);
});
