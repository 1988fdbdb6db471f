//! Which users a message mentions, and how mentions are counted.

use reqwest::Method;
use serde_json::{Value, json};

use super::receipts::{as_person, group, say};
use crate::both;
use crate::support::{Server, answer_of};

async fn mention_count(server: &Server, person: &str, conversation: i64) -> i64 {
    let target = format!("/api/conversations/{conversation}/receipts");
    let answer = as_person(server, person, Method::POST, &target, Some(json!({"unread_from": null}))).await;
    assert_eq!(answer.status, 200);
    answer.json()["mention_count"].as_i64().unwrap()
}

async fn edit(server: &Server, person: &str, target: &str, body: &str) -> Value {
    as_person(server, person, Method::PATCH, target, Some(json!({"body": body}))).await.json()
}

both!(members_are_mentioned_and_counted, async |place| {
    let server = Server::start(place).await;
    let body = "@BUGS and @rdibari, not @duck, bugs@bugs.org or `@bugs`; @bugs!";
    let send = json!({"sender_user_name": "rdibari", "recipient_user_name": "bugs", "body": body});
    let keyed = || server.request(Method::POST, "/api/messages").header("idempotency-key", "once").json(&send);
    let sent = answer_of(keyed()).await.json();
    // The mentioned names are spelled as in the accounts and in the order of the text. Each name occurs once.
    assert_eq!(sent["mentions"], json!(["bugs", "rdibari"]));
    assert_eq!(answer_of(keyed()).await.json(), sent);
    let target = "/api/conversations/1/messages/4";
    assert_eq!(server.get(target).await.json(), sent);
    assert_eq!(server.get("/api/conversations/1/messages").await.json()[3], sent);
    assert!(server.all("/api/messages/bugs").await.contains(&sent));
    assert_eq!(mention_count(&server, "bugs", 1).await, 1);
    assert_eq!(mention_count(&server, "rdibari", 1).await, 0, "a mention of oneself does not count");
    // Mentions work in the same way if the request names the conversation by its id. Reading resets the count.
    let by_number = json!({"sender_user_name": "rdibari", "conversation_id": 1, "body": "@bugs"});
    assert_eq!(server.post("/api/messages", &by_number).await.json()["mentions"], json!(["bugs"]));
    assert_eq!(mention_count(&server, "bugs", 1).await, 2);
    as_person(&server, "bugs", Method::POST, "/api/conversations/1/receipts", Some(json!({"read_seq": 4}))).await;
    assert_eq!(mention_count(&server, "bugs", 1).await, 1);
    server.send("bugs", "rdibari", "what is it, @rdibari?").await;
    assert_eq!(mention_count(&server, "bugs", 1).await, 0);
    assert_eq!(mention_count(&server, "rdibari", 1).await, 1);
});

both!(edits_and_deletions_change_whom_a_message_mentions, async |place| {
    let server = Server::start(place).await;
    let target = "/api/conversations/1/messages/3";
    // Reads the message once, so that it is in the tail.
    server.all("/api/messages/bugs").await;
    let edited = edit(&server, "rdibari", target, "@rdibari and @bugs").await;
    assert_eq!(edited["mentions"], json!(["rdibari", "bugs"]));
    assert!(server.all("/api/messages/bugs").await.contains(&edited));
    assert_eq!(mention_count(&server, "bugs", 1).await, 1);
    // A mention of oneself does not count, not even for rdibari, who has not read their own messages of the demo.
    assert_eq!(mention_count(&server, "rdibari", 1).await, 0);
    let edited = edit(&server, "rdibari", target, "`@bugs`").await;
    assert_eq!(edited["mentions"], json!([]));
    assert_eq!(mention_count(&server, "bugs", 1).await, 0);
    edit(&server, "rdibari", target, "@bugs").await;
    assert_eq!(mention_count(&server, "bugs", 1).await, 1);
    assert_eq!(as_person(&server, "rdibari", Method::DELETE, target, None).await.status, 204);
    assert_eq!(mention_count(&server, "bugs", 1).await, 0);
    assert_eq!(server.get(target).await.json()["mentions"], json!([]));
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.mentions").await, [[0]]);
});

