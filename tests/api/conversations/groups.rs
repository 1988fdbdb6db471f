//! `/api/conversations`: groups and direct conversations, members, invites.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::people::{call, delete, get, patch, post};
use crate::support::place::Kind;
use crate::support::server::Answer;
use crate::support::{Options, Server, answer_of, run};

async fn put(server: &Server, person: &str, target: &str, body: Value) -> Answer {
    call(server, person, Method::PUT, target, Some(body)).await
}

/// Creates a group of `owner` with other members; returns its path.
async fn group(server: &Server, owner: &str, members: &[&str], more: Value) -> String {
    let mut new = json!({"kind": "group", "title": "Looney Tunes", "member_user_names": members});
    new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = post(server, owner, "/api/conversations", new).await;
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.bytes));
    let place = made.header("location").unwrap().to_owned();
    assert_eq!(place, format!("/api/conversations/{}", made.json()["id"]));
    place
}

async fn say(server: &Server, person: &str, group: &str, body: &str) -> Answer {
    let id: i64 = group.rsplit('/').next().unwrap().parse().unwrap();
    post(server, person, "/api/messages", json!({"conversation_id": id, "body": body})).await
}

async fn bodies(server: &Server, person: &str, group: &str) -> Vec<String> {
    let answer = get(server, person, &format!("{group}/messages?limit=200")).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json().as_array().unwrap().iter().map(|message| message["body"].as_str().unwrap().to_owned()).collect()
}

async fn roles(server: &Server, person: &str, group: &str) -> Vec<(String, String)> {
    let answer = get(server, person, &format!("{group}/members")).await;
    assert_eq!(answer.status, 200);
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    answer
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|member| (word(&member["user"]["user_name"]), word(&member["role"])))
        .collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, role)| ((*name).to_owned(), (*role).to_owned())).collect()
}

both!(members_create_read_and_write_a_group, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck", "bugs", "DUCK"], json!({})).await;
    let seen = get(&server, "duck", &group).await.json();
    assert_eq!(
        (&seen["kind"], &seen["title"], &seen["member_count"], &seen["history"], &seen["peer"], &seen["created_by"]),
        (&json!("group"), &json!("Looney Tunes"), &json!(2), &json!("all"), &Value::Null, &json!(2))
    );
    assert_eq!(seen["me"]["role"], "member");
    assert_eq!(seen["me"]["unread_count"], 0, "the message about the creation does not count");
    assert_eq!(get(&server, "bugs", &group).await.json()["me"]["unread_count"], 0);
    assert_eq!(seen["last_message"]["body"], "bugs created the group");
    assert_eq!(seen["last_message"]["kind"], "system");
    assert_eq!(roles(&server, "duck", &group).await, pairs(&[("bugs", "owner"), ("duck", "member")]));
    let sent = say(&server, "duck", &group, "quack").await;
    assert_eq!(sent.status, 201);
    let sent = sent.json();
    assert_eq!(
        (&sent["seq"], &sent["recipient_id"], &sent["recipient_user_name"]),
        (&json!(2), &Value::Null, &Value::Null)
    );
    assert_eq!(bodies(&server, "bugs", &group).await, ["bugs created the group", "quack"]);
    // The message is in the timelines of both members, and in no other.
    assert!(server.all("/api/messages/bugs").await.iter().any(|message| message["body"] == "quack"));
    assert!(!server.all("/api/messages/porky").await.iter().any(|message| message["body"] == "quack"));
    // For a user who is not a member, reads and writes answer as if the group did not exist.
    for target in [group.clone(), format!("{group}/members"), format!("{group}/messages")] {
        get(&server, "porky", &target).await.problem(404, "conversation_not_found");
    }
    say(&server, "porky", &group, "omw").await.problem(404, "conversation_not_found");
    // A caller that acts as no user sees the group, without fields of their own.
    let bare = server.get(&group).await.json();
    assert_eq!((&bare["me"], &bare["title"]), (&Value::Null, &json!("Looney Tunes")));
});

