//! The export of everything that is stored about a user, as one stream.

use reqwest::Method;
use serde_json::{Value, json};

use super::erasure::put_messages;
use crate::both;
use crate::operations::operations::posthaste;
use crate::support::callers::{Caller, secured, session};
use crate::support::process::Process;
use crate::support::{Server, answer_of};

/// The lines of a complete export.
fn lines(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.ends_with('\n'));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.last().unwrap(), &json!({"type": "end"}));
    assert_eq!(lines.iter().filter(|line| line["type"] == "end").count(), 1);
    lines
}

/// The data of all lines of one type.
fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).map(|line| &line["data"]).collect()
}

both!(an_export_has_everything_about_its_user_and_nothing_about_others, async |place| {
    let open = Server::start(place).await;
    let body = json!({
        "user_name": "elmer", "first_name": "Elmer", "last_name": "Fudd", "email": "elmer@example.org",
        "password": "wabbit season",
    });
    assert_eq!(open.post("/api/users", &body).await.status, 201);
    let mut tokens = Vec::new();
    for agent in ["phone/1", "tablet/2"] {
        let request = open.request(Method::POST, "/api/sessions").header("user-agent", agent);
        let login = answer_of(request.json(&json!({"user_name": "elmer", "password": "wabbit season"}))).await.json();
        tokens.push(login["token"].as_str().unwrap().to_owned());
    }
    let mfa = Caller::new(&open, &tokens[0]).post("/api/users/me/mfa", &json!({})).await.json();
    let reset = open.post("/api/admin/users/elmer/password-resets", &json!({})).await.json();
    open.send("elmer", "bugs", "be vewy quiet").await;
    open.send("bugs", "elmer", "what's up, doc?").await;
    open.send("elmer", "elmer", "a note").await;
    open.send("bugs", "duck", "not for elmer").await;
    open.request(Method::PUT, "/api/admin/users/duck/role").json(&json!({"role": "admin"})).send().await.unwrap();
    let duck = session(&open, "duck").await;
    let server = Server::start_with(place, secured()).await;
    let key = server.api_key(&["read", "write", "admin"]).await;
    // An administrator changes Elmer's account from another address than Elmer's.
    assert_eq!(
        Caller::new(&server, &duck).put("/api/admin/users/elmer/role", &json!({"role": "user"})).await.status,
        204
    );

    let own = Caller::new(&server, &tokens[0]).get("/api/users/me/export").await;
    assert_eq!(own.status, 200);
    assert_eq!(own.header("content-type"), Some("application/jsonl"));
    assert_eq!(own.header("cache-control"), Some("no-store"));
    let exported = lines(&own.bytes);
    assert_eq!(exported[0]["type"], "user");
    let user = of_type(&exported, "user")[0];
    for (field, value) in [
        ("user_name", json!("elmer")),
        ("first_name", json!("Elmer")),
        ("last_name", json!("Fudd")),
        ("email", json!("elmer@example.org")),
        ("direct_messages_from", json!("everyone")),
    ] {
        assert_eq!(user[field], value);
    }
    assert_eq!(
        of_type(&exported, "account"),
        [&json!({"has_password": true, "email_confirmed_at": null, "last_seen_at": null})]
    );
    let agents: Vec<_> = of_type(&exported, "session").iter().map(|session| session["agent"].clone()).collect();
    assert_eq!(agents, ["phone/1", "tablet/2"]);
    let conversations = of_type(&exported, "conversation");
    assert_eq!(conversations.len(), 2);
    assert!(conversations.iter().all(|one| one["id"].is_i64() && one["joined_at"].is_string()));
    let bodies: Vec<_> = of_type(&exported, "message").iter().map(|message| message["body"].clone()).collect();
    assert_eq!(bodies, ["be vewy quiet", "what's up, doc?", "a note"]);
    let first = of_type(&exported, "message")[0];
    assert_eq!((&first["sender_user_name"], &first["recipient_user_name"]), (&json!("elmer"), &json!("bugs")));
    let log = of_type(&exported, "audit_entry");
    let actions: Vec<_> = log.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(
        actions,
        ["user.exported", "role.changed", "password.reset_asked", "session.created", "session.created", "user.created"]
    );
    assert_eq!(log[0]["address"], "127.0.0.1");
    // The administrator's address belongs to the administrator and is not in Elmer's export.
    assert_eq!((&log[1]["actor_id"], &log[1]["address"]), (&json!(3), &Value::Null));

    let by_key = Caller::new(&server, &key).get("/api/users/ELMER/export").await;
    let by_admin = Caller::new(&server, &duck).get("/api/users/elmer/export").await;
    for answer in [&own, &by_key, &by_admin] {
        let export = String::from_utf8(answer.bytes.clone()).unwrap();
        assert_eq!(of_type(&lines(&answer.bytes), "message").len(), 3);
        let secrets = [
            "wabbit season",
            "$argon2",
            "phs_",
            "phk_",
            "phr_",
            &tokens[1],
            &key,
            mfa["secret"].as_str().unwrap(),
            reset["code"].as_str().unwrap(),
            "hash",
            "not for elmer",
            "bugs@example.org",
            "duck@example.org",
        ];
        for secret in secrets {
            assert!(!export.contains(secret), "{secret}: {export}");
        }
    }
});

