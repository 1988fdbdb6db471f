//! What a member made with the rights of an admin ends with these rights, and no group is left without somebody who can manage it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::people::{call, delete, get, group, post};
use crate::support::{Server, answer_of};

async fn set_role(server: &Server, by: &str, group: i64, user: &str, role: &str) {
    let target = format!("/api/conversations/{group}/members/{user}");
    let set = call(server, by, Method::PUT, &target, Some(json!({"role": role}))).await;
    assert!(set.status.is_success(), "{}", String::from_utf8_lossy(&set.bytes));
}

async fn ban(server: &Server, user: &str, method: Method) {
    let answer = answer_of(server.request(method, &format!("/api/admin/users/{user}/ban"))).await;
    assert_eq!(answer.status, 204, "{}", String::from_utf8_lossy(&answer.bytes));
}

/// Creates an invite and returns the path at which it is used.
async fn invite(server: &Server, by: &str, group: i64) -> String {
    let made = post(server, by, &format!("/api/conversations/{group}/invites"), json!({})).await;
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.bytes));
    format!("/api/invites/{}", made.json()["code"].as_str().unwrap())
}

/// Creates an incoming webhook and returns the path at which it accepts messages.
async fn hook(server: &Server, by: &str, group: i64) -> String {
    let made = post(server, by, &format!("/api/conversations/{group}/incoming-webhooks"), json!({"name": "CI"})).await;
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.bytes));
    let url = made.json()["url"].as_str().unwrap().to_owned();
    url[url.find("/api/").unwrap()..].to_owned()
}

async fn assert_ended(server: &Server, invite: &str) {
    server.get(invite).await.problem(404, "invite_not_found");
    post(server, "porky", invite, json!({})).await.problem(404, "invite_not_found");
}

async fn post_to(server: &Server, hook: &str) -> u16 {
    server.post(hook, &json!({"text": "built"})).await.status.as_u16()
}

async fn role_of(server: &Server, reader: &str, group: i64, user: &str) -> Value {
    let members = get(server, reader, &format!("/api/conversations/{group}/members")).await.json();
    let found = members.as_array().unwrap().iter().find(|member| member["user"]["user_name"] == user).cloned();
    found.map_or(Value::Null, |member| member["role"].clone())
}

both!(an_invite_ends_with_the_right_to_make_it, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck", "rdibari"], "all").await;
    let members = format!("/api/conversations/{group}/members");
    let (own, listed) = (invite(&server, "bugs", group).await, format!("/api/conversations/{group}/invites"));
    let admin = async || {
        set_role(&server, "bugs", group, "duck", "member").await;
        set_role(&server, "bugs", group, "duck", "admin").await;
        invite(&server, "duck", group).await
    };
    // A demotion, by an owner or by the admin.
    let code = admin().await;
    assert_eq!(server.get(&code).await.status, 200);
    set_role(&server, "bugs", group, "duck", "member").await;
    assert_ended(&server, &code).await;
    let code = admin().await;
    set_role(&server, "duck", group, "duck", "member").await;
    assert_ended(&server, &code).await;
    // The right does not come back to an old invite.
    set_role(&server, "bugs", group, "duck", "admin").await;
    assert_ended(&server, &code).await;
    // A removal. The former admin cannot come back with the invite.
    let code = admin().await;
    assert_eq!(delete(&server, "bugs", &format!("{members}/duck")).await.status, 204);
    post(&server, "duck", &code, json!({})).await.problem(404, "invite_not_found");
    assert_ended(&server, &code).await;
    // Leaving.
    let code = admin().await;
    assert_eq!(delete(&server, "duck", &format!("{members}/me")).await.status, 204);
    post(&server, "duck", &code, json!({})).await.problem(404, "invite_not_found");
    // A ban, also after it is lifted.
    let code = admin().await;
    ban(&server, "duck", Method::PUT).await;
    assert_ended(&server, &code).await;
    ban(&server, "duck", Method::DELETE).await;
    assert_ended(&server, &code).await;
    // An erasure.
    let code = admin().await;
    assert_eq!(answer_of(server.request(Method::DELETE, "/api/users/duck")).await.status, 204);
    assert_ended(&server, &code).await;
    // Invites of others stay, also when their creator becomes an admin.
    assert_eq!(get(&server, "bugs", &listed).await.json().as_array().unwrap().len(), 1);
    set_role(&server, "bugs", group, "rdibari", "owner").await;
    set_role(&server, "rdibari", group, "bugs", "admin").await;
    assert_eq!(post(&server, "porky", &own, json!({})).await.status, 201);
});

both!(a_right_that_is_lost_behind_an_invite_is_checked_at_its_use, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], "all").await;
    for change in [
        "UPDATE messaging.members SET role = 'member' WHERE user_id = DUCK",
        "DELETE FROM messaging.members WHERE user_id = DUCK",
        "UPDATE messaging.invites SET created_by = NULL",
    ] {
        set_role(&server, "bugs", group, "duck", "admin").await;
        let duck = get(&server, "bugs", "/api/users/duck").await.json()["id"].to_string();
        let code = invite(&server, "duck", group).await;
        place.sql(&change.replace("DUCK", &duck)).await;
        assert_ended(&server, &code).await;
    }
});

