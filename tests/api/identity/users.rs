//! `/api/users`.

use std::sync::Arc;

use posthaste::domain::identity::users::DirectMessagesFrom;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::operations::operations::posthaste;
use crate::support::accounts::{PASSWORD, secured};
use crate::support::{Answer, Options, Server, answer_of};

both!(the_list_of_users_has_the_fields_of_the_seed, async |place| {
    let server = Server::start(place).await;
    let answer = server.get("/api/users").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let users = answer.json();
    let names: Vec<_> = users.as_array().unwrap().iter().map(|user| user["user_name"].as_str().unwrap()).collect();
    assert_eq!(names, ["rdibari", "bugs", "duck", "porky"]);
    let rebecca = &users[0];
    assert_eq!(rebecca["id"], 1);
    assert_eq!(rebecca["first_name"], "Rebecca");
    assert_eq!(rebecca["last_name"], "DiBari");
    assert_eq!(rebecca["email"], "rdibari@example.org");
    assert_eq!(rebecca["mfa"], false);
    assert_eq!(rebecca["role"], "user");
    assert_eq!(rebecca["is_bot"], false);
    assert_eq!(rebecca["created_at"].as_str().unwrap().len(), "2026-11-22T08:30:00.123456Z".len());
    let mut fields: Vec<_> = rebecca.as_object().unwrap().keys().cloned().collect();
    fields.sort();
    assert_eq!(
        fields,
        [
            "avatar_url",
            "created_at",
            "direct_messages_from",
            "email",
            "first_name",
            "id",
            "is_bot",
            "last_name",
            "mfa",
            "modified_at",
            "role",
            "user_name"
        ]
    );
});

both!(users_are_listed_in_pages, async |place| {
    let server = Server::start_with(place, Options { demo: false, ..Options::default() }).await;
    for number in 0..25 {
        server.add_user(&format!("user{number}"), "", "").await;
    }
    for limit in [1, 7, 24, 25, 26, 200] {
        let users = server.all(&format!("/api/users?limit={limit}")).await;
        let ids: Vec<_> = users.iter().map(|user| user["id"].as_i64().unwrap()).collect();
        assert_eq!(ids, (1..=25).collect::<Vec<_>>(), "limit {limit}");
    }
    assert!(server.get("/api/users?limit=25").await.next().is_none());
    let link = server.get("/api/users?limit=7&q=user").await.next().unwrap();
    assert!(link.starts_with("/api/users?limit=7&cursor="), "{link}");
    assert!(link.ends_with("&q=user"), "{link}");
});

both!(a_prefix_finds_names_without_regard_to_case_and_accents, async |place| {
    let server = Server::start(place).await;
    server.add_user("zoe", "Zoë", "Ångström").await;
    server.add_user("percent", "100%", "under_score").await;
    let find = async |query: &str| -> Vec<String> {
        let users = server.all(&format!("/api/users?q={query}&limit=2")).await;
        users.iter().map(|user| user["user_name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(find("bu").await, ["bugs"]);
    assert_eq!(find("BUGS").await, ["bugs"]);
    assert_eq!(find("dibari").await, ["rdibari"]);
    assert_eq!(find("Daffy%20D").await, ["duck"]);
    assert_eq!(find("ANGST").await, ["zoe"]);
    assert_eq!(find("zo%C3%AB").await, ["zoe"]);
    assert_eq!(find("100%25").await, ["percent"]);
    assert_eq!(find("%25").await, Vec::<String>::new());
    assert_eq!(find("_").await, Vec::<String>::new());
    assert_eq!(find("").await.len(), 6);
    assert_eq!(find("nobody").await, Vec::<String>::new());
    server.get(&format!("/api/users?q={}", "x".repeat(65))).await.invalid(&["q"]);
});

both!(a_user_is_found_by_name, async |place| {
    let server = Server::start(place).await;
    let answer = server.get("/api/users/BUGS").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["id"], 2);
    server.get("/api/users/nobody").await.problem(404, "user_not_found");
    server.get("/api/users/me").await.problem(403, "act_as_required");
    let me = server.request(reqwest::Method::GET, "/api/users/me").header("x-act-as", "Duck");
    assert_eq!(crate::support::answer_of(me).await.json()["user_name"], "duck");
    let nobody = server.request(reqwest::Method::GET, "/api/users/me").header("x-act-as", "nobody");
    crate::support::answer_of(nobody).await.invalid(&["X-Act-As"]);
});

both!(a_caller_acting_as_a_user_sees_only_that_users_email, async |place| {
    let server = Server::start(place).await;
    let list = server.request(reqwest::Method::GET, "/api/users").header("x-act-as", "bugs");
    let users = crate::support::answer_of(list).await.json();
    let shown: Vec<_> = users.as_array().unwrap().iter().filter(|user| !user["email"].is_null()).collect();
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0]["user_name"], "bugs");
    assert_eq!(shown[0]["direct_messages_from"], "everyone");
});

