//! Administration: bans, roles, counts, and the commands that do the same in the database while a server runs.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use super::operations::{posthaste, text};
use crate::both;
use crate::support::callers::{Caller, secured, session, within_a_second};
use crate::support::{Options, Place, Server, answer_of};

async fn set_role(server: &Server, name: &str, role: &str) {
    let request = server.request(Method::PUT, &format!("/api/admin/users/{name}/role"));
    assert_eq!(answer_of(request.json(&json!({"role": role}))).await.status, 204);
}

/// Runs a command with `input` on its standard input.
fn posthaste_with_input(place: &Place, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args(arguments)
        .env("POSTHASTE_DATABASE_URL", place.url())
        .env("POSTHASTE_DATA_DIR", place.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The command may end before it has read everything.
    drop(child.stdin.take().unwrap().write_all(input));
    child.wait_with_output().unwrap()
}

both!(a_ban_ends_all_access_within_a_second_and_can_be_lifted, async |place| {
    let open = Server::start(place).await;
    let bugs = session(&open, "bugs").await;
    let server = Server::start_with(place, secured()).await;
    let other = Server::start_with(place, secured()).await;
    let key = server.api_key(&["read", "write", "admin"]).await;
    let admin = Caller::new(&server, &key);
    for server in [&server, &other] {
        assert_eq!(Caller::new(server, &bugs).get("/api/users/me").await.status, 200);
    }
    for _ in 0..2 {
        let answer = admin.put("/api/admin/users/BUGS/ban", &json!({})).await;
        assert_eq!((answer.status.as_u16(), answer.bytes.len()), (204, 0));
    }
    Caller::new(&server, &bugs).get("/api/users").await.problem(401, "unauthenticated");
    within_a_second(Caller::new(&other, &bugs), "/api/users", 401).await;
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.sessions").await, [[0]]);
    // The banned user cannot log in or act, not even under open access.
    open.post("/api/sessions", &json!({"user_name": "bugs"})).await.problem(403, "banned");
    let acting = open.request(Method::GET, "/api/users/me").header("x-act-as", "bugs");
    answer_of(acting).await.invalid(&["X-Act-As"]);
    // Others still see the banned user.
    assert_eq!(admin.get("/api/users/bugs").await.status, 200);
    assert_eq!(admin.get("/api/messages/bugs").await.json().as_array().unwrap().len(), 3);
    assert_eq!(admin.get("/api/admin/stats").await.json()["banned_users"], 1);

    for _ in 0..2 {
        assert_eq!(admin.delete("/api/admin/users/bugs/ban").await.status, 204);
    }
    Caller::new(&server, &bugs).get("/api/users").await.problem(401, "unauthenticated");
    let anew = session(&open, "bugs").await;
    assert_eq!(Caller::new(&server, &anew).get("/api/users/me").await.status, 200);
    assert!(posthaste(place, &["admin", "ban", "--user-name", "Bugs"]).status.success());
    tokio::join!(
        within_a_second(Caller::new(&server, &anew), "/api/users", 401),
        within_a_second(Caller::new(&other, &anew), "/api/users", 401),
    );
    assert!(posthaste(place, &["admin", "unban", "--user-name", "bugs"]).status.success());
    assert_eq!(session(&open, "bugs").await.len(), 47);
    // The audit log has one entry for each command that changed something.
    let entries = "SELECT count(*) FROM messaging.audit_log WHERE action IN ('user.banned', 'user.unbanned')";
    assert_eq!(place.numbers(entries).await, [[4]]);
    for action in ["ban", "unban"] {
        let unknown = posthaste(place, &["admin", action, "--user-name", "nobody"]);
        assert_eq!(unknown.status.code(), Some(1));
        assert!(text(&unknown).ends_with("\nposthaste: No user has this name\n"), "{}", text(&unknown));
    }
    admin.put("/api/admin/users/nobody/ban", &json!({})).await.problem(404, "user_not_found");
    admin.put("/api/admin/users/me/ban", &json!({})).await.problem(403, "act_as_required");
});

both!(roles_are_given_and_taken_within_a_second, async |place| {
    let open = Server::start(place).await;
    let (bugs, duck) = (session(&open, "bugs").await, session(&open, "duck").await);
    let server = Server::start_with(place, secured()).await;
    let other = Server::start_with(place, secured()).await;
    let (bugs, duck) = (Caller::new(&server, &bugs), Caller::new(&server, &duck));
    for target in ["/api/admin/stats", "/api/admin/audit", "/api/api-keys"] {
        bugs.get(target).await.problem(403, "admin_required");
    }
    bugs.put("/api/admin/users/me/role", &json!({"role": "admin"})).await.problem(403, "admin_required");
    bugs.put("/api/admin/users/duck/ban", &json!({})).await.problem(403, "admin_required");
    set_role(&open, "bugs", "admin").await;
    within_a_second(bugs, "/api/admin/stats", 200).await;
    assert_eq!(bugs.get("/api/users/me").await.json()["role"], "admin");
    bugs.put("/api/admin/users/me/ban", &json!({})).await.problem(409, "not_yourself");
    bugs.put("/api/admin/users/BUGS/ban", &json!({})).await.problem(409, "not_yourself");
    for body in [json!({}), json!({"role": "owner"}), json!({"role": null}), json!({"role": 1})] {
        bugs.put("/api/admin/users/duck/role", &body).await.invalid(&["role"]);
    }
    bugs.put("/api/admin/users/nobody/role", &json!({"role": "admin"})).await.problem(404, "user_not_found");
    // Administrators see email addresses.
    assert_eq!(bugs.get("/api/users/duck").await.json()["email"], "duck@example.org");
    assert_eq!(duck.get("/api/users/bugs").await.json()["email"], Value::Null);

    assert_eq!(bugs.put("/api/admin/users/duck/role", &json!({"role": "admin"})).await.status, 204);
    assert_eq!(duck.get("/api/admin/stats").await.status, 200);
    let elsewhere = Caller::new(&other, bugs.token);
    within_a_second(elsewhere, "/api/admin/stats", 200).await;
    assert_eq!(duck.put("/api/admin/users/bugs/role", &json!({"role": "user"})).await.status, 204);
    bugs.get("/api/admin/stats").await.problem(403, "admin_required");
    within_a_second(elsewhere, "/api/admin/stats", 403).await;
    let demoted = posthaste(place, &["admin", "set-role", "--user-name", "DUCK", "--role", "user"]);
    assert!(demoted.status.success(), "{}", text(&demoted));
    within_a_second(duck, "/api/admin/stats", 403).await.problem(403, "admin_required");
    assert!(!posthaste(place, &["admin", "set-role", "--user-name", "duck", "--role", "owner"]).status.success());
    // The session stays valid with the new role.
    assert_eq!(duck.get("/api/users/me").await.json()["role"], "user");
});

both!(the_counts_are_right, async |place| {
    let server = Server::start(place).await;
    let stats = async || server.get("/api/admin/stats").await.json();
    let first = stats().await;
    assert!(first["database_bytes"].as_i64().unwrap() > 4_096);
    let counts = |of: &Value| {
        ["users", "banned_users", "sessions", "api_keys", "conversations", "messages_sent", "events"]
            .map(|field| of[field].as_i64().unwrap())
    };
    // The first message of a conversation also creates an event about the conversation.
    assert_eq!(counts(&first), [4, 0, 0, 0, 2, 4, 6]);
    session(&server, "bugs").await;
    session(&server, "duck").await;
    server.api_key(&["read"]).await;
    server.add_user("fifth", "", "").await;
    server.send("fifth", "bugs", "hey").await;
    // Refused sends are not counted, no matter which part of the server refuses them.
    let refused = json!({"sender_user_name": "bugs", "recipient_user_name": "rdibari", "body": "x", "reply_to": 99});
    for _ in 0..3 {
        server.post("/api/messages", &refused).await.invalid(&["reply_to"]);
    }
    server.send("bugs", "rdibari", "hey").await;
    server.request(Method::PUT, "/api/admin/users/duck/ban").send().await.unwrap();
    assert_eq!(counts(&stats().await), [5, 1, 1, 1, 3, 6, 9]);
    server.request(Method::DELETE, "/api/users/bugs?messages=delete").send().await.unwrap();
    // Deleted messages still count as sent. Each tombstone is an event.
    assert_eq!(counts(&stats().await), [4, 1, 0, 1, 3, 6, 11]);
    let empty = Place::new(place.kind).await;
    let server = Server::start_with(&empty, Options { demo: false, ..Options::default() }).await;
    assert_eq!(counts(&server.get("/api/admin/stats").await.json()), [0; 7]);
    server.get("/api/admin/stats?x=1").await.invalid(&["x"]);
    empty.remove().await;
});

both!(accounts_are_created_on_the_command_line, async |place| {
    let server = Server::start_with(place, secured()).await;
    let words = ["admin", "create-user", "--user-name", "root", "--email", "root@example.org", "--first-name", "Ada"];
    let mut with_password = words.to_vec();
    with_password.extend(["--admin", "--password-stdin"]);
    for (input, name) in [
        (&b"correct horse battery\n"[..], "root"),
        (b"correct horse battery\r\n", "root2"),
        (b"correct horse battery", "root3"),
    ] {
        let mut words = with_password.clone();
        words[3] = name;
        let email = format!("{name}@example.org");
        words[5] = &email;
        let made = posthaste_with_input(place, &words, input);
        assert!(made.status.success(), "{}", text(&made));
        assert!(made.stdout.is_empty());
        let login = json!({"user_name": name, "password": "correct horse battery"});
        let login = answer_of(server.request(Method::POST, "/api/sessions").json(&login)).await;
        assert_eq!(login.status, 201, "{}", String::from_utf8_lossy(&login.bytes));
        let token = login.json()["token"].as_str().unwrap().to_owned();
        assert_eq!(Caller::new(&server, &token).get("/api/admin/stats").await.status, 200);
        assert_eq!(login.json()["user"]["first_name"], "Ada");
    }
    let plain = posthaste(place, &["admin", "create-user", "--user-name", "plain"]);
    assert!(plain.status.success(), "{}", text(&plain));
    let login = json!({"user_name": "plain", "password": ""});
    answer_of(server.request(Method::POST, "/api/sessions").json(&login)).await.problem(401, "invalid_credentials");
    let roles = "SELECT count(*) FROM messaging.users WHERE role = 'admin'";
    assert_eq!(place.numbers(roles).await, [[3]]);
    // The audit log shows that these users were created as administrators.
    let entries = "SELECT count(*) FROM messaging.audit_log
                 WHERE action = 'user.created' AND actor_id IS NULL AND address IS NULL AND detail = 'admin'";
    assert_eq!(place.numbers(entries).await, [[3]]);
});

both!(invalid_accounts_are_refused_with_a_reason, async |place| {
    let server = Server::start(place).await;
    let users = server.all("/api/users").await;
    let long = "x".repeat(300);
    let huge = vec![b'x'; 100_000];
    let cases: [(&[&str], &[u8], &str); 14] = [
        (&["--user-name", "bugs"], b"", "This user name is in use"),
        (&["--user-name", "BUGS"], b"", "This user name is in use"),
        (&["--user-name", "me"], b"", "user_name: this name is reserved"),
        (&["--user-name", ""], b"", "user_name: must have 1 to 32 characters"),
        (&["--user-name", "a b"], b"", "user_name: must contain only"),
        (&["--user-name", "x", "--email", "nonsense"], b"", "email: must have the form"),
        (&["--user-name", "x", "--email", "Bugs@EXAMPLE.org"], b"", "Another account has this email address"),
        (&["--user-name", "x", "--first-name", &long], b"", "first_name: must have at most 32 characters"),
        (&["--user-name", "x", "--password-stdin"], b"", "standard input contains no password"),
        (&["--user-name", "x", "--password-stdin"], b"\n", "standard input contains no password"),
        (&["--user-name", "x", "--password-stdin"], b"short\n", "password"),
        (&["--user-name", "x", "--password-stdin"], b"password123\n", "password"),
        (&["--user-name", "x", "--password-stdin"], b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\n", "UTF-8"),
        (&["--user-name", "x", "--password-stdin"], &huge, "password"),
    ];
    for (arguments, input, sentence) in cases {
        let mut words = vec!["admin", "create-user"];
        words.extend(arguments);
        let refused = posthaste_with_input(place, &words, input);
        let output = text(&refused);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}: {output}");
        let refusal = output.lines().last().unwrap_or_default();
        assert!(
            refused.stdout.is_empty() && refusal.starts_with("posthaste: ") && refusal.contains(sentence),
            "{output}"
        );
        // The only other line says which database was used.
        assert!(output.lines().rev().skip(1).all(|line| line.starts_with("Database: ")), "{output}");
        assert!(!output.contains("short") && !output.contains("password123"), "{output}");
    }
    assert_eq!(server.all("/api/users").await, users);
});