both!(the_longest_matching_name_of_a_member_is_mentioned, async |place| {
    let server = Server::start(place).await;
    for name in ["bugs.bunny", "Bugs.b"] {
        server.add_user(name, "", "").await;
    }
    let id = group(&server, &["rdibari", "bugs", "duck", "bugs.bunny"]).await;
    // bugs.b is a user, but no member.
    let message = say(&server, id, "rdibari", "@bugs.bunny. @Bugs.b @porky @duck @bugs.bunnys").await;
    assert_eq!(message["mentions"], json!(["bugs.bunny", "bugs", "duck"]));
    for (person, count) in [("bugs.bunny", 1), ("bugs", 1), ("duck", 1), ("rdibari", 0)] {
        assert_eq!(mention_count(&server, person, id).await, count, "{person}");
    }
    let target = format!("/api/conversations/{id}/messages/{}", message["seq"]);
    assert_eq!(server.get(&target).await.json(), message);
    assert_eq!(edit(&server, "rdibari", &target, "@duck @bugs.bunny").await["mentions"], json!(["duck", "bugs.bunny"]));
    assert_eq!(mention_count(&server, "bugs", id).await, 0);
});

both!(a_message_mentions_at_most_fifty_users, async |place| {
    let server = Server::start(place).await;
    let names: Vec<String> = (0..60).map(|number| format!("p{number}.")).collect();
    for name in &names {
        server.add_user(name, "", "").await;
    }
    let mut people = vec!["rdibari"];
    people.extend(names.iter().map(String::as_str));
    let id = group(&server, &people).await;
    let body: String = names.iter().map(|name| format!("@{name} ")).collect();
    let message = say(&server, id, "rdibari", &body).await;
    assert_eq!(message["mentions"], json!(names[..50]));
    let target = format!("/api/conversations/{id}/messages/{}", message["seq"]);
    assert_eq!(server.get(&target).await.json(), message);
    assert_eq!(mention_count(&server, "p49.", id).await, 1);
    assert_eq!(mention_count(&server, "p50.", id).await, 0);
});

both!(nobody_else_is_mentioned_after_an_erasure, async |place| {
    let server = Server::start(place).await;
    for name in ["sam", "samuel", "samuels"] {
        server.add_user(name, "", "").await;
    }
    // A direct conversation, notes to oneself and a group. The sender's own name is a part of the longer ones.
    let direct = server.send("sam", "samuel", "@samuel hi").await;
    assert_eq!(direct["mentions"], json!(["samuel"]));
    let edited = server.send("sam", "samuel", "hi").await;
    let target =
        |message: &Value| format!("/api/conversations/{}/messages/{}", message["conversation_id"], message["seq"]);
    assert_eq!(edit(&server, "sam", &target(&edited), "hi @samuel").await["mentions"], json!(["samuel"]));
    let id = group(&server, &["duck", "sam", "samuel", "samuels"]).await;
    let to_all = say(&server, id, "duck", "@samuels @samuel. @duck @sam").await;
    assert_eq!(to_all["mentions"], json!(["samuels", "samuel", "duck", "sam"]));
    let cursor = server.get("/api/events").await.json()["cursor"].as_str().unwrap().to_owned();
    let forwarded = format!("{}/forward", target(&direct));
    let forwarded =
        as_person(&server, "sam", Method::POST, &forwarded, Some(json!({"conversation_id": id}))).await.json();
    assert_eq!(forwarded["mentions"], json!(["samuel"]));
    for name in ["samuel", "samuels"] {
        assert_eq!(as_person(&server, name, Method::DELETE, "/api/users/me", None).await.status, 204);
    }
    let (none, rest) = (json!([]), json!(["duck", "sam"]));
    for (message, mentions) in [(&direct, &none), (&edited, &none), (&to_all, &rest), (&forwarded, &none)] {
        assert_eq!(&server.get(&target(message)).await.json()["mentions"], mentions, "{message}");
        let page = format!("/api/conversations/{}/messages", message["conversation_id"]);
        let page = as_person(&server, "sam", Method::GET, &page, None).await.json();
        let listed = page.as_array().unwrap().iter().find(|one| one["id"] == message["id"]).unwrap();
        assert_eq!(&listed["mentions"], mentions);
    }
    let found = server.get("/api/search/messages?q=hi&from=sam").await.json();
    assert_eq!(found.as_array().unwrap().len(), 3);
    assert!(found.as_array().unwrap().iter().all(|hit| hit["message"]["mentions"] == none), "{found}");
    let events = server.get(&format!("/api/events?after={cursor}")).await.json();
    let sent = events["events"].as_array().unwrap().iter().find(|event| event["type"] == "message.created").unwrap();
    assert_eq!(sent["data"]["mentions"], none);
    let export = as_person(&server, "sam", Method::GET, "/api/users/me/export", None).await;
    let export = String::from_utf8(export.bytes).unwrap();
    let lines: Vec<Value> = export.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let messages: Vec<&Value> = lines.iter().filter(|line| line["type"] == "message").collect();
    assert_eq!(messages.len(), 3);
    assert!(messages.iter().all(|line| line["data"]["mentions"] == none), "{messages:?}");
});

