//! API keys: created, shown once, used for any user, revoked.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use posthaste::base::time::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::operations::operations::{posthaste, text};
use crate::support::callers::{Caller, holds, moment, secured, session, within_a_second};
use crate::support::place::bytes_of;
use crate::support::{Options, Place, Server, answer_of};

/// Runs `posthaste api-key create`. Returns its standard output, which is only the key.
fn create_on_command_line(place: &Place, arguments: &[&str]) -> String {
    let mut words = vec!["api-key", "create", "--name", "by hand"];
    words.extend(arguments);
    let output = posthaste(place, &words);
    assert!(output.status.success(), "{}", text(&output));
    let note = String::from_utf8_lossy(&output.stderr);
    assert!(note.starts_with("Database: ") && note.lines().count() == 1, "{note}");
    let key = String::from_utf8(output.stdout).unwrap();
    let key = key.strip_suffix('\n').unwrap();
    assert!(is_key(key), "{key}");
    key.to_owned()
}

fn is_key(text: &str) -> bool {
    let known = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
    text.strip_prefix("phk_").is_some_and(|random| random.len() == 43 && random.chars().all(known))
}

both!(a_key_is_created_shown_once_listed_used_and_revoked, async |place| {
    let open = Server::start(place).await;
    open.request(Method::PUT, "/api/admin/users/duck/role").json(&json!({"role": "admin"})).send().await.unwrap();
    let duck = session(&open, "duck").await;
    let server = Server::start_with(place, secured()).await;
    let by_hand = create_on_command_line(place, &["--scopes", "admin"]);
    let operator = Caller::new(&server, &by_hand);
    let administrator = Caller::new(&server, &duck);

    let made = administrator.post("/api/api-keys", &json!({"name": "the shop ✓", "scopes": ["write", "read"]})).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let made = made.json();
    let shop = made["key"].as_str().unwrap().to_owned();
    assert!(is_key(&shop));
    let expected = json!({
        "id": made["id"], "name": "the shop ✓", "scopes": ["read", "write"], "created_at": made["created_at"],
        "created_by": 3, "last_used_at": null, "expires_at": null, "key": shop,
    });
    assert_eq!(made, expected);
    let by_key = operator.post("/api/api-keys", &json!({"name": "x"})).await.json();
    assert_eq!(by_key["created_by"], Value::Null);
    assert_eq!(by_key["scopes"], json!(["read", "write"]));

    assert_eq!(Caller::new(&server, &shop).get("/api/users").await.status, 200);
    let listed = administrator.get("/api/api-keys").await;
    let list = String::from_utf8(listed.bytes.clone()).unwrap();
    assert!(!list.contains("phk_") && !list.contains("\"key\""), "{list}");
    let names: Vec<_> = listed.json().as_array().unwrap().iter().map(|key| key["name"].clone()).collect();
    assert_eq!(names, ["by hand", "the shop ✓", "x"]);
    let on_command_line = posthaste(place, &["api-key", "list"]);
    assert!(text(&on_command_line).contains("the shop ✓\tread,write"), "{}", text(&on_command_line));
    assert!(!text(&on_command_line).contains("phk_"));

    let target = format!("/api/api-keys/{}", made["id"]);
    assert_eq!(operator.delete(&target).await.status, 204);
    Caller::new(&server, &shop).get("/api/users").await.problem(401, "unauthenticated");
    operator.delete(&target).await.problem(404, "api_key_not_found");
    for nonsense in ["0", "-1", "x", "9007199254740993", "99999999999999999999"] {
        operator.delete(&format!("/api/api-keys/{nonsense}")).await.problem(404, "api_key_not_found");
    }
    assert_eq!(operator.get("/api/api-keys").await.json().as_array().unwrap().len(), 2);
    let pages = Caller::new(&server, &duck);
    let first = pages.get("/api/api-keys?limit=1").await;
    let second = pages.get(&first.next().unwrap()).await;
    assert_eq!([&first.json()[0]["name"], &second.json()[0]["name"]], ["by hand", "x"]);
    assert_eq!(second.next(), None);
});