both!(invalid_parameters_are_named, async |place| {
    let server = Server::start(place).await;
    for limit in ["0", "201", "-1", "x", "", "1.5", "99999999999999999999"] {
        server.get(&format!("/api/users?limit={limit}")).await.invalid(&["limit"]);
    }
    for cursor in ["x", "", "dXNlcnM6eA", "dGltZWxpbmU6MTox"] {
        server.get(&format!("/api/users?cursor={cursor}")).await.invalid(&["cursor"]);
    }
    server.get("/api/users?lmit=5").await.invalid(&["lmit"]);
    server.get("/api/users?limit=5&limit=6").await.invalid(&["limit"]);
    server.get("/api/users?q=a%00b").await.invalid(&["q"]);
    server.get("/api/users?q=%ff").await.problem(400, "malformed_query");
    server.get("/api/users/a%00b").await.problem(404, "not_found");
    server.get("/api/users/%ff").await.problem(404, "not_found");
});

both!(a_user_erased_on_another_server_cannot_send_or_receive, async |place| {
    let here = Server::start(place).await;
    let there = Server::start_with(place, Options { demo: false, ..Options::default() }).await;
    let hey = |sender: &str, recipient: &str| json!({"sender_user_name": sender, "recipient_user_name": recipient, "body": "hey"});
    // After this send, this server has both users and their conversation in its cache.
    assert_eq!(here.post("/api/messages", &hey("bugs", "duck")).await.status, 201);
    let stored = place.numbers("SELECT count(*) FROM messaging.messages").await;
    let erased = answer_of(there.request(Method::DELETE, "/api/users/duck")).await;
    assert_eq!(erased.status, 204);
    // The send is refused immediately, even before this server reads the revocations again.
    here.post("/api/messages", &hey("bugs", "duck")).await.invalid(&["recipient_user_name"]);
    let from = here.post("/api/messages", &hey("duck", "bugs")).await;
    assert!([401, 422].contains(&from.status.as_u16()), "{}", from.status);
    assert_eq!(here.post("/api/messages", &hey("bugs", "porky")).await.status, 201);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.messages").await, [[stored[0][0] + 1]]);
});

async fn register(server: &Server, body: Value) -> Answer {
    server.post("/api/users", &body).await
}

fn open_registration() -> Options {
    Options { registration_open: true, ..secured() }
}