both!(invalid_groups_are_refused_with_an_error_for_each_field, async |place| {
    let server = Server::start(place).await;
    let many: Vec<String> = (0..1_001).map(|number| format!("user{number}")).collect();
    for (body, fields) in [
        (json!({}), vec!["kind"]),
        (json!({"kind": "group"}), vec!["title"]),
        (json!({"kind": "group", "title": ""}), vec!["title"]),
        (json!({"kind": "group", "title": "t".repeat(101)}), vec!["title"]),
        (json!({"kind": "group", "title": "a\u{0}b"}), vec!["title"]),
        (json!({"kind": "group", "title": "t", "avatar_url": "javascript:alert(1)"}), vec!["avatar_url"]),
        (json!({"kind": "group", "title": "t", "user_name": "bugs"}), vec!["user_name"]),
        (json!({"kind": "group", "title": "t", "member_user_names": ["duck", "nobody"]}), vec!["member_user_names.1"]),
        (json!({"kind": "group", "title": "t", "member_user_names": ["a\u{0}"]}), vec!["member_user_names.0"]),
        (json!({"kind": "group", "title": "t", "member_user_names": many}), vec!["member_user_names"]),
        (json!({"kind": "direct"}), vec!["user_name"]),
        (json!({"kind": "direct", "user_name": "nobody"}), vec!["user_name"]),
        (json!({"kind": "direct", "user_name": "duck", "title": "t"}), vec!["title"]),
        (json!({"kind": "group", "title": "t", "id": 7}), vec!["id"]),
    ] {
        post(&server, "bugs", "/api/conversations", body).await.invalid(&fields);
    }
    assert_eq!(get(&server, "bugs", "/api/conversations").await.json().as_array().unwrap().len(), 1);
    // A group needs an owner, so the caller must act as a user.
    let nobody = server.post("/api/conversations", &json!({"kind": "group", "title": "t"})).await;
    nobody.problem(403, "act_as_required");
});

both!(a_repeated_creation_with_the_same_key_creates_one_group, async |place| {
    let server = Server::start(place).await;
    let new = json!({"kind": "group", "title": "once", "member_user_names": ["duck"]});
    let make = || async {
        let request = server.request(Method::POST, "/api/conversations").header("x-act-as", "bugs");
        answer_of(request.header("idempotency-key", "k1").json(&new)).await
    };
    let (first, again) = (make().await, make().await);
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 201));
    assert_eq!(first.bytes, again.bytes);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(get(&server, "duck", "/api/conversations").await.json().as_array().unwrap().len(), 2);
});

both!(a_pair_of_users_has_one_direct_conversation, async |place| {
    let server = Server::start(place).await;
    let open = |person: &'static str, other: &'static str| {
        post(&server, person, "/api/conversations", json!({"kind": "direct", "user_name": other}))
    };
    let known = open("bugs", "RDIBARI").await;
    assert_eq!((known.status.as_u16(), &known.json()["id"]), (200, &json!(1)));
    assert_eq!(known.json()["peer"]["user_name"], "rdibari");
    assert_eq!(known.json()["peer"]["email"], Value::Null, "the email address of another user is hidden");
    let made = open("bugs", "duck").await;
    assert_eq!(made.status, 201);
    assert_eq!((&made.json()["last_message"], &made.json()["last_seq"]), (&Value::Null, &json!(0)));
    assert_eq!(open("duck", "bugs").await.json()["id"], made.json()["id"]);
    let notes = open("bugs", "me").await;
    assert_eq!((notes.status.as_u16(), &notes.json()["peer"]["user_name"]), (201, &json!("bugs")));
    assert_eq!(notes.json()["member_count"], 1);
    // Two simultaneous requests open only one conversation.
    let (one, other) = tokio::join!(open("porky", "bugs"), open("bugs", "porky"));
    assert_eq!(one.json()["id"], other.json()["id"]);
    let pairs = place.numbers("SELECT count(*) FROM messaging.direct_conversations").await;
    let conversations = place.numbers("SELECT count(*) FROM messaging.conversations").await;
    assert_eq!((pairs[0][0], conversations[0][0]), (5, 5));
});