both!(an_upgrade_ends_invites_without_a_right_and_finds_owners, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["rdibari", "duck"], "all").await;
    set_role(&server, "bugs", group, "duck", "admin").await;
    let (kept, stale) = (invite(&server, "duck", group).await, invite(&server, "bugs", group).await);
    server.stop().await;
    // An older version left a banned owner alone with the group.
    place.sql("UPDATE messaging.users SET banned_at = created_at WHERE user_name = 'bugs'").await;
    place.back_to(25).await;
    let server = Server::start(place).await;
    assert_ended(&server, &stale).await;
    assert_eq!(role_of(&server, "rdibari", group, "duck").await, "owner");
    assert_eq!(role_of(&server, "rdibari", group, "rdibari").await, "member");
    assert_eq!(post(&server, "porky", &kept, json!({})).await.status, 201);
});

both!(an_incoming_webhook_ends_when_somebody_else_takes_the_right_away, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], "all").await;
    let member = format!("/api/conversations/{group}/members/duck");
    let own = hook(&server, "bugs", group).await;
    set_role(&server, "bugs", group, "duck", "admin").await;
    let made = hook(&server, "duck", group).await;
    assert_eq!(post_to(&server, &made).await, 200);
    set_role(&server, "bugs", group, "duck", "member").await;
    assert_eq!(post_to(&server, &made).await, 404);
    set_role(&server, "bugs", group, "duck", "admin").await;
    let made = hook(&server, "duck", group).await;
    assert_eq!(delete(&server, "bugs", &member).await.status, 204);
    assert_eq!(post_to(&server, &made).await, 404);
    set_role(&server, "bugs", group, "duck", "admin").await;
    let made = hook(&server, "duck", group).await;
    ban(&server, "duck", Method::PUT).await;
    assert_eq!(post_to(&server, &made).await, 404);
    let ended = "SELECT count(*) FROM messaging.audit_log WHERE action = 'incoming_webhook.removed'";
    assert_eq!(place.numbers(ended).await, [[3]]);
    // It belongs to the group, so it stays when its creator steps down or leaves.
    ban(&server, "duck", Method::DELETE).await;
    let made = hook(&server, "duck", group).await;
    set_role(&server, "duck", group, "duck", "member").await;
    assert_eq!(delete(&server, "duck", &member).await.status, 204);
    assert_eq!((post_to(&server, &made).await, post_to(&server, &own).await), (200, 200));
});

both!(the_group_of_a_banned_owner_gets_another_one, async |place| {
    let server = Server::start(place).await;
    let first = group(&server, "bugs", &["duck", "porky", "rdibari"], "all").await;
    set_role(&server, "bugs", first, "rdibari", "admin").await;
    let second = group(&server, "bugs", &["porky", "duck"], "all").await;
    let shared = group(&server, "bugs", &["duck", "porky"], "all").await;
    set_role(&server, "bugs", shared, "porky", "owner").await;
    let alone = group(&server, "bugs", &[], "all").await;
    ban(&server, "bugs", Method::PUT).await;
    // The admin, or else the member who joined first, becomes owner. Nothing changes where another owner remains.
    assert_eq!(role_of(&server, "duck", first, "rdibari").await, "owner");
    assert_eq!(role_of(&server, "duck", second, "duck").await, "owner");
    assert_eq!(role_of(&server, "porky", second, "porky").await, "member");
    assert_eq!(role_of(&server, "duck", shared, "duck").await, "member");
    set_role(&server, "rdibari", first, "porky", "admin").await;
    // An owner who is banned does not count.
    delete(&server, "duck", &format!("/api/conversations/{second}/members/me")).await.problem(409, "last_owner");
    call(
        &server,
        "rdibari",
        Method::PUT,
        &format!("/api/conversations/{first}/members/rdibari"),
        Some(json!({"role": "admin"})),
    )
    .await
    .problem(409, "last_owner");
    // When the next owner is banned too, the group gets the next one, until all are banned.
    ban(&server, "duck", Method::PUT).await;
    assert_eq!(role_of(&server, "porky", second, "porky").await, "owner");
    ban(&server, "porky", Method::PUT).await;
    ban(&server, "duck", Method::DELETE).await;
    assert_eq!(role_of(&server, "duck", second, "duck").await, "owner");
    // The role comes back with the end of the ban.
    ban(&server, "bugs", Method::DELETE).await;
    assert_eq!(role_of(&server, "bugs", first, "bugs").await, "owner");
    assert_eq!(role_of(&server, "bugs", alone, "bugs").await, "owner");
    // The command line does the same.
    let next = group(&server, "bugs", &["duck"], "all").await;
    assert!(crate::operations::operations::posthaste(place, &["admin", "ban", "--user-name", "bugs"]).status.success());
    assert_eq!(role_of(&server, "duck", next, "duck").await, "owner");
});

both!(the_successor_of_an_erased_owner_is_not_banned, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck", "porky"], "all").await;
    set_role(&server, "bugs", group, "duck", "admin").await;
    ban(&server, "duck", Method::PUT).await;
    assert_eq!(answer_of(server.request(Method::DELETE, "/api/users/bugs")).await.status, 204);
    assert_eq!(role_of(&server, "porky", group, "porky").await, "owner");
    assert_eq!(role_of(&server, "porky", group, "duck").await, "admin");
    // Without anybody who is not banned, the group keeps a banned owner, and is managed again when the ban ends.
    assert_eq!(answer_of(server.request(Method::DELETE, "/api/users/porky")).await.status, 204);
    ban(&server, "duck", Method::DELETE).await;
    assert_eq!(role_of(&server, "duck", group, "duck").await, "owner");
});