both!(users_register_where_registration_is_open, async |place| {
    let server = Server::start_with(place, open_registration()).await;
    let body = json!({"user_name": "Bugs", "password": PASSWORD, "email": "Bugs@Example.org", "last_name": "Bunny"});
    let before = server.hashes().await;
    let answer = register(&server, body).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
    assert_eq!(server.hashes().await - before, 1);
    assert_eq!(answer.header("location"), Some("/api/users/Bugs"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let user = answer.json();
    for (field, value) in [
        ("user_name", json!("Bugs")),
        ("first_name", json!("")),
        ("last_name", json!("Bunny")),
        ("email", json!("Bugs@Example.org")),
        ("role", json!("user")),
        ("mfa", json!(false)),
        ("is_bot", json!(false)),
        ("direct_messages_from", json!("everyone")),
        ("avatar_url", Value::Null),
    ] {
        assert_eq!(user[field], value, "{field}");
    }
    assert!(!place.everything().await.contains(PASSWORD));
    let token = server.token_of("bugs").await;
    assert_eq!(server.get_as(&token, answer.header("location").unwrap()).await.bytes, answer.bytes);
    let found = server.get_as(&token, "/api/users?q=bunn").await.json();
    assert_eq!(found[0]["id"], user["id"]);
    // Without credentials an idempotency key has no effect, because a key belongs to a caller.
    let again = server.request(Method::POST, "/api/users").header("idempotency-key", "key");
    let body = json!({"user_name": "duck", "password": PASSWORD});
    assert_eq!(answer_of(again.json(&body)).await.status, 201);
    let again = server.request(Method::POST, "/api/users").header("idempotency-key", "key");
    answer_of(again.json(&body)).await.problem(409, "user_name_taken");
});

both!(with_closed_registration_only_administrators_create_accounts, async |place| {
    let server = Server::secured(place, &["bugs"]).await;
    server.add_person("admin", Some(PASSWORD), true).await;
    let (bugs, admin) = (server.token_of("bugs").await, server.token_of("admin").await);
    let before = server.hashes().await;
    let body = |name: &str| json!({"user_name": name, "password": PASSWORD});
    register(&server, body("duck")).await.problem(403, "registration_closed");
    register(&server, body("bugs")).await.problem(403, "registration_closed");
    server.post_as(&bugs, "/api/users", &body("duck")).await.problem(403, "registration_closed");
    server.post_as("phs_nonsense", "/api/users", &body("duck")).await.problem(403, "registration_closed");
    let key = server.api_key(&["read", "write"]).await;
    let acting = server.request_as(&key, Method::POST, "/api/users").header("x-act-as", "bugs");
    answer_of(acting.json(&body("duck"))).await.problem(403, "registration_closed");
    let reader = server.api_key(&["read", "admin"]).await;
    server.post_as(&reader, "/api/users", &body("duck")).await.problem(403, "insufficient_scope");
    assert_eq!(server.hashes().await, before, "no password was hashed");
    for (credential, name) in [(&admin, "porky"), (&key, "daffy")] {
        let made = server.post_as(credential, "/api/users", &json!({"user_name": name})).await;
        assert_eq!(made.status, 201, "{name}");
        assert_eq!(made.json()["direct_messages_from"], "everyone");
        server.log_in(body(name)).await.problem(401, "invalid_credentials");
    }
    // No caller can create an administrator.
    server.post_as(&admin, "/api/users", &json!({"user_name": "x", "role": "admin"})).await.invalid(&["role"]);
});

both!(registration_without_an_administrator_needs_a_password, async |place| {
    let server = Server::start_with(place, open_registration()).await;
    server.add_person("bugs", Some(PASSWORD), false).await;
    let bugs = server.token_of("bugs").await;
    for body in [json!({"user_name": "duck"}), json!({"user_name": "duck", "password": null})] {
        register(&server, body.clone()).await.invalid(&["password"]);
        server.post_as(&bugs, "/api/users", &body).await.invalid(&["password"]);
    }
});

both!(names_and_emails_are_unique_without_regard_to_case, async |place| {
    let server = Server::start_with(place, open_registration()).await;
    let body = |name: &str, email: Option<&str>| json!({"user_name": name, "password": PASSWORD, "email": email});
    assert_eq!(register(&server, body("Bugs", Some("Bugs@Example.org"))).await.status, 201);
    for (name, email, code) in [
        ("bugs", None, "user_name_taken"),
        ("BUGS", Some("other@example.org"), "user_name_taken"),
        ("duck", Some("bugs@example.org"), "email_taken"),
        ("duck", Some("BUGS@EXAMPLE.ORG"), "email_taken"),
    ] {
        register(&server, body(name, email)).await.problem(409, code);
    }
    // User names contain only ASCII characters, so only ASCII letters are compared without regard to case. Several users may
    // have no email address.
    for name in ["duck", "porky"] {
        assert_eq!(register(&server, body(name, None)).await.status, 201);
    }
    let server = Arc::new(server);
    let racing: Vec<_> = (0..20)
        .map(|number| {
            let server = Arc::clone(&server);
            let name = if number % 2 == 0 { "Racer" } else { "rACER" };
            tokio::spawn(async move { register(&server, json!({"user_name": name, "password": PASSWORD})).await })
        })
        .collect();
    let mut made = 0;
    for answer in racing {
        let answer = answer.await.unwrap();
        if answer.status == 201 {
            made += 1;
        } else {
            answer.problem(409, "user_name_taken");
        }
    }
    assert_eq!(made, 1);
});

both!(names_of_erased_users_are_never_used_again, async |place| {
    let server = Server::start_with(place, open_registration()).await;
    server.add_person("Bugs", Some(PASSWORD), false).await;
    let first = server.token_of("bugs").await;
    let id = server.get_as(&first, "/api/users/me").await.json()["id"].as_i64().unwrap();
    assert_eq!(server.delete_as(&first, "/api/users/me").await.status, 204);
    for name in ["bugs", "Bugs", "BUGS"] {
        let body = json!({"user_name": name, "password": PASSWORD});
        register(&server, body).await.problem(409, "user_name_taken");
    }
    let by_hand = posthaste(place, &["admin", "create-user", "--user-name", "bugs"]);
    assert!(!by_hand.status.success());
    assert!(!place.everything().await.to_lowercase().contains("bugs"));
    let next =
        register(&server, json!({"user_name": "bunny", "password": PASSWORD, "email": "bugs@example.org"})).await;
    assert!(next.json()["id"].as_i64().unwrap() > id);
});

both!(all_invalid_fields_of_a_registration_are_named_together, async |place| {
    let server = Server::start_with(place, open_registration()).await;
    let with = |field: &str, value: Value| {
        let mut body = json!({"user_name": "bugs", "password": PASSWORD});
        body[field] = value;
        body
    };
    let before = server.hashes().await;
    let long = "x".repeat(33);
    for name in
        ["", "a b", "a/b", "Ünïcode", "ｂｕｇｓ", "._-", "-", "a@b", "a\0b", "a\nb", &long, &"x".repeat(200_000)]
    {
        register(&server, with("user_name", json!(name))).await.invalid(&["user_name"]);
    }
    for name in ["me", "ME", "Requests", "requests"] {
        let refused = register(&server, with("user_name", json!(name))).await;
        assert_eq!(refused.invalid(&["user_name"])["errors"][0]["code"], "reserved_user_name");
    }
    for (password, code) in [
        ("", "too_short"),
        ("1234567", "too_short"),
        ("🥕🥕🥕🥕🥕🥕🥕", "too_short"),
        (&"🥕".repeat(257), "too_long"),
        ("12345678", "common_password"),
        ("PassWord", "common_password"),
        ("password123", "common_password"),
        ("qwertyuiop", "common_password"),
        ("🥕🥕🥕🥕🥕🥕🥕🥕", "common_password"),
        ("seven\0 and more", "nul_character"),
    ] {
        let refused = register(&server, with("password", json!(password))).await;
        assert_eq!(refused.invalid(&["password"])["errors"][0]["code"], code, "{password}");
    }
    let refused = register(&server, json!({"user_name": "BugsBunny", "password": "bugsbunny"})).await;
    assert_eq!(refused.invalid(&["password"])["errors"][0]["code"], "password_is_name");
    let too_long = format!("{}@example.org", "x".repeat(243));
    for email in [
        "",
        "bugs",
        "@example.org",
        "bugs@",
        "bügs@example.org",
        "bugs @example.org",
        "a@b\r\nBcc: c@d",
        "a\0@b.c",
        "<a@b.c>",
        &too_long,
    ] {
        register(&server, with("email", json!(email))).await.invalid(&["email"]);
    }
    for field in ["first_name", "last_name"] {
        register(&server, with(field, json!("x".repeat(33)))).await.invalid(&[field]);
        register(&server, with(field, json!("a\0b"))).await.invalid(&[field]);
        register(&server, with(field, json!(1))).await.invalid(&[field]);
    }
    for (field, value) in [
        ("user_name", json!(1)),
        ("user_name", Value::Null),
        ("password", json!(12345678)),
        ("email", json!({})),
        ("id", json!(1)),
        ("mfa", json!(true)),
        ("is_bot", json!(true)),
    ] {
        register(&server, with(field, value)).await.invalid(&[field]);
    }
    let all = json!({"user_name": "", "password": "x", "email": "x", "first_name": "x".repeat(33), "last_name": "\0"});
    register(&server, all).await.invalid(&["user_name", "first_name", "last_name", "email", "password"]);
    answer_of(server.request(Method::POST, "/api/users")).await.invalid(&["user_name"]);
    register(&server, json!([])).await.invalid(&["body"]);
    server.post("/api/users?x=1", &with("last_name", json!(""))).await.invalid(&["x"]);
    assert_eq!(server.hashes().await, before, "no password of a refused request was hashed");
    // Values at the limits are accepted unchanged.
    for (name, password) in [("x".repeat(32), "🥕mQ7🥕z!é".to_owned()), ("0".into(), "🥕".repeat(241) + PASSWORD)]
    {
        let names = " Zoë\t\u{202e}🥕 ".to_owned() + &"e\u{301}".repeat(11);
        let body = json!({"user_name": name, "password": password, "first_name": names, "last_name": "  "});
        let made = register(&server, body).await;
        assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.bytes));
        assert_eq!(made.json()["first_name"], names);
        let in_again = server.log_in(json!({"user_name": name, "password": password})).await;
        assert_eq!(in_again.status, 201);
    }
});