both!(the_list_of_conversations_starts_with_the_latest_activity, async |place| {
    let server = Server::start(place).await;
    let first = group(&server, "bugs", &["duck"], json!({})).await;
    for number in 0..5 {
        group(&server, "bugs", &[], json!({"title": format!("group {number}")})).await;
    }
    say(&server, "duck", &first, "what's up, doc?").await;
    let whole = get(&server, "bugs", "/api/conversations?limit=200").await.json();
    let whole = whole.as_array().unwrap();
    assert_eq!(whole.len(), 7);
    assert_eq!(whole[0]["last_message"]["body"], "what's up, doc?");
    assert_eq!((&whole[0]["me"]["unread_count"], &whole[1]["title"]), (&json!(1), &json!("group 4")));
    assert_eq!(whole[6]["peer"]["user_name"], "rdibari");
    let mut found = Vec::new();
    let mut target = Some("/api/conversations?limit=2".to_owned());
    while let Some(next) = target {
        let answer = get(&server, "bugs", &next).await;
        found.extend(answer.json().as_array().unwrap().clone());
        target = answer.next();
    }
    assert_eq!(&found, whole);
    get(&server, "bugs", "/api/conversations?cursor=x").await.invalid(&["cursor"]);
});

both!(roles_decide_who_adds_and_removes_members, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], json!({})).await;
    let member = |name: &str| format!("{group}/members/{name}");
    // A member may not add others unless the group allows it.
    put(&server, "duck", &member("porky"), json!({})).await.problem(403, "insufficient_role");
    assert_eq!(patch(&server, "bugs", &group, json!({"members_can_add": true})).await.status, 200);
    let added = put(&server, "duck", &member("porky"), json!({})).await;
    assert_eq!((added.status.as_u16(), &added.json()["role"]), (201, &json!("member")));
    assert_eq!(added.json()["user"]["user_name"], "porky");
    assert_eq!(
        put(&server, "duck", &member("porky"), json!({})).await.status,
        200,
        "duck's second request finds a member"
    );
    // Only an owner may give a member a higher role, and nobody may raise their own role.
    delete(&server, "bugs", &member("porky")).await;
    put(&server, "duck", &member("porky"), json!({"role": "admin"})).await.problem(403, "insufficient_role");
    put(&server, "duck", &member("duck"), json!({"role": "admin"})).await.problem(403, "insufficient_role");
    assert_eq!(put(&server, "bugs", &member("duck"), json!({"role": "admin"})).await.json()["role"], "admin");
    put(&server, "duck", &member("me"), json!({"role": "owner"})).await.problem(403, "insufficient_role");
    put(&server, "duck", &member("porky"), json!({"role": "admin"})).await.problem(403, "insufficient_role");
    assert_eq!(put(&server, "duck", &member("porky"), json!({})).await.status, 201);
    // An admin may remove members and may not remove owners.
    delete(&server, "duck", &member("bugs")).await.problem(403, "insufficient_role");
    delete(&server, "porky", &member("duck")).await.problem(403, "insufficient_role");
    assert_eq!(delete(&server, "duck", &member("porky")).await.status, 204);
    delete(&server, "duck", &member("porky")).await.problem(404, "member_not_found");
    delete(&server, "duck", &member("nobody")).await.problem(404, "member_not_found");
    put(&server, "duck", &member("nobody"), json!({})).await.problem(404, "user_not_found");
    put(&server, "duck", &member("porky"), json!({"role": "king"})).await.invalid(&["role"]);
    // All members may lower their own role.
    assert_eq!(put(&server, "duck", &member("me"), json!({"role": "member"})).await.json()["role"], "member");
    assert_eq!(
        bodies(&server, "bugs", &group).await,
        [
            "bugs created the group",
            "duck added porky",
            "bugs removed porky",
            "bugs made duck admin",
            "duck added porky",
            "duck removed porky",
            "duck made duck member",
        ]
    );
    assert_eq!(get(&server, "bugs", &group).await.json()["member_count"], 2);
});