both!(addresses_of_pages_and_of_mail_mention_nobody, async |place| {
    let server = Server::start(place).await;
    let body = "https://x/@bugs www.x.example/@bugs x.example/@bugs rdi.bari_@bugs a@bugs";
    let sent = server.send("rdibari", "bugs", body).await;
    assert_eq!(sent["mentions"], json!([]));
    assert_eq!(mention_count(&server, "bugs", 1).await, 0);
    let target = format!("/api/conversations/1/messages/{}", sent["seq"]);
    let edited = edit(&server, "rdibari", &target, "(https://x/@rdibari) @bugs, see ftp://x/@rdibari").await;
    assert_eq!(edited["mentions"], json!(["bugs"]));
    assert_eq!(server.get(&target).await.json()["mentions"], json!(["bugs"]));
});

both!(mentions_of_an_earlier_version_keep_their_order, async |place| {
    let server = Server::start(place).await;
    for name in ["sam", "samuel"] {
        server.add_user(name, "", "").await;
    }
    let own = server.send("sam", "samuel", "@sam. and @samuel").await;
    let id = group(&server, &["bugs", "duck", "porky"]).await;
    let all = say(&server, id, "bugs", "@porky @bugs @duck https://x/@nobody").await;
    let erased = server.send("sam", "samuel", "@samuel hi").await;
    let count = place.numbers("SELECT count(*) FROM messaging.mentions").await;
    // An earlier version stored no order and no mentions of senders by themselves.
    place.sql("DELETE FROM messaging.mentions WHERE own").await;
    let its = format!("conversation_id = {} AND seq = {}", erased["conversation_id"], erased["seq"]);
    place.sql(&format!("DELETE FROM messaging.mentions WHERE {its}")).await;
    server.stop().await;
    place.back_to(23).await;
    let server = Server::start(place).await;
    for message in [&own, &all] {
        let target = format!("/api/conversations/{}/messages/{}", message["conversation_id"], message["seq"]);
        assert_eq!(server.get(&target).await.json()["mentions"], message["mentions"]);
    }
    let target = format!("/api/conversations/{}/messages/{}", erased["conversation_id"], erased["seq"]);
    assert_eq!(server.get(&target).await.json()["mentions"], json!([]));
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.mentions").await[0][0], count[0][0] - 1);
    assert_eq!(mention_count(&server, "bugs", id).await, 0);
    assert_eq!(mention_count(&server, "duck", id).await, 1);
});