both!(a_repeated_creation_with_the_same_key_creates_one_account, async |place| {
    let server = Arc::new(Server::secured(place, &[]).await);
    let key = server.api_key(&["read", "write", "admin"]).await;
    let post = async |server: &Server, credential: &str, key: &str, body: &Value| {
        let request =
            server.request_as(credential, Method::POST, "/api/users").header("idempotency-key", key.to_owned());
        answer_of(request.json(body)).await
    };
    let body = json!({"user_name": "bugs", "password": PASSWORD, "email": "bugs@example.org"});
    let first = post(&server, &key, "k", &body).await;
    assert_eq!((first.status.as_u16(), first.header("idempotency-replayed")), (201, None));
    let before = server.hashes().await;
    let second = post(&server, &key, "k", &body).await;
    assert_eq!((second.status.as_u16(), second.header("idempotency-replayed")), (201, Some("true")));
    assert_eq!(second.bytes, first.bytes);
    assert_eq!(second.header("location"), first.header("location"));
    assert_eq!(server.hashes().await, before, "a repeat hashes no password");
    let other = json!({"user_name": "bugs", "password": "nothing much, you?", "email": "bugs@example.org"});
    post(&server, &key, "k", &other).await.problem(422, "idempotency_key_reused");
    // A refusal is not stored, so the key can be used again. The same key text of another caller is a different key.
    post(&server, &key, "l", &json!({"user_name": "bugs"})).await.problem(409, "user_name_taken");
    assert_eq!(post(&server, &key, "l", &json!({"user_name": "duck"})).await.status, 201);
    let other_key = server.api_key(&["write"]).await;
    post(&server, &other_key, "k", &body).await.problem(409, "user_name_taken");
    for wrong in ["", &"x".repeat(256)] {
        post(&server, &key, wrong, &json!({"user_name": "porky"})).await.invalid(&["Idempotency-Key"]);
    }
    // Erasing the user removes their data from the stored answer.
    let bugs = server.token_of("bugs").await;
    assert_eq!(server.delete_as(&bugs, "/api/users/me").await.status, 204);
    assert!(!place.everything().await.contains("bugs@example.org"));
    let blanked = post(&server, &key, "k", &body).await;
    assert_eq!(blanked.header("idempotency-replayed"), Some("true"));
    assert_eq!((blanked.status.as_u16(), blanked.bytes.len()), (201, 0));
});