both!(a_removed_member_no_longer_sees_the_group, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck", "porky"], json!({})).await;
    say(&server, "duck", &group, "quack").await;
    assert_eq!(delete(&server, "bugs", &format!("{group}/members/duck")).await.status, 204);
    for target in ["", "/members", "/messages", "/invites"] {
        get(&server, "duck", &format!("{group}{target}")).await.problem(404, "conversation_not_found");
    }
    for target in ["/messages/2", "/messages/2/history"] {
        get(&server, "duck", &format!("{group}{target}")).await.problem(404, "message_not_found");
    }
    say(&server, "duck", &group, "quack").await.problem(404, "conversation_not_found");
    patch(&server, "duck", &format!("{group}/messages/2"), json!({"body": "x"}))
        .await
        .problem(404, "message_not_found");
    delete(&server, "duck", &format!("{group}/messages/2")).await.problem(404, "message_not_found");
    patch(&server, "duck", &group, json!({"me": {"pinned": true}})).await.problem(404, "conversation_not_found");
    put(&server, "duck", &format!("{group}/members/me"), json!({})).await.problem(404, "conversation_not_found");
    delete(&server, "duck", &format!("{group}/members/me")).await.problem(404, "conversation_not_found");
    assert!(!server.all("/api/messages/duck").await.iter().any(|message| message["body"] == "quack"));
    assert_eq!(get(&server, "duck", "/api/conversations").await.json().as_array().unwrap().len(), 1);
    // The messages of a removed member stay for the others.
    assert_eq!(bodies(&server, "porky", &group).await[1], "quack");
});

both!(the_last_owner_cannot_leave_and_the_last_member_ends_the_group, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], json!({})).await;
    let me = format!("{group}/members/me");
    delete(&server, "bugs", &me).await.problem(409, "last_owner");
    put(&server, "bugs", &me, json!({"role": "member"})).await.problem(409, "last_owner");
    assert_eq!(put(&server, "bugs", &format!("{group}/members/duck"), json!({"role": "owner"})).await.status, 200);
    assert_eq!(delete(&server, "bugs", &me).await.status, 204);
    assert_eq!(roles(&server, "duck", &group).await, pairs(&[("duck", "owner")]));
    assert_eq!(delete(&server, "duck", &me).await.status, 204);
    server.get(&group).await.problem(404, "conversation_not_found");
    // The members of a direct conversation never change.
    put(&server, "bugs", "/api/conversations/1/members/duck", json!({})).await.problem(409, "not_a_group");
    delete(&server, "bugs", "/api/conversations/1/members/me").await.problem(409, "not_a_group");
});

both!(admins_change_the_title_the_picture_and_the_rules, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], json!({})).await;
    patch(&server, "duck", &group, json!({"title": "Ducks"})).await.problem(403, "insufficient_role");
    let changes = json!({"title": "Rabbits", "avatar_url": "https://example.org/r.png", "history": "since_joined"});
    let changed = patch(&server, "bugs", &group, changes.clone()).await.json();
    assert_eq!((&changed["title"], &changed["avatar_url"]), (&changes["title"], &changes["avatar_url"]));
    assert_eq!(changed["history"], "since_joined");
    assert_eq!(
        patch(&server, "bugs", &group, changes).await.json()["last_seq"],
        4,
        "an unchanged title adds no message"
    );
    let bare = patch(&server, "bugs", &group, json!({"avatar_url": null})).await.json();
    assert_eq!(bare["avatar_url"], Value::Null);
    for (body, field) in [
        (json!({"title": ""}), "title"),
        (json!({"title": null}), "title"),
        (json!({"avatar_url": "ftp://example.org/"}), "avatar_url"),
        (json!({"history": "none"}), "history"),
        (json!({"me": {"draft": "x".repeat(8_001)}}), "me.draft"),
        (json!({"me": {"muted_until": "soon"}}), "me.muted_until"),
        (json!({"owner": "duck"}), "owner"),
        (json!({"me": {"role": "owner"}}), "me.role"),
    ] {
        patch(&server, "bugs", &group, body).await.invalid(&[field]);
    }
    assert_eq!(bodies(&server, "bugs", &group).await[1], "bugs changed the title to Rabbits");
    patch(&server, "bugs", "/api/conversations/1", json!({"title": "x"})).await.problem(409, "not_a_group");
});