both!(an_export_is_for_its_user_and_administrators, async |place| {
    let open = Server::start(place).await;
    let bugs = session(&open, "bugs").await;
    let server = Server::start_with(place, secured()).await;
    let (reads, admin, only_admin) = (
        server.api_key(&["read", "write"]).await,
        server.api_key(&["read", "admin"]).await,
        server.api_key(&["admin"]).await,
    );
    Caller::new(&server, &bugs).get("/api/users/duck/export").await.problem(403, "not_your_account");
    Caller::new(&server, &reads).get("/api/users/duck/export").await.problem(403, "not_your_account");
    Caller::new(&server, &reads).get("/api/users/me/export").await.problem(403, "act_as_required");
    Caller::new(&server, &admin).acting_as("bugs").get("/api/users/duck/export").await.problem(403, "not_your_account");
    Caller::new(&server, &only_admin).get("/api/users/duck/export").await.problem(403, "insufficient_scope");
    Caller::new(&server, &bugs).get("/api/users/nobody/export").await.problem(404, "user_not_found");
    Caller::new(&server, &admin).get("/api/users/nobody/export").await.problem(404, "user_not_found");
    Caller::new(&server, &bugs).get("/api/users/me/export?x=1").await.invalid(&["x"]);
    server.get("/api/users/bugs/export").await.problem(401, "unauthenticated");
    for caller in [Caller::new(&server, &reads).acting_as("BUGS"), Caller::new(&server, &bugs)] {
        lines(&caller.get("/api/users/BUGS/export").await.bytes);
    }
    let exports = "SELECT count(*) FROM messaging.audit_log WHERE action = 'user.exported' AND subject_id = 2";
    assert_eq!(place.numbers(exports).await, [[2]]);
});