both!(a_repeat_waits_for_the_first_request, async |place| {
    let server = Arc::new(Server::secured(place, &[]).await);
    let key = server.api_key(&["write"]).await;
    for round in 0..10 {
        // The users have no password. So no time is spent on hashing, and the requests reach the database at the same time.
        let body = json!({"user_name": format!("racer{round}"), "email": format!("racer{round}@example.org")});
        let racing: Vec<_> = (0..10)
            .map(|_| {
                let request = server.request_as(&key, Method::POST, "/api/users");
                tokio::spawn(answer_of(request.header("idempotency-key", format!("race {round}")).json(&body)))
            })
            .collect();
        let mut replayed = 0;
        for answer in racing {
            let answer = answer.await.unwrap();
            assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
            replayed += usize::from(answer.header("idempotency-replayed").is_some());
        }
        assert_eq!(replayed, 9);
    }
});

both!(fields_that_a_change_leaves_out_stay, async |place| {
    let server = Server::secured(place, &["bugs", "duck"]).await;
    let token = server.token_of("bugs").await;
    let patch = async |body: Value| server.patch_as(&token, "/api/users/me", &body).await;
    let before = server.get_as(&token, "/api/users/me").await.json();
    let changed = patch(json!({"first_name": "Bugs", "last_name": "Bunny", "direct_messages_from": "friends"})).await;
    assert_eq!(changed.status, 200);
    let user = changed.json();
    assert_eq!((&user["first_name"], &user["last_name"]), (&json!("Bugs"), &json!("Bunny")));
    assert_eq!(user["email"], "bugs@example.org");
    assert_eq!(user["direct_messages_from"], "friends");
    assert_eq!(user["created_at"], before["created_at"]);
    assert!(user["modified_at"].as_str() > before["modified_at"].as_str());
    assert_eq!(server.get_as(&token, "/api/users/Bugs").await.bytes, changed.bytes);
    assert_eq!(server.get_as(&token, "/api/users?q=bunny").await.json()[0]["id"], user["id"]);
    for body in [json!({}), json!({"email": "BUGS@example.org"}), json!({"last_name": ""})] {
        let user = patch(body).await.json();
        assert_eq!((&user["first_name"], &user["direct_messages_from"]), (&json!("Bugs"), &json!("friends")));
    }
    let nothing = answer_of(server.request_as(&token, Method::PATCH, "/api/users/me")).await;
    assert_eq!(nothing.json()["email"], "BUGS@example.org");
    // Null removes an optional value and is refused for a required one.
    let user = patch(json!({"email": null, "direct_messages_from": null})).await.json();
    assert_eq!((&user["email"], &user["direct_messages_from"]), (&Value::Null, &json!("everyone")));
    assert_eq!(user["first_name"], "Bugs");
    server.log_in(json!({"email": "bugs@example.org", "password": PASSWORD})).await.problem(401, "invalid_credentials");
    for field in ["first_name", "last_name"] {
        patch(json!({field: null})).await.invalid(&[field]);
    }
    patch(json!({"email": "Duck@Example.org"})).await.problem(409, "email_taken");
    let user = server.get_as(&token, "/api/users/me").await.json();
    assert_eq!((&user["email"], &user["first_name"]), (&Value::Null, &json!("Bugs")));
});