both!(drafts_and_marks_of_a_member_are_private, async |place| {
    let server = Server::start(place).await;
    let keeps = json!({
        "muted_until": "2030-01-01T00:00:00.000000Z", "pinned": true, "archived": true, "draft": "nothing mu",
    });
    let kept = patch(&server, "bugs", "/api/conversations/1", json!({"me": keeps})).await.json();
    for (field, value) in keeps.as_object().unwrap() {
        assert_eq!(&kept["me"][field], value, "{field}");
    }
    assert_eq!(get(&server, "rdibari", "/api/conversations/1").await.json()["me"]["draft"], Value::Null);
    let less = json!({"me": {"draft": "", "muted_until": null, "archived": false}});
    let kept = patch(&server, "bugs", "/api/conversations/1", less).await.json();
    assert_eq!(
        (&kept["me"]["draft"], &kept["me"]["muted_until"], &kept["me"]["archived"], &kept["me"]["pinned"]),
        (&Value::Null, &Value::Null, &json!(false), &json!(true))
    );
    // A deleted direct conversation is hidden until the next message.
    assert_eq!(delete(&server, "bugs", "/api/conversations/1").await.status, 204);
    assert!(get(&server, "bugs", "/api/conversations").await.json().as_array().unwrap().is_empty());
    assert_eq!(get(&server, "rdibari", "/api/conversations").await.json().as_array().unwrap().len(), 1);
    assert_eq!(get(&server, "bugs", "/api/conversations/1").await.status, 200);
    server.send("rdibari", "bugs", "are you there?").await;
    assert_eq!(get(&server, "bugs", "/api/conversations").await.json().as_array().unwrap().len(), 1);
});

both!(the_history_setting_decides_what_new_members_see, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], json!({"history": "since_joined"})).await;
    for number in 2..=5 {
        say(&server, "duck", &group, &format!("message {number}")).await;
    }
    assert_eq!(put(&server, "bugs", &format!("{group}/members/porky"), json!({})).await.status, 201);
    say(&server, "duck", &group, "message 7").await;
    assert_eq!(bodies(&server, "porky", &group).await, ["bugs added porky", "message 7"]);
    assert_eq!(get(&server, "porky", &group).await.json()["me"]["unread_count"], 1);
    for seq in 1..=5 {
        get(&server, "porky", &format!("{group}/messages/{seq}")).await.problem(404, "message_not_found");
        get(&server, "porky", &format!("{group}/messages/{seq}/history")).await.problem(404, "message_not_found");
    }
    for query in ["before=6", "after=0", "around=1", "date=2000-01-01"] {
        let page = get(&server, "porky", &format!("{group}/messages?{query}")).await.json();
        let seqs: Vec<i64> = page.as_array().unwrap().iter().map(|message| message["seq"].as_i64().unwrap()).collect();
        assert!(seqs.iter().all(|seq| *seq >= 6), "{query}: {seqs:?}");
        assert_eq!(seqs.is_empty(), query == "before=6", "{query}");
    }
    let timeline = server.all("/api/messages/porky?order=desc").await;
    let own: Vec<&Value> = timeline.iter().filter(|message| message["recipient_id"].is_null()).collect();
    assert_eq!(own.len(), 2);
    assert_eq!(server.all("/api/messages/porky").await.iter().filter(|m| m["recipient_id"].is_null()).count(), 2);
    // A member cannot reply to a message that they may not see.
    let id: i64 = group.rsplit('/').next().unwrap().parse().unwrap();
    let reply = |seq: i64| json!({"conversation_id": id, "body": "x", "reply_to": seq});
    post(&server, "porky", "/api/messages", reply(5)).await.invalid(&["reply_to"]);
    assert_eq!(post(&server, "porky", "/api/messages", reply(7)).await.status, 201);
    assert_eq!(post(&server, "duck", "/api/messages", reply(5)).await.status, 201);
    // The group now shows its whole history to all members.
    patch(&server, "bugs", &group, json!({"history": "all"})).await;
    assert_eq!(bodies(&server, "porky", &group).await[0], "bugs created the group");
});