both!(invalid_requests_for_a_key_are_refused, async |place| {
    let server = Server::start(place).await;
    let long = "x".repeat(101);
    for (body, field) in [
        (json!({}), "name"),
        (json!({"name": ""}), "name"),
        (json!({"name": long}), "name"),
        (json!({"name": "nul\0"}), "name"),
        (json!({"name": "x", "scopes": []}), "scopes"),
        (json!({"name": "x", "scopes": ["root"]}), "scopes"),
        (json!({"name": "x", "scopes": ["read write"]}), "scopes"),
        (json!({"name": "x", "scopes": "read"}), "scopes"),
        (json!({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}), "expires_at"),
        (json!({"name": "x", "expires_at": "tomorrow"}), "expires_at"),
        (json!({"name": "x", "expires_at": 1}), "expires_at"),
        (json!({"name": "x", "key": "phk_mine"}), "key"),
    ] {
        server.post("/api/api-keys", &body).await.invalid(&[field]);
    }
    for arguments in [
        &["--name", ""][..],
        &["--name", "x", "--scopes", "root"],
        &["--name", "x", "--expires-at", "tomorrow"],
        &["--name", "x", "--expires-at", "2020-01-01T00:00:00Z"],
    ] {
        let mut words = vec!["api-key", "create"];
        words.extend(arguments);
        let refused = posthaste(place, &words);
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
        assert!(refused.stdout.is_empty() && text(&refused).contains("posthaste: "), "{}", text(&refused));
    }
    let unknown = posthaste(place, &["api-key", "revoke", "77"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown).ends_with("\nposthaste: API key not found\n"), "{}", text(&unknown));
    assert_eq!(server.get("/api/api-keys").await.json(), json!([]));
});

both!(only_administrators_create_list_and_revoke_keys, async |place| {
    let open = Server::start(place).await;
    let bugs = session(&open, "bugs").await;
    let plain = open.api_key(&["read", "write"]).await;
    let admin = open.api_key(&["admin"]).await;
    let server = Server::start_with(place, secured()).await;
    let callers = [
        (Caller::new(&server, &bugs), "admin_required"),
        (Caller::new(&server, &plain), "insufficient_scope"),
        // An API key that acts as a user has at most the rights of that user, even with the scope `admin`.
        (Caller::new(&server, &admin).acting_as("bugs"), "admin_required"),
    ];
    for (caller, code) in callers {
        caller.get("/api/api-keys").await.problem(403, code);
        caller.post("/api/api-keys", &json!({"name": "x", "scopes": ["admin"]})).await.problem(403, code);
        caller.delete("/api/api-keys/1").await.problem(403, code);
    }
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.api_keys").await, [[2]]);
});

both!(a_revoked_key_is_refused_within_a_second_on_every_server, async |place| {
    let one = Server::start_with(place, secured()).await;
    let other = Server::start_with(place, secured()).await;
    let admin = one.api_key(&["read", "admin"]).await;
    let key = create_on_command_line(place, &["--scopes", "read"]);
    for server in [&one, &other] {
        assert_eq!(Caller::new(server, &key).get("/api/users").await.status, 200);
    }
    assert!(posthaste(place, &["api-key", "revoke", "2"]).status.success());
    tokio::join!(
        within_a_second(Caller::new(&one, &key), "/api/users", 401),
        within_a_second(Caller::new(&other, &key), "/api/users", 401),
    );

    let key = create_on_command_line(place, &["--scopes", "read"]);
    for server in [&one, &other] {
        assert_eq!(Caller::new(server, &key).acting_as("bugs").get("/api/users").await.status, 200);
    }
    assert_eq!(Caller::new(&one, &admin).delete("/api/api-keys/3").await.status, 204);
    Caller::new(&one, &key).acting_as("bugs").get("/api/users").await.problem(401, "unauthenticated");
    within_a_second(Caller::new(&other, &key).acting_as("bugs"), "/api/users", 401).await;
    // Other keys stay valid.
    assert_eq!(Caller::new(&other, &admin).get("/api/users").await.status, 200);
});