both!(invalid_changes_name_their_fields, async |place| {
    let server = Server::secured(place, &["bugs"]).await;
    let token = server.token_of("bugs").await;
    let before = server.get_as(&token, "/api/users/me").await.bytes;
    for (body, fields) in [
        (json!({"role": "admin"}), vec!["role"]),
        (json!({"id": 2}), vec!["id"]),
        (json!({"mfa": true}), vec!["mfa"]),
        (json!({"is_bot": true}), vec!["is_bot"]),
        (json!({"user_name": "bunny"}), vec!["user_name"]),
        (json!({"password": "nothing much, you?"}), vec!["password"]),
        (json!({"created_at": null}), vec!["created_at"]),
        (json!({"first_name": 1}), vec!["first_name"]),
        (
            json!({"first_name": "x".repeat(33), "last_name": "\0", "email": "x"}),
            vec!["first_name", "last_name", "email"],
        ),
        (json!({"email": ""}), vec!["email"]),
        (json!({"email": ["x@example.org"]}), vec!["email"]),
        (json!({"direct_messages_from": "nobody"}), vec!["direct_messages_from"]),
        (json!({"direct_messages_from": true}), vec!["direct_messages_from"]),
        (json!([]), vec!["body"]),
    ] {
        server.patch_as(&token, "/api/users/me", &body).await.invalid(&fields);
    }
    let twice = server.request_as(&token, Method::PATCH, "/api/users/me").header("content-type", "application/json");
    answer_of(twice.body(r#"{"first_name": "a", "first_name": "b"}"#)).await.invalid(&["first_name"]);
    server.patch_as(&token, "/api/users/me?x=1", &json!({})).await.invalid(&["x"]);
    assert_eq!(server.get_as(&token, "/api/users/me").await.bytes, before);
});

both!(users_change_themselves_and_administrators_change_everyone, async |place| {
    let server = Server::secured(place, &["bugs", "duck"]).await;
    server.add_person("admin", Some(PASSWORD), true).await;
    let (bugs, admin) = (server.token_of("bugs").await, server.token_of("admin").await);
    let body = json!({"first_name": "Daffy"});
    server.patch_as(&bugs, "/api/users/duck", &body).await.problem(403, "not_your_account");
    server.patch_as(&bugs, "/api/users/nobody", &body).await.problem(404, "user_not_found");
    let key = server.api_key(&["read", "write"]).await;
    server.patch_as(&key, "/api/users/duck", &body).await.problem(403, "not_your_account");
    server.patch_as(&key, "/api/users/me", &body).await.problem(403, "act_as_required");
    let acting = server.request_as(&key, Method::PATCH, "/api/users/me").header("x-act-as", "duck");
    assert_eq!(answer_of(acting.json(&body)).await.json()["user_name"], "duck");
    let changed = server.patch_as(&admin, "/api/users/DUCK", &json!({"email": "daffy@example.org"})).await.json();
    assert_eq!((&changed["user_name"], &changed["email"]), (&json!("duck"), &json!("daffy@example.org")));
    // Private fields stay private.
    let seen = server.get_as(&bugs, "/api/users/duck").await.json();
    assert_eq!((&seen["email"], &seen["direct_messages_from"]), (&Value::Null, &Value::Null));
    let listed = server.get_as(&bugs, "/api/users").await;
    assert!(!String::from_utf8_lossy(&listed.bytes).contains("daffy@example.org"));
});

both!(changes_together_do_not_undo_each_other, async |place| {
    let server = Arc::new(Server::secured(place, &["bugs"]).await);
    let token = server.token_of("bugs").await;
    for round in 0..10 {
        let fields = ["first_name", "last_name", "email"];
        let changes: Vec<_> = fields
            .map(|field| {
                let (server, token) = (Arc::clone(&server), token.clone());
                let value =
                    if field == "email" { format!("bugs{round}@example.org") } else { format!("{field} {round}") };
                tokio::spawn(async move { server.patch_as(&token, "/api/users/me", &json!({field: value})).await })
            })
            .into();
        for change in changes {
            assert_eq!(change.await.unwrap().status, 200);
        }
        let user = server.get_as(&token, "/api/users/me").await.json();
        let expected =
            [format!("first_name {round}"), format!("last_name {round}"), format!("bugs{round}@example.org")];
        assert_eq!(fields.map(|field| user[field].as_str().unwrap().to_owned()), expected);
    }
});

both!(the_server_sets_the_default_of_direct_messages_from, async |place| {
    for (default, said) in [(DirectMessagesFrom::Everyone, "everyone"), (DirectMessagesFrom::Friends, "friends")] {
        let options = Options { direct_messages_from: default, ..open_registration() };
        let server = Server::start_with(place, options).await;
        let made = register(&server, json!({"user_name": said, "password": PASSWORD})).await;
        assert_eq!(made.json()["direct_messages_from"], said);
        let token = server.token_of(said).await;
        for (chosen, shown) in [(json!("friends"), "friends"), (json!("everyone"), "everyone"), (Value::Null, said)] {
            let body = json!({"direct_messages_from": chosen});
            let changed = server.patch_as(&token, "/api/users/me", &body).await.json();
            assert_eq!(changed["direct_messages_from"], shown);
            let log_in = server.log_in(json!({"user_name": said, "password": PASSWORD})).await.json();
            assert_eq!(log_in["user"]["direct_messages_from"], shown);
        }
    }
});