both!(a_deleted_group_is_gone_for_all_members, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], json!({})).await;
    say(&server, "duck", &group, "a planted word: zyzzyva").await;
    post(&server, "bugs", &format!("{group}/receipts"), json!({"read_seq": 2})).await;
    assert_ne!(place.numbers("SELECT count(*) FROM messaging.receipts").await, [[0]]);
    delete(&server, "duck", &group).await.problem(403, "insufficient_role");
    assert_eq!(delete(&server, "bugs", &group).await.status, 204);
    for person in ["bugs", "duck"] {
        get(&server, person, &group).await.problem(404, "conversation_not_found");
        get(&server, person, &format!("{group}/messages/2")).await.problem(404, "message_not_found");
        say(&server, person, &group, "x").await.problem(404, "conversation_not_found");
    }
    server.get(&group).await.problem(404, "conversation_not_found");
    server.get(&format!("{group}/messages")).await.problem(404, "conversation_not_found");
    while posthaste::domain::operations::housekeeping::batch(&server.app).await.unwrap() {}
    let left = place.numbers("SELECT count(*) FROM messaging.conversations WHERE kind = 'group'").await;
    let messages = place.numbers("SELECT count(*) FROM messaging.messages WHERE recipient_id IS NULL").await;
    assert_eq!((left[0][0], messages[0][0]), (0, 0));
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.receipts").await, [[0]]);
});

both!(an_invite_admits_as_many_users_as_it_allows, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], json!({})).await;
    let invites = format!("{group}/invites");
    post(&server, "duck", &invites, json!({})).await.problem(403, "insufficient_role");
    let made = post(&server, "bugs", &invites, json!({"max_uses": 1})).await;
    assert_eq!(made.status, 201);
    let code = made.json()["code"].as_str().unwrap().to_owned();
    assert!(code.starts_with("phi_"));
    let target = format!("/api/invites/{code}");
    let glimpse = server.get(&target).await.json();
    assert_eq!(glimpse["conversation"], json!({"title": "Looney Tunes", "avatar_url": null, "member_count": 2}));
    // A user with an invite is no member before accepting it.
    get(&server, "porky", &group).await.problem(404, "conversation_not_found");
    assert_eq!(post(&server, "duck", &target, json!({})).await.status, 200, "a member accepts, which uses up nothing");
    let joined = post(&server, "porky", &target, json!({})).await;
    assert_eq!((joined.status.as_u16(), &joined.json()["me"]["role"]), (201, &json!("member")));
    assert_eq!(bodies(&server, "porky", &group).await, ["bugs created the group", "porky joined"]);
    post(&server, "rdibari", &target, json!({})).await.problem(404, "invite_not_found");
    server.get(&target).await.problem(404, "invite_not_found");
    // The list shows valid invites without their codes. An admin ends one.
    let listed = post(&server, "bugs", &invites, json!({})).await.json();
    let page = get(&server, "bugs", &invites).await.json();
    assert_eq!(page.as_array().unwrap().len(), 1);
    assert_eq!((&page[0]["id"], page[0].get("code")), (&listed["id"], None));
    assert_eq!(delete(&server, "bugs", &format!("{invites}/{}", listed["id"])).await.status, 204);
    delete(&server, "bugs", &format!("{invites}/{}", listed["id"])).await.problem(404, "invite_not_found");
    let ended = format!("/api/invites/{}", listed["code"].as_str().unwrap());
    post(&server, "rdibari", &ended, json!({})).await.problem(404, "invite_not_found");
    for (body, field) in [
        (json!({"max_uses": 0}), "max_uses"),
        (json!({"max_uses": 10_001}), "max_uses"),
        (json!({"expires_at": "2020-01-01T00:00:00Z"}), "expires_at"),
        (json!({"expires_at": "2099-01-01T00:00:00Z"}), "expires_at"),
        (json!({"expires_at": "soon"}), "expires_at"),
    ] {
        post(&server, "bugs", &invites, body).await.invalid(&[field]);
    }
    post(&server, "bugs", "/api/conversations/1/invites", json!({})).await.problem(409, "not_a_group");
});