/// The private memory of the process in KiB. Mapped pages of files are not counted, because the kernel can take them back.
fn held_kib(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

both!(an_export_of_ten_thousand_long_messages_streams, async |place| {
    let process = Process::start(place).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/api/users/bugs/export", process.address);
    let small = client.get(&url).send().await.unwrap().bytes().await.unwrap();
    let few = lines(&small).len();
    // Ten thousand messages of eight thousand bytes: eighty megabytes in all.
    let body = match place.kind {
        crate::support::place::Kind::Sqlite => "replace(hex(zeroblob(4000)), '0', 'm')",
        crate::support::place::Kind::Postgres => "repeat('m', 8000)",
    };
    put_messages(place, 1, 10_000, body).await;
    let before = held_kib(&process);
    let mut peak = before;
    let mut export = client.get(&url).send().await.unwrap();
    let (mut total, mut paused, mut ends, mut last) = (0, 0, 0, Vec::<u8>::new());
    while let Some(part) = export.chunk().await.unwrap() {
        total += part.len();
        ends += part.iter().filter(|byte| **byte == b'\n').count();
        last = if part.len() < 100 { [last, part.to_vec()].concat() } else { part.to_vec() };
        last.drain(..last.len().saturating_sub(100));
        // Pauses once in a megabyte. The server must not keep the unread rest of the export in memory.
        if total / 1_000_000 > paused {
            paused = total / 1_000_000;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            peak = peak.max(held_kib(&process));
        }
    }
    assert!(last.ends_with(b"{\"type\":\"end\"}\n"));
    // There is one line more, because the audit log now has an entry about the first export.
    assert_eq!(ends, few + 10_000 + 1);
    assert!(total > 80_000_000, "{total}");
    let grown = peak - before;
    assert!(grown < 40_000, "{grown} KiB more for {total} bytes");
    process.terminate().await;
});

both!(an_export_during_an_erasure_is_cut_off_and_not_wrong, async |place| {
    let server = Server::start(place).await;
    put_messages(place, 1, 3_000, "'word'").await;
    let (export, gone) = tokio::join!(
        server.request(Method::GET, "/api/users/bugs/export").send(),
        server.request(Method::DELETE, "/api/users/bugs?messages=delete").send(),
    );
    assert_eq!(gone.unwrap().status(), 204);
    let export = export.unwrap();
    let status = export.status().as_u16();
    // The export is either complete or recognizably incomplete.
    match export.text().await {
        Ok(text) if status == 200 => assert!(text.ends_with("{\"type\":\"end\"}\n")),
        Ok(_) => assert_eq!(status, 404),
        Err(_) => assert_eq!(status, 200),
    }
    assert!(!posthaste(place, &["admin", "unban", "--user-name", "bugs"]).status.success());
});

both!(an_export_has_friends_groups_and_scheduled_messages, async |place| {
    let server = Server::start(place).await;
    let call = async |person: &str, method: Method, target: &str, body: Value| {
        let request = server.request(method, target).header("x-act-as", person);
        let answer = answer_of(request.json(&body)).await;
        assert!(answer.status.is_success(), "{target}: {}", String::from_utf8_lossy(&answer.bytes));
        if answer.bytes.is_empty() { Value::Null } else { answer.json() }
    };
    let put = |person: &'static str, target: &'static str| call(person, Method::PUT, target, json!({}));
    put("bugs", "/api/friends/duck").await;
    put("duck", "/api/friends/bugs").await;
    put("bugs", "/api/friends/porky").await;
    put("rdibari", "/api/friends/bugs").await;
    server.add_user("gus", "Gus", "Grudge").await;
    put("bugs", "/api/blocks/gus").await;
    let group = json!({"kind": "group", "title": "ours", "member_user_names": ["duck"]});
    let ours = call("bugs", Method::POST, "/api/conversations", group).await["id"].clone();
    let invite = call("bugs", Method::POST, &format!("/api/conversations/{ours}/invites"), json!({})).await;
    call("bugs", Method::PATCH, &format!("/api/conversations/{ours}"), json!({"me": {"draft": "to be"}})).await;
    let group = json!({"kind": "group", "title": "left", "member_user_names": ["bugs"]});
    let left = call("duck", Method::POST, "/api/conversations", group).await["id"].clone();
    call("bugs", Method::POST, "/api/messages", json!({"conversation_id": left, "body": "farewell"})).await;
    call("bugs", Method::DELETE, &format!("/api/conversations/{left}/members/me"), json!({})).await;
    let later = json!({"recipient_user_name": "duck", "body": "later", "send_at": "2027-06-01T00:00:00Z"});
    call("bugs", Method::POST, "/api/messages", later).await;

    let lines = lines(&answer_of(server.request(Method::GET, "/api/users/bugs/export")).await.bytes);
    let mut people: Vec<(&str, &str)> = of_type(&lines, "person")
        .iter()
        .map(|person| (person["relation"].as_str().unwrap(), person["user_name"].as_str().unwrap()))
        .collect();
    people.sort_unstable();
    assert_eq!(people, [("asked", "porky"), ("asked_by", "rdibari"), ("blocked", "gus"), ("friend", "duck")]);
    let conversations = of_type(&lines, "conversation");
    let of = |id: &Value| conversations.iter().find(|conversation| conversation["id"] == *id).unwrap();
    assert_eq!((&of(&ours)["role"], &of(&ours)["draft"]), (&json!("owner"), &json!("to be")));
    assert_eq!(of(&left)["role"], Value::Null);
    assert!(of(&left)["left_at"].is_string());
    let said: Vec<&Value> = of_type(&lines, "message").iter().map(|message| &message["body"]).collect();
    assert!(said.contains(&&json!("farewell")), "{said:?}");
    assert_eq!(of_type(&lines, "scheduled")[0]["body"], "later");
    assert_eq!(of_type(&lines, "invite")[0]["id"], invite["id"]);
    let text = lines.iter().map(Value::to_string).collect::<String>();
    assert!(!text.contains(invite["code"].as_str().unwrap()));
});