both!(a_key_expires_and_shows_its_last_use, async |place| {
    let hand = Arc::new(AtomicI64::new(moment("2026-11-22T08:30:00Z")));
    let options = Options { clock: Clock::Manual(Arc::clone(&hand)), ..Options::default() };
    let server = Server::start_with(place, options).await;
    let body = json!({"name": "x", "scopes": ["read"], "expires_at": "2026-11-22T10:40:00+02:00"});
    let made = server.post("/api/api-keys", &body).await.json();
    assert_eq!(made["expires_at"], "2026-11-22T08:40:00.000000Z");
    let key = made["key"].as_str().unwrap();
    let caller = Caller::new(&server, key);
    let used = async |expected: &str| {
        // The server records the use in the background, so the test waits for it.
        for _ in 0..200 {
            if server.get("/api/api-keys").await.json()[0]["last_used_at"] == expected {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{expected}: {}", server.get("/api/api-keys").await.json());
    };
    assert_eq!(caller.get("/api/users").await.status, 200);
    used("2026-11-22T08:30:00.000000Z").await;
    hand.fetch_add(59_000_000, Ordering::Relaxed);
    assert_eq!(caller.get("/api/users").await.status, 200);
    hand.fetch_add(2_000_000, Ordering::Relaxed);
    assert_eq!(caller.get("/api/users").await.status, 200);
    used("2026-11-22T08:31:01.000000Z").await;
    hand.store(moment("2026-11-22T08:39:59.999999Z"), Ordering::Relaxed);
    assert_eq!(caller.get("/api/users").await.status, 200);
    hand.store(moment("2026-11-22T08:40:00Z"), Ordering::Relaxed);
    caller.get("/api/users").await.problem(401, "unauthenticated");
    // Another server, which has not seen the key before, refuses it too. The refusal is permanent.
    let options = Options { clock: Clock::Manual(Arc::clone(&hand)), ..secured() };
    let other = Server::start_with(place, options).await;
    Caller::new(&other, key).get("/api/users").await.problem(401, "unauthenticated");
});

both!(a_key_does_what_its_scopes_allow, async |place| {
    let server = Server::start_with(place, secured()).await;
    let reads = server.api_key(&["read"]).await;
    let writes = server.api_key(&["write"]).await;
    let administers = server.api_key(&["admin"]).await;
    let message = json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": "hey"});
    for (key, expected) in [(&reads, [200, 403, 403]), (&writes, [403, 201, 403]), (&administers, [403, 403, 200])] {
        let caller = Caller::new(&server, key);
        let answers = [
            caller.get("/api/messages/bugs").await,
            caller.post("/api/messages", &message).await,
            caller.get("/api/admin/stats").await,
        ];
        for (answer, status) in answers.iter().zip(expected) {
            if status == 403 {
                answer.problem(403, "insufficient_scope");
            } else {
                assert_eq!(answer.status, status);
            }
        }
    }
    // A key with one letter more, fewer or changed is another key.
    for wrong in [&reads[..46], &format!("{reads}A"), &reads.to_uppercase(), &reads.replace("phk_", "phs_"), "phk_"] {
        Caller::new(&server, wrong).get("/api/users").await.problem(401, "unauthenticated");
    }
    let doubled = server.request(Method::GET, "/api/users").bearer_auth(&reads).bearer_auth(&reads);
    answer_of(doubled).await.problem(401, "unauthenticated");
});

both!(a_key_acts_for_users, async |place| {
    let open = Server::start(place).await;
    let bugs = session(&open, "bugs").await;
    let server = Server::start_with(place, secured()).await;
    let key = server.api_key(&["read", "write", "admin"]).await;
    let caller = Caller::new(&server, &key);
    caller.get("/api/users/me").await.problem(403, "act_as_required");
    for name in ["bugs", "BUGS", "bUgS"] {
        assert_eq!(caller.acting_as(name).get("/api/users/me").await.json()["user_name"], "bugs");
    }
    caller.acting_as("bugs").get("/api/messages/duck").await.problem(403, "not_your_messages");
    let long = "x".repeat(20_000);
    for name in ["nobody", "", "me", "bugs ,duck", "bugs,duck", &long] {
        caller.acting_as(name).get("/api/users").await.invalid(&["X-Act-As"]);
        // Even a public route refuses such a caller instead of treating it as one without credentials.
        caller
            .acting_as(name)
            .post("/api/users", &json!({"user_name": "x", "password": "correct horse"}))
            .await
            .invalid(&["X-Act-As"]);
    }
    let foreign = reqwest::header::HeaderValue::from_bytes("жук".as_bytes()).unwrap();
    let request = caller.request(Method::GET, "/api/users").header("x-act-as", foreign);
    answer_of(request).await.invalid(&["X-Act-As"]);
    let two = caller.acting_as("bugs").request(Method::GET, "/api/users").header("x-act-as", "duck");
    answer_of(two).await.invalid(&["X-Act-As"]);
    Caller::new(&server, &bugs).acting_as("bugs").get("/api/users").await.problem(403, "act_as_not_allowed");

    // A ban also applies to callers that are cached, on every server.
    let other = Server::start_with(place, secured()).await;
    let elsewhere = Caller::new(&other, &key).acting_as("bugs");
    assert_eq!(elsewhere.get("/api/users/me").await.status, 200);
    assert_eq!(caller.put("/api/admin/users/bugs/ban", &json!({})).await.status, 204);
    caller.acting_as("bugs").get("/api/users/me").await.invalid(&["X-Act-As"]);
    within_a_second(elsewhere, "/api/users/me", 422).await.invalid(&["X-Act-As"]);
    assert_eq!(caller.delete("/api/admin/users/bugs/ban").await.status, 204);
    assert_eq!(caller.acting_as("bugs").get("/api/users/me").await.status, 200);
});

both!(idempotency_keys_belong_to_the_api_key_or_to_the_user_it_acts_for, async |place| {
    let open = Server::start(place).await;
    let bugs = session(&open, "bugs").await;
    let server = Server::start_with(place, secured()).await;
    let (one, other) = (server.api_key(&["write"]).await, server.api_key(&["write"]).await);
    let (one, other) = (Caller::new(&server, &one), Caller::new(&server, &other));
    let named = json!({"sender_user_name": "bugs", "recipient_user_name": "porky", "body": "hey"});
    let first = one.post_once("/api/messages", "k", &named).await;
    assert_eq!(first.status, 201);
    assert_eq!(one.post_once("/api/messages", "k", &named).await.bytes, first.bytes);
    let others = other.post_once("/api/messages", "k", &named).await;
    assert_eq!(others.header("idempotency-replayed"), None);
    assert_ne!(others.bytes, first.bytes);

    let unnamed = json!({"recipient_user_name": "porky", "body": "hey"});
    let first = one.acting_as("bugs").post_once("/api/messages", "k", &unnamed).await;
    assert_eq!((first.status.as_u16(), first.header("idempotency-replayed")), (201, None));
    for caller in [one.acting_as("BUGS"), other.acting_as("bugs"), Caller::new(&server, &bugs)] {
        let again = caller.post_once("/api/messages", "k", &unnamed).await;
        assert_eq!((&again.bytes, again.header("idempotency-replayed")), (&first.bytes, Some("true")));
    }
    let ducks = one.acting_as("duck").post_once("/api/messages", "k", &unnamed).await;
    assert_eq!((ducks.status.as_u16(), ducks.header("idempotency-replayed")), (201, None));
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.messages").await, [[8]]);
});

both!(a_repeat_gets_the_same_key_which_is_never_stored_in_plain_text, async |place| {
    let server = Server::start_with(place, secured()).await;
    let admin = create_on_command_line(place, &["--scopes", "read,write,admin"]);
    let caller = Caller::new(&server, &admin);
    let body = json!({"name": "canary-name", "scopes": ["read"]});
    let first = caller.post_once("/api/api-keys", "once", &body).await;
    assert_eq!(first.status, 201);
    let key = first.json()["key"].as_str().unwrap().to_owned();
    let (again, third) = tokio::join!(
        caller.post_once("/api/api-keys", "once", &body),
        caller.post_once("/api/api-keys", "once", &body)
    );
    for answer in [again, third] {
        assert_eq!((answer.status, &answer.bytes), (first.status, &first.bytes));
        assert_eq!(answer.header("idempotency-replayed"), Some("true"));
    }
    caller.post_once("/api/api-keys", "once", &json!({"name": "y"})).await.problem(422, "idempotency_key_reused");
    let another = caller.post_once("/api/api-keys", "twice", &body).await.json();
    assert_ne!(another["key"], key);
    let acting = caller.acting_as("bugs").post_once("/api/api-keys", "once", &body).await;
    acting.problem(403, "admin_required");
    assert_eq!(server.get("/api/users").await.status, 401);
    server.stop().await;

    let server = Server::start_with(place, secured()).await;
    assert_eq!(Caller::new(&server, &admin).post_once("/api/api-keys", "once", &body).await.bytes, first.bytes);
    assert_eq!(Caller::new(&server, &key).get("/api/users").await.status, 200);
    let kept = place.everything().await.into_bytes();
    assert!(holds(&kept, "canary-name"), "the search itself works");
    for secret in [key.as_str(), &key[4..], &admin, &admin[4..], another["key"].as_str().unwrap()] {
        assert!(!holds(&kept, secret), "a key is stored in plain text");
    }
    for path in std::fs::read_dir(place.folder.path()).unwrap().map(|entry| entry.unwrap().path()) {
        assert!(path.is_dir() || !holds(&bytes_of(&path), &key[4..]));
    }
});

both!(requests_together_with_one_idempotency_key_create_one_api_key, async |place| {
    let (one, other) = (Server::start(place).await, Server::start(place).await);
    let body = json!({"name": "x"});
    let making = (0..16).map(|number| {
        let server = if number % 2 == 0 { &one } else { &other };
        answer_of(server.request(Method::POST, "/api/api-keys").header("idempotency-key", "k").json(&body))
    });
    let answers = futures_util::future::join_all(making).await;
    for answer in &answers {
        assert_eq!((answer.status.as_u16(), &answer.bytes), (201, &answers[0].bytes));
    }
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.api_keys").await, [[1]]);
});

both!(a_key_without_the_scope_admin_cannot_take_over_an_administrators_account, async |place| {
    let open = Server::start(place).await;
    open.request(Method::PUT, "/api/admin/users/duck/role").json(&json!({"role": "admin"})).send().await.unwrap();
    let server = Server::start_with(place, Options { demo: false, ..secured() }).await;
    let (plain, full) = (server.api_key(&["read", "write"]).await, server.api_key(&["read", "write", "admin"]).await);
    let attempts = [
        (Method::PUT, "/api/users/me/password", json!({"new_password": "taken over by a key"})),
        (Method::POST, "/api/users/me/mfa", json!({})),
        (Method::PATCH, "/api/users/me", json!({"email": "attacker@example.org"})),
        (Method::DELETE, "/api/users/me", json!({})),
    ];
    for (method, target, body) in &attempts {
        let request = Caller::new(&server, &plain).acting_as("duck").request(method.clone(), target);
        answer_of(request.json(body)).await.problem(403, "insufficient_scope");
    }
    assert_eq!(Caller::new(&server, &full).get("/api/users/duck").await.json()["email"], "duck@example.org");
    // Changes that give no access to an administrator's account are still allowed. All changes are allowed to accounts without
    // the role `admin`, and to API keys with the scope `admin`.
    let named = Caller::new(&server, &plain).acting_as("duck").request(Method::PATCH, "/api/users/me");
    assert_eq!(answer_of(named.json(&json!({"first_name": "Donald"}))).await.status, 200);
    for (key, person) in [(&plain, "bugs"), (&full, "duck")] {
        for (method, target, body) in &attempts {
            let request = Caller::new(&server, key).acting_as(person).request(method.clone(), target);
            let status = answer_of(request.json(body)).await.status;
            assert!(status.is_success(), "{person} {method} {target}: {status}");
        }
    }
});

both!(a_key_cannot_send_for_a_banned_user, async |place| {
    let server = Server::start(place).await;
    let key = server.api_key(&["read", "write", "admin"]).await;
    let key = Caller::new(&server, &key);
    let hey = json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": "hey"});
    assert_eq!(key.post("/api/messages", &hey).await.status, 201);
    assert_eq!(key.put("/api/admin/users/bugs/ban", &json!({})).await.status, 204);
    key.post("/api/messages", &hey).await.invalid(&["sender_user_name"]);
    key.acting_as("bugs").post("/api/messages", &hey).await.invalid(&["X-Act-As"]);
    // Others still write to a banned user, and the user's messages are still there.
    let back = json!({"sender_user_name": "duck", "recipient_user_name": "bugs", "body": "where are you?"});
    assert_eq!(key.post("/api/messages", &back).await.status, 201);
    assert_eq!(key.delete("/api/admin/users/bugs/ban").await.status, 204);
    assert_eq!(key.post("/api/messages", &hey).await.status, 201);
});