both!(of_fifty_users_one_accepts_a_single_use_invite, async |place| {
    let server = Server::start(place).await;
    for number in 0..50 {
        let new = json!({"user_name": format!("guest{number}")});
        assert_eq!(server.post("/api/users", &new).await.status, 201);
    }
    let group = group(&server, "bugs", &[], json!({})).await;
    let made = post(&server, "bugs", &format!("{group}/invites"), json!({"max_uses": 1})).await.json();
    let target = format!("/api/invites/{}", made["code"].as_str().unwrap());
    let names: Vec<String> = (0..50).map(|number| format!("guest{number}")).collect();
    let answers =
        futures_util::future::join_all(names.iter().map(|name| post(&server, name, &target, json!({})))).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 404).count(), 49, "{statuses:?}");
    assert_eq!(get(&server, "bugs", &group).await.json()["member_count"], 2);
});

both!(blocked_users_and_strangers_cannot_add_a_user_to_a_group, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &[], json!({})).await;
    assert_eq!(put(&server, "duck", "/api/blocks/bugs", json!({})).await.status, 204);
    let blocked = put(&server, "bugs", &format!("{group}/members/duck"), json!({})).await;
    let own = patch(&server, "porky", "/api/users/me", json!({"direct_messages_from": "friends"})).await;
    assert_eq!(own.status, 200);
    let stranger = put(&server, "bugs", &format!("{group}/members/porky"), json!({})).await;
    // A user who blocks the caller and one who accepts only friends cause the same refusal, except for the name in it.
    let text = |answer: &Answer| answer.problem(403, "not_friends")["detail"].as_str().unwrap().to_owned();
    assert_eq!(text(&blocked).replace("duck", "X"), text(&stranger).replace("porky", "X"));
    let new = json!({"kind": "group", "title": "t", "member_user_names": ["duck"]});
    post(&server, "bugs", "/api/conversations", new).await.problem(403, "not_friends");
    let direct = json!({"kind": "direct", "user_name": "porky"});
    post(&server, "bugs", "/api/conversations", direct.clone()).await.problem(403, "not_friends");
    put(&server, "bugs", "/api/friends/porky", json!({})).await;
    put(&server, "porky", "/api/friends/bugs", json!({})).await;
    assert_eq!(put(&server, "bugs", &format!("{group}/members/porky"), json!({})).await.status, 201);
    assert_eq!(post(&server, "bugs", "/api/conversations", direct).await.status, 201);
});

both!(admins_delete_messages_of_others_and_members_do_not, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck", "porky"], json!({})).await;
    say(&server, "duck", &group, "quack").await;
    let message = format!("{group}/messages/2");
    delete(&server, "porky", &message).await.problem(403, "not_your_message");
    patch(&server, "bugs", &message, json!({"body": "x"})).await.problem(403, "not_your_message");
    delete(&server, "porky", &format!("{group}/messages/1")).await.problem(403, "not_your_message");
    assert_eq!(delete(&server, "bugs", &message).await.status, 204);
    assert!(get(&server, "duck", &message).await.json()["deleted_at"].is_string());
});

