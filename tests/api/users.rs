//! `/api/users`.

use reqwest::Method;
use serde_json::json;

use crate::both;
use crate::support::{Options, Server, answer_of};

both!(the_seed_lists_its_users, async |place| {
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

both!(users_come_in_pages, async |place| {
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

both!(a_prefix_finds_names_without_case_and_accents, async |place| {
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

both!(one_user_by_name, async |place| {
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

both!(who_acts_as_a_person_sees_the_address_of_that_person_alone, async |place| {
    let server = Server::start(place).await;
    let list = server.request(reqwest::Method::GET, "/api/users").header("x-act-as", "bugs");
    let users = crate::support::answer_of(list).await.json();
    let shown: Vec<_> = users.as_array().unwrap().iter().filter(|user| !user["email"].is_null()).collect();
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0]["user_name"], "bugs");
    assert_eq!(shown[0]["direct_messages_from"], "everyone");
});

both!(wrong_parameters_are_named, async |place| {
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

both!(who_was_erased_on_another_server_neither_sends_nor_is_sent_to, async |place| {
    let here = Server::start(place).await;
    let there = Server::start_with(place, Options { demo: false, ..Options::default() }).await;
    let hey = |sender: &str, recipient: &str| json!({"sender_user_name": sender, "recipient_user_name": recipient, "body": "hey"});
    // Both are known here, and so is their conversation.
    assert_eq!(here.post("/api/messages", &hey("bugs", "duck")).await.status, 201);
    let stored = place.numbers("SELECT count(*) FROM messaging.messages").await;
    let erased = answer_of(there.request(Method::DELETE, "/api/users/duck")).await;
    assert_eq!(erased.status, 204);
    // At once: this server has not looked at revocations since.
    here.post("/api/messages", &hey("bugs", "duck")).await.invalid(&["recipient_user_name"]);
    let from = here.post("/api/messages", &hey("duck", "bugs")).await;
    assert!([401, 422].contains(&from.status.as_u16()), "{}", from.status);
    assert_eq!(here.post("/api/messages", &hey("bugs", "porky")).await.status, 201);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.messages").await, [[stored[0][0] + 1]]);
});