both!(the_oldest_admin_becomes_owner_after_the_owner_is_erased, async |place| {
    let server = Server::start(place).await;
    let first = group(&server, "bugs", &["duck", "porky", "rdibari"], json!({})).await;
    put(&server, "bugs", &format!("{first}/members/rdibari"), json!({"role": "admin"})).await;
    let second = group(&server, "bugs", &["porky", "duck"], json!({})).await;
    let alone = group(&server, "bugs", &[], json!({})).await;
    say(&server, "bugs", &first, "what's up, doc?").await;
    assert_eq!(server.request(Method::DELETE, "/api/users/bugs").send().await.unwrap().status(), 204);
    assert_eq!(
        roles(&server, "duck", &first).await,
        pairs(&[("rdibari", "owner"), ("duck", "member"), ("porky", "member")])
    );
    assert_eq!(roles(&server, "duck", &second).await, pairs(&[("duck", "owner"), ("porky", "member")]));
    server.get(&alone).await.problem(404, "conversation_not_found");
    let said = get(&server, "duck", &format!("{first}/messages")).await.json();
    let texts: Vec<&str> = said.as_array().unwrap().iter().map(|message| message["body"].as_str().unwrap()).collect();
    assert_eq!(
        texts,
        ["somebody created the group", "somebody made rdibari admin", "what's up, doc?", "somebody left"]
    );
    assert_eq!(said[2]["sender_user_name"], Value::Null);
    assert_eq!(get(&server, "duck", &first).await.json()["member_count"], 3);
});

both!(sixteen_writers_in_one_group_leave_no_gap_in_seq, async |place| {
    let server = Server::start_with(place, Options::default()).await;
    let names: Vec<String> = (0..16).map(|number| format!("writer{number}")).collect();
    for name in &names {
        server.post("/api/users", &json!({"user_name": name})).await;
    }
    let members: Vec<&str> = names.iter().map(String::as_str).collect();
    let group = group(&server, "bugs", &members, json!({})).await;
    let reader = async {
        // A reader that sees message n + 1 must also see message n.
        let mut last = 0;
        while last < 16 * 20 + 1 {
            let page = get(&server, "bugs", &format!("{group}/messages?after={last}&limit=200")).await.json();
            for message in page.as_array().unwrap() {
                assert_eq!(message["seq"], last + 1);
                last += 1;
            }
        }
    };
    let writers = futures_util::future::join_all(names.iter().map(|name| async {
        for number in 0..20 {
            assert_eq!(say(&server, name, &group, &format!("{number}")).await.status, 201);
        }
    }));
    tokio::join!(reader, writers);
    let seqs = place.numbers("SELECT count(*), max(seq) FROM messaging.messages WHERE recipient_id IS NULL").await;
    assert_eq!(seqs[0], [321, 321]);
});

/// A send reads only one row of the group's members, that of the sender. The test needs PostgreSQL, because SQLite does not
/// count reads. For SQLite the bench compares sends into groups of 10 and of 10,000.
#[test]
fn a_send_into_a_large_group_does_not_read_all_members() {
    const MEMBERS: i64 = 3_000;
    run(Kind::Postgres, async |place| {
        let server = Server::start(place).await;
        let room = group(&server, "bugs", &["duck"], json!({})).await;
        place
            .sql(&format!(
                "INSERT INTO messaging.members (conversation_id, user_id, joined_at)
                 SELECT {}, 100000 + number, now() FROM generate_series(1, {MEMBERS}) AS number",
                room.rsplit('/').next().unwrap()
            ))
            .await;
        // Inserts many small conversations, so that PostgreSQL plans for small ones, as in operation.
        place
            .sql(
                "INSERT INTO messaging.conversations (id, kind, created_at, created_by, last_seq, last_sent_at, last_message_id)
                 SELECT 100000 + number, 'direct', now(), 1, 1, now(), number FROM generate_series(1, 10000) AS number;
                 INSERT INTO messaging.members (conversation_id, user_id, joined_at)
                 SELECT 100000 + number, 200000 + number % 1000 + other, now()
                   FROM generate_series(1, 10000) AS number, generate_series(1, 2) AS other;
                 ANALYZE messaging.conversations",
            )
            .await;
        place.sql("ANALYZE messaging.members").await;
        let read = "SELECT coalesce(sum(idx_tup_read), 0)::bigint FROM pg_stat_user_indexes WHERE relname = 'members'";
        // A PostgreSQL connection updates its statistics about rows only once a second.
        let sends = async || {
            for _ in 0..50 {
                assert_eq!(say(&server, "bugs", &room, "hello").await.status, 201);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            place.numbers(read).await[0][0]
        };
        let before = sends().await;
        let after = sends().await;
        assert!((1..MEMBERS).contains(&(after - before)), "{before} {after}");
    });
}
